"""Where host functions run: in threads, in asyncio's loop, in your trio run.

A supervisor must never wait for what cannot be stopped. So each call here ends as soon as it is
cancelled; a thread that goes on, or a coroutine that defies its cancellation, is left to itself,
and its threads are counted for as long as they do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import trio

from .imports import Answer, T, Work

if TYPE_CHECKING:
    import asyncio

SPARE_THREADS = 32
"""Threads of a pool's host functions beside one for each worker: for those that hang."""
GOODBYE_SECONDS = 1.0
"""How long coroutines may take to end when their pool does."""

Call = Callable[[bytes, bytes], Awaitable[Answer]]


class ThreadRunner:
    """Plain functions, each in a thread of trio's cache."""

    def __init__(self, workers: int) -> None:
        self._threads = trio.CapacityLimiter(workers + SPARE_THREADS)

    def plain(self, work: Work) -> Call:
        """Call ``work`` in a thread."""

        async def call(slots: bytes, data: bytes) -> Answer:
            return await trio.to_thread.run_sync(
                work, slots, data, abandon_on_cancel=True, limiter=self._threads
            )

        return call


class TrioRunner(ThreadRunner):
    """For ``open_pool``: coroutines run in the pool's own trio run, which is the user's."""

    def __init__(self, workers: int, start: Callable[..., object]) -> None:
        super().__init__(workers)
        self._start = start
        """Starts a task that outlives whoever waits for it."""

    def coroutine(self, work: Call) -> Call:
        """Await ``work`` in a task of its own."""

        async def call(slots: bytes, data: bytes) -> Answer:
            answers: list[Answer] = []
            errors: list[BaseException] = []
            over, scope = trio.Event(), trio.CancelScope()

            async def task() -> None:
                try:
                    with scope:
                        answers.append(await work(slots, data))
                except (trio.Cancelled, KeyboardInterrupt):  # the pool's end, and the program's
                    raise
                except BaseException as error:
                    errors.append(error)
                finally:
                    over.set()

            self._start(task)
            try:
                await over.wait()
            except trio.Cancelled:
                scope.cancel()
                raise
            if errors:
                raise errors[0]
            return answers[0]

        return call

    async def wait(self, future: Future[T]) -> T:
        """In a task of the run: until ``future`` is done."""
        token, over = trio.lowlevel.current_trio_token(), trio.Event()
        future.add_done_callback(lambda _: token.run_sync_soon(over.set))
        try:
            await over.wait()
        except trio.Cancelled:
            future.cancel()
            raise
        return future.result()


class AsyncioRunner(ThreadRunner):
    """For ``Pool``: coroutines run in the asyncio loop that was running where their module was
    loaded, or else in one of the pool's own, in a thread that begins with the first of them."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def coroutine(self, work: Call) -> Call:
        """Await ``work`` in a task of the loop."""
        import asyncio  # takes a while, and most pools have no such function

        try:
            around: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            around = None

        async def call(slots: bytes, data: bytes) -> Answer:
            token, over = trio.lowlevel.current_trio_token(), trio.Event()

            async def task() -> Answer | BaseException:
                try:
                    return await work(slots, data)
                except (KeyboardInterrupt, SystemExit) as error:  # would end the loop, too
                    return error

            def ended(_: object) -> None:
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(over.set)

            coroutine = task()
            try:
                future = asyncio.run_coroutine_threadsafe(coroutine, around or self._own())
            except BaseException:
                coroutine.close()
                raise
            future.add_done_callback(ended)
            try:
                await over.wait()
            except trio.Cancelled:
                future.cancel()
                raise
            answer = future.result()
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call

    async def wait(self, future: Future[T]) -> T:
        """In a task of the loop: until ``future`` is done."""
        import asyncio

        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the pool's own loop and what runs in it; one that a coroutine blocks is left so."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(2 * GOODBYE_SECONDS)

    def _own(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._closed:
                raise RuntimeError("the pool has ended")
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_serve, args=(loop,), name="wasm-sandbox-asyncio", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then leave nothing."""
    import asyncio

    try:
        loop.run_forever()
        tasks: set[asyncio.Task[Any]] = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=GOODBYE_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
