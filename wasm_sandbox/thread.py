"""The thread in which a synchronous pool's supervisor lives.

Theory of operation. Other threads put thunks into a deque and wake the thread if it was not woken
since it last looked; it carries them out in order, some at a time. So a bunch of submissions costs
one wake-up, and a lone one starts at once: its caller's thread sends it to an idle worker, and the
pool's thread looks for such calls before anything else that it does (``lone_calls``). Who waits for
such a call reads its answer itself, if it comes at once. What waits for the core to
be done is counted: ``_submitted`` and ``_heard`` grow under the lock, ``_finished`` only in the
thread, so what is left of them needs no lock to read.

The thread is a daemon and the pool is closed by ``atexit``, after the program's other threads have
ended: they may still be using it. An interpreter that leaves because of an exception cancels what
is pending.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from .bunches import Bunches
from .calls import OutputGuard, innermost, mailbox_full, pool_full, with_receipt
from .configuration import Configuration, usable_processors
from .future import CallFuture, Desk
from .lone_calls import LoneCalls
from .protocol.errors import DeadlineExceeded, PoolClosed, PoolError, QueueFull, SandboxError
from .protocol.receipts import Receipt
from .runners import AsyncioRunner
from .supervisor.imports import act_for
from .supervisor.requests import CallRequest, Outcome
from .supervisor.shortages import breakdown, pool_error

if TYPE_CHECKING:
    from .supervisor.actor import Actor
    from .supervisor.core import Core

_log = logging.getLogger("wasm_sandbox")
Result = TypeVar("Result")
_AT_A_TIME = 512
_MOMENT = 1.0
"""Seconds after which the thread, which passes cancellations on at once, must be standing still."""
_TRIO_DESCRIPTORS = 5
"""Descriptors that a run of trio opens at once."""


class CoreThread:
    """A core that was made, in a trio run of its own. Once this is made, it is up.

    Raises:
        SandboxError: the core could not start.
    """

    def __init__(self, configuration: Configuration, core: Core) -> None:
        self._configuration = configuration
        self._process = os.getpid()
        self.host_functions = AsyncioRunner(configuration.workers or usable_processors())
        """Where functions run that guests call."""
        self._inbox: deque[Callable[[], object] | CallFuture] = deque()
        self._awake = True  # until the thread looks for the first time
        self._lock = threading.RLock()
        self._gate = threading.Condition(self._lock)  # which takes twice as long to enter
        self._closed = False
        self._waiting = 0
        self._submitted = 0
        self._finished = 0
        self._heard = 0
        """Calls whose answer was read by the thread that waited for it."""
        self._live: set[CallFuture] = set()
        self._bunches = Bunches(
            configuration, self._take_up, self._send, self._send_request, self._over
        )
        self._lone = LoneCalls(self._heard_of, self._wake_up)
        self._stopping = 0
        """Cancellations that the thread has not heard of."""
        self._let_off: set[CallFuture] = set()
        """Calls that were cancelled, are still with the core, and are no longer counted."""
        self._jobs: set[trio.CancelScope] = set()
        self._urgent = False
        self._exiting = False
        self._failure: SandboxError | None = None
        self._up = threading.Event()
        self._ended = threading.Event()
        self._bell = _make_bell()
        """Wakes the thread; a third of the cost of trio's own way. -1 when it is closed."""
        self._core: Core | None = None
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._started = trio.Event()
        self._listening = trio.CancelScope()
        self._thread = threading.Thread(
            target=self._run, args=(core,), name="wasm-sandbox", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(self._bell)
            raise pool_error("the pool has no thread", error) from error
        try:
            self._up.wait()
        except BaseException:
            self.close(cancel=True)
            self._ended.wait()
            raise
        if self._failure is not None:
            self._ended.wait()
            raise self._failure
        atexit.register(self._at_exit)

    # --- from any thread ------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._closed

    @property
    def is_current(self) -> bool:
        """Whether the caller is in this very thread, and so cannot wait for it."""
        return threading.current_thread() is self._thread

    @property
    def pending(self) -> int:
        """Calls that were submitted and are not over."""
        return self._submitted - self._finished - self._heard

    def submit(self, future: CallFuture) -> None:
        """Queue a call.

        Raises:
            PoolClosed: the pool was shut down.
            PoolError: it has failed, or belongs to another process.
            QueueFull: ``max_pending`` calls are not over, and ``when_full`` is ``"raise"``.
        """
        self.check_process()
        desk = future.desk
        with self._lock:
            if not self._has_room(desk) and not self._wait_for_room(future):
                return
            # What rebuilds an instance is done even while the pool finishes its last calls.
            if self._closed and not (desk is not None and desk.first and self._bell >= 0):
                raise self._closed_error()
            alone = self._submitted == self._finished + self._heard
            sent = alone and self._express(future)
            # Counted at once with where it is from now on: an interruption is before both or after.
            self._submitted += 1
            if desk is not None:
                desk.submitted += 1
            if sent:
                self._live.add(future)
            else:
                self._inbox.append(future)
                if not self._awake:
                    self._wake()

    def _express(self, future: CallFuture) -> bool:
        """Send a lone call from this thread, if a worker is idle; the pool's thread hears of it."""
        core, request = self._core, future.request
        if core is None or request is None or request.on_output is not None or self.is_current:
            return False
        return future.desk is None and self._lone.send(core, future)

    def _heard_of(self, future: CallFuture, outcome: Outcome) -> None:
        """A lone call is over, in whatever thread, perhaps not for the first time."""
        with self._lock:
            if future in self._live:
                if future not in self._let_off:
                    self._heard += 1
                self._live.discard(future)
                self._let_off.discard(future)
                if self._waiting:
                    self._gate.notify_all()
        if self.is_current:
            self._finish(future, outcome)
        else:
            future.finish(outcome)

    def _has_room(self, desk: Desk | None) -> bool:
        if self._closed or (desk is not None and (desk.first or desk.closed)):
            return True
        if desk is not None and desk.submitted - desk.finished >= desk.most:
            return False
        return self.pending < self._configuration.max_pending

    def _wait_for_room(self, future: CallFuture) -> bool:
        def has_room() -> bool:
            return self._has_room(future.desk)

        if self._lone.are_out:
            self.post(self._lone.look)  # an answer may lie there for which nobody waits
        if self._configuration.when_full == "raise" or self.is_current:
            if self._stopping and not self.is_current:
                self._wait_until(lambda: has_room() or not self._stopping, _MOMENT)
            if not has_room():
                raise self._queue_full(future.desk)
            return True
        assert future.request is not None
        timeout = future.request.timeout
        start = time.monotonic()
        room = self._wait_until(has_room, timeout)
        if timeout is not None:
            future.request.timeout = max(timeout - (time.monotonic() - start), 0.0)
        if not room:
            late = DeadlineExceeded("timeout", time.monotonic() - start, timeout)
            future.fail(with_receipt(late, Receipt(queue_time=time.monotonic() - start)))
        return room

    def _queue_full(self, desk: Desk | None) -> QueueFull:
        if desk is not None and desk.submitted - desk.finished >= desk.most:
            return mailbox_full(desk.most)
        return pool_full(self._configuration.max_pending)

    def _wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        self._waiting += 1
        try:
            return self._gate.wait_for(condition, timeout)
        finally:
            self._waiting -= 1

    def check_open(self) -> None:
        """Refuse where ``submit`` would.

        Raises:
            PoolClosed: the pool was shut down.
            PoolError: it has failed, or belongs to another process.
        """
        self.check_process()
        if self._closed:
            raise self._closed_error()

    def stop(self, future: CallFuture) -> None:
        """Stop the guest of a call that was cancelled."""
        with self._lock:
            self._stopping += 1
            self.post(partial(self._cancelled, future))

    def run(self, function: Callable[[Core], Awaitable[Result]]) -> Result:
        """Call an asynchronous function with the core, in the thread, and wait; Ctrl-C cancels it.

        Raises:
            PoolClosed: the pool was shut down.
            PoolError: it has failed, belongs to another process, or would wait for itself.
        """
        self.check_process()
        self.check_may_wait()
        scope = trio.CancelScope()
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise self._closed_error()
            self.post(partial(self._spawn, function, future, scope, copy_context()))
        try:
            return future.result()
        finally:
            if not future.done():
                self.post(scope.cancel)

    async def ask(self, function: Callable[[Core], Awaitable[Result]]) -> Result:
        """As ``run``, from another trio run than its own. Cancelled, it cancels what it asked for,
        and returns when that is over.

        Raises: as ``run``.
        """
        self.check_process()
        scope = trio.CancelScope()
        future: Future[Result] = Future()
        over = trio.Event()
        token = trio.lowlevel.current_trio_token()
        future.add_done_callback(lambda _: token.run_sync_soon(over.set))
        with self._lock:
            if self._closed:
                raise self._closed_error()
            self.post(partial(self._spawn, function, future, scope, copy_context()))
        try:
            await over.wait()
        except trio.Cancelled:
            self.post(scope.cancel)
            with trio.CancelScope(shield=True):
                await over.wait()
            if future.exception() is not None:
                raise
        return future.result()

    def leave(self, desk: Desk) -> None:
        """Nobody waits for room at this desk any more."""
        with self._lock:
            desk.closed = True
            self._gate.notify_all()

    def drop(self, actor: Actor) -> None:
        """End an instance that nobody holds any more. Does not wait."""
        if os.getpid() == self._process:

            async def close(_: Core) -> None:
                await actor.close(cancel=True)

            self.post(partial(self._spawn, close, Future(), trio.CancelScope(), Context()))

    def close(self, *, cancel: bool) -> None:
        """Take no more calls; finish those that were taken, or cancel them. Does not wait."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._gate.notify_all()
            self.post(partial(self._close, cancel))

    def join(self) -> None:
        """Wait until the thread has ended and left nothing; an interruption cancels all calls."""
        if os.getpid() != self._process or self.is_current:
            return
        core = self._core
        if core is not None and core.is_waited_for():
            return  # the pool's end waits for the caller, a host function or an on_restart
        try:
            self._ended.wait()
        except BaseException:
            self.close(cancel=True)
            self._ended.wait()
            raise
        finally:
            if self._ended.is_set():
                self._thread.join()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of the pool in this process: it has ended, or never was here."""
        return self._ended.is_set() or os.getpid() != self._process

    def check_process(self) -> None:
        """Refuse to work in a forked child: the thread stayed behind.

        Raises:
            PoolError: this is another process than the one that made the pool.
        """
        if os.getpid() != self._process:
            raise PoolError(
                "this pool belongs to the process that made it", "make a new Pool in the child"
            )

    def check_may_wait(self) -> None:
        """Refuse to wait in the thread that would have to do the work.

        Raises:
            PoolError: the caller is a callback of this pool.
        """
        if self.is_current:
            raise PoolError(
                "a callback of the pool cannot wait for the pool",
                "submit and add a callback instead",
            )

    def post(self, what: Callable[[], object] | CallFuture) -> None:
        """Have something done in the thread, soon, or a call made."""
        with self._lock:
            self._inbox.append(what)
            self._wake()

    def _wake_up(self) -> None:
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        # The thread clears the flag before it looks, so what was appended is never missed.
        if not self._awake and self._bell >= 0:
            self._awake = True
            os.eventfd_write(self._bell, 1)

    def _closed_error(self) -> SandboxError:
        if self._failure is not None:
            return with_receipt(self._failure, Receipt())
        return PoolClosed("the pool was shut down", "make a new one")

    def _at_exit(self) -> None:
        self._exiting = True
        self.close(cancel=getattr(sys, "last_type", None) is not None)
        with suppress(KeyboardInterrupt):
            self.join()

    # --- in the thread --------------------------------------------------------------------------

    def _run(self, core: Core) -> None:
        try:
            trio.run(self._main, core)
        except BaseException as error:
            self._failure = self._failure or _as_sandbox_error(error)
        self.host_functions.close()
        with self._lock:
            self._closed = True
            self._core = None
            os.close(self._bell)
            self._bell = -1
            self._gate.notify_all()
        for future in tuple(self._live):
            self._done(future, Outcome(receipt=Receipt(), error=self._closed_error()))
        while self._inbox:
            self._take(self._inbox.popleft())
        self._bunches.flush()
        if not self._exiting:
            atexit.unregister(self._at_exit)
        self._up.set()
        self._ended.set()

    async def _main(self, core: Core) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._start, core, nursery)
            nursery.start_soon(self._listen)
            await self._started.wait()
            if self._core is not None:
                await self._closing.wait()
                await self._core.close(cancel=self._urgent)
            self._listening.cancel()

    async def _start(self, core: Core, nursery: trio.Nursery) -> None:
        try:
            await nursery.start(core.serve)
        except Exception as error:
            self._failure = _as_sandbox_error(error)
        else:
            self._core, self._nursery = core, nursery
            self._up.set()
        self._started.set()

    async def _listen(self) -> None:
        with self._listening:
            while True:
                self._drain()
                if self._inbox:
                    await trio.lowlevel.checkpoint()
                else:
                    with trio.move_on_after(self._lone.pulse):
                        await trio.lowlevel.wait_readable(self._bell)
                        os.eventfd_read(self._bell)

    def _drain(self) -> None:
        # Whoever sends a call from here on is found below, or wakes the thread once more.
        self._awake = False
        self._lone.look_again()
        with nullcontext() if self._core is None else self._core.mail:
            for _ in range(min(len(self._inbox), _AT_A_TIME)):
                self._take(self._inbox.popleft())
            self._bunches.flush()

    def _take(self, what: Callable[[], object] | CallFuture) -> None:
        if isinstance(what, CallFuture):
            self._bunches.add(what)
        else:
            self._bunches.flush()
            what()

    def _take_up(self, future: CallFuture) -> bool:
        """Whether a call is still to be made."""
        if not future.hand_over():
            if self._core is not None and future.request is not None:
                self._core.forgo(future.request)
            self._release(future)
            return False
        if self._core is None:
            self._release(future)
            future.fail(self._closed_error())
            return False
        self._live.add(future)
        return True

    def _send(self, future: CallFuture) -> None:
        request, desk, done = future.request, future.desk, partial(self._done, future)
        assert request is not None
        if isinstance(request.on_output, OutputGuard):
            request.on_output.stop = partial(self.post, partial(self._abandon, future))
        if desk is not None:
            desk.actor.submit(request, done, first=desk.first)
        else:
            self._send_request(request, done)

    def _send_request(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        assert self._core is not None
        self._core.submit(request, done)

    def _done(self, future: CallFuture, outcome: Outcome) -> None:
        self._over((future,))
        self._finish(future, outcome)

    def _finish(self, future: CallFuture, outcome: Outcome) -> None:
        try:
            future.finish(outcome)
        except BaseException:  # a callback of the user's must not end the pool
            _log.exception("a callback of a future failed")

    def _over(self, futures: Sequence[CallFuture]) -> None:
        """Calls are over, and make room."""
        self._live.difference_update(futures)
        if futures[:1] and futures[0].desk is None and not self._let_off:  # as nearly always
            self._finished += len(futures)
        else:
            for future in futures:
                if future in self._let_off:
                    self._let_off.discard(future)
                else:
                    self._let_out(future)
        self._notify()

    def _release(self, future: CallFuture) -> None:
        self._let_out(future)
        self._notify()

    def _let_out(self, future: CallFuture) -> None:
        self._finished += 1
        if future.desk is not None:
            future.desk.finished += 1

    def _notify(self) -> None:
        if self._waiting:
            with self._lock:
                self._gate.notify_all()

    def _abandon(self, future: CallFuture) -> None:
        self._lone.look()
        if future not in self._live or self._core is None:
            return
        bunch = future.bunch
        if bunch is not None:
            bunch.wanted -= 1
            if not bunch.wanted:
                self._core.cancel(bunch.request)
        else:
            assert future.request is not None
            there = self._core if future.desk is None else future.desk.actor
            there.cancel(future.request)

    def _cancelled(self, future: CallFuture) -> None:
        self._abandon(future)
        with self._lock:
            if future in self._live and len(self._let_off) < self._configuration.max_pending:
                self._let_off.add(future)
                self._let_out(future)
            self._stopping -= 1
        self._notify()

    def _close(self, cancel: bool) -> None:
        self._lone.look()
        self._urgent = self._urgent or cancel
        self._closing.set()
        for future in tuple(self._live):
            if cancel or (self._exiting and _is_streamed(future)):
                future.cancel()
        if cancel:
            for scope in tuple(self._jobs):
                scope.cancel()

    def _spawn(
        self,
        function: Callable[[Core], Awaitable[Result]],
        future: Future[Result],
        scope: trio.CancelScope,
        context: Context,
    ) -> None:
        core = self._core
        if core is None or self._nursery is None:
            future.set_exception(self._closed_error())
            return

        async def job() -> None:
            self._jobs.add(scope)
            act_for(context)
            try:
                with scope:
                    future.set_result(await function(core))
            except Exception as error:
                future.set_exception(innermost(error))
            finally:
                self._jobs.discard(scope)
                if not future.done():
                    future.set_exception(self._closed_error())

        self._nursery.start_soon(job)


def _is_streamed(future: CallFuture) -> bool:
    """Whether the program reads and writes while it runs, which an ending program does no more."""
    command = None if future.request is None else future.request.command
    return command is not None and command.ends is not None


def _make_bell() -> int:
    """An event descriptor; there are then enough others for ``trio.run``, which leaves what it has
    opened when they run out half-way.

    Raises:
        PoolError: there are not.
    """
    opened: list[int] = []
    try:
        opened.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        for _ in range(_TRIO_DESCRIPTORS):
            opened.append(os.dup(opened[0]))
        return opened.pop(0)
    except OSError as error:
        raise pool_error("no pool could be made", error) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _as_sandbox_error(error: BaseException) -> SandboxError:
    error = innermost(error)
    if isinstance(error, SandboxError):
        return error
    failure = breakdown(error)
    failure.__cause__ = error
    return failure
