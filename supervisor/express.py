"""The short way: a thread sends a call to an idle worker itself, and may read the answer itself.

Theory of operation. Everything about a pool happens in its trio thread, and waking that thread is
most of what a lone call costs. So a worker that has nothing to do is *lent*: its loan lies where
any thread can take it, and whoever takes it may send one call under a number of its own. The trio
thread learns of it afterwards (``Holder.settle``), always before it looks at that worker again:
before it reads what the worker says, assigns, stops or buries it; and by itself soon enough to keep
the call's limits (``Worker.heed``). The loan's lock is what makes both sides agree, and keeps the
channel open while a thread uses it. A call that was lent to a worker which then turns out to be
dead was not begun, and goes to another, as any call would.

Who waits for that call may *listen*: for a moment the trio thread is not woken by what the worker
says (``Ear``). The waiting thread looks at the answer without taking it. If that is all there is,
and returns the call as it should, the thread takes it, and the call is over; the loan can be used
again. Whatever else it is, whatever else happens, and when the moment is over, the call is the trio
thread's, which finds the channel as if nobody had looked. So only one kind of answer is understood
here, and every other rule has one place.

After such an answer the ear stays shut: the worker has nothing to say, and who waited for one call
will wait for the next. It opens for a call that is waited for in another way (``leave``) or may ask
for something before anybody listens, and when the trio thread looks at the worker, which it does
soon and often as long as there are such calls.

A thread can be interrupted anywhere (KeyboardInterrupt). That an answer was taken shows in the
bytes that it was taken to, which one system call fills; until the thread says that the call is over
(``free``), the trio thread would end it with the same outcome.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ..protocol.errors import ProtocolError
from ..protocol.framing import only_body
from ..protocol.messages import Returned, decode_from_worker, encode
from .orders import order

if TYPE_CHECKING:
    from .calls import CallRecord
    from .requests import Outcome
    from .worker import Worker

SMALL = 4096
"""Bytes of a message that an idle worker's channel always takes whole, and of an answer that is
read the short way."""
MOMENT = 0.002
"""Seconds that a thread listens: a call that takes longer does not gain by it."""
ANSWERS = 64
"""Answers after which the trio thread looks at the worker, at the latest."""


class Ear:
    """What wakes the trio thread when a worker says something, and can be held shut meanwhile.

    An epoll(7) of the one channel, on which the trio thread waits; its end wakes that thread even
    so.
    """

    def __init__(self, channel: socket.socket) -> None:
        """
        Raises:
            OSError: no descriptor is left.
        """
        self.channel = channel
        self._nudged = False
        self._epoll = select.epoll()
        try:
            self._epoll.register(channel, select.EPOLLIN)
            self._nudge = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except BaseException:
            self._epoll.close()
            raise

    def fileno(self) -> int:
        """What the trio thread waits for."""
        return self._epoll.fileno()

    def shut(self) -> None:
        """Do not wake the trio thread."""
        self._epoll.modify(self.channel, 0)

    def open(self) -> None:
        """Wake it, now if there is something."""
        self._epoll.modify(self.channel, select.EPOLLIN)

    def poll(self) -> select.poll:
        """What a thread that listens waits with."""
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(self._nudge, select.POLLIN)
        return poll

    def nudge(self) -> None:
        """Have a thread that listens look up."""
        self._nudged = True
        os.eventfd_write(self._nudge, 1)

    def calm(self) -> None:
        """Forget who was to look up."""
        if self._nudged:
            self._nudged = False
            os.eventfd_read(self._nudge)

    def close(self) -> None:
        """Give the descriptors back."""
        self._epoll.close()
        os.close(self._nudge)


class Loan:
    """The right to send ``worker`` one call at a time."""

    __slots__ = (
        "_answers",
        "_ear",
        "_home",
        "_listening",
        "_lock",
        "_looked_at",
        "_open",
        "_outcome",
        "_poll",
        "_record",
        "_sent",
        "_shut",
        "_taken",
        "_until",
        "answered",
        "listed",
        "spent",
        "worker",
    )

    def __init__(
        self, worker: Worker, home: deque[Loan], ear: Ear | None, answers: int, until: float
    ) -> None:
        """
        Args:
            worker: what is lent.
            home: where the loan lies while nobody uses it.
            ear: of the worker, where its answers may be read the short way.
            answers: how many of them at the most.
            until: when the calls are sent, at the latest, whose answers are read so; trio's time.
        """
        self.worker = worker
        self._home = home
        self._ear = ear
        self._poll = None if ear is None else ear.poll()
        self._answers = answers
        self._until = until
        self._lock = threading.Lock()
        self._open = True
        self._shut = False
        """Whether the ear may be shut."""
        self._record: CallRecord | None = None
        self._sent = 0.0
        self._listening = False
        """Whether a thread listens."""
        self._taken = bytearray()
        self._outcome: Outcome | None = None
        self._looked_at = 0
        self.answered = 0
        """Calls that are over, and of which the trio thread does not know."""
        self.spent = 0.0
        """Seconds that they took."""
        self.listed = False
        """Whether the trio thread is going to look at it."""

    # --- from any thread ------------------------------------------------------------------------

    def send(self, record: CallRecord) -> bool:
        """Send a call; ``False`` where it has to go the usual way."""
        worker = self.worker
        with self._lock:
            if not self._open or self._record is not None:
                return False
            module = worker.loaded(record.request)
            if module is None:
                return False
            record.number = worker.office.next_call()
            data = encode(order(record, record.number, module))
            if len(data) > SMALL:
                return False
            if record.request.asks:
                self._hear()
            self._sent = time.perf_counter()
            self._record = record  # and at once, before an interruption, it is sent
            # If it is dead, or about to be, its burial gives the call to another.
            try:  # noqa: SIM105 (a microsecond)
                os.write(worker.wires.channel, data)
            except OSError:
                pass
            return True

    def listen(self, record: CallRecord, seconds: float) -> Outcome | None:
        """Wait for the answer to ``record`` for a moment; ``None`` where it is, or will be, for the
        trio thread. With an outcome, ``free`` must follow once the caller has it."""
        ear, poll = self._ear, self._poll
        if ear is None or poll is None:
            return None
        with self._lock:
            if not self._open or self._record is not record or self._listening:
                return None
            if self.answered >= self._answers or record.submitted >= self._until:
                self._hear()
                return None
            self._listening = True
            # Here, where it cannot be closed. What was closed may be somebody else's by now.
            ear.calm()
            if not self._shut:
                self._shut = True
                ear.shut()
        outcome = None
        try:
            poll.poll(seconds * 1000)
        finally:
            with self._lock:
                self._listening = False
                if self._open:
                    outcome = self.take(ear.channel, record)
                    if outcome is None:
                        self._hear()
        return outcome

    def leave(self, record: CallRecord) -> None:
        """Nobody is going to listen for the answer to ``record``: it is the trio thread's."""
        with self._lock:
            if self._open and self._record is record and not self._listening:
                self._hear()

    def _hear(self) -> None:
        """Have the trio thread woken by the worker."""
        if self._shut and self._ear is not None:
            self._ear.open()
            self._shut = False

    def take(self, channel: socket.socket, record: CallRecord) -> Outcome | None:
        """Take the answer, if it is a plain one; within ``listen``."""
        try:
            data = channel.recv(SMALL, socket.MSG_PEEK)
            message = _only_message(data)
            if message is None or message.call != record.number:
                return None
            now = record.submitted + time.perf_counter() - self._sent
            record.worker, record.sent, record.attempts = self.worker, record.submitted, 1
            self._outcome = record.returned(message, now)
        except (OSError, ProtocolError):
            return None
        self._taken = bytearray(len(data))
        channel.recv_into(self._taken)
        self.spent += now - record.submitted
        return self._outcome

    def free(self) -> None:
        """The call of which one has heard is over, and its caller knows."""
        with self._lock:
            if self._open:
                self.answered += 1
                self._record = self._outcome = None
                self._taken = bytearray()
                self._home.append(self)

    @property
    def ended(self) -> bool:
        """Whether what was sent by it is the trio thread's."""
        return not self._open

    # --- in the trio thread ---------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether a call has just been sent, to which a thread listens or may do so."""
        return self._record is not None and time.perf_counter() < self._sent + MOMENT

    @property
    def out(self) -> CallRecord | None:
        """The call that was sent, and of whose end nobody has told."""
        return self._record

    @property
    def going_on(self) -> bool:
        """Whether calls go by it one after the other: some are over since this was last asked, and
        none is out for long."""
        before, self._looked_at = self._looked_at, self.answered
        return self.answered > before and (self._record is None or self.fresh)

    @property
    def used(self) -> bool:
        """Whether a call was sent."""
        return self._record is not None or self.answered > 0

    def end(self) -> tuple[CallRecord | None, Outcome | None]:
        """No call is sent from now on; the one that was, and its outcome if its answer was
        taken."""
        with self._lock:
            self._open = False
            self._hear()
            if self._listening and self._ear is not None:
                self._ear.nudge()
            record = self._record
            if record is None:
                return None, None
            if any(self._taken):
                self.answered += 1
                return record, self._outcome
            record.attempts = 0
            return record, None


def _only_message(data: bytes) -> Returned | None:
    """What the bytes say, if they say that a call has returned, and nothing else.

    Raises:
        ProtocolError: they make no sense.
    """
    body = only_body(data)
    if body is None:
        return None
    messages = decode_from_worker(body)
    if len(messages) != 1 or not isinstance(messages[0], Returned):
        return None
    return messages[0]
