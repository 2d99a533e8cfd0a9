"""What a function of the caller's does to the memory of the guest that waits for it.

It asks from whatever thread it runs in; one order at a time goes to the worker, as the answer to
its host call, and the worker comes back with another one. Once the function is over nothing reaches
the guest any more: whoever still asks is told so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import trio

from ..protocol.errors import PoolError, ProtocolError, Trap
from ..protocol.host_calls import MemoryAnswer, MemoryOrder

Found = Future[tuple[MemoryAnswer, bytes]]
"""How an order was carried out, and what was read."""


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    order: MemoryOrder
    data: bytes
    found: Found = field(default_factory=Future[tuple[MemoryAnswer, bytes]])


class Reach:
    """For one call of one function. All but ``ask`` is for the supervisor's own thread.

    Args:
        room: bytes that can cross at once.
        send: has the worker, which waits, carry out an order, given the bytes beside it.
    """

    def __init__(self, room: int, send: Callable[[bytes, MemoryOrder], None]) -> None:
        self.room = room
        self.thread = threading.get_ident()
        """The supervisor's, which may not wait for what is found."""
        self._send = send
        self._token = trio.lowlevel.current_trio_token()
        self._sent: _Asked | None = None
        self._waiting: deque[_Asked] = deque()
        self._closed = False
        self._settled = trio.Event()

    def ask(self, order: MemoryOrder, data: bytes = b"") -> Found:
        """Have an order carried out, in turn with others, unless it is cancelled before; from any
        thread.

        What is found is a ``Trap`` where the place is not in the guest's memory, and a
        ``PoolError`` where the function is over.
        """
        asked = _Asked(order, data)
        try:
            self._token.run_sync_soon(self._take, asked)
        except trio.RunFinishedError:
            _refuse(asked)
        return asked.found

    def answered(self, answer: MemoryAnswer, data: bytes) -> None:
        """The worker has carried out what it was sent, and waits again.

        Raises:
            ProtocolError: it was sent nothing, or that is no answer to it.
        """
        asked, self._sent = self._sent, None
        if asked is None:
            raise ProtocolError("an answer to no order")
        order = asked.order
        if len(data) != (order.size if order.what == "read" and answer.inside else 0):
            raise ProtocolError(f"{len(data)} bytes for an order to {order.what} {order.size}")
        if self._closed:
            self._settled.set()
        elif answer.inside:
            asked.found.set_result((answer, data))
        else:
            asked.found.set_exception(_outside(order, answer.size))
        self._next()

    def close(self) -> None:
        """The function is over."""
        self._closed = True
        for asked in (self._sent, *self._waiting):
            if asked is not None:
                _refuse(asked)
        self._waiting.clear()

    async def settled(self) -> None:
        """Until the worker waits for nothing but the function's answer, once that is over."""
        if self._sent is not None:
            await self._settled.wait()

    def cut(self) -> None:
        """The call has ended, and will answer nothing more.

        Raises:
            ProtocolError: not while the guest made room; nothing else can end it here.
        """
        if self._sent is None or self._sent.order.what != "allocate":
            raise ProtocolError("a call ended while an order waits for its answer")
        self._settled.set()

    def _take(self, asked: _Asked) -> None:
        if self._closed:
            _refuse(asked)
        else:
            self._waiting.append(asked)
            self._next()

    def _next(self) -> None:
        while self._sent is None and self._waiting:
            asked = self._waiting.popleft()
            if asked.found.set_running_or_notify_cancel():
                self._sent = asked
                self._send(asked.data, asked.order)


def _refuse(asked: _Asked) -> None:
    if asked.found.running() or asked.found.set_running_or_notify_cancel():
        asked.found.set_exception(
            PoolError(
                "the call of the host function is over, and the guest's memory out of its reach",
                "use it before the function returns, and before its call ends",
            )
        )


def _outside(order: MemoryOrder, size: int) -> Trap:
    return Trap(
        "memory_out_of_bounds",
        f"{order.size} bytes at {order.start} are not all in the guest's memory of {size} bytes",
    )
