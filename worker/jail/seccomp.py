"""Only the system calls that a worker needs (seccomp(2)); the first other one ends it.

The kernel stops the thread that makes a denied call and tells whoever holds the filter's listener
(seccomp_unotify(2)). That is the supervisor: it learns which call it was, for sure, and kills the
worker. The call never happens; with no listener left it fails with ``ENOSYS``. Where the kernel
gives no listener, because this process runs under another filter that has one, it kills the worker
itself, by ``SIGSYS``, and nobody learns the name.

The filter can not allow sending descriptors, or a fallen worker could send the supervisor some. So
the listener, which exists only once the filter is on, is sent by a thread that was started before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import threading
from collections.abc import Callable
from typing import get_args

from ...protocol.syscalls import NUMBERS
from . import calls
from .libc import system_call

_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_CLONE_THREAD = 0x10000


class _Program(ctypes.Structure):
    """``sock_fprog``, linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def apply(*, work: calls.Work, hand_over: Callable[[int], None]) -> None:
    """Put the filter on this thread, the only one, and all that come after it.

    Args:
        work: what the worker does from now on.
        hand_over: sends the listener to the supervisor.

    Raises:
        OSError: it could not be had, or would not hold all threads.
    """
    machine = os.uname().machine
    if machine not in NUMBERS:
        raise OSError(errno.ENOSYS, f"the system calls of {machine} are not known here")
    _refuse_company()
    made: queue.SimpleQueue[int] = queue.SimpleQueue()
    herald = threading.Thread(target=_herald, args=(made, hand_over), name="herald")
    herald.start()
    listener = -1
    try:
        listener = _install(machine, work)
    finally:
        made.put(listener)
        herald.join()


def warm_up() -> None:
    """Make the filters, in the zygote, for all workers to come."""
    machine = os.uname().machine
    if machine in NUMBERS:
        for work in get_args(calls.Work):
            calls.template(machine, work, calls.NOTIFY)


def _herald(made: queue.SimpleQueue[int], hand_over: Callable[[int], None]) -> None:
    listener = made.get()
    if listener < 0:
        return
    try:
        with contextlib.suppress(OSError):  # the supervisor is gone: the next read tells it
            hand_over(listener)
    finally:
        os.close(listener)


def _refuse_company() -> None:
    """Refuse to go on beside other threads: unshare(2) of threads does nothing but tell."""
    try:
        system_call(NUMBERS[os.uname().machine]["unshare"], _CLONE_THREAD)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise OSError(errno.EINVAL, "a thread that the filter would not hold runs") from None


def _install(machine: str, work: calls.Work) -> int:
    """Put the filter on; its listener, or -1 where the kernel gives none."""
    number, pid = NUMBERS[machine]["seccomp"], os.getpid()
    try:
        code = calls.program(machine, work, pid, calls.NOTIFY)
        return _load(number, _NEW_LISTENER, code)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EINVAL):
            raise
    try:
        _load(number, 0, calls.program(machine, work, pid, calls.KILL))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        raise OSError(error.errno, "the kernel has no seccomp filters") from None
    return -1


def _load(number: int, flags: int, code: bytes) -> int:
    program = _Program(len(code) // 8, code)
    return system_call(number, _SET_MODE_FILTER, flags, ctypes.addressof(program))
