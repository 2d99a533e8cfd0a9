"""``map_buffers``: columns of numbers in, columns of numbers out, and no Python value between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .batching import BatchRoom, Pace, mode_of, single
from .columns import CODES, view_of
from .function import Function
from .protocol.batch import SIZES, Mode, offsets
from .protocol.errors import ConfigurationError, SandboxError, SignatureMismatch
from .supervisor.batches import Piece, failure_of, remaining
from .supervisor.requests import BatchRequest, Outcome
from .values import show

_KINDS = {
    "i32": "array('i') or NumPy's int32",
    "i64": "array('q') or NumPy's int64",
    "f32": "array('f') or NumPy's float32",
    "f64": "array('d') or NumPy's float64",
    "v128": "bytes, 16 for each value",
}


class BufferMap:
    """One ``map_buffers``: what is still to be run, and where the results go.

    Raises:
        ConfigurationError: calls of this function cannot travel together.
        SignatureMismatch: columns that do not fit the function's type.
    """

    def __init__(self, function: Function, columns: Sequence[Any], out: Any) -> None:
        mode = mode_of(function)
        if mode is None:
            raise ConfigurationError(
                "map_buffers",
                function,
                "takes functions of numbers in modules that import nothing, without timeout=, "
                "returns= and on_output=",
                "use pool.map for others",
            )
        self._mode: Mode = mode
        self._kind = kind = function.numbers.type
        self.name = function.name
        if not columns or len(columns) != len(kind.params):
            raise SignatureMismatch(
                f"{function.name}: {len(columns)} columns were given; the type is {kind}",
                "give one for each parameter, at least one",
            )
        self._columns = [
            self._view(f"column {number}", type_, given)
            for number, (type_, given) in enumerate(zip(kind.params, columns, strict=True), 1)
        ]
        lengths = [
            len(column) // SIZES[type_]
            for type_, column in zip(kind.params, self._columns, strict=True)
        ]
        self.count = lengths[0]
        if len(set(lengths)) > 1:
            raise SignatureMismatch(
                f"{function.name}: columns of different lengths: {', '.join(map(str, lengths))}"
            )
        self._out = out
        self._results = self._places(out)
        self._next = 0

    def _view(self, what: str, kind: str, given: Any) -> memoryview:
        view = view_of(kind, given)
        if view is None:
            raise SignatureMismatch(
                f"{self.name}: {what} must be a buffer of {kind}, one after another, not "
                f"{show(given)}; the type is {self._kind}",
                f"for {kind} that is {_KINDS[kind]}; nothing is converted here",
            )
        return view

    def _places(self, out: Any) -> list[memoryview]:
        """Where results go, as bytes."""
        kinds = self._kind.results
        if out is None:
            return [memoryview(bytearray(self.count * SIZES[kind])) for kind in kinds]
        given = (out,) if len(kinds) == 1 else tuple(out)
        if len(given) != len(kinds):
            raise SignatureMismatch(
                f"{self.name}: out has {len(given)} buffers; the type is {self._kind}"
            )
        places: list[memoryview] = []
        for number, (kind, buffer) in enumerate(zip(kinds, given, strict=True), 1):
            what = "out" if len(kinds) == 1 else f"out {number}"
            view = self._view(what, kind, buffer)
            if view.readonly or len(view) != self.count * SIZES[kind]:
                raise SignatureMismatch(
                    f"{self.name}: {what} must have room for just {self.count} values, and be "
                    "writable"
                )
            places.append(view)
        return places

    @property
    def result(self) -> Any:
        """``out``, or as many new buffers as the function has results: one by itself, several as a
        tuple, none as ``None``."""
        if self._out is not None:
            return self._out
        made = [
            view if kind == "v128" else view.cast(CODES[kind])
            for kind, view in zip(self._kind.results, self._results, strict=True)
        ]
        return None if not made else made[0] if len(made) == 1 else tuple(made)

    def has_room(self, room: BatchRoom, pace: Pace, under_way: Sequence[Piece]) -> bool:
        """Whether there are records that were not taken, and room for some of them."""
        if self._next == self.count:
            return False
        return room.has([piece.count for piece in under_way], pace.size(room.most))

    def take(self, pace: Pace, most: int) -> tuple[Piece, bytes]:
        """What to run next, and its arguments."""
        size = min(pace.size(most), self.count - self._next)
        piece = Piece(self._next, size, self._mode if size > 1 else single(self._mode))
        self._next += size
        return self._with_arguments(piece)

    def _with_arguments(self, piece: Piece) -> tuple[Piece, bytes]:
        return piece, b"".join(
            column[piece.start * SIZES[kind] : (piece.start + piece.count) * SIZES[kind]]
            for kind, column in zip(self._kind.params, self._columns, strict=True)
        )

    def store(self, piece: Piece, outcome: Outcome) -> list[tuple[Piece, bytes]]:
        """Keep the results of a piece. What is to be run before all that follows it.

        Raises:
            SandboxError: a record of it failed; ``record`` says which.
        """
        request = BatchRequest(piece.count, piece.mode, self._kind)
        if outcome.done:
            data, kinds = memoryview(outcome.data or b""), self._kind.results
            for kind, at, place in zip(
                kinds, offsets(kinds, piece.count), self._results, strict=True
            ):
                size, start = outcome.done * SIZES[kind], piece.start * SIZES[kind]
                place[start : start + size] = data[at : at + size]
        error: SandboxError | None = failure_of(request, outcome)
        if error is not None:
            error.record = piece.start + outcome.done
            raise error
        return [self._with_arguments(rest) for rest in remaining(piece, request, outcome)]
