"""The walls that control groups build around a worker, attacked by native code inside the worker.

Each attack is also shown to succeed where the wall is left out: with no limit in the group, or
with no groups at all.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import guests
import msgspec
import pytest
import trio
from cores import Driver, run, serving, wait_until_begun
from native import LAST, attack, native_workers

from wasm_sandbox.protocol.errors import OutOfMemoryKilled, SandboxError, WorkerLost
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.supervisor import keeper
from wasm_sandbox.supervisor.cgroups import Hierarchy, Unavailable, discover
from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from wasm_sandbox.supervisor.worker import TASKS

ADD = guests.add()
SMALL = Limits(memory=16 << 20)
ROOMY = Limits(memory=1 << 30)
"""So much that a crowd of processes does not meet the wall around memory first."""
GIB = 1 << 30
LEFT_OUT = Unavailable(reason="left out by the test", remedy="")
NOWHERE: dict[str, Unavailable] = dict.fromkeys(map(str, CONTROLLERS), LEFT_OUT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def here() -> Hierarchy:
    """What this machine offers; closed, so that it is not taken for something left behind."""
    found = discover()
    found.close()
    return found


def need(here: Hierarchy, controller: str) -> None:
    """Skip, by name, what this machine cannot enforce."""
    if controller in here.missing:
        pytest.skip(f"no {controller} controller: {here.missing[controller].reason}")


def free_memory(size: int) -> None:
    """Skip where an attack that succeeds would endanger the machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    if free < 2 * size:
        pytest.skip(f"too little memory is free to show the attack succeeding: {free} bytes")


class Outcome:
    """What an attack came to."""

    def __init__(self, value: Any, error: SandboxError | None, driver: Driver) -> None:
        self.value, self.error, self.deaths = value, error, driver.deaths


def attempt(
    cache: Path,
    what: str,
    /,
    *,
    without: tuple[str, ...] = (),
    groups: bool = True,
    limits: Limits = SMALL,
    **arguments: Any,
) -> Outcome:
    """Run an attack in a fresh worker; a call after it is served, and nothing is left."""

    async def main() -> Outcome:
        async with serving(cache, workers=1, limits=limits) as driver:
            module = await driver.load(ADD)
            error: SandboxError | None = None
            value = None
            try:
                value = await attack(driver, module, what, **arguments)
            except SandboxError as caught:
                error = caught
            assert (await driver.call(module, "add", 1, 2)).error is None
            return Outcome(value, error, driver)

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if not groups:
            patch.setattr(keeper, "discover", lambda: NoHierarchy(NOWHERE))
        stack.enter_context(native_workers(*without, *LAST))
        outcome: Outcome = run(main)
    return outcome


# -- memory ---------------------------------------------------------------------------------------


def test_memory_that_no_resource_limit_counts_is_bounded(cache: Path, here: Hierarchy) -> None:
    need(here, "memory")
    outcome = attempt(cache, "allocate_shared", size=2 * GIB)
    error = outcome.error
    assert type(error) is OutOfMemoryKilled
    certificate = error.certificate
    assert (certificate.cause, certificate.wall) == ("out_of_memory", "cgroup")
    assert certificate.signal == signal.SIGKILL
    assert "kill" in certificate.evidence
    assert certificate.phase == "busy"
    assert certificate.memory_peak is None or certificate.memory_peak < GIB
    assert certificate.modules
    assert outcome.deaths[0] == certificate


@pytest.mark.parametrize("groups", [True, False], ids=["no limit", "no groups"])
def test_without_the_memory_wall_the_same_attack_succeeds(
    cache: Path, here: Hierarchy, groups: bool
) -> None:
    need(here, "memory")
    free_memory(GIB)
    outcome = attempt(cache, "allocate_shared", size=GIB, without=("cgroup.memory",), groups=groups)
    assert outcome.error is None
    assert outcome.value == "done"


def test_a_guest_within_its_limit_is_not_killed(cache: Path, here: Hierarchy) -> None:
    need(here, "memory")

    async def main() -> None:
        async with serving(cache, workers=1, limits=Limits(memory=256 << 20)) as driver:
            module = await driver.load(guests.grow_until_refused())
            outcome = await driver.call(module, "hog")
            assert outcome.error is None
            assert int.from_bytes(outcome.slots[:4], "little") == (256 << 20) >> 16
            assert driver.deaths == []

    run(main)


