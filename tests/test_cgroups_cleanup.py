"""A group ends whole, and nothing of a pool is left, by the kernel of this machine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cgroup_pools import ENTER, MIB, NAME, SLEEP, members, need, program, wait_inside
from cgroup_pools import hierarchy_fixture as hierarchy_fixture

from wasm_sandbox.supervisor import cgroups
from wasm_sandbox.supervisor.cgroups import CgroupLimits, Group, Hierarchy, discover, janitor

SESSIONS = """
for number in range(6):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            say("inside")
        time.sleep(60)
time.sleep(60)
"""
FORK_BOMB = """
say("inside")
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_kill_ends_descendants_in_sessions_of_their_own(hierarchy: Hierarchy, frozen: bool) -> None:
    group = hierarchy.group("worker", CgroupLimits())
    with program(group, SESSIONS) as process:
        wait_inside(process, times=6)
        assert len(members(group)) == 13
        if frozen:
            freeze(group)
        group.kill()
        assert process.wait() == -signal.SIGKILL
        assert members(group) == set()


def freeze(group: Group) -> None:
    """Stop every process, as a test of patience."""
    for directory in group.directories:
        for name, text in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
            path = Path(directory, name)
            if path.exists():
                path.write_text(text)


def test_kill_ends_a_fork_bomb(hierarchy: Hierarchy) -> None:
    need(hierarchy, "pids")
    group = hierarchy.group("worker", CgroupLimits(pids=30, cpu_fraction=0.5))
    with program(group, FORK_BOMB) as process:
        wait_inside(process)
        while len(members(group)) < 30:
            time.sleep(0.01)
        group.kill()
        assert members(group) == set()
    group.remove()


