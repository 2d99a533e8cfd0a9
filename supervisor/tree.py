"""A supervision tree at work: children are started, watched and ended as ``supervision`` decides.

Theory of operation. Each child is a task behind a shield, so that a cancellation from outside does
not reach all of them at once: it reaches ``serve``, which ends them in the reverse order of their
start. Exits and orders are queued and dealt with one after the other by ``serve`` alone, so nothing
here needs a lock; an exit of a child that was replaced meanwhile is stale and left aside, as a
supervisor in OTP does with a process that it no longer knows.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from ..protocol.errors import ChildConflict, PoolError, RestartIntensityReached
from . import supervision
from .imports import lives
from .supervision import ChildRules, ChildState, Decision, TreeState
from .tree_orders import Order

_log = logging.getLogger("wasm_sandbox")


class Started:
    """What a child calls when it is up."""

    def __init__(self, then: Callable[[object], None]) -> None:
        self._then = then

    def started(self, value: object = None) -> None:
        """The child is up; ``value`` is what the tree shows of it."""
        self._then(value)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A child as the tree runs it."""

    rules: ChildRules
    run: Callable[[Started], Awaitable[None]]
    """From its start to its end: returning is a normal exit, raising an abnormal one. Cancelled, it
    ends in the time that it has for that. It must say when it is up."""
    forget: Callable[[BaseException | None], Awaitable[None]] | None = None
    """Called when it has ended and will not be started again; gets what ended the tree."""
    lasting: Callable[[], object] | None = None
    """What it is while it is being restarted, where that stays the same; ``None`` at first."""
    origin: object = None
    """What it was made from."""


class TreeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a tree."""

    what: str
    """``started``, ``exited``, ``start_failed``, ``stopped`` or ``ended``."""
    child: str = ""
    reason: str = ""


class TreeEnded(Exception):
    """The tree ended itself; to the one above that is a normal exit (``shutdown``)."""

    def __init__(self, reason: str, cause: BaseException | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause


@dataclass(eq=False)
class Life:
    """One life of a child."""

    name: str
    tree: Tree
    scope: trio.CancelScope = field(default_factory=lambda: trio.CancelScope(shield=True))
    changed: trio.Event = field(default_factory=trio.Event)
    """It is up, or it is over."""
    over: trio.Event = field(default_factory=trio.Event)
    up: bool = False
    ending: bool = False
    value: object = None
    error: Exception | None = None


class Tree:
    """One tree. Everything happens in the trio run that ``serve`` is in."""

    def __init__(
        self,
        state: TreeState,
        branches: dict[str, Branch],
        on_event: Callable[[TreeEvent], object] | None = None,
    ) -> None:
        self._state = msgspec.structs.replace(
            state, children=tuple(ChildState(branch.rules) for branch in branches.values())
        )
        self._branches = branches
        self._on_event = on_event
        self._lives: dict[str, Life] = {}
        self._exits: deque[Life] = deque()
        self._retries: dict[str, float] = {}
        """When those that could not be started are tried again."""
        self._orders: deque[Order[Any]] = deque()
        self._over = False
        self._news = trio.Event()
        self._last: BaseException | None = None
        """The last abnormal exit."""
        self._nursery: trio.Nursery

    # --- what others see ------------------------------------------------------------------------

    def value(self, name: str) -> object:
        """What the child says it is.

        Raises:
            KeyError: there is no such child, or it is not up.
        """
        life, lasting = self._lives.get(name), self._branches[name].lasting
        if life is not None and life.up:
            return life.value
        value = None if lasting is None else lasting()
        if value is None:
            raise KeyError(name)
        return value

    def children(self) -> tuple[ChildState, ...]:
        """All children, in the order of their start."""
        return self._state.children

    def origin(self, name: str) -> object:
        """What the child was made from.

        Raises:
            KeyError: there is no such child.
        """
        return self._branches[name].origin

    def take(self, order: Order[Any]) -> None:
        """Carry out an order, after what was to be done before it."""
        if self._over:
            order.refuse()
        elif self._waits_for(order.giver):
            order.fail(_waits_for_itself())
        else:
            self._orders.append(order)
            self._news.set()

    def _waits_for(self, giver: Sequence[Life]) -> bool:
        """Whether nothing is carried out before the start, or the end, of who gave an order."""
        starting = True
        for life in reversed(giver):
            starting = starting and not life.changed.is_set()
            if life.tree is self:
                return starting or (life.ending and not life.over.is_set())
        return False

    def close(self) -> None:
        """It has ended: take no more orders."""
        self._over = True
        for order in self._orders:
            order.refuse()

    # --- life -----------------------------------------------------------------------------------

    async def serve(self, status: Started) -> None:
        """Start the children, watch over them, and end them when cancelled.

        Raises:
            TreeEnded: there were too many restarts, or a significant child ended.
            Exception: what a child could not be started for the first time for.
        """
        cause: BaseException | None = None
        async with trio.open_nursery() as self._nursery:
            try:
                for name in tuple(self._branches):
                    await self._start(name)
                status.started(self)
                await self._follow()
            except BaseException as error:
                cause = error
            with trio.CancelScope(shield=True):
                await self._end(cause)
        assert cause is not None
        raise cause

    async def _follow(self) -> None:
        while True:
            while self._exits or self._orders:
                if not self._exits:
                    try:
                        await self._orders[0].carry_out(self)
                    finally:
                        self._orders.popleft()
                    continue
                life = self._exits.popleft()
                if self._lives.get(life.name) is life:
                    await self._exited(life)
            name = min(self._retries, key=self._retries.__getitem__, default=None)
            with trio.CancelScope() as pause:
                if name is not None:
                    pause.deadline = self._retries[name]
                await self._news.wait()
                self._news = trio.Event()
            if name is not None and not (self._exits or self._orders) and pause.cancelled_caught:
                del self._retries[name]
                self._state, decision = supervision.try_again(
                    self._state, name, when=trio.current_time()
                )
                await self._carry_out(decision)

    async def _exited(self, life: Life) -> None:
        del self._lives[life.name]
        error = life.error
        if isinstance(error, TreeEnded):
            self._last = error.cause
        elif error is not None:
            self._last = error
        self._tell("exited", life.name, repr(error) if error else "normal")
        normal = error is None or isinstance(error, TreeEnded)
        self._state, decision = supervision.exited(
            self._state, life.name, normal=normal, when=trio.current_time()
        )
        if isinstance(decision, supervision.Nothing):
            await self._forget(life.name, None)
        await self._carry_out(decision)

    async def _carry_out(self, decision: Decision) -> None:
        match decision:
            case supervision.Nothing():
                pass
            case supervision.End(reason=reason):
                raise TreeEnded(reason, self._last)
            case supervision.Restart(stop=stop, start=start):
                for name in stop:
                    await self._stop(name)
                    if name not in start:
                        await self._forget(name, None)
                for name in start:
                    if not await self._start_again(name):
                        return

    async def _start_again(self, name: str) -> bool:
        """Whether it could be started; if not, that is tried again later."""
        try:
            await self._start(name)
        except Exception as error:  # whatever a child cannot be started for
            self._last = error
            self._state, later = supervision.start_failed(self._state, name)
            self._retries[name] = trio.current_time() + later.after
            return False
        return True

    async def _end(self, cause: BaseException | None) -> None:
        error = cause.cause if isinstance(cause, TreeEnded) else None
        for name in reversed(self._branches):
            if name in self._lives:  # those too that were about to be ended
                await self._stop(name)
            if self._state.child(name) is not None:
                self._state = supervision.stopped(self._state, name)
        for name in reversed(tuple(self._branches)):
            await self._forget(name, error)
        self._tell("ended", reason=cause.reason if isinstance(cause, TreeEnded) else "")

    # --- orders: only ``_follow`` may have them carried out -------------------------------------

    async def start_child(self, branch: Branch) -> object:
        """Add a child, as the last one, and start it; what it says it is.

        Raises:
            ChildConflict: there is one of its name.
            Exception: what it could not be started for. It is not added.
        """
        name = branch.rules.name
        state = supervision.added(self._state, branch.rules)
        if isinstance(state, str):
            raise ChildConflict(name, state, supervision.REFUSALS[state])
        self._state, self._branches[name] = state, branch
        try:
            await self._start(name)
        except Exception:
            self._state = supervision.removed(self._state, name)
            await self._forget(name, None)
            raise
        return self._lives[name].value

    async def terminate_child(self, name: str) -> None:
        """End a child; a temporary one is removed, too.

        Raises:
            KeyError: there is none.
        """
        if self._state.child(name) is None:
            raise KeyError(name)
        self._state = supervision.stopped(self._state, name)
        if name in self._lives:
            await self._stop(name)
        self._retries.pop(name, None)
        await self._forget(name, None)

    async def restart_child(self, name: str) -> object:
        """Start a child that was ended, or ended normally; what it says it is.

        Raises:
            KeyError: there is none.
            ChildConflict: it runs, or is being restarted.
            Exception: what it could not be started for.
        """
        self._check_stopped(name)
        await self._start(name)
        return self._lives[name].value

    async def delete_child(self, name: str) -> None:
        """Remove a child that does not run.

        Raises:
            KeyError: there is none.
            ChildConflict: it runs, or is being restarted.
        """
        self._check_stopped(name)
        self._state = supervision.removed(self._state, name)
        del self._branches[name]

    def _check_stopped(self, name: str) -> None:
        reason = supervision.refusal(self._state, name)
        if reason == "not_found":
            raise KeyError(name)
        if reason is not None:
            raise ChildConflict(name, reason, supervision.REFUSALS[reason])

    # --- children -------------------------------------------------------------------------------

    async def _start(self, name: str) -> None:
        life = self._lives[name] = Life(name, self)
        self._nursery.start_soon(self._live, life)
        try:
            await life.changed.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._stop(name)
            raise
        if not life.up:
            del self._lives[name]
            error = life.error or RuntimeError(f"{name} ended before it was up")
            self._tell("start_failed", name, repr(error))
            raise error
        self._state = supervision.started(self._state, name)
        self._tell("started", name)

    async def _live(self, life: Life) -> None:
        def up(value: object) -> None:
            life.value, life.up = value, True
            life.changed.set()

        lives.set((*lives.get(), life))
        try:
            with life.scope:
                await self._branches[life.name].run(Started(up))
        except Exception as error:  # it is its exit
            life.error = error
        finally:
            life.over.set()
            life.changed.set()
            self._exits.append(life)
            self._news.set()

    async def _stop(self, name: str) -> None:
        life = self._lives.pop(name)
        life.ending = True
        life.scope.cancel()
        for order in self._orders:
            if life in order.giver:
                order.fail(_waits_for_itself())
        await life.over.wait()
        self._tell("stopped", name, repr(life.error) if life.error else "")

    async def _forget(self, name: str, error: BaseException | None) -> None:
        forget = self._branches[name].forget
        if forget is not None:
            await forget(error)
        if self._state.child(name) is None:
            del self._branches[name]

    def _tell(self, what: str, child: str = "", reason: str = "") -> None:
        if self._on_event is not None:
            try:
                self._on_event(TreeEvent(what=what, child=child, reason=reason))
            except BaseException:  # a user's function must not end the tree
                _log.exception("on_event failed")


def _waits_for_itself() -> PoolError:
    return PoolError(
        "the supervisor waits for the child that would wait for it",
        "give orders when the child is up (task_status.started), and not while it ends",
    )


def intensity_reached(ended: TreeEnded, name: str) -> RestartIntensityReached:
    """The error for those whose tree ended because of too many restarts."""
    error = RestartIntensityReached(
        f"the supervisor {name} gave up: its children had to be restarted too often",
        hint="the last exit is error.__cause__",
    )
    error.__cause__ = ended.cause
    return error
