"""Components in the engine's C interface: each core module is one of the engine's, and what lies
between them is ours (``worker/components``).

All core instances of a component live in one store, under the limits of one call: the sum of their
memories and tables is bounded as for a core module that had them all.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ....protocol.description import FunctionType, ModuleDescription
from ...binary_exports import growing, shift
from ...components.abi import Codecs
from ...components.heap import BadValue, TooMuch
from ...components.host import ComponentHost
from ...components.instance import ComponentInstance, Linked
from ...components.plan import Builtin, Core, CoreExport, Lowered, Module, Plan
from ..interface import (
    NO_WASI,
    SLOT,
    Argument,
    BufferArgument,
    CallLimits,
    CallResult,
    CommandResult,
    ComponentFunction,
    EngineRefusal,
    GuestExit,
    GuestMemory,
    GuestTrap,
    HostFunction,
    Kept,
    LoadedModule,
    Measured,
    RecordLoop,
    ReturnMode,
    Wasi,
    shorten,
)
from ..limits import Caps, caps
from ..preview1 import FUNCTIONS
from ..views import view_memory
from .host_functions import Lent
from .library import EXTERN_FUNCTION, EXTERN_MEMORY, Extern, Instance
from .store import OF, Allocator, MemoryMeter, Store
from .wasi import check_text

Type = tuple[tuple[str, ...], tuple[str, ...]]
_FORMATS = {"i32": "I12x", "i64": "Q8x", "f32": "f12x", "f64": "d8x"}
_LINK = "link"
"""The import module of what lies between core modules. No guest sees it."""
_encode = msgspec.msgpack.Encoder().encode


class RawComponent:
    """See ``interface.LoadedModule``."""

    def __init__(
        self,
        allocator: Allocator,
        path: str,
        description: ModuleDescription,
        plan: Plan,
        functions: tuple[ComponentFunction, ...] = (),
    ) -> None:
        assert description.component is not None
        self.description = description
        self.allocator = allocator
        self.plan = plan
        self._world = description.component.world
        shared = allocator.shared
        self.host = ComponentHost(shared.settings, shared.host.account.woken, functions)
        self.running: RawComponentInstance | None = None
        """The instance whose code runs, or ran last."""
        self.linker: int | None = None
        self._linked: Linked | None = None
        self._exports = dict(self.plan.exports)
        self.drops = dict(self._world.drops())
        """The resource that is dropped under each name for that."""
        self._limits: dict[tuple[int, int], Caps] = {}
        self._lent: Lent | None = None
        """What lies between the core modules, as the engine calls it."""
        self.meters: list[MemoryMeter] = []
        self.modules: list[int] = []
        self.moved: set[int] = set()
        try:
            for module in self.plan.modules:
                self._load(path, module)
        except BaseException:
            self.close()
            raise

    def _load(self, path: str, module: Module) -> None:
        library = self.allocator.shared.library
        if module.offset == 0:
            pointer = self.allocator.load(path)  # what lies behind it does not matter
        else:
            pointer = self.allocator.load_part(path, module.offset, module.size)
        self.modules.append(pointer)
        things = growing(module.description)
        self.meters.append(MemoryMeter(module.description, things))
        hidden = any(thing.hidden for thing in things)
        self.moved.add(shift(library.last_export(pointer)) if hidden else 0)

    @property
    def linked(self) -> Linked:
        """What all instances share."""
        self.prepare()
        assert self._linked is not None
        return self._linked

    def prepare(self) -> None:
        """Link the imports.

        Raises:
            EngineRefusal: ``missing_import`` or ``signature``.
        """
        if self._linked is not None:
            return
        functions = self.host.link(self.plan, self._world)
        provided = [self.host.provides(each) for each in self.plan.resources]
        linked = Linked(self.plan, Codecs(self._world.types), functions, self.host.drop, provided)
        crossings = [
            _crossing("lowered", index, codec.lowered, self._lowered)
            for index, codec in enumerate(linked.lowerings)
        ]
        crossings += [
            _crossing("builtin", index, linked.builtin_type(index), self._builtin)
            for index in range(len(self.plan.builtins))
        ]
        shared = self.allocator.shared
        linker: int = shared.library.linker_new(self.allocator.engine)
        self.linker = linker
        self._lent = shared.lender.lend(tuple(crossings))
        self._lent.define(linker)
        self._linked = linked

    def _lowered(self, index: int, flats: Sequence[Any]) -> list[Any]:
        assert self.running is not None
        return self.running.component.lowered(index, flats)

    def _builtin(self, index: int, flats: Sequence[Any]) -> list[Any]:
        assert self.running is not None
        return self.running.component.builtin(index, flats)

    def caps(self, limits: CallLimits) -> Caps:
        """What the store limiter is told."""
        key = limits.memory, limits.table_elements
        found = self._limits.get(key)
        if found is None:
            found = self._limits[key] = caps(self.description, *key)
        return found

    def call(
        self, export: str, slots: bytes, limits: CallLimits, wasi: Wasi | None = None
    ) -> CallResult:
        """Refused: a component's values cross as a buffer."""
        raise EngineRefusal("signature", f"{shorten(export, 60)!r} takes its values as a buffer")

    def call_buffers(
        self,
        export: str,
        arguments: Sequence[Argument],
        limits: CallLimits,
        *,
        returns: ReturnMode = "none",
        drain: Callable[[memoryview], object] | None = None,
        wasi: Wasi | None = None,
    ) -> CallResult:
        """Call ``export`` with wire values, one buffer of MessagePack; so is the result."""
        instance = RawComponentInstance(self, limits, wasi or NO_WASI)
        try:
            return instance.invoke(export, arguments, limits.output, drain)
        finally:
            instance.close()

    def run_command(self, wasi: Wasi, limits: CallLimits) -> CommandResult:
        """Run ``wasi:cli/run`` in a fresh instance."""
        command = self._world.command
        if command is None:
            raise EngineRefusal(
                "missing_export",
                "the component is no command: it does not export wasi:cli/run",
                "call one of its exports instead",
            )
        instance = RawComponentInstance(self, limits, wasi)
        try:
            outcome = instance.call_export(command, [], limits.output)
            return CommandResult(outcome[0], instance.measured())
        except GuestExit as end:
            return CommandResult(end.code, end.measured)
        finally:
            instance.close()

    def keep(self, limits: CallLimits) -> Kept:
        """Refused, as ``loop``."""
        raise _one_by_one()

    def loop(
        self, export: str, trampoline: LoadedModule, limits: CallLimits, count: int
    ) -> RecordLoop:
        """Refused: calls of a component travel one by one."""
        raise _one_by_one()

    def index(self, export: str) -> int:
        """The lifting that is exported under a name.

        Raises:
            EngineRefusal: ``missing_export``.
        """
        found = self._exports.get(export)
        if found is None:
            raise EngineRefusal(
                "missing_export",
                f"the component exports no function {shorten(export, 100)!r} of its own",
            )
        return found

    def close(self) -> None:
        """Free it."""
        library = self.allocator.shared.library
        if self.linker is not None:
            library.linker_delete(self.linker)
            self.linker = None
        if self._lent is not None:
            self._lent.close()
            self._lent = None
        for module in self.modules:
            library.module_delete(module)
        self.modules.clear()


