"""Every situation in which a pool may find itself is named, in made-up machines of plain files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cgroup_machines import V1_FILES, V2_FILES, Machine, stat_line
from cgroup_machines import machine_fixture as machine_fixture

from wasm_sandbox.supervisor.cgroups import (
    CgroupError,
    CgroupLimits,
    Hierarchy,
    Unavailable,
    discover,
    sweep,
)
from wasm_sandbox.supervisor.cgroups.owners import is_orphan, pool_name

ALL = frozenset({"memory", "swap", "pids", "cpu"})


def places(hierarchy: Hierarchy) -> set[Path]:
    return {Path(path).parent for path in hierarchy.directories}


def the_reason(hierarchy: Hierarchy) -> Unavailable:
    """The one reason for everything that is missing."""
    (reason,) = set(hierarchy.missing.values())
    return reason


def nothing_can_be_had(machine: Machine) -> Unavailable:
    found = machine.discover()
    assert (found.kind, found.controllers, found.directories) == ("none", frozenset(), ())
    assert found.missing.keys() == ALL
    assert machine.ours() == []
    return the_reason(found)


def test_root_in_the_root_group_of_v2(machine: Machine) -> None:
    own = machine.mount_v2()
    found = machine.discover()
    assert (found.kind, found.controllers, found.missing) == ("v2", ALL, {})
    assert places(found) == {own}
    group = found.group("worker", CgroupLimits(memory=4096, swap=0, pids=3, cpu_fraction=0.5))
    (directory,) = map(Path, group.directories)
    values = {
        name: (directory / name).read_text() for _, names in V2_FILES.items() for name in names
    }
    assert values == {
        "memory.max": "4096",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "3",
        "cpu.max": "10000 20000",
    }
    assert group.procs_files == (f"{directory}/cgroup.procs",)
    found.close()
    assert machine.ours() == []


def test_delegated_beside_the_leaf(machine: Machine) -> None:
    leaf = machine.mount_v2(own="/user.slice/run-1.service/main", namespaced=True)
    found = machine.discover()
    assert (found.kind, found.controllers) == ("v2-delegated", ALL)
    assert places(found) == {leaf.parent}
    assert (leaf / "cgroup.subtree_control").read_text() == ""


def test_an_ordinary_session_of_v2_is_not_ours(machine: Machine) -> None:
    leaf = machine.mount_v2(own="/user.slice/session-1.scope")
    machine.refuse["mkdir", leaf.parent] = errno.EACCES
    problem = nothing_can_be_had(machine)
    assert problem.reason == f"{leaf.parent}: Permission denied"
    assert "systemd-run --user" in problem.remedy
    assert "-p Delegate=yes -p DelegateSubgroup=main" in problem.remedy


def test_a_group_above_that_lets_nobody_move_is_not_ours(machine: Machine) -> None:
    leaf = machine.mount_v2(own="/service/main")
    machine.refuse["access", leaf.parent] = errno.EACCES
    assert "cgroup.procs: not ours to write" in nothing_can_be_had(machine).reason


def test_a_container_whose_processes_sit_at_the_top(machine: Machine) -> None:
    machine.mount_v2(namespaced=True)
    problem = nothing_can_be_had(machine)
    assert "holds processes" in problem.reason
    assert "mkdir /sys/fs/cgroup/main" in problem.remedy


def test_a_group_above_with_processes_of_its_own(machine: Machine) -> None:
    leaf = machine.mount_v2(own="/service/main")
    machine.refuse["write", leaf.parent] = errno.EBUSY
    found = machine.discover()
    assert found.kind == "none"
    assert {problem.remedy for problem in found.missing.values()} == {
        "leave no process in a group that has groups below it (DelegateSubgroup=main)"
    }
    assert machine.ours() == []


def test_a_threaded_group_can_hold_no_workers(machine: Machine) -> None:
    machine.mount_v2(own="/service/main")
    machine.type_of_new = "domain invalid"
    assert "'domain invalid'" in nothing_can_be_had(machine).reason


def test_controllers_that_are_not_offered_are_missing_alone(machine: Machine) -> None:
    machine.mount_v2(own="/service/main", offered="pids cpuset")
    found = machine.discover()
    assert (found.kind, found.controllers) == ("v2-delegated", frozenset({"pids"}))
    assert found.missing.keys() == {"memory", "swap", "cpu"}
    assert "do not offer the controller memory" in found.missing["memory"].reason
    assert found.missing["swap"] == found.missing["memory"]
    group = found.group("worker", CgroupLimits(memory=1 << 20, pids=7, cpu_fraction=1))
    assert Path(group.directories[0], "pids.max").read_text() == "7"
    assert not Path(group.directories[0], "memory.max").exists()


def test_swap_without_accounting_is_missing_alone(machine: Machine) -> None:
    machine.lacking.add("memory.swap.max")
    machine.mount_v2()
    found = machine.discover()
    assert found.controllers == ALL - {"swap"}
    assert "swapaccount=1" in found.missing["swap"].remedy
    found.group("worker", CgroupLimits(memory=1 << 20, swap=0))


def test_a_hybrid_machine_uses_v1(machine: Machine) -> None:
    own = {machine.mount_v1(name, own="/a") for name in V1_FILES}
    machine.mount_v2(below="unified", own="/a")
    found = machine.discover()
    assert (found.kind, found.controllers) == ("v1", ALL)
    assert places(found) == own
    group = found.group("worker", CgroupLimits(memory=4096, swap=4096, pids=3, cpu_fraction=1.5))
    values = {
        name: Path(directory, name).read_text()
        for directory in group.directories
        for name in os.listdir(directory)
        if name.partition(".")[0] in ("memory", "pids", "cpu")
    }
    assert values == {
        "memory.limit_in_bytes": "4096",
        "memory.memsw.limit_in_bytes": "8192",
        "pids.max": "3",
        "cpu.cfs_period_us": "20000",
        "cpu.cfs_quota_us": "30000",
    }


def test_v1_of_which_only_one_controller_is_ours(machine: Machine) -> None:
    for name in V1_FILES:
        own = machine.mount_v1(name)
        if name != "pids":
            machine.refuse["mkdir", own] = errno.EACCES
    found = machine.discover()
    assert (found.kind, found.controllers) == ("v1", frozenset({"pids"}))
    assert "Permission denied" in found.missing["memory"].reason
    assert found.missing["memory"].remedy.startswith("run as root")


def test_v1_without_the_right_to_any_controller(machine: Machine) -> None:
    for name in ("memory", "pids", "cpu"):
        machine.refuse["mkdir", machine.mount_v1(name)] = errno.EACCES
    machine.mount_v1("freezer")
    found = machine.discover()
    assert found.kind == "none"
    assert machine.ours() == []


def test_v1_that_is_not_ours_beside_v2_that_is(machine: Machine) -> None:
    machine.refuse["mkdir", machine.mount_v1("cpu")] = errno.EACCES
    leaf = machine.mount_v2(below="unified", own="/service/main", offered="memory pids")
    found = machine.discover()
    assert (found.kind, found.controllers) == ("v2-delegated", ALL - {"cpu"})
    assert places(found) == {leaf.parent}


def test_v1_controllers_mounted_together_share_a_directory(machine: Machine) -> None:
    for names in ("memory", "pids", "cpu,cpuacct"):
        machine.mount_v1(names, own="/a")
    found = machine.discover()
    assert found.controllers == ALL
    assert len(found.directories) == 3
    assert len(found.group("worker", CgroupLimits(cpu_fraction=1)).procs_files) == 3


def test_v1_without_swap_accounting(machine: Machine) -> None:
    machine.lacking.add("memory.memsw.limit_in_bytes")
    machine.mount_v1("memory")
    found = machine.discover()
    assert found.controllers == {"memory"}
    assert "memory.memsw.limit_in_bytes does not exist" in found.missing["swap"].reason
    assert "is not mounted" in found.missing["pids"].reason


def test_a_container_that_sees_its_own_part_of_v1(machine: Machine) -> None:
    machine.mount_v1("memory", own="/docker/a1/app", part="/docker/a1")
    found = machine.discover()
    assert places(found) == {machine.root / "memory" / "app"}


@pytest.mark.parametrize("part", ["/docker/other", "/.."])
def test_a_tree_that_shows_the_groups_of_others_only(machine: Machine, part: str) -> None:
    machine.mount_v1("memory", own="/", part="/")
    machine.describe()
    information = machine.proc / "self" / "mountinfo"
    information.write_text(information.read_text().replace("0:1 / ", f"0:1 {part} "))
    found = discover(root=str(machine.root), proc=str(machine.proc))
    assert found.kind == "none"


def test_a_machine_without_cgroups(machine: Machine) -> None:
    machine.root.mkdir()
    assert "no cgroup file system" in nothing_can_be_had(machine).reason


def test_a_machine_without_proc(tmp_path: Path) -> None:
    assert discover(root=str(tmp_path), proc=str(tmp_path / "missing")).kind == "none"


def test_a_mount_elsewhere_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    machine.mount_v2()
    machine.describe()
    assert discover(root=str(tmp_path / "cgr"), proc=str(machine.proc)).kind == "none"
    assert machine.ours() == []


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_read_only_file_system(machine: Machine, kind: str) -> None:
    own = machine.mount_v1("memory") if kind == "v1" else machine.mount_v2()
    machine.refuse["mkdir", own] = errno.EROFS
    machine.describe()
    found = machine.discover()
    assert found.kind == "none"
    assert found.missing["memory"].reason == f"{own}: Read-only file system"
    assert "mount the cgroup file system writable" in found.missing["memory"].remedy


def test_no_room_for_another_group(machine: Machine) -> None:
    for name in ("memory", "pids"):
        machine.mount_v1(name)
    found = machine.discover()
    machine.refuse["mkdir", Path(found.directories[1])] = errno.ENOSPC
    with pytest.raises(CgroupError, match=r"No space left .* Hint: remove groups") as caught:
        found.group("worker", CgroupLimits())
    assert caught.value.number == errno.ENOSPC
    assert not Path(found.directories[0], "worker").exists()


def test_a_blank_in_a_path_is_no_obstacle(tmp_path: Path, machine: Machine) -> None:
    machine.root = tmp_path / "with blank"
    machine.mount_v2()
    machine.describe()
    information = machine.proc / "self" / "mountinfo"
    escaped = information.read_text().replace("with blank", r"with\040blank")
    information.write_text(escaped)
    found = discover(root=str(machine.root), proc=str(machine.proc))
    assert found.kind == "v2"


@pytest.mark.parametrize("place", ["own", "above", "beside"])
def test_dead_pools_are_found_where_pools_stand(machine: Machine, place: str) -> None:
    leaf = machine.mount_v1("memory", own="/runner/now")
    beside = leaf.parent / "before"
    beside.mkdir()
    machine.describe()
    home = {"own": leaf, "above": leaf.parent, "beside": beside}[place]
    dead, foreign = home / "wasm-sandbox.0.4194305.77.0", home / "wasm-sandbox.4026.4194305.77.0"
    for directory in (dead, dead / "worker", foreign):
        directory.mkdir()
    living = machine.discover()
    assert sweep(root=str(machine.root), proc=str(machine.proc)) == 1
    assert machine.ours() == sorted([foreign, *map(Path, living.directories)])


@pytest.mark.parametrize(
    ("name", "stat", "orphan"),
    [
        ("wasm-sandbox.0.12.77.0", stat_line(), False),
        ("wasm-sandbox.0.12.77.0", stat_line(command="a) Z 1 ("), False),
        ("wasm-sandbox.0.12.76.0", stat_line(), True),
        ("wasm-sandbox.0.12.77.0", stat_line(state="Z"), True),
        ("wasm-sandbox.0.12.77.0", None, True),
        ("wasm-sandbox.4026.12.77.0", None, False),
        ("wasm-sandbox-other.0.12.77.0", None, False),
        ("wasm-sandbox.0.12.77", None, False),
        ("system.slice", None, False),
    ],
)
def test_the_name_says_whether_the_owner_is_gone(
    tmp_path: Path, name: str, stat: str | None, orphan: bool
) -> None:
    if stat is not None:
        (tmp_path / "12").mkdir()
        (tmp_path / "12" / "stat").write_text(stat)
    assert is_orphan(name, str(tmp_path), "wasm-sandbox") is orphan


def test_a_living_owner_has_no_orphans_and_no_name_twice() -> None:
    names = [pool_name("/proc", "wasm-sandbox") for _ in range(3)]
    assert len(set(names)) == 3
    assert not any(is_orphan(name, "/proc", "wasm-sandbox") for name in names)


@pytest.mark.parametrize(
    ("field_name", "values"),
    [
        ("memory", {"memory": 0}),
        ("swap", {"memory": 1, "swap": -1}),
        ("swap", {"swap": 0}),
        ("pids", {"pids": 0}),
        ("cpu_fraction", {"cpu_fraction": 0.01}),
        ("cpu_fraction", {"cpu_fraction": float("nan")}),
        ("cpu_fraction", {"cpu_fraction": float("inf")}),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(
    field_name: str, values: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"^{field_name}: "):
        CgroupLimits(**values)  # type: ignore[arg-type]
