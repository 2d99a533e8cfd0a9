"""Each wall of the worker's jail, attacked by native code inside the worker.

An attack that fails where a wall stands proves nothing unless the same attack succeeds where it
does not: each is made twice.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guests
import pytest
import trio
from cores import Driver, run, serving, wait_until_begun
from leftovers import descendants
from native import LAST, PREFIX, attack, native_workers

from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.errors import InvalidModule, WorkerLost
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.profile import Profile
from wasm_sandbox.supervisor import keeper
from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from wasm_sandbox.supervisor.cgroups.model import Unavailable
from wasm_sandbox.supervisor.requests import ModuleHandle
from wasm_sandbox.supervisor.zygote import Child
from wasm_sandbox.worker.jail import rlimits

ADD = guests.add()
SECRET = "a-secret-that-nobody-in-a-worker-may-see"
SMALL = Limits(memory=16 << 20, open_files=8, file_size=1 << 20)
DATA = SMALL.memory + (256 << 20)
"""RLIMIT_DATA of a worker of ``SMALL``."""
BEYOND = DATA + (64 << 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jail alone must hold, without the cgroups around it."""
    why = Unavailable(reason="left out by the test", remedy="")
    missing = dict.fromkeys(map(str, CONTROLLERS), why)
    monkeypatch.setattr(keeper, "discover", lambda: NoHierarchy(missing))


def attempt(cache: Path, without: tuple[str, ...], what: str, /, **arguments: Any) -> Any:
    """What an attack in a fresh worker came to."""

    async def main() -> Any:
        async with serving(cache, workers=1, limits=SMALL) as driver:
            return await attack(driver, await driver.load(ADD), what, **arguments)

    with native_workers(*without, *LAST):
        return run(main)


