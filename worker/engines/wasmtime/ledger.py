"""How the memories (or the tables) of one session share a limit, as instances come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..interface import EngineRefusal
from ..limits import Need, uniform_cap


class Entry:
    """One memory or table. ``size`` asks how large it is now, where that can be asked."""

    def __init__(self, need: Need, size: Callable[[], int] | None = None) -> None:
        self._low, self._high = need
        self.size = size

    def need(self, cap: int) -> Need:
        """What it has, or had room for under ``cap`` until now; and the most that it may have."""
        if self.size is not None:
            return self.size(), self._high
        if self._high is None or self._low < self._high:
            self._low = max(self._low, cap if self._high is None else min(cap, self._high))
        return self._low, self._high


class Ledger:
    """Every memory, or every table, of a session, and the cap for each that keeps their sum."""

    def __init__(self, kind: str, limit: int, shares: int) -> None:
        self._kind = kind
        self._limit = limit
        self._most = limit // shares
        self.cap = self._most
        self._entries: list[Entry] = []

    def plan(self, new: Sequence[Need]) -> int:
        """The cap under which everything stays within the limit, with ``new`` too.

        Raises:
            EngineRefusal: ``memory_limit`` or ``table_limit``: what is there leaves no room.
        """
        if not new:
            return self.cap
        needs = [*(entry.need(self.cap) for entry in self._entries), *new]
        found = uniform_cap(needs, self._limit)
        if found is None:
            used = sum(low for low, _ in needs)
            raise EngineRefusal(
                f"{self._kind}_limit",
                f"the instances together need {used} of {self._kind}, {self._limit} are allowed",
                "raise the limit",
                used=used,
                allowed=self._limit,
            )
        return min(found, self._most)

    def commit(self, cap: int, new: Sequence[Entry]) -> None:
        """From now on ``cap`` holds, and ``new`` is there."""
        self.cap = cap
        self._entries += new
