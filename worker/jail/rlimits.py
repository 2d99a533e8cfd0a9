"""Resource limits of the process (setrlimit(2)); hard ones, so that they cannot be raised again."""

from __future__ import annotations

import resource

PROCESSES = 4096
"""Tasks of the user that the worker runs as: far more than a pool's workers have together, and far
fewer than there can be. A ``cgroup.pids`` counts each worker's own."""


def apply(*, data: int, files: int, file_size: int | None, counted: bool) -> None:
    """Set the limits.

    Args:
        data: bytes of private writable memory (``RLIMIT_DATA``); 0 leaves it alone. Not
            ``RLIMIT_AS``: the engine reserves address space by the terabyte that it never touches.
        files: descriptors (``RLIMIT_NOFILE``).
        file_size: bytes that a file may grow to (``RLIMIT_FSIZE``); ``None`` leaves it alone.
        counted: whether the kernel counts the tasks of this pool, or of this worker, apart from
            those of the program's user: it does by user and user namespace. Else ``RLIMIT_NPROC``
            is left alone.
    """
    if data:
        lower(resource.RLIMIT_DATA, data)
    lower(resource.RLIMIT_NOFILE, files)
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_MEMLOCK, 0)
    if counted:
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        unlimited = soft == resource.RLIM_INFINITY
        lower(resource.RLIMIT_NPROC, PROCESSES if unlimited else min(PROCESSES, soft))
    if file_size is not None:
        lower(resource.RLIMIT_FSIZE, file_size)


def lower(which: int, value: int) -> None:
    """Set a limit, but never above the one that stands."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
