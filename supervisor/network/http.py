"""One HTTP/1.1 request and its response, over one connection that is then closed.

h11 keeps the rules of the protocol; here bytes move. Of the body no more is read than the guest
asks for. Redirects are responses like any other: the guest follows them, or not, by another
request, which is then checked like the first.
"""

from __future__ import annotations

import h11
import trio

from ...protocol.host_calls import Cause, Errno
from .connections import TRANSFER_SECONDS, Connection, shorter
from .failures import during
from .policy import Refused
from .requests import HEAD_LIMIT, Prepared

_HEAD_CHUNK = 1 << 14
_CHUNK = 1 << 18
"""Bytes that are read at once; what the guest has no room for is kept for its next read."""
_INTERIM = 10
"""Interim responses (1xx) before the one that counts."""


class Exchange:
    """A request that was sent; ``head`` is the response's, as the guest reads it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.head = b""
        self._talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._rest = memoryview(b"")
        self._over = False

    async def begin(self, request: Prepared, body: bytes, within: float = 0) -> None:
        """Send the request and wait for the head of the response, at most so many seconds where
        they are fewer than ours, however the server spreads it.

        Raises:
            Refused: the answer is no HTTP, or its head is too large.
        """
        talk = self._talk
        parts = [
            talk.send(
                h11.Request(
                    method=request.method, target=request.target, headers=list(request.headers)
                )
            ),
            talk.send(h11.Data(data=body)) if body else None,
            talk.send(h11.EndOfMessage()),
        ]
        with during(Cause.SEND):
            await self.connection.send(b"".join(part for part in parts if part))
        with during(Cause.RECEIVE), trio.fail_after(shorter(TRANSFER_SECONDS, within)):
            await self._head()

    async def _head(self) -> None:
        for _ in range(_INTERIM):
            event = await self._next(_HEAD_CHUNK)
            if isinstance(event, h11.Response):
                self.head = _text(event)
                return
            if not isinstance(event, h11.InformationalResponse):
                message = "the server closed the connection without a response"
                raise Refused(Errno.PROTO, message, Cause.INCOMPLETE)
        raise Refused(Errno.PROTO, f"the server sent {_INTERIM} interim responses and no other")

    async def read(self, room: int, within: float = 0) -> bytes:
        """Some bytes of the body, waiting at most so many seconds for each piece where they are not
        0; none at its end."""
        if not self._rest and not self._over:
            with trio.fail_after(TRANSFER_SECONDS):
                await self._more(within)
        piece, self._rest = self._rest[:room], self._rest[room:]
        return bytes(piece)

    async def _more(self, within: float) -> None:
        while not self._rest and not self._over:
            event = await self._next(_CHUNK, within)
            if isinstance(event, h11.Data):
                self._rest = memoryview(bytes(event.data))
            else:
                self._over = True

    async def _next(self, most: int, within: float = 0) -> h11.Event:
        while True:
            event = self._talk.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise Refused(Errno.PROTO, "the server switched protocols")
            self._talk.receive_data(await self.connection.receive(most, within))


def _text(response: h11.Response) -> bytes:
    """``200 OK`` and one line for each header, names in lower case."""
    lines = [b"%d %s" % (response.status_code, bytes(response.reason))]
    lines += [b"%s: %s" % (name, value) for name, value in response.headers]
    return b"\n".join(lines) + b"\n"
