"""Many calls of one function that travel as one: how their values lie in memory.

A *record* is one call: its arguments, or its results. Records cross as *columns*: all values of the
first parameter, then all of the second, and so on, little-endian, each with the natural size of its
type. So whoever has columns already need not look at a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .arena import DEFAULT_SIZE, halves
from .description import FunctionType

Mode = Literal["shared", "fresh", "per-batch"]
"""How the records of a batch are run.

``shared``: all in one instance, of a function that leaves no trace in it, so that nobody can tell.
``fresh``: each in an instance of its own. ``per-batch``: all in one instance, and what one record
leaves there the next one finds, because the caller asked for it.
"""

SIZES = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}
"""Bytes of a value."""
MOST_VALUES = 16
"""Parameters, and results, that a function of batches may have."""
MOST_RECORDS = 1 << 18
_ROOM = halves(DEFAULT_SIZE)[2]
"""Bytes of all arguments, or of all results: each direction of the arena has room for one batch."""


def width(types: Sequence[str]) -> int:
    """Bytes of a record of these types."""
    return sum(SIZES[kind] for kind in types)


def offsets(types: Sequence[str], count: int) -> list[int]:
    """Where the column of each type begins, for ``count`` records."""
    return [count * width(types[:at]) for at in range(len(types))]


def most_records(function: FunctionType) -> int:
    """How many records of a function a batch may have; 0 where it cannot have any."""
    if function.references or max(len(function.params), len(function.results)) > MOST_VALUES:
        return 0
    return min(MOST_RECORDS, _ROOM // max(width(function.params), width(function.results), 1))
