"""The share of a processor, where no cgroup keeps it: a worker that is ahead is stopped a while.

It is coarser than the kernel's own way. A busy worker whose share is below one processor is looked
at every ``BUSY`` seconds, every other one each ``IDLE`` seconds: a guest has one thread, so only
one that broke out of its engine can use more. A pause makes up for what was used too much.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from .watch import GRACE, processor_clock

if TYPE_CHECKING:
    from .holder import Holder

BUSY, IDLE = 0.05, 1.0
SHORTEST = 0.002
BURST = 0.1
"""Seconds' worth of its share that a worker may save up."""


class Credit:
    """Processor seconds that a worker may still use; less than 0 is what it used too much."""

    def __init__(self, share: float, now: float, clock: float) -> None:
        self._share = share
        self._now = now
        self._clock = clock
        self._left = BURST * share

    def pause(self, now: float, clock: float) -> float:
        """Seconds to stop for, 0 or some milliseconds at least, given the time and the worker's
        processor clock."""
        self._left += (now - self._now) * self._share - (clock - self._clock)
        self._left = min(self._left, BURST * self._share)
        self._now, self._clock = now, clock
        pause = -self._left / self._share
        return pause if pause >= SHORTEST else 0.0


class Throttle:
    """Holds one worker to its share, from READY on. ``send`` delivers a signal to it."""

    def __init__(self, worker: Holder, send: Callable[[signal.Signals], None]) -> None:
        self._worker = worker
        self._send = send
        self._stopped = False
        self._idle: trio.Event | None = None
        """What it waits for while the worker has nothing to do."""
        self._last_end = -math.inf
        self._hear_until = -math.inf
        """Until when it is left alone, because it has to answer."""

    @property
    def last_held(self) -> float:
        """When the worker was last stopped: it is not idle then."""
        return trio.current_time() if self._stopped else self._last_end

    async def run(self) -> None:
        """Look after the worker until cancelled, or until it is dead."""
        worker = self._worker
        share = worker.profile.cpu_fraction
        credit: Credit | None = None
        while (clock := processor_clock(worker.pid)) is not None:
            now = trio.current_time()
            credit = credit or Credit(share, now, clock)
            pause = credit.pause(now, clock)
            if pause and now >= self._hear_until:
                self._stopped = True
                self._send(signal.SIGSTOP)
                try:
                    await trio.sleep(pause)
                finally:
                    self._go_on()
            elif worker.records and share < 1:
                await trio.sleep(BUSY)
            else:
                self._idle = trio.Event()
                with trio.move_on_after(IDLE):
                    await self._idle.wait()
                self._idle = None

    def has_work(self) -> None:
        """The worker was idle, and is not any more."""
        if self._idle is not None:
            self._idle.set()

    def let_go(self) -> None:
        """The worker has to hear something, and to answer: leave it alone for a moment."""
        self._hear_until = trio.current_time() + GRACE
        self._go_on()

    def _go_on(self) -> None:
        if self._stopped:
            self._stopped = False
            self._last_end = trio.current_time()
            self._send(signal.SIGCONT)
