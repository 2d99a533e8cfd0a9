"""System calls that the standard library lacks."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38


def prctl(option: int, argument: int | bytes) -> None:
    """Call prctl(2).

    Raises:
        OSError: as the system call says.
    """
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), value, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def system_call(number: int, *arguments: int | bytes) -> int:
    """Make a system call that has no function in the C library; what it returns.

    Bytes are passed by their address, for the kernel to read.

    Raises:
        OSError: as the system call says.
    """
    words = [
        ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_long(argument)
        for argument in (number, *arguments)
    ]
    result: int = _libc.syscall(*words)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call a function of the C library that answers -1, and ``errno``, where it fails.

    Raises:
        OSError: as it says.
    """
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = getattr(_libc, name)(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def set_name(name: str) -> None:
    """Name this process, as ``ps`` shows it: 15 bytes at most."""
    prctl(PR_SET_NAME, name.encode()[:15])
