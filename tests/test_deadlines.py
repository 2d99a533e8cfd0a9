"""Whatever a guest does with its time, the limit that it broke stops it, and nobody else."""

from __future__ import annotations

import gc
import math
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import guest_commands
import guests
import pytest
import trio
from cores import wait_for_a_call
from fakes import until
from trio.testing import MockClock

from wasm_sandbox import (
    CpuTimeExceeded,
    DeadlineExceeded,
    IdleTimeExceeded,
    LimitExceeded,
    Limits,
    MemoryLimitExceeded,
    Pool,
    Trap,
    open_pool,
)
from wasm_sandbox.function import Function
from wasm_sandbox.supervisor import watch
from wasm_sandbox.supervisor.holder import Holder

DEADLINE = 0.4
MARGIN = 20.0
"""Seconds beyond a deadline in which a guest must be stopped, on a machine that is shared."""
LARGE = Limits(memory=(4 << 30) + (16 << 20), wall_time=DEADLINE)
SPINS = guests.loop().encode()
ADD = guests.add().encode()
SLEEPS = guest_commands.sleeps().encode()

Prepare = Callable[[Pool, ExitStack], Function]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(2, cache_dir=cache) as pool:
        yield pool


@pytest.fixture
def narrow(cache: Path) -> Iterator[Pool]:
    """A pool with a single worker."""
    with Pool(1, cache_dir=cache) as pool:
        yield pool


def limited(function: Function, **limits: float) -> Function:
    """``function`` with the pool's limits, but for these."""
    return function.options(limits=Limits(**limits))  # type: ignore[arg-type]


def export(module: str, name: str) -> Prepare:
    """A function of a module in text."""
    return lambda pool, _: limited(pool.load(module.encode())[name], wall_time=DEADLINE)


def blocked(pool: Pool, stack: ExitStack) -> Function:
    """A command that reads from a pipe to which nobody writes."""
    for end in (ends := os.pipe()):
        stack.callback(os.close, end)
    main = pool.load(guest_commands.reads_stdin().encode()).main
    return limited(main.options(stdin=ends[0]), wall_time=DEADLINE)


def fills(pool: Pool, _: ExitStack) -> Function:
    """One instruction after the other that writes up to 4 GiB."""
    return pool.load(guests.fill_all().encode())["fill"].options(limits=LARGE)


INTERRUPTIBLE: dict[str, Prepare] = {
    "loop": export(guests.loop(), "spin"),
    "loop in a start function": export(guests.start_loops(), "run"),
    "loop in a command": export(guest_commands.command_loops(), "_start"),
    "host call storm": export(guest_commands.clock_storm(), "_start"),
}
"""What the engine can stop; the worker goes on."""
DEAF: dict[str, Prepare] = {
    "sleep for an hour": export(guest_commands.sleeps(), "_start"),
    "blocked input": blocked,
    "fill of 4 GiB": fills,
}
"""What only the end of the process can stop."""


# -- wall time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [*INTERRUPTIBLE, *DEAF])
def test_it_is_stopped_at_its_deadline_and_its_neighbours_go_on(pool: Pool, what: str) -> None:
    add = pool.load(ADD)["add"]
    with ExitStack() as stack:
        guest = (INTERRUPTIBLE | DEAF)[what](pool, stack)
        assert add(1, 2) == 3
        begun = time.monotonic()
        stuck = pool.submit(guest)
        served = 0
        while not stuck.done():
            assert add(served, 1) == served + 1
            served += 1
            time.sleep(0.01)
        elapsed = time.monotonic() - begun
    error = stuck.exception()
    assert type(error) is DeadlineExceeded
    assert (error.limit, error.allowed) == ("wall_time", DEADLINE)
    assert error.used is not None
    assert error.used >= DEADLINE
    assert DEADLINE <= elapsed < DEADLINE + MARGIN
    assert served > 1
    assert stuck.receipt is error.receipt
    assert (stuck.receipt.attempts, stuck.receipt.worker is not None) == (1, True)
    assert stuck.receipt.wall_time >= DEADLINE * 0.9
    if what in DEAF:
        assert error.certificate is not None
    if error.certificate is not None:
        certificate = error.certificate
        assert (certificate.cause, certificate.wall) == ("deadline", "supervisor")
        assert certificate.worker == stuck.receipt.worker
        assert certificate.signal == 9
    assert add(20, 22) == 42


