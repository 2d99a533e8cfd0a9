"""What a machine runs out of, and what its user can do about it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from typing import cast

from ..protocol.capabilities import Capabilities
from ..protocol.errors import ConfigurationError, PoolError
from ..protocol.limits import Limits
from ..protocol.profile import Profile

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


def check_open_files(limits: Limits, capabilities: Capabilities) -> None:
    """Refuse more open files than a worker, which has the program's hard limit, could hold.

    Raises:
        ConfigurationError: there is a directory to open them in, and they are more.
    """
    profile = Profile.of(limits, capabilities)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if profile.has_files and most != resource.RLIM_INFINITY and most < profile.descriptors:
        rest = profile.descriptors - limits.open_files
        raise ConfigurationError(
            "limits.open_files",
            limits.open_files,
            f"leaves its worker fewer than the {rest} descriptors that it needs itself, of the "
            f"{most} that this program may have",
            f"raise that before the program starts (ulimit -n {profile.descriptors})"
            + (f", or ask for {most - rest} at most" if most >= rest else ""),
        )


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
