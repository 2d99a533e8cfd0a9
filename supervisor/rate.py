"""How often something may be done, averaged over a second. No clock of its own."""

from __future__ import annotations

import heapq


class Rate:
    """So many times a second; what comes too early waits, and nothing is lost.

    As many as fit into a second may come at once.
    """

    def __init__(self, per_second: float) -> None:
        self._step = 1.0 / per_second
        self._slack = max(0.0, 1.0 - self._step)
        self._due = 0.0
        """When the next would come if all came evenly."""
        self._free: list[float] = []
        """Those before it that were given back: a heap."""

    def delay(self, now: float) -> float:
        """Seconds that the one which comes ``now`` has to wait."""
        while self._free and self._free[0] < now:
            heapq.heappop(self._free)
        if self._free:
            due = heapq.heappop(self._free)
        else:
            due = max(self._due, now)
            self._due = due + self._step
        return max(0.0, due - self._slack - now)

    def give_back(self, begin: float) -> None:
        """The one that was to wait until ``begin`` has left before: another may have its place."""
        heapq.heappush(self._free, begin + self._slack)
