"""How the engine is configured: once for compiling, once for running, alike in all that code
depends on."""

from __future__ import annotations

import functools
import os
import platform
import resource

import wasmtime

from ...binary_exports import EXPORTS_VERSION
from ...components.plan import PLAN_VERSION
from ...purity import PURITY_VERSION
from ..interface import CompileSettings, EngineRefusal, RunSettings
from .library import Library

FEATURES: dict[str, bool] = {
    "wasm_simd": True,
    "wasm_relaxed_simd": True,
    "wasm_bulk_memory": True,
    "wasm_multi_value": True,
    "wasm_reference_types": True,
    "wasm_tail_call": True,
    "wasm_function_references": True,
    "wasm_gc": True,
    "wasm_exceptions": True,
    "wasm_multi_memory": True,
    "wasm_memory64": True,
    "wasm_wide_arithmetic": True,
    "wasm_threads": True,
    "shared_memory": False,
    "wasm_stack_switching": False,
    "wasm_custom_page_sizes": False,
}
"""What guests may use. Of threads only the atomic instructions: a shared memory is outside every
limit of a store, so a module that has one is refused."""

SIZES: dict[str, int] = {
    "memory_reservation": 4 << 30,
    "memory_guard_size": 32 << 20,
    "memory_reservation_for_growth": 2 << 30,
}
"""Address space around each memory. Bounds checks are compiled for it, so it is part of every
artifact."""

STACK_MINIMUM = 64 << 10
STACK_MARGIN = 1 << 20
"""Bytes of the thread's stack that stay for the engine itself and for host functions below the
guest."""
ASYNC_STACK_DEFAULT = 2 << 20

GIB = 1 << 30
POOL_INSTANCES = 2
POOL_COMPANIONS = 2
"""The gate and the warden of a guest that is granted directories."""
POOL_MEMORIES = 16
"""Memories, GC heap included, that an instance may have and still come out of the pool."""
POOL_TABLES = 16
POOL_TABLE_ELEMENTS = 10_000
"""Elements that a pooled table may ever have. The pool maps all its tables writable from the start,
which counts against ``RLIMIT_DATA``; modules with larger tables, or unbounded ones, go without the
pool."""
POOL_MEMORY_SIZE = 4 * GIB
KEEP_RESIDENT = 1 << 20
"""Bytes of a slot that are zeroed by hand when it is used again, instead of being given back to the
kernel: what a small guest dirties stays mapped, which saves its next page faults."""


def tunables(fuel: bool) -> dict[str, int]:
    """Every setting that code is compiled for; the same names in the C and in the Python
    interface."""
    return {
        **FEATURES,
        **SIZES,
        "consume_fuel": fuel,
        "epoch_interruption": True,
    }


def public_config(fuel: bool, *, parallel: bool, images: bool = True) -> wasmtime.Config:
    """A configuration for compiling, through the public binding; ``images`` as in
    ``raw_engine``."""
    config = wasmtime.Config()
    for name, value in tunables(fuel).items():
        setattr(config, name, value)
    config.cranelift_opt_level = "speed"
    config.parallel_compilation = parallel
    config.memory_init_cow = images
    return config


def raw_engine(
    library: Library, settings: RunSettings, *, pooled: bool, images: bool = True
) -> int:
    """An engine for running, from the pooling allocator or from the on-demand one.

    Without ``images`` a memory's first content is copied for each instance. With them it is mapped:
    from the artifact's file or, where that is not mapped itself, from a new memory file, which a
    worker in its jail cannot have.

    Raises:
        EngineRefusal: ``stack`` is out of range.
    """
    stack = check_stack(settings.stack)
    config = library.config_new()
    for name, value in tunables(settings.fuel).items():
        library.config_set(config, name, value)
    library.config_set(config, "parallel_compilation", False)
    library.config_set(config, "memory_init_cow", images)
    if stack > ASYNC_STACK_DEFAULT:
        # The engine panics, that is, aborts the process, unless this one is larger.
        library.config_set(config, "async_stack_size", stack + STACK_MARGIN)
    library.config_set(config, "max_wasm_stack", stack)
    if pooled:
        pool = library.pool_config_new()
        for name, value in _pool_sizes(settings).items():
            library.pool_set(pool, name, value)
        library.pool_strategy_set(config, pool)
        library.pool_config_delete(pool)
    engine: int | None = library.engine_new(config)
    if not engine:
        raise EngineRefusal("unsupported_module", "the engine cannot be made with these settings")
    return engine


