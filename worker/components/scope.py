"""What is defined in one component, or in the type of an interface: index spaces, and the types in
them.

Source: component model, ``Binary.md`` ("Type Definitions") and ``Explainer.md``. The engine has
validated what is read here; what this reader does not know is refused as ``MalformedModule``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ...protocol import wit
from ...protocol.wit import Interface, Ref, Signature
from ..binary_reader import InterfaceTooLarge, MalformedModule, Reader
from .plan import Core, Resource

MAX_DEFINITIONS = 200_000
"""Definitions of all kinds: a nested component counts each time that it is instantiated."""

_PRIMITIVES = {
    0x7F: "bool",
    0x7E: "s8",
    0x7D: "u8",
    0x7C: "s16",
    0x7B: "u16",
    0x7A: "s32",
    0x79: "u32",
    0x78: "s64",
    0x77: "u64",
    0x76: "f32",
    0x75: "f64",
    0x74: "char",
    0x73: "string",
}
_ASYNCHRONOUS = (0x43, 0x65, 0x66, 0x64)


class ResourceType(msgspec.Struct, frozen=True):
    """A resource, by its place in ``Tables.resources``."""

    index: int


class InterfaceType(msgspec.Struct, frozen=True):
    """The type of an instance, unread: it is read anew for each import of it."""

    reader: Reader
    scope: Scope


class Opaque(msgspec.Struct, frozen=True):
    """The type of a component, which only matters where one is imported; that is refused."""


TypeEntry = Ref | Signature | ResourceType | InterfaceType | Opaque


class Function(msgspec.Struct, frozen=True):
    """A component function: a lifting, or an import."""

    signature: Signature
    lifting: int | None
    interface: str = ""
    name: str = ""


class CoreModule(msgspec.Struct, frozen=True):
    """By its place among the core modules that were found."""

    index: int


class CoreInstance(msgspec.Struct, frozen=True):
    """What a core instance exports, by name."""

    exports: dict[str, Core]


class ComponentCode(msgspec.Struct, frozen=True):
    """A component that is not instantiated yet."""

    reader: Reader
    scope: Scope


class Instance(msgspec.Struct, frozen=True):
    """What an instance exports, by name."""

    exports: dict[str, Value]


Value = TypeEntry | Function | CoreModule | ComponentCode | Instance


class Tables:
    """What all scopes add to."""

    def __init__(self) -> None:
        self.types: list[wit.Type] = []
        self.names: list[str] = []
        self.resources: list[Resource] = []
        self.resource_names: list[str] = []
        self.definitions = 0

    def count(self) -> None:
        """One more definition.

        Raises:
            InterfaceTooLarge: more than ``MAX_DEFINITIONS``.
        """
        self.definitions += 1
        if self.definitions > MAX_DEFINITIONS:
            raise InterfaceTooLarge(f"the component has more than {MAX_DEFINITIONS} definitions")

    def add(self, kind: wit.Type) -> int:
        """The place of a new type."""
        self.count()
        self.types.append(kind)
        self.names.append("")
        return len(self.types) - 1

    def add_resource(self, resource: Resource) -> ResourceType:
        """A new resource type."""
        self.count()
        self.resources.append(resource)
        self.resource_names.append("")
        return ResourceType(len(self.resources) - 1)

    def name(self, entry: Value, name: str) -> None:
        """``entry`` is known as ``name`` somewhere: the first name is kept."""
        if isinstance(entry, int) and not self.names[entry]:
            self.names[entry] = name
        elif isinstance(entry, ResourceType) and not self.resource_names[entry.index]:
            self.resource_names[entry.index] = name


class Scope:
    """The index spaces of one component or one type, inside of those of ``outer``."""

    def __init__(self, tables: Tables, outer: Scope | None = None) -> None:
        self.tables = tables
        self.outer = outer
        self.types: list[TypeEntry] = []
        self.functions: list[Function] = []
        self.components: list[ComponentCode] = []
        self.instances: list[Instance] = []
        self.core_modules: list[CoreModule] = []
        self.core_instances: list[CoreInstance] = []
        self.core_functions: list[Core] = []
        self.core_tables: list[Core] = []
        self.core_memories: list[Core] = []
        self.core_globals: list[Core] = []
        self.core_tags: list[Core] = []

    def enclosing(self, levels: int) -> Scope:
        """The scope so many levels further out."""
        scope = self
        for _ in range(levels):
            if scope.outer is None:
                raise MalformedModule("an alias of something outside of the component")
            scope = scope.outer
        return scope

    # --- names and references -------------------------------------------------------------------

    def value_type(self, reader: Reader) -> Ref:
        """A primitive type, or one that was defined."""
        byte = reader.data[reader.position] if reader.remaining else 0
        primitive = _PRIMITIVES.get(byte)
        if primitive is not None:
            reader.byte()
            return primitive
        index = reader.signed(33)
        if index < 0:
            raise reader.fail(f"an unknown type 0x{byte:02x}")
        entry = self.types[index]
        if not isinstance(entry, int | str):
            raise reader.fail(f"type {index} is no type of values")
        return entry

    def optional_type(self, reader: Reader) -> Ref | None:
        """A type, or nothing."""
        return self.value_type(reader) if _flag(reader) else None

    def labelled(self, reader: Reader) -> tuple[tuple[str, Ref], ...]:
        """Names with their types."""
        return tuple([(reader.name(), self.value_type(reader)) for _ in range(reader.count())])

    def resource(self, reader: Reader) -> int:
        """A resource type that was defined."""
        entry = self.types[reader.unsigned()]
        if not isinstance(entry, ResourceType):
            raise reader.fail("a handle to something that is no resource")
        return entry.index

    def signature(self, reader: Reader) -> Signature:
        """A type of functions that was defined."""
        entry = self.types[reader.unsigned()]
        if not isinstance(entry, Signature):
            raise reader.fail("a function of a type that is none of a function")
        return entry

    # --- types ----------------------------------------------------------------------------------

    def define_type(self, reader: Reader, resource: Callable[[Reader], ResourceType]) -> None:
        """Read one type definition; ``resource`` reads those of resources."""
        self.tables.count()
        form = reader.byte()
        match form:
            case 0x40:
                self.types.append(self._signature(reader))
            case 0x41 | 0x42:
                start = Reader(reader.data, reader.position, reader.end)
                skip_declarations(reader)
                inside = InterfaceType(Reader(start.data, start.position, reader.position), self)
                self.types.append(inside if form == 0x42 else Opaque())
            case 0x3F:
                self.types.append(resource(reader))
            case _ if form in _PRIMITIVES:
                self.types.append(_PRIMITIVES[form])
            case _:
                self.types.append(self.tables.add(self._compound(form, reader)))

    def _signature(self, reader: Reader) -> Signature:
        params = self.labelled(reader)
        if reader.byte() == 0:
            return Signature(params, self.value_type(reader))
        if reader.byte() != 0:
            raise reader.fail("a function with several results")
        return Signature(params)

    def _compound(self, form: int, reader: Reader) -> wit.Type:
        match form:
            case 0x72:
                return wit.Record(self.labelled(reader))
            case 0x71:
                return wit.Variant(tuple([self._case(reader) for _ in range(reader.count())]))
            case 0x70:
                return wit.List(self.value_type(reader))
            case 0x6F:
                return wit.Tuple(tuple([self.value_type(reader) for _ in range(reader.count())]))
            case 0x6E:
                return wit.Flags(tuple([reader.name() for _ in range(reader.count())]))
            case 0x6D:
                return wit.Enum(tuple([reader.name() for _ in range(reader.count())]))
            case 0x6B:
                return wit.Option(self.value_type(reader))
            case 0x6A:
                return wit.Result(self.optional_type(reader), self.optional_type(reader))
            case 0x69:
                return wit.Own(self.resource(reader))
            case 0x68:
                return wit.Borrow(self.resource(reader))
            case _ if form in _ASYNCHRONOUS:
                raise reader.fail("an asynchronous function, a stream or a future")
            case _:
                raise reader.fail(f"an unknown form of type 0x{form:02x}")

    def _case(self, reader: Reader) -> tuple[str, Ref | None]:
        name, kind = reader.name(), self.optional_type(reader)
        if reader.byte() != 0:
            raise reader.fail("a case that refines another")
        return name, kind

    # --- what is imported -----------------------------------------------------------------------

    def receive(self, reader: Reader, interface: str, name: str) -> Value:
        """What an import of ``name`` in ``interface`` gives, by the description that is read."""
        kind = reader.byte()
        match kind:
            case 1:
                return Function(self.signature(reader), None, interface, name)
            case 3 if reader.byte() == 0:
                return self.types[reader.unsigned()]
            case 3:
                return self.tables.add_resource(Resource(None, None, interface, name))
            case 5 if not interface:
                described = self.types[reader.unsigned()]
                if not isinstance(described, InterfaceType):
                    raise reader.fail("an instance of something that is no interface")
                return self._receive_instance(described, name)
            case _:
                what = {0: "core module", 2: "value", 4: "component", 5: "nested instance"}
                raise reader.fail(f"an import of a {what.get(kind, 'thing of unknown kind')}")

    def _receive_instance(self, described: InterfaceType, interface: str) -> Instance:
        inside = Scope(self.tables, described.scope)
        given = described.reader
        reader = Reader(given.data, given.position, given.end)
        exports: dict[str, Value] = {}
        for _ in range(reader.count()):
            self.tables.count()
            match reader.byte():
                case 1:
                    inside.define_type(reader, _no_resource)
                case 2:
                    inside.alias_type(reader)
                case 4:
                    name = external_name(reader)
                    value = inside.receive(reader, interface, name)
                    inside.add(value)
                    self.tables.name(value, name)
                    exports[name] = value
                case _:
                    raise reader.fail("a core type in the type of an interface")
        return Instance(exports)

    def alias_type(self, reader: Reader) -> None:
        """Read an alias in the type of an interface, which can only be one of a type."""
        if reader.byte() != 3:
            raise reader.fail("an alias of something else than a type")
        match reader.byte():
            case 0:
                instance = self.instances[reader.unsigned()]
                entry = instance.exports[reader.name()]
            case 2:
                entry = self.enclosing(reader.unsigned()).types[reader.unsigned()]
            case _:
                raise reader.fail("an unknown kind of alias")
        self.add(entry)

    def add(self, value: Value) -> None:
        """Put ``value`` into the index space of its kind."""
        match value:
            case Function():
                self.functions.append(value)
            case Instance():
                self.instances.append(value)
            case ComponentCode():
                self.components.append(value)
            case CoreModule():
                self.core_modules.append(value)
            case _:
                self.types.append(value)


def interface_of(name: str, exports: dict[str, Value]) -> Interface:
    """The description of an instance."""
    functions: list[tuple[str, Signature]] = []
    types: list[tuple[str, Ref]] = []
    resources: list[tuple[str, int]] = []
    for export, value in exports.items():
        match value:
            case Function(signature):
                functions.append((export, signature))
            case ResourceType(index):
                resources.append((export, index))
            case int() | str():
                types.append((export, value))
            case _:
                pass
    return Interface(name, tuple(functions), tuple(types), tuple(resources))


def external_name(reader: Reader) -> str:
    """The name of an import or an export of a component."""
    if reader.byte() > 1:
        raise reader.fail("an unknown form of name")
    return reader.name()


def _no_resource(reader: Reader) -> ResourceType:
    raise reader.fail("a resource that an interface's type defines itself")


def _flag(reader: Reader) -> bool:
    byte = reader.byte()
    if byte > 1:
        raise reader.fail(f"0x{byte:02x} where 0 or 1 belongs")
    return byte == 1


# --- stepping over what is read later -------------------------------------------------------------


def skip_declarations(reader: Reader) -> None:
    """Step over the declarations of an instance's or a component's type."""
    for _ in range(reader.count()):
        match reader.byte():
            case 1:
                _skip_type(reader)
            case 2:
                _skip_alias(reader)
            case 3 | 4:
                external_name(reader)
                skip_description(reader)
            case _:
                raise reader.fail("a core type in the type of an interface")


def skip_description(reader: Reader) -> None:
    """Step over the description of an import or an export."""
    match reader.byte():
        case 0:
            reader.byte()
            reader.unsigned()
        case 3:
            if reader.byte() == 0:
                reader.unsigned()
        case 1 | 4 | 5:
            reader.unsigned()
        case _:
            raise reader.fail("an unknown kind of import or export")


def _skip_alias(reader: Reader) -> None:
    if reader.byte() == 0:
        reader.byte()
    match reader.byte():
        case 0 | 1:
            reader.unsigned()
            reader.name()
        case _:
            reader.unsigned()
            reader.unsigned()


def _skip_labels(reader: Reader) -> None:
    for _ in range(reader.count()):
        reader.name()


def _skip_fields(reader: Reader) -> None:
    for _ in range(reader.count()):
        reader.name()
        reader.signed(33)


def _skip_optional(reader: Reader) -> None:
    if _flag(reader):
        reader.signed(33)


def _skip_type(reader: Reader) -> None:
    form = reader.byte()
    match form:
        case 0x40:
            _skip_fields(reader)
            if reader.byte() == 0:
                reader.signed(33)
            else:
                reader.byte()
        case 0x41 | 0x42:
            skip_declarations(reader)
        case 0x72:
            _skip_fields(reader)
        case 0x71:
            for _ in range(reader.count()):
                reader.name()
                _skip_optional(reader)
                reader.byte()
        case 0x70 | 0x6B:
            reader.signed(33)
        case 0x6F:
            for _ in range(reader.count()):
                reader.signed(33)
        case 0x6E | 0x6D:
            _skip_labels(reader)
        case 0x6A:
            _skip_optional(reader)
            _skip_optional(reader)
        case 0x69 | 0x68:
            reader.unsigned()
        case _ if form in _PRIMITIVES:
            pass
        case _:
            raise reader.fail(f"an unknown or asynchronous form of type 0x{form:02x}")
