"""An instance and the trampoline that calls it for record after record, in one store."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from ....protocol import trampoline as made
from ....protocol.batch import width
from ..interface import SLOT, CallLimits, EngineRefusal, GuestTrap, Measured
from ..views import view_memory
from .library import Extern, Instance, Value
from .store import OF, Store

if TYPE_CHECKING:
    from .modules import RawModule

_VALUES = struct.Struct("<" + "I12x" * 4)


class RawLoop:
    """See ``interface.RecordLoop``."""

    def __init__(
        self,
        module: RawModule,
        export: str,
        trampoline: RawModule,
        limits: CallLimits,
        count: int,
    ) -> None:
        if trampoline.allocator is not module.allocator or module.initializes:
            raise EngineRefusal("unsupported_module", "the trampoline is not for this module")
        function = module.signature(export)
        module.prepare()
        self._module = module
        self._count = count
        self._results_at = made.results_at(function, count)
        self._handles = Instance(), Instance()
        self._instance, looping = [ctypes.addressof(handle) for handle in self._handles]
        self._shared = shared = module.allocator.shared
        self._values = bytearray(SLOT * 4)
        self._owner = (ctypes.c_char * len(self._values)).from_buffer(self._values)
        self._run, self._at = Extern(), Extern()
        self._store = store = Store(module.allocator)
        try:
            caps = module.caps(limits)
            store.cap(caps.first_memory, caps.first_tables)
            store.begin(limits.fuel)
            error = store.library.pre_instantiate(
                module.pre, store.context, self._instance, shared.trap_address
            )
            self._check(error)
            # The guest's limits say nothing of the trampoline's memory.
            store.cap(-1, -1)
            self._find(self._instance, export, self._run)
            error = store.library.instance_new(
                store.context,
                trampoline.pointer,
                *(ctypes.addressof(self._run), 1, looping, shared.trap_address),
            )
            self._check(error)
            store.cap(caps.memory, caps.tables)
            self._find(looping, made.RUN, self._run)
            self._find(looping, made.AT, self._at)
            address, _ = store.memory(looping, made.MEMORY)
        except BaseException:
            store.close()
            raise
        self.arguments = view_memory(address, count * width(function.params))
        self.results = view_memory(address + self._results_at, count * width(function.results))

    def _find(self, instance: int, name: str, place: Extern) -> None:
        text, store = name.encode(), self._store
        store.library.export_get(store.context, instance, text, len(text), ctypes.addressof(place))

    def run(self, first: int, end: int) -> None:
        """Call the function for the records from ``first`` to before ``end``."""
        _VALUES.pack_into(self._values, 0, first, end, self._count, self._results_at)
        store = self._store
        self._check(
            store.library.call_unchecked(
                store.context,
                ctypes.addressof(self._run) + OF,
                ctypes.addressof(self._owner),
                len(self._values) // SLOT,
                self._shared.trap_address,
            )
        )

    def position(self) -> int:
        """The record that was begun last."""
        value, store = Value(), self._store
        store.library.global_get(
            store.context, ctypes.addressof(self._at) + OF, ctypes.addressof(value)
        )
        return int(value.of[0]) & 0xFFFFFFFF

    def measured(self) -> Measured:
        """What it has cost so far."""
        store = self._store
        memory = self._module.meter.read(store.library, store.context, self._instance, store.extern)
        return Measured(store.fuel_used(), memory)

    def close(self) -> None:
        """Free it."""
        self._store.close()

    def _check(self, error: int | None) -> None:
        if not self._shared.failed(error):
            return
        failure = self._shared.failure(error, Measured(), self._module.description.moved)
        if isinstance(failure, GuestTrap) and failure.backtrace:
            last = failure.backtrace[-1]
            if last.name == made.NAME:
                failure.backtrace = failure.backtrace[:-1]
        raise failure
