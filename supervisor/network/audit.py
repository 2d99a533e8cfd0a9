"""The audit log of one call's network: an event for each decision."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import trio
from msgspec.structs import replace

from ...protocol.errors import printable
from ...protocol.events import Event, NetworkAllowed, NetworkRefused
from .policy import Refused

if TYPE_CHECKING:
    from ..calls import CallRecord

Operation = Literal["http", "tcp", "lookup"]
LENGTH = 200
"""Characters of what a guest asked for that are told."""
PATIENCE = 0.001
"""Seconds by which each further refusal of a call is answered later, up to a hundred times that:
a guest must not be able to flood the log."""


class Audit:
    """Reports what ``record``'s guest may do and what it may not."""

    def __init__(self, emit: Callable[[Event], None], record: CallRecord) -> None:
        self._emit = emit
        self._record = record
        self._refusals = 0
        self._pace = trio.Lock()
        """Refusals of requests that are under way together come one after the other, too."""
        self._waiting: dict[object, NetworkRefused] = {}
        """Those whose turn is still to come."""
        self._untold: NetworkRefused | None = None
        """The first whose request was given up before its turn, and how many others were."""

    def allowed(self, operation: Operation, where: object, address: object, grant: object) -> None:
        """It may connect to ``address``."""
        facts = self._facts(operation, where, address)
        self._emit(NetworkAllowed(grant=str(grant), **facts))

    def found_nothing(self, operation: Operation, where: object, reason: str) -> None:
        """A name was looked up, for nothing. It takes no time: names are counted."""
        self._emit(NetworkRefused(reason=reason, **self._facts(operation, where, "")))

    @asynccontextmanager
    async def refusals(
        self, operation: Operation, where: object, address: object = ""
    ) -> AsyncGenerator[None]:
        """Report what is refused within the block, and take some time over it."""
        try:
            yield
        except Refused as refusal:
            await self.refused(operation, where, refusal, address)
            raise

    async def refused(
        self, operation: Operation, where: object, refusal: Refused, address: object = ""
    ) -> None:
        """Report a refusal, and take some time over it."""
        facts, turn = self._facts(operation, where, address), object()
        self._waiting[turn] = NetworkRefused(reason=refusal.message, **facts)
        try:
            async with self._pace:
                event = self._waiting.pop(turn, None)
                if event is not None:
                    self._emit(event)
                self._refusals += 1
                await trio.sleep(PATIENCE * min(self._refusals, 100))
        finally:
            self._give_up(turn)

    def _give_up(self, turn: object) -> None:
        """It will not come: what was to be told then is told, or counted, at the end."""
        event, first = self._waiting.pop(turn, None), self._untold
        if event is not None:
            self._untold = event if first is None else replace(first, others=first.others + 1)

    def end(self) -> None:
        """The call has ended: tell what was not told, as one event. May be called again."""
        for turn in tuple(self._waiting):
            self._give_up(turn)
        if self._untold is not None:
            self._emit(self._untold)
            self._untold = None

    def _facts(self, operation: Operation, where: object, address: object) -> dict[str, Any]:
        request, worker = self._record.request, self._record.worker
        return {
            "when": time.time(),
            "worker": worker.number if worker else 0,
            "tenant": request.profile.tenant,
            "sha256": request.module.sha256.hex(),
            "export": request.export,
            "operation": operation,
            "where": printable(str(where)[:LENGTH]).replace("\n", "\ufffd"),
            "address": str(address),
        }
