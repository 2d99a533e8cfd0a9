"""Handles to objects of the program's, in both directions. No I/O."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from .protocol import wit
from .protocol.wit import Ref, World
from .supervisor.objects import ResourceKind, held
from .wit_converters import Converter, Handle, mismatch


def object_handle(kind: ResourceKind, handle: Handle) -> Converter:
    """The converter of handles to things of one kind, which are among what is ``held``."""
    owned = isinstance(handle, wit.Own)

    def put(value: Any) -> int:
        if value is None or not isinstance(value, kind.of):
            wanted = "an object" if kind.of is object else f"a {kind.of.__name__}"
            raise mismatch(f"{wanted}, as the resource {kind.name}", value)
        return held.get().add(kind, value, lent=not owned)

    def take(value: Any) -> object:
        turn = held.get()
        return (turn.take if owned else turn.get)(kind, value)

    return Converter(put, take)


def giving(world: World, kinds: Container[int]) -> set[Ref | None]:
    """Types of which a value may give away a thing of these kinds: made of earlier ones, each
    looked at once."""
    found: set[Ref | None] = set()
    for at, kind in enumerate(world.types):
        gives = isinstance(kind, wit.Own) and kind.resource in kinds
        if gives or not found.isdisjoint(wit.parts(kind)):
            found.add(at)
    return found
