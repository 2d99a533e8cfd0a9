"""cgroup v2: one tree; the pool's directory stands in the root group or beside our own leaf.

**Theory.** A v2 group other than the root has either processes or controllers for the groups below
it, never both. The supervisor is never moved. So the pool's place is its own group only if that is
the root of the machine, which is exempt, and otherwise the group above, provided that it is ours to
write: a process may be moved only by one who can write ``cgroup.procs`` of the nearest group above
both its old and its new place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from . import janitor
from .controllers import GroupNode, UnifiedFiles
from .hierarchy import CONTROLLERS, Group, Hierarchy, Kind
from .model import DELEGATION, CgroupLimits, CgroupUsage, LimitBelowUsage, Unavailable

_SWITCHES: Final = ("memory", "pids", "cpu")
"""The controllers to switch on for the groups below. Swap comes with memory."""

_CONTAINER: Final = (
    "move the container's first process into a group of its own before anything starts: "
    "mkdir /sys/fs/cgroup/main && echo 0 > /sys/fs/cgroup/main/cgroup.procs"
)


class V2Group(Group):
    """One worker's directory."""

    def __init__(self, node: GroupNode, controllers: frozenset[str]) -> None:
        super().__init__((node.directory,), entrance="cgroup.procs")
        self._files: UnifiedFiles = node.controller
        self._controllers = controllers
        if "memory" in controllers:
            # One guest, one fate: never a worker that lives on without one of its processes.
            self._files.memory_oom_group = True

    def _write(self, old: CgroupLimits, new: CgroupLimits) -> None:
        enforced = self._controllers
        if "memory" in enforced and old.memory != new.memory:
            if new.memory is not None:
                self._make_room(new.memory)
            self._files.memory_max = new.memory
        if "swap" in enforced and old.swap != new.swap:
            self._files.memory_swap_max = new.swap
        if "pids" in enforced and old.pids != new.pids:
            self._files.pids_max = new.pids
        if "cpu" in enforced and old.cpu_fraction != new.cpu_fraction:
            self._files.cpu_max = new.cpu_fraction

    def _make_room(self, limit: int) -> None:
        """A limit below what is in use would end the worker; v1 refuses it, and so do we."""
        excess = (self._files.number("memory_current") or 0) - limit
        if excess <= 0:
            return
        with suppress(OSError):
            self._files.memory_reclaim = excess
        if self._files.memory_current > limit:
            raise LimitBelowUsage(self._where)

    def _read(self) -> CgroupUsage:
        files = self._files
        cpu = files.table("cpu_stat")
        used, throttled = cpu.get("usage_usec"), cpu.get("throttled_usec")
        return CgroupUsage(
            memory_peak=files.number("memory_peak"),
            memory_current=self._read_memory(),
            cpu_seconds=None if used is None else used / 1e6,
            oom_kills=files.table("memory_events").get("oom_kill", 0),
            pids_peak=files.number("pids_peak"),
            throttled_seconds=None if throttled is None else throttled / 1e6,
        )

    def _read_memory(self) -> int | None:
        return self._files.number("memory_current")

    def _close(self) -> None:
        self._files.close()


class V2Hierarchy(Hierarchy):
    """The pool's directory, with controllers switched on for the workers' groups in it."""

    def __init__(
        self, kind: Kind, node: GroupNode | None, missing: Mapping[str, Unavailable]
    ) -> None:
        super().__init__(kind, missing, () if node is None else (node.directory,))
        self._node = node

    @classmethod
    def build(cls, mount: str, own: str, name: str) -> V2Hierarchy:
        """Make the pool's directory ``name`` beside ``own``, or in it if that is the root group.

        The answer may have no ``controllers``.
        """
        place = pool_place(mount, own)
        if place is None:
            reason = f"{own} holds processes, this one too, and nothing above it can be seen"
            return cls("v2", None, _all(Unavailable(reason=reason, remedy=_CONTAINER)))
        kind: Kind = "v2" if _is_root(place) else "v2-delegated"
        base = GroupNode(place, controller="unified")
        node = GroupNode(name, base)
        try:
            os.mkdir(node.directory)
        except OSError as error:
            return cls(kind, None, _all(Unavailable.because(error, place)))
        try:
            return cls(kind, node, _switch_on(base, node))
        except BaseException:
            os.rmdir(node.directory)
            raise
        finally:
            base.controller.close()
            node.controller.close()

    def _make(self, name: str) -> Group:
        node = GroupNode(name, self._node)
        os.mkdir(node.directory)
        try:
            return V2Group(node, self.controllers)
        except BaseException:
            janitor.remove((node.directory,))
            raise


def pool_place(mount: str, own: str) -> str | None:
    """The group in which a pool of a process in ``own`` has its directory, if there is any."""
    if _is_root(own):
        return own
    return None if os.path.samefile(own, mount) else os.path.dirname(own)


def _is_root(group: str) -> bool:
    """The root group of the machine (not that of a cgroup namespace) has no type."""
    return not os.path.exists(os.path.join(group, "cgroup.type"))


def _switch_on(base: GroupNode, pool: GroupNode) -> dict[str, Unavailable]:
    """Enable each controller for the groups below the pool; why not, for those that cannot be."""
    missing: dict[str, Unavailable] = {}
    if not os.access(procs := os.path.join(base.directory, "cgroup.procs"), os.W_OK):
        return _all(Unavailable(reason=f"{procs}: not ours to write", remedy=DELEGATION))
    kind = pool.controller.read("type")
    if kind not in ("domain", None):
        reason = f"{pool.directory} is of type '{kind}', which can hold no processes"
        remedy = "start below a group whose cgroup.type is 'domain'"
        return _all(Unavailable(reason=reason, remedy=remedy))
    for controller in _SWITCHES:
        for node in (base, pool):
            try:
                if controller not in node.controller.subtree_control.split():
                    node.controller.subtree_control = f"+{controller}"
            except OSError as error:
                missing[controller] = _why_not(controller, node, error)
                break
    if "memory" in missing:
        missing["swap"] = missing["memory"]
    elif not os.path.exists(path := os.path.join(pool.directory, "memory.swap.max")):
        remedy = "use a kernel with swap accounting (boot option swapaccount=1)"
        missing["swap"] = Unavailable(reason=f"{path} does not exist", remedy=remedy)
    return missing


def _why_not(controller: str, node: GroupNode, error: OSError) -> Unavailable:
    path = os.path.join(node.directory, "cgroup.subtree_control")
    if error.errno == errno.ENOENT:
        reason = f"{path}: the groups above do not offer the controller {controller}"
        remedy = f"enable it above (echo +{controller} > cgroup.subtree_control, or Delegate=yes)"
        return Unavailable(reason=reason, remedy=remedy)
    explained = Unavailable.because(error, path)
    return Unavailable(reason=f"{explained.reason} (+{controller})", remedy=explained.remedy)


def _all(problem: Unavailable) -> dict[str, Unavailable]:
    return dict.fromkeys(CONTROLLERS, problem)
