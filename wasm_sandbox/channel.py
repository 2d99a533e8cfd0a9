"""Messages between the program and its guests, or between guests: bounded, in order, closeable."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

from .chunks import Bytes, as_bytes
from .imports import LONGEST_TIMEOUT, MOST_CALLS, HostFunction
from .protocol import arena
from .protocol.errors import ConfigurationError
from .protocol.limits import check_number

T = TypeVar("T")
MAX_MESSAGE = arena.halves(arena.DEFAULT_SIZE)[2]
"""Bytes of one message: what crosses to a guest at once."""


class Channel:
    """A queue of messages, each some bytes. Both ends may be used from any thread, from trio and
    asyncio, and by guests of any pool of this process, which get it by ``load(imports=)``.

    ``send`` and ``receive`` wait; ``asend`` and ``areceive`` are the same, awaited. ``with`` closes
    it at the end.

    Args:
        capacity: messages that may be in it, 1 to 65,536. Who sends more waits until one is taken.

    Raises:
        ConfigurationError: a capacity that cannot be used.
    """

    def __init__(self, capacity: int = 16) -> None:
        check_number("channel.capacity", capacity, 1, 1 << 16, whole=True)
        self._capacity = capacity
        self._lock = threading.Lock()
        self._messages: deque[bytes] = deque()
        self._closed = False
        self._waiters: set[Callable[[], object]] = set()
        """Called once, at the next change of anything."""

    @property
    def capacity(self) -> int:
        """Messages that may be in it."""
        return self._capacity

    @property
    def closed(self) -> bool:
        """Whether it takes no more messages."""
        return self._closed

    def __len__(self) -> int:
        return len(self._messages)

    def close(self) -> None:
        """Take no more messages; those that are in it can still be received. May be called
        again."""
        with self._lock:
            self._closed = True
        self._changed()

    # --- the program's ends ---------------------------------------------------------------------

    def send(self, message: Bytes, *, timeout: float | None = None) -> None:
        """Put a message in, once there is room.

        Raises:
            BrokenPipeError: it is closed.
            TimeoutError: there was no room for ``timeout`` seconds.
            ConfigurationError: it is empty, or larger than can cross.
        """
        content = _message(message)
        self._wait(lambda: self._put(content), timeout)

    def receive(self, *, timeout: float | None = None) -> bytes:
        """Take the next message out, waiting for it.

        Raises:
            EOFError: it is closed, and empty.
            TimeoutError: there was none for ``timeout`` seconds.
        """
        return self._wait(self._take, timeout)

    async def asend(self, message: Bytes) -> None:
        """As ``send``. Cancelled, it has not sent it."""
        content = _message(message)
        await self._await(lambda: self._put(content))

    async def areceive(self) -> bytes:
        """As ``receive``. Cancelled, it has taken none."""
        return await self._await(self._take)

    def __iter__(self) -> Iterator[bytes]:
        with suppress(EOFError):
            while True:
                yield self.receive()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with suppress(EOFError):
            while True:
                yield await self.areceive()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the guests' ends -----------------------------------------------------------------------

    def imports(
        self, *, send: str | None = None, receive: str | None = None, close: str | None = None
    ) -> Mapping[str, HostFunction]:
        """Host functions for the guests of a module: ``load(imports={"env": channel.imports(
        receive="channel_recv")})``. Only those that are named; without any, all three, as
        ``channel_send``, ``channel_recv`` and ``channel_close``.

        To the guest they are ``send(pointer, length) -> i32``, 0 or -1 where it is closed;
        ``recv() -> i64``, ``(pointer << 32) | length`` of memory from its ``alloc`` (or the two of
        them as two results), where a length of 0 says that it is closed and empty; ``close()``. A
        guest waits in them as long as its ``Limits.wall_time`` lasts, an hour at most.

        Args:
            send: the name of the function to send by.
            receive: of that to receive by.
            close: of that to close it by.

        Raises:
            ConfigurationError: two of them have the same name.
        """

        async def channel_send(message: bytes) -> int:
            try:
                await self.asend(message)
            except BrokenPipeError:
                return -1
            return 0

        async def channel_recv() -> bytes:
            try:
                return await self.areceive()
            except EOFError:
                return b""

        async def channel_close() -> None:
            self.close()

        if send is receive is close is None:
            send, receive, close = "channel_send", "channel_recv", "channel_close"
        named = ((send, channel_send), (receive, channel_recv), (close, channel_close))
        functions: dict[str, HostFunction] = {}
        for name, function in named:
            if name in functions:
                raise ConfigurationError("channel.imports", name, "is the name of two functions")
            if name is not None:
                functions[name] = HostFunction(function, timeout=LONGEST_TIMEOUT, rate=MOST_CALLS)
        return functions

    # --- inside ---------------------------------------------------------------------------------

    def _put(self, message: bytes) -> bool | None:
        if self._closed:
            raise BrokenPipeError("the channel is closed")
        if len(self._messages) >= self._capacity:
            return None
        self._messages.append(message)
        return True

    def _take(self) -> bytes | None:
        if self._messages:
            return self._messages.popleft()
        if self._closed:
            raise EOFError("the channel is closed")
        return None

    def _try(self, step: Callable[[], T | None], wake: Callable[[], object]) -> T | None:
        """Do it, or have ``wake`` called when it may be worth another try."""
        with self._lock:
            done = step()
            if done is None:
                self._waiters.add(wake)
                return None
        self._changed()
        return done

    def _changed(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, set()
        for wake in waiters:
            wake()

    def _forget(self, wake: Callable[[], object]) -> None:
        with self._lock:
            self._waiters.discard(wake)

    def _wait(self, step: Callable[[], T | None], timeout: float | None) -> T:
        deadline = None if timeout is None else time.monotonic() + timeout
        event = threading.Event()
        wake = event.set
        try:
            while (done := self._try(step, wake)) is None:
                if not event.wait(None if deadline is None else deadline - time.monotonic()):
                    raise TimeoutError("the other side of the channel was not ready in time")
                event.clear()
            return done
        finally:
            self._forget(wake)

    async def _await(self, step: Callable[[], T | None]) -> T:
        import trio

        if not trio.lowlevel.in_trio_run():
            return await self._await_asyncio(step)
        await trio.lowlevel.checkpoint_if_cancelled()
        token = trio.lowlevel.current_trio_token()
        while True:
            event = trio.Event()

            def wake(event: trio.Event = event) -> None:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(event.set)

            done = self._try(step, wake)
            if done is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return done
            try:
                await event.wait()
            finally:
                self._forget(wake)

    async def _await_asyncio(self, step: Callable[[], T | None]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            event = asyncio.Event()

            def wake(event: asyncio.Event = event) -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(event.set)

            done = self._try(step, wake)
            if done is not None:
                return done
            try:
                await event.wait()
            finally:
                self._forget(wake)


def _message(message: Bytes) -> bytes:
    content = bytes(as_bytes(message, "channel.message"))
    if not 0 < len(content) <= MAX_MESSAGE:
        raise ConfigurationError(
            "channel.message", len(content), f"has to be 1 to {MAX_MESSAGE:,} bytes", "send pieces"
        )
    return content
