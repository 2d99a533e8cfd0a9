"""The types and the world of a component, as plain data.

The compiler worker reads them out of a component's binary (component model, ``Binary.md``) and
sends this description. Types are a table, in which each refers to earlier ones only, so a hostile
compiler can describe no type that contains itself; ``World`` checks that when it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

MAX_DEPTH = 100
"""How deep types may be nested, as in the engine's validation."""

INTEGERS: dict[str, tuple[int, int]] = {
    "u8": (0, (1 << 8) - 1),
    "u16": (0, (1 << 16) - 1),
    "u32": (0, (1 << 32) - 1),
    "u64": (0, (1 << 64) - 1),
    "s8": (-(1 << 7), (1 << 7) - 1),
    "s16": (-(1 << 15), (1 << 15) - 1),
    "s32": (-(1 << 31), (1 << 31) - 1),
    "s64": (-(1 << 63), (1 << 63) - 1),
}
"""The least and the greatest value of each."""

NUMBERS: dict[str, str] = {
    "u8": "B",
    "u16": "H",
    "u32": "I",
    "u64": "Q",
    "s8": "b",
    "s16": "h",
    "s32": "i",
    "s64": "q",
    "f32": "f",
    "f64": "d",
}
"""``struct`` codes. A list of these crosses as bytes, little-endian, as it lies in memory."""

PRIMITIVES = (*NUMBERS, "bool", "char", "string")

Ref = str | int
"""A primitive type by its name, or another by its place in the table."""


class Record(msgspec.Struct, frozen=True, array_like=True, tag="record"):
    """Named fields."""

    fields: tuple[tuple[str, Ref], ...]


class Tuple(msgspec.Struct, frozen=True, array_like=True, tag="tuple"):
    """Fields by their places."""

    items: tuple[Ref, ...]


class List(msgspec.Struct, frozen=True, array_like=True, tag="list"):
    """Any number of one type."""

    element: Ref


class Variant(msgspec.Struct, frozen=True, array_like=True, tag="variant"):
    """One of several cases, each with a payload or without."""

    cases: tuple[tuple[str, Ref | None], ...]


class Enum(msgspec.Struct, frozen=True, array_like=True, tag="enum"):
    """One of several names."""

    names: tuple[str, ...]


class Flags(msgspec.Struct, frozen=True, array_like=True, tag="flags"):
    """Any of several names."""

    names: tuple[str, ...]


class Option(msgspec.Struct, frozen=True, array_like=True, tag="option"):
    """A value or none."""

    some: Ref


class Result(msgspec.Struct, frozen=True, array_like=True, tag="result"):
    """A value, or an error."""

    ok: Ref | None = None
    error: Ref | None = None


class Own(msgspec.Struct, frozen=True, array_like=True, tag="own"):
    """A handle to a resource, which goes to whom it is given."""

    resource: int


class Borrow(msgspec.Struct, frozen=True, array_like=True, tag="borrow"):
    """A handle to a resource, lent for one call."""

    resource: int


Type = Record | Tuple | List | Variant | Enum | Flags | Option | Result | Own | Borrow


def parts(kind: Type) -> Iterator[Ref]:
    """The types that ``kind`` is directly made of."""
    match kind:
        case Record(fields):
            yield from (ref for _, ref in fields)
        case Tuple(items):
            yield from items
        case List(element):
            yield element
        case Variant(cases):
            yield from (ref for _, ref in cases if ref is not None)
        case Option(some):
            yield some
        case Result(ok, error):
            yield from (ref for ref in (ok, error) if ref is not None)
        case _:
            pass


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """Parameters by name, and the type of the result, if there is one."""

    params: tuple[tuple[str, Ref], ...] = ()
    result: Ref | None = None


class Interface(msgspec.Struct, frozen=True, array_like=True):
    """What a world imports or exports together under one name; ``""`` is the world itself."""

    name: str
    functions: tuple[tuple[str, Signature], ...] = ()
    types: tuple[tuple[str, Ref], ...] = ()
    resources: tuple[tuple[str, int], ...] = ()


class World(msgspec.Struct, frozen=True, array_like=True):
    """What a component needs and offers.

    Raises:
        ValueError: a type refers to itself or to a later one, to a resource that is not there, or
            is nested too deeply.
    """

    types: tuple[Type, ...] = ()
    names: tuple[str, ...] = ()
    """By type: the name that it has somewhere, or ``""``."""
    resources: tuple[str, ...] = ()
    """By resource: its name."""
    imports: tuple[Interface, ...] = ()
    exports: tuple[Interface, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.types):
            raise ValueError("there is not one name for each type")
        depths: list[int] = []
        for at, kind in enumerate(self.types):
            if isinstance(kind, Own | Borrow) and not 0 <= kind.resource < len(self.resources):
                raise ValueError(f"type {at} is a handle to nothing")
            depth = 1
            for ref in parts(kind):
                _check(ref, at)
                if isinstance(ref, int):
                    depth = max(depth, depths[ref] + 1)
            if depth > MAX_DEPTH:
                raise ValueError(f"type {at} is nested more than {MAX_DEPTH} deep")
            depths.append(depth)
        for interface in self.imports + self.exports:
            for _, signature in interface.functions:
                for _, ref in signature.params:
                    _check(ref, len(self.types))
                if signature.result is not None:
                    _check(signature.result, len(self.types))
            for _, ref in interface.types:
                _check(ref, len(self.types))
            for _, resource in interface.resources:
                if not 0 <= resource < len(self.resources):
                    raise ValueError("an interface names a resource that is not there")

    def functions(self) -> Iterator[tuple[str, Signature]]:
        """The exported functions, by the names under which they are called:
        ``docs:calc/ops@0.1.0#add``, or ``add`` for one of the world itself."""
        for interface in self.exports:
            prefix = f"{interface.name}#" if interface.name else ""
            for name, signature in interface.functions:
                yield prefix + name, signature

    def drops(self) -> Iterator[tuple[str, int]]:
        """The exported resources, by the names under which they are dropped:
        ``docs:calc/ops@0.1.0#[resource-drop]account``."""
        for interface in self.exports:
            prefix = f"{interface.name}#" if interface.name else ""
            for name, resource in interface.resources:
                yield f"{prefix}[resource-drop]{name}", resource

    @property
    def command(self) -> str | None:
        """The name of ``wasi:cli/run``'s function, where it is exported with its own type."""
        for interface in self.exports:
            signature = dict(interface.functions).get("run")
            if interface.name.partition("@")[0] == "wasi:cli/run" and signature is not None:
                result = signature.result
                of_its_type = isinstance(result, int) and self.types[result] == Result()
                if of_its_type and not signature.params:
                    return f"{interface.name}#run"
        return None


def _check(ref: Ref, limit: int) -> None:
    if ref not in PRIMITIVES if isinstance(ref, str) else not 0 <= ref < limit:
        raise ValueError(f"there is no type {ref!r} there")
