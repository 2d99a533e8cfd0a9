"""``Pool.map``: lazy in its input, in order in its output, and never more than a window ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from .future import CallFuture
from .protocol.errors import QueueFull


def map_calls(
    submit: Callable[..., CallFuture],
    arguments: Iterable[tuple[Any, ...]],
    *,
    window: int,
    timeout: float | None,
) -> Iterator[Any]:
    """The values of ``submit(*each)`` for ``each`` of ``arguments``, in their order.

    Submitting begins at once. What ``arguments`` or ``submit`` raises comes after the values of the
    calls before it. When a value fails or the iterator is closed, what it had submitted is
    cancelled.

    Raises:
        TimeoutError: ``timeout`` seconds after the beginning, a value is not there.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ahead: deque[CallFuture] = deque()
    finished: deque[CallFuture] = deque()
    source = iter(arguments)
    failure: Exception | None = None

    def fill() -> bool:
        """Submit until the window is full; whether more may come."""
        nonlocal failure
        try:
            while len(ahead) < window:
                each = next(source, None)
                if each is None:
                    return False
                put(each)
        except Exception as error:
            failure = error
        return failure is None

    def put(each: tuple[Any, ...]) -> None:
        while True:
            try:
                return ahead.append(submit(*each))
            except QueueFull:
                # Others fill the queue too. One of ours that ends makes room.
                if not ahead:
                    raise
                settle(ahead[0], deadline)
                finished.append(ahead.popleft())

    def values(more: bool) -> Iterator[Any]:
        try:
            yield None  # so that closing has something to close, however early
            while finished or ahead:
                first = finished.popleft() if finished else ahead.popleft()
                try:
                    remaining = None if deadline is None else deadline - time.monotonic()
                    value = first.result(remaining)
                except BaseException:
                    first.cancel()
                    raise
                del first
                # Filling half a window at a time keeps submissions in bunches.
                if more and len(ahead) <= window // 2:
                    more = fill()
                yield value
            if failure is not None:
                raise failure
        finally:
            cancel(finished, ahead)

    try:
        more = fill()
        if failure is not None and not finished and not ahead:
            raise failure
    except BaseException:
        cancel(finished, ahead)
        raise
    iterator = values(more)
    next(iterator)
    return iterator


def stream_calls(
    submit: Callable[..., CallFuture], chunks: Iterable[Any]
) -> Generator[Any, None, None]:
    """The values of ``submit(chunk)``, one after the other: as ``Instance.stream``."""
    source = iter(chunks)
    running: CallFuture | None = None
    try:
        while True:
            failure: Exception | None = None
            chunk: Any = None
            more = False
            try:
                chunk = next(source)  # while the guest is busy with the one before
                more = True
            except StopIteration:
                pass
            except Exception as error:
                failure = error
            # Not before the one before has succeeded: the state must not go past a failure.
            value = None if running is None else running.result()
            ended, running = running, submit(*arguments(chunk)) if more else None
            if ended is not None:
                yield value
            if failure is not None:
                raise failure
            if not more:
                return
    finally:
        if running is not None:
            running.cancel()


def arguments(chunk: Any) -> tuple[Any, ...]:
    """The arguments of the call for a chunk: itself, or those that it is a tuple of."""
    return chunk if isinstance(chunk, tuple) else (chunk,)  # pyright: ignore[reportUnknownVariableType]


def settle(future: CallFuture, deadline: float | None) -> None:
    """Wait until ``future`` is over, however it ends.

    Raises:
        TimeoutError: not before ``deadline``.
    """
    future.exception(None if deadline is None else deadline - time.monotonic())


def cancel(*queues: deque[CallFuture]) -> None:
    """Cancel all futures, the last first, so that those before do not make room for them."""
    for queue in reversed(queues):
        while queue:
            queue.pop().cancel()
