"""When a dead worker is replaced: a pure decision, with no clock and no process in it.

The words and the rule are those of Erlang/OTP's ``supervisor``: if more than ``MaxR`` restarts are
called for within the last ``MaxT`` seconds, the supervisor gives up and ends everything it watches;
an attempt to start that fails is itself another restart; ``permanent`` children are always
restarted, ``temporary`` ones never, ``transient`` ones only after an abnormal exit. As in OTP, a
death that is exactly ``MaxT`` seconds old still counts.

It differs from OTP in three ways, each because here the children run other people's code:

* A worker lost *during a call* is replaced at once and not counted: a guest cannot close the pool.
* Starts that fail in a row wait longer and longer, so that a broken machine is not hammered.
* More than ``MaxR`` failed starts in a row also end it, however slowly they fail. With waits
  between them they might never fill the window, and callers would wait for ever for a worker.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from ..protocol.policies import Recycle, RestartPolicy, RestartType

Phase = Literal["starting", "idle", "busy", "stopping"]


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that ended.

    ``when`` is in monotonic seconds, never less than that of an earlier death. ``phase`` is what
    the worker was doing; a fork or a jail that failed is a death in ``starting``. ``asked`` says
    that the supervisor ended it and wants nothing in its place; ``recycled``, a fresh worker. What
    goes with its zygote is such a death, too: the zygote's own counts for all.
    """

    when: float
    phase: Phase
    asked: bool = False
    recycled: bool = False


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered between deaths. A new pool begins with ``History()``."""

    counted: tuple[float, ...] = ()
    """Times of the counted deaths of the last ``period`` seconds, oldest first."""

    failed_starts: int = 0
    """Starts that failed since a worker was last READY."""


class Restart(msgspec.Struct, frozen=True):
    """Start a new worker ``after`` so many seconds."""

    after: float


class GiveUp(msgspec.Struct, frozen=True):
    """Start nothing more: end the pool, loudly, with this ``reason``."""

    reason: str


class Ignore(msgspec.Struct, frozen=True):
    """The death was asked for; nothing takes its place."""


Decision = Restart | GiveUp | Ignore


def decide(policy: RestartPolicy, history: History, death: Death) -> tuple[History, Decision]:
    """What follows from a death, and what to remember of it."""
    if death.recycled:
        return history, Restart(0.0)
    if death.asked or death.phase == "stopping":
        return history, Ignore()
    if death.phase == "busy":
        return history, Restart(0.0)
    counted = *(t for t in history.counted if death.when <= t + policy.period), death.when
    failed = history.failed_starts + (death.phase == "starting")
    remembered = History(counted=counted, failed_starts=failed)
    if len(counted) > policy.intensity:
        return remembered, GiveUp(
            f"{len(counted)} workers died within {policy.period:g} s without a call to blame "
            f"({policy.intensity} are forgiven)"
        )
    if failed > policy.intensity:
        return remembered, GiveUp(
            f"{failed} workers in a row failed to start ({policy.intensity} are forgiven)"
        )
    return remembered, Restart(backoff(policy, failed) if death.phase == "starting" else 0.0)


def became_ready(history: History) -> History:
    """A worker said READY: the next failed start waits briefly again. The window is kept."""
    return msgspec.structs.replace(history, failed_starts=0)


def backoff(policy: RestartPolicy, failed_starts: int) -> float:
    """Seconds to wait after so many failed starts in a row (at least 1)."""
    first, longest = policy.backoff_first, policy.backoff_max
    if first == 0:
        return 0.0
    # In logarithms, because the power itself overflows after some hundred failures.
    steps = failed_starts - 1
    if steps * math.log(policy.backoff_factor) >= math.log(longest) - math.log(first):
        return float(longest)
    return min(first * policy.backoff_factor**steps, longest)


def should_restart(kind: RestartType, *, normal_exit: bool) -> bool:
    """Whether a child of this restart type is started again, by OTP's rule.

    ``normal_exit`` is true where the child finished its work or was asked to stop.
    """
    match kind:
        case "permanent":
            return True
        case "transient":
            return not normal_exit
        case "temporary":
            return False


def recycle_reason(
    recycle: Recycle, *, calls: int, age: float, memory_growth: int
) -> Literal["calls", "age", "memory"] | None:
    """Which bound of ``recycle`` a worker has reached, or ``None``; asked between two calls.

    ``age`` is seconds since READY; ``memory_growth`` is bytes of resident memory gained since then.
    """
    if recycle.max_calls is not None and calls >= recycle.max_calls:
        return "calls"
    if recycle.max_age is not None and age >= recycle.max_age:
        return "age"
    if recycle.max_memory_growth is not None and memory_growth > recycle.max_memory_growth:
        return "memory"
    return None
