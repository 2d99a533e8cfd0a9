"""The network of a component instance: requests of the supervisor's side that are begun, waited for
and collected, and the streams of connections.

``wasi:io/poll`` can wait for several things at once, so nothing here waits unless the guest does.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable

from ...protocol.host_calls import (
    BEGUN,
    WAITED,
    Abandon,
    Begin,
    Close,
    Collect,
    Errno,
    HttpRequest,
    LookUp,
    NetworkAnswer,
    NetworkRequest,
    Read,
    Shutdown,
    TcpConnect,
    Wait,
    Write,
)
from ..engines.interface import AskNetwork
from .heap import BadValue
from .pipes import PERMIT, Failed, Pollable, Sink, Source, StreamError

HELD = 32 << 20
"""Bytes of headers, and of bodies that were not sent, in one instance."""
_LONGEST = 1e9
"""Seconds, far more than any call lasts."""


class Network:
    """The network of one instance."""

    def __init__(self, ask: AskNetwork) -> None:
        self._ask = ask
        self.left = HELD

    def ask(
        self, request: NetworkRequest, data: bytes | None = None, room: int = 0
    ) -> tuple[NetworkAnswer, bytes]:
        """Have a request carried out, and wait for it."""
        answer, found = self._ask(request, None if data is None else memoryview(data), room)
        return answer, bytes(found)

    def begin(
        self,
        request: HttpRequest | TcpConnect | Read | Write | LookUp,
        data: bytes | None = None,
    ) -> Ticket:
        """Have a request carried out, and do not wait for it."""
        answer, _ = self.ask(Begin(request), data)
        return Ticket(self, answer)

    def wait(self, tickets: Iterable[Ticket], seconds: float) -> None:
        """Wait until one of them has ended, so many seconds at most, and note which have."""
        waited = list({ticket.number: ticket for ticket in tickets}.values())[:WAITED]
        within = None if seconds == math.inf else min(max(0.0, seconds), _LONGEST)
        numbers = tuple(ticket.number for ticket in waited)
        _, places = self.ask(Wait(numbers, within), room=2 * len(numbers))
        for place in array("H", places):
            waited[place].ended = True


class Ticket:
    """A request that was begun, or why it could not be."""

    def __init__(self, network: Network, begun: NetworkAnswer) -> None:
        self._network = network
        self._refused = begun if begun.errno else None
        self.number = begun.value
        self.ended = self._refused is not None

    def check(self) -> bool:
        """Whether it has ended by now."""
        if not self.ended:
            self._network.wait([self], 0)
        return self.ended

    def collect(self) -> tuple[NetworkAnswer, bytes]:
        """Its answer, once, when it has ended; waits for that."""
        if self._refused is not None:
            return self._refused, b""
        if not self.ended:
            self._network.wait([self], math.inf)
        return self._network.ask(Collect(self.number), room=BEGUN)

    def abandon(self) -> None:
        """Nobody wants its answer."""
        if self._refused is None:
            self._network.ask(Abandon(self.number))


class Event(Pollable):
    """Something on the network to wait for.

    Args:
        find: the request that has to end for it, begun where it is not; ``True`` where it is ready,
            and ``False`` where nothing is under way that could make it so.
    """

    def __init__(self, find: Callable[[], Ticket | bool]) -> None:
        super().__init__(math.inf)
        self.find = find


class Share:
    """Room that a thing of the guest's takes in the worker, for as long as it exists."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._size = 0

    def resize(self, size: int) -> None:
        """Take so many bytes, all in all.

        Raises:
            BadValue: there is not so much room.
        """
        left = self._network.left + self._size - size
        if left < 0:
            raise BadValue(f"headers and bodies of more than {HELD} bytes")
        self._network.left, self._size = left, size

    def __del__(self) -> None:
        self.resize(0)


class Link:
    """A connection, which is closed when the last thing that uses it is dropped.

    Args:
        failed: what the guest is told of an error on it.
        within: seconds that it may be silent; 0 is as long as the supervisor's side allows.
    """

    def __init__(
        self,
        network: Network,
        handle: int,
        failed: Callable[[NetworkAnswer], Failed],
        within: float = 0,
    ) -> None:
        self.network = network
        self.handle = handle
        self.failed = failed
        self.within = within
        self._users = 0

    def use(self) -> Link:
        """One more needs it."""
        self._users += 1
        return self

    def release(self) -> None:
        """One less."""
        self._users -= 1
        if not self._users:
            self.close()

    def close(self) -> None:
        """Close it now."""
        self.network.ask(Close(self.handle))


