"""The peers: process pools that run plain Python without any sandbox, and sandboxes without a
process. Each is optional."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from .guests import ADD, EXTISM
from .registry import Absent

# Safe in a process that has threads, as one with several pools has.
_METHOD = "forkserver"


def add(a: int, b: int) -> int:
    """What the guest does, in Python."""
    return a + b


def wanted(name: str, package: str | None = None) -> Any:
    """A package that need not be here.

    Raises:
        Absent: it is not.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise Absent(f"not installed ({error}): pip install {package or name}") from error


class _Answer:
    """What multiprocess promises, with the method of a future."""

    __slots__ = ("result",)

    def __init__(self, promised: Any) -> None:
        self.result: Callable[[], Any] = promised.get


class _Multiprocess(Executor):
    """multiprocess's pool with the interface of an executor."""

    def __init__(self, workers: int) -> None:
        self._pool: Any = wanted("multiprocess").get_context(_METHOD).Pool(workers)

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Any:
        return _Answer(self._pool.apply_async(fn, args))

    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        return self._pool.starmap(fn, zip(*iterables, strict=True), chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.close()
        self._pool.join()


class _Pebble(Executor):
    """pebble's pool with the interface of an executor."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context(_METHOD)
        self._pool: Any = wanted("pebble").ProcessPool(max_workers=workers, context=context)

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Any:
        return self._pool.schedule(fn, args=args)

    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        return self._pool.map(fn, *iterables, chunksize=chunksize).result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.close()
        self._pool.join()


def _loky(workers: int) -> Executor:
    executor: Executor = wanted("loky").ProcessPoolExecutor(max_workers=workers)
    return executor


def _standard(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(_METHOD))


STANDARD = "ProcessPoolExecutor"
PEERS: dict[str, Callable[[int], Executor]] = {
    STANDARD: _standard,
    "multiprocess.Pool": _Multiprocess,
    "pebble": _Pebble,
    "loky": _loky,
}


@contextmanager
def peer(name: str, workers: int) -> Generator[Executor]:
    """A running peer whose workers are warm."""
    executor = PEERS[name](workers)
    try:
        for future in [executor.submit(add, 1, 2) for _ in range(50)]:
            future.result()
        yield executor
    finally:
        executor.shutdown()


@contextmanager
def wasmtime() -> Generator[Callable[[], object]]:
    """A call of ``add`` in a fresh instance, in this process, by wasmtime's public interface."""
    engine_of: Any = wanted("wasmtime")
    engine = engine_of.Engine()
    module = engine_of.Module(engine, engine_of.wat2wasm(ADD.decode()))
    linker = engine_of.Linker(engine)

    def call() -> object:
        store = engine_of.Store(engine)
        return linker.instantiate(store, module).exports(store)["add"](store, 5, 3)

    yield call


@contextmanager
def extism() -> Generator[Callable[[], object]]:
    """A call of a function that does nothing, in this process, by a plug-in of extism."""
    host: Any = wanted("extism")
    plugin = host.Plugin(bytes(wanted("wasmtime").wat2wasm(EXTISM.decode())))
    yield lambda: plugin.call("run", b"")


IN_PROCESS: dict[str, Callable[[], AbstractContextManager[Callable[[], object]]]] = {
    "wasmtime-py, in this process": wasmtime,
    "extism, in this process": extism,
}
