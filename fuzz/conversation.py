"""One worker's side of the supervisor, without a process, under whatever the worker may say.

Invariant: whatever bytes arrive and however they are cut, nothing but ``ProtocolError`` stops the
reading, nothing that is due is refused, every call that was sent has one outcome, or was given
back, or is still the worker's, and never two of these, and nothing passes its bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..calls import innermost
from ..protocol import arena, messages
from .harness import HALF, Good, Harness, What
from .strategies import cuts, hostile_bytes, plausible

_CALLS: tuple[What, ...] = (
    "call",
    "command",
    "command",
    "buffer",
    "large",
    "large",
    "batch",
    "load",
)
_ORDERS: tuple[What, ...] = (*_CALLS, "recall", "recall", "interrupt", "stop")
_GOOD: tuple[Good, ...] = (
    *("data", "data", "ask", "import", "import"),
    *("answer", "reply", "reply", "fail", "skip"),
)


@dataclass(frozen=True, slots=True)
class Order:
    """Something that the supervisor does between two reads."""

    what: What


@dataclass(frozen=True, slots=True)
class Due:
    """Something that a good worker could say now, about ``size`` bytes where that matters."""

    what: Good
    size: int = 1


@dataclass(frozen=True, slots=True)
class Wrote:
    """Something that the worker wrote into the arena: from ``at`` on."""

    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """Any message; numbers of 0 become those that are due."""

    message: messages.FromWorker


@dataclass(frozen=True, slots=True)
class Heard:
    """Any bytes, in the pieces in which they are read."""

    pieces: tuple[bytes, ...]


Step = Order | Due | Wrote | Said | Heard


def steps() -> SearchStrategy[list[Step]]:
    """Orders and what is due in any mixture, and then lies among them."""
    order: SearchStrategy[Step] = st.builds(Order, st.sampled_from(_ORDERS))
    due: SearchStrategy[Step] = st.builds(Due, st.sampled_from(_GOOD), st.integers(1, HALF))
    places = st.sampled_from((0, arena.STATUS_SIZE, arena.STATUS_SIZE + HALF))
    wrote: SearchStrategy[Step] = st.builds(Wrote, places, st.binary(max_size=HALF))
    said: SearchStrategy[Step] = plausible().map(Said)
    heard: SearchStrategy[Step] = hostile_bytes().flatmap(cuts).map(lambda p: Heard(tuple(p)))
    ready: SearchStrategy[list[Step]] = st.just([Due("ready")])
    good = st.lists(order | due | due | wrote, min_size=4, max_size=24)
    bad = st.lists(order | due | wrote | said | heard, max_size=8)
    lawful = st.tuples(ready, good, bad)
    scripts = lawful | lawful | st.tuples(bad)
    return scripts.map(lambda parts: [step for part in parts for step in part])


async def _play(script: Sequence[Step]) -> None:
    async with trio.open_nursery() as nursery:
        harness, lied = Harness(nursery), False
        try:
            for step in script:
                lied = lied or isinstance(step, Said | Heard)
                _take(harness, step)
                assert lied or not harness.violated, f"refused: {step}"
                harness.check_told()
                harness.check()
                await trio.lowlevel.checkpoint()  # for host calls
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await harness.end()


def _take(harness: Harness, step: Step) -> None:
    match step:
        case Order(what=what):
            harness.order(what)
        case Due(what=what, size=size):
            if (message := harness.good(what, size)) is not None:
                harness.hear(messages.encode(message))
        case Wrote(at=at, data=data):
            harness.worker.wires.view[at : at + len(data)] = data
        case Said(message=message):
            harness.hear(messages.encode(harness.aimed(message)))
        case Heard(pieces=pieces):
            for piece in pieces:
                harness.hear(piece)


def check(script: Sequence[Step]) -> None:
    """Play a script and assert the invariant after every step, and after the worker's burial."""
    try:
        trio.run(_play, script)
    except BaseExceptionGroup as group:
        raise innermost(group) from None
