"""A zygote for tests: its workers are ``hostile_worker.py``, each with the behaviour due."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import trio

import wasm_sandbox
from wasm_sandbox.protocol import zygote as wire
from wasm_sandbox.supervisor.zygote import Child, ZygoteLost

SCRIPT = Path(__file__).with_name("hostile_worker.py")
PACKAGE = str(Path(wasm_sandbox.__file__).parent)


class FakeZygote:
    """``Zygote``'s interface; ``runs`` and ``compiles`` are the behaviours of its next children.

    The last of either is the behaviour of all that follow.
    """

    def __init__(self, runs: Iterable[str], compiles: Iterable[str] = ("compile_honest",)) -> None:
        self._plan = {"run": list(runs), "compile": list(compiles)}
        self.forks = 0
        self.lost = trio.Event()
        self.hello = wire.Hello("fake", "fake", ((False, "plain"), (True, "metered")))
        self.pid = os.getpid()
        self._up = trio.Event()
        self._closing = trio.Event()
        self._nursery: trio.Nursery

    async def serve(self) -> None:
        """Watch the children until closed."""
        async with trio.open_nursery() as self._nursery:
            self._up.set()
            await self._closing.wait()
            self._nursery.cancel_scope.cancel()

    async def wait_ready(self) -> wire.Hello:
        """It is when it serves."""
        await self._up.wait()
        return self.hello

    def own(self, cgroups: tuple[str, ...]) -> None:
        """Nothing to own: the children enter no groups."""

    async def fork(
        self,
        worker: int,
        role: wire.Role,
        procs_files: tuple[str, ...],
        descriptors: tuple[int, ...],
    ) -> Child:
        """Start the next behaviour."""
        if self.lost.is_set():
            raise ZygoteLost
        self.forks += role == "run"
        plan = self._plan[role]
        name = plan.pop(0) if len(plan) > 1 else plan[0]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), PACKAGE, name, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=descriptors[-1],
        )
        child = Child(worker, pid=process.pid, pidfd=os.pidfd_open(process.pid))
        self._nursery.start_soon(self._watch, child, process)
        if name.endswith("_dead"):  # the supervisor's first words come too late
            await child.gone.wait()
        child.forked.set()
        return child

    async def _watch(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        pidfd = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            code = process.wait()
            child.exited = wire.Exited(
                child.worker, -code if code < 0 else None, code if code >= 0 else None, 0.0, 0
            )
            child.gone.set()

    async def close(self) -> None:
        """End all."""
        self.lost.set()
        self._closing.set()
        await trio.lowlevel.checkpoint()
