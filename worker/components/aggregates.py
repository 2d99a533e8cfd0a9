"""The Canonical ABI of what has parts: strings, lists, records, variants.

Source: component model, ``CanonicalABI.md``.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from ...protocol.wit import NUMBERS
from .codec import MASK_32, MAX_FLAT_PARAMETERS, UNIT, WEIGHT, Codec, bounded, discriminant
from .heap import BadValue, Heap

_FLOAT, _INT = struct.Struct("<f"), struct.Struct("<I")
_DOUBLE, _LONG = struct.Struct("<d"), struct.Struct("<Q")


class _Pointed(Codec):
    """What lies elsewhere: a place and a length."""

    size, align, flat, weight = 8, 4, ("i32", "i32"), 2 * WEIGHT
    _pair = struct.Struct("<II")

    def load(self, heap: Heap, at: int) -> Any:
        """The value that the pair at ``at`` points to."""
        return self.fetch(heap, *self._pair.unpack_from(heap.data, at))

    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put a pair at ``at``."""
        pair = self.leave(heap, value)  # first: the memory may move by it
        self._pair.pack_into(heap.data, at, *pair)

    def lift(self, heap: Heap, flats: Iterator[Any]) -> Any:
        """The value that two core values point to."""
        return self.fetch(heap, next(flats), next(flats))

    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """Two core values."""
        flats += self.leave(heap, value)

    @abstractmethod
    def fetch(self, heap: Heap, at: int, length: int) -> Any:
        """The value of that length at ``at``, which is not checked yet."""

    @abstractmethod
    def leave(self, heap: Heap, value: Any) -> tuple[int, int]:
        """Where a copy of ``value`` lies, and its length."""


class String(_Pointed):
    """``string``."""

    def fetch(self, heap: Heap, at: int, length: int) -> str:
        """The text there."""
        return heap.take_string(at, length)

    def leave(self, heap: Heap, value: Any) -> tuple[int, int]:
        """Put it there."""
        return heap.put_string(value)


class Numbers(_Pointed):
    """A list of numbers, as the bytes that lie in memory."""

    def __init__(self, name: str) -> None:
        self._width = struct.calcsize("<" + NUMBERS[name])

    def fetch(self, heap: Heap, at: int, length: int) -> bytes:
        """The bytes there."""
        return bytes(heap.take(at, length * self._width, self._width))

    def leave(self, heap: Heap, value: Any) -> tuple[int, int]:
        """Put them there."""
        return heap.put(self._width, value), len(value) // self._width


class List(_Pointed):
    """A list of anything else."""

    def __init__(self, element: Codec) -> None:
        self._element = element

    def fetch(self, heap: Heap, at: int, length: int) -> list[Any]:
        """The elements there."""
        element, size = self._element, self._element.size
        heap.check(at, length * size, element.align)
        heap.charge(length * element.weight)
        return [element.load(heap, place) for place in range(at, at + length * size, size)]

    def leave(self, heap: Heap, value: Any) -> tuple[int, int]:
        """Put them there."""
        element, size = self._element, self._element.size
        at = heap.allocate(element.align, len(value) * size)
        for place, each in enumerate(value):
            element.store(heap, each, at + place * size)
        return at, len(value)


