"""The things of the caller's process that guests have handles to: resources that it provides.

A component instance knows them by numbers, which are looked up among its own and nobody else's.
What it has not dropped when it ends is dropped for it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from .imports import BadArgument, HostImport

MAX_OBJECTS = 1 << 16
"""Of one instance: as many as a component instance may have handles."""


@dataclass(eq=False, slots=True)
class ResourceKind:
    """A type of resources that the caller's process provides to one module."""

    name: str
    drop: HostImport | None = None
    """Drops one, given its number, in ``held``; ``None`` where nothing is to be done for it."""


class Objects:
    """What one instance has handles to. Host functions put things in and take them out, one
    function at a time; from one that was given up, and goes on in its thread, nothing is taken."""

    def __init__(self) -> None:
        self._things: dict[int, tuple[ResourceKind, object]] = {}
        self._moving: dict[int, tuple[ResourceKind, object]] = {}
        """What the arguments that are being read give away."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        """Around what also a function may do that was given up."""
        self._closed = False

    def add(self, kind: ResourceKind, thing: object) -> int:
        """The number of a thing that the instance gets.

        Raises:
            BadArgument: it has too many, or is no longer there.
        """
        with self._lock:
            if self._closed:
                raise BadArgument("the instance has ended")
            if len(self._things) >= MAX_OBJECTS:
                raise BadArgument(f"the guest has {MAX_OBJECTS} resources, and drops none")
            number = next(self._numbers)
            self._things[number] = kind, thing
            return number

    def remove(self, numbers: Iterable[int]) -> None:
        """The instance did not get these after all; once it has ended, they are among what it has
        left."""
        with self._lock:
            if not self._closed:
                for number in numbers:
                    self._things.pop(number, None)

    def get(self, kind: ResourceKind, number: object) -> object:
        """What it lends.

        Raises:
            BadArgument: it has no such thing.
        """
        found = self._things.get(number) if type(number) is int else None
        if found is None or found[0] is not kind:
            raise BadArgument(f"the guest has no resource {kind.name} of that number")
        return found[1]

    def take(self, kind: ResourceKind, number: object) -> object:
        """What it gives away; ``settle`` or ``restore`` must follow.

        Raises:
            BadArgument: it has no such thing.
        """
        thing = self.get(kind, number)
        assert isinstance(number, int)
        self._moving[number] = self._things.pop(number)
        return thing

    def settle(self) -> None:
        """What was taken is taken."""
        self._moving.clear()

    def restore(self) -> None:
        """What was taken is the instance's again: the call cannot be made."""
        self._things.update(self._moving)
        self._moving.clear()

    def close(self) -> list[tuple[int, HostImport]]:
        """The instance has ended: what it has left that needs to be dropped."""
        with self._lock:
            self._closed = True
            return [
                (number, kind.drop)
                for number, (kind, _) in self._things.items()
                if kind.drop is not None
            ]


class Turn:
    """One function's turn at what an instance has: what it adds can be taken back as a whole."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._added: list[int] = []
        self._undone = False

    def add(self, kind: ResourceKind, thing: object) -> int:
        """The number of a thing that the instance gets, if the function's answer reaches it.

        Raises:
            BadArgument: it has too many, or is no longer there, or the function was given up.
        """
        number = self.objects.add(kind, thing)
        self._added.append(number)
        if self._undone:  # looked at last: ``undo`` may come from another thread at any time
            self.undo()
            raise BadArgument("the function was given up")
        return number

    def undo(self) -> None:
        """The instance gets no answer: nothing that the function has added, or adds yet."""
        self._undone = True
        self.objects.remove(tuple(self._added))


held: ContextVar[Turn] = ContextVar("held")
"""In a host function for a component: what the guest that waits for it has handles to."""
