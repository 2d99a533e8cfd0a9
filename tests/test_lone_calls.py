"""A call that finds an idle worker is sent by its caller's thread, and ends as any other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_guests import LONG, STATE, turns_in, until
from cores import wait_for_a_call
from leftovers import nothing_left

from wasm_sandbox import CallFuture, CpuTimeExceeded, DeadlineExceeded, Limits, Pool, WorkerLost

SHORT = Limits(wall_time=0.2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def one_after_another(pool: Pool) -> None:
    """Calls in quick succession: the pool's thread looks for the next by itself."""
    spin = pool.load(STATE.encode())["spin"]
    for n in range(100):
        assert pool.submit(spin, n).result() == n


def after_a_pause(pool: Pool) -> None:
    """A call, and nothing for a while: the next one has to wake the pool's thread."""
    one_after_another(pool)
    time.sleep(0.1)


whenever = pytest.mark.parametrize("before", [one_after_another, after_a_pause])
Before = Callable[[Pool], None]


def begun(pool: Pool, limits: Limits | None = None) -> CallFuture:
    """A call that takes for ever."""
    spin = pool.load(STATE.encode())["spin"]
    return pool.submit(spin if limits is None else spin.options(limits=limits), LONG)


@whenever
def test_its_limits_are_kept(cache: Path, before: Before) -> None:
    with Pool(1, cache_dir=cache) as pool:
        before(pool)
        late = begun(pool, SHORT).exception(timeout=60)
        assert isinstance(late, DeadlineExceeded)
        assert late.limit == "wall_time"
        before(pool)
        late = begun(pool, Limits(cpu_time=0.1)).exception(timeout=60)
        assert isinstance(late, CpuTimeExceeded)


@whenever
def test_it_can_be_cancelled(cache: Path, before: Before) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        for _ in range(10):
            before(pool)
            future = begun(pool)
            assert future.cancel()
            until(lambda: "0 calls" in repr(pool))
        until(lambda: pool.workers()[0].phase == "idle")


@whenever
def test_it_dies_with_its_worker(cache: Path, before: Before) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        before(pool)
        (worker,) = pool.workers()
        future = begun(pool)
        assert wait_for_a_call(pool) == worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        lost = future.exception(timeout=60)
        assert isinstance(lost, WorkerLost)
        assert lost.certificate.pid == worker.pid
        before(pool)


@whenever
def test_calls_behind_it_go_elsewhere(cache: Path, before: Before) -> None:
    with Pool(2, cache_dir=cache) as pool:
        add = pool.load(STATE.encode())["div"]
        before(pool)
        until(lambda: len(pool.workers()) == 2)
        future = begun(pool)
        assert [each.result(60) for each in [pool.submit(add, n, 1) for n in range(20)]] == [
            *range(20)
        ]
        assert not future.done()
        future.cancel()


@whenever
@pytest.mark.parametrize("cancel", [True, False])
def test_a_pool_that_is_shut_down_ends_it(cache: Path, before: Before, cancel: bool) -> None:
    with nothing_left():
        pool = Pool(1, cache_dir=cache)
        turns = turns_in(pool, 0.1)
        spin = pool.load(STATE.encode())["spin"]
        before(pool)
        future = pool.submit(spin, LONG if cancel else turns)
        pool.shutdown(cancel_futures=cancel)
        assert future.cancelled() if cancel else future.result() == turns
