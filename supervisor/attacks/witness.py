"""Whether what an attack says it did can be seen from outside, where it would do harm."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...protocol.attacks import Report
from .targets import Scenery, heard

PATIENCE = 0.5
"""Seconds in which a connection of the attacker's own offering must come about."""


def confirmed(name: str, scenery: Scenery, report: Report, pid: int) -> bool:
    """Whether the success that ``report`` tells of is one outside of the worker ``pid``, too.

    What leaves no trace outside is believed.
    """
    check = _CHECKS.get(name)
    return check is None or check(scenery, report, pid)


def _written(scenery: Scenery, report: Report, pid: int) -> bool:
    with suppress(OSError):
        return Path(scenery.folder, "open/written").read_text() == scenery.secret
    return False


def _filled(scenery: Scenery, report: Report, pid: int) -> bool:
    with suppress(OSError):
        size = Path(scenery.folder, "granted/large").stat().st_size
        return size == scenery.targets.file_size
    return False


def _reserved(scenery: Scenery, report: Report, pid: int) -> bool:
    with suppress(OSError):
        taken = Path(scenery.folder, "granted/large").stat().st_blocks * 512
        return taken >= scenery.targets.file_size
    return False


def _device(name: str) -> Callable[[Scenery, Report, int], bool]:
    def made(scenery: Scenery, report: Report, pid: int) -> bool:
        with suppress(OSError):
            return stat.S_ISCHR(Path(scenery.folder, name).stat().st_mode)
        return False

    return made


def _forged(scenery: Scenery, report: Report, pid: int) -> bool:
    entry = scenery.cache.get(scenery.key)
    if entry is None:
        return False
    os.close(entry.artifact_fd)
    return True


def _received(scenery: Scenery, report: Report, pid: int) -> bool:
    with suppress(BlockingIOError):
        return scenery.udp.recv(64) == scenery.secret.encode()
    return False


def _reachable(scenery: Scenery, report: Report, pid: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", report.number), PATIENCE):
        return True
    return False


def _same_machine(scenery: Scenery, report: Report, pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/uts") == os.readlink("/proc/self/ns/uts")
    except OSError:
        return True


def _unlimited(scenery: Scenery, report: Report, pid: int) -> bool:
    try:
        return resource.prlimit(pid, resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    except OSError:
        return True


_CHECKS: dict[str, Callable[[Scenery, Report, int], bool]] = {
    "write_file": _written,
    "fill_disk": _filled,
    "reserve_disk": _reserved,
    "leave_device": _device("granted/device"),
    "make_device": _device("open/device"),
    "forge_artifact": _forged,
    "connect_tcp": lambda scenery, report, pid: heard(scenery.tcp),
    "send_udp": _received,
    "connect_path": lambda scenery, report, pid: heard(scenery.path),
    "connect_abstract": lambda scenery, report, pid: heard(scenery.abstract),
    "listen_tcp": _reachable,
    "rename_machine": _same_machine,
    "raise_limits": _unlimited,
}
