"""When the worker of an instance dies: no call is lost, none is run twice, and its policy says what
follows, as in OTP."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import actor_guests
import pytest
from actor_guests import wait_for_spin
from leftovers import nothing_left

from wasm_sandbox import (
    DeathCertificate,
    GuestExit,
    Instance,
    InstanceClosed,
    Pool,
    RestartIntensityReached,
    RestartPolicy,
    WorkerLost,
)
from wasm_sandbox.protocol.events import Event, InstanceEnded, InstanceRestarted, InstanceStarted

pytestmark = pytest.mark.usefixtures("patience")

COUNTER = actor_guests.COUNTER.encode()
PATIENCE = 60.0
"""Seconds after which something counts as forgotten."""
MANY = RestartPolicy(intensity=1000)


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


def kill(instance: Instance) -> int:
    """Kill its worker, and wait until that is known; the number of the dead one."""
    until(lambda: instance.usage().pid)
    usage = instance.usage()
    assert usage.pid
    os.kill(usage.pid, signal.SIGKILL)
    until(lambda: instance.usage().worker != usage.worker)
    return usage.worker or 0


def kill_now(instance: Instance) -> None:
    """Kill its worker."""
    pid = instance.usage().pid
    assert pid
    os.kill(pid, signal.SIGKILL)


def open_counter(pool: Pool, **settings: Any) -> Instance:
    return pool.instance(pool.load(COUNTER), **settings)


# --- calls ----------------------------------------------------------------------------------------


def test_the_running_call_is_lost_and_those_that_wait_are_served_by_the_next_worker(
    cache: Path,
) -> None:
    with Pool(1, cache_dir=cache) as pool, open_counter(pool) as instance:
        running = instance.submit("spin")
        waiting = [instance.submit("increment") for _ in range(50)]
        wait_for_spin(instance)
        dead = kill(instance)
        error = running.exception(PATIENCE)
        assert isinstance(error, WorkerLost)
        assert (error.certificate.worker, error.certificate.cause) == (dead, "killed")
        assert error.certificate.phase == "busy"
        assert [future.result(PATIENCE) for future in waiting] == list(range(1, 51))
        assert {future.receipt.attempts for future in waiting} == {1}
        usage = instance.usage()
        assert (usage.restarts, usage.calls) == (1, 51)
        assert usage.timeline[-1].restarts == 1


def test_a_call_that_was_sent_and_not_begun_goes_to_the_next_worker(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool, open_counter(pool) as instance:
        assert instance.call("increment") == 1
        pid = instance.usage().pid
        assert pid
        os.kill(pid, signal.SIGSTOP)
        waiting = [instance.submit("increment") for _ in range(3)]
        time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        assert [future.result(PATIENCE) for future in waiting] == [1, 2, 3]


def test_a_storm_of_deaths_loses_no_call_and_repeats_none(cache: Path) -> None:
    """What a call did is in its result: each number comes once from each life of the instance."""
    lives: list[int] = []

    def rebuild(instance: Instance) -> None:
        lives.append(len(lives) + 1)
        assert instance.call("add", len(lives) * 10_000) == len(lives) * 10_000

    with (
        Pool(1, cache_dir=cache) as pool,
        open_counter(pool, policy=MANY, on_restart=rebuild) as instance,
    ):
        futures: list[Future[int]] = []

        def submit() -> None:
            for number in range(300):
                futures.append(instance.submit("increment"))
                if number % 50 == 0:
                    time.sleep(0.02)

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            pid = instance.usage().pid
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        lost = [future for future in futures if future.exception(PATIENCE) is not None]
        values = Counter(future.result() for future in futures if future not in lost)
    assert all(isinstance(future.exception(), WorkerLost) for future in lost)
    assert len(lost) <= 15
    assert len(values) == 600 - len(lost)
    for life in range(len(lives) + 1):
        served = sorted(value % 10_000 for value in values if value // 10_000 == life)
        # A life's last call may have been lost in the middle, and nothing else.
        assert served == list(range(1, len(served) + 1))


def test_waiting_calls_can_be_cancelled_and_time_out_between_two_workers(cache: Path) -> None:
    gate = threading.Event()

    def rebuild(_: Instance) -> None:
        gate.wait(PATIENCE)

    with Pool(1, cache_dir=cache) as pool, open_counter(pool, on_restart=rebuild) as instance:
        kill(instance)
        cancelled, late, served = (
            instance.submit("increment"),
            instance.submit("increment", timeout=0.05),
            instance.submit("increment"),
        )
        assert cancelled.cancel()
        assert isinstance(late.exception(PATIENCE), TimeoutError)
        assert not served.done()
        assert instance.usage().phase == "starting"
        gate.set()
        assert served.result(PATIENCE) == 1


# --- on_restart -----------------------------------------------------------------------------------


def test_the_state_is_rebuilt_before_those_that_wait_are_served(cache: Path) -> None:
    seen: list[int] = []

    def rebuild(instance: Instance) -> None:
        seen.append(instance.call("add", 1000))
        seen.append(instance.submit("increment").result())
        seen.append(instance.read_global("ratio") == 0.5)

    with (
        Pool(1, cache_dir=cache, max_pending=2) as pool,
        open_counter(pool, mailbox=1, on_restart=rebuild) as instance,
    ):
        assert instance.call("increment") == 1
        running = instance.submit("spin")
        wait_for_spin(instance)
        kill_now(instance)
        # The mailbox, and then the pool, is full; what rebuilds it does not wait for room.
        assert isinstance(running.exception(PATIENCE), WorkerLost)
        assert instance.call("increment") == 1002
        assert seen == [1000, 1001, True]


class Lost(Exception):
    """What the user's function raises; whoever prints it has to be careful."""

    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("how", ["raises", "exits", "dies", "leaves"])
