"""Drops what instances have left of the program's objects (``objects.py``) when they end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import trio

from .imports import HostImport
from .objects import Objects, Turn, held

_log = logging.getLogger("wasm_sandbox")
Failure = tuple[str, BaseException]
"""The function that failed, and why."""
AT_ONCE = 4
"""Things that are dropped at a time. Each may need a thread, of those that the host functions of
all guests have."""
MOST = 1 << 16
"""Things of one tenant's guests that wait to be dropped before these get no more."""
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
        self._waiting: Counter[str | None] = Counter()
        """Things that are not dropped yet, by tenant."""
        self._full: dict[str | None, trio.lowlevel.ParkingLot] = {}
        """Where guests wait of whose tenant too many do."""
        self._turns = trio.CapacityLimiter(AT_ONCE)
        self._idle = trio.Event()

    def take(self, objects: Objects, tenant: str | None) -> None:
        """Drop all that is left there."""
        left = objects.close()
        if not left:
            return
        self._running += 1
        self._waiting[tenant] += len(left)

        async def drop() -> None:
            try:
                failures: list[Failure] = []
                for number, function in left:
                    held.set(Turn(objects))
                    failures += await self._drop(number, function)
                    self._dropped(tenant)
                _report(failures)
            finally:
                self._running -= 1
                self._idle.set()

        self._start(drop)

    def has_room(self, tenant: str | None) -> bool:
        """Whether guests of a tenant may get more things."""
        return self._waiting[tenant] < MOST

    async def wait_for_room(self, tenant: str | None) -> None:
        """Until guests of a tenant may get more things."""
        while not self.has_room(tenant):
            await self._full.setdefault(tenant, trio.lowlevel.ParkingLot()).park()

    async def wait(self) -> None:
        """Until all is dropped, or too much time has passed."""
        with trio.move_on_after(GOODBYE_SECONDS):
            while self._running:
                self._idle = trio.Event()
                await self._idle.wait()

    def _dropped(self, tenant: str | None) -> None:
        self._waiting[tenant] -= 1
        if tenant in self._full and self.has_room(tenant):
            self._full.pop(tenant).unpark_all()
        if not self._waiting[tenant]:
            del self._waiting[tenant]

    async def _drop(self, number: int, function: HostImport) -> list[Failure]:
        """Drop one thing, in turn with what other instances have left; how it failed, if it did."""
        async with self._turns:
            with trio.move_on_after(function.timeout):
                try:
                    await function.call(b"", msgspec.msgpack.encode([number]))
                except trio.Cancelled:
                    raise
                except BaseException as error:  # whatever it is, it is the function's own
                    return [(function.name, error)]
                return []
        return [(function.name, TimeoutError(f"not done after {function.timeout:g} s"))]


def _report(failures: list[Failure]) -> None:
    """Nobody is left whom they could concern, so they are logged: the first, and how many."""
    if failures:
        name, error = failures[0]
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        _log.error("%s failed after its guest had ended%s", name, more, exc_info=error)
