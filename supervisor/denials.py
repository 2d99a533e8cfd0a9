"""System calls that a worker's jail denied: the supervisor's end of seccomp_unotify(2).

The kernel stops the thread that makes the call and makes the listener readable. Whoever reads it
kills the worker: nothing is ever answered, so no denied call is made, and no worker can tell us
twice. The listener is kept until then, because its end would let the thread go on (with an error).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable

import trio

from ..protocol.errors import ProtocolError
from ..protocol.syscalls import name
from .certificates import UNKNOWN, Verdict

_RECEIVE = 0xC0502100
"""``SECCOMP_IOCTL_NOTIF_RECV`` (linux/seccomp.h), for a structure of 80 bytes."""
_NOTIFICATION = struct.Struct("=QIIiI7Q")
"""``struct seccomp_notif``: id, thread, flags, and of the call its number, interface, address and
arguments."""


async def watch(passing: socket.socket, kill: Callable[[Verdict], None]) -> None:
    """Wait for the listener, then for the first denied call, and kill the worker that makes it.

    Returns when it was killed, or ended by itself.

    Args:
        passing: where the listener comes from. A worker that sends anything else is killed, too.
        kill: ends the worker at once.
    """
    await trio.lowlevel.wait_readable(passing)
    try:
        listener = _take(passing)
    except ProtocolError as error:
        kill(Verdict("protocol_violation", "protocol", str(error)))
        return
    except OSError as error:
        kill(Verdict("start_failed", "supervisor", f"the jail's listener cannot be held: {error}"))
        return
    if listener is None:
        return
    try:
        await trio.lowlevel.wait_readable(listener)
        denied = _denied(listener)
        if denied is not None:
            kill(Verdict("syscall_denied", "jail", denied))
    finally:
        trio.lowlevel.notify_closing(listener)
        os.close(listener)


def _take(passing: socket.socket) -> int | None:
    try:
        data, descriptors, flags, _ = socket.recv_fds(passing, 1, 1)
    except ConnectionError:
        return None
    if not data:
        return None
    if not descriptors:
        if flags & socket.MSG_CTRUNC:  # our own table of descriptors is full
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise ProtocolError("a worker passed no descriptor where its listener belongs")
    try:
        passing.shutdown(socket.SHUT_RD)  # nothing else may come
        kind = os.readlink(f"/proc/self/fd/{descriptors[0]}")
        if kind != "anon_inode:seccomp notify":
            raise ProtocolError("a worker passed a descriptor that is no listener")
    except BaseException:
        os.close(descriptors[0])
        raise
    return descriptors[0]


def _denied(listener: int) -> str | None:
    """The call that the listener tells of; never waits."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    happened = sum(events for _, events in poll.poll(0))
    if happened == select.POLLHUP:
        return None  # all threads under the filter are gone
    if not happened & select.POLLIN:
        return UNKNOWN  # a signal took the thread out of the call again
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError:
        return UNKNOWN
    _, _, _, number, audit, *_ = _NOTIFICATION.unpack(buffer)
    return name(audit, number)
