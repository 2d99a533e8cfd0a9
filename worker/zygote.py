"""The zygote: one clean, single-threaded process per pool that forks workers, reaps them, and
tidies up.

Theory of operation. It is started by multiprocess' *spawn*, so nothing of the user's program is in
its memory. It imports the engine and every lazy module once; a fork of it is a worker in about a
millisecond, sharing those pages. It runs no guest and compiles nothing: a fork after either would
hang its children (the engine's thread pools do not survive a fork). What needs to run the engine
once, the check of the raw call path, happens in a forked child that exits.

Before it is anything else it leaves the program's namespaces, where it may, and goes on as the
first process of a PID namespace (``jail/pid_namespace.py``): its workers die with it, whatever they
do.

It outlives the supervisor by a moment: when the channel ends or the supervisor's pidfd becomes
readable it kills the workers, removes the cgroups that it was told of, and goes; if it was stopped
then, the kernel resumes it. If it is killed itself, PDEATHSIG takes the workers that the namespace
does not.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..protocol import zygote as wire
from . import jail
from .jail.pid_namespace import pid_outside
from .janitor import remove_groups

if TYPE_CHECKING:
    from . import entry

TIDY_SECONDS = 2.0
"""How long the janitor tries to remove cgroups that are still busy."""


def main(channel: int, parent: int, chosen: Collection[str] | None = None) -> NoReturn:
    """Serve the supervisor ``parent`` on the socket ``channel`` until either ends. Never
    returns. ``chosen`` are the walls to build, ``None`` for all (see ``protocol.attacks``)."""
    code, talk = 1, None
    try:
        os.environ.clear()
        sys.argv = ["wasm-sandbox-zygote"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # What the program ignores or has blocked came along: children have to be waited for, and
        # the engine lives by signals.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        jail.set_name("wasm-zygote")
        talk = socket.socket(fileno=jail.keep_descriptors([channel])[0])
        supervisor = _hold(parent)
        Zygote(talk, supervisor, jail.Around(supervisor, chosen)).serve()
        code = 0
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:1000]
        with contextlib.suppress(OSError):
            if talk is not None:
                talk.send(wire.encode(wire.Failed(reason)))
    finally:
        os._exit(code)


def _hold(parent: int) -> int:
    """A pidfd of the supervisor; the process ends where it is gone."""
    try:
        held = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(0)
    if os.getppid() != parent:
        os._exit(0)
    return held


class _Child(NamedTuple):
    worker: int
    pid: int
    init: int
    """First process of the worker's PID namespace, or 0."""


class Zygote:
    """State of the zygote process."""

    def __init__(self, channel: socket.socket, supervisor: int, around: jail.Around) -> None:
        self._channel = channel
        self._parent = supervisor
        self._around = around
        self._children: dict[int, _Child] = {}
        """By pidfd."""
        self._dying: dict[int, int] = {}
        """pidfd to pid of the inits whose workers are dead."""
        self._cgroups: tuple[str, ...] = ()
        self._poll = select.epoll()

    def serve(self) -> None:
        """Fork on request and report deaths, until the supervisor is gone; then tidy up."""
        from . import entry  # with the engine, of which the anchor should have no copy

        probe = entry.Probe()
        identity, sources = entry.engine_identity(), entry.guard_sources()
        self._send(wire.Hello(*identity, sources, int(os.readlink("/proc/self"))))
        entry.warm_up()
        gc.freeze()  # no collection in a worker touches, and so copies, what all of them share
        gc.enable()
        self._poll.register(self._channel, select.EPOLLIN)
        self._poll.register(self._parent, select.EPOLLIN)
        try:
            while self._turn(probe):
                pass
        finally:
            self._tidy()

    def _turn(self, probe: entry.Probe) -> bool:
        for descriptor, _ in self._poll.poll():
            if descriptor == self._parent:
                return False
            if descriptor in self._children:
                self._reap(descriptor)
                continue
            if descriptor in self._dying:
                self._unwatch(descriptor)
                os.waitpid(self._dying.pop(descriptor), 0)
                continue
            data, descriptors, flags, _ = socket.recv_fds(self._channel, wire.MAX_DATAGRAM, 8)
            if not data:
                return False
            request = wire.decode_to_zygote(data)
            if isinstance(request, wire.Own):
                self._cgroups = request.cgroups
                continue
            try:
                if flags & socket.MSG_CTRUNC:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                pidfd, pid = self._fork(request, descriptors, probe.verdict())
            except OSError as error:
                self._send(wire.ForkFailed(request.worker, str(error)))
            else:
                self._poll.register(pidfd, select.EPOLLIN)
                self._send(wire.Forked(request.worker, pid), pidfd)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def _fork(self, request: wire.Fork, descriptors: list[int], fault: str) -> tuple[int, int]:
        """(pidfd, pid as the program knows it) of a worker."""
        pids = self._around.pids
        pid, init = pids.fork() if pids else (os.fork(), 0)
        if pid == 0:
            from . import entry

            entry.run_child(request, descriptors, fault, self._around)
        pidfd = -1
        try:
            pidfd = os.pidfd_open(pid)
            outside = pid_outside(pidfd) if init else pid
        except OSError:
            for process in filter(None, (pid, init)):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            if pidfd >= 0:
                os.close(pidfd)
            raise
        self._children[pidfd] = _Child(request.worker, pid, init)
        return pidfd, outside

    def _bury(self, init: int) -> None:
        """Kill the init of a dead worker, and with it all that the worker left behind."""
        os.kill(init, signal.SIGKILL)
        pidfd = os.pidfd_open(init)
        self._poll.register(pidfd, select.EPOLLIN)
        self._dying[pidfd] = init

    def _unwatch(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)  # the supervisor has it, too, so closing would not do
        os.close(pidfd)

    def _reap(self, pidfd: int) -> None:
        worker, pid, init = self._children.pop(pidfd)
        self._unwatch(pidfd)
        _, status, usage = os.wait4(pid, 0)
        killed = os.WIFSIGNALED(status)
        self._send(
            wire.Exited(
                worker,
                os.WTERMSIG(status) if killed else None,
                None if killed else os.WEXITSTATUS(status),
                usage.ru_utime + usage.ru_stime,
                usage.ru_maxrss * 1024,
            )
        )
        if init:
            self._bury(init)

    def _send(self, message: wire.FromZygote, *descriptors: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._channel, [wire.encode(message)], descriptors)

    def _tidy(self) -> None:
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        remove_groups(self._cgroups, time.monotonic() + TIDY_SECONDS)
        for child in self._children.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        remove_groups(self._cgroups, time.monotonic() + TIDY_SECONDS)
