"""Turns the engine's traps into plain data, and frees them."""

from __future__ import annotations

import ctypes

from ..interface import Frame, GuestTrap, Measured
from .library import ByteVector, Library

CODES = (
    "stack_overflow",
    "memory_out_of_bounds",
    "heap_misaligned",
    "table_out_of_bounds",
    "indirect_call_to_null",
    "bad_signature",
    "integer_overflow",
    "integer_division_by_zero",
    "bad_conversion_to_integer",
    "unreachable",
    "interrupt",
    "out_of_fuel",
    "atomic_wait_non_shared_memory",
    "null_reference",
    "array_out_of_bounds",
    "allocation_too_large",
    "cast_failure",
)
"""By ``wasmtime_trap_code_enum`` (trap.h); the codes above these belong to components."""

UNCAUGHT_EXCEPTION = "uncaught_exception"
OTHER = "other"
"""A trap without a code: a limit of the engine that has none."""

NO_OFFSET = (1 << 64) - 1
NAME_LIMIT = 200
_THROWN = "thrown Wasm exception"


def interrupted() -> GuestTrap:
    """The trap of a call that was stopped before its first instruction."""
    return GuestTrap("interrupt", "interrupted before it began")


def trap_name(code: int | None, message: str) -> str:
    """Our name of a trap code."""
    if code is not None and code < len(CODES):
        return CODES[code]
    if code == 49 or _THROWN in message:
        return UNCAUGHT_EXCEPTION
    return OTHER


def clean_message(text: str) -> str:
    """The reason alone, out of the engine's message with its backtrace."""
    _, found, causes = text.rpartition("Caused by:\n")
    lines = [line.strip() for line in (causes if found else text).splitlines()]
    return "; ".join(line.removeprefix("wasm trap: ") for line in lines if line)


def take_trap(library: Library, trap: int, measured: Measured, moved: int | None) -> GuestTrap:
    """The trap as an exception; ``trap`` is freed."""
    try:
        code = ctypes.c_uint8()
        known = library.trap_code(trap, ctypes.addressof(code))
        message = clean_message(library.text(library.trap_message, trap).rstrip("\0"))
        name = trap_name(code.value if known else None, message)
        return GuestTrap(name, message, _frames(library, trap, moved), measured)
    finally:
        library.trap_delete(trap)


def _frames(library: Library, trap: int, moved: int | None) -> tuple[Frame, ...]:
    vector = ByteVector()
    library.trap_trace(trap, ctypes.addressof(vector))
    try:
        if not vector.size:
            return ()
        pointers = (ctypes.c_void_p * vector.size).from_address(vector.data)
        return tuple([_frame(library, frame, moved) for frame in pointers if frame])
    finally:
        library.frames_delete(ctypes.addressof(vector))


def _frame(library: Library, frame: int, moved: int | None) -> Frame:
    named: int | None = library.frame_name(frame)
    name: str | None = None
    if named:
        text = ByteVector.from_address(named)
        size = min(text.size, NAME_LIMIT)
        name = ctypes.string_at(text.data, size).decode(errors="replace") if size else ""
    offset: int = library.frame_offset(frame)
    return Frame(library.frame_function(frame), name, place(offset, moved))


def place(offset: int, moved: int | None) -> int | None:
    """Where in the guest's own binary a frame is."""
    return None if offset == NO_OFFSET or moved is None else offset - moved
