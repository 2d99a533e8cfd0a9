"""What knows how values of one type lie in a guest's memory, and pass as core values.

What is here called a *wire* value is how a value passes between processes, and between components:
``bool``, ``int``, ``float``, ``str``; a list of numbers as the bytes that lie in memory; any other
list, and records and tuples, as a list; enums as the place of their case, flags as bits, variants,
options and results as ``[place of the case, payload or None]``; a resource as its representation.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from .heap import Heap

MAX_FLAT_PARAMETERS = 16
MASK_32 = (1 << 32) - 1
WEIGHT = 8
"""Bytes that a value which is no list of numbers and no string is charged with."""
UNIT = {size: struct.Struct("<" + letter) for size, letter in ((1, "B"), (2, "H"), (4, "I"))}


class Codec(ABC):
    """One type.

    ``flat`` are the core types that it passes as, no more than are needed to see that there are
    too many.
    """

    size: int
    align: int
    flat: tuple[str, ...]
    weight: int = WEIGHT

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


def discriminant(cases: int) -> int:
    return 1 if cases <= 1 << 8 else 2 if cases <= 1 << 16 else 4


def bounded(flat: tuple[str, ...]) -> tuple[str, ...]:
    return flat[: MAX_FLAT_PARAMETERS + 1]
