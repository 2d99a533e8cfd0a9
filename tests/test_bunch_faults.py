"""Futures that travel together when their calls are cancelled, their pool ends or workers die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from batch_guests import LONG, both, known, submitted, until
from leftovers import nothing_left

from wasm_sandbox import CallFuture, Pool, WorkerLost


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@both
def test_cancelling_all_of_them_stops_what_runs(cache: Path, source: str) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        spin = known(pool.load(source.encode())["spin"], 1)
        futures = submitted(pool, spin, [(LONG,)] * 1000)
        for future in futures:
            assert future.cancel()
        assert {future.cancelled() for future in futures} == {True}
        until(lambda: "0 calls" in repr(pool))
        assert spin(3) == 3


@both
@pytest.mark.parametrize("cancel", [False, True])
def test_a_pool_that_is_shut_down_in_the_middle(cache: Path, source: str, cancel: bool) -> None:
    with nothing_left():
        pool = Pool(2, cache_dir=cache)
        spin = known(pool.load(source.encode())["spin"], 1)
        futures = submitted(pool, spin, [(n % 60 + 1,) for n in range(3000)])
        pool.shutdown(cancel_futures=cancel)
        assert all(future.done() for future in futures)
        for n, future in enumerate(futures):
            if not future.cancelled():
                assert future.result() == n % 60 + 1
        if not cancel:
            assert not any(future.cancelled() for future in futures)


# --- deaths ---------------------------------------------------------------------------------------


@contextmanager
def under_fire(pool: Pool) -> Iterator[list[int]]:
    """Meanwhile workers are killed: which."""
    over, killed = threading.Event(), list[int]()

    def shoot() -> None:
        while len(killed) < 50 and not over.wait(0.05):  # fewer than there are retries
            for worker in pool.workers():
                if worker.pid and worker.phase == "busy" and not over.is_set():
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
                        killed.append(worker.pid)
                    break

    thread = threading.Thread(target=shoot)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@both
@pytest.mark.parametrize("retries", [0, 100])
def test_futures_under_fire_have_one_end_each(cache: Path, source: str, retries: int) -> None:
    ended: list[int] = []
    with nothing_left(), Pool(2, cache_dir=cache, quarantine=None) as pool:
        spin = known(pool.load(source.encode())["spin"].options(retries=retries), 1)
        with under_fire(pool) as killed:
            futures: list[CallFuture] = []
            while len(killed) < 6:
                for n in range(len(futures), len(futures) + 2000):
                    future = pool.submit(spin, n % 50 + 1)
                    future.add_done_callback(lambda _, n=n: ended.append(n))  # type: ignore[misc]
                    futures.append(future)
                wait(futures)
        lost = 0
        for n, future in enumerate(futures):
            error = future.exception()
            if error is None:
                assert future.result() == n % 50 + 1
            else:
                assert isinstance(error, WorkerLost)
                assert error.receipt is future.receipt
                lost += 1
        # A death takes along the call that was at hand, no other one.
        assert lost <= (0 if retries else len(killed))
        assert spin(3) == 3
    assert sorted(ended) == list(range(len(futures)))


@both
def test_calls_that_were_not_begun_survive_their_workers(cache: Path, source: str) -> None:
    with nothing_left(), Pool(2, cache_dir=cache) as pool:
        div = known(pool.load(source.encode())["div"], 1, 1)
        pids = [worker.pid for worker in pool.workers() if worker.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        futures = submitted(pool, div, [(n, 1) for n in range(500)])
        until(lambda: all(future.running() for future in futures))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert [future.result() for future in futures] == list(range(500))
        assert {future.receipt.attempts for future in futures} == {1}
