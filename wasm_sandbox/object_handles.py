"""Handles to objects of the program's, in both directions. No I/O."""

from __future__ import annotations

from typing import Any

from .protocol import wit
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
        objects = held.get().objects
        return (objects.take if owned else objects.get)(kind, value)

    return Converter(put, take)
