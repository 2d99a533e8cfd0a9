"""Namespaces (namespaces(7)): what of the machine a worker can see at all.

Those that hold nothing of a single worker's are left once, by the zygote, for all workers of its
pool: making a network namespace takes up to 20 ms, and one is worth 200 KiB of the kernel's memory.
"""

from __future__ import annotations

from .libc import call

NEWNS = 0x00020000
NEWUTS = 0x04000000
NEWIPC = 0x08000000
NEWUSER = 0x10000000
NEWPID = 0x20000000
NEWNET = 0x40000000
"""Flags of clone(2), unshare(2) and setns(2)."""


def unshare(flags: int) -> None:
    """Put this process, or for ``NEWPID`` its next child, into new namespaces.

    Raises:
        OSError: the kernel refuses it.
    """
    call("unshare", flags)


def leave_network() -> None:
    """Leave the network: what there is now has no address, and not even its loopback is up."""
    unshare(NEWNET)


def leave_name() -> None:
    """Leave the machine's name."""
    unshare(NEWUTS)


def leave_ipc() -> None:
    """Leave System V's shared memory, semaphores and queues, and POSIX' message queues; what is
    made of them from now on ends with the worker."""
    unshare(NEWIPC)