def test_what_the_engine_can_stop_does_not_cost_the_worker(narrow: Pool) -> None:
    add, spin = narrow.load(ADD)["add"], narrow.load(SPINS)["spin"]
    add(1, 2)
    before = narrow.workers()[0].number
    errors = []
    for _ in range(3):
        with pytest.raises(DeadlineExceeded) as caught:
            limited(spin, wall_time=DEADLINE)()
        errors.append(caught.value)
    # A worker that a busy machine kept from answering was killed, and its certificate says so.
    assert errors[0].certificate is not None or errors[0].receipt is not None
    if all(error.certificate is None for error in errors):
        add(1, 2)
        assert narrow.workers()[0].number == before


def test_endless_recursion_is_a_trap(pool: Pool) -> None:
    with pytest.raises(Trap) as caught:
        limited(pool.load(guests.recursion().encode())["descend"], wall_time=20)()
    assert caught.value.code == "stack_overflow"
    assert caught.value.backtrace
    assert pool.load(ADD)["add"](1, 2) == 3


def test_a_deadline_is_a_timeout_error(pool: Pool) -> None:
    with pytest.raises(TimeoutError):
        limited(pool.load(SPINS)["spin"], wall_time=0.05)()


def test_a_module_of_4_gib_is_refused_where_the_limit_is_less(pool: Pool) -> None:
    with pytest.raises(MemoryLimitExceeded) as caught:
        pool.load(guests.huge_minimum_memory().encode())["run"]()
    assert caught.value.limit == "memory"


# -- options(timeout=) ----------------------------------------------------------------------------


def test_a_timeout_counts_in_the_queue(narrow: Pool) -> None:
    spin, add = narrow.load(SPINS)["spin"], narrow.load(ADD)["add"]
    add(1, 2)
    holder = narrow.submit(limited(spin, wall_time=60))
    wait_for_a_call(narrow)
    waiting = narrow.submit(add.options(timeout=DEADLINE), 1, 2)
    error = waiting.exception(timeout=DEADLINE + MARGIN)
    assert type(error) is DeadlineExceeded
    assert (error.limit, error.allowed, error.certificate) == ("timeout", DEADLINE, None)
    assert (waiting.receipt.attempts, waiting.receipt.cpu_time) == (0, 0.0)
    assert holder.cancel()
    assert add(1, 2) == 3


@pytest.mark.parametrize("module", [SPINS, SLEEPS], ids=["spins", "sleeps"])
def test_a_timeout_stops_what_runs(narrow: Pool, module: bytes) -> None:
    function = next(iter(narrow.load(module)))
    guest = narrow.load(module)[function].options(timeout=DEADLINE)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        guest()
    assert time.monotonic() - begun < DEADLINE + MARGIN
    assert caught.value.limit == "timeout"
    assert caught.value.receipt is not None
    assert caught.value.receipt.attempts == 1
    assert narrow.load(ADD)["add"](1, 2) == 3


# -- processor time and idleness ------------------------------------------------------------------


def test_a_spinner_breaks_cpu_time_long_before_wall_time(pool: Pool) -> None:
    begun = time.monotonic()
    with pytest.raises(CpuTimeExceeded) as caught:
        limited(pool.load(SPINS)["spin"], cpu_time=0.2, wall_time=30)()
    error = caught.value
    assert (error.limit, error.allowed) == ("cpu_time", 0.2)
    assert error.used is not None
    assert error.used >= 0.2
    assert time.monotonic() - begun < 20
    if error.certificate is not None:
        assert error.certificate.cause == "cpu_time"
    assert pool.load(ADD)["add"](1, 2) == 3


def test_a_sleeper_uses_no_cpu_time(pool: Pool) -> None:
    main = pool.load(guest_commands.sleeps(1).encode()).main
    completed, receipt = limited(main, cpu_time=0.2, wall_time=30).detailed()
    assert completed.exit_code == 7
    assert receipt.wall_time >= 0.9
    assert receipt.cpu_time < 0.2


def test_calls_in_a_row_do_not_share_their_cpu_time(narrow: Pool) -> None:
    work = limited(narrow.load(guests.work().encode())["work"], cpu_time=1.0)
    receipts = []
    for _ in range(30):
        value, receipt = work.detailed(50_000_000)
        assert value == 50_000_000
        receipts.append(receipt)
    assert sum(receipt.cpu_time for receipt in receipts) > 0
    assert all(receipt.cpu_time < 1.0 for receipt in receipts)


