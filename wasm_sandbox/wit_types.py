"""The types of a component's functions as text, and the WIT of its world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from .protocol import wit
from .protocol.wit import Interface, Ref, Signature, World

TEXT_LIMIT = 2000
"""Characters of a type in an error; types without names can be long."""


class WitFunction(msgspec.Struct, frozen=True):
    """The type of a component's function; ``str`` gives it as WIT has it."""

    params: tuple[tuple[str, str], ...]
    """(name, type) of each parameter."""
    result: str | None = None

    def __str__(self) -> str:
        params = ", ".join(f"{name}: {kind}" for name, kind in self.params)
        return f"func({params})" + (f" -> {self.result}" if self.result is not None else "")


class WitText:
    """Writes a world's types. A type that has a name is written as its name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._texts: dict[int, str] = {}
        self._homes: dict[tuple[str, Ref], str] = {}
        """The interface that has a resource or a named type first: others use it from there."""
        for interface in world.imports + world.exports:
            for _, index in interface.resources:
                self._homes.setdefault(("resource", index), interface.name)
            for _, ref in interface.types:
                self._homes.setdefault(("type", ref), interface.name)

    def type(self, ref: Ref) -> str:
        """The name of a type, or what it is where it has none."""
        if isinstance(ref, str):
            return ref
        name = self._world.names[ref]
        return name or self.expanded(ref)

    def expanded(self, ref: int) -> str:
        """What a type is, whether it has a name or not."""
        text = self._texts.get(ref)
        if text is None:
            text = self._text(self._world.types[ref])
            if len(text) > TEXT_LIMIT:
                text = text[:TEXT_LIMIT] + "…"
            self._texts[ref] = text
        return text

    def function(self, signature: Signature) -> WitFunction:
        """The type of a function."""
        return WitFunction(
            tuple([(name, self.type(ref)) for name, ref in signature.params]),
            None if signature.result is None else self.type(signature.result),
        )

    def _text(self, kind: wit.Type) -> str:
        match kind:
            case wit.Record(fields):
                return f"record {{ {self._labelled(fields)} }}"
            case wit.Tuple(items):
                return f"tuple<{', '.join(map(self.type, items))}>"
            case wit.List(element):
                return f"list<{self.type(element)}>"
            case wit.Variant(cases):
                listed = [
                    name if ref is None else f"{name}({self.type(ref)})" for name, ref in cases
                ]
                return f"variant {{ {', '.join(listed)} }}"
            case wit.Enum(names):
                return f"enum {{ {', '.join(names)} }}"
            case wit.Flags(names):
                return f"flags {{ {', '.join(names)} }}"
            case wit.Option(some):
                return f"option<{self.type(some)}>"
            case wit.Result(ok, error):
                return self._result(ok, error)
            case wit.Own(resource):
                return self._resource(resource)
            case wit.Borrow(resource):
                return f"borrow<{self._resource(resource)}>"

    def _labelled(self, fields: Sequence[tuple[str, Ref]]) -> str:
        return ", ".join(f"{name}: {self.type(ref)}" for name, ref in fields)

    def _result(self, ok: Ref | None, error: Ref | None) -> str:
        if error is None:
            return "result" if ok is None else f"result<{self.type(ok)}>"
        return f"result<{'_' if ok is None else self.type(ok)}, {self.type(error)}>"

    def _resource(self, resource: int) -> str:
        return self._world.resources[resource] or f"resource-{resource}"

    # --- the world --------------------------------------------------------------------------------

    def world(self) -> str:
        """The whole world, as WIT."""
        lines = ["world component {"]
        for verb, interfaces in (("import", self._world.imports), ("export", self._world.exports)):
            for interface in interfaces:
                lines += [f"  {line}" for line in self._item(verb, interface)]
        return "\n".join([*lines, "}"])

    def _item(self, verb: str, interface: Interface) -> Iterator[str]:
        if not interface.name:
            yield from self._types(interface)
            for name, signature in interface.functions:
                yield f"{verb} {name}: {self.function(signature)};"
            return
        yield f"{verb} {interface.name}: interface {{"
        for line in self._types(interface):
            yield f"  {line}"
        for name, signature in interface.functions:
            if not name.startswith("["):
                yield f"  {name}: {self.function(signature)};"
        yield "}"

    def _types(self, interface: Interface) -> Iterator[str]:
        for name, index in interface.resources:
            home = self._homes["resource", index]
            if home and home != interface.name:
                yield _use(home, self._resource(index), name)
            else:
                yield from self._resource_lines(name, index, interface)
        for name, ref in interface.types:
            home = self._homes["type", ref]
            if isinstance(ref, int) and home and home != interface.name:
                yield _use(home, self.type(ref), name)
            else:
                yield self._definition(name, ref)

    def _definition(self, name: str, ref: Ref) -> str:
        if isinstance(ref, str):
            return f"type {name} = {ref};"
        if self._world.names[ref] != name:
            return f"type {name} = {self.type(ref)};"
        keyword, space, rest = self.expanded(ref).partition(" ")
        if keyword in ("record", "variant", "enum", "flags") and space:
            return f"{keyword} {name} {rest}"
        return f"type {name} = {self.expanded(ref)};"

    def _resource_lines(self, name: str, index: int, interface: Interface) -> Iterator[str]:
        if self._world.resources[index] != name:
            yield f"type {name} = {self._resource(index)};"
            return
        methods = list(self._methods(name, interface))
        if not methods:
            yield f"resource {name};"
            return
        yield f"resource {name} {{"
        yield from (f"  {line}" for line in methods)
        yield "}"

    def _methods(self, name: str, interface: Interface) -> Iterator[str]:
        for full, signature in interface.functions:
            kind, _, rest = full.partition("]")
            owner, _, method = rest.partition(".")
            if owner != name or not full.startswith("["):
                continue
            if kind == "[constructor":
                text = WitFunction(self.function(signature).params)
                yield f"constructor{str(text).removeprefix('func')};"
            elif kind == "[static":
                yield f"{method}: static {self.function(signature)};"
            else:
                whole = self.function(signature)
                yield f"{method}: {WitFunction(whole.params[1:], whole.result)};"


def _use(home: str, name: str, here: str) -> str:
    renamed = "" if name == here else f" as {here}"
    return f"use {home}.{{{name}{renamed}}};"
