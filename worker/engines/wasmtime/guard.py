"""The gate and the warden (``gate.py``) in the engine's C interface."""

from __future__ import annotations

import ctypes

from .. import gate
from ..interface import Measured, Wasi
from ..views import view_memory
from .library import EXTERN_MEMORY, Extern, Instance
from .store import OF, Allocator, Store


class Guard:
    """The two modules, loaded for one allocator."""

    def __init__(self, allocator: Allocator, gate_path: str, warden_path: str) -> None:
        self._allocator = allocator
        self._gate = allocator.load(gate_path)
        self._warden = allocator.load(warden_path)
        self._linker = allocator.shared.host.gate_linker(allocator.engine)
        self._pre = allocator.link(self._gate, self._linker)

    def open(self, store: Store) -> Gate:
        """A gate for one instance in ``store``, before that is made; leaves the store uncapped."""
        made = Gate(store, self._warden)
        # The guest's limits say nothing of the gate's memory and table.
        store.cap(-1, -1)
        error = store.library.pre_instantiate(
            self._pre, store.context, made.address, store.shared.trap_address
        )
        if store.shared.failed(error):
            raise store.shared.failure(error, Measured(), None)
        return made

    def close(self) -> None:
        """Free it."""
        library = self._allocator.shared.library
        library.pre_delete(self._pre)
        library.linker_delete(self._linker)
        library.module_delete(self._gate)
        library.module_delete(self._warden)


class Gate:
    """An instance of the gate, and in the end of the warden behind it."""

    def __init__(self, store: Store, warden: int) -> None:
        self._store = store
        self._warden = warden
        self._handle = Instance()
        self.address = ctypes.addressof(self._handle)

    def attach(self, wasi: Wasi) -> None:
        """Have the call's account kept in this gate's state."""
        store = self._store
        self.export(b"state", store.extern)
        state = store.library.memory_data(store.context, store.extern + OF)
        store.shared.host.account.attach(view_memory(state, gate.PAGE), wasi)

    def export(self, name: bytes, place: int) -> bool:
        """Put what the gate exports under a name at the address ``place``, if there is such."""
        store = self._store
        return store.library.export_get(  # type: ignore[no-any-return]
            store.context, self.address, name, len(name), place
        )

    def guard(self, instance: int, account: Gate) -> int | None:
        """Put the warden behind this gate, for ``instance``; it counts in the state of the gate
        ``account``. Returns an error, if any.

        A guest that exports no memory gets none, and traps where it uses files: WASI could not
        answer it anyway.
        """
        store = self._store
        externs = (Extern * 3)()
        memory, state, table = [ctypes.addressof(extern) for extern in externs]
        store.library.export_get(store.context, instance, b"memory", 6, memory)
        if externs[0].kind != EXTERN_MEMORY:
            return None
        account.export(b"state", state)
        self.export(b"table", table)
        warden = Instance()
        return store.library.instance_new(  # type: ignore[no-any-return]
            store.context,
            self._warden,
            *(memory, len(externs), ctypes.addressof(warden), store.shared.trap_address),
        )
