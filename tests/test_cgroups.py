"""What a group limits and counts, by the kernel of this machine, whatever its kind of cgroups.

tests/test_cgroups_v2vm.py runs this file and tests/test_cgroups_cleanup.py again in machines whose
only hierarchy is v2, and tells them by ``WASM_SANDBOX_EXPECT_CGROUPS`` what must be found there.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from cgroup_pools import EXPECTED, MIB, NAME, SLEEP, members, need, program, wait_inside
from cgroup_pools import hierarchy_fixture as hierarchy_fixture

from wasm_sandbox.supervisor import cgroups
from wasm_sandbox.supervisor.cgroups import CgroupLimits, Hierarchy, discover

HOLD_48_MIB = "held = b'x' * (48 << 20); say('inside'); time.sleep(60)"
FORK_UNTIL_REFUSED = """
children = []
try:
    while len(children) < 100:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except OSError as error:
    assert error.errno == errno.EAGAIN
say(len(children))
"""
SPIN = "end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
WORK = "end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"


def test_the_kind_of_hierarchy_is_that_of_the_machine() -> None:
    found = discover(name=NAME)
    found.close()
    if EXPECTED is not None:
        assert found.kind == EXPECTED
    assert (found.kind == "none") == (not found.controllers) == (not found.directories)
    assert found.controllers | found.missing.keys() == {"memory", "swap", "pids", "cpu"}
    assert not found.controllers & found.missing.keys()
    assert EXPECTED in (None, "none") or found.controllers >= {"memory", "pids", "cpu"}


def test_without_cgroups_everything_is_said_and_nothing_breaks() -> None:
    found = discover(name=NAME)
    try:
        if EXPECTED != "none":
            pytest.skip("cgroups can be had here")
        assert all("systemd-run" in problem.remedy for problem in found.missing.values())
        group = found.group("worker", CgroupLimits(memory=MIB))
        assert group.procs_files == group.directories == ()
        group.kill()
        group.remove()
        assert group.usage() == cgroups.CgroupUsage()
    finally:
        found.close()


def test_memory_over_the_limit_is_an_out_of_memory_kill_with_evidence(hierarchy: Hierarchy) -> None:
    need(hierarchy, "memory")
    group = hierarchy.group("worker", CgroupLimits(memory=32 * MIB))
    with program(group, "held = b'x' * (200 << 20)") as process:
        assert process.wait() == -signal.SIGKILL
    usage = group.usage()
    # The kernel counts the first victim of a group's end twice.
    assert usage.oom_kills == group.oom_kills() in ((1,) if hierarchy.kind == "v1" else (1, 2))
    assert usage.memory_peak is None or 16 * MIB < usage.memory_peak <= 32 * MIB


def test_any_other_kill_is_not_taken_for_an_out_of_memory_kill(hierarchy: Hierarchy) -> None:
    need(hierarchy, "memory")
    group = hierarchy.group("worker", CgroupLimits(memory=64 * MIB))
    with program(group, SLEEP) as process:
        wait_inside(process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert group.oom_kills() == 0


def test_swap_is_limited_together_with_memory(hierarchy: Hierarchy) -> None:
    need(hierarchy, "memory", "swap")
    group = hierarchy.group("worker", CgroupLimits(memory=64 * MIB, swap=0))
    directory = group.directories[0]

    def in_force(name: str) -> int:
        return int(Path(directory, name).read_text())

    for memory, swap in ((64, 0), (128, 16), (96, 64), (32, 0)):
        group.set(CgroupLimits(memory=memory * MIB, swap=swap * MIB))
        if hierarchy.kind == "v1":
            assert in_force("memory.limit_in_bytes") == memory * MIB
            assert in_force("memory.memsw.limit_in_bytes") == (memory + swap) * MIB
        else:
            assert in_force("memory.max") == memory * MIB
            assert in_force("memory.swap.max") == swap * MIB


def test_processes_over_the_limit_are_refused(hierarchy: Hierarchy) -> None:
    need(hierarchy, "pids")
    group = hierarchy.group("worker", CgroupLimits(pids=8))
    with program(group, FORK_UNTIL_REFUSED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "7\n"
        assert len(members(group)) == 8
    assert group.usage().pids_peak in (8, None)


def test_processor_time_is_held_to_its_fraction(hierarchy: Hierarchy) -> None:
    need(hierarchy, "cpu")
    # Less than what the neighbours on a busy machine leave it.
    group = hierarchy.group("worker", CgroupLimits(cpu_fraction=0.05))
    with program(group, SPIN) as process:
        assert process.wait() == 0
    usage = group.usage()
    assert usage.cpu_seconds is not None
    assert usage.throttled_seconds is not None
    assert 0.02 < usage.cpu_seconds < 0.4
    assert usage.throttled_seconds > 0.1


def test_a_fraction_above_that_of_a_group_above_is_no_error(hierarchy: Hierarchy) -> None:
    need(hierarchy, "cpu")
    pool = next(path for path in hierarchy.directories if os.path.exists(f"{path}/cpu.stat"))
    if hierarchy.kind == "v1":
        Path(pool, "cpu.cfs_quota_us").write_text("50000")
    else:
        Path(pool, "cpu.max").write_text("50000 100000")
    group = hierarchy.group("worker", CgroupLimits(cpu_fraction=0.9))
    group.set(CgroupLimits(cpu_fraction=0.1))
    group.set(CgroupLimits(cpu_fraction=2.0))
    group.remove()


def test_limits_of_a_live_group_can_be_changed(hierarchy: Hierarchy) -> None:
    need(hierarchy, "pids")
    group = hierarchy.group("worker", CgroupLimits(pids=2))
    group.set(CgroupLimits(pids=5))
    with program(group, FORK_UNTIL_REFUSED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "4\n"


def test_a_memory_limit_below_the_usage_is_refused_and_harms_nobody(hierarchy: Hierarchy) -> None:
    need(hierarchy, "memory")
    swap = 0 if "swap" in hierarchy.controllers else None
    before = CgroupLimits(memory=96 * MIB, swap=swap)
    group = hierarchy.group("worker", before)
    with program(group, HOLD_48_MIB) as process:
        wait_inside(process)
        with pytest.raises(cgroups.LimitBelowUsage, match=r"Hint: .*fresh worker"):
            group.set(CgroupLimits(memory=16 * MIB, swap=swap))
        group.set(CgroupLimits(memory=80 * MIB, swap=swap))
        group.set(before)
        assert process.poll() is None
        usage = group.usage()
        assert usage.memory_current is not None
        assert 40 * MIB < usage.memory_current < 80 * MIB
    assert group.oom_kills() == 0


def test_the_last_reading_survives_the_group(hierarchy: Hierarchy) -> None:
    group = hierarchy.group("worker", CgroupLimits())
    with program(group, WORK) as process:
        assert process.wait() == 0
    group.remove()
    seconds = group.usage().cpu_seconds
    assert seconds is None or seconds > 0