class Record(Codec):
    """Records and tuples."""

    def __init__(self, fields: Sequence[Codec]) -> None:
        self._fields: list[tuple[Codec, int]] = []
        at, self.align = 0, 1
        for field in fields:
            at = _aligned(at, field.align)
            self._fields.append((field, at))
            at += field.size
            self.align = max(self.align, field.align)
        self.size = _aligned(at, self.align)
        self.flat = flattened(fields)
        self.weight = 2 * WEIGHT + sum(field.weight for field in fields)

    def load(self, heap: Heap, at: int) -> list[Any]:
        """The fields at ``at``."""
        return [field.load(heap, at + offset) for field, offset in self._fields]

    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put them at ``at``."""
        for (field, offset), each in zip(self._fields, value, strict=True):
            field.store(heap, each, at + offset)

    def lift(self, heap: Heap, flats: Iterator[Any]) -> list[Any]:
        """The fields that the next core values are."""
        return [field.lift(heap, flats) for field, _ in self._fields]

    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """The core values of all fields."""
        for (field, _), each in zip(self._fields, value, strict=True):
            field.lower(heap, each, flats)


class Variant(Codec):
    """Variants, options and results."""

    def __init__(self, cases: Sequence[Codec | None]) -> None:
        payloads = [case for case in cases if case is not None]
        self._cases = cases
        self._tag = UNIT[discriminant(len(cases))]
        self.align = max([self._tag.size, *(case.align for case in payloads)])
        inner = max((case.align for case in payloads), default=1)
        self._offset = _aligned(self._tag.size, inner)
        room = max((case.size for case in payloads), default=0)
        self.size = _aligned(self._offset + room, self.align)
        self._joined: list[str] = []
        for case in payloads:
            for at, kind in enumerate(case.flat):
                if at == len(self._joined):
                    self._joined.append(kind)
                else:
                    self._joined[at] = _join(self._joined[at], kind)
        self.flat = bounded(("i32", *self._joined))
        self.weight = 2 * WEIGHT + max((case.weight for case in payloads), default=0)

    def _case(self, number: int) -> Codec | None:
        if number >= len(self._cases):
            raise BadValue(f"case {number} of a variant that has {len(self._cases)}")
        return self._cases[number]

    def load(self, heap: Heap, at: int) -> list[Any]:
        """The case at ``at``."""
        number = self._tag.unpack_from(heap.data, at)[0]
        case = self._case(number)
        return [number, None if case is None else case.load(heap, at + self._offset)]

    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put it at ``at``."""
        number: int = value[0]
        self._tag.pack_into(heap.data, at, number)
        case = self._cases[number]
        if case is not None:
            case.store(heap, value[1], at + self._offset)

    def lift(self, heap: Heap, flats: Iterator[Any]) -> list[Any]:
        """The case that the next core values are."""
        number = next(flats)
        given = [next(flats) for _ in self._joined]
        case = self._case(number)
        if case is None:
            return [number, None]
        fitted = [
            _unjoin(value, have, want)
            for value, have, want in zip(given, self._joined, case.flat, strict=False)
        ]
        return [number, case.lift(heap, iter(fitted))]

    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """The core values of the case, and zeros where other cases have more."""
        number: int = value[0]
        flats.append(number)
        case, inner = self._cases[number], list[Any]()
        if case is not None:
            case.lower(heap, value[1], inner)
            inner = [
                _rejoin(each, have, want)
                for each, have, want in zip(inner, case.flat, self._joined, strict=False)
            ]
        flats += inner
        flats += [0.0 if kind[0] == "f" else 0 for kind in self._joined[len(inner) :]]


def _aligned(at: int, align: int) -> int:
    return -(-at // align) * align


def flattened(codecs: Sequence[Codec]) -> tuple[str, ...]:
    flat: list[str] = []
    for codec in codecs:
        flat += codec.flat
        if len(flat) > MAX_FLAT_PARAMETERS:
            break
    return bounded(tuple(flat))


def _join(one: str, other: str) -> str:
    if one == other:
        return one
    return "i32" if {one, other} == {"i32", "f32"} else "i64"


def _rejoin(value: Any, kind: str, joined: str) -> Any:
    """A core value of ``kind`` as one of the type that stands for it and others."""
    if kind == joined or kind[0] == "i":
        return value
    if kind == "f32":
        return _INT.unpack(_FLOAT.pack(value))[0]
    return _LONG.unpack(_DOUBLE.pack(value))[0]


def _unjoin(value: Any, joined: str, kind: str) -> Any:
    """The core value of ``kind`` that ``_rejoin`` made ``value`` of."""
    if kind == joined:
        return value
    if kind == "f32":
        return _FLOAT.unpack(_INT.pack(value & MASK_32))[0]
    if kind == "f64":
        return _DOUBLE.unpack(_LONG.pack(value))[0]
    return value & MASK_32 if kind == "i32" else value
