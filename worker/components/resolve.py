"""Takes a component apart: its core modules, the world that it has, and how to put it together.

Theory of operation. The engine validates the component (``skeleton.py``); here its sections are
carried out one after the other, as instantiation would, but on names instead of on values. What
would be a core instance becomes an ``Instantiation``; what would be a function becomes a
``Lifting``, a ``Lowering`` or an import. A nested component is carried out anew each time that it
is instantiated, with what it is given in the place of its imports.

Source: component model, ``Binary.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ...protocol.description import FunctionType, ModuleDescription
from ...protocol.wit import Interface, World
from ..binary import describe
from ..binary_reader import InterfaceTooLarge, MalformedModule, Reader
from .plan import (
    Builtin,
    BuiltinFunction,
    Core,
    CoreExport,
    Instantiation,
    Lifting,
    Lowered,
    Lowering,
    Options,
    Resource,
)
from .scope import (
    ComponentCode,
    CoreInstance,
    CoreModule,
    Function,
    Instance,
    ResourceType,
    Scope,
    Tables,
    Value,
    external_name,
    interface_of,
    skip_description,
)

MAGIC = b"\0asm\x0d\0\1\0"
"""The preamble of a component, of the only version that there is."""
MAX_INSTANCES = 1000
"""Core instances of one component: each costs memory and time before the first call."""

_RESOURCES = {2: ("resource.new", 1), 3: ("resource.drop", 0), 4: ("resource.rep", 1)}
"""Results of each; all take one value."""
_CONTEXT = {0x0A: ("context.get", 0, 1), 0x0B: ("context.set", 1, 0)}
_I32 = 0x7F
_ASYNCHRONOUS = {
    0x05: ("task.cancel", 0, 0, 0),
    0x06: ("subtask.cancel", 1, 1, 1),
    0x08: ("backpressure.set", 1, 0, 0),
    0x0C: ("thread.yield", 0, 1, 1),
    0x0D: ("subtask.drop", 1, 0, 0),
    0x1F: ("waitable-set.new", 0, 1, 0),
    0x20: ("waitable-set.wait", 2, 1, 2),
    0x21: ("waitable-set.poll", 2, 1, 2),
    0x22: ("waitable-set.drop", 1, 0, 0),
    0x23: ("waitable.join", 2, 0, 0),
    0x24: ("backpressure.inc", 0, 0, 0),
    0x25: ("backpressure.dec", 0, 0, 0),
}
"""Parameters, results, and numbers that follow the code, of what only asynchronous functions use.
Tool chains import it into components that have none."""
_ENCODINGS = ("utf8", "utf16", "latin1+utf16")


class Resolved:
    """A component that was taken apart."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.sources: list[bytes] = []
        """The core modules, each once however often it is instantiated."""
        self.descriptions: list[ModuleDescription] = []
        self.instantiations: list[Instantiation] = []
        self.liftings: list[Lifting] = []
        self.lowerings: list[Lowering] = []
        self.builtins: list[BuiltinFunction] = []
        self.exports: list[tuple[str, int]] = []
        self.owners = 0
        self._modules: dict[tuple[int, int], int] = {}
        self.imports: list[Interface] = []
        self.offered: list[Interface] = []

    @property
    def world(self) -> World:
        """What it needs and offers."""
        tables = self.tables
        return World(
            tuple(tables.types),
            tuple(tables.names),
            tuple(tables.resource_names),
            tuple(self.imports),
            tuple(self.offered),
        )

    def module(self, reader: Reader) -> CoreModule:
        """The core module that is all of what ``reader`` has left."""
        place = reader.position, reader.end
        index = self._modules.get(place)
        if index is None:
            index = self.add_module(bytes(reader.data[reader.position : reader.end]))
            self._modules[place] = index
        return CoreModule(index)

    def add_module(self, source: bytes) -> int:
        """The number of a further core module."""
        self.sources.append(source)
        self.descriptions.append(describe(source))
        return len(self.sources) - 1

    def instantiate(self, module: int, arguments: Sequence[Core]) -> CoreInstance:
        """A new core instance."""
        if len(self.instantiations) == MAX_INSTANCES:
            raise InterfaceTooLarge(f"the component has more than {MAX_INSTANCES} core instances")
        number = len(self.instantiations)
        self.instantiations.append(Instantiation(module, tuple(arguments)))
        names = [export.name for export in self.descriptions[module].exports]
        return CoreInstance({name: CoreExport(number, name) for name in names})


