"""What puppets do: plays, and the zygote that casts them."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..protocol import messages
from ..protocol import zygote as wire
from ..supervisor.zygote import Child
from .puppets import Over, Puppet
from .strategies import hostile_bytes, plausible

Play = Callable[[Puppet], Awaitable[None]]
_ABOUT = ("call", "module", "begun", "until")


What = Literal[
    "serve", "answer", "hear", "wait", "publish", "give back", "hang up", "deaf", "exit", "die"
]
_ACTS: tuple[What, ...] = get_args(What)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Write these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Lie:
    """Say ``message``, its numbers moved to what the worker has at hand."""

    message: messages.FromWorker


@dataclass(frozen=True, slots=True)
class Act:
    """Do something; ``number`` is how much, or about which call."""

    what: What
    number: int = 0


Step = Bytes | Lie | Act


def liars() -> SearchStrategy[tuple[Step, ...]]:
    """What one worker does, from its first call on."""
    act = st.builds(Act, st.sampled_from(_ACTS), st.integers(0, 40))
    step: SearchStrategy[Step] = act | plausible().map(Lie) | hostile_bytes().map(Bytes)
    return st.lists(step, max_size=8).map(lambda steps: (Act("hear"), *steps))


def play(steps: Sequence[Step]) -> Play:
    """Take these steps, then keep the rules."""

    async def acted(puppet: Puppet) -> None:
        for step in steps:
            match step:
                case Bytes(data=data):
                    await puppet.write(data)
                case Lie(message=message):
                    await puppet.say(_moved(message, puppet))
                case Act(what=what, number=number):
                    await _act(puppet, what, number)
        await puppet.serve()

    return acted


def _moved(message: Any, puppet: Puppet) -> messages.FromWorker:
    """The message with numbers near to those that are right: 0 is the head, or what was asked."""
    head = puppet.calls[0].call if puppet.calls else 0
    changes = {name: head + getattr(message, name) for name in _ABOUT if hasattr(message, name)}
    if "until" in changes and puppet.asked is not None:
        changes["until"] = puppet.asked
    if "module" in changes:
        changes["module"] -= head
    moved: messages.FromWorker = msgspec.structs.replace(message, **changes)
    return moved


async def _act(puppet: Puppet, what: str, number: int) -> None:
    match what:
        case "serve":
            await puppet.serve(number % 4)
        case "answer":
            await puppet.say(puppet.answer())
            if puppet.calls:
                puppet.calls.popleft()
        case "hear":
            await puppet.wait_for_call()
        case "wait":
            heard = await puppet.hear(number / 100)
            await puppet.follow(heard, obey=number % 2 == 0)
        case "publish":
            head = puppet.calls[0].call if puppet.calls else 0
            puppet.publish(head + number - 2 if number < 10 else -1, number << 28)
        case "give back":
            await puppet.answer_recall()
        case "hang up":
            puppet.hang_up()
            await trio.sleep(number / 10)
        case "deaf":
            puppet.deaf()
        case "exit":
            raise Over(status=number % 256)
        case _:
            raise Over(signal=max(1, number))


class PuppetZygote:
    """A zygote's interface; each worker plays the next play, and those after them keep the
    rules."""

    def __init__(self, plays: Sequence[Play]) -> None:
        self._plays = deque(plays)
        self._workers: list[Puppet] = []
        self.begun: Counter[str] = Counter()
        """How often each export was begun by workers that keep the rules."""
        self.pid = os.getpid()
        self.hello = wire.Hello("puppet", "none", ((False, "plain"), (True, "metered")))
        self.lost = trio.Event()
        self._up = trio.Event()
        self._closing = trio.Event()
        self._nursery: trio.Nursery

    @property
    def plays_left(self) -> int:
        """Plays that no puppet has begun."""
        return len(self._plays)

    def kill_workers(self) -> None:
        """End every worker that lives, as somebody else's SIGKILL would."""
        for puppet in self._workers:
            puppet.kill()
        self._workers.clear()

    async def serve(self) -> None:
        """Be there until closed."""
        async with trio.open_nursery() as self._nursery:
            self._up.set()
            await self._closing.wait()
            self._nursery.cancel_scope.cancel()
        self.lost.set()

    async def wait_ready(self) -> wire.Hello:
        """It is when it serves."""
        await self._up.wait()
        return self.hello

    def own(self, cgroups: tuple[str, ...]) -> None:
        """Puppets enter no groups."""

    async def fork(
        self,
        worker: int,
        role: wire.Role,
        procs_files: tuple[str, ...],
        descriptors: tuple[int, ...],
    ) -> Child:
        """Begin the next play."""
        puppet = Puppet(worker, role, descriptors, self.begun)
        play: Play = Puppet.serve
        if role == "run" and self._plays:
            play = self._plays.popleft()
        if role == "run":
            self._workers.append(puppet)
        self._nursery.start_soon(puppet.live, play)
        await trio.lowlevel.checkpoint()
        return puppet

    def kill(self) -> None:
        """End all at once, as a zygote's death would."""
        self._closing.set()

    async def close(self) -> None:
        """End all."""
        self._closing.set()
        await self.lost.wait()
