"""How functions of the host are declared, and the things behind the resources that it gives out."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..engines.clocks import GuestClock
from ..engines.interface import NO_WASI, RunSettings, Wasi
from .heap import BadValue
from .network import Network

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
STREAM_ERROR = "variant<last-operation-failed(own<error>), closed>"


def offer(interface: str, name: str, shape: str) -> Callable[[F], F]:
    """Mark a method as the function ``name`` of ``interface``, of that type (``shapes.py``)."""

    def mark(function: F) -> F:
        function.__dict__.setdefault("offers", []).append((interface, name, shape))
        return function

    return mark


@runtime_checkable
class Releasable(Protocol):
    """What has something open."""

    def release(self) -> None:
        """Close it, if nothing else needs it."""
        ...


class Bridge(Protocol):
    """The instance of the bridge (``bridge.py``) that belongs to the running component."""

    def ask(self, name: str, *arguments: int) -> int:
        """The error number that a function of preview 1 gives."""
        ...

    def memory(self) -> memoryview:
        """Its memory."""
        ...


class Objects:
    """What the host's resources stand for, by their representations."""

    def __init__(self) -> None:
        self._objects: dict[int, object] = {}
        self._next = 1

    def add(self, thing: object) -> int:
        """The representation of ``thing``."""
        number = self._next
        self._next += 1
        self._objects[number] = thing
        return number

    def get(self, number: int, kind: type[T]) -> T:
        """What a representation stands for.

        Raises:
            BadValue: nothing, or something else: a guest may call a resource of its own by one of
                our names.
        """
        found = self._objects.get(number)
        if not isinstance(found, kind):
            raise BadValue(f"a handle to something else than {kind.__name__}")
        return found

    def take(self, number: int, kind: type[T]) -> T:
        """The same, and the guest has given it away.

        Raises:
            BadValue: as ``get``.
        """
        found = self.get(number, kind)
        del self._objects[number]
        return found

    def drop(self, number: int) -> None:
        """The guest has no use for it any more."""
        dropped = self._objects.pop(number, None)
        if isinstance(dropped, Releasable):
            dropped.release()


class State:
    """What the running instance was given; ``begin`` makes it ready for the next."""

    def __init__(self, settings: RunSettings, woken: threading.Event) -> None:
        self.settings = settings
        self.woken = woken
        """Ends a wait: the call is to be stopped."""
        self.clock: GuestClock | None = None
        """Where the clock is not the machine's."""
        if settings.clock[0] != "real":
            self.clock = GuestClock(*settings.clock, woken)
        self.begin(NO_WASI)

    def begin(self, wasi: Wasi) -> None:
        """Forget the last instance."""
        self.wasi = wasi
        self.objects = Objects()
        kind, seed = self.settings.random
        self.numbers = random.Random(seed) if kind == "seeded" else None
        self.bridge: Bridge | None = None
        """What stands for the granted directories, where there are any."""
        self.network = None if wasi.network is None else Network(wasi.network)
        self.stdin: bytes | int | None = None
        """Its bytes that are left, or an open descriptor; ``None`` until it is asked for."""

    def end(self) -> None:
        """Let go of what the instance had."""
        if isinstance(self.stdin, int):
            os.close(self.stdin)
        self.begin(NO_WASI)
