"""Spare workers: one of the same profile takes the place of a worker that serves no more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import guests
import pytest
from cores import wait_for_a_call
from leftovers import nothing_left
from native import workers_without

from wasm_sandbox import (
    ConfigurationError,
    Isolation,
    Pool,
    Recycle,
    RestartIntensityReached,
    RestartPolicy,
    WorkerLost,
)
from wasm_sandbox.supervisor import seats
from wasm_sandbox.supervisor.options import WorkerSnapshot

ADD, LOOP = guests.add().encode(), guests.loop().encode()
PATIENCE = 60.0


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


def idle(pool: Pool, *, spare: bool) -> list[WorkerSnapshot]:
    return [w for w in pool.workers() if w.phase == "idle" and w.spare is spare]


def complete(pool: Pool, workers: int, spares: int) -> None:
    """Wait until all are up."""
    until(lambda: (len(idle(pool, spare=False)), len(idle(pool, spare=True))) == (workers, spares))


def kill(worker: WorkerSnapshot) -> None:
    if worker.pid:  # else it is not there yet
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.parametrize(("workers", "spares"), [(1, 1), (2, 1), (1, 2)])
def test_a_spare_serves_instead_of_a_killed_worker_and_another_takes_its_place(
    cache: Path, workers: int, spares: int
) -> None:
    with Pool(workers, spares=spares, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        for _ in range(4):
            complete(pool, workers, spares)
            reserve = {worker.number for worker in idle(pool, spare=True)}
            kill(idle(pool, spare=False)[0])
            until(lambda: reserve & {w.number for w in idle(pool, spare=False)})  # noqa: B023
            assert add(1, 2) == 3
        complete(pool, workers, spares)


def test_a_running_call_that_loses_its_worker_fails_alone(cache: Path) -> None:
    with Pool(1, spares=1, cache_dir=cache) as pool:
        spin, add = pool.load(LOOP)["spin"], pool.load(ADD)["add"]
        complete(pool, 1, 1)
        (reserve,) = idle(pool, spare=True)
        lost, waiting = pool.submit(spin), pool.submit(add, 1, 2)
        os.kill(wait_for_a_call(pool), signal.SIGKILL)
        assert waiting.result(PATIENCE) == 3
        assert waiting.receipt.worker == reserve.number
        assert isinstance(lost.exception(PATIENCE), WorkerLost)


def test_a_spare_serves_nobody_while_all_workers_live(cache: Path) -> None:
    with Pool(1, spares=1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        complete(pool, 1, 1)
        (worker,) = idle(pool, spare=False)
        futures = [pool.submit(add, number, 1) for number in range(200)]
        assert [future.result() for future in futures] == list(range(1, 201))
        assert {future.receipt.worker for future in futures} == {worker.number}


def test_there_are_never_more_workers_and_spares_than_were_asked_for(cache: Path) -> None:
    with Pool(2, spares=1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        for number in range(60):
            seen = pool.workers()
            assert sum(worker.spare for worker in seen) <= 1
            assert sum(not worker.spare for worker in seen) <= 2
            if number % 10 == 0 and seen:
                kill(seen[0])
            assert add(number, 1) == number + 1


def test_recycling_goes_over_to_the_spare(cache: Path) -> None:
    with Pool(1, spares=1, recycle=Recycle(max_calls=1), cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        served: set[int | None] = set()
        for number in range(8):
            complete(pool, 1, 1)
            (reserve,) = idle(pool, spare=True)
            _, receipt = add.detailed(number, 1)
            assert receipt.worker not in served
            served.add(receipt.worker)
            until(lambda: reserve.number in {w.number for w in idle(pool, spare=False)})  # noqa: B023


def test_no_spare_is_for_two_tenants(cache: Path) -> None:
    with Pool(2, spares=1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        of: dict[int | None, object] = {}
        for turn in range(30):
            tenant = ("a", "b", None)[turn % 3]
            value, receipt = add.options(tenant=tenant).detailed(turn, 1)
            assert value == turn + 1
            assert of.setdefault(receipt.worker, tenant) == tenant
            for worker in pool.workers():
                assert of.setdefault(worker.number, worker.tenant) == worker.tenant
            if turn % 7 == 0:
                kill(pool.workers()[0])


def test_a_spare_follows_the_profiles_that_are_served(cache: Path) -> None:
    with Pool(1, spares=1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        complete(pool, 1, 1)
        for tenant in ("a", "b"):
            assert add.options(tenant=tenant)(1, 2) == 3
            until(lambda: [w.tenant for w in idle(pool, spare=True)] == [tenant])  # noqa: B023


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.005, 0.01, 0.03])
@pytest.mark.parametrize("cancel", [False, True])
def test_a_pool_that_is_closed_while_a_spare_starts_leaves_nothing(
    cache: Path, delay: float, cancel: bool
) -> None:
    pool = Pool(1, spares=2, cache_dir=cache)
    add = pool.load(ADD)["add"]
    future = pool.submit(add, 1, 2)
    kill(pool.workers()[0])
    time.sleep(delay)
    pool.shutdown(cancel_futures=cancel)
    assert future.done()


def test_deaths_count_whether_a_spare_was_there_or_not(cache: Path) -> None:
    policy = RestartPolicy(intensity=2, period=60.0)
    with Pool(1, spares=1, restart=policy, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        for spare in (False, True, True):  # a worker's death, and two spares'
            complete(pool, 1, 1)
            (victim,) = idle(pool, spare=spare)
            kill(victim)
            until(lambda: all(w.number != victim.number for w in idle(pool, spare=spare)))  # noqa: B023

        with pytest.raises(RestartIntensityReached) as caught:
            until(lambda: pool.submit(add, 1, 2).exception() and add(1, 2))
        assert caught.value.certificates


def test_a_spare_without_a_wall_that_was_insisted_on_is_not_used(cache: Path) -> None:
    """Nor does the pool end, or its worker, because no spare can be had."""
    required = Isolation(require={"no_new_privs"})
    with (
        workers_without("no_new_privs", after=2),
        Pool(1, spares=1, isolation=required, cache_dir=cache) as pool,
    ):
        complete(pool, 1, 1)
        (worker,) = idle(pool, spare=False)
        kill(idle(pool, spare=True)[0])
        until(lambda: not idle(pool, spare=True))
        add = pool.load(ADD)["add"]
        for number in range(100):
            assert add.detailed(number, 1)[1].worker == worker.number
            assert not idle(pool, spare=True)


def test_more_workers_than_may_start_at_a_time_all_start(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "STARTING", 1)
    with Pool(3, spares=2, cache_dir=cache) as pool:
        complete(pool, 3, 2)


@pytest.mark.parametrize("spares", [-1, 1025, 1.5, "1", True])
def test_what_is_no_number_of_spares_is_refused(spares: object) -> None:
    with pytest.raises(ConfigurationError, match="spares"):
        Pool(1, spares=spares)  # type: ignore[arg-type]
