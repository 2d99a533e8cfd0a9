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
        self._heap: list[tuple[float, int, CallRecord, Callable[[CallRecord], None]]] = []
        self._order = itertools.count()
        self._scope = trio.CancelScope()
        self._sweep_at = _SPARE

    def add(self, record: CallRecord, expired: Callable[[CallRecord], None]) -> None:
        """Watch a call's deadline, if it has one, and call ``expired`` then."""
        if record.deadline == math.inf:
            return
        heapq.heappush(self._heap, (record.deadline, next(self._order), record, expired))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if not entry[2].finished]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + _SPARE
        if record.deadline < self._scope.deadline:
            self._scope.deadline = record.deadline

    async def run(self) -> None:
        """Sleep until the next deadline, for ever."""
        while True:
            self._scope = trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf)
            with self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and (self._heap[0][0] <= now or self._heap[0][2].finished):
                _, _, record, expired = heapq.heappop(self._heap)
                if not record.finished:
                    expired(record)
