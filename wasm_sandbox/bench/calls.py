"""Single calls: one at a time, and many in flight."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .guests import ADD
from .measure import timed
from .model import OURS, Figure, Target
from .peers import IN_PROCESS, PEERS, STANDARD, add, peer
from .pools import WORKERS, new_pool, warm
from .registry import Effort, Subjects, Turn, benchmark

Measure = Callable[[Executor, Any], list[float]]


@contextmanager
def _ours(measure: Measure) -> Generator[Turn]:
    with new_pool(WORKERS) as pool:
        function = pool.load(ADD)["add"]
        warm(pool, function, 1, 2)
        yield lambda: measure(pool, function)


@contextmanager
def _theirs(name: str, measure: Measure) -> Generator[Turn]:
    with peer(name, WORKERS) as executor:
        yield lambda: measure(executor, add)


@contextmanager
def _in_process(
    make: Callable[[], AbstractContextManager[Callable[[], object]]], count: int
) -> Generator[Turn]:
    with make() as call:
        call()
        yield lambda: timed(call, count)


def executors(measure: Measure) -> Subjects:
    """Ours and each peer."""
    return {OURS: _ours(measure)} | {name: _theirs(name, measure) for name in PEERS}


@benchmark(
    Figure(
        name="round-trip",
        title="`submit().result()`, one at a time",
        unit="µs",
        note="Two workers. Ours has a fresh instance for each call; the other pools run Python.",
        targets=(
            Target(bound=0.5, against=STANDARD),
            Target(bound=1, against="pebble"),
        ),
    )
)
def round_trip(effort: Effort) -> Subjects:
    """``submit(add, 5, 3).result()``."""
    count = effort.count(1000, 20)

    def measure(executor: Executor, function: Any) -> list[float]:
        return timed(lambda: executor.submit(function, 5, 3).result(), count)

    there = {name: _in_process(make, count) for name, make in IN_PROCESS.items()}
    return {**executors(measure), **there}


@benchmark(
    Figure(
        name="many-in-flight",
        title="tiny calls, thousands in flight",
        unit="calls/s",
        note="`submit` for all, then `result` of each; two workers.",
        better="higher",
        targets=(Target(bound=4, against=STANDARD),),
    )
)
def many_in_flight(effort: Effort) -> Subjects:
    """Calls a second with thousands in flight; a fresh instance for each of ours."""
    calls = effort.count(5000, 50)

    def measure(executor: Executor, function: Any) -> list[float]:
        begun = time.perf_counter()
        for future in [executor.submit(function, 5, 3) for _ in range(calls)]:
            future.result()
        return [calls / (time.perf_counter() - begun)]

    return executors(measure)