def test_an_on_restart_that_fails_is_a_failed_restart_until_there_were_too_many(
    cache: Path, how: str
) -> None:
    runs: list[int] = []

    def rebuild(instance: Instance) -> None:
        runs.append(1)
        match how:
            case "raises":
                raise Lost
            case "exits":
                sys.exit(3)
            case "leaves":
                instance.call("leave", 0)
            case _:
                kill_now(instance)
                instance.call("increment")

    policy = RestartPolicy(intensity=3, period=60)
    with Pool(1, cache_dir=cache) as pool:
        instance = open_counter(pool, policy=policy, on_restart=rebuild)
        running = instance.submit("spin")
        waiting = [instance.submit("increment") for _ in range(3)]
        wait_for_spin(instance)
        kill_now(instance)
        assert isinstance(running.exception(PATIENCE), WorkerLost)
        errors = [future.exception(PATIENCE) for future in waiting]
        assert all(isinstance(error, RestartIntensityReached) for error in errors)
        assert len(set(map(id, errors))) == 3
        cause = {"raises": Lost, "exits": SystemExit, "dies": WorkerLost, "leaves": GuestExit}[how]
        assert all(isinstance(error.__cause__, cause) for error in errors if error)
        assert len(runs) == 3
        with pytest.raises(RestartIntensityReached, match="on_restart failed"):
            instance.call("increment")
        assert instance.usage().phase == "ended"


def test_calls_of_on_restart_go_first_only_while_it_runs(cache: Path) -> None:
    kept: list[Instance] = []
    with Pool(1, cache_dir=cache) as pool, open_counter(pool, on_restart=kept.append) as instance:
        kill(instance)
        until(lambda: instance.usage().phase == "idle")
        running, waiting = instance.submit("spin"), instance.submit("increment")
        late = kept[0].submit("increment")
        wait_for_spin(instance)
        running.cancel()
        assert (waiting.result(PATIENCE), late.result(PATIENCE)) == (201, 202)


# --- which deaths are followed by a restart -------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "how", "restarted"),
    [
        ("permanent", 0, True),
        ("permanent", 1, True),
        ("permanent", "killed", True),
        ("transient", 0, False),
        ("transient", 1, True),
        ("transient", "killed", True),
        ("temporary", 0, False),
        ("temporary", 1, False),
        ("temporary", "killed", False),
    ],
)
def test_the_restart_type_decides_as_in_otp(
    cache: Path, restart: Any, how: int | str, restarted: bool
) -> None:
    with Pool(1, cache_dir=cache) as pool:
        instance = open_counter(pool, restart=restart)
        assert instance.call("increment") == 1
        last = instance.submit("leave", how) if how != "killed" else instance.submit("spin")
        waiting = [instance.submit("increment") for _ in range(3)]
        if isinstance(how, int):
            error = last.exception(PATIENCE)
            assert isinstance(error, GuestExit)
            assert error.code == how
        else:
            wait_for_spin(instance)
            kill_now(instance)
            assert isinstance(last.exception(PATIENCE), WorkerLost)
        if restarted:
            assert [future.result(PATIENCE) for future in waiting] == [1, 2, 3]
            assert instance.usage().restarts == 1
            return
        for future in waiting:
            ended = future.exception(PATIENCE)
            assert isinstance(ended, InstanceClosed)
            assert ended.certificate is not None
            assert ended.certificate.cause == ("killed" if how == "killed" else "exited")
            assert future.receipt.attempts == 0
        with pytest.raises(InstanceClosed, match="its worker died"):
            instance.call("increment")
        instance.close()


