"""Workers that die under a batch: only the guilty record fails."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from batch_guests import LONG, PURE, STATE, each_mode, turns_in, until
from leftovers import nothing_left

from wasm_sandbox import (
    Crashed,
    Limits,
    ModuleQuarantined,
    Pool,
    Quarantine,
    SandboxError,
    WorkerLost,
)
from wasm_sandbox.protocol.events import Event, WorkerDied


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def busy(pool: Pool) -> list[int]:
    return [worker.pid for worker in pool.workers() if worker.pid and worker.phase == "busy"]


def at_work(pool: Pool, seconds: float = 0.05) -> int:
    """Wait until the one worker has spent processor time on its batch; its pid."""
    used: list[float] = []

    def look() -> bool:
        (worker,) = pool.workers()
        if worker.phase == "busy":
            used.append(worker.cpu_time or 0.0)
        return bool(used) and used[-1] - used[0] > seconds

    until(look)
    return busy(pool)[0]


@contextmanager
def killing_what_is_busy_for(
    seconds: float, pool: Pool, by: signal.Signals = signal.SIGKILL
) -> Iterator[list[int]]:
    """Meanwhile, whoever spends more processor time than that on something is killed: who was."""
    over = threading.Event()
    killed: list[int] = []

    def watch() -> None:
        since: dict[int, float] = {}
        while not over.wait(0.01):
            used = {
                worker.pid: worker.cpu_time or 0.0
                for worker in pool.workers()
                if worker.pid and worker.phase == "busy"
            }
            since = {pid: since.get(pid, now) for pid, now in used.items()}
            for pid, start in since.items():
                if used[pid] - start > seconds and pid not in killed:
                    killed.append(pid)
                    os.kill(pid, by)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("source", [PURE, STATE], ids=["shared", "fresh"])
def test_a_guilty_record_takes_no_other_along(cache: Path, source: str) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        spin = pool.load(source.encode())["spin"]
        got: list[int] = []
        with killing_what_is_busy_for(0.3, pool) as killed, pytest.raises(WorkerLost) as caught:
            got.extend(pool.map(spin, [*range(100), LONG, 5], chunksize=102))
        assert got == list(range(100))
        assert caught.value.certificate.pid == killed[-1]
        # 102 are halved to one by 7 deaths, which the first one comes before.
        assert len(killed) == (1 if source is STATE else 8)
        until(lambda: "0 calls" in repr(pool))
        assert spin(3) == 3


def test_the_search_for_a_guilty_record_brings_no_module_into_quarantine(cache: Path) -> None:
    quarantine, events = Quarantine(crashes=3), list[Event]()
    with Pool(1, cache_dir=cache, quarantine=quarantine, on_event=events.append) as pool:
        spin = pool.load(PURE.encode())["spin"]
        with (
            killing_what_is_busy_for(0.3, pool, signal.SIGABRT) as killed,
            pytest.raises(Crashed) as caught,
        ):
            list(pool.map(spin, [1, 1, 1, LONG, 1, 1, 1, 1], chunksize=8))
        assert caught.value.certificate.pid == killed[-1]
        died = [event.certificate for event in events if isinstance(event, WorkerDied)]
        assert [certificate.cause for certificate in died] == ["crashed"] * 4
        assert spin(3) == 3
        # The first of these deaths and the last one count: one more is too many.
        with (
            killing_what_is_busy_for(0.3, pool, signal.SIGABRT),
            pytest.raises((Crashed, ModuleQuarantined)),
        ):
            spin(LONG)
        with pytest.raises(ModuleQuarantined):
            spin(3)


def test_a_search_retries_the_guilty_record_alone(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(PURE.encode())["spin"].options(retries=1)
        with killing_what_is_busy_for(0.3, pool) as killed, pytest.raises(WorkerLost):
            list(pool.map(spin, [1, 1, 1, LONG], chunksize=4))
        assert len(killed) == 2 + 1 + 2


def test_retries_begin_a_guilty_batch_again(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"].options(retries=1)
        with killing_what_is_busy_for(0.3, pool) as killed, pytest.raises(WorkerLost):
            list(pool.map(spin, [1, LONG, 1], chunksize=3))
        assert len(killed) == 2


def test_per_batch_records_that_were_begun_are_not_begun_again(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"].options(instance="per-batch")
        got: list[int] = []
        with killing_what_is_busy_for(0.3, pool) as killed, pytest.raises(WorkerLost):
            got.extend(pool.map(spin, [1, 2, 3, LONG, 5], chunksize=5))
        # Which of them were begun together depends on how long the first ones took.
        assert got == [1, 2, 3][: len(got)]
        assert len(got) >= 1
        assert len(killed) == 1


@pytest.mark.parametrize("source", [PURE, STATE], ids=["shared", "fresh"])
def test_an_innocent_batch_survives_its_worker(cache: Path, source: str) -> None:
    events: list[Event] = []
    with nothing_left(), Pool(1, cache_dir=cache, on_event=events.append) as pool:
        turns = turns_in(pool, 0.02)
        spin = pool.load(source.encode())["spin"].options(retries=1)
        values = pool.map(spin, [turns] * 60, chunksize=60)
        os.kill(at_work(pool), signal.SIGKILL)
        assert list(values) == [turns] * 60
    assert sum(isinstance(event, WorkerDied) for event in events) >= 2


@each_mode
def test_a_frozen_worker_costs_no_record(cache: Path, source: str, instance: str) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        turns = turns_in(pool, 0.02)
        spin = pool.load(source.encode())["spin"].options(
            limits=Limits(wall_time=1.5), instance=instance
        )
        values = pool.map(spin, [turns] * 60, chunksize=60)
        # Then the first record, which has all of the time, is over.
        os.kill(at_work(pool, 0.1), signal.SIGSTOP)
        assert list(values) == [turns] * 60


def test_shutting_down_in_the_middle_finishes_what_was_begun(cache: Path) -> None:
    with nothing_left():
        pool = Pool(1, cache_dir=cache)
        turns = turns_in(pool, 0.01)
        values = pool.map(pool.load(STATE.encode())["spin"], [turns] * 100, chunksize=5)
        pool.shutdown()
        got: list[int] = []
        with pytest.raises(SandboxError, match="shut down"):
            got.extend(values)
        assert got == [turns] * len(got)
        assert 5 <= len(got) < 100


@each_mode
def test_a_map_under_fire_is_as_in_peace(cache: Path, source: str, instance: str) -> None:
    numbers, over = [n % 50 + 1 for n in range(20_000)], threading.Event()
    with nothing_left(), Pool(2, cache_dir=cache, quarantine=None) as pool:
        spin = pool.load(source.encode())["spin"].options(retries=100, instance=instance)
        killed = 0

        def shoot() -> None:
            nonlocal killed
            while killed < 50 and not over.wait(0.1):  # fewer than there are retries
                for pid in busy(pool)[:1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1

        thread = threading.Thread(target=shoot)
        thread.start()
        try:
            while killed < 5:
                assert list(pool.map(spin, numbers)) == numbers
        finally:
            over.set()
            thread.join()
