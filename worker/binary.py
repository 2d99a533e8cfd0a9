"""Reads a core module's types out of its binary, without an engine and without I/O.

An engine's own reflection aborts the process for some signatures that a guest may choose, so the
compiler worker reads them here, after the engine has validated the module. Whatever the bytes are,
the answer is a description or one ``MalformedModule``; time is linear in the size, and no count
that the guest wrote is believed before it is compared with the bytes that are left.

Source: WebAssembly core specification 3.0, chapter 5.5 ("Modules").
"""

from __future__ import annotations

from ..protocol.description import (
    Export,
    ExternFunction,
    ExternGlobal,
    ExternMemory,
    ExternTable,
    ExternTag,
    ExternType,
    FunctionType,
    GlobalType,
    Import,
    MemoryType,
    ModuleDescription,
    TableType,
    TagType,
)
from .binary_reader import InterfaceTooLarge, MalformedModule, Reader

__all__ = [
    "MAX_INTERFACE",
    "InterfaceTooLarge",
    "MalformedModule",
    "declares_objects",
    "describe",
    "looks_like_component",
    "looks_like_text",
]

MAX_INTERFACE = 1 << 19
"""Bytes of names and types that imports, exports and custom sections may have together: a
description must fit a frame, and a guest can have one large type exported under very many names."""

MAGIC = b"\0asm"
_MODULE = MAGIC + b"\1\0\0\0"


def looks_like_component(data: bytes) -> bool:
    """Whether the preamble says "component" (its layer field is not 0), not "core module"."""
    return data[:4] == MAGIC and len(data) >= 8 and data[6:8] != b"\0\0"


def looks_like_text(data: bytes) -> bool:
    """Whether ``data`` begins as WebAssembly text does: a parenthesis, after spaces and
    comments."""
    start = data.lstrip()[:3]
    return start.startswith((b"(", b";;"))


def describe(data: bytes) -> ModuleDescription:
    """What the core module ``data`` imports, exports and declares.

    Raises:
        MalformedModule: the bytes are not a core module, or one of a kind that is not known here.
        InterfaceTooLarge: imports and exports are over ``MAX_INTERFACE``.
    """
    if data[:8] != _MODULE:
        raise MalformedModule("no core module of version 1: the first 8 bytes are wrong")
    reader = Reader(data, 8, len(data))
    module = _Module()
    while reader.remaining:
        section = reader.byte()
        size = reader.unsigned()
        module.read(section, reader.section(size))
    return module.description()


def declares_objects(types: Reader) -> bool:
    """Whether the content of a type section has a struct or an array in it."""
    module = _Module()
    module.read_types(types)
    return module.has_aggregates


