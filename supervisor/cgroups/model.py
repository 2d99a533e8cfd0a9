"""What a cgroup is asked for, what it answers, and the ways in which it can refuse."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

SMALLEST_CPU_FRACTION: Final = 0.05
"""The kernel grants at least 1 ms of processor time in each period; see ``controllers.CPU_PERIOD``.
"""

DELEGATION: Final = (
    "run as root, or in a delegated group: systemd-run --user --pipe --wait --collect --same-dir "
    "-p Delegate=yes -p DelegateSubgroup=main COMMAND (systemd 254 or newer; see docs/cgroups.md)"
)

_REMEDIES: Final = {
    errno.EACCES: DELEGATION,
    errno.EPERM: DELEGATION,
    errno.EROFS: "mount the cgroup file system writable (a container needs its own writable one)",
    errno.ENOENT: "mount the controller, or enable it in the group above (cgroup.subtree_control)",
    errno.EBUSY: "leave no process in a group that has groups below it (DelegateSubgroup=main)",
    errno.EOPNOTSUPP: "start below a group whose cgroup.type is 'domain'",
    errno.ENOSPC: "remove groups that are no longer used (see cgroup.max.descendants)",
    errno.EAGAIN: "raise cgroup.max.descendants or cgroup.max.depth of the groups above",
    errno.ENOMEM: "free kernel memory: remove groups that are no longer used",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_NO_REMEDY: Final = "see docs/cgroups.md"


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """Why something cannot be had here, and what the user can do about it."""

    reason: str
    remedy: str

    @classmethod
    def because(cls, error: OSError, path: str) -> Unavailable:
        """The explanation of an ``OSError`` met at ``path``."""
        reason = f"{path}: {os.strerror(error.errno or 0)}"
        return cls(reason=reason, remedy=_REMEDIES.get(error.errno or 0, _NO_REMEDY))


class CgroupError(Exception):
    """The kernel refused an operation on one of our own groups.

    Attributes: ``operation`` (what was tried), ``path`` (the file or directory), ``number`` (the
    errno, 0 for none) and ``hint`` (what the user can do).
    """

    def __init__(self, operation: str, path: str, number: int, hint: str | None = None) -> None:
        self.operation = operation
        self.path = path
        self.number = number
        self.hint = hint or _REMEDIES.get(number, _NO_REMEDY)
        reason = f": {os.strerror(number)}" if number else ""
        super().__init__(f"cannot {operation} {path}{reason}. Hint: {self.hint}")


class LimitBelowUsage(CgroupError):
    """A live group already uses more memory than the new limit; the old limit stays in force."""

    def __init__(self, path: str) -> None:
        hint = "a group's memory limit can be lowered only to what is in use; start a fresh worker"
        super().__init__("lower the memory limit in", path, errno.EBUSY, hint)


class GroupBusy(CgroupError):
    """Processes are left in the group (not killed yet, or stuck in the kernel), so it cannot be
    removed."""

    def __init__(self, operation: str, path: str) -> None:
        hint = "kill the group first; a process in state D dies when its input or output ends"
        super().__init__(operation, path, errno.EBUSY, hint)


@dataclass(frozen=True, kw_only=True)
class CgroupLimits:
    """The limits of one group; None is no limit of its own (those of the groups above still hold).

    Raises ``ValueError`` that names the field.
    """

    memory: int | None = None
    """Bytes of memory, page cache and kernel memory included. The kernel rounds down to whole
    pages."""

    swap: int | None = None
    """Bytes of swap on top of ``memory``; 0 is none. Needs ``memory``."""

    pids: int | None = None
    """Processes and threads together, at least 1."""

    cpu_fraction: float | None = None
    """Share of one core, from 0.05; 2.0 is two cores."""

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 1:
            raise ValueError("memory: at least 1 byte")
        if self.swap is not None and (self.swap < 0 or self.memory is None):
            raise ValueError("swap: 0 or more bytes, and only together with memory")
        if self.pids is not None and self.pids < 1:
            raise ValueError("pids: at least 1")
        if self.cpu_fraction is not None and not (SMALLEST_CPU_FRACTION <= self.cpu_fraction < 1e6):
            raise ValueError(f"cpu_fraction: at least {SMALLEST_CPU_FRACTION} of a core")


@dataclass(frozen=True, kw_only=True)
class CgroupUsage:
    """What a group has used up to now; None where this kernel does not count it."""

    memory_peak: int | None = None
    """Highest memory use so far, bytes."""

    memory_current: int | None = None
    """Memory in use now, bytes."""

    cpu_seconds: float | None = None
    """Processor time, user and system."""

    oom_kills: int = 0
    """Processes of this group that the kernel's out-of-memory killer ended. More than 0 is the
    proof that it struck; under v2, where it ends the whole group, the kernel counts its first
    victim twice."""

    pids_peak: int | None = None
    """Most processes and threads at once."""

    throttled_seconds: float | None = None
    """Time during which the group wanted to run and ``cpu_fraction`` held it back."""
