"""Waiting in trio: for room for a call, and for its outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from .calls import OutputGuard
from .configuration import WhenFull
from .protocol.errors import DeadlineExceeded, QueueFull
from .protocol.receipts import Receipt
from .supervisor.requests import CallRequest, Outcome


class Taker(Protocol):
    """What takes calls: a pool's core, or an instance."""

    def submit(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        """Take a call; ``done`` is called exactly once, perhaps before this returns."""

    def cancel(self, request: CallRequest) -> None:
        """Stop a call, wherever it is."""


class Room:
    """Room for so many calls that are not over."""

    def __init__(self, most: int, when_full: WhenFull, full: Callable[[int], QueueFull]) -> None:
        self._most = most
        self._when_full = when_full
        self._full = full
        self._slots = trio.Semaphore(most)

    async def enter(self, request: CallRequest, *, patient: bool = False) -> None:
        """Wait for room, within the call's timeout, which what was waited is taken off; or where
        the caller is ``patient``, because a call of its own will make room, for however long.

        Raises:
            QueueFull: there is none, and nobody is to wait.
            DeadlineExceeded: there was none in time.
        """
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            if patient:
                await self._slots.acquire()
            elif self._when_full == "raise":
                raise self._full(self._most) from None
            else:
                await self._wait(request)

    async def _wait(self, request: CallRequest) -> None:
        start = trio.current_time()
        timeout = request.timeout
        with trio.CancelScope() as scope:
            if timeout is not None:
                scope.deadline = start + timeout
            await self._slots.acquire()
        waited = trio.current_time() - start
        if scope.cancelled_caught:
            late = DeadlineExceeded("timeout", waited, timeout)
            late.receipt = Receipt(queue_time=waited)
            raise late
        if timeout is not None:
            request.timeout = max(timeout - waited, 0.0)

    def leave(self) -> None:
        """A call is over."""
        self._slots.release()


async def outcome_of(taker: Taker, request: CallRequest) -> Outcome:
    """Submit a call and wait for its outcome. Cancelled, it returns when the guest has stopped."""
    over = trio.Event()
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        over.set()

    def stop() -> None:
        taker.cancel(request)

    if isinstance(request.on_output, OutputGuard):
        # Not at once: the core is in the middle of this call's output.
        token = trio.lowlevel.current_trio_token()
        request.on_output.stop = lambda: token.run_sync_soon(stop)
    taker.submit(request, done)
    try:
        await over.wait()
    except trio.Cancelled:
        stop()
        with trio.CancelScope(shield=True):
            await over.wait()
        raise
    return outcomes[0]
