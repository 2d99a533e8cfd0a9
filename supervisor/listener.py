"""What a worker says, followed to its ends.

Whatever arrives, in whatever pieces, is understood and allowed, or it is a ``ProtocolError``: then
the worker is ended, and nothing more of it is looked at. This is the only place that finishes calls
by a worker's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..protocol import arena, failures, messages
from ..protocol.errors import ProtocolError, SandboxError
from ..protocol.framing import FrameReader
from .calls import CallRecord
from .holder import WEIGHT
from .requests import Outcome

if TYPE_CHECKING:
    from .worker import Worker


class Listener:
    """Follows one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._records = worker.records
        self._conversation = worker.conversation
        self._reader = FrameReader()

    @property
    def amid(self) -> bool:
        """Whether the worker is in the middle of a frame."""
        return self._reader.pending > 0

    def hear(self, data: bytes) -> None:
        """Follow the bytes that were read.

        Raises:
            ProtocolError: it may not be said, or makes no sense; what came before it was followed.
        """
        for body in self._reader.feed(data):
            for message in messages.decode_from_worker(body):
                self._conversation.received(message)
                self._follow(message)

    def _follow(self, message: messages.FromWorker) -> None:
        match message:
            case messages.Returned(call=call):
                now = trio.current_time()
                self._answered(call, self._records[call].returned(message, now), now)
            case messages.Failed(call=call):
                now = trio.current_time()
                record = self._records[call]
                error = self._error(record, message.failure)
                self._answered(call, record.failed(error, message.usage, now), now)
            case messages.BatchReturned(call=call):
                now = trio.current_time()
                record, failure = self._records[call], message.failure
                wrong = None if failure is None else self._error(record, failure)
                self._answered(call, record.batch_returned(message, wrong, now), now)
            case messages.Output(call=call, stream=stream, data=data):
                if stream not in (1, 2) or not data:
                    raise ProtocolError(f"{len(data)} bytes of output on stream {stream}")
                self._records[call].take(stream, data)
            case messages.Pull():
                self._pull(message)
            case messages.Push():
                self._push(message)
            case messages.HostCall(call=call):
                self._worker.host_calls.begin(message, self._records[call])
            case messages.Recalled():
                self._recalled(message)
            case messages.Ready():
                self._worker.became_ready(message)
            case messages.StartFailed():
                self._worker.start_failed(message)
            case _:
                pass

    # --- ends of calls --------------------------------------------------------------------------

    def _error(self, record: CallRecord, failure: messages.Failure) -> SandboxError:
        if failure.kind != "interrupted":
            return failures.to_error(failure)
        if record.stop is None:
            raise ProtocolError("a call was interrupted that nobody stopped")
        return record.stop

    def _answered(self, call: int, outcome: Outcome, now: float) -> None:
        worker = self._worker
        worker.host_calls.over(self._records[call])
        record = self._records.pop(call)
        worker.host_calls.answered(record, outcome)
        begun = max(outcome.done + (outcome.error is not None), 1)
        batch = record.request.batch
        worker.calls += begun
        worker.instances += begun if batch is not None and batch.mode == "fresh" else 1
        # A batch says more of what the next one will take than a call does.
        weight = WEIGHT if record.request.batch is None else 0.5
        worker.average += (now - worker.watch.head_since - worker.average) * weight
        worker.head_changed(record, now)
        # The worker gets its next call before the caller learns of this one: it may be waiting
        # already.
        worker.office.worker_has_room(worker, now)
        record.finish(outcome)

    def _recalled(self, message: messages.Recalled) -> None:
        worker = self._worker
        back: list[CallRecord] = []
        head = worker.head
        if head is not None and message.begun < head.number <= message.until and head.spoken:
            raise ProtocolError("a recall gives back a call that had begun")
        for call in self._conversation.take_back(message):
            record = self._records.pop(call)
            record.attempts -= 1
            if record.stop is None:
                back.append(record)
            else:
                record.fail(record.stop)
        worker.head_changed(head, trio.current_time())
        worker.office.give_back(back)

    # --- the arena ------------------------------------------------------------------------------

    def _pull(self, message: messages.Pull) -> None:
        worker, record = self._worker, self._records[message.call]
        request = record.request
        if message.buffer == -1 and request.command is not None:
            source: bytes | memoryview = request.command.stdin
        elif 0 <= message.buffer < len(request.buffers):
            source = request.buffers[message.buffer][1]
        else:
            raise ProtocolError(f"call {message.call} has no buffer {message.buffer}")
        # In order and once each, so that a worker cannot keep us busy with copying.
        if message.offset != record.pulled.get(message.buffer, 0) or message.offset >= len(source):
            raise ProtocolError("a pull out of order, or from outside of a buffer")
        view = worker.wires.view
        inward, _, half = arena.halves(len(view))
        _, size = arena.bank(half, 0)
        start, _ = arena.bank(half, message.offset // size)
        piece = memoryview(source)[message.offset : message.offset + size]
        view[inward + start : inward + start + len(piece)] = piece
        record.pulled[message.buffer] = message.offset + len(piece)
        record.spoken = True
        worker.sender.send(messages.Chunk(message.call, len(piece)))

    def _push(self, message: messages.Push) -> None:
        worker = self._worker
        view = worker.wires.view
        _, outward, half = arena.halves(len(view))
        start, size = arena.bank(half, message.bank)
        if not 0 < message.length <= size or not 0 <= message.bank < arena.BANKS:
            raise ProtocolError(f"a push of {message.length} bytes in bank {message.bank}")
        start += outward
        self._records[message.call].take(message.stream, view[start : start + message.length])
        worker.sender.send(messages.Taken(message.call))
