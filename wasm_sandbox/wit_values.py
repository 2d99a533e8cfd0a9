"""What stands for WIT's values where Python has nothing of its own."""

from __future__ import annotations

from typing import Any

import msgspec

from .protocol.wit import World


class Ok(msgspec.Struct, frozen=True):
    """A ``result`` that is no error."""

    value: Any = None


class Err(msgspec.Struct, frozen=True):
    """A ``result`` that is an error. It is a value like any other: nothing raises it."""

    error: Any = None


class WitError(Exception):
    """Raised by a host function whose WIT type is a ``result``: the guest gets ``Err(error)``.

    Args:
        error: the error, as the type has it; nothing where its errors have no payload.
    """

    def __init__(self, error: Any = None) -> None:
        super().__init__(error)
        self.error = error


class Some(msgspec.Struct, frozen=True):
    """An ``option`` that is there, where its value may itself be ``None``:
    ``option<option<T>>``."""

    value: Any


class Variant(msgspec.Struct, frozen=True):
    """A case of a ``variant``, with its payload, if it has one."""

    case: str
    payload: Any = None


class Resource:
    """A resource that an instance gave away. It can be passed to functions of that instance until
    it is given back, dropped, or the instance is restarted."""

    def __init__(self, world: World, resource: int, number: int) -> None:
        self._world = world
        self._resource = resource
        self._number = number

    @property
    def type(self) -> str:
        """The name of its type."""
        return self._world.resources[self._resource]

    def wire(self, world: World, resource: int) -> int | None:
        """What it crosses as; ``None`` where it is of another type."""
        return self._number if self._world is world and self._resource == resource else None

    def __repr__(self) -> str:
        return f"<Resource {self.type}>"
