"""What a machine runs out of, and what its user can do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import cast

from ..protocol.errors import PoolError

_REMEDIES = {
    errno.ENFILE: "raise the machine's limit of open files (sysctl fs.file-max)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or pids.max of the control group",
    errno.ENOMEM: "free memory, or raise the limit of address space (ulimit -v)",
    errno.ENOSPC: "free space on that file system",
    errno.EDQUOT: "free space in your quota of that file system",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "name a place that can be written to",
}


_NO_THREAD = "can't start new thread"
"""How Python says that the kernel gave it none (``EAGAIN``)."""


def remedy(error: object, otherwise: str = "") -> str:
    """What helps where an error, or a text with the kernel's words in it, says that something ran
    out; ``otherwise`` for every other."""
    text = str(error)
    found = (hint for number, hint in _REMEDIES.items() if os.strerror(number) in text)
    return next(found, _REMEDIES[errno.EAGAIN] if _NO_THREAD in text else otherwise)


def pool_error(what: str, error: Exception) -> PoolError:
    """The error of a pool that could not do ``what``, in words."""
    return PoolError(f"{what}: {error}", remedy(error))


def breakdown(error: BaseException) -> PoolError:
    """The error of a pool whose supervisor raised ``error``: a shortage, or a bug of ours."""
    for each in _leaves(error):  # what ran out ran out for several tasks at once
        if isinstance(each, OSError | RuntimeError) and remedy(each):
            return pool_error("the supervisor cannot go on", each)
    return PoolError(f"the supervisor failed: {error!r}", "this is a bug: please report it")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for each in group.exceptions:
            yield from _leaves(each)
    else:
        yield error