class _Module:
    """What the sections said so far; the lists are the index spaces, imports first."""

    def __init__(self) -> None:
        # A defined type that is no function type is None: nothing of it is needed outside.
        self.types: list[FunctionType | None] = []
        self.functions: list[FunctionType] = []
        self.tables: list[TableType] = []
        self.memories: list[MemoryType] = []
        self.globals: list[GlobalType] = []
        self.tags: list[TagType] = []
        self.imports: list[Import] = []
        self.export_entries: list[tuple[str, int, int]] = []
        self.custom: list[tuple[str, int]] = []
        self.start = False
        self.has_aggregates = False
        self.imported_functions = 0
        self.code_size = 0
        self.interface_size = 0
        self.seen: set[int] = set()
        self.parsers = {
            1: self.read_types,
            2: self.read_imports,
            3: self.read_functions,
            4: self.read_tables,
            5: self.read_memories,
            6: self.read_globals,
            7: self.read_exports,
            8: self.read_start,
            13: self.read_tags,
        }

    def read(self, section: int, reader: Reader) -> None:
        if section == 0:
            name = reader.name()
            self.charge(len(name))
            self.custom.append((name, reader.remaining))
            return
        if section > 13 or section in self.seen:
            raise reader.fail(f"section {section} is unknown or there twice, before")
        self.seen.add(section)
        if section == 10:
            self.code_size = reader.remaining
        parse = self.parsers.get(section)
        if parse is not None:
            parse(reader)
            reader.finish()

    def charge(self, size: int) -> None:
        """Count ``size`` bytes, and a little for the structure around them, as interface."""
        self.interface_size += size + 16
        if self.interface_size > MAX_INTERFACE:
            raise InterfaceTooLarge(f"imports and exports take more than {MAX_INTERFACE} bytes")

    def charge_type(self, kind: ExternType) -> ExternType:
        if isinstance(kind, ExternFunction):
            self.charge(sum(len(name) + 5 for name in kind.type.params + kind.type.results))
        elif isinstance(kind, ExternTag):
            self.charge(sum(len(name) + 5 for name in kind.type.params))
        return kind

    # --- sections ------------------------------------------------------------------------------

    def read_types(self, reader: Reader) -> None:
        for _ in range(reader.count()):
            if reader.remaining and reader.data[reader.position] == 0x4E:
                reader.byte()
                for _ in range(reader.count()):
                    self.types.append(self.read_sub_type(reader))
            else:
                self.types.append(self.read_sub_type(reader))

    def read_sub_type(self, reader: Reader) -> FunctionType | None:
        form = reader.byte()
        if form in (0x4F, 0x50):
            for _ in range(reader.count()):
                reader.unsigned()
            form = reader.byte()
        if form == 0x60:
            return reader.function_type()
        if form == 0x5F:
            for _ in range(reader.count()):
                reader.field_type()
        elif form == 0x5E:
            reader.field_type()
        else:
            raise reader.fail(f"an unknown form of type 0x{form:02x}")
        self.has_aggregates = True
        return None

    def function_type(self, reader: Reader) -> FunctionType:
        index = reader.unsigned()
        found = self.types[index] if index < len(self.types) else None
        if found is None:
            raise reader.fail(f"type {index} is no function type")
        return found

    def read_tag(self, reader: Reader) -> TagType:
        if reader.byte() != 0:
            raise reader.fail("an unknown attribute of a tag")
        return TagType(self.function_type(reader).params)

    def read_imports(self, reader: Reader) -> None:
        for _ in range(reader.count()):
            module, name = reader.name(), reader.name()
            self.charge(len(module) + len(name))
            kind = self.charge_type(self.read_import(reader))
            self.imports.append(Import(module, name, kind))
        self.imported_functions = len(self.functions)

    def read_import(self, reader: Reader) -> ExternType:
        match reader.byte():
            case 0:
                self.functions.append(self.function_type(reader))
                return ExternFunction(self.functions[-1])
            case 1:
                self.tables.append(reader.table_type())
                return ExternTable(self.tables[-1])
            case 2:
                self.memories.append(reader.memory_type())
                return ExternMemory(self.memories[-1])
            case 3:
                self.globals.append(reader.global_type())
                return ExternGlobal(self.globals[-1])
            case 4:
                self.tags.append(self.read_tag(reader))
                return ExternTag(self.tags[-1])
            case kind:
                raise reader.fail(f"an unknown kind of import 0x{kind:02x}")

    def read_functions(self, reader: Reader) -> None:
        self.functions.extend([self.function_type(reader) for _ in range(reader.count())])

    def read_tables(self, reader: Reader) -> None:
        for _ in range(reader.count()):
            if reader.remaining and reader.data[reader.position] == 0x40:
                reader.skip(2)
                self.tables.append(reader.table_type())
                reader.skip_expression()
            else:
                self.tables.append(reader.table_type())

    def read_memories(self, reader: Reader) -> None:
        self.memories.extend([reader.memory_type() for _ in range(reader.count())])

    def read_globals(self, reader: Reader) -> None:
        for _ in range(reader.count()):
            self.globals.append(reader.global_type())
            reader.skip_expression()

    def read_exports(self, reader: Reader) -> None:
        for _ in range(reader.count()):
            name = reader.name()
            self.charge(len(name))
            self.export_entries.append((name, reader.byte(), reader.unsigned()))

    def read_start(self, reader: Reader) -> None:
        reader.unsigned()
        self.start = True

    def read_tags(self, reader: Reader) -> None:
        self.tags.extend([self.read_tag(reader) for _ in range(reader.count())])

    # --- the whole -----------------------------------------------------------------------------

    def export(self, name: str, kind: int, index: int) -> Export:
        try:
            match kind:
                case 0:
                    extern: ExternType = ExternFunction(self.functions[index])
                case 1:
                    extern = ExternTable(self.tables[index])
                case 2:
                    extern = ExternMemory(self.memories[index])
                case 3:
                    extern = ExternGlobal(self.globals[index])
                case 4:
                    extern = ExternTag(self.tags[index])
                case _:
                    raise MalformedModule(f"an unknown kind of export 0x{kind:02x}")
        except IndexError:
            raise MalformedModule(f"an export of something that is not there: {index}") from None
        return Export(name, self.charge_type(extern), index)

    def description(self) -> ModuleDescription:
        return ModuleDescription(
            imports=tuple(self.imports),
            exports=tuple([self.export(*entry) for entry in self.export_entries]),
            memories=tuple(self.memories),
            tables=tuple(self.tables),
            start=self.start,
            # Only these allocate: objects need a declared struct or array type, exceptions a tag.
            uses_gc=self.has_aggregates or bool(self.tags),
            custom_sections=tuple(self.custom),
            function_count=len(self.functions) - self.imported_functions,
            code_size=self.code_size,
        )
