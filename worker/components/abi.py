"""The Canonical ABI: how values of each type lie in a guest's memory, and pass as core values.

What is here called a *wire* value is how a value passes between processes, and between components:
``bool``, ``int``, ``float``, ``str``; a list of numbers as the bytes that lie in memory; any other
list, and records and tuples, as a list; enums as the place of their case, flags as bits, variants,
options and results as ``[place of the case, payload or None]``; a resource as its representation.

Source: component model, ``CanonicalABI.md``. A wire value that is given to the guest was checked
before; what comes from the guest is checked here.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from ...protocol import wit
from ...protocol.wit import NUMBERS, Ref, Signature
from .heap import BadValue, Heap

MAX_FLAT_PARAMETERS = 16
MAX_FLAT_RESULTS = 1
_SURROGATES = range(0xD800, 0xE000)
_UNICODE_END = 0x110000
_MASK_32, _MASK_64 = (1 << 32) - 1, (1 << 64) - 1
_FLOAT, _INT = struct.Struct("<f"), struct.Struct("<I")
_DOUBLE, _LONG = struct.Struct("<d"), struct.Struct("<Q")
_WEIGHT = 8
"""Bytes that a value which is no list of numbers and no string is charged with."""
_UNIT = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: _INT}


class Codec(ABC):
    """One type.

    ``flat`` are the core types that it passes as, no more than are needed to see that there are
    too many.
    """

    size: int
    align: int
    flat: tuple[str, ...]
    weight: int = _WEIGHT

    @abstractmethod
    def load(self, heap: Heap, at: int) -> Any:
        """The value at a place that was checked."""

    @abstractmethod
    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put a value at a place that was checked."""

    @abstractmethod
    def lift(self, heap: Heap, flats: Iterator[Any]) -> Any:
        """The value that the next core values are; integers among them are unsigned."""

    @abstractmethod
    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """Append the core values that a value is."""


class Number(Codec):
    """Integers and floats."""

    def __init__(self, name: str) -> None:
        self._struct = struct.Struct("<" + NUMBERS[name])
        self.size = self.align = self._struct.size
        self._float = name[0] == "f"
        self.flat = (name if self._float else "i64" if self.size == 8 else "i32",)
        self._mask = (1 << 8 * self.size) - 1
        self._sign = 1 << 8 * self.size - 1 if name[0] == "s" else 0
        self._core_mask = _MASK_64 if self.size == 8 else _MASK_32

    def load(self, heap: Heap, at: int) -> Any:
        """The value at ``at``."""
        return self._struct.unpack_from(heap.data, at)[0]

    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put it at ``at``."""
        self._struct.pack_into(heap.data, at, value)

    def lift(self, heap: Heap, flats: Iterator[Any]) -> Any:
        """The low bits of a core value."""
        value = next(flats)
        if self._float:
            return value
        return ((value & self._mask) ^ self._sign) - self._sign

    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """A core value."""
        flats.append(value if self._float else value & self._core_mask)


class _Unit(Codec):
    """What is an unsigned integer to the guest."""

    def __init__(self, size: int) -> None:
        self.size = self.align = size
        self.flat = ("i32",)
        self._struct = _UNIT[size]

    def load(self, heap: Heap, at: int) -> Any:
        """The value at ``at``."""
        return self.made(heap, self._struct.unpack_from(heap.data, at)[0])

    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put it at ``at``."""
        self._struct.pack_into(heap.data, at, self.taken(heap, value))

    def lift(self, heap: Heap, flats: Iterator[Any]) -> Any:
        """What a core value stands for."""
        return self.made(heap, next(flats))

    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """A core value."""
        flats.append(self.taken(heap, value))

    def made(self, heap: Heap, number: int) -> Any:
        """The value that ``number`` stands for."""
        raise NotImplementedError

    def taken(self, heap: Heap, value: Any) -> int:
        """The number that stands for ``value``."""
        return value  # type: ignore[no-any-return]


class Bool(_Unit):
    """``bool``: whatever is not 0 is true."""

    def __init__(self) -> None:
        super().__init__(1)

    def made(self, heap: Heap, number: int) -> bool:
        """Whether it is not 0."""
        return number != 0

    def taken(self, heap: Heap, value: Any) -> int:
        """0 or 1."""
        return int(value)