def resolve(data: bytes) -> Resolved:
    """Take the component ``data`` apart, which the engine has validated.

    Raises:
        MalformedModule: it has something that is not known here.
        InterfaceTooLarge: more definitions or instances than are taken.
    """
    resolved = Resolved()
    root = _Component(resolved, ComponentCode(Reader(data, 0, len(data)), Scope(resolved.tables)))
    try:
        root.run(None)
    except LookupError as error:
        raise MalformedModule(f"the component names what is not there: {error}") from None
    _describe(resolved, root.imported, root.exported)
    return resolved


def _describe(resolved: Resolved, imported: dict[str, Value], exported: dict[str, Value]) -> None:
    for values, interfaces in ((imported, resolved.imports), (exported, resolved.offered)):
        own = interface_of("", values)
        if own != Interface(""):
            interfaces.append(own)
        interfaces.extend(
            interface_of(name, value.exports)
            for name, value in values.items()
            if isinstance(value, Instance)
        )
    for interface, name, function in _functions(exported):
        if function.lifting is not None:
            resolved.exports.append(
                (f"{interface}#{name}" if interface else name, function.lifting)
            )


def _functions(exported: dict[str, Value]) -> list[tuple[str, str, Function]]:
    found = [("", name, value) for name, value in exported.items() if isinstance(value, Function)]
    for interface, instance in exported.items():
        if isinstance(instance, Instance):
            found += [
                (interface, name, value)
                for name, value in instance.exports.items()
                if isinstance(value, Function)
            ]
    return found


