"""Walls by name, what they need, and which of them a user insists on."""

from __future__ import annotations

from collections.abc import Set
from difflib import get_close_matches

import msgspec

from .errors import ConfigurationError
from .fields import Settings, check_kind

WALLS: dict[str, str] = {
    "engine": "WebAssembly itself: linear memory, typed calls, capabilities, its limits",
    "process": "an operating system process of its own, with nothing of the program in it",
    "supervisor": "deadlines, accounting and the protocol's checks, outside the worker",
    "descriptors": "no descriptor but the worker's own channels",
    "environment": "an empty environment",
    "namespace.user": "a user namespace: no power outside of it, where root does not make the pool",
    "namespace.mount": "an empty root directory with only the granted directories in it",
    "namespace.network": "a network without addresses, of the pool's own",
    "namespace.ipc": "System V and POSIX message queues, semaphores, shared memory of its own",
    "namespace.uts": "a host name of the pool's own",
    "namespace.pid": "no other process to be seen or signalled; all of its own die with it",
    "capabilities": "no capability, and no way to one",
    "uid": "where root makes the pool, a user of its own for each worker",
    "dumpable": "PR_SET_DUMPABLE 0: no process of the same user can trace it or read its memory",
    "no_new_privs": "PR_SET_NO_NEW_PRIVS: no set-uid program can raise privileges",
    "death_signal": "PR_SET_PDEATHSIG: the worker dies with its parent",
    "rlimits": "RLIMIT_DATA, NOFILE, FSIZE, NPROC, CORE, MEMLOCK",
    "seccomp": "no system call but those that a worker needs: no program, network, process, mount",
    "landlock": "no file but the granted directories, with exactly their rights",
    "landlock.network": "no TCP port can be bound or connected to, whatever the socket",
    "landlock.scope": "no signal and no abstract socket reaches out of the worker",
    "cgroup.memory": "the worker's memory, by the kernel's memory controller",
    "cgroup.swap": "no swap for the worker",
    "cgroup.pids": "tasks of the worker, by the kernel's pids controller",
    "cgroup.cpu": "processor share of the worker, by the kernel's cpu controller",
}
"""Every wall that this version can build."""
AROUND = frozenset(
    {
        "environment",
        "namespace.user",
        "namespace.network",
        "namespace.uts",
        "namespace.pid",
        "dumpable",
    }
)
"""Those that stand around a whole pool, built by its zygote."""


class Isolation(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The walls that must stand; the pool refuses to start without one of them
    (``IsolationError``)."""

    place = "isolation"

    require: Set[str] = frozenset()

    def __post_init__(self) -> None:
        check_kind("isolation.require", self.require, (set, frozenset))
        msgspec.structs.force_setattr(self, "require", frozenset(self.require))
        for name in self.require:
            if name not in WALLS:
                near = get_close_matches(str(name), WALLS, 1)
                hint = f"did you mean {near[0]}?" if near else f"the walls are {', '.join(WALLS)}"
                raise ConfigurationError("isolation.require", name, "there is no such wall", hint)


class WallReport(msgspec.Struct, frozen=True):
    """Whether a wall stands around the workers here."""

    wall: str
    stands: bool
    reason: str = ""
    """Why it does not."""
    remedy: str = ""
    """How to get it."""


class EnforcementRow(msgspec.Struct, frozen=True, kw_only=True):
    """One field of the policy, and who enforces it on this machine."""

    field: str
    """``limits.memory``, ``capabilities.network``, …"""
    in_force: bool
    """Whether the policy sets anything that would have to be enforced."""
    walls: tuple[str, ...]
    """Walls that enforce it here, innermost first; empty is a gap where ``in_force``."""
    missing: tuple[tuple[str, str, str], ...] = ()
    """(wall, why it does not stand here, how to get it)."""
    note: str = ""

    @property
    def gap(self) -> bool:
        """Whether the policy says something here that nothing enforces."""
        return self.in_force and not self.walls
