"""A whole pool whose workers are puppets that lie, under a clock that jumps.

Invariant: whatever its workers say and do, a pool goes on, gives every call exactly one outcome
within its deadlines, lets no call begin twice at workers that keep the rules, serves the next call,
and leaves no descriptor behind.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..calls import innermost
from ..protocol import messages
from ..protocol.description import FunctionType
from ..protocol.errors import SandboxError
from ..protocol.limits import Limits
from ..protocol.policies import Recycle, RestartPolicy
from ..supervisor import core as core_module
from ..supervisor import keeper, seats
from ..supervisor.cache import ArtifactCache
from ..supervisor.cgroups.hierarchy import NoHierarchy
from ..supervisor.core import Core, CoreOptions
from ..supervisor.ends import STREAM_SLACK
from ..supervisor.requests import (
    BatchRequest,
    CallRequest,
    CommandRequest,
    ModuleHandle,
    Outcome,
)
from ..supervisor.worker import Worker
from .plays import PuppetZygote, Step, liars, play
from .puppets import SLOW

PATIENCE = 120.0
"""Seconds of the jumping clock after which a call counts as lost."""
_LIMITS = Limits(output=100, wall_time=1.0)
_KINDS = ("call", "slow", "command", "buffer", "large", "batch")


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit a call; ``timeout`` as in ``options(timeout=)``, in tenths of a second."""

    kind: str
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel one of the calls that were submitted."""

    which: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill every worker, as somebody else might."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let milliseconds pass."""

    milliseconds: int


