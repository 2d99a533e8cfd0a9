"""More workers, more modules: there must be no cliff."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from ..module import Module
from ..pool import Pool
from .guests import ADD, adds
from .measure import timed
from .model import Figure
from .pools import all_idle, new_pool, warm, with_pool
from .registry import Effort, Subjects, Turn, benchmark

WORKERS = (1, 2, 8, 32, 128)
MODULES = (1, 100, 10_000)
_FILLING = 200.0
"""Seconds that loading so many may take."""
_AT_ONCE = 4


@benchmark(
    Figure(
        name="more-workers",
        title="tiny calls, thousands in flight, by the number of workers",
        unit="calls/s",
        better="higher",
        kind="growth",
        axis="workers",
    )
)
def more_workers(effort: Effort) -> Subjects:
    """Calls a second with 1 to 128 workers."""
    calls = effort.count(3000, 50)

    def ours(pool: Pool, workers: int) -> Turn:
        add = pool.load(ADD)["add"]
        all_idle(pool, workers)

        def bunch() -> None:
            warm(pool, add, 1, 2, calls=calls)

        bunch()
        return lambda: [calls / seconds for seconds in timed(bunch, 1, scale=1)]

    most = effort.size(WORKERS[-1], 2)
    numbers = [number for number in WORKERS if number <= most]
    return {str(number): with_pool(partial(ours, workers=number), number) for number in numbers}


def _fill(pool: Pool, held: int) -> list[Module]:
    """So many modules, some of them compiled at a time.

    Raises:
        TimeoutError: it takes too long, and the others are to be measured.
    """
    end = time.monotonic() + _FILLING

    def load(number: int) -> Module:
        if time.monotonic() > end:
            raise TimeoutError(f"only {number:,} modules were loaded in {_FILLING:.0f} seconds")
        return pool.load(adds(number))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(load, range(held)))


@benchmark(
    Figure(
        name="more-modules",
        title="`pool.load` of a new module, by the number that the pool has",
        unit="ms",
        note="A module of one function; compiled in a jailed process.",
        kind="growth",
        axis="modules",
    ),
    Figure(
        name="more-modules-again",
        title="`pool.load` of a module that the pool has, by the number of them",
        unit="ms",
        kind="growth",
        axis="modules",
    ),
    turns=1,
    patience=300,
)
def more_modules(effort: Effort) -> Subjects:
    """``pool.load`` in pools that have 1 to 10,000 modules."""

    @contextmanager
    def ours(held: int) -> Generator[Turn]:
        with new_pool(1) as pool:
            modules = _fill(pool, held - 1)

            def load() -> None:  # what nobody holds is forgotten
                modules.append(pool.load(adds(len(modules))))

            def again() -> None:
                pool.load(adds(len(modules) - 1))

            def turn() -> dict[str, list[float]]:
                return {
                    "more-modules": timed(load, 5, scale=1e3),
                    "more-modules-again": timed(again, 20, scale=1e3),
                }

            yield turn

    most = effort.count(MODULES[-1], 10)
    return {str(held): ours(held) for held in MODULES if held <= most}
