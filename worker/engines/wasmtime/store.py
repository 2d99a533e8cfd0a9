"""A store under limits, and what it costs; the part that calls, commands and sessions share."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....protocol.description import ExternMemory, ModuleDescription
from ...binary_exports import Growing
from ..accounts import over_disk
from ..interface import (
    SLOT,
    EngineRefusal,
    GuestExit,
    GuestTrap,
    HostFunction,
    Measured,
    RunSettings,
    Wasi,
    shorten,
)
from ..refusals import unguarded, unlike_imports, unmetered
from .config import (
    POOL_MEMORIES,
    POOL_MEMORY_SIZE,
    POOL_TABLE_ELEMENTS,
    POOL_TABLES,
    raw_engine,
)
from .host_functions import Lender
from .library import EXTERN_FUNCTION, EXTERN_MEMORY, EXTERN_TABLE, Extern, Library
from .traps import clean_message, interrupted, take_trap
from .wasi import Host

if TYPE_CHECKING:
    from .guard import Guard

UNMETERED = (1 << 63) - 1
"""Fuel for a call without a limit on an engine that meters."""

OF = Extern.of.offset
"""Where in a ``wasmtime_extern_t`` the handle itself lies."""


class Shared:
    """What all stores of one worker have in common. Guests run on one thread, so one of each is
    enough."""

    def __init__(
        self, library: Library, settings: RunSettings, functions: tuple[HostFunction, ...] = ()
    ) -> None:
        self.library = library
        self.settings = settings
        self.interrupted = False
        """Set by an interrupt, looked at after a deadline is set: one that comes before is not
        lost."""
        self.engines: list[int] = []
        self.host = Host(library, settings, self.increment_epoch)
        self.allocators: dict[int, str] | None = {} if settings.stateful else None
        """In a session, the functions ``alloc`` whose type is known, each with its pointers'. (A
        fresh instance is alone in its store, and its own was looked at when it was loaded.)"""
        self.lender = Lender(self)
        self.lent = self.lender.lend(functions)
        self.trap = (ctypes.c_void_p * 1)()
        """Where the engine leaves a trap; whoever finds one there takes it out (``failure``)."""
        self.trap_address = ctypes.addressof(self.trap)

    def increment_epoch(self) -> None:
        """Pass every deadline that was set until now."""
        for engine in self.engines:
            self.library.increment_epoch(engine)

    def failed(self, error: int | None) -> bool:
        """Whether the call that just returned ``error`` went wrong in any way."""
        return bool(error or self.trap[0] or self.host.error)

    def failure(self, error: int | None, measured: Measured, moved: int | None) -> BaseException:
        """What to raise for what just went wrong; frees the engine's objects.

        ``moved``: by how many bytes the code lies further back than in the guest's own binary, or
        ``None`` where that is not known.
        """
        trap, raised, exit_code = self.trap[0], self.host.error, self.host.exit_code
        self.trap[0] = self.host.error = self.host.exit_code = None
        found: BaseException | None = None
        if error:
            found = refusal(self.library.take_error(error))
        elif trap:
            found = take_trap(self.library, trap, measured, moved)
        if raised is not None:
            if isinstance(raised, GuestTrap):
                raised.measured = measured
            return raised
        if self.host.account.wanted:
            return over_disk(measured)
        if exit_code is not None:
            return GuestExit(exit_code, measured)
        assert found is not None
        return found


def refusal(message: str) -> EngineRefusal:
    """What an error of the engine that is no trap means."""
    if "GC heap out of memory" in message:
        return EngineRefusal("memory_limit", clean_message(message), "raise the memory limit")
    hint = ""
    if os.strerror(errno.ENOMEM) in message:
        hint = "a memory reserves 4 GiB of address space: raise the limit of it (ulimit -v)"
    return EngineRefusal("unsupported_module", clean_message(message), hint)


class Allocator:
    """One engine handle: the pool, or on demand for modules that the pool has no slot for."""

    def __init__(self, shared: Shared, *, pooled: bool, images: bool = True) -> None:
        self.shared = shared
        self.engine = raw_engine(shared.library, shared.settings, pooled=pooled, images=images)
        self._linker: int | None = None
        self.guard: Guard | None = None
        """The gate and the warden, once they are there."""
        shared.engines.append(self.engine)

    @property
    def linker(self) -> int:
        """The linker with WASI and the host functions, made when first asked for."""
        if self._linker is None:
            self._linker = self.make_linker()
        return self._linker

    def make_linker(self) -> int:
        """Another one, for who adds to it; whoever makes it deletes it."""
        linker = self.shared.host.linker(self.engine)
        self.shared.lent.define(linker)
        return linker

    def load(self, path: str) -> int:
        """The module whose artifact is at ``path``.

        Raises:
            EngineRefusal: ``invalid_module``.
        """
        library = self.shared.library
        loaded = (ctypes.c_void_p * 1)()
        error = library.deserialize_file(self.engine, path.encode(), ctypes.addressof(loaded))
        if error:
            raise EngineRefusal("invalid_module", library.take_error(error))
        assert loaded[0] is not None
        return loaded[0]

    def load_part(self, path: str, offset: int, size: int) -> int:
        """The module whose artifact is a part of the file at ``path``. It is copied: pages of it
        are shared with nobody.

        Raises:
            EngineRefusal: ``invalid_module``.
        """
        library = self.shared.library
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
        loaded = (ctypes.c_void_p * 1)()
        error = library.deserialize(self.engine, content, len(content), ctypes.addressof(loaded))
        if error:
            raise EngineRefusal("invalid_module", library.take_error(error))
        assert loaded[0] is not None
        return loaded[0]

    def link(self, module: int, linker: int | None = None) -> int:
        """The module with its imports linked to what ``linker`` offers, or what the host does.

        Raises:
            EngineRefusal: ``signature``.
        """
        library = self.shared.library
        made = (ctypes.c_void_p * 1)()
        error = library.linker_instantiate_pre(
            linker or self.linker, module, ctypes.addressof(made)
        )
        if error:
            raise unlike_imports(library.take_error(error))
        assert made[0] is not None
        return made[0]

    def require_guard(self) -> Guard:
        """The gate and the warden.

        Raises:
            EngineRefusal: ``capability_denied`` where they were not taken: nothing would count.
        """
        if self.guard is None:
            raise unguarded()
        return self.guard

    def close(self) -> None:
        """Free it, after everything that was made from it."""
        if self.guard is not None:
            self.guard.close()
        self.shared.engines.remove(self.engine)
        if self._linker is not None:
            self.shared.library.linker_delete(self._linker)
        self.shared.library.engine_delete(self.engine)


def fits_pool(description: ModuleDescription, settings: RunSettings) -> bool:
    """Whether the pool has slots for an instance of this module."""
    return (
        len(description.memories) + description.uses_gc <= POOL_MEMORIES
        and len(description.tables) <= POOL_TABLES
        and all(
            table.maximum is not None and table.maximum <= POOL_TABLE_ELEMENTS
            for table in description.tables
        )
        and all(m.minimum * m.page_size <= POOL_MEMORY_SIZE for m in description.memories)
        and (settings.memory <= POOL_MEMORY_SIZE or not any(m.is_64 for m in description.memories))
    )


class MemoryMeter:
    """How to find out how much linear memory an instance has of its own."""

    def __init__(self, description: ModuleDescription, things: Sequence[Growing]) -> None:
        imported = sum(isinstance(needed.type, ExternMemory) for needed in description.imports)
        self.fixed = sum(
            memory.minimum * memory.page_size
            for memory in description.memories[imported:]
            if memory.minimum == memory.maximum
        )
        """Bytes of the memories that cannot grow."""
        self._owned = [
            ctypes.create_string_buffer(thing.name.encode())
            for thing in things
            if thing.kind == "memory"
        ]
        self.names = [(ctypes.addressof(name), len(name) - 1) for name in self._owned]
        """Address and size of the names under which the others are exported."""

    def read(self, library: Library, context: int, instance: int, extern: int) -> int:
        """Bytes now; ``extern`` is the address of room for one ``wasmtime_extern_t``."""
        total = self.fixed
        for name, size in self.names:
            library.export_get(context, instance, name, size, extern)
            total += library.memory_size(context, extern + OF)
        return total


class Store:
    """One store. ``close`` frees it with everything in it; nothing of it may be used afterwards."""

    def __init__(self, allocator: Allocator) -> None:
        self.shared = allocator.shared
        self.library = library = allocator.shared.library
        self.pointer: int = library.store_new(allocator.engine, None, None)
        self.context: int = library.store_context(self.pointer)
        self._extern = Extern()
        self.extern = ctypes.addressof(self._extern)
        self._fuel = 0

    def find(self, linker: int, module: str, name: str, place: int) -> bool:
        """Put what a linker has under a name at the address ``place``, if there is such."""
        names = module.encode(), name.encode()
        return self.library.linker_get(  # type: ignore[no-any-return]
            linker,
            self.context,
            *(names[0], len(names[0]), names[1], len(names[1])),
            place,
        )

    def close(self) -> None:
        """Free it."""
        if self.pointer:
            self.library.store_delete(self.pointer)
            self.pointer = 0

    def cap(self, memory: int, table_elements: int) -> None:
        """Bound each memory (bytes) and each table (elements)."""
        self.library.store_limiter(self.pointer, memory, table_elements, -1, -1, -1)

    def begin(self, fuel: int | None) -> None:
        """Set fuel and deadline for what comes next.

        Raises:
            GuestTrap: it was interrupted already.
        """
        if self.shared.settings.fuel:
            self._fuel = UNMETERED if fuel is None else fuel
            self.library.set_fuel(self.context, self._fuel)
        elif fuel is not None:
            raise unmetered()
        self.library.set_epoch_deadline(self.context, 1)
        if self.shared.interrupted:
            raise interrupted()

    def fuel_used(self) -> int | None:
        """Units burnt since ``begin``."""
        if not self.shared.settings.fuel:
            return None
        left = ctypes.c_uint64()
        self.library.get_fuel(self.context, ctypes.addressof(left))
        return self._fuel - left.value

    def give_wasi(self, wasi: Wasi) -> None:
        """Must come before a guest that imports WASI runs: without it the engine aborts the
        process."""
        error = self.library.set_wasi(self.context, self.shared.host.configuration(wasi))
        if error:
            raise EngineRefusal("capability_denied", self.library.take_error(error))

    def _export(self, instance: int, name: str, kind: int, what: str) -> int:
        encoded = name.encode()
        found = self.library.export_get(self.context, instance, encoded, len(encoded), self.extern)
        if not found or self._extern.kind != kind:
            raise EngineRefusal("missing_export", f"there is no {what} {shorten(name, 60)!r}")
        return self.extern + OF

    def size(self, instance: int, thing: Growing) -> int:
        """Bytes of a memory, or elements of a table."""
        if thing.kind == "memory":
            return self.memory(instance, thing.name)[1]
        table = self._export(instance, thing.name, EXTERN_TABLE, "table")
        return self.library.table_size(self.context, table)  # type: ignore[no-any-return]

    def memory(self, instance: int, name: str) -> tuple[int, int]:
        """Address and size of the exported memory ``name``."""
        memory = self._export(instance, name, EXTERN_MEMORY, "memory")
        address: int | None = self.library.memory_data(self.context, memory)
        return address or 0, self.library.memory_size(self.context, memory)

    def call(
        self, instance: int, name: str, slots: bytes, results: int
    ) -> tuple[bytes, int | None]:
        """Call a function that has as many parameters and results as is said here.

        Returns the slots of the results and an error, if any; a trap is left in ``shared.trap``.
        With fewer slots than the function has, the engine writes past them: the type must have been
        checked.
        """
        function = self._export(instance, name, EXTERN_FUNCTION, "function")
        size = max(len(slots), results * SLOT, SLOT)
        values = ctypes.create_string_buffer(slots, size)
        error: int | None = self.library.call_unchecked(
            self.context,
            function,
            ctypes.addressof(values),
            size // SLOT,
            self.shared.trap_address,
        )
        return values.raw[: results * SLOT], error
