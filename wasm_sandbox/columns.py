"""Between Python's values and columns: how the records of a batch are packed and unpacked."""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from .protocol.batch import SIZES, offsets
from .protocol.description import FunctionType
from .protocol.errors import SandboxError
from .protocol.messages import SLOT
from .values import Codec

Column = Sequence[Any] | memoryview
"""The arguments of one parameter: values, or (as a ``memoryview``) their bytes."""

CODES: dict[str, Literal["i", "q", "f", "d"]] = {"i32": "i", "i64": "q", "f32": "f", "f64": "d"}
"""Of ``struct`` and ``array``."""
_FORMATS = {"i32": "iIlL", "i64": "qQlL", "f32": "f", "f64": "d"}
_PLAIN = (list, tuple, range)


def view_of(kind: str, given: object) -> memoryview | None:
    """The bytes of ``given``, if it is a buffer of just this type's values, one after another."""
    try:
        view = memoryview(given)  # type: ignore[arg-type]
    except TypeError:
        return None
    if not view.c_contiguous or view.ndim != 1 or sys.byteorder != "little":
        return None
    if kind == "v128":
        fits = view.itemsize == 1 and view.nbytes % SLOT == 0
    else:
        code = view.format.lstrip("@=<")
        fits = code in tuple(_FORMATS[kind]) and view.itemsize == SIZES[kind]
    return view.cast("B") if fits else None


def pack(codec: Codec, columns: Sequence[Column], count: int) -> tuple[bytes, SandboxError | None]:
    """The columns of the first records of ``count``, and what is wrong with the next one, if not
    all are good."""
    parts: list[bytes | memoryview] = []
    for kind, column in zip(codec.type.params, columns, strict=True):
        part = column if isinstance(column, memoryview) else _packed(kind, column, count)
        if part is None:
            return _one_by_one(codec, columns)
        parts.append(part)
    return b"".join(parts), None


def _packed(kind: str, column: Sequence[Any], count: int) -> bytes | None:
    """The bytes of values that are plainly of the right Python type and in the signed range."""
    try:
        match kind:
            case "i32" | "i64":
                if not isinstance(column, range):  # the quickest way to find a bool:
                    msgspec.convert(column, list[int])
            case "f32" | "f64" if set(map(type, column)) == {float}:
                pass
            case _:
                return None
        return struct.pack(f"<{count}{CODES[kind]}", *column)
    except (msgspec.ValidationError, struct.error, OverflowError):
        return None


def _one_by_one(codec: Codec, columns: Sequence[Column]) -> tuple[bytes, SandboxError | None]:
    kinds = codec.type.params
    packed: list[bytearray] = [bytearray() for _ in kinds]
    error = None
    for row in zip(*map(_values, kinds, columns), strict=True):
        try:
            slots, _ = codec.pack(row)
        except SandboxError as wrong:
            error = wrong
            break
        for at, (kind, part) in enumerate(zip(kinds, packed, strict=True)):
            part += slots[at * SLOT : at * SLOT + SIZES[kind]]
    return b"".join(packed), error


def _values(kind: str, column: Column) -> Iterable[Any]:
    if not isinstance(column, memoryview):
        return column
    if kind == "v128":
        return [bytes(column[at : at + SLOT]) for at in range(0, len(column), SLOT)]
    return struct.unpack(f"<{len(column) // SIZES[kind]}{CODES[kind]}", column)


def gather(types: Sequence[str], slots: Sequence[bytes]) -> bytes:
    """The columns of records whose arguments are slots."""
    together = memoryview(b"".join(slots))
    parts: list[bytes] = []
    for at, kind in enumerate(types):
        if kind == "v128":
            parts += [each[at * SLOT : (at + 1) * SLOT] for each in slots]
        else:
            in_slot = SLOT // SIZES[kind]
            values = together.cast("I" if SIZES[kind] == 4 else "Q")
            parts.append(values[at * in_slot :: len(types) * in_slot].tobytes())
    return b"".join(parts)


def cut(types: Sequence[str], columns: bytes, count: int, start: int, size: int) -> bytes:
    """The columns of the records from ``start`` to before ``start + size``, of ``count``."""
    if size == count:
        return columns
    return b"".join(
        columns[at + start * SIZES[kind] : at + (start + size) * SIZES[kind]]
        for kind, at in zip(types, offsets(types, count), strict=True)
    )


def unpack(types: Sequence[str], results: bytes | memoryview, count: int, done: int) -> list[Any]:
    """The values of the first ``done`` of ``count`` records, as a call returns them."""
    columns: list[Sequence[Any]] = []
    for kind, start in zip(types, offsets(types, count), strict=True):
        part = results[start : start + done * SIZES[kind]]
        if kind == "v128":
            columns.append([bytes(part[at : at + SLOT]) for at in range(0, len(part), SLOT)])
        else:
            columns.append(struct.unpack(f"<{done}{CODES[kind]}", part))
    match columns:
        case []:
            return [None] * done
        case [single]:
            return list(single)
        case _:
            return list(zip(*columns, strict=True))


class Rows:
    """The arguments of a ``map``, taken some records at a time, no sooner than asked for."""

    def __init__(self, function: FunctionType, iterables: Sequence[Iterable[Any]]) -> None:
        self.failure: Exception | None = None
        """What the iterables raised instead of the next record."""
        self._params = function.params
        self._place = 0
        self._columns: list[Sequence[Any] | memoryview] = []
        for kind, given in zip(function.params, iterables, strict=True):
            column = given if type(given) in _PLAIN else None
            if column is None and kind != "v128":  # bytes are a sequence of small numbers, too
                column = view_of(kind, given)
            if column is None:
                self._columns.clear()
                break
            self._columns.append(column)  # type: ignore[arg-type]
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        if not self._columns:
            self._rows = zip(*iterables)  # noqa: B905 - the shortest ends it, as in Executor.map

    def take(self, most: int) -> tuple[int, list[Column]]:
        """The next records, at most ``most``, and how many they are: 0 at the end."""
        if self._columns:
            return self._slices(most)
        rows: list[tuple[Any, ...]] = []
        try:
            rows.extend(itertools.islice(self._rows, most))  # keeps those before one that raises
        except Exception as error:
            self.failure = error
        return len(rows), list(zip(*rows, strict=True)) if rows else []

    def _slices(self, most: int) -> tuple[int, list[Column]]:
        sizes = [
            SIZES[kind] if isinstance(column, memoryview) else 1
            for kind, column in zip(self._params, self._columns, strict=True)
        ]
        lengths = [len(column) // size for column, size in zip(self._columns, sizes, strict=True)]
        start = self._place
        count = max(min(most, *(length - start for length in lengths)), 0)
        self._place += count
        return count, [
            column[start * size : (start + count) * size]
            for column, size in zip(self._columns, sizes, strict=True)
        ]
