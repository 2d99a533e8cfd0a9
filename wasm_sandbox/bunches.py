"""Calls that were submitted one by one, and travel together.

Theory of operation. Futures that the pool's thread finds waiting at the same moment, one after
another of the same function, are a *bunch*: one batch, as those of a ``map`` (``batching``), if the
function is one whose calls may travel together, and known to be quick. Every future keeps an end of
its own.

A bunch is an attempt. It has ``BUDGET`` seconds of processor time, whatever a call may use; what it
did not finish is made again by calls of their own, which such functions allow. So a call is neither
held up by a slow one before it, nor blamed for what another did to the worker, and the guest of one
that was cancelled is stopped no later than its bunch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from .batching import LEAST, batch_request, mode_of, most_at_once
from .columns import gather, unpack
from .configuration import Configuration, usable_processors
from .function import Function
from .future import CallFuture
from .protocol.batch import Mode
from .protocol.errors import SandboxError, WorkerLost
from .protocol.receipts import Receipt
from .supervisor.batches import Piece, failure_of
from .supervisor.requests import CallRequest, Outcome

_log = logging.getLogger("wasm_sandbox")
BUDGET = 0.02
"""Seconds of processor time that a bunch has: far more than one takes that went as expected, and
little to lose."""
FIRST = 32
"""Calls of a function's first bunches: no more than ``BUDGET`` allows, however long they took
alone."""
PROGRESS = 8
"""Calls that a bunch must have finished for those after a failed one to travel together again."""


@dataclass(eq=False, slots=True)
class Bunch:
    """Calls that are on their way together."""

    futures: list[CallFuture]
    request: CallRequest
    wanted: int
    """How many of them were not cancelled."""


class Bunches:
    """Decides which calls travel together, and gives each its end. In the pool's thread."""

    def __init__(
        self,
        configuration: Configuration,
        take_up: Callable[[CallFuture], bool],
        send: Callable[[CallFuture], object],
        send_bunch: Callable[[CallRequest, Callable[[Outcome], None]], object],
        over: Callable[[Sequence[CallFuture]], object],
    ) -> None:
        """
        Args:
            configuration: the pool's.
            take_up: says whether a call is still to be made.
            send: sends one by itself.
            send_bunch: sends the request of several.
            over: is told of those that have ended, before they know.
        """
        self._configuration = configuration
        self._take_up = take_up
        self._send = send
        self._send_bunch = send_bunch
        self._over = over
        self._waiting: list[CallFuture] = []

    def add(self, future: CallFuture) -> None:
        """Begin a call, no later than at the next ``flush``."""
        request = future.request
        assert request is not None
        if future.desk is not None or request.batch is not None or request.parent is not None:
            self.flush()
            if self._take_up(future):
                self._send(future)
            return
        if self._waiting and self._waiting[0].function is not future.function:
            self.flush()
        self._waiting.append(future)

    def flush(self) -> None:
        """Begin all that were added."""
        waiting, self._waiting = self._waiting, []
        wanted = [future for future in waiting if self._take_up(future)]
        if wanted:
            self._go(wanted)

    def _go(self, futures: list[CallFuture]) -> None:
        function = futures[0].function
        mode = self._mode(function) if len(futures) >= LEAST else None
        size = 0
        if mode is not None and function.pace.known:
            workers = self._configuration.workers or usable_processors()
            share = max(-(-len(futures) // workers), LEAST)
            most = min(most_at_once(function, self._configuration), share)
            size = function.pace.size(most)
            if size >= LEAST and function.pace.alone:  # most of that was for what they would share
                size = min(max(size, FIRST), most)
        if mode is None or size < LEAST:
            for future in futures:
                self._send(future)
            return
        for start in range(0, len(futures), size):
            self._go_together(function, mode, futures[start : start + size])

    def _mode(self, function: Function) -> Mode | None:
        if function.settings.limits.fuel is not None:  # each has a count of its own
            return None
        mode = mode_of(function)
        return "fresh" if mode == "per-batch" else mode

    def _go_together(self, function: Function, mode: Mode, futures: list[CallFuture]) -> None:
        if len(futures) < LEAST:
            for future in futures:
                self._send(future)
            return
        columns = gather(function.numbers.type.params, [_slots(future) for future in futures])
        request = batch_request(function, Piece(0, len(futures), mode), columns)
        assert request.batch is not None
        request.batch = replace(request.batch, attempt=True)
        limits = request.limits
        if limits.cpu_time > BUDGET:
            request.limits = msgspec.structs.replace(limits, cpu_time=BUDGET)
        bunch = Bunch(futures, request, len(futures))
        for future in futures:
            future.bunch = bunch
        self._send_bunch(request, partial(self._ended, bunch))

    # --- ends -----------------------------------------------------------------------------------

    def _ended(self, bunch: Bunch, outcome: Outcome) -> None:
        futures, batch = bunch.futures, bunch.request.batch
        assert batch is not None
        function, done = futures[0].function, outcome.done
        for future in futures:
            future.bunch = None
        function.pace.learn(outcome)
        error = failure_of(batch, outcome)
        end = done + _failed(batch.count - done, outcome, error)
        again = [future for future in futures[end:] if not future.cancelled()]
        gone = [future for future in futures[end:] if future.cancelled()]
        receipt = _share(outcome.receipt, len(_slots(futures[0])), min(done + 1, end))
        self._over([*futures[:end], *gone])
        values = unpack(batch.function.results, outcome.data or b"", batch.count, done)
        for future, value in zip(futures[:done], values, strict=True):
            _settle(future, receipt, value)
        for future in futures[done:end]:
            _settle(future, receipt, error=_own(error, receipt))
        for future in gone:
            _settle(future, receipt)
        if len(again) >= LEAST and error is not None and done >= PROGRESS:
            self._go(again)
        else:
            for future in again:
                self._send(future)


def _failed(left: int, outcome: Outcome, error: SandboxError | None) -> int:
    """How many of the ``left`` calls that are not done have failed with ``error``, for good."""
    if error is None:
        return 0
    if outcome.receipt.attempts:
        return 1
    # It was never begun. Either it was refused, or workers died with it at hand: then the calls
    # have to show by themselves whether it is their fault.
    return 0 if isinstance(error, WorkerLost) else left


def _slots(future: CallFuture) -> bytes:
    assert future.request is not None
    return future.request.slots


def _settle(
    future: CallFuture, receipt: Receipt, value: Any = None, error: SandboxError | None = None
) -> None:
    try:
        future.settle(receipt, value, error)
    except InvalidStateError:
        return  # it was cancelled
    except BaseException:  # a callback of the user's must not end the pool
        _log.exception("a callback of a future failed")


def _own(error: SandboxError | None, receipt: Receipt) -> SandboxError:
    """The error of one of those that failed together."""
    assert error is not None
    error = copy(error)
    error.receipt = receipt
    return error


def _share(receipt: Receipt, size: int, calls: int) -> Receipt:
    """The receipt of each of some calls, whose arguments had ``size`` bytes."""
    calls = max(calls, 1)
    return msgspec.structs.replace(
        receipt,
        cpu_time=receipt.cpu_time / calls,
        wall_time=receipt.wall_time / calls,
        bytes_in=size,
        bytes_out=0,
    )
