"""The things of the caller's process that guests have handles to: resources that it provides.

A component instance knows them by numbers, which are looked up among its own and nobody else's.
What it has not dropped when it ends is dropped for it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ..protocol.errors import SandboxError, SignatureMismatch
from .imports import BadArgument, HostImport

T = TypeVar("T")

MAX_OBJECTS = 1 << 16
"""Of one instance: as many as a component instance may have handles."""
_numbers = itertools.count(1)
"""None is given twice: a call has numbered what it brings before it is known to which instance."""


@dataclass(eq=False, slots=True)
class ResourceKind:
    """A type of resources that the caller's process provides to one module."""

    name: str
    drop: HostImport | None = None
    """Drops one, given its number, in ``held``; ``None`` where nothing is to be done for it."""
    of: type[object] = object
    """What its things are."""


class _Thing(NamedTuple):
    kind: ResourceKind
    thing: object
    lent: bool
    """Until the call ends that brought it: then nothing is done for it."""


class Objects:
    """What one instance has handles to. Host functions put things in and take them out, one
    function at a time; one that was given up, and goes on in its thread, does neither."""

    def __init__(self) -> None:
        self._things: dict[int, _Thing] = {}
        self._lock = threading.Lock()
        """Around what also a function may do that was given up."""
        self._closed = False

    def add(self, kind: ResourceKind, thing: object, *, lent: bool = False) -> int:
        """The number of a thing that the instance gets.

        Raises:
            BadArgument: it has too many, or is no longer there.
        """
        with self._lock:
            if self._closed:
                raise BadArgument("the instance has ended")
            if len(self._things) >= MAX_OBJECTS:
                raise BadArgument(f"the guest has {MAX_OBJECTS} resources, and drops none")
            number = next(_numbers)
            self._things[number] = _Thing(kind, thing, lent)
            return number

    def adopt(self, brought: Objects) -> None:
        """The instance gets what a call brings; where that is too much, or it has ended,
        nothing."""
        with self._lock:
            if not self._closed and len(self._things) + len(brought._things) <= MAX_OBJECTS:
                self._things |= brought._things
                brought._things.clear()

    def beside(self, numbers: Set[int]) -> Objects:
        """What it has beside these, in a place of its own."""
        others = Objects()
        with self._lock:
            for number in self._things.keys() - numbers:
                others._things[number] = self._things.pop(number)
        return others

    @property
    def numbers(self) -> Set[int]:
        """Of all that it has."""
        return frozenset(self._things)

    def end_loans(self) -> None:
        """The call has ended: what it has lent is no longer there."""
        with self._lock:
            self._things = {at: each for at, each in self._things.items() if not each.lent}

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
        if found is None or found.kind is not kind:
            raise BadArgument(f"the guest has no resource {kind.name} of that number")
        return found.thing

    def is_lent(self, number: int) -> bool:
        """Whether it was only lent that thing."""
        return self._things[number].lent

    def give(self, numbers: set[int], wanted: Callable[[], bool]) -> bool:
        """Give these away, if all are there and ``wanted`` at that moment; whether they were."""
        with self._lock:
            if not wanted() or not numbers <= self._things.keys():
                return False
            for number in numbers:
                del self._things[number]
            return True

    def close(self) -> list[tuple[int, HostImport]]:
        """The instance has ended: what it has left that needs to be dropped."""
        with self._lock:
            self._closed = True
            return self.droppable()

    def droppable(self) -> list[tuple[int, HostImport]]:
        """What would need to be dropped now."""
        return [
            (number, kind.drop)
            for number, (kind, _, lent) in self._things.items()
            if kind.drop is not None and not lent
        ]


class Turn:
    """One function's turn at what an instance has: it takes all that its arguments give, or
    nothing, and what it adds can be taken back as a whole."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._taken: set[int] = set()
        self._added: list[int] = []
        self._undone = False

    def add(self, kind: ResourceKind, thing: object, *, lent: bool = False) -> int:
        """The number of a thing that the instance gets, if the function's answer reaches it.

        Raises:
            BadArgument: it has too many, or is no longer there, or the function was given up.
        """
        number = self.objects.add(kind, thing, lent=lent)
        self._added.append(number)
        if self._undone:  # looked at last: ``undo`` may come from another thread at any time
            self.undo()
            raise BadArgument("the function was given up")
        return number

    def get(self, kind: ResourceKind, number: object) -> object:
        """What the instance lends.

        Raises:
            BadArgument: it has no such thing, or has given it away.
        """
        thing = self.objects.get(kind, number)
        if number in self._taken:
            raise BadArgument(f"the guest has given away that resource {kind.name}")
        return thing

    def take(self, kind: ResourceKind, number: object) -> object:
        """What the instance gives away, once ``settle`` is called.

        Raises:
            BadArgument: it has no such thing, or was lent it.
        """
        thing = self.get(kind, number)
        assert isinstance(number, int)
        if self.objects.is_lent(number):
            raise BadArgument(f"the guest was only lent that resource {kind.name}")
        self._taken.add(number)
        return thing

    def settle(self) -> None:
        """What was taken is taken.

        Raises:
            BadArgument: the function was given up, or the instance has ended: nothing is.
        """
        if not self.objects.give(self._taken, lambda: not self._undone):
            raise BadArgument("the function was given up")

    def undo(self) -> None:
        """The instance gets no answer: nothing that the function has added, or adds yet."""
        self._undone = True
        self.objects.remove(tuple(self._added))


held: ContextVar[Turn] = ContextVar("held")
"""Where values of a component are packed and unpacked, and in its host functions: what the guest
has handles to."""


class Luggage:
    """What a call brings to its guest, and takes back from it.

    Args:
        unpack: makes the value of what the guest returned, of slots and data, where things may be
            in it; else that is left to who waits for it, and has the time.
    """

    def __init__(self, unpack: Callable[[bytes, bytes | None], object] | None) -> None:
        self.brought = Objects()
        self.numbers: Set[int] = frozenset()
        """Of what is brought."""
        self.unpack = unpack
        self.value: object = None
        """Of the call, once it has returned; made at once, for what the guest has left is
        dropped."""
        self.error: SandboxError | None = None
        """What is wrong with what was returned."""

    def pack(self, pack: Callable[[], T]) -> T:
        """What ``pack`` makes of the arguments; what it adds to ``held`` is brought.

        Raises:
            SignatureMismatch: that is too much.
        """
        with _holding(self.brought):
            try:
                packed = pack()
            except BadArgument as error:
                raise SignatureMismatch(str(error)) from None
        self.numbers = self.brought.numbers
        return packed

    def take_back(self, objects: Objects, slots: bytes, data: bytes | None) -> None:
        """The call has returned: of what the instance has, take what its value gives."""
        if self.unpack is None:
            return
        with _holding(objects) as turn:
            try:
                self.value = self.unpack(slots, data)
            except SandboxError as error:
                self.error = error
            else:
                turn.settle()


@contextmanager
def _holding(objects: Objects) -> Generator[Turn]:
    turn = Turn(objects)
    token = held.set(turn)
    try:
        yield turn
    finally:
        held.reset(token)
