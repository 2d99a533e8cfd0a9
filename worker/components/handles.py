"""The handles of one component instance: what it owns, what it was lent, and what it lends.

Source: component model, ``CanonicalABI.md`` ("Resource State").
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from ..engines.interface import EngineRefusal
from . import heap
from .heap import BadValue

MAX_HANDLES = 1 << 16
"""Handles of one component instance."""


class _Handle(msgspec.Struct):
    resource: int
    representation: int
    owned: bool
    lent: int = 0
    """How many running calls it is lent to."""


class HandleTable:
    """The table of one component instance. Handles are numbers from 1."""

    def __init__(self) -> None:
        self._handles: list[_Handle | None] = [None]
        self._free: list[int] = []

    def add(self, resource: int, representation: int, *, owned: bool) -> int:
        """A new handle.

        Raises:
            BadValue: there are too many.
        """
        handle = _Handle(resource, representation, owned)
        if self._free:
            number = self._free.pop()
            self._handles[number] = handle
            return number
        if len(self._handles) == MAX_HANDLES:
            raise BadValue(f"more than {MAX_HANDLES - 1} handles")
        self._handles.append(handle)
        return len(self._handles) - 1

    def get(self, resource: int, number: int) -> _Handle:
        """What ``number`` is.

        Raises:
            BadValue: it is no handle, or one to another kind of resource.
        """
        found = self._handles[number] if number < len(self._handles) else None
        if found is None:
            raise BadValue(f"{number} is no handle")
        if found.resource != resource:
            raise BadValue(f"{number} is a handle to another kind of resource")
        return found

    def remove(self, resource: int, number: int) -> _Handle:
        """Take ``number`` out of the table.

        Raises:
            BadValue: it is not there, of another kind, or lent to a call that still runs.
        """
        found = self.get(resource, number)
        if found.lent:
            raise BadValue(f"the handle {number} is lent to a call that has not ended")
        self._handles[number] = None
        self._free.append(number)
        return found


class Crossing(heap.Handles):
    """Handles that cross for one call, on one side of it.

    Args:
        table: of the component instance on that side.
        owns: whether that instance itself defines a kind of resource: then it is lent the
            representation itself.
    """

    def __init__(self, table: HandleTable, owns: Callable[[int], bool]) -> None:
        self._table = table
        self._owns = owns
        self._lent: list[_Handle] = []
        self.borrowed = 0
        """Handles that the instance was lent for the call and has not dropped."""

    def take_own(self, resource: int, handle: int) -> int:
        """What the instance gives away: it has it no more."""
        found = self._table.remove(resource, handle)
        if not found.owned:
            raise BadValue(f"the handle {handle} was only lent, and cannot be given away")
        return found.representation

    def take_borrow(self, resource: int, handle: int) -> int:
        """What the instance lends until the call ends."""
        found = self._table.get(resource, handle)
        found.lent += 1
        self._lent.append(found)
        return found.representation

    def give_own(self, resource: int, representation: int) -> int:
        """A handle of its own."""
        return self._table.add(resource, representation, owned=True)

    def give_borrow(self, resource: int, representation: int) -> int:
        """A handle for as long as the call lasts."""
        if self._owns(resource):
            return representation
        self.borrowed += 1
        return self._table.add(resource, representation, owned=False)

    def end(self) -> None:
        """The call has ended: what was lent is back."""
        for handle in self._lent:
            handle.lent -= 1
        self._lent.clear()


class Held:
    """What the host was given of an instance's resources, by numbers that no other instance has: a
    number from before a restart is none afterwards."""

    def __init__(self) -> None:
        self._next = int.from_bytes(os.urandom(6), "little") << 8
        self._things: dict[int, tuple[int, int]] = {}

    def add(self, resource: int, representation: int) -> int:
        """The number of a resource that the guest gave away.

        Raises:
            BadValue: the host has too many.
        """
        if len(self._things) == MAX_HANDLES:
            raise BadValue(f"the caller holds more than {MAX_HANDLES} resources of the instance")
        self._next += 1
        self._things[self._next] = resource, representation
        return self._next

    def get(self, resource: int, number: int) -> int:
        """The representation of what the host has.

        Raises:
            EngineRefusal: ``signature``: it has it no more.
        """
        found = self._things.get(number)
        if found is None or found[0] != resource:
            raise EngineRefusal(
                "signature",
                "a resource is no longer there: it was given away or dropped, or its instance was "
                "restarted",
            )
        return found[1]

    def take(self, resource: int, number: int) -> int:
        """The same, and the host has it no more."""
        representation = self.get(resource, number)
        del self._things[number]
        return representation


class HostCrossing(Crossing):
    """Handles that cross for a call of the host's.

    Args:
        provides: whether a kind of resource is the program's: what it knows by its own numbers.
    """

    def __init__(
        self,
        table: HandleTable,
        owns: Callable[[int], bool],
        held: Held,
        provides: Callable[[int], bool],
    ) -> None:
        super().__init__(table, owns)
        self._held = held
        self._provides = provides

    def take_own(self, resource: int, handle: int) -> int:
        """The number of what the guest gives to the host."""
        taken = super().take_own(resource, handle)
        return taken if self._provides(resource) else self._held.add(resource, taken)

    def give_own(self, resource: int, representation: int) -> int:
        """The guest's handle of what has that number."""
        if not self._provides(resource):
            representation = self._held.take(resource, representation)
        return super().give_own(resource, representation)

    def give_borrow(self, resource: int, representation: int) -> int:
        """The same, lent."""
        if not self._provides(resource):
            representation = self._held.get(resource, representation)
        return super().give_borrow(resource, representation)