class Incoming(Source):
    """What comes in over a connection."""

    def __init__(self, link: Link) -> None:
        self._link = link.use()
        self._begun: Ticket | None = None
        self._data = b""
        self._over = False
        self._failure: NetworkAnswer | None = None

    def find(self) -> Ticket | bool:
        """What has to end for something to be there."""
        if self._data or self._over or self._failure:
            return True
        if self._begun is None:
            self._begun = self._link.network.begin(Read(self._link.handle, self._link.within))
        return self._begun.ended or self._begun

    def subscribe(self) -> Pollable:
        """Ready when there is something, or the end."""
        return Event(self.find)

    def read(self, size: int) -> bytes:
        """At least one byte; nothing at the end."""
        if self._begun is None and not (self._data or self._over or self._failure):
            request = Read(self._link.handle, self._link.within)
            self._take(*self._link.network.ask(request, room=size))
        elif self._begun is not None:
            self._collect()
        return self._give(size)

    def try_read(self, size: int) -> bytes | None:
        """The same; ``None`` where there is nothing yet."""
        found = self.find()
        if isinstance(found, Ticket) and not found.check():
            return None
        if self._begun is not None:
            self._collect()
        return self._give(size)

    def end(self) -> None:
        """No more is wanted."""
        self._over, self._data = True, b""

    def _collect(self) -> None:
        assert self._begun is not None
        begun, self._begun = self._begun, None
        self._take(*begun.collect())

    def _take(self, answer: NetworkAnswer, data: bytes) -> None:
        if answer.errno:
            self._failure = answer
        elif not self._over:
            self._data, self._over = data, not data

    def _give(self, size: int) -> bytes:
        if self._failure is not None:
            failure, self._failure, self._over = self._failure, None, True
            raise StreamError(self._link.failed(failure))
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def release(self) -> None:
        """The stream was dropped. What is being read is not: there may be another stream of it."""
        if self._begun is not None:
            self._begun.abandon()
            self._begun = None
        self._link.release()


class Outgoing(Sink):
    """What goes out over a connection. One write may be under way; the next waits for it."""

    def __init__(self, link: Link) -> None:
        self._link = link.use()
        self._begun: Ticket | None = None
        self.over = False

    def find(self) -> Ticket | bool:
        """What has to end for something to be written."""
        return self._begun is None or self._begun.ended or self._begun

    def subscribe(self) -> Pollable:
        """Ready when something can be written."""
        return Event(self.find)

    def permit(self) -> int:
        """Bytes that may be written now."""
        if self._begun is not None and not self._begun.check():
            return 0
        self.flush()
        return 0 if self.over else PERMIT

    def write(self, data: bytes) -> bool:
        """Begin to send it."""
        self.flush()
        if not self.over:
            self._begun = self._link.network.begin(Write(self._link.handle), data)
        return not self.over

    def write_through(self, data: bytes) -> bool:
        """Send it."""
        self.flush()
        if not self.over:
            self._check(self._link.network.ask(Write(self._link.handle), data)[0])
        return not self.over

    def flush(self) -> None:
        """Wait for what is being sent."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self._check(begun.collect()[0])

    def end(self) -> NetworkAnswer:
        """Send nothing more."""
        self.flush()
        self.over = True
        return self._link.network.ask(Shutdown(self._link.handle))[0]

    def _check(self, answer: NetworkAnswer) -> None:
        if answer.errno:
            self.over = True
            raise StreamError(self._link.failed(answer))

    def release(self) -> None:
        """The stream was dropped. What was written before is sent first."""
        if self._begun is not None:
            self._begun.collect()
            self._begun = None
        self._link.release()


def seconds(nanoseconds: int | None) -> float:
    """A duration of WASI; 0 where there is none."""
    return 0.0 if nanoseconds is None else max(nanoseconds, 1) / 1e9


NO_NETWORK = NetworkAnswer(Errno.ACCES, message="there is no network here")
