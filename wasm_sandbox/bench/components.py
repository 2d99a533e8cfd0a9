"""Components beside core modules, and beside the engine's own interface for components."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..pool import Pool
from ..protocol.limits import Limits
from .data import data_of
from .guests import ADD, COMPONENT
from .measure import timed
from .model import OURS, Figure
from .pools import MIB, Subject, new_pool, with_pool
from .registry import Effort, Subjects, Turn, benchmark

_LIMITS = Limits(output=64 * MIB)
_SMALL = 64 << 10
SIZES = (1 << 10, _SMALL, MIB, 16 * MIB)


@benchmark(
    Figure(
        name="component-call",
        title="a call of a component",
        unit="µs",
        note="One at a time, one worker, a fresh instance for each; beside a core module's.",
    )
)
def component_call(effort: Effort) -> Subjects:
    """``add(5, 3)``."""
    count = effort.count(1000, 20)

    def of(source: bytes) -> Subject:
        def turn_of(pool: Pool) -> Turn:
            add = pool.load(source)["add"]
            add(5, 3)
            return lambda: timed(lambda: add(5, 3), count)

        return with_pool(turn_of, 1)

    return {f"{OURS}, a component": of(COMPONENT), f"{OURS}, a core module": of(ADD)}


@contextmanager
def _there_and_back(size: int, count: int, scale: float) -> Generator[Turn]:
    data = data_of(size)
    with new_pool(1, limits=_LIMITS) as pool:
        same = pool.load(COMPONENT)["same"]
        same(data)
        yield lambda: timed(lambda: same(data), count, scale=scale)


@contextmanager
def _engine_alone(count: int) -> Generator[Turn]:
    """``same`` through the engine's public interface, without a sandbox."""
    engine_of: Any = import_module("wasmtime")
    component: Any = import_module("wasmtime.component")
    engine = engine_of.Engine()
    store = engine_of.Store(engine)
    made = component.Linker(engine).instantiate(
        store, component.Component(engine, COMPONENT.decode())
    )
    same, data = made.get_func(store, "same"), data_of(_SMALL)

    def call() -> None:
        same(store, data)
        same.post_return(store)

    yield lambda: timed(call, count, scale=1e3)


@benchmark(
    Figure(
        name="component-list",
        title="`list<u8>` of 64 KiB to a component and back",
        unit="ms",
        note="The engine's own interface is that of `wasmtime.component`, without a sandbox.",
    )
)
def component_list(effort: Effort) -> Subjects:
    """``same(data)``."""
    count = effort.count(20, 2)
    return {
        OURS: _there_and_back(_SMALL, count, 1e3),
        "the engine's own interface": _engine_alone(1),
    }


@benchmark(
    Figure(
        name="component-lists",
        title="`list<u8>` to a component and back, by size",
        unit="ms",
        kind="growth",
        axis="bytes",
    )
)
def component_lists(effort: Effort) -> Subjects:
    """``same(data)``, 1 KiB to 16 MiB."""
    count = effort.count(10, 1)
    return {str(size): _there_and_back(size, count, 1e3) for size in SIZES}