def test_more_deaths_than_are_forgiven_end_it_with_their_certificates(cache: Path) -> None:
    events: list[Event] = []
    policy = RestartPolicy(intensity=2, period=60)
    with Pool(1, cache_dir=cache, on_event=events.append) as pool:
        instance = open_counter(pool, policy=policy)
        other = open_counter(pool)
        for _ in range(2):
            kill(instance)
            assert instance.submit("increment").result(PATIENCE) == 1
        running, waiting = instance.submit("spin"), instance.submit("increment")
        wait_for_spin(instance)
        kill_now(instance)
        assert isinstance(running.exception(PATIENCE), WorkerLost)
        error = waiting.exception(PATIENCE)
        assert isinstance(error, RestartIntensityReached)
        assert [each.cause for each in error.certificates] == ["killed"] * 3
        assert isinstance(error.__cause__, WorkerLost)
        with pytest.raises(RestartIntensityReached):
            instance.call("increment")
        assert other.call("increment") == 1  # nobody else is concerned
        assert pool.load(COUNTER)["increment"]() == 1
    kinds = [
        e for e in events if isinstance(e, InstanceStarted | InstanceRestarted | InstanceEnded)
    ]
    assert [type(e).__name__ for e in kinds if e.instance == instance.number] == [
        *("InstanceStarted", "InstanceRestarted", "InstanceRestarted", "InstanceEnded")
    ]
    assert {type(e) for e in kinds if e.instance == other.number} == {
        InstanceStarted,
        InstanceEnded,
    }


# --- links and monitors ---------------------------------------------------------------------------


def test_a_monitor_gets_each_certificate_until_it_is_cancelled(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool, open_counter(pool, policy=MANY) as instance:
        seen: list[DeathCertificate] = []

        def bad(_: DeathCertificate) -> None:
            raise SystemExit

        instance.monitor(bad)
        cancel = instance.monitor(seen.append)
        dead = [kill(instance) for _ in range(3) if instance.call("increment") == 1]
        until(lambda: len(seen) >= len(dead))
        assert [each.worker for each in seen] == dead
        assert {each.cause for each in seen} == {"killed"}
        cancel()
        cancel()
        kill(instance)
        assert len(seen) == 3
        assert instance.submit("increment").result(PATIENCE) == 1
        instance.monitor(seen.append)
    assert seen[-1].cause == "stopped"


def test_linked_instances_die_together_and_are_restarted_by_their_own_policies(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        first, second, third, other = (open_counter(pool) for _ in range(4))
        last = open_counter(pool, restart="temporary")
        deaths: list[tuple[int, str]] = []

        def note(number: int, certificate: DeathCertificate) -> None:
            deaths.append((number, certificate.cause))

        for instance in (first, second, third, other, last):
            instance.monitor(partial(note, instance.number))
            assert instance.call("increment") == 1
        for one, two in ((first, second), (second, third), (third, last), (third, first)):
            one.link(two)
        first.link(other)
        other.unlink(first)
        running, waiting = third.submit("spin"), third.submit("increment")
        wait_for_spin(third)
        kill(first)
        error = running.exception(PATIENCE)
        assert isinstance(error, WorkerLost)
        assert error.certificate.cause == "linked"
        assert waiting.result(PATIENCE) == 1
        assert [each.call("increment") for each in (first, second, third, other)] == [1, 1, 2, 2]
        with pytest.raises(InstanceClosed):
            last.call("increment")
        assert sorted(deaths) == [
            (first.number, "killed"),
            (second.number, "linked"),
            (third.number, "linked"),
            (last.number, "linked"),
        ]
        # The link holds between the next workers, too; and who leaves takes nobody along.
        kill(third)
        assert second.submit("increment").result(PATIENCE) == 1
        assert first.submit("increment").result(PATIENCE) == 1
        second.close()
        with pytest.raises(GuestExit):
            third.call("leave", 0)
        assert first.call("increment") == 2
        with pytest.raises(InstanceClosed):
            first.link(second)


# --- ends -----------------------------------------------------------------------------------------


def test_closing_between_two_workers_is_an_end_at_once(cache: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def rebuild(_: Instance) -> None:
        started.set()
        go_on.wait(PATIENCE)

    with Pool(1, cache_dir=cache) as pool:
        instance = open_counter(pool, on_restart=rebuild)
        kill(instance)
        waiting = instance.submit("increment")
        assert started.wait(PATIENCE)
        instance.close(cancel=True)
        assert waiting.done()
        go_on.set()


def test_shutting_down_finishes_calls_even_where_a_worker_dies_meanwhile(cache: Path) -> None:
    def rebuild(instance: Instance) -> None:
        assert instance.call("add", 1000) == 1000

    pool = Pool(1, cache_dir=cache)
    instance = open_counter(pool, on_restart=rebuild)
    running = instance.submit("spin")
    waiting = [instance.submit("increment") for _ in range(5)]
    wait_for_spin(instance)
    pid = instance.usage().pid
    assert pid
    pool.shutdown(wait=False)
    os.kill(pid, signal.SIGKILL)
    pool.shutdown()
    assert isinstance(running.exception(0), WorkerLost)
    assert [future.result(0) for future in waiting] == list(range(1001, 1006))
