"""A call on its way: what it is waiting for, what it has produced, and its one outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from ..protocol.errors import ProtocolError, SandboxError
from ..protocol.messages import SLOT, BatchReturned, Returned, ToWorker
from ..protocol.receipts import Receipt, Usage
from .ends import STREAM_SLACK
from .requests import CallRequest, Outcome
from .results import ResultBuffer

if TYPE_CHECKING:
    from .holder import Holder
    from .leftovers import Leftovers
    from .library import Artifact
    from .network.access import CallNetwork
    from .objects import Objects

PIECE = 1 << 12
"""Bytes up to which pieces of output are joined as they come: a million of a few bytes each would
take twenty times their size."""


class CallRecord(msgspec.Struct, eq=False):
    """One submitted call. It is queued, or with one worker, or finished; never two of them."""

    request: CallRequest
    done: Callable[[Outcome], None]
    submitted: float
    closed: Callable[[CallRecord, Outcome], None]
    """Told of the end before ``done`` is: the pool's own bookkeeping."""
    artifact: Artifact | None = None
    """What the call runs, held open until its end."""
    trampoline: Artifact | None = None
    """What loops over the records of a batch, where something does; held open as well."""
    worker: Holder | None = None
    number: int = 0
    """The call's number at its worker; a new one each time it is sent."""
    sent: float = 0.0
    spoken: bool = False
    """Whether the worker has said anything that proves that the call was begun."""
    alarm: int = 0
    """Its number among ``Timeouts``."""
    attempts: int = 0
    losses: int = 0
    """Workers that died with this call at their head, and said that it was not begun."""
    stop: SandboxError | None = None
    """Why the call is being stopped from outside: the error that it will end with."""
    finished: bool = False
    pieces: dict[int, list[bytes]] = {}
    """What was received by stream: 1 stdout, 2 stderr."""
    result: ResultBuffer | None = None
    """What was received of the result's buffer, where it came in pieces."""
    output: int = 0
    pulled: dict[int, int] = {}
    """Bytes of each buffer that were handed over, in order."""
    host_calls: int = 0
    imported: dict[str, int] = {}
    """How often each function of the caller's process was called."""
    nested: set[CallRecord] = set()
    """Calls of this pool that this one's host function waits for."""
    network: CallNetwork | None = None
    """What the call has open on the network, from its first request on."""
    objects: Objects | None = None
    """What the call's instance has handles to: what the call brings, or from the first function of
    the caller's on that it called."""
    leftovers: Leftovers | None = None
    """Who drops what of them it leaves."""
    room: trio.CancelScope | None = None
    """Around the wait until what the call brings may be left; it ends with the call."""
    message: Callable[[int], ToWorker] | None = None
    """Makes the message of a call that is not an ordinary one (a stateful worker's)."""

    @property
    def deadline(self) -> float:
        """When the caller stops waiting, queueing included (``options(timeout=)``)."""
        timeout = self.request.timeout
        return math.inf if timeout is None else self.submitted + timeout

    def bring(self, leftovers: Leftovers) -> None:
        """The call is taken, and with it what it brings."""
        if self.request.luggage is not None:
            self.objects, self.leftovers = self.request.luggage.brought, leftovers

    def take(self, stream: int, data: bytes | memoryview) -> None:
        """Keep a piece of result (stream 0) or output, which is copied out of shared memory.

        Raises:
            ProtocolError: more than the limit, or a stream that is not there.
        """
        request = self.request
        if stream not in ((1, 2) if stream else (0,)) or (stream == 0 and request.command):
            raise ProtocolError(f"stream {stream} does not exist")
        if request.command is not None and request.command.ends is not None:
            raise ProtocolError(f"output on stream {stream}, which is a pipe")
        batch = request.batch
        most = request.limits.output + STREAM_SLACK if batch is None else batch.results_size
        if batch is not None and stream:
            raise ProtocolError("output of a batch")
        self.output += len(data)
        if self.output > most:
            raise ProtocolError("a worker sent more output than its limit")
        self.spoken = True
        if not stream:
            if not request.returns_buffer and batch is None:
                raise ProtocolError("a result buffer that was not asked for")
            if self.result is None:
                self.result = ResultBuffer(request.into)
            self.result.write(data)
        elif request.on_output is not None:
            request.on_output(stream, bytes(data))
        else:
            data = bytes(data)
            pieces = self.pieces.setdefault(stream, [])
            if pieces and len(pieces[-1]) + len(data) <= PIECE:
                pieces[-1] += data
            else:
                pieces.append(data)

    def returned(self, message: Returned, now: float) -> Outcome:
        """The outcome, from what the worker returned.

        Raises:
            ProtocolError: it does not fit the function's type; the call is not finished.
        """
        request = self.request
        if request.batch is not None:
            raise ProtocolError("a batch was answered like a call")
        if len(message.slots) != request.results * SLOT:
            raise ProtocolError("the result has not the size of the function's type")
        if (message.exit_code is not None) != (request.command is not None):
            raise ProtocolError("an exit code where none belongs")
        if message.data is not None:
            self.take(0, message.data)
        pieces = self.pieces
        result = self.result
        if result is None and request.returns_buffer:
            result = ResultBuffer(request.into)
        return Outcome(
            receipt=self.receipt(message.usage, now),
            slots=message.slots,
            data=None if result is None or request.into is not None else result.value,
            filled=None if result is None else result.filled,
            exit_code=message.exit_code,
            stdout=b"".join(pieces[1]) if 1 in pieces else b"",
            stderr=b"".join(pieces[2]) if 2 in pieces else b"",
        )

    def batch_returned(
        self, message: BatchReturned, error: SandboxError | None, now: float
    ) -> Outcome:
        """The outcome of a batch, from what the worker returned; ``error`` is of the first record
        that is not done.

        Raises:
            ProtocolError: it does not fit the batch; the call is not finished.
        """
        batch = self.request.batch
        if batch is None:
            raise ProtocolError("a call was answered like a batch")
        if not 0 <= message.done <= batch.count or (message.done == batch.count and error):
            raise ProtocolError(f"{message.done} records are done of {batch.count}, it says")
        if message.done < batch.count and error is None and batch.mode != "shared":
            raise ProtocolError("a record was not run, for no reason")
        if message.data is not None:
            self.take(0, message.data)
        data = b"" if self.result is None else self.result.value
        if len(data) != (batch.results_size if message.done else 0):
            raise ProtocolError("the results have not the size of the function's type")
        return self._batch_outcome(error, message.usage, now, message.done, data)

    def batch_lost(self, error: SandboxError, done: int, results: bytes) -> None:
        """Finish a batch whose worker is dead; it had finished ``done`` records."""
        batch, now = self.request.batch, trio.current_time()
        assert batch is not None
        failure = error if done < batch.count else None
        self.finish(self._batch_outcome(failure, None, now, done, results))

    def _batch_outcome(
        self, error: SandboxError | None, usage: Usage | None, now: float, done: int, data: bytes
    ) -> Outcome:
        receipt = self.receipt(usage, now)
        if error is not None:
            error.receipt = receipt
        return Outcome(receipt=receipt, error=error, data=data, done=done)

    def failed(self, error: SandboxError, usage: Usage | None, now: float) -> Outcome:
        """The outcome, from an error."""
        receipt = self.receipt(usage, now)
        error.receipt = receipt
        pieces = self.pieces
        return Outcome(
            receipt=receipt,
            error=error,
            stdout=b"".join(pieces.get(1, ())),
            stderr=b"".join(pieces.get(2, ())),
        )

    def fail(self, error: SandboxError) -> None:
        """Finish with an error that is not the worker's word."""
        self.finish(self.failed(error, None, trio.current_time()))

    def finish(self, outcome: Outcome) -> None:
        """Hand over the one outcome."""
        assert not self.finished, "a call has exactly one outcome"
        self.finished = True
        if self.room is not None:
            self.room.cancel()
        self.disconnect()
        self.worker = None
        self.closed(self, outcome)
        self.done(outcome)

    def disconnect(self) -> None:
        """Close what the call has open on the network, but for an instance that lives on, and drop
        what its instance has left."""
        if self.network is not None and self.request.profile.stateful:
            self.network.pause()
        elif self.network is not None:
            self.network.close()
        if self.objects is not None and self.leftovers is not None:
            self.leftovers.take(self.objects, self.request.profile.tenant)
            self.objects = None

    def begin_again(self) -> None:
        """Its worker is lost, and with it what its guest had, but for what the call brings."""
        brought, luggage = self.objects, self.request.luggage
        if brought is None or luggage is None:
            self.disconnect()
        else:
            self.objects = brought.beside(luggage.numbers)
            self.disconnect()
            self.objects = brought

    def receipt(self, usage: Usage | None, now: float) -> Receipt:
        """What the call cost; a worker's figures are bounded by what the supervisor saw itself."""
        seen = now - self.sent if self.sent else 0.0
        usage = usage or Usage(wall_time=seen)
        return Receipt(
            fuel=None if usage.fuel is None else max(usage.fuel, 0),
            cpu_time=_within(usage.cpu_time, seen * 64),
            wall_time=_within(usage.wall_time, seen),
            queue_time=max(0.0, (self.sent or now) - self.submitted),
            peak_memory=None if usage.memory is None else max(usage.memory, 0),
            bytes_in=self.request.size,
            bytes_out=self._output(usage),
            bytes_read=max(usage.bytes_read, 0),
            bytes_written=max(usage.bytes_written, 0),
            disk=max(usage.disk, 0),
            worker=self.worker.number if self.worker else None,
            attempts=self.attempts,
            host_calls=self.host_calls,
            connections=self.network.connections if self.network else 0,
            network_received=self.network.traffic.received if self.network else 0,
            network_sent=self.network.traffic.sent if self.network else 0,
        )

    def _output(self, usage: Usage) -> int:
        command = self.request.command
        if command is None or command.ends is None:
            return self.output
        return min(max(usage.output, 0), self.request.limits.output)


def _within(value: float, most: float) -> float:
    return value if 0.0 <= value <= most else most
