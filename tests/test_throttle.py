"""A worker is kept to its share of a processor where no cgroup does it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import guest_commands
import guests
import pytest
import trio
from trio.testing import MockClock

from wasm_sandbox import DeadlineExceeded, Limits, Pool
from wasm_sandbox.supervisor import keeper, throttle
from wasm_sandbox.supervisor.cgroups import Unavailable
from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from wasm_sandbox.supervisor.holder import Holder
from wasm_sandbox.supervisor.throttle import BURST, Credit, Throttle
from wasm_sandbox.supervisor.watch import GRACE

ADD, SPINS = guests.add().encode(), guests.loop().encode()


# --- the sum -------------------------------------------------------------------------------------


def test_who_keeps_to_its_share_is_never_stopped() -> None:
    credit = Credit(0.5, 100.0, 7.0)
    for step in range(1, 1000):
        assert credit.pause(100.0 + step / 10, 7.0 + step / 20) == pytest.approx(0, abs=1e-9)


def test_a_pause_makes_up_for_what_was_too_much() -> None:
    credit = Credit(0.25, 0.0, 0.0)
    assert credit.pause(1.0, 1.0) == pytest.approx((1.0 - 0.25 - 0.25 * BURST) / 0.25)
    assert credit.pause(4.0 - BURST, 1.0) == pytest.approx(0, abs=1e-9)


def test_what_is_not_used_is_not_saved_up() -> None:
    credit = Credit(0.5, 0.0, 0.0)
    assert credit.pause(1000.0, 0.0) == 0
    assert credit.pause(1000.0, 0.5 * BURST) == 0
    assert credit.pause(1000.0, 0.5 * BURST + 0.1) == pytest.approx(0.2)


# --- the task ------------------------------------------------------------------------------------


class Process:
    """A worker whose one thread, or more, spins whenever it is neither idle nor stopped."""

    def __init__(self, share: float, threads: int = 1) -> None:
        self.pid = 1
        self.profile = SimpleNamespace(cpu_fraction=share)
        self.records: dict[int, int] = {1: 1}
        self.threads = threads
        self.stopped = False
        self.used = 0.0
        self._seen = trio.current_time()

    def clock(self, _pid: int) -> float:
        now = trio.current_time()
        if not self.stopped and self.records:
            self.used += (now - self._seen) * self.threads
        self._seen = now
        return self.used

    def send(self, number: signal.Signals) -> None:
        self.clock(0)
        self.stopped = {signal.SIGSTOP: True, signal.SIGCONT: False}[number]


def share_of(process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch) -> float:
    """The share of a processor that it gets."""
    seconds = 200.0

    async def main() -> float:
        it = process()
        monkeypatch.setattr(throttle, "processor_clock", it.clock)
        with trio.move_on_after(seconds):
            await Throttle(cast("Holder", it), it.send).run()
        assert not it.stopped, "it was left stopped"
        return it.clock(0) / seconds

    return trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("threads", [1, 8])
def test_a_spinner_gets_its_share(
    share: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = share_of(lambda: Process(share, threads), monkeypatch)
    assert 0.9 * share < got < 1.1 * share


def test_one_that_broke_out_is_held_to_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_of(lambda: Process(1.0, threads=8), monkeypatch) < 1.1


def test_one_thread_is_not_stopped_for_a_whole_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_of(lambda: Process(1.0), monkeypatch) == pytest.approx(1.0)


def test_a_pause_ends_when_the_worker_has_to_hear_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        it = Process(0.05, threads=8)
        monkeypatch.setattr(throttle, "processor_clock", it.clock)
        held = Throttle(cast("Holder", it), it.send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.run)
            while not it.stopped:
                await trio.sleep(0.01)
            await trio.sleep(0.1)
            assert held.last_held == trio.current_time()
            held.let_go()
            assert not it.stopped
            await trio.sleep(GRACE * 0.9)
            assert not it.stopped
            assert held.last_held == pytest.approx(trio.current_time() - GRACE * 0.9)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_work_that_begins_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        it = Process(0.05)
        it.records.clear()
        monkeypatch.setattr(throttle, "processor_clock", it.clock)
        held = Throttle(cast("Holder", it), it.send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.run)
            await trio.sleep(100.1)
            it.records[1] = 1
            held.has_work()
            await trio.sleep(0.2)
            assert it.stopped
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- in a pool -----------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool on a machine without cgroups."""
    nowhere = dict.fromkeys(map(str, CONTROLLERS), Unavailable(reason="a test", remedy=""))
    monkeypatch.setattr(keeper, "discover", lambda: NoHierarchy(nowhere))
    return Pool(1, cache_dir=tmp_path)


def test_a_guest_is_kept_to_its_share_without_a_cgroup(pool: Pool) -> None:
    with pool:
        spin = pool.load(SPINS)["spin"].options(limits=Limits(cpu_fraction=0.2, wall_time=2.0))
        used = []
        for _ in range(3):  # on a busy machine the supervisor may come too late to its watch
            with pytest.raises(DeadlineExceeded) as caught:
                spin()
            assert caught.value.receipt is not None
            used.append(caught.value.receipt.cpu_time)
            if used[-1] < 0.4 + 0.2:
                break
        assert used[-1] < 0.4 + 0.2, used
        assert pool.load(ADD)["add"](1, 2) == 3


def test_being_held_back_is_not_idleness(pool: Pool) -> None:
    limits = Limits(cpu_fraction=0.05, wall_time=2.0, idle_time=0.3)
    with pool, pytest.raises(DeadlineExceeded):
        pool.load(SPINS)["spin"].options(limits=limits)()


def test_a_guest_that_is_held_back_can_be_stopped_at_once(pool: Pool) -> None:
    with pool:
        spin = pool.load(SPINS)["spin"].options(limits=Limits(cpu_fraction=0.05))
        heard = 0
        for _ in range(8):  # on a busy machine it may come too late to its answer
            with pytest.raises(DeadlineExceeded) as caught:
                spin.options(timeout=0.5)()
            begun = caught.value.receipt is not None and caught.value.receipt.attempts == 1
            heard += begun and caught.value.certificate is None
            if heard == 3:
                return
        pytest.fail("it had to be killed")


def test_a_pool_ends_while_its_guest_is_held_back(pool: Pool) -> None:
    with pool:
        limits = Limits(cpu_fraction=0.05, wall_time=60)
        future = pool.submit(pool.load(SPINS)["spin"].options(limits=limits))
        begun = time.monotonic()
        while not future.running() and time.monotonic() < begun + 20:
            time.sleep(0.01)
        time.sleep(0.3)
        pool.shutdown(cancel_futures=True)
    assert future.cancelled() or future.exception() is not None


def test_a_sleeper_is_not_held_back(pool: Pool) -> None:
    with pool:
        sleeps = pool.load(guest_commands.sleeps(1).encode()).main
        done, receipt = sleeps.options(limits=Limits(cpu_fraction=0.05)).detailed()
        assert done.exit_code == 7
        assert receipt.cpu_time < 0.5
