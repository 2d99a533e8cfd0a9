"""The worker's end of the channel: blocking reads, and writes that two threads share."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TypeVar

from ..protocol.framing import READ_SIZE, FrameReader
from ..protocol.messages import FromWorker, ToWorker, decode_to_worker, encode

M = TypeVar("M")

_HOLD = 64
"""Answers that may wait for company before they are sent."""


class SupervisorGone(Exception):
    """The channel ended: nobody is there to work for."""


class Channel:
    """Messages in order of arrival; answers collected until ``flush``."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._reader = FrameReader()
        self._inbox: deque[ToWorker] = deque()
        self._outbox: list[FromWorker] = []
        self._weight = 0
        self._sending = threading.Lock()

    @property
    def empty(self) -> bool:
        """Whether nothing is waiting to be handled."""
        return not self._inbox

    def receive(self) -> ToWorker:
        """The next message; flushes and waits where none is there.

        Raises:
            SupervisorGone: the stream ended.
        """
        while not self._inbox:
            self.flush()
            self._fill(self._inbox)
        return self._inbox.popleft()

    def expect(self, *kinds: type[M]) -> M:
        """The next message of these kinds, which answers one of ours; others keep their order."""
        self.flush()
        arrived: deque[ToWorker] = deque()
        while True:
            self._fill(arrived)
            while arrived:
                message = arrived.popleft()
                if isinstance(message, kinds):
                    self._inbox.extend(arrived)
                    return message
                self._inbox.append(message)

    def answer(self, message: FromWorker, weight: int = 0) -> None:
        """Queue an answer; it is sent at the next flush, or now where enough has gathered."""
        with self._sending:
            self._outbox.append(message)
            self._weight += 1 + (weight >> 12)
        if self._weight >= _HOLD:
            self.flush()

    def flush(self) -> None:
        """Send what is queued; when this returns it is sent. Safe from any thread."""
        if not self._outbox and not self._sending.locked():  # in this order
            return
        with self._sending:
            if not self._outbox:
                return
            messages, self._outbox, self._weight = self._outbox, [], 0
            self._write(encode(*messages))

    def say(self, message: FromWorker) -> None:
        """Send what is queued, then ``message``, now."""
        self.answer(message)
        self.flush()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise SupervisorGone from error

    def _fill(self, box: deque[ToWorker]) -> None:
        try:
            data = os.read(self._descriptor, READ_SIZE)
        except ConnectionResetError as error:
            raise SupervisorGone from error
        if not data:
            raise SupervisorGone
        for body in self._reader.feed(data):
            box.extend(decode_to_worker(body))
