"""cgroup v1: one tree for each controller, and a directory of the pool in each of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final, TypeVar

from . import janitor
from .controllers import (
    CPU_PERIOD,
    CpuAcctFiles,
    CpuFiles,
    DirectController,
    GroupNode,
    MemoryFiles,
    PidsFiles,
)
from .hierarchy import CONTROLLERS, Group, Hierarchy
from .model import CgroupLimits, CgroupUsage, LimitBelowUsage, Unavailable

TREES: Final = ("memory", "pids", "cpu", "cpuacct", "freezer")
"""The controllers used; the last two only count and help to kill."""

_ENFORCING_FILES: Final = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "pids": ("pids", "pids.max"),
    "cpu": ("cpu", "cpu.cfs_quota_us"),
}

_PRIVILEGE: Final = (
    "run as root, or boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1), of which an "
    "ordinary user can be given a part"
)


Files = TypeVar("Files", bound=DirectController)


class V1Group(Group):
    """One worker's directories, one for each controller."""

    def __init__(self, nodes: Mapping[str, GroupNode], controllers: frozenset[str]) -> None:
        directories = tuple(dict.fromkeys(node.directory for node in nodes.values()))
        # Not cgroup.procs: the kernel then waits for all processors (15 ms). One thread is enough.
        super().__init__(directories, entrance="tasks")
        self._controllers = controllers
        self._files: list[DirectController] = [node.controller for node in nodes.values()]
        self._memory = self._of(MemoryFiles)
        self._pids = self._of(PidsFiles)
        self._cpu = self._of(CpuFiles)
        self._cpuacct = self._of(CpuAcctFiles)

    def _of(self, kind: type[Files]) -> Files | None:
        return next((files for files in self._files if isinstance(files, kind)), None)

    def _write(self, old: CgroupLimits, new: CgroupLimits) -> None:
        enforced = self._controllers
        if (
            self._memory
            and "memory" in enforced
            and (old.memory, old.swap) != (new.memory, new.swap)
        ):
            self._write_memory(self._memory, old, new)
        if self._pids and "pids" in enforced and old.pids != new.pids:
            self._pids.max = new.pids
        if self._cpu and "cpu" in enforced and old.cpu_fraction != new.cpu_fraction:
            self._write_cpu(self._cpu, new.cpu_fraction)

    def _write_memory(self, files: MemoryFiles, old: CgroupLimits, new: CgroupLimits) -> None:
        has_swap = "swap" in self._controllers
        old_sum, new_sum = _sum(old), _sum(new)
        # The kernel wants memory <= memory + swap at every moment.
        widened = new_sum is None or (old_sum is not None and new_sum > old_sum)
        try:
            if has_swap and widened:
                files.memsw_limit_in_bytes = new_sum
            files.limit_in_bytes = new.memory
            if has_swap and not widened:
                files.memsw_limit_in_bytes = new_sum
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            files.limit_in_bytes = old.memory
            if has_swap:
                files.memsw_limit_in_bytes = old_sum
            raise LimitBelowUsage(self._where) from error

    def _write_cpu(self, files: CpuFiles, fraction: float | None) -> None:
        files.cfs_period_us = CPU_PERIOD
        try:
            files.cfs_quota_us = None if fraction is None else round(fraction * CPU_PERIOD)
        except OSError as error:
            # A group above has a smaller quota, which v1 allows nobody below to exceed, even in
            # name: it holds.
            if error.errno != errno.EINVAL:
                raise
            files.cfs_quota_us = None

    def _read(self) -> CgroupUsage:
        memory, cpu, cpuacct, pids = self._memory, self._cpu, self._cpuacct, self._pids
        nanoseconds = cpuacct.number("usage") if cpuacct else None
        throttled = cpu.table("stat").get("throttled_time") if cpu else None
        return CgroupUsage(
            memory_peak=memory.number("max_usage_in_bytes") if memory else None,
            memory_current=self._read_memory(),
            cpu_seconds=None if nanoseconds is None else nanoseconds / 1e9,
            oom_kills=memory.table("oom_control").get("oom_kill", 0) if memory else 0,
            pids_peak=pids.number("peak") if pids else None,
            throttled_seconds=None if throttled is None else throttled / 1e9,
        )

    def _read_memory(self) -> int | None:
        return self._memory.number("usage_in_bytes") if self._memory else None

    def _close(self) -> None:
        for files in self._files:
            files.close()


class V1Hierarchy(Hierarchy):
    """The pool's directory in each tree, below the supervisor's own group there."""

    def __init__(self, nodes: dict[str, GroupNode], missing: Mapping[str, Unavailable]) -> None:
        directories = tuple(dict.fromkeys(node.directory for node in nodes.values()))
        super().__init__("v1", missing, directories)
        self._nodes = nodes

    @classmethod
    def build(cls, places: Mapping[str, str], name: str) -> V1Hierarchy:
        """Make the pool's directory ``name`` below each of ``places`` (controller to directory).

        The answer may have no ``controllers``.
        """
        nodes: dict[str, GroupNode] = {}
        failures: dict[str, Unavailable] = {}
        made: set[str] = set()
        for controller in TREES:
            place = places.get(controller)
            if place is None:
                continue
            node = GroupNode(name, GroupNode(place, controller=controller))
            try:
                make_once(node.directory, made)
            except OSError as error:
                failures[controller] = _because(error, place)
            else:
                nodes[controller] = node
        missing: dict[str, Unavailable] = {}
        for controller in CONTROLLERS:
            tree, file = _ENFORCING_FILES[controller]
            if tree not in nodes:
                missing[controller] = failures.get(tree) or _not_mounted(tree)
            elif not os.path.exists(path := os.path.join(nodes[tree].directory, file)):
                missing[controller] = Unavailable(
                    reason=f"{path} does not exist",
                    remedy="use a kernel that has it (for swap: the boot option swapaccount=1)",
                )
        return cls(nodes, missing)

    def _make(self, name: str) -> Group:
        nodes = {controller: GroupNode(name, parent) for controller, parent in self._nodes.items()}
        made: set[str] = set()
        try:
            for node in nodes.values():
                make_once(node.directory, made)
        except BaseException:
            janitor.remove(tuple(made))
            raise
        return V1Group(nodes, self.controllers)


def make_once(directory: str, made: set[str]) -> None:
    """Make a fresh directory; co-mounted controllers (``cpu,cpuacct``) share one."""
    if directory not in made:
        os.mkdir(directory)
        made.add(directory)


def _because(error: OSError, place: str) -> Unavailable:
    problem = Unavailable.because(error, place)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unavailable(reason=problem.reason, remedy=_PRIVILEGE)
    return problem


def _not_mounted(tree: str) -> Unavailable:
    return Unavailable(
        reason=f"the v1 controller {tree} is not mounted, or without the group of this process",
        remedy=f"mount it: mount -t cgroup -o {tree} cgroup /sys/fs/cgroup/{tree}",
    )


def _sum(limits: CgroupLimits) -> int | None:
    if limits.memory is None or limits.swap is None:
        return None
    return limits.memory + limits.swap
