"""Types as text without the names of types, to compare what a guest imports with what there is."""

from __future__ import annotations

from collections.abc import Sequence

from ...protocol import wit
from ...protocol.wit import Ref, Signature, World

_LIMIT = 4000
"""Characters: a type that is longer is none of ours."""


class Shapes:
    """The shapes of one world's types."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[int, str] = {}

    def function(self, signature: Signature) -> str:
        """``(borrow<pollable>, u64) -> list<u8>``: parameters without their names."""
        params = self._listed([ref for _, ref in signature.params])
        result = "" if signature.result is None else f" -> {self._of(signature.result)}"
        return f"({params}){result}"

    def _of(self, ref: Ref | None) -> str:
        if ref is None:
            return "_"
        if isinstance(ref, str):
            return ref
        text = self._made.get(ref)
        if text is None:
            text = self._made[ref] = self._text(self._world.types[ref])[:_LIMIT]
        return text

    def _listed(self, refs: Sequence[Ref]) -> str:
        return ", ".join([self._of(ref) for ref in refs])

    def _text(self, kind: wit.Type) -> str:
        match kind:
            case wit.Record(fields):
                return f"record<{', '.join(f'{name}: {self._of(ref)}' for name, ref in fields)}>"
            case wit.Tuple(items):
                return f"tuple<{self._listed(items)}>"
            case wit.List(element):
                return f"list<{self._of(element)}>"
            case wit.Variant(cases):
                listed = [
                    name if ref is None else f"{name}({self._of(ref)})" for name, ref in cases
                ]
                return f"variant<{', '.join(listed)}>"
            case wit.Enum(names):
                return f"enum<{', '.join(names)}>"
            case wit.Flags(names):
                return f"flags<{', '.join(names)}>"
            case wit.Option(some):
                return f"option<{self._of(some)}>"
            case wit.Result(ok, error):
                return f"result<{self._of(ok)}, {self._of(error)}>"
            case wit.Own(resource):
                return f"own<{self._world.resources[resource]}>"
            case wit.Borrow(resource):
                return f"borrow<{self._world.resources[resource]}>"
