"""The audit log of one call's network: an event for each decision."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import trio

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
        facts = self._facts(operation, where, address)
        async with self._pace:
            self._emit(NetworkRefused(reason=refusal.message, **facts))
            self._refusals += 1
            await trio.sleep(PATIENCE * min(self._refusals, 100))

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
