"""Removing cgroups whose owner is gone. Standard library only: the zygote does it after the
supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable


def remove_groups(directories: Iterable[str], deadline: float) -> bool:
    """Kill what is left in ``directories`` and below, and remove them.

    Args:
        directories: the pool's own groups, one for each hierarchy.
        deadline: monotonic seconds at which to give up.

    Returns:
        Whether all of them are gone.
    """
    remaining = [d for d in directories if os.path.isdir(d)]
    while remaining:
        for directory in remaining:
            for path, _, _ in os.walk(directory, topdown=False):
                _kill_all(path)
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        remaining = [d for d in remaining if os.path.isdir(d)]
        if not remaining or time.monotonic() >= deadline:
            break
        time.sleep(0.001)
    return not remaining


def _kill_all(group: str) -> None:
    if _write(group, "cgroup.kill", b"1"):  # version 2
        return
    with (
        contextlib.suppress(OSError, ValueError),
        open(os.path.join(group, "cgroup.procs")) as processes,
    ):
        for pid in map(int, processes):
            if pid > 0:  # 0 is a process of another namespace, and kill(0) would hit ourselves
                os.kill(pid, signal.SIGKILL)
    _write(group, "freezer.state", b"THAWED")  # a frozen task of version 1 does not die


def _write(group: str, name: str, text: bytes) -> bool:
    try:
        descriptor = os.open(os.path.join(group, name), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
