"""Faults that strike in the worst moment: while something starts, ends, is sent or is put away."""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import guests
import pytest
import trio
import trio.testing
from cores import Driver, i32, run, serving
from leftovers import cgroups, descendants
from native import attack, native_workers

from wasm_sandbox.protocol.errors import (
    Crashed,
    PoolClosed,
    PoolError,
    RestartIntensityReached,
)
from wasm_sandbox.protocol.policies import RestartPolicy
from wasm_sandbox.supervisor import spawn
from wasm_sandbox.supervisor.cgroups.hierarchy import Group

ADD, LOOP, WORK = guests.add(), guests.loop(), guests.work()
FORGIVING = RestartPolicy(intensity=1_000_000)
STRICT = RestartPolicy(intensity=3, period=60.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def kill(pid: int) -> None:
    """SIGKILL, and wait until the whole process is dead; it stays to be reaped by whose it is."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(10_000)
        finally:
            os.close(pidfd)


def zygote_of(driver: Driver) -> int:
    """Pid of the zygote that is up."""
    assert driver.core._keeper.zygote is not None
    return driver.core._keeper.zygote.pid


async def serves(driver: Driver, workers: int = 1) -> None:
    """Every worker of the pool comes up, and a call is served."""
    module = await driver.load(ADD)
    with trio.fail_after(60):
        assert i32(await driver.call(module, "add", 1, 2)) == 3
        while sum(worker.phase == "idle" for worker in driver.core.workers()) < workers:
            await trio.sleep(0.01)


# --- the zygote -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(6))
def test_no_seat_is_lost_when_zygote_and_worker_die_together(
    cache: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The zygote dies so many steps of the loop after a worker's death was heard of."""

    async def main() -> None:
        async with serving(cache, workers=2, restart=FORGIVING) as driver, trio.open_nursery() as n:
            await serves(driver, 2)
            struck = False

            async def strike() -> None:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                kill(zygote_of(driver))

            def bury(group: Group, *arguments: Any) -> None:
                nonlocal struck
                if not struck:
                    struck = True
                    n.start_soon(strike)
                buried(group, *arguments)

            buried = Group.kill
            monkeypatch.setattr(Group, "kill", bury)
            kill((await driver.wait_for_worker("idle")).pid)
            await driver.wait_for_death(2)
            await serves(driver, 2)
            monkeypatch.setattr(Group, "kill", buried)

    for _ in range(3):
        run(main)


@pytest.mark.parametrize("times", [1, 2])
def test_a_zygote_killed_while_it_takes_anothers_place_is_replaced(
    cache: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    started = 0
    start_zygote = spawn.start_zygote

    def start() -> Any:
        nonlocal started
        launched, channel = start_zygote()
        started += 1
        if 2 <= started < 2 + times:
            kill(launched.pid)
        return launched, channel

    async def main() -> None:
        async with serving(cache, workers=2) as driver:
            await serves(driver, 2)
            kill(zygote_of(driver))
            with trio.fail_after(60):
                while started < 2 + times and driver.core.failure is None:
                    await trio.sleep(0.01)
            await serves(driver, 2)

    monkeypatch.setattr(spawn, "start_zygote", start)
    run(main)


def test_zygotes_that_never_come_up_again_end_the_pool_loudly(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_zygote = spawn.start_zygote

    def start() -> Any:
        launched, channel = start_zygote()
        kill(launched.pid)
        return launched, channel

    async def main() -> None:
        async with serving(cache, workers=1, restart=STRICT) as driver:
            module = await driver.load(ADD)
            monkeypatch.setattr(spawn, "start_zygote", start)
            kill(zygote_of(driver))
            with trio.fail_after(60):
                outcome = await driver.call(module, "add", 1, 2)
            assert isinstance(outcome.error, RestartIntensityReached)
            assert "zygote" in str(outcome.error)

    run(main)


def test_a_zygotes_death_counts_once_however_many_workers_go_with_it(cache: Path) -> None:
    async def main() -> None:
        policy = RestartPolicy(intensity=1, period=60.0)
        async with serving(cache, workers=4, restart=policy) as driver:
            await serves(driver, 4)
            kill(zygote_of(driver))
            await driver.wait_for_death(4)
            await serves(driver, 4)

    run(main)


def test_a_zygote_that_cannot_be_started_for_a_while_costs_no_pool(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter(range(3))
    start_zygote = spawn.start_zygote

    def start() -> Any:
        if next(refusals, None) is not None:
            raise OSError(errno.EMFILE, "too many open files")
        return start_zygote()

    async def main() -> None:
        async with serving(cache, workers=1) as driver:
            await serves(driver)
            monkeypatch.setattr(spawn, "start_zygote", start)
            kill(zygote_of(driver))
            await driver.wait_for_death()
            await serves(driver)
        assert next(refusals, None) is None

    run(main)


def test_who_waits_for_a_zygote_is_told_when_the_pool_ends(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_zygote = spawn.start_zygote

    def start() -> Any:
        launched, channel = start_zygote()
        os.kill(launched.pid, signal.SIGSTOP)
        return launched, channel

    async def main() -> None:
        async with serving(cache, workers=1) as driver, trio.open_nursery() as nursery:
            monkeypatch.setattr(spawn, "start_zygote", start)
            kill(zygote_of(driver))
            await driver.wait_for_death()

            @nursery.start_soon
            async def load() -> None:
                with pytest.raises(PoolClosed):
                    await driver.load(WORK)

            await trio.testing.wait_all_tasks_blocked(0.1)
            with trio.fail_after(60):
                await driver.core.close(cancel=False)

    run(main)


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3])
def test_a_pool_closed_while_a_zygote_starts_leaves_nothing(
    cache: Path, delay: float, cancel: bool
) -> None:
    async def main() -> None:
        async with serving(cache, workers=2) as driver:
            kill(zygote_of(driver))
            await trio.sleep(delay)
            with trio.fail_after(60):
                await driver.core.close(cancel=cancel)

    run(main)


# --- workers --------------------------------------------------------------------------------------


async def _send_to_the_dead(driver: Driver) -> None:
    module = await driver.load(ADD)
    kill((await driver.wait_for_worker("idle")).pid)
    assert i32(await driver.call(module, "add", 1, 2)) == 3


async def _interrupt_the_dead(driver: Driver) -> None:
    module = await driver.load(LOOP)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.call, module, "spin")
            worker = await driver.wait_for_worker("busy")
            await trio.sleep(0.1)
            kill(worker.pid)
            scope.cancel()


@pytest.mark.parametrize("what", [_send_to_the_dead, _interrupt_the_dead])
def test_a_worker_found_dead_is_not_said_to_have_lied(
    cache: Path, what: Callable[[Driver], Any]
) -> None:
    async def main() -> None:
        async with serving(cache, workers=1) as driver:
            await what(driver)
            certificate = await driver.wait_for_death()
            assert (certificate.cause, certificate.wall) == ("killed", "kernel")
            assert certificate.signal == signal.SIGKILL

    run(main)


def test_a_pool_that_is_shut_down_still_replaces_the_workers_of_its_last_calls(
    cache: Path,
) -> None:
    count = 7

    async def main() -> None:
        async with serving(cache, workers=2) as driver:
            module = await driver.load(ADD)
            errors: list[object] = []
            for _ in range(count):
                request = driver.request(module, "native:crash:{}", returns_buffer=True)
                driver.core.submit(request, lambda outcome: errors.append(outcome.error))
            with trio.fail_after(60):
                await driver.core.close(cancel=False)
            assert [type(error) for error in errors] == [Crashed] * count

    with native_workers():
        run(main)


@pytest.mark.parametrize("what", ["crash", "leave", "crash_later"])
def test_native_faults_of_a_guest_do_not_close_the_pool(cache: Path, what: str) -> None:
    """In its call, and after it: a guest that broke out may well wait until it is not to blame."""

    async def main() -> None:
        policy = RestartPolicy(intensity=1, period=60.0)
        async with serving(cache, workers=1, restart=policy) as driver:
            module = await driver.load(ADD)
            for number in range(1, 41):
                arguments = {"seconds": 0.001} if what == "crash_later" else {}
                with suppress(Crashed):
                    await attack(driver, module, what, **arguments)
                await driver.wait_for_death(number)
            await serves(driver)
            assert all(death.cause in ("crashed", "exited") for death in driver.deaths)

    with native_workers():
        run(main)


def test_a_thousand_cuts_leak_nothing_while_the_pool_lives(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=2, restart=FORGIVING) as driver:

            async def census() -> tuple[int, ...]:
                await serves(driver, 2)
                gc.collect()
                mine, theirs = (f"/proc/{pid}/fd" for pid in (os.getpid(), zygote_of(driver)))
                groups = [os.walk(path) for path in cgroups(frozenset({os.getpid()}))]
                below = sum(len(directories) for group in groups for _, directories, _ in group)
                return len(os.listdir(mine)), len(os.listdir(theirs)), below, len(descendants())

            before = await census()
            for number in range(1, 101):
                os.kill((await driver.wait_for_worker("idle")).pid, signal.SIGKILL)
                await driver.wait_for_death(number)
            assert await census() == before

    run(main)


def test_a_load_that_is_cancelled_leaves_no_descriptor(tmp_path: Path) -> None:
    """However far it came: the process, its compiler and the artifact are all given back."""

    async def main() -> None:
        async with serving(tmp_path, workers=1) as driver:
            await serves(driver)
            before = len(os.listdir("/proc/self/fd"))
            number, cancelled = 0, 0
            for delay in range(40):
                number += 1
                with trio.move_on_after(delay / 2000) as scope:
                    await driver.load(f'(module (func (export "f{number}")))')
                cancelled += scope.cancelled_caught
            assert cancelled
            with trio.fail_after(60):
                while len(os.listdir("/proc/self/fd")) > before + number - cancelled:
                    await trio.sleep(0.01)

    run(main)


def test_a_module_that_finds_no_descriptor_left_fails_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, workers=1) as driver:
            await serves(driver)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            refused = 0
            for more in range(20):
                module = f'(module (func (export "f{more}")))'
                lowest = os.dup(0)
                os.close(lowest)
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
                    await driver.load(module)
                except PoolError:
                    refused += 1
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await driver.load(module)
            assert refused
            await serves(driver)

    run(main)


def test_descriptors_that_run_out_and_come_back_cost_no_pool(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, restart=FORGIVING) as driver:
            await serves(driver)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            used = max(map(int, os.listdir("/proc/self/fd")))
            try:
                for allowed in range(used - 12, used + 14):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
                    if (worker := driver.worker("idle")) is not None:
                        os.kill(worker.pid, signal.SIGKILL)
                    await trio.sleep(0.03)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await serves(driver)

    run(main)
