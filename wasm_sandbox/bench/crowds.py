"""What workers cost that do nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager

from ..pool import Pool
from .guests import ADD
from .machine import available
from .model import OURS, Figure, Target
from .pools import MIB, all_idle, family, more_descriptors, new_pool, pss, share, warm, with_pool
from .registry import Effort, Subjects, Turn, benchmark

FEW, WATCHED, MANY = 8, 32, 500
_EACH = 12 * MIB
"""Memory that a worker of a crowd needs at the most, with what the kernel keeps of it."""
_WATCH = 5


@benchmark(
    Figure(
        name="idle-memory",
        title="memory of an idle worker (PSS)",
        unit="MiB",
        note=f"Each of {FEW}; after calls they keep what is ready for the next.",
        targets=(Target(subject="fresh", bound=6),),
    ),
    turns=1,
)
def idle_memory(effort: Effort) -> Subjects:
    """Fresh, and after calls."""

    @contextmanager
    def of(calls: int) -> Generator[Turn]:
        with new_pool(FEW) as pool:
            all_idle(pool, FEW)
            if calls:
                warm(pool, pool.load(ADD)["add"], 1, 2, calls=calls)
            yield lambda: [pss(worker.pid) / MIB for worker in pool.workers()]

    return {"fresh": of(0), "after calls": of(effort.count(3000, 100))}


@benchmark(
    Figure(
        name="monitoring",
        title=f"monitoring {WATCHED} workers at 1 Hz",
        unit="% of a processor",
        note="`pool.workers()` with processor time and memory of each; the supervisor's process.",
        targets=(Target(bound=0.1),),
    )
)
def monitoring(effort: Effort) -> Subjects:
    """Asked more often than once a second, and divided."""
    times = effort.count(50, 5)

    def watch(pool: Pool) -> Turn:
        all_idle(pool, WATCHED)
        pool.workers()

        def turn() -> list[float]:
            begun = time.process_time()
            for _ in range(times):
                pool.workers()
            return [(time.process_time() - begun) / times * 100]

        return turn

    return {OURS: with_pool(watch, WATCHED)}


def affordable(memory: int, wanted: int = MANY) -> int:
    """How many workers of a crowd the machine has memory for."""
    return min(wanted, max(memory // _EACH, 1)) if memory else wanted


@benchmark(
    Figure(
        name="crowd-memory",
        title=f"{MANY} idle workers: memory of all processes (PSS)",
        unit="GiB",
        note="The supervisor and the zygote are among them. Where memory is short, or the run a "
        "quick one, there are fewer, and the figure is scaled.",
        targets=(Target(bound=3),),
    ),
    Figure(
        name="crowd-processor",
        title=f"{MANY} idle workers: processor time of all",
        unit="% of a processor",
        targets=(Target(bound=0.5),),
    ),
    Figure(name="crowd-start", title=f"{MANY} workers: from `Pool()` until all are up", unit="s"),
    turns=1,
    patience=180,
)
def crowd(effort: Effort) -> Subjects:
    """As many as there is memory for."""
    size = affordable(available(), effort.count(MANY, FEW))
    scale = MANY / size

    @contextmanager
    def ours() -> Generator[Turn]:
        more_descriptors()
        begun = time.perf_counter()
        with new_pool(size) as pool:
            all_idle(pool, size)
            took = time.perf_counter() - begun
            everybody = family(os.getpid())

            def turn() -> dict[str, list[float]]:
                return {
                    "crowd-memory": [sum(map(pss, everybody)) / (1 << 30) * scale],
                    "crowd-processor": [share(everybody, effort.size(_WATCH, 1)) * scale],
                    "crowd-start": [took * scale],
                }

            yield turn

    return {OURS: ours()}
