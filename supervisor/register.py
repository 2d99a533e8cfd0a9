"""The calls of a pool, an instance or a session that have not ended: each is entered once, can be
stopped wherever it is, and is taken out by its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy

import trio

from ..protocol.errors import DeadlineExceeded, SandboxError, Trap
from .calls import CallRecord
from .imports import served
from .reporter import Reporter
from .requests import CallRequest, Outcome
from .sending import Mail
from .timeouts import Timeouts


class Register:
    """One register; iterated it gives the calls of that moment that do not end meanwhile.

    Args:
        mail: the pool's: calls whose host functions make these are in it, too.
        report: who tells of the end of each.
        timeouts: who wakes those whose time has passed.
        ended: called when one was taken out.
    """

    def __init__(
        self,
        mail: Mail,
        report: Reporter,
        timeouts: Timeouts,
        ended: Callable[[CallRecord, Outcome], None] | None = None,
    ) -> None:
        self._mail = mail
        self._report = report
        self._timeouts = timeouts
        self._ended = ended
        self._records: dict[CallRequest, CallRecord] = {}
        self._empty = trio.Event()

    def __contains__(self, request: CallRequest) -> bool:
        return request in self._records

    def __iter__(self) -> Iterator[CallRecord]:
        return (record for record in tuple(self._records.values()) if not record.finished)

    def enter(self, request: CallRequest, done: Callable[[Outcome], None]) -> CallRecord:
        """Make the record of a call; ``done`` is called exactly once, in this thread."""
        record = CallRecord(request, done, trio.current_time(), self.end)
        self.adopt(record)
        parent = request.parent = served(request.parent, self._mail)
        if parent is not None:
            parent.nested.add(record)
        return record

    def adopt(self, record: CallRecord) -> None:
        """Enter a call whose record was made elsewhere, with ``end`` as what it is closed by."""
        self._records[record.request] = record

    def keep_time(self, record: CallRecord) -> None:
        """Stop a call when its ``options(timeout=)`` has passed."""
        self._timeouts.add(record, self._expired)

    def cancel(self, request: CallRequest) -> None:
        """Stop a call, wherever it is. Does nothing where it has ended."""
        record = self._records.get(request)
        if record is not None:
            _stop(record, Trap("interrupt", "the call was cancelled"))

    def _expired(self, record: CallRecord) -> None:
        waited = trio.current_time() - record.submitted
        _stop(record, DeadlineExceeded("timeout", waited, record.request.timeout))

    def abandon(self, error: SandboxError) -> None:
        """End all calls with a copy of ``error``: at once those that no worker has, the others by
        the end of their worker."""
        for record in self:
            if record.worker is None:
                record.fail(again(error))
            else:
                record.stop = record.stop or again(error)

    def end(self, record: CallRecord, outcome: Outcome) -> None:
        """A call has ended: tell of it, and take it out."""
        self._report.call_ended(record, outcome)
        del self._records[record.request]
        self._timeouts.forget(record)
        if record.request.parent is not None:
            record.request.parent.nested.discard(record)
        for artifact in (record.artifact, record.trampoline):
            if artifact is not None:
                artifact.users -= 1
        if not self._records:
            self._empty.set()
            self._empty = trio.Event()
        if self._ended is not None:
            self._ended(record, outcome)

    async def wait_empty(self) -> None:
        """Wait until every call has ended."""
        while self._records:
            await self._empty.wait()


def _stop(record: CallRecord, error: SandboxError) -> None:
    if record.stop is not None:
        return
    record.stop = error
    if record.worker is None:
        record.fail(error)
    else:
        record.worker.interrupt(record)


def again(error: SandboxError) -> SandboxError:
    """The same error for one more call."""
    one = copy(error)
    one.__cause__ = error.__cause__
    return one
