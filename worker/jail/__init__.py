"""The jail: one small module for each wall. Each degrades separately and says why."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from ...protocol.capabilities import Grant
from ...protocol.profile import Profile
from . import (
    capabilities,
    death_signal,
    dumpable,
    identity,
    landlock,
    namespaces,
    no_new_privs,
    rlimits,
    seccomp,
    user_namespace,
)
from .calls import Work
from .libc import set_name
from .mount_namespace import Root
from .pid_namespace import PidNamespaces

__all__ = [
    "Around",
    "Jail",
    "build",
    "build_for_compiler",
    "close",
    "enter_groups",
    "keep_descriptors",
    "set_name",
    "warm_up",
    "work",
]


warm_up = seccomp.warm_up


def enter_groups(procs_files: Iterable[str]) -> None:
    """Move this process into its cgroups: its first act, before anything foreign runs.

    Raises:
        OSError: a group refused it; the worker must not go on.
    """
    for path in procs_files:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def keep_descriptors(descriptors: Sequence[int], *, stderr: int | None = None) -> list[int]:
    """Close everything but ``descriptors``, which become 3, 4, 5, …; 0 and 1 become ``/dev/null``.

    ``stderr`` becomes descriptor 2 (``/dev/null`` where it is ``None``).
    """
    high = 3 + len(descriptors) + max([*descriptors, stderr or 0, 2])
    parked = [_duplicate_above(descriptor, high) for descriptor in descriptors]
    parked_stderr = None if stderr is None else _duplicate_above(stderr, high)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    if parked_stderr is not None:
        os.dup2(parked_stderr, 2)
    kept = list(range(3, 3 + len(descriptors)))
    for target, source in zip(kept, parked, strict=True):
        os.dup2(source, target, inheritable=False)
    os.closerange(3 + len(descriptors), 1 << 20)
    return kept


def _duplicate_above(descriptor: int, low: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, low)


class Walls:
    """Which walls stand, and why the others do not.

    Args:
        chosen: the walls to build, ``None`` for all (see ``protocol.attacks``).
    """

    def __init__(self, chosen: Collection[str] | None = None) -> None:
        self.chosen = chosen
        self.walls: list[str] = []
        self.missing: list[tuple[str, str]] = []

    def wanted(self, wall: str) -> bool:
        """Whether a wall is to be built."""
        return self.chosen is None or wall in self.chosen

    def add(self, wall: str, build: Callable[[], None]) -> None:
        """Build a wall, or note why it cannot be built."""
        if not self.wanted(wall):
            return
        try:
            build()
        except OSError as error:
            self.missing.append((wall, error.strerror or str(error)))
        else:
            self.walls.append(wall)


class Around(Walls):
    """The walls that all workers of a pool share. Making it builds them around this process, which
    goes on in a child of itself where it gets a PID namespace.

    Args:
        supervisor: a pidfd of the program, whose end this process is to learn of though stopped.
        chosen: the walls to build, ``None`` for all (see ``protocol.attacks``).
    """

    def __init__(self, supervisor: int, chosen: Collection[str] | None = None) -> None:
        super().__init__(chosen)
        self._supervisor = supervisor
        self.pids: PidNamespaces | None = None
        """What forks workers into PID namespaces of their own."""
        self.add("namespace.user", user_namespace.enter)
        self.add("namespace.network", namespaces.leave_network)
        self.add("namespace.uts", namespaces.leave_name)
        self.add("namespace.pid", self._enter_pid_namespace)
        self.add("dumpable", dumpable.forbid)
        if self.pids is None:
            death_signal.resume()  # last: other credentials clear it

    def _enter_pid_namespace(self) -> None:
        self.pids = PidNamespaces(self._supervisor)


class Jail(Walls):
    """The walls of one worker, as far as those of all workers are built alike."""

    def __init__(self, around: Walls, root: Root, chosen: Collection[str] | None) -> None:
        super().__init__(chosen)
        self.root = root
        self.walls += ["engine", "process"]
        self.walls += filter(self.wanted, ("descriptors", "environment"))
        self.walls += around.walls
        self.missing += around.missing
        user = identity.OtherUser()
        self.add("namespace.ipc", namespaces.leave_ipc)
        self.add("namespace.mount", root.enter)
        self.add("capabilities", capabilities.bound)
        self.add("uid", lambda: user.become(keep_files=root.keeps_files))
        if self.wanted("capabilities"):
            capabilities.drop()
        self.add("no_new_privs", no_new_privs.apply)

    @property
    def counted(self) -> bool:
        """Whether its tasks are counted apart from the program's (see ``rlimits.apply``)."""
        return not {"uid", "namespace.user"}.isdisjoint(self.walls)


def build(
    profile: Profile, data_limit: int, around: Walls, chosen: Collection[str] | None = None
) -> Jail:
    """Put the jail on for running guests of ``profile``.

    Args:
        profile: what the worker is made for.
        data_limit: ``RLIMIT_DATA`` in bytes.
        around: what stands around its pool.
        chosen: as for ``Walls``.
    """
    jail = Jail(around, Root(profile.directories, profile.scratch), chosen)
    jail.add(
        "rlimits",
        lambda: rlimits.apply(
            data=data_limit,
            files=profile.descriptors,
            file_size=profile.file_size,
            counted=jail.counted,
        ),
    )
    jail.add("death_signal", death_signal.apply)
    _fence(jail, [*jail.root.directories, *(each.grant for each in jail.root.scratch)])
    return jail


def build_for_compiler(data_limit: int, around: Walls) -> Jail:
    """Put the jail on for compiling. The artifact is a file in memory, whose bytes come out of the
    compiler's own: it may grow to ``data_limit`` as well."""
    jail = Jail(around, Root(), around.chosen)
    jail.add(
        "rlimits",
        lambda: rlimits.apply(
            data=data_limit, files=64, file_size=data_limit or None, counted=jail.counted
        ),
    )
    jail.add("death_signal", death_signal.apply)
    _fence(jail, ())
    return jail


def _fence(built: Walls, grants: Sequence[Grant]) -> None:
    abi = 0

    def build() -> None:
        nonlocal abi
        abi = landlock.apply(grants=grants, later=[*filter(built.wanted, landlock.LATER)])

    built.add("landlock", build)
    for wall in landlock.LATER:
        built.add(wall, partial(landlock.require, wall, abi))


def close(built: Walls, work: Work, passing: socket.socket) -> None:
    """Put on the last wall, when the engine is up and nothing foreign has run yet: from here on
    nothing is imported and no file but a granted one is opened.

    Args:
        built: what stands already; gets the wall, too.
        work: what the worker does now.
        passing: the socket on which the supervisor is sent the filter's listener.
    """

    def hand_over(listener: int) -> None:
        socket.send_fds(passing, [b"+"], [listener])

    built.add("seccomp", lambda: seccomp.apply(work=work, hand_over=hand_over))


def work(profile: Profile) -> Work:
    """What a worker of ``profile`` does."""
    if not profile.has_files:
        return "run"
    writes = bool(profile.scratch) or any(grant.writable for grant in profile.directories)
    return "run writing files" if writes else "run reading files"
