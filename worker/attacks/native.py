"""System calls that the standard library lacks, as an attacker would make them: by number."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
HOLDING = ctypes.PyDLL(None, use_errno=True)
"""Keeps the interpreter's lock during the call, so that a raw ``clone`` finds it free in its
child."""

_NUMBERS = {
    "x86_64": {
        "clone": 56,
        "init_module": 175,
        "add_key": 248,
        "renameat2": 316,
        "perf_event_open": 298,
        "bpf": 321,
        "userfaultfd": 323,
        "io_uring_setup": 425,
    },
    "aarch64": {
        "clone": 220,
        "init_module": 105,
        "add_key": 217,
        "renameat2": 276,
        "perf_event_open": 241,
        "bpf": 280,
        "userfaultfd": 282,
        "io_uring_setup": 425,
    },
}
_NUMBER = _NUMBERS.get(os.uname().machine, {})


class Stopped(Exception):
    """The attack came to nothing, for a reason that no system call's error tells."""


def checked(result: int) -> int:
    """The result of a call of the C library.

    Raises:
        OSError: it is -1; ``errno`` says why.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call by its number.

    Raises:
        Stopped: the number is not known for this kind of processor.
        OSError: as the call says.
    """
    if name not in _NUMBER:
        raise Stopped(f"the number of {name} is not known on {os.uname().machine}")
    native = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    library = HOLDING if name == "clone" else LIBC
    return checked(library.syscall(ctypes.c_long(_NUMBER[name]), *native))


def in_a_child(code: int) -> None:
    """Leave a child at once, running nothing more of the interpreter."""
    os._exit(code)


def mapping(size: int, flags: int) -> int:
    """Address of ``size`` bytes of fresh memory (mmap(2)).

    Raises:
        OSError: as the call says.
    """
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = LIBC.mmap(None, size, 3, flags, -1, 0)  # PROT_READ | PROT_WRITE
    if address in (None, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(address)
