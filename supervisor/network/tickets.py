"""Requests of a guest that are carried out while it goes on, and how it waits for them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from ...protocol.host_calls import Errno, NetworkAnswer
from .policy import Refused

Answer = tuple[NetworkAnswer, bytes]
"""An answer, and the data beside it."""
BYTES = 16 << 20
"""Bytes that the requests send, together."""


@dataclass(eq=False, slots=True)
class _Ticket:
    """A request that was begun."""

    size: int
    """Bytes that it sends."""
    undo: Callable[[NetworkAnswer], None]
    answer: Answer | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Tickets:
    """The requests that were begun.

    Args:
        nursery: where they are carried out.
        most: how many there may be whose answers were not collected.
    """

    def __init__(self, nursery: trio.Nursery, most: int) -> None:
        self._nursery = nursery
        self._most = most
        self._held: dict[int, _Ticket] = {}
        self._last = 0
        self._endings = trio.lowlevel.ParkingLot()

    def begin(
        self,
        size: int,
        work: Callable[[], Awaitable[Answer]],
        undo: Callable[[NetworkAnswer], None],
    ) -> int:
        """Carry ``work``, which sends ``size`` bytes, out in the background; the number of its
        ticket. ``undo`` is called where nobody wants its answer any more.

        Raises:
            Refused: ``MFILE``: too much is under way.
        """
        sizes = sum(each.size for each in self._held.values())
        if len(self._held) >= self._most or (sizes and sizes + size > BYTES):
            raise Refused(
                Errno.MFILE,
                f"{len(self._held)} requests with {sizes} bytes are under way; "
                f"at most {self._most} with {BYTES} bytes may be",
            )
        self._last += 1
        ticket = self._held[self._last] = _Ticket(size, undo)
        self._nursery.start_soon(self._carry_out, ticket, work)
        return self._last

    async def _carry_out(self, ticket: _Ticket, work: Callable[[], Awaitable[Answer]]) -> None:
        with ticket.scope:
            answer = await work()
            if ticket.scope.cancel_called:  # too late to be stopped
                ticket.undo(answer[0])
            else:
                ticket.answer, ticket.size = answer, 0
        self._endings.unpark_all()

    async def wait(self, numbers: Sequence[int], seconds: float | None) -> bytes:
        """The places of those that have ended, or do not exist, once there is one."""
        with trio.move_on_after(math.inf if seconds is None else seconds):
            while not any(self._ended(number) for number in numbers):
                await self._endings.park()
        ended = (place for place, number in enumerate(numbers) if self._ended(number))
        return array("H", ended).tobytes()

    def _ended(self, number: int) -> bool:
        ticket = self._held.get(number)
        return ticket is None or ticket.answer is not None

    def collect(self, number: int, room: int) -> Answer:
        """The answer of one that has ended.

        Raises:
            Refused: ``BADF``: there is none of that number, or it has not ended. ``RANGE``: it has
                more than ``room`` bytes.
        """
        ticket = self._held.get(number)
        if ticket is None or ticket.answer is None:
            raise Refused(Errno.BADF, f"there is no answer of a request {number}")
        if len(ticket.answer[1]) > room:
            raise Refused(Errno.RANGE, f"the answer has {len(ticket.answer[1])} bytes")
        del self._held[number]
        return ticket.answer

    def abandon(self, number: int) -> None:
        """Stop one, undo what it did, and forget it.

        Raises:
            Refused: ``BADF``: there is none of that number.
        """
        ticket = self._held.pop(number, None)
        if ticket is None:
            raise Refused(Errno.BADF, f"there is no request {number}")
        ticket.scope.cancel()
        if ticket.answer is not None:
            ticket.undo(ticket.answer[0])

    def stop(self) -> None:
        """Stop and forget those that have not ended."""
        for number in [number for number, each in self._held.items() if each.answer is None]:
            self.abandon(number)
