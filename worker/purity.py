"""Finds the exported functions that leave no trace in their instance.

Such a function may be called again and again in one instance, and nobody can tell. It counts as one
only where that is plain: neither it nor any function that it can reach has an instruction that is
not in the tables below. All of these work on values alone, or only read: nothing is stored, no
memory or table is grown, no global set, no segment dropped, nothing allocated, no function called
that is not known from the code. What is read is then what it was when the instance was made.

A module that imports anything, that runs something when an instance is made, or whose types stand
in groups (they would not fit the trampoline's) has none. The module has been validated by the
engine before; what is not understood here is not pure.

Source: WebAssembly core specification 3.0, chapter 5.4 ("Instructions").
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..protocol.batch import most_records
from ..protocol.description import ExternFunction, FunctionType, ModuleDescription
from .binary_reader import MalformedModule, Reader

PURITY_VERSION = 1
"""Part of an artifact's key: the description that lies with it says what was found."""
MOST_CODE = 1 << 16
"""Bytes of code that are looked at in one module; what it takes more to prove is not pure."""

_TYPES, _CODE = 1, 10
_FUNCTION = 0x60
_END, _BLOCKS, _CALLS, _BR_TABLE = 0x0B, (0x02, 0x03, 0x04), (0x10, 0x12), 0x0E
_PLAIN = frozenset((0x00, 0x01, 0x05, 0x0F, 0x1A, 0x1B, *range(0x45, 0xC5)))
"""Without an immediate: control, ``drop``, ``select``, and all arithmetic."""
_INDEXED = frozenset((0x0C, 0x0D, 0x20, 0x21, 0x22, 0x23, 0x3F))
"""With an index: branches, locals, ``global.get``, ``memory.size``."""
_LOADS = range(0x28, 0x36)
_VECTOR_LOADS = frozenset((*range(11), 92, 93))
_VECTOR_LANE_LOADS = range(84, 88)
_VECTOR_STORES = frozenset((11, *range(88, 92)))
_VECTOR_LANES = range(21, 35)


def mark(data: bytes, description: ModuleDescription) -> ModuleDescription:
    """``description``, of the valid module ``data``, with its pure exports marked."""
    if description.imports or description.start:
        return description
    if description.function("_initialize") == FunctionType((), ()):
        return description
    wanted = {
        export.index
        for export in description.exports
        if isinstance(export.type, ExternFunction) and most_records(export.type.type)
    }
    if not wanted:
        return description
    try:
        pure = _pure(data, wanted)
    except MalformedModule:  # the engine knows something that is not known here
        return description
    exports = tuple(
        msgspec.structs.replace(export, pure=True)
        if isinstance(export.type, ExternFunction) and export.index in pure
        else export
        for export in description.exports
    )
    return msgspec.structs.replace(description, exports=exports)


def _pure(data: bytes, wanted: Iterable[int]) -> set[int]:
    """Those of the functions ``wanted`` that are."""
    bodies = _bodies(data)
    callers: dict[int, list[int]] = {}
    impure: list[int] = []
    seen = set(wanted)
    waiting = list(seen)
    budget = MOST_CODE
    while waiting:
        index = waiting.pop()
        if index >= len(bodies):
            raise MalformedModule(f"there is no body of function {index}")
        body = bodies[index]
        budget -= body.remaining
        called = _called(body) if budget >= 0 else None
        if called is None:
            impure.append(index)
            continue
        for callee in called:
            callers.setdefault(callee, []).append(index)
            if callee not in seen:
                seen.add(callee)
                waiting.append(callee)
    tainted = set(impure)
    while impure:
        for caller in callers.get(impure.pop(), ()):
            if caller not in tainted:
                tainted.add(caller)
                impure.append(caller)
    return set(wanted) - tainted


def _bodies(data: bytes) -> list[Reader]:
    """The bodies of all functions of a module that imports none; none where its types are
    grouped."""
    reader = Reader(data, 8, len(data))
    while reader.remaining:
        section, size = reader.byte(), reader.unsigned()
        content = reader.section(size)
        if section == _TYPES:
            for _ in range(content.count()):
                if content.byte() != _FUNCTION:
                    raise content.fail("a type that is no plain function type")
                content.function_type()
        if section == _CODE:
            return [content.section(content.unsigned()) for _ in range(content.count())]
    return []


def _called(body: Reader) -> set[int] | None:
    """The functions that a body calls; ``None`` where it does what a pure function does not."""
    called: set[int] = set()
    for _ in range(body.count()):
        body.unsigned()
        body.value_type()
    while body.remaining:
        opcode = body.byte()
        if opcode in _PLAIN or opcode == _END:
            continue
        if opcode in _INDEXED:
            body.unsigned()
        elif opcode in _BLOCKS:
            skip_block_type(body)
        elif opcode in _CALLS:
            called.add(body.unsigned())
        elif opcode in _LOADS:
            skip_address(body)
        elif opcode == _BR_TABLE:
            for _ in range(body.count() + 1):
                body.unsigned()
        elif opcode == 0x1C:
            body.value_types()
        elif opcode == 0x41:
            body.signed(32)
        elif opcode == 0x42:
            body.signed(64)
        elif opcode in (0x43, 0x44):
            body.skip(4 if opcode == 0x43 else 8)
        elif opcode == 0xFC:
            if body.unsigned() > 7:  # what is not a conversion works on memories and tables
                return None
        elif opcode != 0xFD or not _skip_vector(body):
            return None
    return called


def skip_block_type(body: Reader) -> None:
    """Step over the type of a block."""
    first = body.data[body.position] if body.remaining else 0
    if first == 0x40:
        body.byte()
    elif 0x40 < first < 0x80:
        body.value_type()
    else:
        body.signed(33)


def skip_address(body: Reader) -> None:
    """Step over the immediate of a load or a store."""
    if body.unsigned() & 0x40:
        body.unsigned()
    body.unsigned(64)


def _skip_vector(body: Reader) -> bool:
    """Step over a vector instruction; whether a pure function may have it."""
    operation = body.unsigned()
    if operation in _VECTOR_STORES or operation > 0xFF:
        return False
    if operation in _VECTOR_LOADS:
        skip_address(body)
    elif operation in _VECTOR_LANE_LOADS:
        skip_address(body)
        body.byte()
    elif operation in (12, 13):
        body.skip(16)
    elif operation in _VECTOR_LANES:
        body.byte()
    return True
