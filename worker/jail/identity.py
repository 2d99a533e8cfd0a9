"""Another user for each worker, where root makes the pool (credentials(7)): none that owns a file
or a process of the machine, and none that a sibling is."""

from __future__ import annotations

import errno
import os

from . import capabilities
from .libc import PR_SET_KEEPCAPS, call, prctl

RANGES = ((0x70000000, 1 << 22), (32768, 28232))
"""(first user id, how many) that workers become, in order of preference. The first is what
systemd's *Users, Groups, UIDs and GIDs on systemd systems* leaves unused, wide enough for every
process id; the second, above the accounts and below systemd's dynamic ones, fits into the 65,536
ids of an ordinary container."""


class OtherUser:
    """The user that this process can become."""

    def __init__(self) -> None:
        """Choose by the id of this process. Needs /proc, which a worker does not keep."""
        self._identity = 0
        self._why: OSError | None = None
        try:
            self._identity = _choose()
        except OSError as error:
            self._why = error

    def become(self, *, keep_files: bool) -> None:
        """Become that user, with no other group and without the capabilities of root.

        Args:
            keep_files: whether files are used as the pool's own user all the same (setfsuid(2)). It
                is what granted directories need: a file that only root may read can be read, and
                one that the guest makes is root's. Signals and ptrace(2) ask for the other ids.

        Raises:
            OSError: there is no such user here, or this process may not become it.
        """
        if self._why is not None:
            raise self._why
        _become(self._identity, keep_files)


def _become(identity: int, keep_files: bool) -> None:
    user, group = os.geteuid(), os.getegid()
    os.setgroups([])
    prctl(PR_SET_KEEPCAPS, 1)
    os.setresgid(identity, identity, identity)
    os.setresuid(identity, identity, identity)
    if keep_files:
        capabilities.keep(capabilities.SETUID, capabilities.SETGID)
        _use_files_as("setfsgid", group)
        _use_files_as("setfsuid", user)
    capabilities.drop()


def _use_files_as(function: str, identity: int) -> None:
    """setfsuid(2) and setfsgid(2) tell what they did only when they are asked again."""
    call(function, identity)
    if call(function, -1) != identity:
        raise PermissionError(errno.EPERM, f"{function} was refused")


def _choose() -> int:
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "only root can run workers as other users")
    process = int(os.readlink("/proc/self"))  # getpid(2) tells that of an inner namespace
    for first, count in RANGES:
        if all(_mapped(f"/proc/self/{kind}", first, count) for kind in ("uid_map", "gid_map")):
            return first + process % count
    raise OSError(errno.EINVAL, "the user namespace of this program maps too few user ids")


def _mapped(path: str, first: int, count: int) -> bool:
    with open(path, encoding="ascii") as extents:
        for extent in extents:
            start, _, length = map(int, extent.split())
            if start <= first and first + count <= start + length:
                return True
    return False
