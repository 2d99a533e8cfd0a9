"""Whose directory is it? The name says: pid namespace, pid and start time of the supervisor."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress

_serials = itertools.count()


def pool_name(proc: str, prefix: str) -> str:
    """A directory name for a new pool of this process, never used before."""
    pid = os.getpid()
    parts = (_pid_namespace(proc), pid, _start_time(proc, pid) or 0, next(_serials))
    return ".".join([prefix, *map(str, parts)])


def is_orphan(directory_name: str, proc: str, prefix: str) -> bool:
    """Whether the name is one of ours and its owner is gone.

    False in doubt: for names of another form, and for owners in other pid namespaces, which cannot
    be seen from here.
    """
    match = re.fullmatch(re.escape(prefix) + r"\.(\d+)\.(\d+)\.(\d+)\.\d+", directory_name)
    if match is None:
        return False
    namespace, pid, start = map(int, match.groups())
    return namespace == _pid_namespace(proc) and _start_time(proc, pid) != start


def _pid_namespace(proc: str) -> int:
    with suppress(OSError):
        return os.stat(os.path.join(proc, "self/ns/pid")).st_ino
    return 0


def _start_time(proc: str, pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, clock ticks since boot; None for a process that is dead, reaped
    or not."""
    try:
        with open(os.path.join(proc, str(pid), "stat"), "rb") as file:
            # The command, field 2, may contain blanks and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
