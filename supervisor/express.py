"""The short way: a submitting thread sends one call to an idle worker itself.

Theory of operation. Everything about a pool happens in its trio thread, and waking that thread is
most of what a lone call costs. So a worker that has nothing to do is *lent*: its loan lies where
any thread can take it, and whoever takes it may send exactly one call under a number that was set
aside. The trio thread learns of it afterwards (``Holder.settle``), always before it looks at that
worker again: before it reads what the worker says, assigns, stops or buries it; and by itself soon
enough to keep the call's limits (``Holder.heed``). The loan's lock is
what makes both sides agree, and keeps the channel open while a thread writes to it. A call that was
lent to a worker which then turns out to be dead was not begun, and goes to another, as any call
would.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from ..protocol.messages import encode
from .orders import order

if TYPE_CHECKING:
    from .calls import CallRecord
    from .holder import Holder

SMALL = 4096
"""Bytes of a message that an idle worker's channel always takes whole."""


class Loan:
    """The right to send one call to ``worker``."""

    __slots__ = ("_lock", "_open", "_record", "number", "worker")

    def __init__(self, worker: Holder, number: int) -> None:
        self.worker = worker
        self.number = number
        self._lock = threading.Lock()
        self._open = True
        self._record: CallRecord | None = None

    def send(self, record: CallRecord) -> bool:
        """Send a call, from any thread; ``False`` where it has to go the usual way."""
        with self._lock:
            if not self._open:
                return False
            module = self.worker.loaded(record.request)
            if module is None:
                return False
            data = encode(order(record, self.number, module))
            if len(data) > SMALL:
                return False
            self._open = False
            self._record = record
            # If it is dead, or about to be, its burial gives the call to another.
            with contextlib.suppress(OSError):
                os.write(self.worker.wires.channel, data)
            return True

    @property
    def used(self) -> bool:
        """Whether a call was sent."""
        return self._record is not None

    def end(self) -> CallRecord | None:
        """No call is sent from now on; the one that was. In the trio thread."""
        with self._lock:
            self._open = False
            return self._record
