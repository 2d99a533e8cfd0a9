"""The Canonical ABI of what is one number: numbers, ``bool``, ``char``, enums, flags, handles.

Source: component model, ``CanonicalABI.md``.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from ...protocol.wit import NUMBERS
from .codec import MASK_32, UNIT, Codec, bounded, discriminant
from .heap import BadValue, Heap

_SURROGATES = range(0xD800, 0xE000)
_UNICODE_END = 0x110000
_MASK_64 = (1 << 64) - 1


class Number(Codec):
    """Integers and floats."""

    def __init__(self, name: str) -> None:
        self._struct = struct.Struct("<" + NUMBERS[name])
        self.size = self.align = self._struct.size
        self._float = name[0] == "f"
        self.flat = (name if self._float else "i64" if self.size == 8 else "i32",)
        self._mask = (1 << 8 * self.size) - 1
        self._sign = 1 << 8 * self.size - 1 if name[0] == "s" else 0
        self._core_mask = _MASK_64 if self.size == 8 else MASK_32

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
        self._struct = UNIT[size]

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

    @abstractmethod
    def made(self, heap: Heap, number: int) -> Any:
        """The value that ``number`` stands for."""

    def taken(self, heap: Heap, value: Any) -> int:
        """The number that stands for ``value``."""
        number: int = value
        return number


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
        super().__init__(discriminant(cases))
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
        self.flat = bounded(("i32",) * words)
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
        flats += [value >> 32 * word & MASK_32 for word in range(self._words)]


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
