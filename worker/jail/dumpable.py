"""No other process of the same user can trace the worker, read its memory, or have it dumped
(prctl(2), PR_SET_DUMPABLE)."""

from __future__ import annotations

from .libc import PR_SET_DUMPABLE, prctl


def forbid() -> None:
    """Close ``/proc/PID``, ptrace(2) and process_vm_readv(2) of this process to all but root."""
    prctl(PR_SET_DUMPABLE, 0)
