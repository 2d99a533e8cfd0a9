"""Kill what lives in a group and remove its directory, given nothing but paths.

Standard library only, no imports from the package: everything here also works when the rest of the
supervisor is gone.

**Why killing is a loop.** v2 has ``cgroup.kill``, which no fork escapes. v1 has nothing of the
kind: processes are frozen, signalled and thawed, and without a freezer signalled again for as long
as there are new ones. A pid read from ``cgroup.procs`` may by then belong to somebody else's
process, so each one is pinned by a pidfd, and signalled only if it is still listed afterwards.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

PATIENCE: Final = 2.0
"""Seconds after which processes that do not die (state D) are given up."""

_BATCH: Final = 64
_FREEZE_PATIENCE: Final = 0.02
_PAUSE: Final = 0.001


def tree(directory: str) -> Iterator[str]:
    """``directory`` and all below it, the deepest first; nothing if it is gone."""
    with suppress(OSError):
        if os.stat(directory).st_nlink == 2:  # nothing below: the usual case, without a listing
            yield directory
            return
    for path, _, _ in os.walk(directory, topdown=False):
        yield path


def members(directories: Iterable[str]) -> set[int]:
    """The processes in these groups and in those below them. Pids of other pid namespaces (0) are
    left out."""
    pids: set[int] = set()
    for top in directories:
        for directory in tree(top):
            with suppress(OSError), open(os.path.join(directory, "cgroup.procs")) as file:
                pids.update(map(int, file))
    return pids - {0, os.getpid()}


def kill(directories: Sequence[str], patience: float = PATIENCE) -> bool:
    """End every process in these groups; True when all of them are empty, False after ``patience``
    seconds."""
    if not members(directories):  # nobody is left who could fork: the usual case, at a third of it
        return True
    deadline = time.monotonic() + patience
    for directory in directories:
        _write(directory, "cgroup.kill", "1")
    for directory in directories:
        _kill_frozen(directory)
    signalled: set[int] = set()
    while present := members(directories):
        newcomers = present - signalled
        signalled |= newcomers
        if newcomers:
            _signal(newcomers, directories)
        elif not _wait_for_end(next(iter(present))):
            signalled.clear()
        if time.monotonic() > deadline:
            return not members(directories)
    return True


def remove(directories: Sequence[str], patience: float = PATIENCE) -> tuple[str, ...]:
    """Remove these directories and all below; returns those that are left because processes are
    inside.

    Raises ``OSError`` for anything but a missing or a busy directory.
    """
    deadline = time.monotonic() + patience
    while left := tuple(directory for directory in directories if not _removed(directory)):
        if time.monotonic() > deadline:
            return left
        time.sleep(_PAUSE)
    return ()


def remove_directories(directories: Sequence[str], patience: float = PATIENCE) -> tuple[str, ...]:
    """Kill everything in these directories and remove them; returns those that could not be
    removed.

    Takes at most about twice ``patience`` (seconds). Missing directories are fine, so that several
    janitors may work at once.
    """
    kill(directories, patience)
    return remove(directories, patience)


def _removed(directory: str) -> bool:
    for path in tree(directory):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise
    return True


def _write(directory: str, name: str, text: str) -> bool:
    """Write a control file; False where it does not exist or refuses."""
    try:
        descriptor = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _kill_frozen(directory: str) -> None:
    """v1: stop all, signal all, let them go to die. Frozen processes cannot exit, so their pids
    stay theirs."""
    try:
        # Kept open until it is thawed: descriptors may have run out by then.
        state = os.open(os.path.join(directory, "freezer.state"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.pwrite(state, b"FROZEN", 0)
            deadline = time.monotonic() + _FREEZE_PATIENCE
            while os.pread(state, 16, 0).strip() != b"FROZEN" and time.monotonic() < deadline:
                time.sleep(_PAUSE / 10)
            _signal(members([directory]), [directory])
    finally:
        with suppress(OSError):
            os.pwrite(state, b"THAWED", 0)
        os.close(state)
        # Those below, too: a supervisor that was killed in here may have left one frozen.
        for path in tree(directory):
            _write(path, "freezer.state", "THAWED")


def _signal(pids: Iterable[int], directories: Sequence[str]) -> None:
    queue = list(pids)
    while batch := queue[:_BATCH]:
        del queue[:_BATCH]
        pinned: dict[int, int] = {}
        try:
            for pid in batch:
                if (descriptor := _pin(pid)) is not None:
                    pinned[pid] = descriptor
            for pid in pinned.keys() & members(directories):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pinned[pid], signal.SIGKILL)
        finally:
            for descriptor in pinned.values():
                os.close(descriptor)


def _pin(pid: int) -> int | None:
    """A pidfd of a process; None if it has ended.

    There, a kernel may call the number invalid (6.1 does) as long as the session or the process
    group lives on that is named after it.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):
            raise
        return None


def _wait_for_end(pid: int) -> bool:
    """Wait a moment for a signalled process to end; False if it did not."""
    descriptor = _pin(pid)
    if descriptor is None:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(50))
    finally:
        os.close(descriptor)
