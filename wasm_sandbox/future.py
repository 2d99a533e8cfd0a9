"""The future of a call: it knows its receipt and can stop its guest."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .calls import conclude
from .function import Function
from .protocol.errors import SandboxError
from .protocol.receipts import Receipt
from .supervisor.requests import CallRequest, Outcome

if TYPE_CHECKING:
    from .bunches import Bunch
    from .supervisor.actor import Actor

_LATER = object()
"""Stands for a buffer that is decoded when somebody asks for the result.

The guest chose its size and content, so the thread that wants it pays, not the supervisor's."""

_cancelling = threading.Lock()


class Waiter(Protocol):
    """How the answer to a call that its caller's thread has sent may be waited for."""

    def listen(self, seconds: float) -> None:
        """Wait in this thread, for so many seconds at the most."""

    def leave(self) -> None:
        """Have the pool's thread wait."""


class Owner(Protocol):
    """Who has the call made."""

    def stop(self, future: CallFuture) -> None:
        """Stop its guest."""


@dataclass(eq=False)
class Desk:
    """Where the calls of an instance are taken; its counters are kept by the pool's thread."""

    actor: Actor
    most: int
    """Calls that may be submitted and not over."""
    first: bool = False
    """Whether it is ``on_restart`` that calls: that waits for no room, and goes first."""
    closed: bool = False
    submitted: int = 0
    finished: int = 0


class CallFuture(Future[Any]):
    """The future of a call. ``cancel()`` stops the guest even while it runs, and returns True.

    Callbacks run in the pool's thread and must be quick; they cannot wait for another call. One
    that is added while another thread waits for the result may run in that thread.
    """

    # Of the class until they are a future's own: there may be thousands of those.
    bunch: Bunch | None = None
    """Those with which it is on its way."""
    _receipt = Receipt()
    _outcome: Outcome | None = None
    _decoded: tuple[Any, BaseException | None] | None = None
    _handed_over = False
    _abandoned = False
    _waiter: Waiter | None = None
    """Until it is decided who waits for the answer."""

    def __init__(
        self,
        function: Function,
        request: CallRequest | None,
        owner: Owner,
        desk: Desk | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        """The function that was called."""
        self.request = request
        """What the supervisor was asked, or ``None`` where the arguments did not fit."""
        self.desk = desk
        """Where it is made, if it is a call of an instance."""
        self._owner = owner

    @property
    def receipt(self) -> Receipt:
        """What the call used. After ``cancel()`` it fills as soon as the guest has stopped.

        Raises:
            InvalidStateError: the call is not over.
        """
        if not self.done():
            raise InvalidStateError("the call is not over: there is no receipt yet")
        return self._receipt

    def done(self) -> bool:
        """Whether it is over."""
        self._leave()
        return super().done()

    def running(self) -> bool:
        """Whether the supervisor has it, and it is not over."""
        return self._handed_over and not self.done()

    def cancel(self) -> bool:
        """Stop the call, wherever it is; False only where it is over already."""
        try:
            # Runs the callbacks, which are the user's: whatever they raise, the guest is stopped.
            if not super().cancel():
                return False
        finally:
            with _cancelling:
                first = self.cancelled() and not self._abandoned
                self._abandoned = self._abandoned or first
            if first:
                self.set_running_or_notify_cancel()
                self._owner.stop(self)
        return True

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As ``Future.add_done_callback``."""
        self._leave()
        super().add_done_callback(fn)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the value, for ``timeout`` seconds at most.

        Raises:
            SandboxError: the call failed.
            CancelledError: it was cancelled.
            TimeoutError: it is not over yet.
        """
        if self._waiter is not None:
            timeout = self._wait_here(timeout)
        value = super().result(timeout)
        if value is not _LATER:
            return value
        value, error = self._decode()
        if error is not None:
            raise error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call's error; ``None`` where it has none."""
        if self._waiter is not None:
            timeout = self._wait_here(timeout)
        error = super().exception(timeout)
        if error is None and self._outcome is not None:
            return self._decode()[1]
        return error

    def _wait_here(self, timeout: float | None) -> float | None:
        """Wait a moment without the pool's thread, where that is possible; what is left of
        ``timeout``."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or super().done():
            return timeout
        if timeout is None:
            waiter.listen(math.inf)
            return None
        end = time.monotonic() + timeout
        if timeout > 0:
            waiter.listen(timeout)
        else:
            waiter.leave()
        return end - time.monotonic()

    def _leave(self) -> None:
        """It is waited for in another way than by ``result`` or ``exception``."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.leave()

    def _get_waiters(self) -> list[Any]:
        self._leave()
        return self._waiting

    def _set_waiters(self, waiters: list[Any]) -> None:
        self._waiting = waiters

    _waiters = property(_get_waiters, _set_waiters)  # pyright: ignore[reportAssignmentType]
    """Those of ``concurrent.futures.wait`` and ``as_completed``, which put themselves there."""

    def _decode(self) -> tuple[Any, BaseException | None]:
        if self._decoded is None:
            assert self.request is not None
            assert self._outcome is not None
            self._decoded = conclude(self.function, self.request, self._outcome)
        return self._decoded

    # --- for the pool ---------------------------------------------------------------------------

    def hand_over(self, waiter: Waiter | None = None) -> bool:
        """The supervisor takes the call, unless it was cancelled before; by ``waiter`` its answer
        can be waited for in another thread than the pool's."""
        # One that is cancelled at this very moment is stopped afterwards, as any other.
        if self._abandoned:
            return False
        self._handed_over = True
        if waiter is not None:
            self._waiter = waiter
        return True

    def finish(self, outcome: Outcome) -> None:
        """The call is over. Nothing happens to one that was cancelled."""
        self._receipt = outcome.receipt
        assert self.request is not None
        if outcome.error is None:
            self.function.pace.learn_alone(outcome.receipt.cpu_time)
        with suppress(InvalidStateError):
            if outcome.error is None and outcome.data is not None:
                self._outcome = outcome
                self.set_result(_LATER)
                return
            value, error = conclude(self.function, self.request, outcome)
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)

    def settle(
        self, receipt: Receipt, value: Any = None, error: SandboxError | None = None
    ) -> None:
        """As ``finish``, for one of several that travelled together.

        Raises:
            InvalidStateError: it was cancelled, and has its receipt now.
        """
        self._receipt = receipt
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)

    def fail(self, error: SandboxError) -> None:
        """The call will never be made."""
        with suppress(InvalidStateError):
            self.set_exception(error)
