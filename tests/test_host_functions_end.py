"""Host functions, and the ends of pools, workers and calls: what hangs, is killed, is shut down, or
calls the pool again; with both faces, and with nothing left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from host_guests import KINDS, STORM, Hanging, forward
from leftovers import nothing_left

from wasm_sandbox import (
    CallFuture,
    Event,
    HostFunction,
    HostFunctionError,
    Limits,
    Module,
    Pool,
    PoolClosed,
    PoolError,
    TrioPool,
    WorkerLost,
    open_pool,
)
from wasm_sandbox.protocol.events import CallStopped, Granted, HostFunctionsCalled

STUCK = 60.0
"""Seconds after which a test gives up waiting for something that has to come."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hanging functions wait for; the test's end lets them go."""
    event = threading.Event()
    yield event
    event.set()


def load(pool: Pool, source: bytes, function: Any) -> Module:
    return pool.load(source, imports={"env": {"f": function}})


def with_trio(cache: Path, work: Callable[[TrioPool], Any], **keywords: Any) -> None:
    async def main() -> None:
        with trio.fail_after(150):
            async with open_pool(cache_dir=cache, **keywords) as pool:
                await work(pool)

    trio.run(main)


def test_with_trio_both_kinds_run_beside_the_caller(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        root = trio.lowlevel.current_root_task()

        async def here() -> int:
            await trio.sleep(0)
            return int(trio.lowlevel.current_root_task() is root)

        def there() -> int:
            with pytest.raises(RuntimeError):
                trio.lowlevel.current_root_task()
            return 2

        for function, found in ((here, 1), (there, 2)):
            module = await pool.load(forward("", "i32"), imports={"env": {"f": function}})
            assert await pool.call(module["call"]) == found

    with_trio(cache, work, workers=1)


def test_a_cancelled_scope_cancels_the_function(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        ended: list[str] = []

        async def sleeps() -> None:
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                ended.append("cancelled")

        async def shielded() -> None:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await let_go.wait()
            ended.append("let go")

        let_go = trio.Event()
        for function in (sleeps, shielded):
            module = await pool.load(forward(), imports={"env": {"f": function}})
            with trio.CancelScope() as scope:
                await pool.call(module["call"])
            assert scope.cancelled_caught
        let_go.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == ["cancelled", "let go"]

    with_trio(cache, work, workers=1)


def test_hanging_threads_are_bounded_and_the_pool_goes_on(
    cache: Path, release: threading.Event
) -> None:
    before = threading.active_count()
    with Pool(1, cache_dir=cache) as pool:
        hangs = load(pool, forward(), HostFunction(Hanging(release).thread, timeout=0.01))["call"]
        for _ in range(40):
            with pytest.raises(HostFunctionError):
                hangs()
        assert threading.active_count() - before < 40
        assert load(pool, forward("", "i32"), HostFunction(lambda: 1, direct=True))["call"]() == 1
        release.set()
        assert load(pool, forward("", "i32"), lambda: 1)["call"]() == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_a_worker_killed_during_a_host_call_costs_that_call_alone(
    cache: Path, is_async: bool
) -> None:
    with Pool(1, cache_dir=cache) as pool:

        def kill() -> None:
            os.kill(pool.workers()[0].pid, signal.SIGKILL)
            gone.wait(STUCK)

        async def kill_async() -> None:
            await asyncio.to_thread(kill)

        gone = threading.Event()
        future = pool.submit(load(pool, forward(), kill_async if is_async else kill)["call"])
        behind = pool.submit(load(pool, forward("", "i32"), lambda: 7)["call"])
        assert isinstance(future.exception(STUCK), WorkerLost)
        assert behind.result(STUCK) == 7
        gone.set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_can_be_shut_down_during_a_host_call(
    cache: Path, release: threading.Event, kind: str
) -> None:
    hanging = Hanging(release)
    pool = Pool(1, cache_dir=cache)
    future = pool.submit(load(pool, forward(), getattr(hanging, kind))["call"])
    assert hanging.begun.wait(STUCK)
    pool.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_a_pool_that_ends_in_order_waits_for_the_function(cache: Path) -> None:
    event = threading.Event()
    pool = Pool(1, cache_dir=cache)
    future = pool.submit(load(pool, forward("", "i32"), lambda: int(event.wait(STUCK)))["call"])
    pool.shutdown(wait=False)
    event.set()
    assert future.result(STUCK) == 1
    pool.shutdown()


def test_a_function_may_shut_its_pool_down(cache: Path) -> None:
    pool = Pool(1, cache_dir=cache)

    def ends() -> int:
        pool.shutdown()
        with pytest.raises(PoolClosed):
            pool.load(forward())
        return 1

    assert load(pool, forward("", "i32"), ends)["call"]() == 1
    pool.shutdown()


def test_a_function_calls_the_pool_while_a_worker_is_free(cache: Path) -> None:
    with Pool(2, cache_dir=cache) as pool:
        inner = load(pool, forward("i32", "i32"), lambda number: number + 1)["call"]
        outer = load(pool, forward("i32", "i32"), lambda number: inner(number) * 10)["call"]
        for _ in range(5):
            assert outer(3) == 40
        assert list(pool.map(outer, range(1))) == [10]


def test_a_call_that_no_worker_can_ever_take_is_refused(cache: Path) -> None:
    with Pool(2, cache_dir=cache) as pool:

        def deeper(number: int) -> int:
            return called(number + 1)  # type: ignore[no-any-return]

        called = load(pool, forward("i32", "i32"), deeper)["call"]
        with pytest.raises(HostFunctionError) as caught:
            called(0)
        error: BaseException | None = caught.value
        for _ in range(2):
            assert isinstance(error, HostFunctionError)
            error = error.__cause__
        assert isinstance(error, PoolError)
        assert "every worker" in str(error)


def test_a_call_that_waits_for_a_worker_that_will_be_free_is_not_refused(cache: Path) -> None:
    with Pool(2, cache_dir=cache) as pool:
        event, taken = threading.Event(), threading.Event()

        def hold() -> int:
            taken.set()
            return int(event.wait(STUCK))

        def nested() -> int:
            threading.Timer(0.1, event.set).start()
            return inner()  # type: ignore[no-any-return]

        inner = load(pool, forward("", "i32"), lambda: 5)["call"]
        held = pool.submit(load(pool, forward("", "i32"), hold)["call"])
        assert taken.wait(STUCK)
        assert load(pool, forward("", "i32"), nested)["call"]() == 5
        assert held.result(STUCK) == 1


def test_a_function_may_submit_without_waiting(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        later: list[CallFuture] = []
        inner = load(pool, forward("i32", "i32"), lambda number: number + 1)["call"]

        def submits(number: int) -> int:
            later.append(pool.submit(inner, number))
            return number

        assert load(pool, forward("i32", "i32"), submits)["call"](3) == 3
        assert later[0].result(STUCK) == 4


def test_with_trio_a_nested_call_works_or_is_refused(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        async def nested(number: int) -> int:
            found: int = await pool.call(inner["call"], number)
            return found

        inner = await pool.load(
            forward("i32", "i32"), imports={"env": {"f": lambda number: number + 1}}
        )
        outer = await pool.load(forward("i32", "i32"), imports={"env": {"f": nested}})
        if len(pool.workers()) > 1:
            assert await pool.call(outer["call"], 3) == 4
        else:
            with pytest.raises(HostFunctionError, match="every worker"):
                await pool.call(outer["call"], 3)

    with_trio(cache, work, workers=2)
    with_trio(cache, work, workers=1)


def test_a_storm_is_served_counted_and_told_once(cache: Path) -> None:
    events: list[Event] = []
    limits = Limits(wall_time=600.0)  # a busy machine may need a while
    with Pool(1, cache_dir=cache, limits=limits, on_event=events.append) as pool:
        function = HostFunction(lambda number: number, direct=True, rate=1e6)
        value, receipt = load(pool, STORM, function)["storm"].detailed(3000)
        assert (value, receipt.host_calls) == (3000 * 3001 // 2, 3000)
        with pytest.raises(HostFunctionError):
            load(pool, forward(), lambda: 1 / 0)["call"]()
    told = [event for event in events if isinstance(event, HostFunctionsCalled)]
    assert [event.functions for event in told] == [(("env.f", 3000),), (("env.f", 1),)]
    assert [event.export for event in told] == ["storm", "call"]
    (stopped,) = [event for event in events if isinstance(event, CallStopped)]
    assert stopped.reason == "HostFunctionError"


def test_a_worker_that_runs_functions_of_this_program_is_told(cache: Path) -> None:
    events: list[Event] = []
    with Pool(1, cache_dir=cache, on_event=events.append) as pool:
        source = forward("", "i32")
        module = pool.load(source, worker_imports={"env": {"f": lambda: 1}})
        assert module["call"]() == 1
        helpers = hashlib.sha256(module.handle.helpers).hexdigest()
    granted = [event.helpers for event in events if isinstance(event, Granted)]
    assert granted == ["", helpers]
