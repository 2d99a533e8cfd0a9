"""Futures that travel together end as they would have ended alone, each for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, as_completed, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batch_guests import LONG, PURE, STATE, both, busy_thread, known, submitted, turns_in, until
from fakes import SOURCE, FakeCore
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batching import RECORDS, facts

from wasm_sandbox import (
    CallFuture,
    DeadlineExceeded,
    Limits,
    OutOfFuel,
    Pool,
    PoolClosed,
    PoolError,
    QueueFull,
    SandboxError,
    Trap,
)
from wasm_sandbox.bunches import BUDGET
from wasm_sandbox.protocol.events import CallStopped, Event

pytest_plugins = ("fake_pools",)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def real(cache: Path) -> Iterator[Pool]:
    with Pool(2, cache_dir=cache) as pool:
        yield pool


def end(call: Callable[[], Any]) -> Any:
    """What came of it, as something that can be compared."""
    try:
        return call()
    except SandboxError as error:
        return facts(error)


def travelled(futures: Sequence[CallFuture]) -> int:
    """How many journeys their calls had: those that travel together have one receipt."""
    return len({id(future.receipt) for future in futures})


@settings(max_examples=100)
@given(data=st.data())
def test_futures_end_as_calls_one_by_one(real: Pool, data: st.DataObject) -> None:
    module, name = data.draw(st.sampled_from(list(RECORDS)))
    function = real.load((PURE if module == "pure" else STATE).encode())[name]
    rows = data.draw(st.lists(RECORDS[module, name], max_size=40))
    expected = [end(partial(function, *row)) for row in rows]
    assert [end(future.result) for future in submitted(real, function, rows)] == expected


@both
def test_calls_that_wait_together_travel_together(real: Pool, source: str) -> None:
    div = known(real.load(source.encode())["div"], 1, 1)
    futures = submitted(real, div, [(n * 3, 3) for n in range(1000)])
    assert [future.result() for future in futures] == list(range(1000))
    assert travelled(futures) < 300
    for future in futures:
        receipt = future.receipt
        assert (receipt.attempts, receipt.bytes_in, receipt.bytes_out) == (1, 32, 0)
        assert receipt.worker is not None
        assert 0 <= receipt.cpu_time < BUDGET


@both
def test_a_call_that_traps_fails_alone(real: Pool, source: str) -> None:
    div = known(real.load(source.encode())["div"], 1, 1)
    futures = submitted(real, div, [(n, n % 40) for n in range(400)])
    for n, future in enumerate(futures):
        error = future.exception()
        if n % 40:
            assert (error, future.result()) == (None, n // (n % 40))
        else:
            assert isinstance(error, Trap)
            assert "zero" in str(error)
            assert error.receipt is future.receipt
            assert future.receipt.attempts == 1
    assert len({id(future.exception()) for future in futures[::40]}) == 10


def test_every_call_of_a_bunch_has_an_instance_of_its_own(real: Pool) -> None:
    count = known(real.load(STATE.encode())["count"], 1)
    for function in (count, known(count.options(instance="per-batch"), 1)):
        futures = submitted(real, function, [(n,) for n in range(200)])
        assert [future.result() for future in futures] == list(range(1, 201))
        assert travelled(futures) < 100


def test_fuel_is_counted_for_each(real: Pool) -> None:
    spin = known(real.load(PURE.encode())["spin"].options(fuel=50_000), 1)
    futures = submitted(real, spin, [(n % 3 + 1,) for n in range(30)] + [(1000,)])
    fuel = [future.receipt.fuel for future in futures if future.exception() is None]
    assert len(fuel) == 30
    assert len(set(fuel)) == 3
    assert isinstance(futures[-1].exception(), OutOfFuel)


def test_callbacks_run_in_the_order_of_the_calls_and_may_fail(cache: Path) -> None:
    order: list[int] = []

    def note(future: Future[Any]) -> None:
        order.append(future.result())
        if future.result() % 10 == 0:
            raise SystemExit("a callback that fails")

    with Pool(1, cache_dir=cache) as pool:
        add = known(pool.load(PURE.encode())["add"], 1, 1)
        wait(submitted(pool, add, [(1, 1)] * 20))  # the trampoline is made
        with busy_thread(pool):
            futures = [pool.submit(add, n, 0) for n in range(200)]
            for future in futures:
                future.add_done_callback(note)
        wait(futures)
        assert add(1, 1) == 2
    assert order == list(range(200))


def test_thousands_are_waited_for(real: Pool) -> None:
    add = real.load(PURE.encode())["add"]
    futures = {real.submit(add, n, n): n for n in range(5000)}
    for future in as_completed(futures, timeout=60):
        assert future.result() == 2 * futures[future]  # type: ignore[index]


# --- slow ones ------------------------------------------------------------------------------------


@both
def test_a_slow_call_holds_up_nobody_and_has_all_of_its_time(cache: Path, source: str) -> None:
    events: list[Event] = []
    with Pool(2, cache_dir=cache, on_event=events.append) as pool:
        turns = turns_in(pool, 3 * BUDGET)
        spin = known(pool.load(source.encode())["spin"], 1)
        futures = submitted(pool, spin, [(LONG if n == 50 else 1,) for n in range(100)])
        assert [f.result() for f in futures if f is not futures[50]] == [1] * 99
        assert not futures[50].done()
        futures[50].cancel()
        futures = submitted(pool, spin, [(turns if n % 20 == 0 else 2,) for n in range(60)])
        assert [f.result() for f in futures] == ([turns] + [2] * 19) * 3
    assert [event.calls for event in events if isinstance(event, CallStopped)] == [1]


@both
def test_limits_are_those_of_each_call(real: Pool, source: str) -> None:
    spin = real.load(source.encode())["spin"].options(limits=Limits(wall_time=0.3))
    futures = submitted(real, known(spin, 1), [(LONG if n == 30 else 1,) for n in range(60)])
    ends = [future.exception() for future in futures]
    assert [n for n, error in enumerate(ends) if error is not None] == [30]
    assert isinstance(ends[30], DeadlineExceeded)
    assert ends[30].limit == "wall_time"


# --- cancelling -----------------------------------------------------------------------------------


@both
def test_a_cancelled_call_is_stopped_and_the_others_are_not(real: Pool, source: str) -> None:
    spin = known(real.load(source.encode())["spin"], 1)
    with busy_thread(real):
        futures = [real.submit(spin, LONG if n % 10 == 5 else n) for n in range(50)]
        real.thread.post(lambda: [future.cancel() for future in futures[5:15:10]])
    for future in futures[15::10]:
        until(future.running)
        assert future.cancel()
    for n, future in enumerate(futures):
        if n % 10 == 5:
            with pytest.raises(CancelledError):
                future.result()
        else:
            assert future.result() == n
    until(lambda: "0 calls" in repr(real))
    until(lambda: all(worker.phase == "idle" for worker in real.workers()))
    assert all(future.receipt.worker is not None for future in futures if not future.cancelled())


# --- bounds, and a core that refuses -------------------------------------------------------------


def test_each_counts_for_max_pending(cache: Path) -> None:
    with Pool(1, cache_dir=cache, max_pending=100, when_full="raise") as pool:
        add = known(pool.load(PURE.encode())["add"], 1, 1)
        with busy_thread(pool):
            futures = [pool.submit(add, n, 0) for n in range(100)]
            with pytest.raises(QueueFull):
                pool.submit(add, 1, 1)
        assert [future.result() for future in futures] == list(range(100))
        assert add(1, 1) == 2


@pytest.mark.parametrize("error", [PoolClosed("closed"), PoolError("broken")])
def test_what_is_refused_together_is_refused_each_for_itself(
    pool: Pool, cores: list[FakeCore], error: SandboxError
) -> None:
    add = known(pool.load(SOURCE)["add"], 1, 1)
    cores[0].failure = error
    futures = submitted(pool, add, [(1, 1)] * 50)
    errors = [future.exception() for future in futures]
    assert {type(each) for each in errors} == {type(error)}
    assert len({id(each) for each in errors}) == 50
    cores[0].failure = None


def test_few_calls_and_unknown_ones_go_alone(pool: Pool, cores: list[FakeCore]) -> None:
    add = pool.load(SOURCE)["add"]
    wait(submitted(pool, add, [(1, 1)] * 20))
    wait(submitted(pool, add, [(1, 1)] * 3))
    wait(submitted(pool, add.options(timeout=5), [(1, 1)] * 20))
    assert not any(request.batch for request in cores[0].submitted)
    wait(submitted(pool, add, [(1, 1)] * 20))
    assert any(request.batch for request in cores[0].submitted)
