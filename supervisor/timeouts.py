"""Deadlines that count from submission: one heap and one sleeping task for all of them."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

import trio

from .calls import CallRecord

_SPARE = 1024


class Timeouts:
    """Tells once of each call whose ``options(timeout=)`` has passed unfinished."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, tuple[CallRecord, Callable[[CallRecord], None]]] = {}
        """Those that have not ended; the heap knows their numbers, and those of some that have."""
        self._numbers = itertools.count(1)
        self._scope = trio.CancelScope()

    def add(self, record: CallRecord, expired: Callable[[CallRecord], None]) -> None:
        """Watch a call's deadline, if it has one, and call ``expired`` then."""
        if record.deadline == math.inf:
            return
        record.alarm = next(self._numbers)
        self._calls[record.alarm] = record, expired
        heapq.heappush(self._heap, (record.deadline, record.alarm))
        if len(self._heap) > 2 * len(self._calls) + _SPARE:
            self._heap = [entry for entry in self._heap if entry[1] in self._calls]
            heapq.heapify(self._heap)
        if record.deadline < self._scope.deadline:
            self._scope.deadline = record.deadline

    def forget(self, record: CallRecord) -> None:
        """A call has ended: keep nothing of it, for its deadline may be far away."""
        self._calls.pop(record.alarm, None)

    async def run(self) -> None:
        """Sleep until the next deadline, for ever."""
        while True:
            self._scope = trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf)
            with self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and (self._heap[0][0] <= now or self._heap[0][1] not in self._calls):
                _, number = heapq.heappop(self._heap)
                if number in self._calls:
                    record, expired = self._calls.pop(number)
                    expired(record)
