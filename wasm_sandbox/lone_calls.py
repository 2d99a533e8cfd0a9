"""Calls that their callers' threads send themselves, and whose answers these threads may read.

Theory of operation. ``supervisor.express`` sends such a call and takes its answer; here is decided
when the pool's thread looks at them. It has to, for their limits and for what is no plain answer,
and each look costs it, and those who wait, as much as two calls. So it looks soon after the first
call, and then less and less often while all that it finds are answers that were read as they came.
What else may happen to such a call wakes it: the worker, unless somebody listens; whoever has
listened in vain; whoever sends one that has little time.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .future import CallFuture
from .supervisor.express import MOMENT
from .supervisor.requests import Outcome

if TYPE_CHECKING:
    from .protocol.limits import Limits
    from .supervisor.calls import CallRecord
    from .supervisor.core import Core
    from .supervisor.express import Loan

PULSE = 0.005
SLOW_PULSE = 0.04
"""Seconds after which the pool's thread looks again, at the least and at the most. Limits count
from when a call was sent, so only one that is shorter than ``PULSE`` is kept late."""


class LoneCalls:
    """Those of one pool."""

    def __init__(
        self, over: Callable[[CallFuture, Outcome], None], wake: Callable[[], None]
    ) -> None:
        """
        Args:
            over: told, in whatever thread, that a call is over, perhaps not for the first time.
            wake: has the pool's thread look.
        """
        self._over = over
        self._wake = wake
        self._process = os.getpid()
        self._lent: deque[Loan] = deque()
        """Those by which calls were sent."""
        self.pulse = math.inf
        """In how many seconds the pool's thread looks, even if nobody wakes it."""

    # --- from any thread ------------------------------------------------------------------------

    def send(self, core: Core, future: CallFuture) -> bool:
        """Send a call, if a worker is idle and the call is a simple one."""
        request = future.request
        assert request is not None
        sent = core.submit_express(request, partial(self._over, future))
        if sent is None:
            return False
        loan, record = sent
        future.hand_over(_Waiter(self, future, loan, record))
        if not loan.listed:
            loan.listed = True
            self._lent.append(loan)
        if self.pulse > PULSE and (self.pulse > SLOW_PULSE or _is_short(request.limits)):
            self._wake()
        return True

    def listen(self, future: CallFuture, loan: Loan, record: CallRecord, seconds: float) -> None:
        """Wait for a moment for the answer to a call that was sent by a loan."""
        outcome = loan.listen(record, min(seconds, MOMENT))
        if outcome is not None:
            # Should an exception come in between, the pool's thread does this when it looks.
            self._over(future, outcome)
            loan.free()
        elif not loan.ended:
            self._wake()

    @property
    def are_here(self) -> bool:
        """Whether this is the process that sends them, and no forked child."""
        return os.getpid() == self._process

    @property
    def are_out(self) -> bool:
        """Whether there may be some of whose end the pool's thread does not know."""
        return bool(self._lent)

    # --- in the pool's thread -------------------------------------------------------------------

    def look(self) -> None:
        """Look at all of them."""
        for _ in range(len(self._lent)):
            _heed(self._lent.popleft())

    def look_again(self) -> None:
        """Look at those that their callers' threads do not look after themselves."""
        # Whoever sends a call from here on is found below, or wakes the thread once more.
        pulse, self.pulse = self.pulse, math.inf
        if not self._lent:
            return
        following = min(2 * pulse, SLOW_PULSE) if pulse < math.inf else PULSE
        for _ in range(len(self._lent)):
            loan = self._lent.popleft()
            if loan.going_on:
                self._lent.append(loan)
                if (record := loan.out) is not None and _is_short(record.request.limits):
                    following = PULSE
                continue
            following = PULSE
            if loan.fresh:
                self._lent.append(loan)
            else:
                _heed(loan)
        self.pulse = following


class _Waiter:
    """What the future of a lone call can do about its answer; nothing, in a forked child."""

    __slots__ = ("_calls", "_future", "_loan", "_record")

    def __init__(
        self, calls: LoneCalls, future: CallFuture, loan: Loan, record: CallRecord
    ) -> None:
        self._calls, self._future, self._loan, self._record = calls, future, loan, record

    def listen(self, seconds: float) -> None:
        """Wait for it here, for so many seconds at the most."""
        if self._calls.are_here:
            self._calls.listen(self._future, self._loan, self._record, seconds)

    def leave(self) -> None:
        """Leave it to the pool's thread."""
        if self._calls.are_here:
            self._loan.leave(self._record)


def _heed(loan: Loan) -> None:
    loan.listed = False  # first: what is sent from here on is listed again
    loan.worker.heed(loan)


def _is_short(limits: Limits) -> bool:
    """Whether a limit may be reached before the pool's thread looks by itself."""
    return min(limits.wall_time, limits.cpu_time, limits.idle_time) < 2 * SLOW_PULSE