def _one_by_one() -> EngineRefusal:
    return EngineRefusal("signature", "calls of a component do not travel together")


class RawComponentInstance:
    """An instance of a component in a store of its own; it is its own ``Machine``, too."""

    def __init__(self, component: RawComponent, limits: CallLimits, wasi: Wasi) -> None:
        linked = component.linked
        self._of = component
        self._shared = shared = component.allocator.shared
        self._instances: list[Instance] = []
        self._functions: dict[CoreExport, int] = {}
        self._memories: dict[CoreExport, int] = {}
        self._kept: list[Extern] = []
        self.component = ComponentInstance(linked, self, limits.memory)
        limiter = component.caps(limits)
        check_text(wasi)
        shared.host.begin(wasi)
        component.host.begin(wasi)
        component.running = self
        self._store = store = Store(component.allocator)
        try:
            store.cap(limiter.first_memory, limiter.first_tables)
            store.begin(limits.fuel)
            if component.plan.bridge is not None and wasi.granted:
                component.host.state.bridge = self._open_bridge(wasi)
                store.cap(limiter.first_memory, limiter.first_tables)
            for instantiation in component.plan.instantiations:
                self._instantiate(component.modules[instantiation.module], instantiation.arguments)
            store.cap(limiter.memory, limiter.tables)
        except BaseException:
            self.close()
            raise

    def _open_bridge(self, wasi: Wasi) -> RawBridge:
        """What the host's functions on files use; leaves the store uncapped."""
        component, store = self._of, self._store
        assert component.plan.bridge is not None
        if component.plan.several_images:
            raise EngineRefusal(
                "unsupported_module",
                "a component with data in several memories cannot be granted directories",
            )
        store.give_wasi(Wasi(directories=wasi.directories, scratch=wasi.scratch, files=wasi.files))
        gate = component.allocator.require_guard().open(store)
        gate.attach(wasi)
        imports = component.plan.modules[component.plan.bridge].description.imports
        externs, handle = (Extern * len(imports))(), Instance()
        for extern, needed in zip(externs, imports, strict=True):
            gate.export(needed.name.encode(), ctypes.addressof(extern))
        error = store.library.instance_new(
            store.context,
            component.modules[component.plan.bridge],
            *(ctypes.addressof(externs), len(externs), ctypes.addressof(handle)),
            self._shared.trap_address,
        )
        self._check(error)
        self._check(gate.guard(ctypes.addressof(handle), gate))
        return RawBridge(self, handle)

    def _instantiate(self, module: int, arguments: Sequence[Core]) -> None:
        store, handle = self._store, Instance()
        externs = (Extern * max(len(arguments), 1))()
        for extern, argument in zip(externs, arguments, strict=False):
            self._find(argument, ctypes.addressof(extern))
        error = store.library.instance_new(
            store.context,
            module,
            ctypes.addressof(externs),
            len(arguments),
            ctypes.addressof(handle),
            self._shared.trap_address,
        )
        self._check(error)
        self._instances.append(handle)

    def _find(self, wanted: Core, place: int) -> None:
        """Put what ``wanted`` is at the address ``place``."""
        store = self._store
        match wanted:
            case CoreExport(instance, name):
                encoded = name.encode()
                address = ctypes.addressof(self._instances[instance])
                found = store.library.export_get(
                    store.context, address, encoded, len(encoded), place
                )
            case Lowered(index) | Builtin(index):
                kind = "lowered" if isinstance(wanted, Lowered) else "builtin"
                module, encoded = _LINK.encode(), f"{kind} {index}".encode()
                found = store.library.linker_get(
                    self._of.linker,
                    store.context,
                    *(module, len(module), encoded, len(encoded), place),
                )
        if not found:
            raise EngineRefusal("unlinkable", "the component's plan names what is not there")

    def _address(self, wanted: CoreExport, kind: int, known: dict[CoreExport, int]) -> int:
        """Address of the handle of an exported function or memory."""
        address = known.get(wanted)
        if address is None:
            extern = Extern()
            self._find(wanted, ctypes.addressof(extern))
            if extern.kind != kind:
                raise EngineRefusal("unlinkable", "an export of a core module is of another kind")
            self._kept.append(extern)
            address = known[wanted] = ctypes.addressof(extern) + OF
        return address

    # --- components.instance.Machine --------------------------------------------------------------

    def call(self, function: CoreExport, kind: Type, flats: list[Any]) -> Sequence[Any]:
        """Call a core function, whose type was checked when the component was taken apart."""
        store = self._store
        params, results = _layout(kind[0]), _layout(kind[1])
        count = max(len(kind[0]), len(kind[1]), 1)
        values = ctypes.create_string_buffer(params.pack(*flats), SLOT * count)
        address = self._address(function, EXTERN_FUNCTION, self._functions)
        error = store.library.call_unchecked(
            store.context, address, ctypes.addressof(values), count, self._shared.trap_address
        )
        self._check(error)
        return results.unpack_from(values)

    def view(self, memory: CoreExport) -> memoryview:
        """All of a memory."""
        store = self._store
        address = self._address(memory, EXTERN_MEMORY, self._memories)
        size: int = store.library.memory_size(store.context, address)
        return view_memory(store.library.memory_data(store.context, address) or 0, size)

    # --- calls ------------------------------------------------------------------------------------

    def begin(self, wasi: Wasi, fuel: int | None) -> None:
        """Set what holds for the next call of an instance that lives on.

        Raises:
            GuestTrap: it was interrupted already.
        """
        self._shared.host.begin(wasi)
        self._shared.host.account.begin()
        self._store.begin(fuel)

    def invoke(
        self,
        export: str,
        arguments: Sequence[Argument],
        room: int,
        drain: Callable[[memoryview], object] | None,
    ) -> CallResult:
        """Call an export with wire values, one buffer of MessagePack; so is the result, of which
        ``room`` bytes may come back."""
        (given,) = [each for each in arguments if isinstance(each, BufferArgument)]
        buffer = bytearray(given.size)
        given.fill(memoryview(buffer))
        result = self.call_export(export, msgspec.msgpack.decode(buffer), room)
        assert drain is not None
        drain(memoryview(_encode(result)))
        return CallResult(b"", self.measured())

    def call_export(self, export: str, values: Sequence[Any], room: int) -> Any:
        """Call an export with wire values; ``room`` bytes may come back.

        Raises:
            EngineRefusal: ``missing_export``, ``bad_result``, ``output_limit``.
            GuestTrap, GuestExit: as the guest's own.
        """
        self._of.running = self
        try:
            if export in self._of.drops:
                return self.component.drop(self._of.drops[export], *values)
            return self.component.call(self._of.index(export), values, room)
        except BadValue as error:
            raise EngineRefusal("bad_result", f"{shorten(export, 60)}: {error}") from None
        except TooMuch:
            raise EngineRefusal(
                "output_limit",
                "the result is larger than it may be",
                "raise Limits(output=)",
                used=room + 1,
                allowed=room,
            ) from None
        except (GuestTrap, GuestExit) as end:
            end.measured = self.measured()
            raise

    def ask_bridge(self, instance: int, name: str, arguments: Sequence[int]) -> int:
        """Call a function of the bridge; see ``RawBridge``."""
        params = _layout(FUNCTIONS[name].params)
        results, error = self._store.call(instance, name, params.pack(*arguments), 1)
        self._check(error)
        return int.from_bytes(results[:4], "little")

    def bridge_memory(self, instance: int) -> tuple[int, int]:
        """Address and size of the bridge's memory."""
        return self._store.memory(instance, "memory")

    def measured(self) -> Measured:
        """What it has cost so far."""
        store, component = self._store, self._of
        memory = None
        if len(self._instances) == len(component.plan.instantiations):
            memory = sum(
                component.meters[made.module].read(
                    store.library, store.context, ctypes.addressof(handle), store.extern
                )
                for made, handle in zip(component.plan.instantiations, self._instances, strict=True)
            )
        return Measured(store.fuel_used(), memory, *self._shared.host.account.use())

    def _check(self, error: int | None) -> None:
        """Raise what went wrong in the engine."""
        if self._shared.failed(error):
            # A frame does not say of which module it is.
            moved = next(iter(self._of.moved)) if len(self._of.moved) == 1 else None
            raise self._shared.failure(error, self.measured(), moved)

    def close(self) -> None:
        """Free it."""
        self._of.running = None
        self._of.host.end()
        self._shared.host.account.detach()
        self._store.close()


class RawBridge:
    """See ``components.offers.Bridge``."""

    def __init__(self, within: RawComponentInstance, handle: Instance) -> None:
        self._within = within
        self._handle = handle

    def ask(self, name: str, *arguments: int) -> int:
        """The error number that a function gives."""
        return self._within.ask_bridge(ctypes.addressof(self._handle), name, arguments)

    def memory(self) -> memoryview:
        """Its memory, which does not grow."""
        return view_memory(*self._within.bridge_memory(ctypes.addressof(self._handle)))


@functools.cache
def _layout(kinds: tuple[str, ...]) -> struct.Struct:
    return struct.Struct("<" + "".join(_FORMATS[kind] for kind in kinds))


def _crossing(
    what: str, index: int, kind: Type, work: Callable[[int, Sequence[Any]], list[Any]]
) -> HostFunction:
    """A function of ours that core code may import, on core values."""
    params, results = _layout(kind[0]), _layout(kind[1])

    def call(_memory: GuestMemory, slots: bytes) -> bytes:
        return results.pack(*work(index, params.unpack(slots)))

    return HostFunction(module=_LINK, name=f"{what} {index}", type=FunctionType(*kind), call=call)