@pytest.mark.parametrize("groups", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("what", ["hang", "spin"])
def test_a_kill_from_outside_is_not_called_out_of_memory(
    cache: Path, groups: bool, what: str
) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, limits=SMALL) as driver:
            module = await driver.load(ADD)

            async def kill() -> None:
                os.kill(await wait_until_begun(driver.core), signal.SIGKILL)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                with pytest.raises(WorkerLost) as caught:
                    await attack(driver, module, what)
            assert type(caught.value) is WorkerLost
            certificate = caught.value.certificate
            assert (certificate.cause, certificate.wall) == ("killed", "kernel")
            assert certificate.signal == signal.SIGKILL
            assert "memory" not in str(caught.value)
            assert (await driver.call(module, "add", 1, 2)).error is None

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if not groups:
            patch.setattr(keeper, "discover", lambda: NoHierarchy(NOWHERE))
        stack.enter_context(native_workers(*LAST))
        run(main)


# -- pids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, 4096])
def test_a_fork_bomb_is_stopped(cache: Path, here: Hierarchy, processes: int) -> None:
    """Whatever the policy allows the guest, which has no way to use it: the worker gets no more."""
    need(here, "pids")
    limits = msgspec.structs.replace(ROOMY, processes=processes)
    outcome = attempt(cache, "fork_many", limits=limits, count=3 * TASKS)
    assert outcome.error is None
    assert 0 < outcome.value < TASKS


@pytest.mark.parametrize("groups", [True, False], ids=["no limit", "no groups"])
def test_without_the_pids_wall_the_same_bomb_goes_off(
    cache: Path, here: Hierarchy, groups: bool
) -> None:
    need(here, "pids")
    outcome = attempt(
        *(cache, "fork_many"),
        without=("cgroup.pids",),
        groups=groups,
        limits=ROOMY,
        count=3 * TASKS,
    )
    assert outcome.error is None
    assert outcome.value == 3 * TASKS


# -- processor ------------------------------------------------------------------------------------


def share(
    cache: Path, fraction: float, without: tuple[str, ...] = (), groups: bool = True
) -> float:
    """The share of one processor that a worker got which wanted all of it."""
    limits = Limits(memory=16 << 20, cpu_fraction=fraction)
    outcome = attempt(
        cache, "burn", without=without, groups=groups, limits=limits, processor_seconds=0.2
    )
    assert outcome.error is None
    return 0.2 / float(outcome.value)


@pytest.mark.parametrize("groups", [True, False], ids=["cgroup", "throttle"])
def test_a_worker_gets_no_more_than_its_share_of_a_processor(
    cache: Path, here: Hierarchy, groups: bool
) -> None:
    """Each of the two walls keeps it there alone: the supervisor does where no cgroup does."""
    if groups:
        need(here, "cpu")
    without = ("throttle",) if groups else ("cgroup.cpu",)
    assert share(cache, 0.05, without, groups) < 0.1


@pytest.mark.parametrize("groups", [True, False], ids=["no limit", "no groups"])
def test_without_both_cpu_walls_it_gets_more(cache: Path, here: Hierarchy, groups: bool) -> None:
    if groups:
        need(here, "cpu")
    # The neighbours on this machine take their part too: the best of some attempts.
    best = 0.0
    for _ in range(5):
        best = max(best, share(cache, 0.05, ("cgroup.cpu", "throttle"), groups))
        if best > 0.12:
            return
    pytest.fail(f"without the walls it got only {best:.2f} of a processor")


# -- nothing escapes ------------------------------------------------------------------------------


def test_processes_that_leave_the_session_die_with_their_worker(
    cache: Path, here: Hierarchy
) -> None:
    need(here, "pids")
    outcome = attempt(cache, "fork_and_leave", count=5)  # and nothing is left: see cores.run
    assert len(outcome.value) == 5
    assert not [pid for pid in outcome.value if os.path.exists(f"/proc/{pid}")]


def test_without_groups_processes_that_leave_the_session_live_on(
    cache: Path, here: Hierarchy
) -> None:
    need(here, "pids")
    escaped: list[int] = []

    async def main() -> None:
        async with serving(cache, workers=1, limits=SMALL) as driver:
            escaped.extend(await attack(driver, await driver.load(ADD), "fork_and_leave", count=2))
            worker = await driver.wait_for_worker("idle")
            os.kill(worker.pid, signal.SIGKILL)
            await driver.wait_for_death()
            await trio.sleep(0.2)
            try:
                assert all(os.path.exists(f"/proc/{pid}") for pid in escaped)
            finally:
                for pid in escaped:
                    os.kill(pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch, native_workers(*LAST):
        patch.setattr(keeper, "discover", lambda: NoHierarchy(NOWHERE))
        run(main)
