"""Attacks over the network: of the machine itself, so that nothing leaves it."""

from __future__ import annotations

import os
import socket

from .scene import Scene

_HERE = "127.0.0.1"
_HERE.encode("idna")  # connect(2) wants this codec: load it while files can be read


def connect_tcp(scene: Scene) -> str:
    """Reach a service on the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        ours.connect((_HERE, scene.targets.tcp_port))
        ours.sendall(scene.targets.secret.encode())
    return "connected"


def send_udp(scene: Scene) -> str:
    """Send a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.sendto(scene.targets.secret.encode(), (_HERE, scene.targets.udp_port))
    return "sent"


def connect_path(scene: Scene) -> str:
    """Reach a service by the path of its socket, as one reaches a Docker daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ours:
        os.chdir(scene.targets.folder)  # its whole path may be too long for an address
        return _greet(scene, ours, "unix")


def connect_abstract(scene: Scene) -> str:
    """Reach a service by the name of its abstract socket, as one reaches an X server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ours:
        return _greet(scene, ours, f"\0{scene.targets.abstract}")


def listen_tcp(scene: Scene) -> str:
    """Offer a service to everybody who can reach this machine's loopback address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind((_HERE, 0))
    server.listen()
    scene.number = server.detach()  # it stays open: somebody will try whether it is there
    with socket.socket(fileno=scene.number) as borrowed:
        scene.number = borrowed.getsockname()[1]
        borrowed.detach()
    return f"port {scene.number}"


def open_raw(scene: Scene) -> str:
    """See and forge packets."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "a socket"


def open_netlink(scene: Scene) -> str:
    """Talk to the kernel's network configuration."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
    return "a socket"


def _greet(scene: Scene, ours: socket.socket, address: str) -> str:
    ours.connect(address)
    ours.sendall(scene.targets.secret.encode())
    return "connected"