# -- descriptors ----------------------------------------------------------------------------------


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[int]:
    """A file of the program that makes the pool, open and inheritable."""
    path = tmp_path / "precious"
    path.write_text(SECRET)
    descriptor = os.open(path, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    yield descriptor
    os.close(descriptor)


def test_a_worker_has_no_descriptor_but_its_own_channels(cache: Path, precious: int) -> None:
    own = attempt(cache, (), "open_descriptors")
    assert not any("precious" in target for target in own.values())
    assert [own[number] for number in ("0", "1")] == ["/dev/null"] * 2
    # Its last words, its control channel; its channel and the one for descriptors; its modules.
    assert Counter(target.partition(":")[0] for target in own.values()) <= Counter(
        {"/dev/null": 2, "pipe": 2, "socket": 2, "/memfd": 2}
    ), own


def test_a_worker_cannot_signal_its_siblings_nor_the_program(cache: Path) -> None:
    assert attempt(cache, (), "reachable_processes") == []


def test_without_closing_descriptors_a_worker_reaches_the_program(cache: Path) -> None:
    reached = attempt(cache, ("descriptors",), "reachable_processes")
    assert os.getpid() in reached
    own = attempt(cache, (), "open_descriptors")
    more = attempt(cache, ("descriptors",), "open_descriptors")
    assert len(more) > len(own)


# -- environment ----------------------------------------------------------------------------------


def test_a_worker_sees_nothing_of_the_environment(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASM_SANDBOX_TEST_SECRET", SECRET)
    seen = attempt(cache, (), "environment")
    assert SECRET not in json.dumps(seen)
    assert seen["python"] == {}


def test_without_an_empty_environment_a_worker_sees_the_secret(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASM_SANDBOX_TEST_SECRET", SECRET)
    assert SECRET in json.dumps(attempt(cache, ("environment",), "environment"))


# -- no_new_privs ---------------------------------------------------------------------------------


@pytest.fixture
def set_uid(tmp_path: Path) -> Iterator[str]:
    """A program that runs as its owner, root, whoever starts it: id(1), set-uid."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a program set-uid root")
    options = os.statvfs(tmp_path).f_flag
    if options & (os.ST_NOSUID | os.ST_NOEXEC):
        pytest.skip("the temporary directory is mounted nosuid or noexec")
    program = tmp_path / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    opened = []
    for folder in (tmp_path, *tmp_path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            opened.append((folder, mode))
            folder.chmod(mode | 0o011)
    yield str(program)
    for folder, mode in opened:
        folder.chmod(mode)


def test_no_new_privs_stands(cache: Path) -> None:
    assert attempt(cache, (), "status", field="NoNewPrivs") == "1"
    assert attempt(cache, ("no_new_privs",), "status", field="NoNewPrivs") == "0"


def test_a_set_uid_program_gains_nothing(cache: Path, set_uid: str) -> None:
    assert attempt(cache, (), "run_set_uid", program=set_uid) == "65534"


def test_without_no_new_privs_a_set_uid_program_makes_root(cache: Path, set_uid: str) -> None:
    assert attempt(cache, ("no_new_privs",), "run_set_uid", program=set_uid) == "0"


# -- rlimits --------------------------------------------------------------------------------------


def test_private_memory_is_bounded(cache: Path) -> None:
    assert attempt(cache, (), "allocate_private", size=BEYOND) == "ENOMEM"
    assert attempt(cache, ("rlimits",), "allocate_private", size=BEYOND) == "done"


def test_descriptors_are_bounded(cache: Path) -> None:
    allowed = Profile.of(SMALL, Capabilities()).descriptors
    assert 0 < attempt(cache, (), "open_many", count=900) <= allowed
    assert attempt(cache, ("rlimits",), "open_many", count=900) == 900


def test_the_size_of_files_is_bounded(cache: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "large")
    size = 3 * SMALL.file_size
    assert attempt(cache, (), "write_large", path=path, size=size) == SMALL.file_size
    assert attempt(cache, ("rlimits",), "write_large", path=path, size=size) == size


def test_a_compilers_artifact_is_bounded(cache: Path) -> None:
    limits = Limits(compile_memory=32 << 20)

    async def main() -> str:
        async with serving(cache, workers=1, limits=limits) as driver:
            with pytest.raises(InvalidModule) as told:
                await driver.load(f'{PREFIX}fill_artifact:{{"size": {512 << 20}}}')
            return str(told.value)

    with native_workers(*LAST):
        assert "EFBIG" in run(main)
    with native_workers(*LAST, "rlimits"):
        assert "done" in run(main)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be one user and another")
@pytest.mark.parametrize(("apart", "user"), [("uid", 0), ("namespace.user", 65534)])
def test_threads_are_bounded_where_the_kernel_counts_them_apart(
    cache: Path, apart: str, user: int
) -> None:
    async def main() -> Any:
        async with serving(cache, workers=1, limits=SMALL) as driver:
            module = await driver.load(ADD)
            count = rlimits.PROCESSES + 100
            return await attack(driver, module, "start_threads", count=count), count

    others = tuple(wall for wall in LAST if wall != apart)
    with native_workers(*others, user=user):
        made, _ = run(main)
    assert 0 < made < rlimits.PROCESSES
    with native_workers(*others, "rlimits", user=user):
        made, count = run(main)
    assert made == count


@pytest.mark.parametrize(
    "name", ["RLIMIT_DATA", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_MEMLOCK"]
)
def test_an_unprivileged_worker_cannot_raise_a_limit(cache: Path, name: str) -> None:
    assert attempt(cache, (), "raise_limit", name=name, unprivileged=True) == "ValueError"
    own = resource.getrlimit(getattr(resource, name))[1]
    if own == resource.RLIM_INFINITY:
        outcome = attempt(cache, ("rlimits",), "raise_limit", name=name, unprivileged=True)
        assert outcome == "raised"


def _may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return bool(effective >> 24 & 1)  # CAP_SYS_RESOURCE


@pytest.mark.skipif(not _may_raise_limits(), reason="needs CAP_SYS_RESOURCE to show what it can do")
def test_a_worker_of_root_can_raise_its_limits_again(cache: Path) -> None:
    """Hard limits do not hold CAP_SYS_RESOURCE: there, memory is held by the cgroup alone."""
    assert attempt(cache, (), "raise_limit", name="RLIMIT_DATA") == "raised"


# -- death signal ---------------------------------------------------------------------------------


async def _kill_the_zygote(driver: Driver, patience: float) -> tuple[set[int], set[int]]:
    """(the workers, those of them that lived on for so many seconds).

    Their main threads are asleep, so that they do not notice the end of their channels.
    """
    module = await driver.load(ADD)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(_hang, driver, module)
        with trio.fail_after(60):
            while [worker.phase for worker in driver.core.workers()] != ["busy"] * 2:
                await trio.sleep(0.01)
        workers = {worker.pid for worker in driver.core.workers()}
        for pid in workers:
            await wait_until_begun(driver.core, pid)
        await trio.sleep(0.2)
        zygote = driver.core._keeper.zygote
        assert zygote is not None
        assert workers <= set(descendants(zygote.pid))
        stamps = {pid: _stamp(pid) for pid in workers}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Child, "kill", lambda _: None)  # a program may be as dead as its zygote
            os.kill(zygote.pid, signal.SIGKILL)
            await zygote.lost.wait()
            with trio.move_on_after(patience):
                while any(_stamp(pid) == stamp for pid, stamp in stamps.items()):
                    await trio.sleep(0.01)
    alive = {pid for pid, stamp in stamps.items() if _stamp(pid) == stamp}
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return workers, alive


async def _hang(driver: Driver, module: ModuleHandle) -> None:
    with pytest.raises(WorkerLost) as caught:
        await attack(driver, module, "hang")
    assert caught.value.certificate.evidence == "its zygote was lost"


def _stamp(pid: int) -> str | None:
    """What tells a living process from another of the same number; ``None`` for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


@pytest.mark.parametrize("without", [(), ("death_signal",)], ids=["with", "without"])
def test_workers_die_with_their_zygote(cache: Path, without: tuple[str, ...]) -> None:
    async def main() -> None:
        async with serving(cache, workers=2, limits=SMALL) as driver:
            workers, alive = await _kill_the_zygote(driver, 1 if without else 60)
            assert workers
            assert alive == (workers if without else set())
            module = await driver.load(ADD)
            with trio.fail_after(60):
                assert (await driver.call(module, "add", 1, 2)).error is None

    with native_workers(*without, *LAST):
        run(main)


def test_a_call_that_comes_while_the_zygote_dies_is_served(cache: Path) -> None:
    async def main() -> None:
        async with serving(cache, workers=2, limits=SMALL) as driver:
            module = await driver.load(ADD)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(driver.call, module, "add", 1, 2)
            await trio.sleep(0.05)
            zygote = driver.core._keeper.zygote
            assert zygote is not None
            for worker in driver.core.workers():
                os.kill(worker.pid, signal.SIGSTOP)
            os.kill(zygote.pid, signal.SIGKILL)
            await zygote.lost.wait()
            with trio.move_on_after(10) as scope:
                assert (await driver.call(module, "add", 1, 2)).error is None
            assert not scope.cancelled_caught, "the call was lost"

    run(main)
