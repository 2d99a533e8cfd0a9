"""Writing to workers: many messages in a frame where they come together, and never waiting in
the wrong place."""

from __future__ import annotations

import os

import trio

from ..protocol.errors import ProtocolError
from ..protocol.messages import ToWorker, encode

_HOLD = 16
"""Messages that may wait for company."""


class Mail:
    """While it is held, senders collect their messages; they are sent when it is let go."""

    def __init__(self) -> None:
        self.held = 0
        self._waiting: list[Sender] = []

    def add(self, sender: Sender) -> None:
        """This sender has something to send in the end."""
        self._waiting.append(sender)

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *_: object) -> None:
        self.held -= 1
        if not self.held:
            waiting, self._waiting = self._waiting, []
            for sender in waiting:
                sender.flush()


class Sender:
    """Writes at once what the channel takes, and keeps the rest, in order, for its task."""

    def __init__(self, descriptor: int, mail: Mail) -> None:
        self._descriptor = descriptor
        self._mail = mail
        self._messages: list[ToWorker] = []
        self._backlog = bytearray()
        self._wanted = trio.Event()
        self._closed = False

    def send(self, message: ToWorker) -> None:
        """Send ``message`` after all that was sent before; a dead worker's is dropped."""
        if self._closed:
            return
        self._messages.append(message)
        if not self._mail.held or len(self._messages) >= _HOLD:
            self.flush()
        elif len(self._messages) == 1:
            self._mail.add(self)

    @property
    def idle(self) -> bool:
        """Whether all that was sent has left."""
        return not self._messages and not self._backlog

    def flush(self) -> None:
        """Hand what was collected to the channel."""
        messages, self._messages = self._messages, []
        if not messages or self._closed:
            return
        data = _frames(messages)
        if not self._backlog:
            written = self._write(data)
            if written == len(data):
                return
            data = data[written:]
        self._backlog += data
        self._wanted.set()

    def close(self) -> None:
        """Send nothing more: the descriptor is about to be somebody else's."""
        self._closed = True
        self._messages.clear()
        self._backlog.clear()

    async def run(self) -> None:
        """Send the backlog as the worker takes it."""
        while not self._closed:
            await self._wanted.wait()
            await trio.lowlevel.wait_writable(self._descriptor)
            del self._backlog[: self._write(self._backlog)]
            if not self._backlog:
                self._wanted = trio.Event()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._closed = True
            self._backlog.clear()
            return len(data)


def _frames(messages: list[ToWorker]) -> bytes:
    """One frame where they fit in one, else one each."""
    try:
        return encode(*messages)
    except ProtocolError:
        if len(messages) == 1:
            raise
        return b"".join(encode(message) for message in messages)
