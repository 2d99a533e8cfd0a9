"""Looking names up, and connecting to exactly the address that was checked."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address, ip_address

import trio

from ...protocol.host_calls import Cause, Errno
from ...protocol.network import Address
from .policy import Refused

Resolver = Callable[[str], Awaitable[Sequence[Address]]]
"""All addresses of a name, the best first. Raises ``Refused`` where there is none."""

LOOKUP_SECONDS = 5.0
CONNECT_SECONDS = 10.0
"""Seconds for all addresses of a host together, and for TLS on top of it."""
TRANSFER_SECONDS = 30.0
"""Seconds that one read, one write, or the wait for the head of a response may take."""
LOOKUPS = 8
"""Look-ups of a pool at a time. One that is given up keeps its place until the system's resolver
gives up, too."""
ADDRESSES = 8
"""Addresses of one name that are tried."""


def system_resolver() -> Resolver:
    """The machine's own resolver, in threads of its own."""
    limiter = trio.CapacityLimiter(LOOKUPS)

    async def resolve(name: str) -> Sequence[Address]:
        with trio.fail_after(LOOKUP_SECONDS):
            return await trio.to_thread.run_sync(
                _look_up, name, limiter=limiter, abandon_on_cancel=True
            )

    return resolve


def _look_up(name: str) -> list[Address]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(Errno.NOENT, f"{name} was not found: {error}") from None
    texts = dict.fromkeys(str(address[4][0]) for address in found)
    return [ip_address(text) for text in texts]


class Traffic:
    """The bytes that one call has received and sent, and those that it may."""

    def __init__(self, receive: int, send: int) -> None:
        self._may_receive, self._may_send = receive, send
        self.received = self.sent = 0

    def room(self) -> int:
        """Bytes that may still be received.

        Raises:
            Refused: ``DQUOT``: none.
        """
        room = self._may_receive - self.received
        if room <= 0:
            raise Refused(
                Errno.DQUOT,
                f"limits.network_received of {self._may_receive} bytes is used up",
                Cause.RECEIVE,
            )
        return room

    def send(self, size: int) -> None:
        """Count bytes that are about to be sent.

        Raises:
            Refused: ``DQUOT``: they are too many.
        """
        if self.sent + size > self._may_send:
            raise Refused(
                Errno.DQUOT,
                f"{size} bytes more are above limits.network_sent of {self._may_send}",
                Cause.SEND,
            )
        self.sent += size


class Connection:
    """A connection to one address, whose bytes are counted. Nothing is read ahead of what its
    guest asks for."""

    def __init__(self, sock: trio.socket.SocketType, traffic: Traffic) -> None:
        self._socket = sock
        self.traffic = traffic
        """Of the call that it serves now."""
        self._kept = b""
        """What came after the room for it was used up."""
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
        self._stream = trio.SocketStream(sock)

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS, with a server that has a certificate for ``name``."""
        assert isinstance(self._stream, trio.SocketStream)
        stream = trio.SSLStream(self._stream, context, server_hostname=name, https_compatible=True)
        with trio.fail_after(CONNECT_SECONDS):
            await stream.do_handshake()
        self._stream = stream

    async def receive(self, most: int, within: float = 0) -> bytes:
        """At least one byte and at most ``most``, within so many seconds where they are fewer than
        ours; nothing at the end."""
        traffic = self.traffic
        if not self._kept:
            with trio.fail_after(shorter(TRANSFER_SECONDS, within)):
                if isinstance(self._stream, trio.SocketStream):
                    await trio.lowlevel.wait_readable(self._socket)
                size = min(most, traffic.room())
                self._kept = bytes(await self._stream.receive_some(size))
        if not self._kept:
            return b""
        # Only what came counts. Reads beside this one may have taken the same room meanwhile: what
        # has none any more is kept for who may have it.
        data = self._kept[: min(most, traffic.room())]
        self._kept = self._kept[len(data) :]
        traffic.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        """Send all of it. Where that is given up, who knows how much arrived: it is closed."""
        self.traffic.send(len(data))
        try:
            with trio.fail_after(TRANSFER_SECONDS):
                await self._stream.send_all(data)
        except BaseException:
            self.close()
            raise

    async def send_eof(self) -> None:
        """Send nothing more."""
        assert isinstance(self._stream, trio.SocketStream)
        await self._stream.send_eof()

    def close(self) -> None:
        """Close it at once."""
        self._socket.close()


def shorter(ours: float, theirs: float) -> float:
    """The shorter of two times in seconds; theirs counts where it is not 0."""
    return min(ours, theirs) if theirs else ours


Connector = Callable[[Address, int, Traffic], Awaitable[Connection]]


async def connect(address: Address, port: int, traffic: Traffic) -> Connection:
    """Connect to ``address`` and no other.

    Raises:
        OSError: as connect(2) has it.
    """
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((str(address), port))
        return Connection(sock, traffic)
    except BaseException:
        sock.close()
        raise


def system_trust() -> ssl.SSLContext:
    """TLS as this machine trusts it: certificates and names are always checked."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