def _pool_sizes(settings: RunSettings) -> dict[str, int]:
    return {
        "total_core_instances": POOL_INSTANCES + POOL_COMPANIONS,
        "total_memories": POOL_INSTANCES * POOL_MEMORIES,
        "max_memories_per_module": POOL_MEMORIES,
        "total_tables": POOL_INSTANCES * POOL_TABLES,
        "max_tables_per_module": POOL_TABLES,
        "table_elements": POOL_TABLE_ELEMENTS,
        "total_gc_heaps": POOL_INSTANCES,
        "total_stacks": 0,
        "max_memory_size": POOL_MEMORY_SIZE,
        # Instances are allocated by their real size; this is only a bound, and a module may be
        # large.
        "max_core_instance_size": 256 << 20,
        "linear_memory_keep_resident": KEEP_RESIDENT,
        "table_keep_resident": 64 << 10,
        "max_unused_warm_slots": POOL_INSTANCES * POOL_MEMORIES,
        "decommit_batch_size": 1,
    }


def check_stack(size: int) -> int:
    """``size``, if a guest can have that much stack on this thread.

    Raises:
        EngineRefusal: it is out of range; deeper recursion than the thread's stack would be a
        SIGSEGV.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    most = (1 << 30 if soft == resource.RLIM_INFINITY else soft) - STACK_MARGIN
    if not STACK_MINIMUM <= size <= most:
        raise EngineRefusal(
            "unsupported_module",
            f"a stack of {size} bytes cannot be given; {STACK_MINIMUM} to {most} are possible here",
            "lower limits.stack, or raise RLIMIT_STACK (ulimit -s)",
            used=size,
            allowed=most,
        )
    return size


# --- the parts of an artifact's cache key --------------------------------------------------------


def settings_text(settings: CompileSettings) -> str:
    """Everything that an artifact is made for, as one canonical line."""
    parts = [f"{name}={int(value)}" for name, value in sorted(tunables(settings.fuel).items())]
    versions = {"exports": EXPORTS_VERSION, "components": PLAN_VERSION, "purity": PURITY_VERSION}
    ours = [f"{name}={version}" for name, version in versions.items()]
    return " ".join(["cranelift", "opt=speed", *ours, *parts])


@functools.cache
def installed_version() -> str:
    """Version of the ``wasmtime`` package, by the name of the directory that describes it: asking
    ``importlib.metadata`` would load the standard library's parser of mail into every worker."""
    place = os.path.dirname(os.path.dirname(wasmtime.__file__))
    begin, end = "wasmtime-", ".dist-info"
    found = [name for name in os.listdir(place) if name.startswith(begin) and name.endswith(end)]
    if len(found) == 1:
        return found[0][len(begin) : -len(end)]
    from importlib.metadata import version

    return version("wasmtime")


@functools.cache
def engine_text() -> str:
    """Engine, version and architecture."""
    return f"wasmtime {installed_version()} {platform.machine()}"


def cpu_text(cpuinfo: str = "/proc/cpuinfo") -> str:
    """What this processor can do: code compiled for one may not run on another."""
    wanted = ("vendor_id", "flags", "Features", "CPU implementer", "CPU part")
    found: list[str] = []
    with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            key = key.strip()
            if not key and found:
                break
            if key in wanted:
                found.append(f"{key}={' '.join(sorted(value.split()))}")
    return "\n".join(sorted(found))
