"""Chunks of input, and what comes of them, in trio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, cast

import trio

from .chunks import Bytes, Chunks, as_bytes, called, is_asynchronous, pieces


async def async_pieces(chunks: Chunks) -> AsyncGenerator[memoryview]:
    """The chunks, one after the other; what is not asynchronous is asked for them in a thread.

    Raises:
        ConfigurationError: one is not bytes.
    """
    ask = called(chunks)
    if is_asynchronous(chunks):
        async with aclosing(_each(cast("AsyncIterable[Bytes]", chunks))) as source:
            async for chunk in source:
                yield as_bytes(chunk)
    elif inspect.iscoroutinefunction(ask):
        while chunk := await ask():
            yield as_bytes(chunk)
    else:
        step = functools.partial(next, pieces(chunks), None)
        while (piece := await trio.to_thread.run_sync(step, abandon_on_cancel=True)) is not None:
            yield piece


class ValueStream(trio.abc.ReceiveChannel[Any]):
    """What a guest makes of chunks, a value for each, to be received in order."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Any](0)
        self._error: Exception | None = None

    async def receive(self) -> Any:
        """The next value.

        Raises:
            EndOfChannel: there are no more.
            ClosedResourceError: it was closed.
            SandboxError: the call failed; or what the chunks raised, as it is.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from self._error.__cause__
            raise

    async def aclose(self) -> None:
        """Receive no more: no chunk is asked for any more."""
        await self._receive.aclose()

    async def fill(
        self,
        chunks: Iterable[Any] | AsyncIterable[Any],
        call: Callable[[Any], Awaitable[Any]],
    ) -> None:
        """Make the values, each when the one before was received."""
        with self._send:
            try:
                async with aclosing(_each(chunks)) as source:
                    async for chunk in source:
                        await self._send.send(await call(chunk))
            except trio.BrokenResourceError:  # closed
                pass
            except Exception as error:  # a call's, or the caller's own: for the one who receives
                self._error = error


async def _each(chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    if isinstance(chunks, AsyncIterable):
        source = aiter(chunks)
        try:
            async for chunk in source:
                yield chunk
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()
    else:
        for chunk in chunks:
            yield chunk
