"""Workers that die are replaced; only deaths that no call caused can end the pool."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import guests
import pytest
from cores import begun, wait_for_a_call
from leftovers import nothing_left

from wasm_sandbox import (
    ConfigurationError,
    DeadlineExceeded,
    Limits,
    Pool,
    Recycle,
    RestartIntensityReached,
    RestartPolicy,
    SandboxError,
    WorkerLost,
)
from wasm_sandbox.future import CallFuture
from wasm_sandbox.protocol.errors import PoolError
from wasm_sandbox.protocol.events import Event, PoolFailed, WorkerDied
from wasm_sandbox.supervisor import spawn, watch
from wasm_sandbox.supervisor.core import Core

ADD, LOOP, WORK = guests.add().encode(), guests.loop().encode(), guests.work().encode()
PATIENCE = 60.0
"""Seconds after which something counts as forgotten."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def pids(pool: Pool, phase: str) -> list[int]:
    return [worker.pid for worker in pool.workers() if worker.pid and worker.phase == phase]


def kill(pool: Pool, phase: str) -> int:
    """SIGKILL a worker in that phase, as soon as there is one."""
    until(lambda: pids(pool, phase))
    with suppress(IndexError, ProcessLookupError):
        pid = pids(pool, phase)[0]
        os.kill(pid, signal.SIGKILL)
        return pid
    return kill(pool, phase)


def lose(pool: Pool, future: CallFuture) -> None:
    """Kill the worker of the one call that runs, until it is over: one that has only been sent is
    not lost, it begins again elsewhere."""
    while not future.done():
        if pid := pool.thread.run(begun):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait([future], 0.05)
        else:
            time.sleep(0.002)


# --- guests cannot close the pool -----------------------------------------------------------------


def test_a_guest_that_always_takes_its_worker_along_does_not_close_the_pool(cache: Path) -> None:
    with Pool(1, cache_dir=cache, restart=RestartPolicy(intensity=1)) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        for number in range(60):
            lost = pool.submit(spin)
            lose(pool, lost)
            error = lost.exception(0)
            assert isinstance(error, WorkerLost)
            assert error.certificate.phase == "busy"
            assert error.certificate.modules == (pool.load(LOOP).sha256,)
            if number % 20 == 0:
                assert add(number, 1) == number + 1
        assert add(1, 2) == 3


