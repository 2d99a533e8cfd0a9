"""The supervisor's side of the zygote: fork requests out, pidfds and exits in."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from dataclasses import dataclass, field

import trio

from ..protocol import zygote as wire
from ..protocol.attacks import Attack
from ..protocol.errors import PoolError, ProtocolError
from . import spawn
from .shortages import remedy

HELLO_SECONDS = 30.0
"""How long a zygote may take to come up: an interpreter and the engine's library, from a cold
disk."""
FORK_SECONDS = 20.0
"""How long a fork may take: a zygote that does not answer is killed, and another one made."""
GOODBYE_SECONDS = 5.0
"""How long a zygote may take to tidy up before it is killed."""


class ZygoteLost(Exception):
    """The zygote is gone, and all its workers with it."""


class ForkRefused(Exception):
    """The zygote could not fork, or could not be asked to."""


@dataclass(eq=False)
class Child:
    """A process that the zygote forked for us."""

    worker: int
    forked: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    pid: int = 0
    pidfd: int = -1
    refused: str = ""
    exited: wire.Exited | None = None
    """How it died; ``None`` with ``gone`` set means that the zygote died first."""
    disowned: bool = False

    @property
    def dead(self) -> bool:
        """Whether it is dead, even if nobody has reported it yet."""
        if self.pidfd < 0:
            return self.gone.is_set()
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """SIGKILL, without the danger of hitting a recycled pid."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Any signal; nothing where it is dead."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    async def outlived(self) -> None:
        """End it after its zygote, which has not taken it along if it cleared its death signal."""
        if self.exited is None and self.pidfd >= 0:
            self.kill()
            with trio.move_on_after(GOODBYE_SECONDS):
                await trio.lowlevel.wait_readable(self.pidfd)

    def disown(self) -> None:
        """Nobody waits for it any more: it is ended, now or as soon as it is there."""
        self.disowned = True
        self.kill()
        self.close()

    def close(self) -> None:
        """Give the pidfd back."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Zygote:
    """One zygote, from its start to its end."""

    def __init__(self, launch: spawn.Launch | None = None) -> None:
        """Start one, or go on with the one that was launched."""
        launched = None if launch is None else launch.take()
        self._process, self._channel = launched or self._start()
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self._channel.close()
            self._process.child.kill()
            self._process.child.wait()
            raise
        self._children: dict[int, Child] = {}
        self._closed = False
        self._hello = trio.Event()
        self.hello: wire.Hello | None = None
        self._failed = ""
        """Why it could not go on, as it said itself."""
        self.lost = trio.Event()

    def _start(self) -> tuple[spawn.ZygotePopen, socket.socket]:
        return spawn.start_zygote()

    @property
    def pid(self) -> int:
        """Process id of the zygote; before it is up, of the process that was started."""
        return self.hello.pid if self.hello else int(self._process.pid)

    async def serve(self) -> None:
        """Follow what the zygote says until its channel ends."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._channel)
                try:
                    data, descriptors, _, _ = socket.recv_fds(self._channel, wire.MAX_DATAGRAM, 1)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    break
                if not data:
                    break
                self._follow(wire.decode_from_zygote(data), descriptors)
        finally:
            self.lost.set()
            self._hello.set()
            for child in self._children.values():
                child.kill()  # one that a guest took over may have cleared its death signal
                child.forked.set()
                child.gone.set()
            self._children.clear()

    async def wait_ready(self) -> wire.Hello:
        """Wait until the zygote is up.

        Raises:
            PoolError: it did not come up.
        """
        with trio.move_on_after(HELLO_SECONDS):
            await self._hello.wait()
        if self.hello is None:
            why = self._failed or f"exit status {self._process.poll()}"
            hint = "run `python -c 'import wasm_sandbox.worker.zygote'` to see more"
            if not os.path.exists("/proc/self/fd"):
                hint = "mount /proc: mount -t proc proc /proc"
            raise PoolError(f"the zygote process did not come up ({why})", remedy(why, hint))
        return self.hello

    def own(self, cgroups: tuple[str, ...]) -> None:
        """Tell the zygote which groups to remove when we are gone."""
        self._send(wire.Own(cgroups), ())

    async def fork(
        self,
        worker: int,
        role: wire.Role,
        procs_files: tuple[str, ...],
        descriptors: tuple[int, ...],
        attack: Attack | None = None,
    ) -> Child:
        """Have a worker forked; the descriptors are duplicated into it. ``attack`` goes with the
        role of that name.

        Raises:
            ForkRefused: no process could be had.
            ZygoteLost: nobody is there to fork.
        """
        self._send(wire.Fork(worker, role, procs_files, attack), descriptors)
        child = self._children[worker] = Child(worker)
        try:
            with trio.move_on_after(FORK_SECONDS) as scope:
                await child.forked.wait()
            if scope.cancelled_caught:
                self.kill()
                await child.forked.wait()
            if child.refused:
                raise ForkRefused(child.refused)
            if self.lost.is_set():
                raise ZygoteLost("the zygote died")
        except BaseException:
            child.disown()
            raise
        return child

    def kill(self) -> None:
        """SIGKILL the zygote; the workers' death signal takes them along."""
        if not self._closed:
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """End the channel, wait until the zygote has tidied up, reap it. May be called again."""
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)
            if self.hello is None:
                self._kill()  # it has nothing to tidy up, and does not listen yet
            with trio.move_on_after(GOODBYE_SECONDS) as scope:
                await trio.lowlevel.wait_readable(self._pidfd)
            if scope.cancelled_caught:
                self._kill()
                await trio.lowlevel.wait_readable(self._pidfd)
            await self.lost.wait()  # nobody reads the channel any more when it is closed
            self._process.poll()
            os.close(self._pidfd)
            self._channel.close()

    def _send(self, message: wire.ToZygote, descriptors: tuple[int, ...]) -> None:
        if self.lost.is_set():
            raise ZygoteLost("the zygote died")
        try:
            socket.send_fds(self._channel, [wire.encode(message)], descriptors)
        except ConnectionError as error:
            raise ZygoteLost("the zygote died") from error
        except OSError as error:
            raise ForkRefused(f"the zygote takes no requests: {error}") from error

    def _follow(self, message: wire.FromZygote, descriptors: list[int]) -> None:
        match message:
            case wire.Hello():
                self.hello = message
                self._hello.set()
            case wire.Failed(reason=reason):
                self._failed = reason
            case wire.Forked(worker=worker, pid=pid):
                child = self._children[worker]
                if descriptors:
                    child.pid, child.pidfd = pid, descriptors[0]
                    if child.disowned:
                        child.disown()
                else:  # our own table of descriptors is full, so the kernel dropped it
                    child.refused = f"it cannot be held: {os.strerror(errno.EMFILE)}"
                    os.kill(pid, signal.SIGKILL)
                child.forked.set()
            case wire.ForkFailed(worker=worker, reason=reason):
                child = self._children.pop(worker)
                child.refused = reason
                child.forked.set()
                child.gone.set()
            case wire.Exited(worker=worker):
                child = self._children.pop(worker)
                child.exited = message
                child.gone.set()
            case _:
                raise ProtocolError(f"the zygote said {message!r}")
