"""Instances that live on: one store, many instances, which may import from each other."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from ....protocol.description import (
    NUMERIC_TYPES,
    ExternFunction,
    ExternGlobal,
    ExternMemory,
    ExternTable,
    Import,
    ModuleDescription,
)
from ...binary import MAGIC
from ...binary_exports import Growing
from ...freezing import freeze
from ..buffers import Convention
from ..interface import (
    FROM_HOST,
    FROM_WASI,
    SLOT,
    WASI_MODULE,
    Argument,
    BufferArgument,
    CallLimits,
    CallResult,
    EngineRefusal,
    GuestTrap,
    LoadedModule,
    Measured,
    ReturnMode,
    SessionLimits,
    Wasi,
    shorten,
)
from ..limits import Caps, floor, memory_needs, table_needs
from ..preview1 import FUNCTIONS
from ..refusals import alloc_pointer, find_export
from ..views import view_memory
from .compile import to_binary
from .component import RawComponent, RawComponentInstance
from .guard import Gate
from .ledger import Entry, Ledger
from .library import Extern, Instance, Value
from .modules import RawModule
from .store import OF, Allocator, Store
from .traps import interrupted
from .wasi import seeded


class Kept:
    """An instance that lives on; also what the buffer convention asks of one."""

    def __init__(self, session: RawSession, store: Store, handle: Instance, of: RawModule) -> None:
        self.module = of
        self.address = ctypes.addressof(handle)
        self._handle = handle
        self._session = session
        self._store = store

    def invoke(self, export: str, slots: bytes) -> bytes:
        """Call an exported function, within what was begun."""
        function = self.module.check_slots(export, slots)
        store = self._store
        results, error = store.call(self.address, export, slots, len(function.results))
        if store.shared.failed(error):
            raise self._session.failure(error, self.measured(), self.module)
        return results

    def memory(self) -> tuple[int, int]:
        """Address and size of the export ``memory``."""
        return self._store.memory(self.address, "memory")

    def slot(self, name: str) -> bytes:
        """At least ``SLOT`` bytes, the first of which are the value of the global that is exported
        under that name."""
        store, encoded, value = self._store, name.encode(), Value()
        library, context = store.library, store.context
        library.export_get(context, self.address, encoded, len(encoded), store.extern)
        library.global_get(context, store.extern + OF, ctypes.addressof(value))
        return bytes(value.of)

    def measured(self) -> Measured:
        """What the call that was begun last has cost so far."""
        store = self._store
        memory = self.module.meter.read(store.library, store.context, self.address, store.extern)
        return Measured(store.fuel_used(), memory, *store.shared.host.account.use())


class RawSession:
    """See ``interface.Session``. Limits are kept over all instances together."""

    def __init__(self, allocator: Allocator, limits: SessionLimits, wasi: Wasi) -> None:
        self._wasi = wasi
        self._limits = limits
        self._instances: list[Kept] = []
        self._component: RawComponentInstance | None = None
        """Instead of them all."""
        self._memories = Ledger("memory", limits.memory, limits.shares)
        self._tables = Ledger("table", limits.table_elements, limits.shares)
        self._has_heap = False
        """Whether the store's one GC heap is in the ledger."""
        self._allocator = allocator
        self._numbers = seeded(allocator.shared.settings)
        self._account: Gate | None = None
        """The gate in whose state all of them are counted."""
        self._store = Store(allocator)
        try:
            self._store.give_wasi(wasi)
        except BaseException:
            self._store.close()
            raise

    # --- the interface -------------------------------------------------------------------------

    def instantiate(
        self,
        module: LoadedModule,
        bindings: Sequence[tuple[int, str]] | None,
        *,
        fuel: int | None = None,
    ) -> int:
        """A new instance's number."""
        if isinstance(module, RawComponent):
            return self._keep(module, bindings, fuel)
        assert isinstance(module, RawModule)
        description = module.description
        store, shared = self._store, self._store.shared
        externs = (Extern * max(len(description.imports), 1))()
        gate = None
        if bindings is None:
            gate = self._give(module, externs)
        elif len(bindings) == len(description.imports):
            given = [name for instance, name in bindings if instance == FROM_WASI]
            gate = self._open_gate() if module.needs_gate(given, self._wasi) else None
            for place, (instance, name) in enumerate(bindings):
                where = ctypes.addressof(externs[place])
                if instance == FROM_HOST:
                    self._lend(where, module, description.imports[place])
                else:
                    self._bind(where, instance, name, gate)
        else:
            raise EngineRefusal(
                "unlinkable",
                f"{len(bindings)} bindings were given for {len(description.imports)} imports",
            )
        newcomers = _Newcomers(module, with_heap=not self._has_heap)
        caps = Caps.of(
            self._memories.plan(newcomers.memories),
            self._tables.plan(newcomers.tables),
            floor(newcomers.memories),
            floor(newcomers.tables),
        )
        if caps.change and description.start:
            raise EngineRefusal(
                "memory_limit" if caps.first_memory > caps.memory else "table_limit",
                "the start function would run without the limit that the other instances leave",
                "raise the limit",
            )
        self._begin(fuel)
        store.cap(caps.first_memory, caps.first_tables)
        handle = Instance()
        error = store.library.instance_new(
            store.context,
            module.pointer,
            ctypes.addressof(externs),
            len(description.imports),
            ctypes.addressof(handle),
            shared.trap_address,
        )
        if error and shared.host.error is None and shared.host.exit_code is None:
            store.cap(self._memories.cap, self._tables.cap)
            raise EngineRefusal("unlinkable", store.library.take_error(error))
        store.cap(caps.memory, caps.tables)
        failed = shared.failed(error)
        if gate is not None and not failed:
            assert self._account is not None
            error = gate.guard(ctypes.addressof(handle), self._account)
            failed = shared.failed(error)
        # Even where it trapped: its segments and its start function may have left parts of it in
        # other instances. There is no handle then to ask such a memory for its size.
        ask = None if failed else partial(store.size, ctypes.addressof(handle))
        self._memories.commit(caps.memory, newcomers.entries("memory", ask))
        self._tables.commit(caps.tables, newcomers.entries("table", ask))
        self._has_heap = self._has_heap or description.uses_gc
        if failed:
            raise self.failure(error, Measured(store.fuel_used()), module)
        kept = Kept(self, store, handle, module)
        self._know_alloc(kept.address, description)
        if bindings is None and module.initializes:
            kept.invoke("_initialize", b"")
        self._instances.append(kept)
        return len(self._instances) - 1

    def _keep(
        self, component: RawComponent, bindings: Sequence[tuple[int, str]] | None, fuel: int | None
    ) -> int:
        """An instance of a component, which has a store of its own and so is the only one here."""
        if bindings is not None or self._instances or self._component is not None:
            raise EngineRefusal("unlinkable", "an instance of a component is alone in its worker")
        self._component = RawComponentInstance(component, self._room(fuel), self._wasi)
        return 0

    def _room(self, fuel: int | None) -> CallLimits:
        limits = self._limits
        return CallLimits(memory=limits.memory, table_elements=limits.table_elements, fuel=fuel)

    def measured(self, instance: int) -> Measured:
        """What the last call has cost."""
        if self._component is not None:
            return self._component.measured()
        return self._kept(instance).measured()

    def invoke(
        self, instance: int, export: str, slots: bytes, *, fuel: int | None = None
    ) -> CallResult:
        """Call an exported function."""
        kept = self._kept(instance)
        kept.module.check_slots(export, slots)
        self._begin(fuel)
        return CallResult(kept.invoke(export, slots), kept.measured())

    def invoke_buffers(
        self,
        instance: int,
        export: str,
        arguments: Sequence[Argument],
        *,
        returns: ReturnMode = "none",
        drain: Callable[[memoryview], object] | None = None,
        fuel: int | None = None,
    ) -> CallResult:
        """Call an exported function, with buffers in the memory of its instance."""
        if self._component is not None:
            self._component.begin(self._wasi, fuel)
            # What is too much for the call's output is refused when it is handed over.
            return self._component.invoke(export, arguments, self._limits.memory, drain)
        kept = self._kept(instance)
        convention = Convention(kept.module.description, export, arguments, returns)
        self._begin(fuel)
        return CallResult(convention.run(kept, drain), kept.measured())

    def read_memory(
        self,
        instance: int,
        export: str,
        start: int,
        length: int,
        drain: Callable[[memoryview], object],
    ) -> None:
        """Hand a part of an exported memory to ``drain``."""
        address, size = self._exported_memory(instance, export)
        start = min(start, size)
        with view_memory(address + start, min(length, size - start)) as view:
            drain(view)

    def write_memory(self, instance: int, export: str, start: int, content: BufferArgument) -> None:
        """Put bytes into an exported memory."""
        address, size = self._exported_memory(instance, export)
        if not 0 <= start <= size - content.size:
            raise GuestTrap(
                "memory_out_of_bounds",
                f"{content.size} bytes at {start} do not lie in the memory, which has {size}",
            )
        with view_memory(address + start, content.size) as view:
            content.fill(view)

    def read_global(self, instance: int, export: str) -> bytes:
        """The slot of an exported numeric global."""
        kept = self._kept(instance)
        found = find_export(kept.module.description, export)
        if found is None or not isinstance(found.type, ExternGlobal):
            raise EngineRefusal("missing_export", f"there is no global {shorten(export, 60)!r}")
        kind = found.type.type.value
        if kind not in NUMERIC_TYPES:
            raise EngineRefusal(
                "signature",
                f"the global {shorten(export, 60)!r} is of type {kind}",
                "only i32, i64, f32, f64 and v128 can be read",
            )
        size = {"i32": 4, "f32": 4, "v128": 16}.get(kind, 8)
        return kept.slot(export)[:size].ljust(SLOT, b"\0")

    def freeze(
        self,
        instance: int,
        source: bytes | bytearray,
        most: int,
        drain: Callable[[memoryview], object],
    ) -> None:
        """Hand a module whose instances begin as this one is now to ``drain``."""
        kept = self._kept(instance)
        opened = self._store.shared.host.account.open_files
        if opened:
            raise EngineRefusal(
                "unsupported_module",
                f"there can be no snapshot: the guest has {opened} open files or directories",
                "have it close them first",
            )
        binary = source if source.startswith(MAGIC) else to_binary(bytes(source))
        freeze(binary, kept.module.description, _State(kept, self._store), most, drain)

    def close(self) -> None:
        """Free all instances."""
        self._instances.clear()
        if self._component is not None:
            self._component.close()
        self._store.shared.host.account.detach()
        self._store.close()

    # --- parts ---------------------------------------------------------------------------------

    def _exported_memory(self, instance: int, export: str) -> tuple[int, int]:
        """Address and size.

        Raises:
            EngineRefusal: there is no such memory.
        """
        kept = self._kept(instance)
        found = find_export(kept.module.description, export)
        if found is None or not isinstance(found.type, ExternMemory):
            raise EngineRefusal("missing_export", f"there is no memory {shorten(export, 60)!r}")
        return self._store.memory(kept.address, export)

    def _kept(self, instance: int) -> Kept:
        if not 0 <= instance < len(self._instances):
            raise EngineRefusal("unlinkable", f"there is no instance {instance}")
        return self._instances[instance]

    def _begin(self, fuel: int | None) -> None:
        """Set what holds for the next call."""
        host = self._store.shared.host
        host.begin(self._wasi, self._numbers)
        host.account.begin()
        self._store.begin(fuel)

    def _open_gate(self) -> Gate:
        """A gate for the next instance."""
        gate = self._allocator.require_guard().open(self._store)
        self._store.cap(self._memories.cap, self._tables.cap)
        if self._account is None:
            self._account = gate
            gate.attach(self._wasi)
        return gate

    def _give(self, module: RawModule, externs: ctypes.Array[Extern]) -> Gate | None:
        """Let the host give all that a module imports; the gate, where it needs one.

        Raises:
            EngineRefusal: there is an import that the host does not offer.
        """
        module.check_imports()
        imports = module.description.imports
        from_wasi = [needed.name for needed in imports if needed.module == WASI_MODULE]
        gate = self._open_gate() if module.needs_gate(from_wasi, self._wasi) else None
        for extern, needed in zip(externs, imports, strict=False):
            place = ctypes.addressof(extern)
            if gate is not None and needed.module == WASI_MODULE:
                gate.export(needed.name.encode(), place)
            else:
                self._store.find(module.linker, needed.module, needed.name, place)
        module.lasting = True
        return gate

    def _bind(self, place: int, instance: int, name: str, gate: Gate | None) -> None:
        """Put the extern ``name`` of ``instance`` at the address ``place``."""
        store, encoded = self._store, name.encode()
        if instance == FROM_WASI and gate is not None:
            found = name in FUNCTIONS and gate.export(encoded, place)
        elif instance == FROM_WASI:
            found = store.find(self._allocator.linker, WASI_MODULE, name, place)
        else:
            kept = self._kept(instance)
            # Not all that the engine would find: some exports are ours.
            found = find_export(kept.module.description, name) is not None
            found = found and store.library.export_get(
                store.context, kept.address, encoded, len(encoded), place
            )
        if not found:
            raise EngineRefusal("unlinkable", f"there is nothing called {shorten(name, 60)!r}")

    def _lend(self, place: int, module: RawModule, needed: Import) -> None:
        """Put the host function that ``module`` imports at the address ``place``."""
        offered = module.offered.get((needed.module, needed.name))
        if not isinstance(needed.type, ExternFunction) or needed.type.type != offered:
            name = shorten(needed.name, 60)
            raise EngineRefusal("unlinkable", f"no host function of its type is called {name!r}")
        module.lasting = True
        self._store.find(module.linker, needed.module, needed.name, place)

    def _know_alloc(self, instance: int, description: ModuleDescription) -> None:
        """Let host functions call the ``alloc`` of a new instance."""
        pointer, store = alloc_pointer(description), self._store
        known = store.shared.allocators
        if pointer is not None and known is not None:
            extern = Extern()
            store.library.export_get(store.context, instance, b"alloc", 5, ctypes.addressof(extern))
            known[extern.of[1]] = pointer

    def failure(self, error: int | None, measured: Measured, module: RawModule) -> BaseException:
        """What to raise for what went wrong in, or while making, an instance of ``module``."""
        store = self._store
        # A frame does not say of which module it is.
        moved = {each.description.moved for each in (module, *(k.module for k in self._instances))}
        failure = store.shared.failure(error, measured, moved.pop() if len(moved) == 1 else None)
        # A thrown exception stays pending in the store until it is taken.
        room = (ctypes.c_uint64 * 4)()
        if store.library.take_exception(store.context, ctypes.addressof(room)):
            store.library.exception_unroot(ctypes.addressof(room))
        return failure


