"""Driving a supervisor's core from tests: calls in, outcomes out, and nothing left behind."""

from __future__ import annotations

import functools
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

import trio
from leftovers import nothing_left

from wasm_sandbox import Pool
from wasm_sandbox.protocol import arena
from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.events import Event, WorkerDied
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.profile import Profile
from wasm_sandbox.protocol.receipts import DeathCertificate
from wasm_sandbox.supervisor.core import Core, CoreOptions, WorkerSnapshot
from wasm_sandbox.supervisor.requests import CallRequest, CommandRequest, ModuleHandle, Outcome

SLOT = struct.Struct("<qq")


def slots(*values: int) -> bytes:
    """Integers as the slots of a call."""
    return b"".join(SLOT.pack(value, 0) for value in values)


def i32(outcome: Outcome) -> int:
    """The one i32 that a call returned."""
    if outcome.error is not None:
        raise outcome.error
    return int.from_bytes(outcome.slots[:4], "little", signed=True)


def i64(outcome: Outcome) -> int:
    """The one i64 that a call returned."""
    if outcome.error is not None:
        raise outcome.error
    return int.from_bytes(outcome.slots[:8], "little", signed=True)


async def begun(core: Core, pid: int | None = None) -> int:
    """The pid of a worker, or that one, that runs the call at its head: from now on the call is
    lost with it, which it is not while it has only been sent. 0 if there is none."""
    for worker in core._seats.workers:
        worker.settle()
        if worker.dead or worker.head is None or pid not in (None, worker.pid):
            continue
        if arena.read_begun(worker.wires.view)[0] == worker.head.number:
            return worker.pid
    return 0


async def wait_until_begun(core: Core, pid: int | None = None) -> int:
    """Wait for it."""
    with trio.fail_after(60):
        while not (found := await begun(core, pid)):
            await trio.sleep(0.002)
    return found


def wait_for_a_call(pool: Pool) -> int:
    """``wait_until_begun`` in a pool."""
    return pool.thread.run(wait_until_begun)


class Driver:
    """A core that serves, its events, and short words for what tests do with it."""

    def __init__(self, core: Core, events: list[Event]) -> None:
        self.core = core
        self.events = events

    async def load(self, source: str | bytes, limits: Limits | None = None) -> ModuleHandle:
        """Load a module, text or binary, under the core's limits or others."""
        data = source.encode() if isinstance(source, str) else source
        limits = limits or self.core.options.limits
        return await self.core.load(data, limits, metered=limits.fuel is not None)

    def request(
        self,
        module: ModuleHandle,
        export: str,
        *values: int,
        limits: Limits | None = None,
        capabilities: Capabilities | None = None,
        argv: tuple[bytes, ...] = (b"test",),
        stdin_descriptor: int | None = None,
        **more: Any,
    ) -> CallRequest:
        """A request; ``_start`` becomes a command."""
        limits = limits or self.core.options.limits
        capabilities = capabilities or self.core.options.capabilities
        kind = module.description.function(export)
        if export == "_start" and "command" not in more:
            more["command"] = CommandRequest(argv, stdin_descriptor=stdin_descriptor)
        more.setdefault("results", len(kind.results) if kind else 0)
        more.setdefault("slots", slots(*values))
        profile = Profile.of(limits, capabilities, tenant=more.pop("tenant", None))
        return CallRequest(module=module, profile=profile, limits=limits, export=export, **more)

    async def outcome(self, request: CallRequest) -> Outcome:
        """Submit, wait, and check that there is exactly one outcome. Cancelled, it cancels the
        call."""
        ended = trio.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.set()

        self.core.submit(request, done)
        try:
            await ended.wait()
        except trio.Cancelled:
            self.core.cancel(request)
            with trio.CancelScope(shield=True):
                await ended.wait()
            raise
        assert len(outcomes) == 1
        return outcomes[0]

    async def call(self, module: ModuleHandle, export: str, *values: int, **more: Any) -> Outcome:
        """``outcome`` of a ``request``."""
        return await self.outcome(self.request(module, export, *values, **more))

    def worker(self, phase: str | None = None) -> WorkerSnapshot | None:
        """A worker in that phase, or any that has a process."""
        return next(
            (w for w in self.core.workers() if w.pid and (phase is None or w.phase == phase)), None
        )

    async def wait_for_worker(self, phase: str | None = None) -> WorkerSnapshot:
        """Wait until there is one."""
        with trio.fail_after(60):
            while (worker := self.worker(phase)) is None:
                await trio.sleep(0.002)
        return worker

    @property
    def deaths(self) -> list[DeathCertificate]:
        """Certificates of the workers that died, oldest first."""
        return [event.certificate for event in self.events if isinstance(event, WorkerDied)]

    async def wait_for_death(self, count: int = 1) -> DeathCertificate:
        """Wait until ``count`` workers died; the last one's certificate."""
        with trio.fail_after(60):
            while len(self.deaths) < count:
                await trio.sleep(0.002)
        return self.deaths[count - 1]


@asynccontextmanager
async def serving(cache_dir: object = "", **options: Any) -> AsyncIterator[Driver]:
    """A core of these ``CoreOptions``; it is closed, and its calls cancelled, at the end of the
    block."""
    events: list[Event] = []
    with ExitStack() as stack:
        if not cache_dir:
            cache_dir = stack.enter_context(TemporaryDirectory(prefix="test-"))
        core = Core(CoreOptions(on_event=events.append, cache_dir=str(cache_dir), **options))
        stack.enter_context(trio.fail_after(150))
        async with trio.open_nursery() as nursery:
            await nursery.start(core.serve)
            try:
                yield Driver(core, events)
            finally:
                with trio.CancelScope(shield=True), trio.fail_after(60):
                    await core.close(cancel=True)


def innermost(error: BaseException) -> BaseException:
    """The one error in a group of one, at any depth."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def run(main: Callable[..., Awaitable[Any]], *args: Any, **more: Any) -> Any:
    """Run an async test; whatever happens, nothing may be left. Groups of one error are
    unwrapped."""
    with nothing_left():
        try:
            return trio.run(functools.partial(main, *args, **more))
        except BaseExceptionGroup as group:
            raise innermost(group) from group
