"""Drops what instances have left of the program's objects (``objects.py``) when they end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec
import trio

from .imports import HostImport
from .objects import Objects, Turn, held

_log = logging.getLogger("wasm_sandbox")
AT_ONCE = 4
"""Things that are dropped at a time. Each may need a thread, of those that the host functions of
all guests have."""
GOODBYE_SECONDS = 2.0
"""How long the end of a pool waits for what its guests left to be dropped."""


class Leftovers:
    """Drops what instances leave, in tasks of the pool's.

    Args:
        start: starts a task that nothing but the pool's end ends.
    """

    def __init__(self, start: Callable[[Callable[[], Awaitable[None]]], object]) -> None:
        self._start = start
        self._running = 0
        self._turns = trio.CapacityLimiter(AT_ONCE)
        self._idle = trio.Event()

    def take(self, objects: Objects) -> None:
        """Drop all that is left there."""
        left = objects.close()
        if not left:
            return
        self._running += 1

        async def drop() -> None:
            held.set(Turn(objects))
            try:
                failures = [await self._drop(number, function) for number, function in left]
                _report([failure for failure in failures if failure is not None])
            finally:
                self._running -= 1
                self._idle.set()

        self._start(drop)

    async def wait(self) -> None:
        """Until all is dropped, or too much time has passed."""
        with trio.move_on_after(GOODBYE_SECONDS):
            while self._running:
                self._idle = trio.Event()
                await self._idle.wait()

    async def _drop(self, number: int, function: HostImport) -> tuple[str, BaseException] | None:
        """Drop one thing, in turn with what other instances have left; what failed, and why."""
        async with self._turns:
            with trio.move_on_after(function.timeout):
                try:
                    await function.call(b"", msgspec.msgpack.encode([number]))
                except trio.Cancelled:
                    raise
                except BaseException as error:  # whatever it is, it is the function's own
                    return function.name, error
                return None
        return function.name, TimeoutError(f"not done after {function.timeout:g} s")


def _report(failures: list[tuple[str, BaseException]]) -> None:
    """Nobody is left whom they could concern, so they are logged: the first, and how many."""
    if failures:
        name, error = failures[0]
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        _log.error("%s failed after its guest had ended%s", name, more, exc_info=error)
