"""Filters for seccomp(2): classic BPF, put together from pieces that each end in an answer.

A piece of code is a tuple of instructions. Whatever branches is given the code for both ways, so
that there are no labels and no jump goes anywhere but forward into a piece that is known to be
there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

Code = tuple[tuple[int, int, int, int], ...]
"""Instructions (operation, jump if true, jump if false, constant): ``sock_filter``, linux/filter.h.
"""

EQUAL, AT_LEAST, ANY_BIT = 0x15, 0x35, 0x45
_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06
_FARTHEST = 255
"""Instructions that a conditional jump can skip."""
MAX_LENGTH = 4096

NUMBER: Code = ((_LOAD, 0, 0, 0),)
"""Load the system call's number."""
AUDIT_ARCH: Code = ((_LOAD, 0, 0, 4),)
"""Load the interface that the call was made through (``AUDIT_ARCH_*``)."""


def argument(index: int, *, high: bool = False, mask: int | None = None) -> Code:
    """Load the low (or the high) 32 bits of an argument on a little-endian machine."""
    load = (_LOAD, 0, 0, 16 + 8 * index + 4 * high)
    return (load,) if mask is None else (load, (_AND, 0, 0, mask))


def answer(value: int) -> Code:
    """End with ``SECCOMP_RET_*``."""
    return ((_RETURN, 0, 0, value),)


def branch(test: int, value: int, then: Code, otherwise: Code) -> Code:
    """Go on with ``then`` where what was loaded passes ``test`` against ``value``."""
    if len(then) <= _FARTHEST:
        return ((test, 0, len(then), value), *then, *otherwise)
    return ((test, 1, 0, value), (_JUMP, 0, 0, len(then)), *then, *otherwise)


def dispatch(cases: Mapping[int, Code], default: Code) -> Code:
    """Go on with the case of the number that was loaded, found in as few comparisons as can be."""
    if not cases:
        return default
    numbers = sorted(cases)
    if len(numbers) == 1:
        return branch(EQUAL, numbers[0], cases[numbers[0]], default)
    middle = numbers[len(numbers) // 2]
    return branch(
        AT_LEAST,
        middle,
        dispatch({number: code for number, code in cases.items() if number >= middle}, default),
        dispatch({number: code for number, code in cases.items() if number < middle}, default),
    )


def assemble(code: Code) -> bytes:
    """The program as the kernel takes it."""
    assert len(code) <= MAX_LENGTH, "the kernel takes no longer program"
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
