"""Makes a module of an instance: one whose instances begin as that one is now.

No engine gives its state away as such, so the module's own binary is written anew: its memories
are as large as they are now and filled by active data segments, its mutable globals begin with
their values of now, and what initialised the instance (start function, ``_initialize``, segments)
is left out. All else is copied as it is. The module's bytes and the instance are the guest's; so
this happens in its own worker, and what comes out is a module like any other: compiled, digested
and limited as such.

Tables and references cannot be written down. Where the code cannot change them, new instances have
them as the old one had; everything else is refused. Exceptions are no state: none is under way
between two calls, and only a table or a mutable global could keep one.

Source: WebAssembly core specification 3.0, chapter 5.5 ("Modules").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol

from ..protocol.description import NUMERIC_TYPES, ExternFunction, FunctionType, ModuleDescription
from .binary import declares_objects
from .binary_exports import MOST_GLOBALS, Growing, lasting, unsigned
from .binary_reader import Reader
from .engines.interface import EngineRefusal
from .instructions import first_change

_TYPES, _MEMORIES, _GLOBALS, _EXPORTS, _START, _DATA, _DATA_COUNT = 1, 5, 6, 7, 8, 11, 12
_LEFT_OUT = frozenset((_START, _DATA))
_GRAIN = 4096
_MOST_RUNS = 1 << 16
"""Segments that are made at most; an engine takes 100,000."""
_TOGETHER = 1 << 20
"""Bytes that are handed over at once."""


class State(Protocol):
    """What an instance tells of itself; nothing of it changes meanwhile."""

    def view(self, thing: Growing) -> memoryview:
        """All of a memory."""
        ...

    def slot(self, thing: Growing) -> bytes:
        """The value of a global."""
        ...

    def check(self) -> None:
        """Called again and again: raises where this is to end early."""
        ...


def freeze(
    data: bytes | bytearray,
    description: ModuleDescription,
    state: State,
    most: int,
    drain: Callable[[memoryview], object],
) -> None:
    """Hand the new binary to ``drain``, piece by piece.

    Args:
        data: the valid module that the instance is of.
        description: of ``data``.
        state: the instance.
        most: bytes that the new binary may have.
        drain: must not keep what it gets.

    Raises:
        EngineRefusal: ``module_limit``, ``unsupported_module``.
    """
    parts = _Freezer(data, description, state).parts()
    size = sum(map(len, parts))
    if size > most:
        raise EngineRefusal(
            "module_limit",
            f"the snapshot would have {size:,} bytes; {most:,} are allowed",
            "raise Limits(module_size=), or have the guest free memory first",
        )
    gathered = bytearray()
    for part in parts:
        for at in range(0, len(part), _TOGETHER):
            gathered += part[at : at + _TOGETHER]
            if len(gathered) >= _TOGETHER:
                state.check()
                drain(memoryview(gathered))
                gathered = bytearray()
    if gathered:
        drain(memoryview(gathered))


class _Freezer:
    def __init__(
        self, data: bytes | bytearray, description: ModuleDescription, state: State
    ) -> None:
        self._data = data
        self._view = memoryview(data)
        self._description = description
        self._state = state
        self._kept_segments: list[bytes | memoryview] = []
        """The old segments, where instructions may name them: those that were active are empty
        now, as they are once an instance is made."""
        self._counted = False
        things = lasting(data, description)
        self._memories = [(each, state.view(each)) for each in things if each.kind == "memory"]
        self._globals = {each.index: each for each in things if each.kind == "global"}

    def parts(self) -> list[memoryview]:
        """The new binary, in pieces."""
        self._refuse_what_is_lost()
        segments = [*self._segments()]
        count = unsigned(len(self._kept_segments) + len(segments))
        renewed: dict[int, Callable[[Reader], list[bytes | memoryview]]] = {
            _MEMORIES: self._new_memories,
            _GLOBALS: self._new_globals,
            _EXPORTS: self._new_exports,
            _DATA_COUNT: lambda _: [count],
        }
        parts: list[bytes | memoryview] = [self._view[:8]]
        for section, start, content in self._sections():
            if section in renewed:
                parts += _section(section, renewed[section](content))
            elif section not in _LEFT_OUT:
                parts.append(self._view[start : content.end])
        if segments or self._kept_segments:
            new = [part for segment in segments for part in segment]
            parts += _section(_DATA, [count, *self._kept_segments, *new])
        return [memoryview(part) for part in parts]

    def _sections(self) -> Iterator[tuple[int, int, Reader]]:
        """The number, the place and the content of each."""
        reader = Reader(self._data, 8, len(self._data))
        while reader.remaining:
            start = reader.position
            section = reader.byte()
            yield section, start, reader.section(reader.unsigned())

    # --- what cannot be carried over --------------------------------------------------------------

    def _refuse_what_is_lost(self) -> None:
        description = self._description
        if not all(isinstance(needed.type, ExternFunction) for needed in description.imports):
            _refuse("it imports more than functions")
        passive = False
        for section, _, content in self._sections():
            if section == _TYPES and declares_objects(content):
                _refuse("the module has objects of the engine's heap")
            elif section == _GLOBALS:
                self._check_globals(content)
            elif section == _DATA_COUNT:
                self._counted = True
            elif section == _DATA and self._counted:
                passive = self._keep_segments(content)
        tables = len(description.tables)
        found = first_change(self._data, tables, drops=passive, check=self._state.check)
        if found is not None:
            number = found + sum(
                isinstance(needed.type, ExternFunction) for needed in description.imports
            )
            what = " or ".join(
                ["a table"] * (tables > 0) + ["which data segments there are"] * passive
            )
            _refuse(f"function {number} of the module changes {what}, or cannot be understood")

    def _check_globals(self, content: Reader) -> None:
        count = 0
        for _ in range(content.count()):
            kind = content.global_type()
            content.skip_expression()
            if kind.mutable and kind.value not in NUMERIC_TYPES:
                _refuse(f"the module has a mutable global of type {kind.value}")
            count += kind.mutable
        if count > MOST_GLOBALS:
            _refuse(f"the module has {count} mutable globals; {MOST_GLOBALS} can be read")

    def _keep_segments(self, content: Reader) -> bool:
        """Whether there are passive ones with content."""
        passive = False
        for _ in range(content.count()):
            start = content.position
            flags = content.unsigned()
            if flags != 1:
                if flags == 2:
                    content.unsigned()
                content.skip_expression()
            size = content.unsigned()
            content.skip(size)
            if flags == 1:
                self._kept_segments.append(self._view[start : content.position])
                passive = passive or size > 0
            else:
                self._kept_segments.append(b"\1\0")
        return passive

    # --- sections ---------------------------------------------------------------------------------

    def _new_memories(self, content: Reader) -> list[bytes | memoryview]:
        new: list[bytes | memoryview] = [unsigned(content.count())]
        for _, view in self._memories:
            start = content.position
            flags = self._data[start]
            kind = content.memory_type()
            new.append(bytes([flags]) + unsigned(len(view) // kind.page_size))
            if kind.maximum is not None:
                new.append(unsigned(kind.maximum))
            if flags & 8:
                new.append(unsigned(kind.page_size.bit_length() - 1))
        return new

    def _new_globals(self, content: Reader) -> list[bytes | memoryview]:
        count = content.count()
        new: list[bytes | memoryview] = [unsigned(count)]
        for index in range(count):
            start = content.position
            kind = content.global_type()
            typed = content.position
            content.skip_expression()
            thing = self._globals.get(index)
            if thing is None:
                new.append(self._view[start : content.position])
            else:
                new.append(self._view[start:typed])
                new.append(_constant(kind.value, self._state.slot(thing)))
        return new

    def _new_exports(self, content: Reader) -> list[bytes | memoryview]:
        drop = self._description.function("_initialize") == FunctionType((), ())
        kept: list[bytes | memoryview] = []
        for _ in range(content.count()):
            start = content.position
            name = content.name()
            content.byte()
            content.unsigned()
            if not (drop and name == "_initialize"):
                kept.append(self._view[start : content.position])
        return [unsigned(len(kept)), *kept]

    def _segments(self) -> Iterator[tuple[bytes, memoryview]]:
        """The head and the content of an active segment for each run of pages that are not all
        zero."""
        total = sum(len(view) for _, view in self._memories)
        grain = _GRAIN
        while total // (2 * grain) > _MOST_RUNS:
            grain *= 2
        types = self._description.memories
        for thing, view in self._memories:
            constant = "i64" if types[thing.index].is_64 else "i32"
            flags = b"\2" + unsigned(thing.index) if thing.index else b"\0"
            for start, end in self._runs(view, grain):
                offset = _constant(constant, start.to_bytes(8, "little"))
                yield flags + offset + unsigned(end - start), view[start:end]

    def _runs(self, view: memoryview, grain: int) -> Iterator[tuple[int, int]]:
        zero = bytes(grain)
        begin: int | None = None
        for at in range(0, len(view), grain):
            if not at % _TOGETHER:
                self._state.check()
            page = view[at : at + grain]
            if bytes(page) == zero[: len(page)]:
                if begin is not None:
                    yield begin, at
                    begin = None
            elif begin is None:
                begin = at
        if begin is not None:
            yield begin, len(view)


def _section(number: int, content: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [bytes([number]) + unsigned(sum(map(len, content))), *content]


def _constant(kind: str, slot: bytes) -> bytes:
    """An expression whose value is in the low bytes of ``slot``."""
    match kind:
        case "i32":
            body = b"\x41" + _signed(int.from_bytes(slot[:4], "little", signed=True))
        case "i64":
            body = b"\x42" + _signed(int.from_bytes(slot[:8], "little", signed=True))
        case "f32":
            body = b"\x43" + slot[:4]
        case "f64":
            body = b"\x44" + slot[:8]
        case _:
            body = b"\xfd\x0c" + slot[:16]
    return body + b"\x0b"


def _signed(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if value == -(byte >> 6):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def _refuse(why: str) -> NoReturn:
    raise EngineRefusal(
        "unsupported_module",
        f"there can be no snapshot: {why}",
        "make the state again with on_restart",
    )
