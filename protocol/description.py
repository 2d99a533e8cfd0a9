"""What a module offers and needs, as plain data.

The compiler worker parses a module's own types (WebAssembly core specification, chapter 5.5,
"Modules") and sends this description; nobody outside a jail reads the guest's bytes.
"""

from __future__ import annotations

import msgspec

from .wit import World

PAGE_SIZE = 65536
"""Bytes in a page of linear memory, unless the module declares another size."""

NUMERIC_TYPES = ("i32", "i64", "f32", "f64", "v128")
"""The value types that can cross the wall; references cannot."""


class FunctionType(msgspec.Struct, frozen=True, array_like=True):
    """Parameters and results, as the text format writes their types (``"i32"``, ``"(ref null
    3)"``)."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"

    @property
    def references(self) -> tuple[str, ...]:
        """The types in this signature that cannot cross the wall."""
        return tuple(t for t in self.params + self.results if t not in NUMERIC_TYPES)


class MemoryType(msgspec.Struct, frozen=True, array_like=True):
    """A linear memory; ``minimum`` and ``maximum`` are pages of ``page_size`` bytes."""

    minimum: int
    maximum: int | None = None
    shared: bool = False
    is_64: bool = False
    page_size: int = PAGE_SIZE


class TableType(msgspec.Struct, frozen=True, array_like=True):
    """A table; ``minimum`` and ``maximum`` are elements."""

    element: str
    minimum: int
    maximum: int | None = None
    is_64: bool = False


class GlobalType(msgspec.Struct, frozen=True, array_like=True):
    """A global variable."""

    value: str
    mutable: bool = False


class TagType(msgspec.Struct, frozen=True, array_like=True):
    """An exception tag."""

    params: tuple[str, ...]


class ExternFunction(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="func"):
    """A function, as an import or an export has it."""

    type: FunctionType


class ExternMemory(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="memory"):
    """A memory, as an import or an export has it."""

    type: MemoryType


class ExternTable(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="table"):
    """A table, as an import or an export has it."""

    type: TableType


class ExternGlobal(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="global"):
    """A global, as an import or an export has it."""

    type: GlobalType


class ExternTag(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="tag"):
    """An exception tag, as an import or an export has it."""

    type: TagType


ExternType = ExternFunction | ExternMemory | ExternTable | ExternGlobal | ExternTag


class Import(msgspec.Struct, frozen=True, array_like=True):
    """Something that the module needs from outside."""

    module: str
    name: str
    type: ExternType


class Export(msgspec.Struct, frozen=True, array_like=True):
    """Something that the module offers; ``index`` is its place in the index space of its kind."""

    name: str
    type: ExternType
    index: int
    pure: bool = False
    """Whether it is a function that leaves no trace in its instance, as far as that was proved
    (``worker.purity``)."""


class Component(msgspec.Struct, frozen=True, array_like=True):
    """What only components have."""

    world: World
    plan: bytes
    """How the worker is to put it together (``worker/components/plan.py``); nobody else reads
    it."""


class ModuleDescription(msgspec.Struct, frozen=True, array_like=True):
    """All that callers may know of a module; ``memories`` and ``tables`` include the imported
    ones."""

    imports: tuple[Import, ...] = ()
    exports: tuple[Export, ...] = ()
    memories: tuple[MemoryType, ...] = ()
    tables: tuple[TableType, ...] = ()
    start: bool = False
    uses_gc: bool = False
    custom_sections: tuple[tuple[str, int], ...] = ()
    function_count: int = 0
    code_size: int = 0
    component: Component | None = None
    """Where it is a component, which has neither imports nor exports of the core kinds."""
    moved: int = 0
    """Bytes by which the artifact's code lies further back than the module's own: the engine tells
    of code by its place in what it compiled."""

    def function(self, name: str) -> FunctionType | None:
        """The signature of the exported function ``name``, or ``None``."""
        for export in self.exports:
            if export.name == name and isinstance(export.type, ExternFunction):
                return export.type.type
        return None

    def is_pure(self, name: str) -> bool:
        """Whether the export ``name`` is a function that leaves no trace in its instance."""
        return any(export.pure for export in self.exports if export.name == name)

    @property
    def is_command(self) -> bool:
        """Whether this is a WASI command: it exports ``_start`` (WASI application ABI), or
        ``wasi:cli/run``."""
        if self.component is not None:
            return self.component.world.command is not None
        return self.function("_start") is not None