def test_kill_without_freezer_and_cgroup_kill_ends_a_fork_bomb(
    hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(hierarchy, "pids")
    group = hierarchy.group("worker", CgroupLimits(pids=30))
    with program(group, FORK_BOMB) as process:
        wait_inside(process)
        monkeypatch.setattr(janitor, "_write", lambda *_: False)
        group.kill(patience=20)
        assert members(group) == set()


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EINVAL])
def test_kill_counts_as_dead_who_ended_meanwhile_whatever_the_kernel_calls_it(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    listed = [{4711}, {4711}, {4711}, set[int]()]
    monkeypatch.setattr(janitor, "members", lambda _: listed.pop(0))
    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert janitor.kill([])
    assert not listed


def test_an_empty_group_is_killed_and_removed_at_once_and_twice(hierarchy: Hierarchy) -> None:
    group = hierarchy.group("worker", CgroupLimits())
    for _ in range(2):
        group.kill()
        group.remove()
    assert not any(map(os.path.exists, group.directories))


def test_a_group_with_life_inside_is_not_removed(hierarchy: Hierarchy) -> None:
    group = hierarchy.group("worker", CgroupLimits())
    with program(group, SLEEP) as process:
        wait_inside(process)
        with pytest.raises(cgroups.GroupBusy, match="Hint: kill the group first"):
            group.remove(patience=0)
        assert process.poll() is None
    group.remove()


def test_a_group_with_nothing_but_a_zombie_can_be_removed(hierarchy: Hierarchy) -> None:
    group = hierarchy.group("worker", CgroupLimits())
    with program(group, SLEEP) as process:
        wait_inside(process)
        group.kill()
        group.remove()
        assert process.wait() == -signal.SIGKILL


def test_a_name_is_used_once(hierarchy: Hierarchy) -> None:
    first = hierarchy.group("worker", CgroupLimits())
    with pytest.raises(cgroups.CgroupError, match="names of groups are used once"):
        hierarchy.group("worker", CgroupLimits())
    assert all(map(os.path.isdir, first.directories))


@pytest.mark.parametrize("name", ["", "..", "a/b", "/"])
def test_a_name_cannot_leave_the_pool(hierarchy: Hierarchy, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        hierarchy.group(name, CgroupLimits())


def test_closing_one_pool_leaves_the_other_alone(hierarchy: Hierarchy) -> None:
    other = discover(name=NAME)
    try:
        ours, theirs = (pool.group("worker", CgroupLimits()) for pool in (hierarchy, other))
        assert not set(ours.directories) & set(theirs.directories)
        with program(ours, SLEEP) as process, program(theirs, SLEEP) as neighbour:
            wait_inside(process)
            wait_inside(neighbour)
            other.close()
            assert neighbour.wait() == -signal.SIGKILL
            assert process.poll() is None
            assert len(members(ours)) == 1
    finally:
        other.close()


def test_a_pool_leaves_no_descriptor_and_no_directory() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    found = discover(name=NAME)
    for number in range(3):
        group = found.group(str(number), CgroupLimits(memory=64 * MIB, pids=9, cpu_fraction=1))
        group.usage()
        group.remove()
    kept = found.group("kept", CgroupLimits())
    kept.usage()
    found.close()
    found.close()
    assert not any(map(os.path.exists, found.directories))
    kept.remove()
    assert sorted(os.listdir("/proc/self/fd")) == before


IN_A_FORKED_CHILD = f"""
import os
from wasm_sandbox.supervisor.cgroups import discover
pool = discover(name={NAME!r})
child = os.fork()
if child == 0:
    pool.close()
    os._exit(0)
os.waitpid(child, 0)
assert all(map(os.path.isdir, pool.directories))
pool.close()
assert not any(map(os.path.exists, pool.directories))
"""


def test_a_forked_child_cannot_close_the_pool_of_its_parent(hierarchy: Hierarchy) -> None:
    subprocess.run([sys.executable, "-c", IN_A_FORKED_CHILD], check=True)


DIES_AND_LEAVES_A_WORKER = f"""
import os, signal, subprocess, sys
from wasm_sandbox.supervisor.cgroups import CgroupLimits, discover
pool = discover(name={NAME!r})
group = pool.group("worker", CgroupLimits())
command = [sys.executable, "-ISc", {ENTER + SLEEP!r}, *group.procs_files]
worker = subprocess.Popen(command, stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, *pool.directories, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def orphans(hierarchy: Hierarchy) -> tuple[int, list[str]]:
    """What a supervisor leaves that dies by SIGKILL without a janitor: a worker and the
    directories."""
    dead = subprocess.run(
        [sys.executable, "-c", DIES_AND_LEAVES_A_WORKER], stdout=subprocess.PIPE, text=True
    )
    assert dead.returncode == -signal.SIGKILL
    pid, *directories = dead.stdout.split()
    assert all(map(os.path.isdir, directories))
    return int(pid), directories


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_only_dead_pools_are_swept(hierarchy: Hierarchy, orphans: tuple[int, list[str]]) -> None:
    pid, directories = orphans
    living = hierarchy.group("living", CgroupLimits())
    with program(living, SLEEP) as process:
        wait_inside(process)
        assert is_running(pid)
        assert cgroups.sweep(name=f"{NAME}-of-another") == 0
        assert is_running(pid)
        assert cgroups.sweep(name=NAME) >= len(directories)
        assert cgroups.sweep(name=NAME) == 0
        assert process.poll() is None
    assert not is_running(pid)
    assert not any(map(os.path.exists, directories))
    assert all(map(os.path.isdir, hierarchy.directories))


def test_a_janitor_needs_nothing_but_paths(orphans: tuple[int, list[str]]) -> None:
    pid, directories = orphans
    bare = "import runpy, sys; runpy.run_path(sys.argv[1])['remove_directories'](sys.argv[2:])"
    command = [sys.executable, "-ISc", bare, janitor.__file__, *directories]
    subprocess.run(command, check=True)
    assert not is_running(pid)
    assert not any(map(os.path.exists, directories))


def test_several_janitors_do_not_disturb_one_another(orphans: tuple[int, list[str]]) -> None:
    _, directories = orphans
    sweeper = f"from wasm_sandbox.supervisor import cgroups; cgroups.sweep(name={NAME!r})"
    sweepers = [subprocess.Popen([sys.executable, "-c", sweeper]) for _ in range(3)]
    assert [process.wait() for process in sweepers] == [0, 0, 0]
    assert not any(map(os.path.exists, directories))
