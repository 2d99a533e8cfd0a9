"""PID namespaces (pid_namespaces(7)): one for a pool, with its zygote as the first process, and in
it one for each worker.

Theory of operation. A process cannot move into a new PID namespace (and one that made itself one
can start no more threads): its next child is born in it. So the zygote is itself a child. The
process that the program started stays behind as its *anchor*: it waits, ends as the zygote ended,
and sees to it that the zygote ends after the program. As the first process of its namespace the
zygote takes all of its workers along when it dies, whatever they did to their death signal; and it
has the right to return to that namespace, so that it can unshare a new one, fork, and go back.

A worker is not the first process of its own namespace, because such a one ignores every signal
that it has no handler for, its own abort(3) too. The first is an *init* that only waits. It shares
all memory with the zygote, as a thread would, so that it costs next to nothing (a fork would cost
1 MiB); tools that add up the memory of processes count the zygote's once more for each. A worker
cannot harm it: it ignores every signal from inside, and whoever wants to trace it needs the
capabilities that it has. When it is killed the kernel kills everything that the worker has left
behind.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
from typing import NoReturn

from . import death_signal
from .libc import PR_SET_PDEATHSIG, call, prctl, set_name
from .namespaces import NEWPID, unshare

_OWN = "/proc/self/ns/pid"
_LIKE_A_THREAD = 0x100 | 0x200 | 0x400
"""CLONE_VM, CLONE_FS and CLONE_FILES: no copy of anything, and no descriptor kept open."""
_INIT_STACK = 1 << 14
GOODBYE_SECONDS = 10
"""How long a zygote may take to tidy up after its supervisor, and to end."""

_clone = ctypes.PyDLL(None, use_errno=True).clone
_clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_PAUSE = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)


class PidNamespaces:
    """Forks processes into PID namespaces of their own. Its process must have one thread only."""

    def __init__(self, supervisor: int) -> None:
        """Go on in a child that is the first process of a new PID namespace, and does not outlive
        the process of the pidfd ``supervisor`` for long.

        Raises:
            OSError: no such namespace can be made; nothing has changed.
            RuntimeError: no process can be made.
        """
        os.stat(_OWN)
        unshare(NEWPID)
        _leave_anchor(supervisor)
        self._own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        # All inits wait on one stack: none ever returns from pause(2).
        self._stack = mmap.mmap(-1, _INIT_STACK)

    def fork(self) -> tuple[int, int]:
        """Fork: (process, init of its namespace); the process is 0 in the child.

        Raises:
            OSError: no process, or no namespace, can be had.
        """
        unshare(NEWPID)
        child, init = -1, 0
        try:
            init = self._start_init()
            child = os.fork()
        finally:
            if child != 0:  # this is the zygote
                call("setns", self._own, NEWPID)
            if child < 0 and init:
                os.kill(init, signal.SIGKILL)
                os.waitpid(init, 0)
        return child, init

    def _start_init(self) -> int:
        set_name("wasm-init")
        held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + _INIT_STACK
            init: int = _clone(_PAUSE, top, _LIKE_A_THREAD | signal.SIGCHLD, None)
            if init < 0:
                error = ctypes.get_errno()
                raise OSError(error, f"clone: {os.strerror(error)}")
            return init
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            set_name("wasm-zygote")


def pid_outside(pidfd: int) -> int:
    """The process id of ``pidfd`` as the program knows it, whose /proc this is."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def _leave_anchor(supervisor: int) -> None:
    """Fork; the parent waits for its child and ends as it did, the child goes on."""
    anchor = os.pidfd_open(os.getpid())
    try:
        child = os.fork()
    except OSError as error:
        raise RuntimeError(f"no process for the namespace: {error}") from error
    if child:
        set_name("wasm-anchor")
        os.dup2(supervisor, 3)
        os.closerange(4, 1 << 20)
        _hold(child, supervisor=3)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([anchor], [], [], 0)[0]:
        os._exit(0)
    os.close(anchor)


def _hold(zygote: int, supervisor: int) -> NoReturn:
    """Be the anchor. The zygote goes by itself when the supervisor is gone, unless it is stopped
    (SIGSTOP): then it is resumed, and killed if that does not help."""
    death_signal.resume()
    watched = select.poll()
    ended = os.pidfd_open(zygote)
    watched.register(ended, select.POLLIN)
    watched.register(supervisor, select.POLLIN)
    watched.poll()
    watched.unregister(supervisor)
    os.kill(zygote, signal.SIGCONT)
    if not watched.poll(GOODBYE_SECONDS * 1000):
        os.kill(zygote, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(zygote, 0)[1])
    os._exit(code if code >= 0 else 128 - code)
