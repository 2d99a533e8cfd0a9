"""Adds exports to a core module, so that the host can ask for what the module keeps to itself.

An engine tells the size of a memory or a table, and what is in a memory or a global, only through
an export. Ours are in no description, so nobody but the host can find them.

Source: WebAssembly core specification 3.0, chapter 5.5 ("Modules", "Export Section").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ..protocol.description import (
    NUMERIC_TYPES,
    ExternGlobal,
    ExternMemory,
    ExternTable,
    MemoryType,
    ModuleDescription,
    TableType,
)
from .binary_reader import Reader

_KINDS = {"table": 1, "memory": 2, "global": 3}
EXPORTS_VERSION = 2
"""Part of an artifact's key: another way of adding exports makes other artifacts."""
MOST_GLOBALS = 1000
"""Globals that are shown in one module; where there are more, none is."""
_WIDTH = 8
_GLOBAL_SECTION, _EXPORT_SECTION = 6, 7
_AFTER_EXPORTS = frozenset((8, 9, 12, 10, 11))


class Growing(msgspec.Struct, frozen=True):
    """A memory or a table that the module defines and that can grow; or any of its memories, or a
    global."""

    kind: Literal["memory", "table", "global"]
    index: int
    name: str
    """Under which it is exported."""
    hidden: bool
    """Whether that export is ours."""


def growing(description: ModuleDescription) -> tuple[Growing, ...]:
    """All of them, memories first. The names depend on the description alone."""
    prefix = _prefix(description)
    found: list[Growing] = []
    kinds: tuple[tuple[Literal["memory", "table"], type, Sequence[MemoryType | TableType]], ...] = (
        ("memory", ExternMemory, description.memories),
        ("table", ExternTable, description.tables),
    )
    for kind, extern, types in kinds:
        names = {e.index: e.name for e in description.exports if isinstance(e.type, extern)}
        imported = sum(isinstance(needed.type, extern) for needed in description.imports)
        for index in range(imported, len(types)):
            if types[index].minimum == types[index].maximum:
                continue
            name = names.get(index)
            if name is None:
                name = f"{prefix}{kind} {index}"
            found.append(Growing(kind, index, name, index not in names))
    return tuple(found)


def lasting(data: bytes | bytearray, description: ModuleDescription) -> tuple[Growing, ...]:
    """Where the valid module ``data`` keeps its state between calls: each memory, and each mutable
    global of a numeric type, that it defines. Memories have the names that ``growing`` gives."""
    names = {
        (kind, export.index): export.name
        for export in description.exports
        for kind, extern in (("memory", ExternMemory), ("global", ExternGlobal))
        if isinstance(export.type, extern)
    }
    prefix = _prefix(description)
    imported = sum(isinstance(needed.type, ExternMemory) for needed in description.imports)
    globals_ = _mutable_numbers(data, description)
    things: list[tuple[Literal["memory", "global"], int]] = [
        *(("memory", index) for index in range(imported, len(description.memories))),
        *(("global", index) for index in (globals_ if len(globals_) <= MOST_GLOBALS else ())),
    ]
    return tuple(
        Growing(
            kind,
            index,
            names.get((kind, index), f"{prefix}{kind} {index}"),
            (kind, index) not in names,
        )
        for kind, index in things
    )


def _mutable_numbers(data: bytes | bytearray, description: ModuleDescription) -> list[int]:
    index = sum(isinstance(needed.type, ExternGlobal) for needed in description.imports)
    found: list[int] = []
    reader = Reader(data, 8, len(data))
    while reader.remaining:
        section = reader.byte()
        body = reader.section(reader.unsigned())
        if section == _GLOBAL_SECTION:
            for at in range(index, index + body.count()):
                kind = body.global_type()
                body.skip_expression()
                if kind.mutable and kind.value in NUMERIC_TYPES:
                    found.append(at)
    return found


def _prefix(description: ModuleDescription) -> str:
    """What the names of our exports begin with, and no other does."""
    prefix = "\0"
    while any(export.name.startswith(prefix) for export in description.exports):
        prefix += "\0"
    return prefix


def show(data: bytes, things: Sequence[Growing]) -> bytes:
    """The valid module ``data``, in which the hidden ones of ``things`` are exported.

    The code moves by as many bytes as are added before it. ``shift`` reads how many from the name
    of the last export.
    """
    hidden = [thing for thing in things if thing.hidden]
    if not hidden:
        return data

    def with_marker(moved: int) -> bytes:
        first = hidden[0]
        name = f"{first.name} moved {moved:0{_WIDTH}}"
        return _insert(data, [*hidden, Growing(first.kind, first.index, name, hidden=True)])

    # The marker's name has a fixed width, so the second time nothing moves any more.
    return with_marker(len(with_marker(0)) - len(data))


def shift(last_export: str) -> int:
    """By how many bytes the code of a module moved, from the name of its last export."""
    return int(last_export[-_WIDTH:])


def _insert(data: bytes, things: Sequence[Growing]) -> bytes:
    added = [
        unsigned(len(name)) + name + bytes([_KINDS[thing.kind]]) + unsigned(thing.index)
        for thing, name in [(thing, thing.name.encode()) for thing in things]
    ]
    reader = Reader(data, 8, len(data))
    at = len(data)
    while reader.remaining:
        start = reader.position
        section = reader.byte()
        body = reader.section(reader.unsigned())
        if section == _EXPORT_SECTION:
            count = body.unsigned() + len(added)
            entries = [data[body.position : body.end], *added]
            return b"".join([data[:start], _section(count, entries), data[body.end :]])
        if section in _AFTER_EXPORTS:
            at = start
            break
    return b"".join([data[:at], _section(len(added), added), data[at:]])


def _section(count: int, entries: Sequence[bytes]) -> bytes:
    content = unsigned(count) + b"".join(entries)
    return bytes([_EXPORT_SECTION]) + unsigned(len(content)) + content


def unsigned(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
