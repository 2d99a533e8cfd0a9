"""Is the engine's C interface the one that ``library.py`` knows? Asked once, in a process that may
die of it.

A wrong prototype cannot be caught, so it is not tried on another major version. On the right one, a
small module is run through every part of the path: a sum, a trap, several results, a vector.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct

from ..interface import SLOT, CallLimits, CompileSettings, GuestTrap, RunSettings
from .config import installed_version
from .library import MAJOR, ByteVector, Extern, Function, Instance, Value

PROBE = """
(module
  (memory (export "memory") 1)
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func $divide (export "divide") (param i32 i32) (result i32)
    (i32.div_s (local.get 0) (local.get 1)))
  (func (export "swap") (param i64 f64) (result f64 i64 i32)
    (local.get 1) (local.get 0) (i32.const 7))
  (func (export "vector") (param v128) (result v128)
    (i32x4.add (local.get 0) (v128.const i32x4 1 2 3 4))))
"""


@functools.cache
def version_fault() -> str:
    """Why the raw path is not tried with what is installed; empty where it is."""
    installed = installed_version()
    if installed.partition(".")[0] != str(MAJOR):
        return f"wasmtime {installed} is installed, its C interface is known for {MAJOR}.x"
    from wasmtime import _ffi

    ours: dict[str, type[ctypes.Structure]] = {
        "wasm_byte_vec_t": ByteVector,
        "wasmtime_extern_t": Extern,
        "wasmtime_func_t": Function,
        "wasmtime_instance_t": Instance,
        "wasmtime_val_t": Value,
    }
    for name, structure in ours.items():
        theirs = getattr(_ffi, name, None)
        if theirs is None or ctypes.sizeof(theirs) != ctypes.sizeof(structure):
            return f"{name} has another size in the wasmtime package"
    if _ffi.wasmtime_extern_t.of.offset != Extern.of.offset:
        return "wasmtime_extern_t has another layout in the wasmtime package"
    return ""


def raw_path_fault() -> str:
    """Why the raw path cannot be used; empty where it can. Compiles and runs a module."""
    fault = version_fault()
    if fault:
        return fault
    try:
        return _probe()
    except Exception as error:
        return f"the check failed with {type(error).__name__}: {error}"


def _probe() -> str:
    from .compile import compile_module
    from .engine import RawEngine

    compiled = compile_module(PROBE.encode(), CompileSettings(), parallel=False)
    engine = RawEngine(RunSettings())
    with open(os.memfd_create("probe"), "wb") as file:
        file.write(compiled.artifact)
        file.flush()
        module = engine.load(f"/proc/self/fd/{file.fileno()}", compiled.description)
    limits = CallLimits(memory=1 << 20, table_elements=10)

    def run(name: str, *slots: bytes) -> bytes:
        return module.call(name, b"".join(s.ljust(SLOT, b"\0") for s in slots), limits).slots

    number = struct.Struct("<i").pack
    if run("add", number(-5), number(3))[:4] != number(-2):
        return "a sum is wrong"
    try:
        run("divide", number(1), number(0))
        return "a division by zero did not trap"
    except GuestTrap as trap:
        if trap.code != "integer_division_by_zero" or trap.backtrace[0].name != "divide":
            return f"a trap is reported wrongly: {trap}"
    swapped = run("swap", struct.pack("<q", -(1 << 40)), struct.pack("<d", 1.5))
    if struct.unpack_from("<d8xq8xi", swapped) != (1.5, -(1 << 40), 7):
        return "several results are wrong"
    if run("vector", struct.pack("<4i", 1, 2, 3, 4)) != struct.pack("<4i", 2, 4, 6, 8):
        return "a vector is wrong"
    module.close()
    engine.close()
    return ""
