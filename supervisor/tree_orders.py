"""What a user wants of a supervision tree while it runs: asked for from anywhere, carried out by
the tree between two exits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from .tree import Life, Tree

T = TypeVar("T")


class TreeOver(Exception):
    """The tree ended before it came to an order."""


class Order(Generic[T]):
    """Something that a user wants of a tree while it runs. ``answer`` is for any thread, ``over``
    for the tree's trio run."""

    def __init__(self, act: Callable[[Tree], Awaitable[T]], giver: Sequence[Life]) -> None:
        self.answer: Future[T] = Future()
        self.over = trio.Event()
        self.giver = giver
        """The lives in which it was given: a child's, after those of the supervisors above."""
        self._act = act

    async def carry_out(self, tree: Tree) -> None:
        """Do it; its failure is its answer."""
        try:
            result = await self._act(tree)
        except Exception as error:
            self.fail(error)
        except BaseException:  # the tree is being ended
            self.refuse()
            raise
        else:
            if not self.over.is_set():
                self.answer.set_result(result)
                self.over.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless there is an answer already."""
        if not self.over.is_set():
            self.answer.set_exception(error)
            self.over.set()

    def refuse(self) -> None:
        """It will not be done."""
        self.fail(TreeOver())