class Char(_Unit):
    """``char``: a Unicode scalar value."""

    def __init__(self) -> None:
        super().__init__(4)

    def made(self, heap: Heap, number: int) -> str:
        """The character of that number."""
        if number >= _UNICODE_END or number in _SURROGATES:
            raise BadValue(f"{number:#x} is no character")
        return chr(number)

    def taken(self, heap: Heap, value: Any) -> int:
        """Its number."""
        return ord(value)


class Enum(_Unit):
    """One of several names, by its place."""

    def __init__(self, cases: int) -> None:
        super().__init__(_discriminant(cases))
        self._cases = cases

    def made(self, heap: Heap, number: int) -> int:
        """The place of the case."""
        if number >= self._cases:
            raise BadValue(f"case {number} of an enum that has {self._cases}")
        return number


class Flags(Codec):
    """Any of several names, as bits; more than 32 take several words."""

    def __init__(self, count: int) -> None:
        self.size = 1 if count <= 8 else 2 if count <= 16 else 4 * -(-count // 32)
        self.align = min(self.size, 4)
        words = -(-self.size // 4)
        self.flat = _bounded(("i32",) * words)
        self._words = words
        self._mask = (1 << count) - 1

    def load(self, heap: Heap, at: int) -> int:
        """The bits at ``at`` that have names."""
        return int.from_bytes(heap.data[at : at + self.size], "little") & self._mask

    def store(self, heap: Heap, value: Any, at: int) -> None:
        """Put them at ``at``."""
        heap.data[at : at + self.size] = value.to_bytes(self.size, "little")

    def lift(self, heap: Heap, flats: Iterator[Any]) -> int:
        """The bits of one core value for each 32 names."""
        words: list[int] = [next(flats) << 32 * word for word in range(self._words)]
        return sum(words) & self._mask

    def lower(self, heap: Heap, value: Any, flats: list[Any]) -> None:
        """One core value for each 32 names."""
        flats += [value >> 32 * word & _MASK_32 for word in range(self._words)]


class Handle(_Unit):
    """A handle to a resource."""

    def __init__(self, resource: int, *, owned: bool) -> None:
        super().__init__(4)
        self._resource = resource
        self._owned = owned

    def made(self, heap: Heap, number: int) -> int:
        """The representation of the guest's handle."""
        handles = heap.handles
        take = handles.take_own if self._owned else handles.take_borrow
        return take(self._resource, number)

    def taken(self, heap: Heap, value: Any) -> int:
        """The guest's handle of a representation."""
        handles = heap.handles
        give = handles.give_own if self._owned else handles.give_borrow
        return give(self._resource, value)


class _Pointed(Codec):
    """What lies elsewhere: a place and a length."""

    size, align, flat, weight = 8, 4, ("i32", "i32"), 2 * _WEIGHT
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

    def fetch(self, heap: Heap, at: int, length: int) -> Any:
        """The value of that length at ``at``, which is not checked yet."""
        raise NotImplementedError

    def leave(self, heap: Heap, value: Any) -> tuple[int, int]:
        """Where a copy of ``value`` lies, and its length."""
        raise NotImplementedError


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
        self.flat = _flattened(fields)
        self.weight = 2 * _WEIGHT + sum(field.weight for field in fields)

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
        self._tag = _UNIT[_discriminant(len(cases))]
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
        self.flat = _bounded(("i32", *self._joined))
        self.weight = 2 * _WEIGHT + max((case.weight for case in payloads), default=0)

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


def _discriminant(cases: int) -> int:
    return 1 if cases <= 1 << 8 else 2 if cases <= 1 << 16 else 4


def _bounded(flat: tuple[str, ...]) -> tuple[str, ...]:
    return flat[: MAX_FLAT_PARAMETERS + 1]


def _flattened(codecs: Sequence[Codec]) -> tuple[str, ...]:
    flat: list[str] = []
    for codec in codecs:
        flat += codec.flat
        if len(flat) > MAX_FLAT_PARAMETERS:
            break
    return _bounded(tuple(flat))


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
        return _FLOAT.unpack(_INT.pack(value & _MASK_32))[0]
    if kind == "f64":
        return _DOUBLE.unpack(_LONG.pack(value))[0]
    return value & _MASK_32 if kind == "i32" else value


class Codecs:
    """The codecs of a component's types, each made once."""

    def __init__(self, types: Sequence[wit.Type]) -> None:
        self._types = types
        self._made: dict[Ref, Codec] = {}

    def get(self, ref: Ref) -> Codec:
        """The codec of a type."""
        found = self._made.get(ref)
        if found is None:
            found = self._made[ref] = self._make(ref)
        return found

    def _make(self, ref: Ref) -> Codec:
        if isinstance(ref, str):
            special: dict[str, type[Bool | Char | String]] = {
                "bool": Bool,
                "char": Char,
                "string": String,
            }
            return special[ref]() if ref in special else Number(ref)
        match self._types[ref]:
            case wit.Record(fields):
                return Record([self.get(field) for _, field in fields])
            case wit.Tuple(items):
                return Record([self.get(item) for item in items])
            case wit.List(element):
                if isinstance(element, str) and element in NUMBERS:
                    return Numbers(element)
                return List(self.get(element))
            case wit.Variant(cases):
                return Variant([self._optional(case) for _, case in cases])
            case wit.Option(some):
                return Variant([None, self.get(some)])
            case wit.Result(ok, error):
                return Variant([self._optional(ok), self._optional(error)])
            case wit.Enum(names):
                return Enum(len(names))
            case wit.Flags(names):
                return Flags(len(names))
            case wit.Own(resource):
                return Handle(resource, owned=True)
            case wit.Borrow(resource):
                return Handle(resource, owned=False)

    def _optional(self, ref: Ref | None) -> Codec | None:
        return None if ref is None else self.get(ref)


class FunctionCodec:
    """Parameters and result of one function, on both sides of a call."""

    def __init__(self, codecs: Codecs, signature: Signature) -> None:
        self._params = Record([codecs.get(ref) for _, ref in signature.params])
        self._result = None if signature.result is None else codecs.get(signature.result)
        self._spilled = len(self._params.flat) > MAX_FLAT_PARAMETERS
        flat = () if self._result is None else self._result.flat
        self._pointed = len(flat) > MAX_FLAT_RESULTS
        params = ("i32",) if self._spilled else self._params.flat
        self.lifted = params, ("i32",) if self._pointed else flat
        """Core parameters and results of a function that is lifted."""
        self.lowered = (*params, "i32") if self._pointed else params, () if self._pointed else flat
        """The same of one that is lowered."""

    def put_params(self, heap: Heap, values: Sequence[Any]) -> list[Any]:
        """The core arguments for a lifted function."""
        if self._spilled:
            at = heap.allocate(self._params.align, self._params.size)
            self._params.store(heap, values, at)
            return [at]
        flats: list[Any] = []
        self._params.lower(heap, values, flats)
        return flats

    def take_result(self, heap: Heap, flats: Sequence[Any]) -> Any:
        """The result of a lifted function, from its core results; ``None`` where it has none."""
        result = self._result
        if result is None:
            return None
        if self._pointed:
            at: int = flats[0]
            heap.check(at, result.size, result.align)
            return result.load(heap, at)
        return result.lift(heap, iter(flats))

    def take_params(self, heap: Heap, flats: Sequence[Any]) -> list[Any]:
        """The arguments of a lowered function, from the core ones."""
        if self._spilled:
            at: int = flats[0]
            heap.check(at, self._params.size, self._params.align)
            return self._params.load(heap, at)
        return self._params.lift(heap, iter(flats))

    def put_result(self, heap: Heap, value: Any, flats: Sequence[Any]) -> list[Any]:
        """The core results of a lowered function; ``flats`` are its core arguments."""
        result = self._result
        if result is None:
            return []
        if self._pointed:
            at: int = flats[-1]
            heap.check(at, result.size, result.align)
            result.store(heap, value, at)
            return []
        made: list[Any] = []
        result.lower(heap, value, made)
        return made