@pytest.mark.parametrize("what", ["sleep for an hour", "blocked input"])
def test_what_waits_too_long_breaks_idle_time(pool: Pool, what: str) -> None:
    with ExitStack() as stack:
        guest = limited(DEAF[what](pool, stack), idle_time=0.3, wall_time=30)
        begun = time.monotonic()
        with pytest.raises(IdleTimeExceeded) as caught:
            guest()
    assert time.monotonic() - begun < 0.3 + MARGIN
    error = caught.value
    assert (error.limit, error.allowed) == ("idle_time", 0.3)
    assert error.certificate is not None
    assert error.certificate.cause == "idle_time"
    assert pool.load(ADD)["add"](1, 2) == 3


def test_what_works_is_not_idle(pool: Pool) -> None:
    with pytest.raises(LimitExceeded) as caught:
        limited(pool.load(SPINS)["spin"], idle_time=0.3, wall_time=1.0)()
    assert type(caught.value) is DeadlineExceeded


# -- cancellation ---------------------------------------------------------------------------------


def test_a_queued_call_can_be_cancelled(narrow: Pool) -> None:
    spin, add = narrow.load(SPINS)["spin"], narrow.load(ADD)["add"]
    holder = narrow.submit(spin)
    time.sleep(0.1)
    waiting = [narrow.submit(add, 1, 2) for _ in range(5)]
    assert all(future.cancel() for future in waiting)
    assert all(future.cancelled() for future in waiting)
    assert holder.cancel()
    assert add(1, 2) == 3


@pytest.mark.parametrize("what", [*INTERRUPTIBLE, "sleep for an hour", "blocked input"])
@pytest.mark.parametrize("after", [0.0, 0.001, 0.2])
def test_a_call_can_be_cancelled_at_any_moment(narrow: Pool, what: str, after: float) -> None:
    add = narrow.load(ADD)["add"]
    with ExitStack() as stack:
        guest = limited((INTERRUPTIBLE | DEAF)[what](narrow, stack), wall_time=60)
        future = narrow.submit(guest)
        time.sleep(after)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result()
        assert narrow.submit(add, 1, 2).result(timeout=MARGIN) == 3


def test_a_call_that_is_over_cannot_be_cancelled(narrow: Pool) -> None:
    future = narrow.submit(narrow.load(ADD)["add"], 1, 2)
    assert future.result() == 3
    assert not future.cancel()
    assert future.result() == 3


@pytest.mark.parametrize("what", [*INTERRUPTIBLE, "sleep for an hour"])
@pytest.mark.parametrize("after", [0.0, 0.001, 0.2])
def test_leaving_a_scope_stops_the_guest(cache: Path, what: str, after: float) -> None:
    async def main() -> None:
        async with open_pool(1, cache_dir=cache) as pool:
            sources: dict[str, tuple[str, str]] = {
                "loop": (guests.loop(), "spin"),
                "loop in a start function": (guests.start_loops(), "run"),
                "loop in a command": (guest_commands.command_loops(), "_start"),
                "host call storm": (guest_commands.clock_storm(), "_start"),
                "sleep for an hour": (guest_commands.sleeps(), "_start"),
            }
            text, name = sources[what]
            guest = (await pool.load(text.encode()))[name]
            add = (await pool.load(ADD))["add"]
            assert await pool.call(add, 1, 2) == 3
            with trio.fail_after(MARGIN + after):
                with trio.move_on_after(after) as scope:
                    await pool.call(guest)
                assert scope.cancelled_caught
                assert all(worker.waiting == 0 for worker in pool.workers())
            assert await pool.call(add, 1, 2) == 3

    trio.run(main)


def test_stopping_one_call_never_hits_another(pool: Pool) -> None:
    work = pool.load(guests.work().encode())["work"]
    choose = random.Random(7)
    futures: list[tuple[int, Any, bool]] = []
    for number in range(1000):
        size = choose.choice((1, 100, 10_000, 300_000))
        futures.append((size + number, pool.submit(work, size + number), choose.random() < 0.4))
        if choose.random() < 0.5:
            _, victim, doomed = choose.choice(futures)
            if doomed:
                victim.cancel()
    for _, future, doomed in futures:
        if doomed:
            future.cancel()
    for expected, future, doomed in futures:
        if doomed and future.cancelled():
            continue
        assert future.result() == expected


def test_timeouts_of_some_calls_never_hit_another(pool: Pool) -> None:
    work, spin = pool.load(guests.work().encode())["work"], pool.load(SPINS)["spin"]
    doomed = [pool.submit(spin.options(timeout=0.01 + 0.01 * (n % 5))) for n in range(20)]
    others = [pool.submit(work, 1000 + n) for n in range(500)]
    assert [future.result() for future in others] == [1000 + n for n in range(500)]
    assert {type(future.exception()) for future in doomed} == {DeadlineExceeded}


