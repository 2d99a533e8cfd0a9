"""The groups of one pool: what v1, v2 and a machine without either have in common."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Literal

from . import janitor
from .model import CgroupError, CgroupLimits, CgroupUsage, GroupBusy, Unavailable

Kind = Literal["v1", "v2", "v2-delegated", "none"]

CONTROLLERS: Final = ("memory", "swap", "pids", "cpu")
"""What can be limited; each may be missing for a reason of its own."""

REMOVAL_PATIENCE: Final = 0.2
"""Seconds in which the last processes of a group, already killed, may finish exiting."""


class Group(ABC):
    """The group of one worker. Made by ``Hierarchy.group``; never used again after ``kill``.

    Attributes: ``directories`` (one for v2, one for each controller for v1, none where there are no
    cgroups) and ``procs_files`` (the files into each of which the worker, while it has one thread,
    writes ``0`` as its first act).
    """

    def __init__(self, directories: tuple[str, ...], entrance: str) -> None:
        self.directories = directories
        self.procs_files = tuple(os.path.join(path, entrance) for path in directories)
        self._limits = CgroupLimits()
        self._last: CgroupUsage | None = None

    def set(self, limits: CgroupLimits) -> None:
        """Put other limits in force, at once, also for what already runs. Only changes are written.

        Limits whose controller is missing here are left out: ``Hierarchy.missing`` names them.
        Raises ``LimitBelowUsage`` if more memory is in use, ``CgroupError`` for whatever else the
        kernel refuses.
        """
        with translated("limit", self._where):
            self._write(self._limits, limits)
        self._limits = limits

    def usage(self) -> CgroupUsage:
        """A reading of the counters, some 20 µs; after ``remove`` the last one."""
        if self._last is not None:
            return self._last
        with translated("read", self._where):
            return self._read()

    def memory(self) -> int | None:
        """Bytes in use now, some 5 µs: for looking again and again. None where nothing counts them,
        and after ``remove``."""
        if self._last is not None:
            return None
        with translated("read", self._where):
            return self._read_memory()

    def oom_kills(self) -> int:
        """How often the out-of-memory killer struck here: 0 proves that it did not."""
        return self.usage().oom_kills

    def kill(self, patience: float = janitor.PATIENCE) -> None:
        """End everything inside, sessions of their own included; returns when the group is empty.

        Raises ``GroupBusy`` after ``patience`` seconds. Without cgroups it does nothing.
        """
        if not janitor.kill(self.directories, patience):
            raise GroupBusy("kill everything in", self._where)

    def remove(self, patience: float = REMOVAL_PATIENCE) -> None:
        """Remove the directories; fine if they are gone.

        Raises ``GroupBusy`` if processes live inside, after ``patience`` seconds. A last reading
        that cannot be taken, where descriptors ran out, is done without.
        """
        with suppress(CgroupError):
            self.finish()
        with translated("remove", self._where):
            left = janitor.remove(self.directories, patience)
        if left:
            raise GroupBusy("remove", left[0])

    def finish(self) -> None:
        """Take the last reading and close the descriptors, as ``remove`` does first."""
        if self._last is None:
            try:
                self._last = self.usage()
            finally:
                self._close()

    @property
    def finished(self) -> bool:
        """Whether the last reading has been taken."""
        return self._last is not None

    @property
    def _where(self) -> str:
        return self.directories[0] if self.directories else "no cgroup"

    @abstractmethod
    def _write(self, old: CgroupLimits, new: CgroupLimits) -> None: ...

    @abstractmethod
    def _read(self) -> CgroupUsage: ...

    @abstractmethod
    def _read_memory(self) -> int | None: ...

    @abstractmethod
    def _close(self) -> None: ...


class Hierarchy(ABC):
    """Where one pool makes its groups, found once by ``discover``.

    Attributes: ``kind``; ``controllers`` (those of ``CONTROLLERS`` that are enforced here);
    ``missing`` (why the others are not); ``directories`` (the pool's own top directories, which a
    janitor removes if the supervisor dies).
    """

    kind: Kind

    def __init__(
        self, kind: Kind, missing: Mapping[str, Unavailable], directories: tuple[str, ...]
    ) -> None:
        self.kind = kind
        self.missing = dict(missing)
        self.controllers = frozenset(CONTROLLERS) - missing.keys()
        self.directories = directories
        self._owner = os.getpid()
        self._groups: list[Group] = []

    def group(self, name: str, limits: CgroupLimits) -> Group:
        """A fresh group with its limits in force; ``name`` has never been used in this pool.

        Raises ``CgroupError``; then nothing is left behind.
        """
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"name: {name!r} cannot name a directory")
        with translated("make", name):
            group = self._make(name)
        try:
            group.set(limits)
        except BaseException:
            group.remove()
            raise
        self._groups = [known for known in self._groups if not known.finished]
        self._groups.append(group)
        return group

    def close(self) -> None:
        """Kill what is left in the pool's groups and remove them all, in some four seconds at most.

        Raises ``GroupBusy`` if something does not die. In a forked child it does nothing: the
        groups are the parent's.
        """
        if os.getpid() != self._owner:
            return
        while self._groups:
            with suppress(CgroupError):
                self._groups.pop().finish()
        with translated("remove", " ".join(self.directories)):
            left = janitor.remove_directories(self.directories)
        if left:
            raise GroupBusy("remove", left[0])

    @abstractmethod
    def _make(self, name: str) -> Group: ...


class NoGroup(Group):
    """Stands where no cgroup can be had: enforces nothing, counts nothing, kills nothing."""

    def _write(self, old: CgroupLimits, new: CgroupLimits) -> None:
        pass

    def _read(self) -> CgroupUsage:
        return CgroupUsage()

    def _read_memory(self) -> int | None:
        return None

    def _close(self) -> None:
        pass


class NoHierarchy(Hierarchy):
    """A machine, or a place in it, where this process can make no groups."""

    def __init__(self, missing: Mapping[str, Unavailable]) -> None:
        super().__init__("none", missing, ())

    def _make(self, name: str) -> Group:
        return NoGroup((), entrance="")


@contextmanager
def translated(operation: str, path: str) -> Generator[None]:
    """Turn the kernel's errors into ours."""
    try:
        yield
    except OSError as error:
        hint = "names of groups are used once" if error.errno == errno.EEXIST else None
        where = os.fsdecode(error.filename) if error.filename else path
        raise CgroupError(operation, where, error.errno or 0, hint) from error