Deed = Submit | Cancel | Kill | Pause


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a pool: what its first workers do, and what its user does."""

    liars: tuple[tuple[Step, ...], ...]
    deeds: tuple[Deed, ...]
    quick: bool = False
    """Whether calls are taken for quick ones, so that several go to a worker at a time."""
    max_calls: int | None = None
    workers: int = 1
    spares: int = 0


def lives() -> SearchStrategy[Life]:
    """Lives of pools."""
    deed: SearchStrategy[Deed] = st.one_of(
        st.builds(Submit, st.sampled_from(_KINDS), st.none() | st.integers(0, 9)),
        st.builds(Submit, st.sampled_from(_KINDS)),
        st.builds(Cancel, st.integers(0, 7)),
        st.builds(Kill),
        st.builds(Pause, st.sampled_from((0, 1, 6, 60, 300))),
    )
    return st.builds(
        Life,
        st.lists(liars(), min_size=1, max_size=3).map(tuple),
        st.lists(deed, min_size=1, max_size=8).map(tuple),
        st.booleans(),
        st.none() | st.integers(1, 3),
        st.integers(1, 2),
        st.integers(0, 1),
    )


class _User:
    """Submits calls and counts outcomes."""

    def __init__(self, core: Core, module: ModuleHandle) -> None:
        self._core = core
        self._module = module
        self.requests: list[CallRequest] = []
        self.outcomes: list[list[Outcome]] = []
        self._changed = trio.Event()

    def submit(self, kind: str, timeout: int | None = None) -> list[Outcome]:
        buffers: tuple[tuple[int, bytes], ...] = ()
        if kind == "large":
            buffers = ((0, bytes(messages.INLINE + 1)),)
        name = SLOW if kind == "slow" else kind
        command = CommandRequest((b"run",), stdin=b"in") if kind == "command" else None
        batch = None
        if kind == "batch":
            buffers = ((0, bytes(24)),)
            batch = BatchRequest(3, "fresh", FunctionType(("i64",), ("i64",)))
        empty = kind in ("command", "buffer")
        request = CallRequest(
            module=self._module,
            profile=self._core.profile,
            limits=_LIMITS,
            export=f"{name} {len(self.requests)}",
            slots=b"" if kind == "command" else bytes(range(messages.SLOT)),
            buffers=buffers,
            results=0 if empty else 1,
            returns_buffer=kind == "buffer",
            command=command,
            timeout=None if timeout is None else timeout / 10,
            batch=batch,
        )
        outcomes: list[Outcome] = []
        self.requests.append(request)
        self.outcomes.append(outcomes)

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            self._changed.set()

        self._core.submit(request, done)
        return outcomes

    def cancel(self, which: int) -> None:
        if which < len(self.requests):
            self._core.cancel(self.requests[which])

    async def wait(self) -> None:
        """Wait until every call has an outcome."""
        while not all(self.outcomes):
            self._changed = trio.Event()
            await self._changed.wait()

    async def call(self) -> list[Outcome]:
        """An ordinary call, to its end."""
        outcomes = self.submit("call")
        await self.wait()
        return outcomes

    def check(self, begun: Counter[str]) -> None:
        for request, outcomes in zip(self.requests, self.outcomes, strict=True):
            assert len(outcomes) == 1, f"{request.export} has {len(outcomes)} outcomes"
            assert begun[request.export] <= 1, f"{request.export} was begun twice"
            (outcome,) = outcomes
            assert outcome.error is None or isinstance(outcome.error, SandboxError)
            size = len(outcome.stdout) + len(outcome.stderr) + len(outcome.data or b"")
            assert size <= _LIMITS.output + STREAM_SLACK
            assert 0.0 <= outcome.receipt.wall_time <= PATIENCE
            assert outcome.receipt.attempts <= 1


async def _inline(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class _QuickWorker(Worker):
    """One whose calls are taken for quick ones from the start."""

    def became_ready(self, message: messages.Ready) -> None:
        self.average = 0.0
        super().became_ready(message)


async def _live(life: Life) -> None:
    zygote = PuppetZygote([play(steps) for steps in life.liars])
    options = CoreOptions(
        workers=life.workers,
        spares=life.spares,
        limits=_LIMITS,
        restart=RestartPolicy(intensity=1000),
        recycle=Recycle(max_calls=life.max_calls, max_memory_growth=None),
    )
    core = Core(options)
    worker = _QuickWorker if life.quick else Worker
    with (
        mock.patch.object(keeper, "Zygote", return_value=zygote),
        mock.patch.object(seats, "Worker", worker),
        trio.fail_after(PATIENCE),
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(core.serve)
            user = _User(core, await core.load(b"a module", _LIMITS))
            for deed in life.deeds:
                match deed:
                    case Submit(kind=kind, timeout=timeout):
                        user.submit(kind, timeout)
                    case Cancel(which=which):
                        user.cancel(which)
                    case Kill():
                        zygote.kill_workers()
                    case Pause(milliseconds=milliseconds):
                        await trio.sleep(milliseconds / 1000)
            await user.wait()
            await _rehabilitate(user, zygote)
            user.check(zygote.begun)
            assert core.failure is None, core.failure
            await core.close(cancel=False)


async def _rehabilitate(user: _User, zygote: PuppetZygote) -> None:
    """Let every liar have its turn; whoever comes after the last one serves the next call."""
    while True:
        over = not zygote.plays_left
        zygote.kill_workers()
        (outcome,) = await user.call()
        if over:
            break
    assert outcome.error is None, outcome.error
    assert outcome.slots == bytes(range(messages.SLOT))


def check(life: Life) -> None:
    """Live one life and assert the invariant."""
    before = len(os.listdir("/proc/self/fd"))
    cache = ArtifactCache.disabled("nothing is compiled here")
    with (
        mock.patch.object(core_module, "sweep", return_value=0),
        mock.patch.object(core_module, "_open_cache", return_value=cache),
        mock.patch.object(keeper, "discover", return_value=NoHierarchy({})),
        mock.patch.object(trio.to_thread, "run_sync", _inline),
    ):
        try:
            trio.run(_live, life, clock=trio.testing.MockClock(autojump_threshold=0.0))
        except BaseExceptionGroup as group:
            raise innermost(group) from group
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left"