def test_nothing_of_a_call_that_has_ended_is_kept_until_its_deadline(pool: Pool) -> None:
    add = pool.load(ADD)["add"].options(timeout=3600.0)
    with pool.instance(add.module) as instance:
        futures = [pool.submit(add, 1, 2), instance.submit("add", 1, 2, timeout=3600.0)]
        assert [future.result() for future in futures] == [3, 3]
        kept = [weakref.ref(future) for future in futures]
        del futures
        until(lambda: gc.collect() >= 0 and not any(future() for future in kept))


# -- processor time, without processes ------------------------------------------------------------


class Burner:
    """What a ``Watch`` needs of a worker, whose call keeps several processors busy."""

    def __init__(self, threads: int, limits: Limits) -> None:
        self.pid = 1
        self.threads = threads
        self.head = SimpleNamespace(stop=None, request=SimpleNamespace(limits=limits))
        self.records = [self.head]
        self.conversation = SimpleNamespace(recalls=())
        self.last_held = -math.inf
        self.dead = False
        self.wires = SimpleNamespace(channel=-1)
        self.stopped: list[float] = []
        self.killed: list[float] = []

    def begun_clock(self) -> float:
        return 0.0

    def settle(self) -> None:
        """Nothing is lent here."""

    def interrupt(self, _record: object) -> None:
        self.stopped.append(trio.current_time())

    def kill(self, _verdict: object) -> None:
        self.killed.append(trio.current_time())
        self.dead = True


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_all_threads_together_have_cpu_time_and_no_more(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is up at the moment at which it is, however many use it."""

    async def main() -> None:
        begun = trio.current_time()
        it = Burner(threads, Limits(cpu_time=8.0, wall_time=1000))
        monkeypatch.setattr(watch, "PROCESSORS", 16)
        monkeypatch.setattr(
            watch, "processor_clock", lambda _pid: (trio.current_time() - begun) * threads
        )
        guard = watch.Watch(cast("Holder", it))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.run)
            guard.new_head(begun)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        assert it.stopped[0] - begun == pytest.approx(8.0 / threads, abs=0.002)
        assert isinstance(it.head.stop, CpuTimeExceeded)

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- no answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sleep for an hour", "blocked input"])
def test_a_blocked_guest_is_not_given_time_to_answer(
    pool: Pool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GRACE", 600.0)
    with ExitStack() as stack:
        stuck = pool.submit(DEAF[what](pool, stack))
        assert type(stuck.exception(60)) is DeadlineExceeded


@pytest.mark.parametrize(
    ("asleep", "runs", "has_said", "after"),
    [
        (True, False, False, 2 * watch.LOOK),
        (False, False, False, watch.GRACE),  # it wants to run, and does not come to it
        (True, True, False, watch.GRACE),  # it sleeps now and then
        (True, False, True, watch.GRACE),  # it has answered, and waits for the next call
    ],
)
def test_only_what_sleeps_and_has_not_answered_is_taken_for_blocked(
    asleep: bool, runs: bool, has_said: bool, after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        begun = trio.current_time()
        it = Burner(1, Limits(wall_time=1.0))
        monkeypatch.setattr(watch, "is_asleep", lambda _pid: asleep)
        monkeypatch.setattr(watch, "is_readable", lambda _channel: has_said)
        monkeypatch.setattr(
            watch, "processor_clock", lambda _pid: trio.current_time() - begun if runs else 0.1
        )
        guard = watch.Watch(cast("Holder", it))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.run)
            monkeypatch.setattr(it, "interrupt", lambda record: guard.stopping(record))
            guard.new_head(begun)
            await trio.sleep(2.0)
            nursery.cancel_scope.cancel()
        assert it.killed[0] - begun == pytest.approx(1.0 + after, abs=0.001)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("state", "asleep"), [("sleeping", True), ("running", False), ("stopped", False)]
)
def test_the_kernel_says_whether_a_process_is_asleep(state: str, asleep: bool) -> None:
    program = "while True: pass" if state == "running" else "input()"
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdin=read)
    try:
        if state == "stopped":
            process.send_signal(signal.SIGSTOP)
        seen = 0
        while seen < 20:  # it comes up at first
            time.sleep(0.01)
            seen = seen + 1 if watch.is_asleep(process.pid) is asleep else 0
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)
    assert not watch.is_asleep(process.pid)
