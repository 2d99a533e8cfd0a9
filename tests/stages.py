"""Supervised tasks under a clock that jumps, which write down what happens to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing
from cores import innermost

from wasm_sandbox import Child


class Failed(Exception):
    """What a task fails with."""


class Stage:
    """Tasks that write down what happens to them, and end when they are told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.refuse: dict[str, int] = {}
        """How often a child's next starts fail."""
        self._ends: dict[str, trio.Event] = {}
        self._how: dict[str, Exception | None] = {}

    def child(self, name: str, *, cleanup: float = 0, **more: Any) -> Child:
        async def task(task_status: Any) -> None:
            if self.refuse.get(name, 0) > 0:
                self.refuse[name] -= 1
                self.log.append(f"{name} refuses")
                raise Failed(name)
            self._ends[name] = trio.Event()
            self.log.append(f"{name} starts")
            task_status.started(name.upper())
            try:
                await self._ends[name].wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(cleanup)
                self.log.append(f"{name} stopped")
                raise
            self.log.append(f"{name} ends")
            how = self._how[name]
            if how is not None:
                raise how

        return Child(name, task, **more)

    async def end(self, name: str, how: Exception | None = None) -> list[str]:
        """End a child; what follows."""
        self.log.clear()
        self._how[name] = how
        self._ends[name].set()
        await trio.sleep(100)
        return list(self.log)


def run(main: Callable[[], Awaitable[None]]) -> None:
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))
    except BaseExceptionGroup as group:
        raise innermost(group) from group
