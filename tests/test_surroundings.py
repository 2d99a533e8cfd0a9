"""What is done to a pool from outside: groups that vanish or freeze, forks and jails that are
refused, processors that are few, and somebody who looks into the memory of its processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import guests
import hostile
import pytest
import trio
from cores import Driver, i32, innermost, run, serving, wait_until_begun
from leftovers import descendants, nothing_left
from native import attack, native_workers
from test_faults import kill, serves, zygote_of

from wasm_sandbox import Pool
from wasm_sandbox.protocol.errors import RestartIntensityReached, WorkerLost
from wasm_sandbox.protocol.policies import RestartPolicy
from wasm_sandbox.supervisor import keeper
from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from wasm_sandbox.supervisor.cgroups.model import Unavailable
from wasm_sandbox.supervisor.zygote import Child, Zygote

ADD = guests.add()
STRICT = RestartPolicy(intensity=3, period=60.0)
FREEZER, PIDS = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/pids")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


# --- groups ---------------------------------------------------------------------------------------


def evacuate(directory: str) -> None:
    """Move everything in a group to the one above, and remove it and all below."""
    above = Path(directory).parent / "cgroup.procs"
    for path, _, _ in os.walk(directory, topdown=False):
        for pid in Path(path, "cgroup.procs").read_text().split():
            above.write_text(pid)
        os.rmdir(path)


def groups_of(driver: Driver, what: str) -> tuple[str, ...]:
    """The directories of the first worker, or of the whole pool."""
    hierarchy = driver.core._keeper.groups
    if not hierarchy.directories:
        pytest.skip("no cgroups can be made here")
    worker = driver.core._seats.workers[0]
    return worker._group.directories if what == "worker" else hierarchy.directories


def test_a_worker_whose_group_was_removed_serves_and_is_buried(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=1) as driver:
            await serves(driver)
            for directory in groups_of(driver, "worker"):
                evacuate(directory)
            await serves(driver)
            kill((await driver.wait_for_worker("idle")).pid)
            assert (await driver.wait_for_death()).cause == "killed"
            await serves(driver)

    run(main)


def test_a_pool_whose_groups_were_removed_says_so_when_it_needs_them(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=1, restart=STRICT) as driver:
            module = await driver.load(ADD)
            await serves(driver)
            for directory in groups_of(driver, "pool"):
                evacuate(directory)
            assert i32(await driver.call(module, "add", 1, 2)) == 3
            kill((await driver.wait_for_worker("idle")).pid)
            with trio.fail_after(60):
                outcome = await driver.call(module, "add", 1, 2)
            assert isinstance(outcome.error, RestartIntensityReached)
            assert "/sys/fs/cgroup" in str(outcome.error)

    run(main)


PROGRAM = """
import sys, time
from wasm_sandbox import Pool
pool = Pool(1, cache_dir=sys.argv[1])
print(*(worker.pid for worker in pool.workers()), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("survivor", ["the zygote", "nobody"])
def test_a_group_that_was_frozen_when_its_program_died_is_removed(
    cache: Path, survivor: str
) -> None:
    """A supervisor freezes a group of version 1 for a moment to kill it; that may be its last."""
    if not FREEZER.is_dir():
        pytest.skip("no freezer of cgroup version 1 is mounted")
    pids: set[int] = set()
    with nothing_left(pids=pids):
        command = [sys.executable, "-c", PROGRAM, str(cache)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            pids.add(program.pid)
            assert program.stdout is not None
            worker = int(program.stdout.readline())
            place = re.search(
                r":freezer:(.*wasm-sandbox.*)", Path(f"/proc/{worker}/cgroup").read_text()
            )
            if place is None:
                program.kill()
                pytest.skip("workers are in no group of their own here")
            status = Path(f"/proc/{worker}/status").read_text()
            zygote = int(status.partition("PPid:")[2].split()[0])
            (FREEZER / place[1].lstrip("/") / "freezer.state").write_text("FROZEN")
            if survivor == "nobody":
                os.kill(zygote, signal.SIGSTOP)  # so that it does not see the end of its program
            program.kill()
            program.wait()
            with suppress(ProcessLookupError):
                os.kill(zygote, signal.SIGKILL if survivor == "nobody" else 0)
        if survivor == "nobody":
            with Pool(1, cache_dir=cache):
                pass  # sweeps


# --- forks and jails ------------------------------------------------------------------------------


@pytest.fixture
def crowded() -> Iterator[Path]:
    """A group in which there may be no process but one."""
    if not os.access(PIDS, os.W_OK):
        pytest.skip("no pids controller of cgroup version 1 can be used here")
    group = PIDS / f"wasm-sandbox-test-{os.getpid()}"
    group.mkdir()
    (group / "pids.max").write_text("1")
    yield group
    group.rmdir()


def test_forks_that_are_refused_end_the_pool_with_certificates(cache: Path, crowded: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=2, restart=STRICT) as driver:
            module = await driver.load(ADD)
            await serves(driver, 2)
            (crowded / "cgroup.procs").write_text(str(zygote_of(driver)))
            for worker in driver.core.workers():
                kill(worker.pid)
            with trio.fail_after(60):
                outcome = await driver.call(module, "add", 1, 2)
            error = outcome.error
            assert isinstance(error, RestartIntensityReached)
            refused = [death for death in error.certificates if death.phase == "starting"]
            assert refused
            for death in refused:
                assert (death.cause, death.wall) == ("start_failed", "kernel")
                assert os.strerror(11) in death.evidence

    run(main)


def test_a_group_that_no_worker_can_enter_is_reported_at_the_start(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fork(self: Zygote, worker: int, role: Any, _: Any, descriptors: Any) -> Child:
        return await forks(self, worker, role, ("/nowhere/cgroup.procs",), descriptors)

    async def main() -> None:
        async with serving(cache, workers=2, restart=STRICT):
            raise AssertionError("it started")

    forks = Zygote.fork
    monkeypatch.setattr(Zygote, "fork", fork)
    with pytest.raises(RestartIntensityReached, match="/nowhere") as caught:
        run(main)
    error = innermost(caught.value)
    assert isinstance(error, RestartIntensityReached)
    assert {(death.cause, death.wall) for death in error.certificates} == {
        ("start_failed", "cgroup")
    }


# --- processors -----------------------------------------------------------------------------------


def working_threads(name: str) -> int:
    """Threads of our processes of this name that have had processor time, but for the first."""
    count = 0
    for pid, called in descendants().items():
        if called.startswith(name):
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2]
                    count += thread != str(pid) and sum(map(int, fields.split()[11:13])) > 0
    return count


@pytest.mark.parametrize("processors", [1, 2])
def test_a_module_is_compiled_on_as_many_processors_as_there_are(
    tmp_path: Path, processors: int
) -> None:
    usable = os.sched_getaffinity(0)
    if len(usable) < processors:
        pytest.skip(f"this process may use no {processors} processors")
    module = hostile.many_functions(30_000)
    most = 0
    try:
        os.sched_setaffinity(0, sorted(usable)[:processors])
        with Pool(1, cache_dir=tmp_path) as pool, ThreadPoolExecutor(1) as thread:
            loading = thread.submit(pool.load, module)
            while not loading.done():
                most = max(most, working_threads("wasm-compile"))
                time.sleep(0.002)
            assert loading.result()["run"]() is None
    finally:
        os.sched_setaffinity(0, usable)
    assert most == processors


# --- the death signal -----------------------------------------------------------------------------


def test_a_worker_that_cleared_its_death_signal_dies_with_its_zygote_all_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = Unavailable(reason="left out by the test", remedy="")
    missing = dict.fromkeys(map(str, CONTROLLERS), why)
    monkeypatch.setattr(keeper, "discover", lambda: NoHierarchy(missing))

    async def main() -> None:
        async with serving(cache, workers=1) as driver:
            module = await driver.load(ADD)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def lose() -> None:
                    with pytest.raises(WorkerLost):
                        await attack(driver, module, "outlive")

                pid = await wait_until_begun(driver.core)
                await trio.sleep(0.2)
                kill(zygote_of(driver))
            pidfd = -1
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
            if pidfd >= 0:
                try:
                    with trio.move_on_after(20) as scope:
                        await trio.lowlevel.wait_readable(pidfd)
                    if scope.cancelled_caught:
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    assert not scope.cancelled_caught, "it lives on"
                finally:
                    os.close(pidfd)

    with native_workers("seccomp"):  # which does not let it
        run(main)


# --- memory ---------------------------------------------------------------------------------------


def holds(pid: int, needle: bytes) -> bool:
    """Whether the memory of a process holds some bytes."""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except PermissionError:
        pytest.skip("the memory of other processes may not be read here")
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            limits, mode = line.split()[:2]
            start, end = (int(part, 16) for part in limits.split("-"))
            if not mode.startswith("rw") or end - start > 64 << 20:
                continue
            with suppress(OSError, OverflowError):
                if needle in os.pread(memory, end - start, start):
                    return True
    finally:
        os.close(memory)
    return False


@pytest.mark.parametrize("without", [(), ("environment",)], ids=["with", "without"])
def test_neither_zygote_nor_worker_holds_anything_of_the_programs_memory(
    cache: Path, monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...]
) -> None:
    secret, heap = (os.urandom(16).hex() for _ in range(2))
    monkeypatch.setenv("WASM_SANDBOX_TEST_SECRET", secret)
    kept = [heap] * 2

    async def main() -> None:
        async with serving(cache, workers=1) as driver:
            await serves(driver)
            worker = await driver.wait_for_worker("idle")
            assert holds(os.getpid(), kept[0].encode())
            for pid in (zygote_of(driver), worker.pid):
                assert holds(pid, secret.encode()) == bool(without)
                assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes() or without
                assert not holds(pid, heap.encode())

    with native_workers(*without):
        run(main)
