"""No file but the granted directories, no TCP, no signal and no abstract socket to the outside
(Landlock; Documentation/userspace-api/landlock.rst of the kernel).

What a kernel's version (ABI) of Landlock knows is denied as a whole; then granted directories get
exactly their rights back. Nothing can be executed, and no link, device, pipe or socket made, in
any of them: a guest must not leave traps for whoever reads its results.

Descriptors that are open already, and what has no place in any file system (pipes, memory files),
are not touched by it: so a worker can still open its artifacts by ``/proc/self/fd``.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Sequence

from ...protocol.capabilities import Grant
from ...protocol.syscalls import NUMBERS
from .libc import system_call

_WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIRECTORY, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIRECTORY, _MAKE_FILE = 1 << 7, 1 << 8
_MOVE, _TRUNCATE = 1 << 13, 1 << 14
"""``LANDLOCK_ACCESS_FS_*`` (linux/landlock.h); *move* is ``REFER``, from one directory to
another."""
_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All that is known of files, by the ABI since which it is."""
_TCP = 0b11
"""``LANDLOCK_ACCESS_NET_*``: bind and connect."""
_SCOPES = 0b11
"""``LANDLOCK_SCOPE_*``: abstract sockets and signals."""
_VERSION = _PATH_BENEATH = 1
_NO_CALL = 0xFFFF

LATER = {"landlock.network": (4, "6.7"), "landlock.scope": (6, "6.12")}
"""Walls that not every Landlock has: the ABI and the Linux since which they can be built."""

_BITS = {"landlock.network": _TCP, "landlock.scope": _SCOPES}
"""What each of them denies, in the order of ``struct landlock_ruleset_attr``."""


def apply(*, grants: Sequence[Grant], later: Collection[str]) -> int:
    """Restrict this thread, the only one, and all that come after it, for ever.

    Args:
        grants: a directory that cannot be opened is left out: the guest cannot open it either.
        later: which walls of ``LATER`` to build as well, where the kernel has them.

    Returns:
        The kernel's ABI.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    abi = _abi()
    files = max(bits for since, bits in _FILES.items() if since <= abi)
    attributes = struct.pack("=Q", files)
    for wall, bits in _BITS.items():
        if abi >= LATER[wall][0]:
            attributes += struct.pack("=Q", bits if wall in later else 0)
    rules = _call("create_ruleset", attributes, len(attributes), 0)
    try:
        for grant in grants:
            _allow(rules, grant.path, _rights(grant) & files)
        _call("restrict_self", rules, 0)
    finally:
        os.close(rules)
    return abi


def require(wall: str, abi: int) -> None:
    """Check that a wall of ``LATER`` was built with the others.

    Raises:
        OSError: ``abi`` is too old for it, or 0: there is no Landlock.
    """
    needed, linux = LATER[wall]
    if not abi:
        raise OSError(errno.EOPNOTSUPP, "it is a part of Landlock, which does not stand")
    if abi < needed:
        why = f"it came with Landlock ABI {needed} (Linux {linux}); this kernel has ABI {abi}"
        raise OSError(errno.EOPNOTSUPP, why)


def _abi() -> int:
    try:
        return _call("create_ruleset", 0, 0, _VERSION)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise OSError(error.errno, "Landlock is switched off in this kernel") from None
        if error.errno == errno.ENOSYS:
            raise OSError(error.errno, "this kernel has no Landlock") from None
        raise


def _rights(grant: Grant) -> int:
    rights = _READ_FILE | _READ_DIRECTORY
    if grant.writable:
        rights |= _WRITE_FILE | _TRUNCATE
    if grant.create:
        rights |= _MAKE_FILE | _MAKE_DIRECTORY
    if grant.delete:
        rights |= _REMOVE_FILE | _REMOVE_DIRECTORY
    if grant.create and grant.delete:
        rights |= _MOVE
    return rights


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _call("add_rule", rules, _PATH_BENEATH, struct.pack("=Qi", allowed, directory), 0)
    finally:
        os.close(directory)


def _call(name: str, *arguments: int | bytes) -> int:
    numbers = NUMBERS.get(os.uname().machine, {})
    return system_call(numbers.get(f"landlock_{name}", _NO_CALL), *arguments)
