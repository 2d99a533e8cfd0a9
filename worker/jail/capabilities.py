"""Capabilities (capabilities(7)): all that makes root more than a user, given up for ever."""

from __future__ import annotations

import ctypes
import errno
import struct

from .libc import call, prctl

SETGID, SETUID, SETPCAP, SYS_ADMIN = 6, 7, 8, 21
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 24, 28
_NOROOT, _NO_AMBIENT_RAISE = 1 << 0, 1 << 6
_LOCKED = 1
"""How far to the left of a secure bit its lock is."""
_VERSION_3 = 0x20080522
_SETS = struct.Struct("=6I")
"""Effective, permitted and inheritable set: their low words, then their high ones."""


def holds(capability: int) -> bool:
    """Whether this thread has ``capability`` in its effective set."""
    sets = ctypes.create_string_buffer(_SETS.size)
    call("capget", _header(), sets)
    words = _SETS.unpack(sets.raw)
    return bool((words[0] | words[3] << 32) >> capability & 1)


def bound() -> None:
    """Make sure that no program and no user id can bring capabilities back: empty the bounding and
    the ambient set, and lock the secure bits that say so.

    Only ``CAP_SETPCAP`` may. Whoever lacks it gains none by executing a program either, as long as
    ``no_new_privs`` stands.
    """
    if not holds(SETPCAP):
        return
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # the kernel knows no more of them
    bits = _NOROOT | _NO_AMBIENT_RAISE
    prctl(_PR_SET_SECUREBITS, bits | bits << _LOCKED)


def keep(*capabilities: int) -> None:
    """Keep these of the permitted capabilities, effective from now on, and give up all others; the
    ambient set goes with the inheritable one."""
    kept = sum(1 << capability for capability in capabilities)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    call("capset", _header(), _SETS.pack(low, low, 0, high, high, 0))


def drop() -> None:
    """Give up every capability."""
    keep()


def _header() -> bytes:
    return struct.pack("=Ii", _VERSION_3, 0)