class _Component:
    """One instantiation of one component."""

    def __init__(self, resolved: Resolved, code: ComponentCode) -> None:
        self._resolved = resolved
        self._code = code
        self._scope = Scope(resolved.tables, code.scope)
        self._owner = resolved.owners
        self._given: dict[str, Value] | None = None
        resolved.owners += 1
        self.imported: dict[str, Value] = {}
        self.exported: dict[str, Value] = {}

    def run(self, given: dict[str, Value] | None) -> None:
        """Carry out all sections; ``given`` satisfies the imports, and ``None`` leaves them
        open."""
        self._given = given
        whole = self._code.reader
        reader = Reader(whole.data, whole.position, whole.end)
        start = reader.position
        reader.skip(len(MAGIC))
        if reader.data[start : reader.position] != MAGIC:
            raise MalformedModule("a component of another version")
        while reader.remaining:
            section = reader.byte()
            body = reader.section(reader.unsigned())
            self._section(section, body)

    def _section(self, section: int, body: Reader) -> None:
        match section:
            case 0 | 3:  # custom; core types, which only types of core modules need
                return
            case 1:
                self._scope.core_modules.append(self._resolved.module(body))
                return
            case 4:
                self._scope.components.append(ComponentCode(body, self._scope))
                return
            case 9:
                raise body.fail("a start function of a component")
            case 12:
                raise body.fail("a value definition")
            case _:
                pass
        readers: dict[int, Callable[[Reader], None]] = {
            2: self._core_instance,
            5: self._instance,
            6: self._alias,
            7: self._type,
            8: self._canon,
            10: self._import,
            11: self._export,
        }
        read = readers.get(section)
        if read is None:
            raise body.fail(f"an unknown section {section}")
        for _ in range(body.count()):
            self._resolved.tables.count()
            read(body)
        body.finish()

    # --- core instances ---------------------------------------------------------------------------

    def _core_instance(self, reader: Reader) -> None:
        scope = self._scope
        if reader.byte() == 1:
            exports: dict[str, Core] = {}
            for _ in range(reader.count()):
                name = reader.name()
                exports[name] = self._core_space(reader, reader.byte())[reader.unsigned()]
            scope.core_instances.append(CoreInstance(exports))
            return
        module = scope.core_modules[reader.unsigned()].index
        given: dict[str, CoreInstance] = {}
        for _ in range(reader.count()):
            name = reader.name()
            if reader.byte() != 0x12:
                raise reader.fail("an argument that is no core instance")
            given[name] = scope.core_instances[reader.unsigned()]
        arguments = [
            given[needed.module].exports[needed.name]
            for needed in self._resolved.descriptions[module].imports
        ]
        scope.core_instances.append(self._resolved.instantiate(module, arguments))

    def _core_space(self, reader: Reader, sort: int) -> list[Core]:
        scope = self._scope
        spaces = {
            0: scope.core_functions,
            1: scope.core_tables,
            2: scope.core_memories,
            3: scope.core_globals,
            4: scope.core_tags,
        }
        if sort not in spaces:
            raise reader.fail(f"something of the core sort 0x{sort:02x}")
        return spaces[sort]

    # --- instances --------------------------------------------------------------------------------

    def _instance(self, reader: Reader) -> None:
        exports: dict[str, Value] = {}
        if reader.byte() == 1:
            for _ in range(reader.count()):
                name = external_name(reader)
                exports[name] = value = self._sorted(reader)
                self._resolved.tables.name(value, name)
        else:
            code = self._scope.components[reader.unsigned()]
            given: dict[str, Value] = {}
            for _ in range(reader.count()):
                name = reader.name()
                given[name] = self._sorted(reader)
            inner = _Component(self._resolved, code)
            inner.run(given)
            exports = inner.exported
        self._scope.instances.append(Instance(exports))

    def _sorted(self, reader: Reader) -> Value:
        """What a "sortidx" names."""
        scope = self._scope
        match reader.byte():
            case 0:
                if reader.byte() != 0x11:
                    raise reader.fail("a core definition among those of components")
                return scope.core_modules[reader.unsigned()]
            case 1:
                return scope.functions[reader.unsigned()]
            case 3:
                return scope.types[reader.unsigned()]
            case 4:
                return scope.components[reader.unsigned()]
            case 5:
                return scope.instances[reader.unsigned()]
            case sort:
                raise reader.fail(f"something of the sort 0x{sort:02x}")

    def _alias(self, reader: Reader) -> None:
        scope, sort = self._scope, reader.byte()
        core = reader.byte() if sort == 0 else None
        match reader.byte():
            case 0:
                instance = scope.instances[reader.unsigned()]
                scope.add(instance.exports[reader.name()])
            case 1 if core is not None:
                exports = scope.core_instances[reader.unsigned()].exports
                self._core_space(reader, core).append(exports[reader.name()])
            case 2:
                outer, index = scope.enclosing(reader.unsigned()), reader.unsigned()
                if core == 0x11:
                    scope.core_modules.append(outer.core_modules[index])
                elif sort == 3:
                    scope.add(outer.types[index])
                elif sort == 4:
                    scope.components.append(outer.components[index])
                elif core != 0x10:
                    raise reader.fail("an alias of something that cannot be had from outside")
            case _:
                raise reader.fail("an unknown kind of alias")

    # --- functions and resources ------------------------------------------------------------------

    def _type(self, reader: Reader) -> None:
        self._scope.define_type(reader, self._resource)

    def _resource(self, reader: Reader) -> ResourceType:
        if reader.byte() != 0x7F:
            raise reader.fail("a resource that is represented by something else than an i32")
        destructor = None
        if reader.byte():
            destructor = self._scope.core_functions[reader.unsigned()]
        return self._resolved.tables.add_resource(Resource(self._owner, destructor))

    def _canon(self, reader: Reader) -> None:
        resolved, scope = self._resolved, self._scope
        match reader.byte():
            case 0 if reader.byte() == 0:
                function = scope.core_functions[reader.unsigned()]
                options = self._options(reader)
                lifting = Lifting(self._owner, function, scope.signature(reader), options)
                resolved.liftings.append(lifting)
                made = Function(lifting.signature, len(resolved.liftings) - 1)
                scope.functions.append(made)
            case 1 if reader.byte() == 0:
                target = scope.functions[reader.unsigned()]
                options = self._options(reader)
                resolved.lowerings.append(
                    Lowering(
                        self._owner,
                        target.signature,
                        options,
                        target.lifting,
                        target.interface,
                        target.name,
                    )
                )
                scope.core_functions.append(Lowered(len(resolved.lowerings) - 1))
            case kind if kind in _RESOURCES:
                name, results = _RESOURCES[kind]
                self._builtin(name, scope.resource(reader), 1, results)
            case kind if kind in _CONTEXT:
                if reader.byte() != _I32:
                    raise reader.fail("a context of something else than i32")
                name, params, results = _CONTEXT[kind]
                self._builtin(name, reader.unsigned(), params, results)
            case kind if kind in _ASYNCHRONOUS:
                name, params, results, operands = _ASYNCHRONOUS[kind]
                for _ in range(operands):
                    reader.unsigned()
                self._builtin(name, 0, params, results)
            case kind:
                raise reader.fail(f"an unknown canonical function 0x{kind:02x}")

    def _builtin(self, kind: str, operand: int, params: int, results: int) -> None:
        builtins = self._resolved.builtins
        builtins.append(BuiltinFunction(self._owner, kind, operand, params, results))
        self._scope.core_functions.append(Builtin(len(builtins) - 1))

    def _options(self, reader: Reader) -> Options:
        scope, encoding = self._scope, "utf8"
        memory: CoreExport | None = None
        realloc: Core | None = None
        post_return: Core | None = None
        for _ in range(reader.count()):
            match reader.byte():
                case (0 | 1 | 2) as code:
                    encoding = _ENCODINGS[code]
                case 3:
                    found = scope.core_memories[reader.unsigned()]
                    if not isinstance(found, CoreExport):
                        raise reader.fail("a memory that is no export of a core instance")
                    memory = found
                case 4:
                    realloc = scope.core_functions[reader.unsigned()]
                case 5:
                    post_return = scope.core_functions[reader.unsigned()]
                case code:
                    raise reader.fail(f"an asynchronous or unknown canonical option 0x{code:02x}")
        return Options(encoding, memory, realloc, post_return)

    # --- imports and exports ----------------------------------------------------------------------

    def _import(self, reader: Reader) -> None:
        name = external_name(reader)
        if self._given is None:
            value = self._scope.receive(reader, "", name)
            self._resolved.tables.name(value, name)
        else:  # under a name that only the tool chain knows
            value = self._described(self._given[name], reader)
        self._scope.add(value)
        self.imported[name] = value

    def _export(self, reader: Reader) -> None:
        name = external_name(reader)
        value = self._sorted(reader)
        if reader.byte():
            value = self._described(value, reader)
        self._scope.add(value)
        self._resolved.tables.name(value, name)
        self.exported[name] = value

    def _described(self, value: Value, reader: Reader) -> Value:
        """``value`` under the type that is read: a function's may be written with types that have
        other names there. It is the same type, else the component were not valid."""
        if isinstance(value, Function) and reader.byte() == 1:
            return replace(value, signature=self._scope.signature(reader))
        skip_description(reader)
        return value


def core_signature(resolved: Resolved, function: Core) -> FunctionType | None:
    """The type of a core function, where it is an export of a core module."""
    if not isinstance(function, CoreExport):
        return None
    module = resolved.instantiations[function.instance].module
    return resolved.descriptions[module].function(function.name)
