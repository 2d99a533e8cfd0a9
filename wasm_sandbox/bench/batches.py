"""Calls that travel together: ``map`` over lists and over buffers, and in fresh instances."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ..pool import Pool
from .guests import ADD, WRITES
from .model import OURS, Figure, Target
from .peers import PEERS, add, peer
from .pools import WORKERS, Subject, with_pool
from .registry import Effort, Subjects, Turn, benchmark

CALLS = 1_000_000
CHUNK = 1000


def nanoseconds(run: Callable[[], object], calls: int) -> float:
    """What one of ``calls`` takes."""
    begun = time.perf_counter()
    run()
    return (time.perf_counter() - begun) / calls * 1e9


@contextmanager
def _theirs(name: str, first: list[int], second: list[int]) -> Generator[Turn]:
    with peer(name, WORKERS) as executor:

        def run() -> object:
            return list(executor.map(add, first, second, chunksize=CHUNK))

        yield lambda: nanoseconds(run, len(first))


@benchmark(
    Figure(
        name="map-lists",
        title="`pool.map` of an addition, from lists to a list",
        unit="ns a call",
        note=f"Two workers; a million pairs, of which peers send {CHUNK:,} at a time.",
        targets=(Target(bound=250),),
    ),
    patience=600.0,  # a peer needs a minute for its turns where the machine is slow
)
def map_lists(effort: Effort) -> Subjects:
    """``list(pool.map(add, list, list))``."""
    calls = effort.count(CALLS, 1000)
    first, second = list(range(calls)), list(range(calls, 0, -1))

    def ours(pool: Pool) -> Turn:
        function = pool.load(ADD)["add"]

        def run() -> object:
            return list(pool.map(function, first, second))

        run()
        return lambda: nanoseconds(run, calls)

    return {OURS: with_pool(ours)} | {name: _theirs(name, first, second) for name in PEERS}


@benchmark(
    Figure(
        name="map-buffers",
        title="`pool.map_buffers` of an addition, from buffers to a buffer",
        unit="ns a call",
        note="Two workers; two `array`s of a million 32-bit integers, and one for the sums.",
        targets=(Target(bound=15),),
    )
)
def map_buffers(effort: Effort) -> Subjects:
    """``pool.map_buffers(add, array, array, out=array)``, beside Python's own addition."""
    calls = effort.count(CALLS, 1000)
    one, other = array("i", range(calls)), array("i", range(calls, 0, -1))
    out = array("i", bytes(4 * calls))

    def ours(pool: Pool) -> Turn:
        function = pool.load(ADD)["add"]

        def run() -> object:
            return pool.map_buffers(function, one, other, out=out)

        run()
        return lambda: nanoseconds(run, calls)

    return {OURS: with_pool(ours), "Python's own map, no sandbox": _python(one, other)}


@contextmanager
def _python(one: array[int], other: array[int]) -> Generator[Turn]:
    yield lambda: nanoseconds(lambda: array("i", map(add, one, other)), len(one))


@benchmark(
    Figure(
        name="fresh-instances",
        title="`pool.map` where each call needs a fresh instance",
        unit="calls/s",
        note="One worker; the function writes to its memory.",
        better="higher",
        targets=(Target(bound=100_000),),
    )
)
def fresh_instances(effort: Effort) -> Subjects:
    """A function that leaves traces."""
    calls = effort.count(50_000, 500)
    first, second = list(range(calls)), list(range(calls))

    def of(source: bytes, instance: str | None = None) -> Subject:
        def turn_of(pool: Pool) -> Turn:
            function = pool.load(source)["add"]
            if instance is not None:
                function = function.options(instance=instance)

            def run() -> object:
                return list(pool.map(function, first, second))

            run()
            return lambda: 1e9 / nanoseconds(run, calls)

        return with_pool(turn_of, 1)

    return {OURS: of(WRITES), 'with `instance="per-batch"`': of(WRITES, "per-batch")}
