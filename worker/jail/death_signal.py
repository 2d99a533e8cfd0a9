"""What a process is told by the kernel when its parent is gone (prctl(2), PR_SET_PDEATHSIG): the
worker dies with the zygote, and the zygote learns of its program's end even if it was stopped."""

from __future__ import annotations

import os
import signal

from .libc import PR_SET_PDEATHSIG, prctl


def apply() -> None:
    """Ask the kernel for SIGKILL when the parent is gone.

    Raises:
        ProcessLookupError: it is gone already.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        raise ProcessLookupError("the zygote is gone")


def resume() -> None:
    """Ask the kernel for SIGCONT when the thread is gone that started this process.

    A process that was stopped (SIGSTOP) goes on, and finds its parent dead; to one that runs it is
    nothing, so that the thread may well end before the parent. A change of credentials clears it.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGCONT)