def test_a_worker_lost_during_a_call_takes_no_other_call_along(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        for _ in range(50):
            add(1, 2)  # quick calls let others wait behind them
        lost = pool.submit(spin)
        others = [pool.submit(add, n, 1) for n in range(100)]
        lose(pool, lost)
        assert isinstance(lost.exception(0), WorkerLost)
        assert [other.result(PATIENCE) for other in others] == list(range(1, 101))
        assert {other.receipt.attempts for other in others} == {1}


def test_a_call_sent_to_a_worker_that_dies_before_it_begins_goes_to_another(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        add(1, 2)
        (pid,) = pids(pool, "idle")
        os.kill(pid, signal.SIGSTOP)
        waiting = pool.submit(add, 1, 2)
        time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        assert waiting.result(PATIENCE) == 3
        assert waiting.receipt.attempts == 1


def test_a_frozen_worker_is_killed_at_the_deadline_of_its_call(cache: Path) -> None:
    with Pool(1, cache_dir=cache, limits=Limits(wall_time=0.3)) as pool:
        add = pool.load(ADD)["add"]
        add(1, 2)
        os.kill(pids(pool, "idle")[0], signal.SIGSTOP)
        error = pool.submit(add, 1, 2).exception(PATIENCE)
        assert isinstance(error, DeadlineExceeded)
        assert error.certificate is None or error.certificate.cause == "deadline"
        assert add(2, 2) == 4


# --- giving up ------------------------------------------------------------------------------------


def test_idle_deaths_beyond_the_intensity_end_the_pool_with_certificates(cache: Path) -> None:
    events: list[Event] = []
    policy = RestartPolicy(intensity=3, period=60.0)
    with Pool(2, cache_dir=cache, restart=policy, on_event=events.append) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        running = pool.submit(spin)
        wait_for_a_call(pool)
        for count in range(1, 5):
            kill(pool, "idle")
            until(lambda: sum(isinstance(event, WorkerDied) for event in events) >= count)  # noqa: B023
        error = running.exception(PATIENCE)
        assert isinstance(error, RestartIntensityReached)
        assert [death.cause for death in error.certificates] == ["killed"] * 4
        assert {death.phase for death in error.certificates} == {"idle"}
        with pytest.raises(RestartIntensityReached) as later:
            add(1, 2)
        assert len(later.value.certificates) >= 4
        with pytest.raises(RestartIntensityReached):
            pool.load(guests.counter().encode())
    assert sum(isinstance(event, PoolFailed) for event in events) == 1


def test_calls_that_wait_learn_that_the_pool_gave_up(cache: Path) -> None:
    policy = RestartPolicy(intensity=0, period=60.0)
    with Pool(2, cache_dir=cache, restart=policy) as pool:
        spin = pool.load(LOOP)["spin"]
        first = pool.submit(spin)
        until(lambda: pids(pool, "busy") and pids(pool, "idle"))
        kill(pool, "idle")
        until(lambda: first.done())
        late = [first]
        with suppress(RestartIntensityReached):
            late += [pool.submit(spin) for _ in range(10)]
        errors = [future.exception(PATIENCE) for future in late]
        assert all(isinstance(error, RestartIntensityReached) for error in errors), errors
        assert len({id(error) for error in errors}) == len(errors)


def test_forgiven_idle_deaths_are_forgotten(cache: Path) -> None:
    policy = RestartPolicy(intensity=1, period=0.2)
    with Pool(1, cache_dir=cache, restart=policy) as pool:
        add = pool.load(ADD)["add"]
        for _ in range(4):
            dead = kill(pool, "idle")
            until(lambda: dead not in [worker.pid for worker in pool.workers()])  # noqa: B023
            time.sleep(0.5)  # from when it is known
            assert add(1, 2) == 3


def test_a_zygote_that_cannot_start_is_an_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> object:
        raise OSError("no more processes")

    monkeypatch.setattr(spawn, "start_zygote", refuse)
    with pytest.raises(PoolError, match="no more processes"):
        Pool(1, cache_dir=cache)


def test_a_zygote_that_dies_at_its_start_is_an_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasm_sandbox.supervisor.spawn import start_zygote as start

    def start_and_kill() -> object:
        launched, channel = start()
        os.kill(launched.pid, signal.SIGKILL)
        return launched, channel

    monkeypatch.setattr(spawn, "start_zygote", start_and_kill)
    with pytest.raises(PoolError, match="zygote"):
        Pool(1, cache_dir=cache)


def test_a_zygote_that_cannot_be_launched_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(PoolError, match="no more processes"):
        Pool(1, cache_dir=cache)


def test_a_zygote_that_cannot_start_again_fails_all_calls(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> object:
        raise OSError("no more processes")

    from leftovers import descendants

    with Pool(1, cache_dir=cache, restart=RestartPolicy(intensity=2)) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        monkeypatch.setattr(spawn, "start_zygote", refuse)
        running = pool.submit(spin)
        until(lambda: pids(pool, "busy"))
        waiting = pool.submit(spin)
        (zygote,) = (pid for pid, name in descendants().items() if name == "wasm-zygote")
        os.kill(zygote, signal.SIGKILL)
        assert isinstance(running.exception(PATIENCE), PoolError | WorkerLost)
        assert isinstance(waiting.exception(PATIENCE), PoolError)
        with pytest.raises(PoolError, match="no more processes"):
            add(1, 2)
        with pytest.raises(PoolError, match="no more processes"):
            pool.load(guests.counter().encode())


def test_a_pool_that_cannot_be_made_leaves_no_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was started first of all."""
    started: list[Any] = []
    start = spawn.start_zygote

    def note() -> Any:
        launched = start()
        started.append(launched[0])
        return launched

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(spawn, "start_zygote", note)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(PoolError):
        Pool(1)
    monkeypatch.setattr(Core, "__init__", refuse)
    with pytest.raises(RuntimeError):
        Pool(1)
    assert [process.child.returncode for process in started] == [-signal.SIGKILL] * 2


def test_a_pool_whose_cache_cannot_be_made_leaves_no_zygote(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cache_dir"):
        Pool(1, cache_dir=tmp_path / "file" / "cache")


# --- recycling, tenants ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_recycling_loses_no_call(cache: Path, workers: int) -> None:
    events: list[Event] = []
    with Pool(
        workers, cache_dir=cache, recycle=Recycle(max_calls=10), on_event=events.append
    ) as pool:
        add = pool.load(ADD)["add"]
        assert list(pool.map(add, range(500), range(500))) == [2 * n for n in range(500)]
    recycled = [
        event.certificate
        for event in events
        if isinstance(event, WorkerDied) and event.certificate.cause == "recycled"
    ]
    assert recycled
    assert sum(death.calls for death in recycled) <= 500


def test_recycling_by_age_loses_no_call(cache: Path) -> None:
    with Pool(2, cache_dir=cache, recycle=Recycle(max_age=0.01)) as pool:
        add = pool.load(ADD)["add"]
        assert list(pool.map(add, range(200), range(200))) == [2 * n for n in range(200)]


def test_three_tenants_on_one_worker_all_make_progress(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        work = pool.load(WORK)["work"]
        over = threading.Event()
        done = {"one": 0, "two": 0, "three": 0}

        def tenant(name: str) -> None:
            mine = work.options(tenant=name)
            while not over.is_set():
                batch = [pool.submit(mine, 100_000) for _ in range(10)]
                done[name] += sum(future.result(PATIENCE) == 100_000 for future in batch)

        threads = [threading.Thread(target=tenant, args=(name,)) for name in done]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + PATIENCE
        while min(done.values()) < 30 and time.monotonic() < deadline:
            time.sleep(0.01)
        over.set()
        for thread in threads:
            thread.join()
    assert min(done.values()) >= 30, done


def test_a_tenant_that_floods_does_not_starve_another(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        work = pool.load(WORK)["work"]
        flood = [pool.submit(work.options(tenant="loud"), 2_000_000) for _ in range(2_000)]
        quiet = pool.submit(work.options(tenant="quiet"), 10)
        over: list[bool] = []
        quiet.add_done_callback(lambda _: over.append(flood[-1].done()))
        assert quiet.result(PATIENCE) == 10
        until(lambda: over)
        assert over == [False]
        for future in flood:
            future.cancel()


# --- retries, timeouts, cancelling ----------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_call_is_begun_again_after_a_loss_as_often_as_was_allowed(
    cache: Path, retries: int
) -> None:
    with Pool(1, cache_dir=cache) as pool:
        lost = pool.submit(pool.load(LOOP)["spin"].options(retries=retries))
        lose(pool, lost)
        assert isinstance(lost.exception(0), WorkerLost)
        assert lost.receipt.attempts == retries + 1
        assert pool.load(ADD)["add"](1, 2) == 3


def test_a_retried_call_returns_once(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        work = pool.load(WORK)["work"].options(retries=5)
        calls: list[object] = []
        future = pool.submit(work, 300_000_000)
        future.add_done_callback(calls.append)
        while not future.done():
            if pid := pool.thread.run(begun):
                os.kill(pid, signal.SIGKILL)
                break
        assert future.result(PATIENCE) == 300_000_000
        assert future.receipt.attempts in (1, 2)  # 1 where the kill came too late
        assert calls == [future]


def test_a_timeout_counts_while_a_call_waits(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        running = pool.submit(spin)
        until(lambda: pids(pool, "busy"))
        error = pool.submit(add.options(timeout=0.1), 1, 2).exception(PATIENCE)
        assert isinstance(error, DeadlineExceeded)
        assert error.limit == "timeout"
        assert error.receipt is not None
        assert error.receipt.attempts == 0
        assert not running.done()
        running.cancel()
        assert add(1, 2) == 3


def test_a_timeout_stops_a_call_that_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE", 15.0)  # however busy the machine is
    with Pool(1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        add(1, 2)
        before = pids(pool, "idle")
        error = pool.submit(pool.load(LOOP)["spin"].options(timeout=0.1)).exception(PATIENCE)
        assert isinstance(error, DeadlineExceeded)
        assert error.limit == "timeout"
        assert add(1, 2) == 3
        assert pids(pool, "idle") == before, "a guest that can be interrupted costs no worker"


def test_a_call_can_be_cancelled_in_the_queue_in_its_run_and_not_after(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        running, queued = pool.submit(spin), pool.submit(add, 1, 2)
        until(lambda: pids(pool, "busy"))
        assert queued.cancel()
        assert running.cancel()
        wait([running, queued], PATIENCE)
        for future in (running, queued):
            assert future.cancelled()
            with pytest.raises(CancelledError):
                future.result(0)
        finished = pool.submit(add, 1, 2)
        assert finished.result(PATIENCE) == 3
        assert not finished.cancel()
        assert finished.result(0) == 3
        assert queued.receipt.attempts == 0


def test_calls_cancelled_behind_a_frozen_worker_are_over_at_once(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        for _ in range(50):
            add(1, 2)
        os.kill(pids(pool, "idle")[0], signal.SIGSTOP)
        futures = [pool.submit(add, n, 1) for n in range(30)]
        until(lambda: pids(pool, "busy"))
        assert all(future.cancel() for future in futures)
        assert add(1, 2) == 3


def test_workers_killed_while_calls_are_cancelled_leave_no_call_without_outcome(
    cache: Path,
) -> None:
    with Pool(2, cache_dir=cache, restart=RestartPolicy(intensity=1_000_000)) as pool:
        work = pool.load(WORK)["work"]
        futures: list[CallFuture] = []
        for _ in range(20):
            futures = [pool.submit(work, 1_000_000) for _ in range(40)]
            for future in futures[::3]:
                future.cancel()
            with suppress(ProcessLookupError):
                for worker in pool.workers():
                    if worker.pid:
                        os.kill(worker.pid, signal.SIGKILL)
            for future in futures:
                with suppress(SandboxError, CancelledError):
                    assert future.result(PATIENCE) == 1_000_000
        assert wait(futures, PATIENCE).not_done == set()
