"""What becomes of the rest of a batch, case by case."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_shared_batch_whose_worker_died_is_run_by_halves() -> None:
    lost = WorkerLost(DEATH)
    assert rest("shared", 0, lost) == (False, [(0, 5, "shared"), (5, 5, "shared")])
    assert rest("shared", 0, lost, count=3) == (False, [(0, 1, "fresh"), (1, 2, "shared")])
    assert rest("shared", 4, lost) == (False, [(4, 3, "shared"), (7, 3, "shared")])
    assert rest("shared", 9, lost) == (False, [(9, 1, "fresh")])
    assert rest("shared", 0, lost, count=1) == (True, [])


def test_where_a_limit_took_the_worker_along_each_record_has_its_own_instance() -> None:
    late = killed(DeadlineExceeded())
    assert rest("shared", 0, late) == (False, [(0, 10, "fresh")])
    assert rest("shared", 0, late, count=1) == (True, [])


@pytest.mark.parametrize("mode", ["fresh", "per-batch"])
def test_otherwise_the_record_that_was_begun_is_lost_with_its_worker(mode: Mode) -> None:
    assert rest(mode, 4, WorkerLost(DEATH)) == (True, [(5, 5, mode)])
    assert rest(mode, 0, killed(DeadlineExceeded())) == (True, [(1, 9, mode)])
    assert rest(mode, 4, killed(DeadlineExceeded())) == (False, [(4, 1, mode), (5, 5, mode)])


# --- searches -------------------------------------------------------------------------------------


class Run:
    """A batch that is run as ``map`` does, on a machine where some records take their worker
    along: ``guilty`` ones, and ``pairs`` that share an instance, in this order."""

    def __init__(self, count: int, guilty: set[int], pairs: set[int] | None = None) -> None:
        self.returned: list[int] = []
        self.failed: list[int] = []
        self.deaths = self.counted = 0
        pairs = pairs or set()
        jobs = deque([Piece(0, count, "shared" if count > 1 else "fresh")])
        while jobs:
            piece = jobs.popleft()
            assert (piece.mode == "shared") is (piece.count > 1)
            batch = BatchRequest(
                piece.count, piece.mode, FunctionType(("i32",), ()), search=piece.search
            )
            inside = range(piece.start, piece.start + piece.count)
            if guilty.intersection(inside) or any(n in inside and n + 1 in inside for n in pairs):
                self.deaths += 1
                self.counted += piece.search is None or not piece.search.forgives()
                outcome = Outcome(receipt=Receipt(), error=WorkerLost(DEATH))
            else:
                self.returned += inside
                outcome = Outcome(receipt=Receipt(), done=piece.count)
            if failure_of(batch, outcome) is not None:
                self.failed.append(piece.start)
            jobs.extendleft(reversed(remaining(piece, batch, outcome)))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 100, 4095, 4096])
def test_a_guilty_record_costs_as_many_workers_as_its_batch_has_halves(count: int) -> None:
    for at in {0, count // 3, count - 1}:
        run = Run(count, {at})
        assert run.failed == [at]
        assert run.returned == [n for n in range(count) if n != at]
        assert run.deaths <= 1 + (count - 1).bit_length()
        # The first death and its own speak against the module, as where each call goes alone.
        assert run.counted <= 2


@given(st.data())
def test_whoever_is_guilty_fails_alone_and_in_its_place(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 200))
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    pairs = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    run = Run(count, guilty, pairs)
    assert run.failed == sorted(guilty)
    assert run.returned == [n for n in range(count) if n not in guilty]
    assert run.deaths <= len(guilty | pairs) * (1 + (count - 1).bit_length())


def test_two_that_fail_only_together_both_return() -> None:
    run = Run(64, set(), {31})
    assert (run.failed, run.returned, run.deaths) == ([], list(range(64)), 1)
    run = Run(64, set(), {12})
    assert (run.failed, run.returned) == ([], list(range(64)))
    assert 1 < run.deaths <= 6


def test_a_module_that_dies_of_everything_is_not_forgiven_for_long() -> None:
    """Else it had a new try at the engine for each pair of its records, and no quarantine."""
    run = Run(1024, set(), set(range(1024)))
    assert run.failed == []
    assert run.deaths == 1023
    assert run.deaths - run.counted == (1024).bit_length()