class _State:
    """An idle instance, as it is to be frozen."""

    def __init__(self, kept: Kept, store: Store) -> None:
        self._kept = kept
        self._store = store

    def view(self, thing: Growing) -> memoryview:
        """All of a memory."""
        return view_memory(*self._store.memory(self._kept.address, thing.name))

    def slot(self, thing: Growing) -> bytes:
        """The value of a global."""
        return self._kept.slot(thing.name)

    def check(self) -> None:
        """End it, where it was interrupted."""
        if self._store.shared.interrupted:
            raise interrupted()


class _Newcomers:
    """What a new instance would bring: an imported memory is one that is there already."""

    def __init__(self, module: RawModule, *, with_heap: bool) -> None:
        description = module.description
        imports = [needed.type for needed in description.imports]
        self._first = {
            "memory": sum(isinstance(needed, ExternMemory) for needed in imports),
            "table": sum(isinstance(needed, ExternTable) for needed in imports),
        }
        self.memories = memory_needs(description)[self._first["memory"] :]
        if description.uses_gc and not with_heap:
            self.memories.pop()
        self.tables = table_needs(description)[self._first["table"] :]
        self._growing = {(thing.kind, thing.index): thing for thing in module.growing}

    def entries(
        self, kind: Literal["memory", "table"], ask: Callable[[Growing], int] | None
    ) -> list[Entry]:
        """For a ledger; ``ask`` tells the size of a memory or a table."""
        entries: list[Entry] = []
        for index, need in enumerate(self.memories if kind == "memory" else self.tables):
            thing = self._growing.get((kind, self._first[kind] + index))
            size = None if ask is None or thing is None else partial(ask, thing)
            entries.append(Entry(need, size))
        return entries
