"""Our own prototypes on the engine's shared library, for the calls that every guest call makes.

The public Python binding takes 50 µs for a fresh instance and a call; these take 5. Source of the
signatures: the C headers ``wasmtime.h``, ``wasmtime/*.h`` and ``wasi.h`` of the major version
``MAJOR``. Pointers are plain integers, names are bytes with their length, structures are the few
below.

``word`` stands for every argument of 64 bits, pointer or not: for a Python integer it is the
quickest way through ``ctypes``, by a fifth of a microsecond for each argument.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import c_bool, c_size_t, c_uint8, c_uint64
from ctypes import c_void_p as word
from typing import Any

MAJOR = 50
"""The major version whose C interface is written down here."""

Native = Callable[..., Any]


class ByteVector(ctypes.Structure):
    """``wasm_byte_vec_t``; also the layout of every other ``wasm_*_vec_t``."""

    _fields_ = (("size", c_size_t), ("data", word))


class Function(ctypes.Structure):
    """``wasmtime_func_t``."""

    _fields_ = (("store", c_uint64), ("private", word))


class Instance(ctypes.Structure):
    """``wasmtime_instance_t``."""

    _fields_ = (("store", c_uint64), ("private", c_size_t))


class Extern(ctypes.Structure):
    """``wasmtime_extern_t``: a kind, then a union of handles, all of at most 24 bytes."""

    _fields_ = (("kind", c_uint8), ("of", c_uint64 * 3))


class Value(ctypes.Structure):
    """``wasmtime_val_t``: a kind, then a union of at most 24 bytes."""

    _fields_ = (("kind", c_uint8), ("of", c_uint64 * 3))


EXTERN_FUNCTION, EXTERN_GLOBAL, EXTERN_TABLE, EXTERN_MEMORY = 0, 1, 2, 3

HostCallback = ctypes.CFUNCTYPE(word, word, word, word, c_size_t)
"""``wasmtime_func_unchecked_callback_t``: (env, caller, values, count) -> trap."""
OutputCallback = ctypes.CFUNCTYPE(ctypes.c_ssize_t, word, word, c_size_t)
"""Of ``wasi_config_set_stdout_custom``: (data, bytes, size) -> bytes written, or a negative
errno."""


def library_path() -> str:
    """The file that the installed ``wasmtime`` package loaded."""
    from wasmtime import _ffi

    return str(_ffi.filename)


class Library:
    """The functions. Those that may run a guest, or take long, let go of the GIL; the others keep
    it."""

    def __init__(self, path: str | None = None) -> None:
        path = path or library_path()
        self._long = ctypes.CDLL(path)
        self._quick = ctypes.PyDLL(path)
        long, quick = self._bind_long, self._bind

        self.config_new = quick("wasm_config_new", word)
        self.engine_new = long("wasm_engine_new_with_config", word, word)
        self.engine_delete = long("wasm_engine_delete", None, word)
        self.increment_epoch = quick("wasmtime_engine_increment_epoch", None, word)

        self.deserialize_file = long("wasmtime_module_deserialize_file", word, word, word, word)
        self.component_new = long("wasmtime_component_new", word, word, word, word, word)
        self.component_delete = long("wasmtime_component_delete", None, word)
        self.deserialize = long("wasmtime_module_deserialize", word, word, word, word, word)
        self.module_exports = long("wasmtime_module_exports", None, word, word)
        self.export_name = quick("wasm_exporttype_name", word, word)
        self.exports_delete = quick("wasm_exporttype_vec_delete", None, word)
        self.module_delete = long("wasmtime_module_delete", None, word)

        self.linker_new = quick("wasmtime_linker_new", word, word)
        self.linker_delete = quick("wasmtime_linker_delete", None, word)
        self.linker_shadow = quick("wasmtime_linker_allow_shadowing", None, word, c_bool)
        self.linker_define_wasi = quick("wasmtime_linker_define_wasi", word, word)
        self.linker_define_function = quick(
            "wasmtime_linker_define_func_unchecked",
            word,
            *(word, word, word, word, word),
            *(word, HostCallback, word, word),
        )
        self.linker_get = quick(
            "wasmtime_linker_get",
            c_bool,
            *(word, word, word, word, word, word, word),
        )
        self.linker_instantiate_pre = long(
            "wasmtime_linker_instantiate_pre", word, word, word, word
        )
        self.pre_delete = long("wasmtime_instance_pre_delete", None, word)
        self.pre_instantiate = long(
            "wasmtime_instance_pre_instantiate", word, word, word, word, word
        )

        self.store_new = quick("wasmtime_store_new", word, word, word, word)
        self.store_delete = long("wasmtime_store_delete", None, word)
        self.store_context = quick("wasmtime_store_context", word, word)
        self.store_limiter = quick("wasmtime_store_limiter", None, word, *(word,) * 5)
        self.set_epoch_deadline = quick("wasmtime_context_set_epoch_deadline", None, word, word)
        self.set_fuel = quick("wasmtime_context_set_fuel", word, word, word)
        self.get_fuel = quick("wasmtime_context_get_fuel", word, word, word)
        self.set_wasi = quick("wasmtime_context_set_wasi", word, word, word)
        self.take_exception = quick("wasmtime_context_take_exception", c_bool, word, word)
        self.exception_unroot = quick("wasmtime_exnref_unroot", None, word)

        self.instance_new = long(
            "wasmtime_instance_new",
            word,
            *(word, word, word, word, word, word),
        )
        self.export_get = quick(
            "wasmtime_instance_export_get",
            c_bool,
            *(word, word, word, word, word),
        )
        self.call_unchecked = long(
            "wasmtime_func_call_unchecked", word, word, word, word, word, word
        )
        self.memory_data = quick("wasmtime_memory_data", word, word, word)
        self.memory_size = quick("wasmtime_memory_data_size", c_size_t, word, word)
        self.table_size = quick("wasmtime_table_size", c_uint64, word, word)
        self.global_get = quick("wasmtime_global_get", None, word, word, word)
        self.caller_context = quick("wasmtime_caller_context", word, word)
        self.caller_export_get = quick("wasmtime_caller_export_get", c_bool, word, word, word, word)

        self.trap_new = quick("wasmtime_trap_new", word, word, word)
        self.trap_delete = quick("wasm_trap_delete", None, word)
        self.trap_code = quick("wasmtime_trap_code", c_bool, word, word)
        self.trap_message = quick("wasm_trap_message", None, word, word)
        self.trap_trace = quick("wasm_trap_trace", None, word, word)
        self.frames_delete = quick("wasm_frame_vec_delete", None, word)
        self.frame_function = quick("wasm_frame_func_index", ctypes.c_uint32, word)
        self.frame_offset = quick("wasm_frame_module_offset", c_size_t, word)
        self.frame_name = quick("wasmtime_frame_func_name", word, word)
        self.error_message = quick("wasmtime_error_message", None, word, word)
        self.error_delete = quick("wasmtime_error_delete", None, word)

        self.bytes_new = quick("wasm_byte_vec_new", None, word, word, word)
        self.bytes_delete = quick("wasm_byte_vec_delete", None, word)
        self.value_type_new = quick("wasm_valtype_new", word, c_uint8)
        self.value_types_new = quick("wasm_valtype_vec_new", None, word, word, word)
        self.function_type_new = quick("wasm_functype_new", word, word, word)
        self.function_type_delete = quick("wasm_functype_delete", None, word)

        self.wasi_new = quick("wasi_config_new", word)
        self.wasi_delete = quick("wasi_config_delete", None, word)
        self.wasi_argv = quick("wasi_config_set_argv", c_bool, word, word, word)
        self.wasi_env = quick("wasi_config_set_env", c_bool, word, word, word, word)
        self.wasi_stdin_bytes = quick("wasi_config_set_stdin_bytes", None, word, word)
        self.wasi_stdin_file = long("wasi_config_set_stdin_file", c_bool, word, word)
        self.wasi_stdout = quick(
            "wasi_config_set_stdout_custom", None, word, OutputCallback, word, word
        )
        self.wasi_stderr = quick(
            "wasi_config_set_stderr_custom", None, word, OutputCallback, word, word
        )
        self.wasi_preopen = long("wasi_config_preopen_dir", c_bool, word, word, word, c_bool)
        self.pool_config_new = quick("wasmtime_pooling_allocation_config_new", word)
        self.pool_config_delete = quick("wasmtime_pooling_allocation_config_delete", None, word)
        self.pool_strategy_set = quick("wasmtime_pooling_allocation_strategy_set", None, word, word)

    def _bind(self, name: str, result: Any, *arguments: Any) -> Native:
        return _prototype(self._quick, name, result, arguments)

    def _bind_long(self, name: str, result: Any, *arguments: Any) -> Native:
        return _prototype(self._long, name, result, arguments)

    def config_set(self, config: int, name: str, value: int) -> None:
        """Call ``wasmtime_config_<name>_set``."""
        kind = c_bool if isinstance(value, bool) else c_uint8 if name in _ENUMERATED else c_uint64
        self._bind(f"wasmtime_config_{name}_set", None, word, kind)(config, value)

    def pool_set(self, config: int, name: str, value: int) -> None:
        """Call ``wasmtime_pooling_allocation_config_<name>_set``."""
        self._bind(f"wasmtime_pooling_allocation_config_{name}_set", None, word, c_size_t)(
            config, value
        )

    def text(self, fill: Native, source: int) -> str:
        """The text that ``fill(source, vector)`` puts into a byte vector."""
        vector = ByteVector()
        fill(source, ctypes.addressof(vector))
        try:
            if not vector.size:
                return ""
            return ctypes.string_at(vector.data, vector.size).decode(errors="replace")
        finally:
            self.bytes_delete(ctypes.addressof(vector))

    def last_export(self, module: int) -> str:
        """The name of the last export of a module that has exports."""
        vector = ByteVector()
        self.module_exports(module, ctypes.addressof(vector))
        try:
            pointers = (word * vector.size).from_address(vector.data)
            name = ByteVector.from_address(self.export_name(pointers[vector.size - 1]))
            return ctypes.string_at(name.data, name.size).decode()
        finally:
            self.exports_delete(ctypes.addressof(vector))

    def take_error(self, error: int) -> str:
        """The message of an error, which is freed."""
        try:
            return self.text(self.error_message, error)
        finally:
            self.error_delete(error)


_ENUMERATED = frozenset({"cranelift_opt_level", "strategy"})


def _prototype(handle: ctypes.CDLL, name: str, result: Any, arguments: Any) -> Native:
    # A handle caches one function object for each name: its prototype is set once.
    function = getattr(handle, name)
    function.restype = result
    function.argtypes = arguments
    return function  # type: ignore[no-any-return]


@functools.cache
def library() -> Library:
    """The one of this process; a fork inherits it with its symbols resolved."""
    return Library()
