"""What becomes of the records of a batch that did not come to its end. Pure: no clock, no process.

Whatever happens to a batch, each of its records ends as it would have as a call of its own:

- Where the budget of one call ran out, the record at that place is run again by itself, with all of
  one; if it is the first, it has had that already.
- Where a record was not run as it would have been alone (``Outcome.error`` is ``None``), the same.
- Where the worker died in a ``shared`` batch, nobody knows at which record. They are run again by
  halves, until the guilty one is alone: as many deaths as halves. Where it was a limit that took
  the worker along, each death would take all of its time again: there, all are run again at once,
  each in an instance of its own, so that the next death names the one.
- Otherwise the record at that place has failed. Those after it were not begun, or (``per-batch``,
  where the worker died) were begun together with it and have failed as well; ``map`` ends there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..protocol.batch import Mode
from ..protocol.errors import (
    CpuTimeExceeded,
    DeadlineExceeded,
    IdleTimeExceeded,
    LimitExceeded,
    OutOfFuel,
    SandboxError,
    WorkerLost,
)
from .requests import BatchRequest, Outcome, Search

_BUDGETS = (CpuTimeExceeded, DeadlineExceeded, IdleTimeExceeded, OutOfFuel)


@dataclass(frozen=True, slots=True)
class Piece:
    """Records from ``start`` to before ``start + count`` that run together."""

    start: int
    count: int
    mode: Mode
    search: Search | None = None
    """What it is a part of, where some of it is guilty."""


def failure_of(batch: BatchRequest, outcome: Outcome) -> SandboxError | None:
    """The error that the first record of a batch that is not done has failed with, for good."""
    error = outcome.error
    if error is None or batch.count == 1:
        return error
    lost = isinstance(error, WorkerLost) or (
        isinstance(error, LimitExceeded) and error.certificate is not None
    )
    if batch.mode == "shared" and lost:
        return None
    if isinstance(error, _BUDGETS) and (outcome.done or batch.attempt):
        return None
    return error


def remaining(piece: Piece, batch: BatchRequest, outcome: Outcome) -> list[Piece]:
    """What is to be run after the records of ``piece`` that are done, and the one that failed."""
    done = outcome.done
    if done == piece.count:
        return []
    rest = replace(piece, start=piece.start + done, count=piece.count - done)
    tail = [replace(rest, start=rest.start + 1, count=rest.count - 1)] if rest.count > 1 else []
    if failure_of(batch, outcome) is not None:
        return tail
    if batch.mode == "shared" and isinstance(outcome.error, WorkerLost):
        return _halves(rest)
    if outcome.error is not None and batch.mode == "shared" and not done:
        return [replace(rest, mode="fresh")]
    alone: Mode = "fresh" if piece.mode == "shared" else piece.mode
    return [Piece(rest.start, 1, alone), *tail]


def _halves(piece: Piece) -> list[Piece]:
    search = piece.search or Search(piece.count.bit_length())
    half = piece.count // 2
    halves = (piece.start, half), (piece.start + half, piece.count - half)
    return [
        Piece(start, count, "shared", search) if count > 1 else Piece(start, 1, "fresh")
        for start, count in halves
        if count
    ]
