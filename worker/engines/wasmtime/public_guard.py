"""The gate and the warden (``gate.py``) through the public Python binding."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

import wasmtime
from wasmtime import Caller, FuncType, ValType, WasmtimeError

from .. import gate
from ..accounts import FileAccount
from ..interface import EngineRefusal, Wasi
from ..views import view_memory

if TYPE_CHECKING:
    from wasmtime._exportable import AsExtern
    from wasmtime._instance import InstanceExports


class OverDisk(Exception):
    """The call is about to add more than it may; on its way through the guest."""


class PublicGuard:
    """The two modules, loaded for one engine."""

    def __init__(
        self,
        linker: wasmtime.Linker,
        engine: wasmtime.Engine,
        account: FileAccount,
        write: Callable[[Caller, int, int, int], int],
        gate_path: str,
        warden_path: str,
    ) -> None:
        def exceeded() -> None:
            account.exceeded()
            raise OverDisk

        self._account = account
        self._linker = linker
        linker.define_func(gate.HOST_MODULE, gate.PACE, FuncType([ValType.i32()], []), account.pace)
        linker.define_func(gate.HOST_MODULE, gate.EXCEEDED, FuncType([], []), exceeded)
        i32 = ValType.i32()
        linker.define_func(gate.HOST_MODULE, gate.WRITE, FuncType([i32] * 3, [i32]), write, True)
        try:
            self._gate = wasmtime.Module.deserialize_file(engine, gate_path)
            self._warden = wasmtime.Module.deserialize_file(engine, warden_path)
        except WasmtimeError as error:
            raise EngineRefusal("invalid_module", str(error)) from None
        self._pre = linker.instantiate_pre(self._gate)

    def open(self, store: wasmtime.Store, wasi: Wasi) -> PublicGate:
        """A gate for one instance in ``store``, before that is made; leaves the store uncapped."""
        store.set_limits()
        exports = self._pre.instantiate(store).exports(store)
        state = exports["state"]
        assert isinstance(state, wasmtime.Memory)
        address = ctypes.cast(state.data_ptr(store), ctypes.c_void_p).value
        assert address is not None
        self._account.attach(view_memory(address, gate.PAGE), wasi)
        return PublicGate(store, self._warden, exports)

    def close(self) -> None:
        """Free it."""
        self._pre.close()
        self._linker.close()
        self._gate.close()
        self._warden.close()


class PublicGate:
    """An instance of the gate, and in the end of the warden behind it."""

    def __init__(
        self,
        store: wasmtime.Store,
        warden: wasmtime.Module,
        exports: InstanceExports,
    ) -> None:
        self._store = store
        self._warden = warden
        self.exports = exports

    def instantiate(self, module: wasmtime.Module, imports: list[AsExtern]) -> wasmtime.Instance:
        """An instance with these imports, and the warden for it."""
        store = self._store
        made = wasmtime.Instance(store, module, imports)
        memory = made.exports(store).get("memory")
        if isinstance(memory, wasmtime.Memory):
            offered = self.exports
            wasmtime.Instance(store, self._warden, [memory, offered["state"], offered["table"]])
        return made
