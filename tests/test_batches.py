"""What becomes of the rest of a batch, case by case."""

from __future__ import annotations

import pytest

from wasm_sandbox.protocol.batch import Mode
from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.protocol.errors import (
    CpuTimeExceeded,
    DeadlineExceeded,
    LimitExceeded,
    MemoryLimitExceeded,
    OutOfFuel,
    PoolClosed,
    SandboxError,
    Trap,
    WorkerLost,
)
from wasm_sandbox.protocol.receipts import DeathCertificate, Receipt
from wasm_sandbox.supervisor.batches import Piece, failure_of, remaining
from wasm_sandbox.supervisor.requests import BatchRequest, Outcome

START, COUNT = 100, 10
DEATH = DeathCertificate(worker=1, pid=2, cause="killed", wall="kernel", phase="busy")
MODES: tuple[Mode, ...] = ("shared", "fresh", "per-batch")


def killed(error: LimitExceeded) -> LimitExceeded:
    error.certificate = DEATH
    return error


def rest(
    mode: Mode, done: int, error: SandboxError | None, count: int = COUNT
) -> tuple[bool, list[tuple[int, int, str]]]:
    """(whether the record that is not done has failed, what is to be run)."""
    piece = Piece(START, count, mode)
    batch = BatchRequest(count, mode, FunctionType(("i32",), ()))
    outcome = Outcome(receipt=Receipt(), error=error, done=done)
    return failure_of(batch, outcome) is not None, [
        (piece.start - START, piece.count, piece.mode) for piece in remaining(piece, batch, outcome)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_of_a_batch_that_is_done_nothing_is_left(mode: Mode) -> None:
    assert rest(mode, COUNT, None) == (False, [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "error", [Trap("unreachable", ""), MemoryLimitExceeded(), PoolClosed("closed")]
)
def test_a_record_that_failed_fails_alone(mode: Mode, error: SandboxError) -> None:
    assert rest(mode, 4, error) == (True, [(5, 5, mode)])
    assert rest(mode, COUNT - 1, error) == (True, [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [DeadlineExceeded, CpuTimeExceeded, OutOfFuel])
def test_where_the_budget_ran_out_the_record_gets_all_of_one(
    mode: Mode, kind: type[LimitExceeded]
) -> None:
    alone = "fresh" if mode == "shared" else mode
    assert rest(mode, 4, kind()) == (False, [(4, 1, alone), (5, 5, mode)])
    assert rest(mode, 9, kind()) == (False, [(9, 1, alone)])
    assert rest(mode, 0, kind()) == (True, [(1, 9, mode)])  # the first had it
    assert rest(mode, 0, kind(), count=1) == (True, [])


def test_a_record_that_was_not_run_as_it_would_be_alone_is() -> None:
    assert rest("shared", 4, None) == (False, [(4, 1, "fresh"), (5, 5, "shared")])
    assert rest("shared", 0, None) == (False, [(0, 1, "fresh"), (1, 9, "shared")])


@pytest.mark.parametrize("error", [WorkerLost(DEATH), killed(DeadlineExceeded())], ids=type)
def test_a_shared_batch_whose_worker_died_is_run_record_by_record(error: SandboxError) -> None:
    assert rest("shared", 0, error) == (False, [(0, 10, "fresh")])
    assert rest("shared", 0, error, count=1) == (True, [])


@pytest.mark.parametrize("mode", ["fresh", "per-batch"])
def test_otherwise_the_record_that_was_begun_is_lost_with_its_worker(mode: Mode) -> None:
    assert rest(mode, 4, WorkerLost(DEATH)) == (True, [(5, 5, mode)])
    assert rest(mode, 0, killed(DeadlineExceeded())) == (True, [(1, 9, mode)])
    assert rest(mode, 4, killed(DeadlineExceeded())) == (False, [(4, 1, mode), (5, 5, mode)])
