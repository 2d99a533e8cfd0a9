"""A supervisor under ``async with``: what ``Supervisor`` is in a program without trio."""

from __future__ import annotations

from typing import Any, TypeVar

from .children import Child, ChildCounts, ChildStatus
from .supervision import Act, Supervisor

T = TypeVar("T")


class TrioSupervisor:
    """A supervisor that runs in this trio run: what ``async with Supervisor(...)`` gives.

    It has the methods of ``Supervisor``, of which those that change its children are awaited. Where
    such a wait is cancelled, what was asked for is done all the same.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return self._supervisor.name

    @property
    def failure(self) -> BaseException | None:
        """``RestartIntensityReached`` where it gave up."""
        return self._supervisor.failure

    def __getitem__(self, name: str) -> Any:
        """The child, as in ``Supervisor``; a supervisor is a ``TrioSupervisor``."""
        return self._supervisor[name]

    def get_childspec(self, name: str) -> Child:
        """As in ``Supervisor``."""
        return self._supervisor.get_childspec(name)

    def which_children(self) -> tuple[ChildStatus, ...]:
        """As in ``Supervisor``."""
        return self._supervisor.which_children()

    def count_children(self) -> ChildCounts:
        """As in ``Supervisor``."""
        return self._supervisor.count_children()

    async def start_child(self, child: Child) -> Any:
        """As in ``Supervisor``."""
        return await self._wait(self._supervisor.starting(child))

    async def terminate_child(self, name: str) -> None:
        """As in ``Supervisor``."""
        await self._wait(lambda tree: tree.terminate_child(name))

    async def restart_child(self, name: str) -> Any:
        """As in ``Supervisor``."""
        return await self._wait(lambda tree: tree.restart_child(name))

    async def delete_child(self, name: str) -> None:
        """As in ``Supervisor``."""
        await self._wait(lambda tree: tree.delete_child(name))

    async def _wait(self, act: Act[T]) -> T:
        order = self._supervisor.order(act)
        await order.over.wait()
        return self._supervisor.answer(order)

    def __repr__(self) -> str:
        return f"<Trio{repr(self._supervisor)[1:]}"
