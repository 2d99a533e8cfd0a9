"""The ``wasmtime`` engine: through its C interface where that is the one we know, else in
public."""

from __future__ import annotations

import os

from ..interface import Engine, HostFunction, RunSettings
from .compile import compile_module
from .config import cpu_text, engine_text, settings_text
from .verify import raw_path_fault, version_fault

__all__ = [
    "compile_module",
    "cpu_text",
    "engine_text",
    "open_engine",
    "raw_path_fault",
    "settings_text",
    "version_fault",
    "warm_up",
]


COMPILING_THREADS = 8


def open_engine(
    settings: RunSettings, fault: str = "", functions: tuple[HostFunction, ...] = ()
) -> Engine:
    """An engine for running guests.

    Args:
        settings: what it is made for.
        fault: why the raw path cannot be used, as ``raw_path_fault`` said, in a process that ran no
            guest since. Anything but the empty string makes a slower engine of the public binding
            alone.
        functions: what guests may import beside WASI.

    Raises:
        EngineRefusal: the settings cannot be had.
    """
    if fault := fault or version_fault():
        from .public import PublicEngine

        return PublicEngine(settings, fault, functions)
    from .engine import RawEngine

    return RawEngine(settings, functions)


def warm_up() -> None:
    """Load what would be loaded lazily. Makes no engine, so a process may fork afterwards."""
    from . import engine, library, public

    # Else the engine's libraries start a thread for each processor, and a worker may have few: how
    # many it has use for is written in files that its jail hides from them.
    os.putenv("RAYON_NUM_THREADS", str(min(COMPILING_THREADS, len(os.sched_getaffinity(0)))))
    os.putenv("TOKIO_WORKER_THREADS", "1")
    library.library()
    version_fault()
    engine_text()
    del engine, public
