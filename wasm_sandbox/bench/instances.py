"""Instances that keep their state: a call, a restart, and a crowd that waits."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from ..protocol.policies import RestartPolicy
from .crowds import MANY, affordable
from .guests import COUNTER
from .machine import available
from .measure import timed
from .model import OURS, Figure
from .pools import family, kill, more_descriptors, new_pool, pss, share, until
from .registry import Effort, Subjects, Turn, benchmark

_WATCH = 5


@benchmark(
    Figure(
        name="instance-call",
        title="a call of an instance that keeps its state",
        unit="µs",
        note="`instance.call`, one at a time, beside a function's call in a fresh instance.",
    )
)
def instance_call(effort: Effort) -> Subjects:
    """``increment()``."""
    count = effort.count(1000, 20)

    @contextmanager
    def kept() -> Generator[Turn]:
        with new_pool(1) as pool, pool.instance(pool.load(COUNTER)) as instance:
            instance.call("increment")
            yield lambda: timed(lambda: instance.call("increment"), count)

    @contextmanager
    def fresh() -> Generator[Turn]:
        with new_pool(1) as pool:
            increment = pool.load(COUNTER)["increment"]
            increment()
            yield lambda: timed(increment, count)

    return {f"{OURS}, a kept instance": kept(), f"{OURS}, a fresh instance": fresh()}


@benchmark(
    Figure(
        name="instance-restart",
        title="an instance's worker is killed: until the next one has answered a call",
        unit="ms",
    )
)
def instance_restart(effort: Effort) -> Subjects:
    """From the death of its worker."""
    policy = RestartPolicy(intensity=1_000_000)

    @contextmanager
    def ours() -> Generator[Turn]:
        with new_pool(1) as pool, pool.instance(pool.load(COUNTER), policy=policy) as instance:
            instance.call("increment")

            def die() -> None:
                usage = instance.usage()
                if usage.pid is None:
                    raise RuntimeError("the instance has no worker")
                kill(usage.pid)
                until("it has another", lambda: instance.usage().worker != usage.worker, 0.0002)
                instance.call("increment")

            yield lambda: timed(die, effort.count(5), scale=1e3)

    return {OURS: ours()}


@benchmark(
    Figure(
        name="instances-memory",
        title=f"{MANY} idle instances: memory of all processes (PSS)",
        unit="GiB",
        note="Each has its own worker. Where memory is short, or the run a quick one, there are "
        "fewer, and the figure is scaled.",
    ),
    Figure(
        name="instances-processor",
        title=f"{MANY} idle instances: processor time of all",
        unit="% of a processor",
    ),
    Figure(name="instances-start", title=f"{MANY} instances: until all have answered", unit="s"),
    turns=1,
    patience=240,
)
def instance_crowd(effort: Effort) -> Subjects:
    """As many as there is memory for."""
    size = affordable(available(), effort.count(MANY, 4))
    scale = MANY / size

    @contextmanager
    def ours() -> Generator[Turn]:
        more_descriptors()
        with new_pool(1) as pool, ExitStack() as stack:
            begun = time.perf_counter()
            module = pool.load(COUNTER)
            made = [stack.enter_context(pool.instance(module)) for _ in range(size)]
            for instance in made:
                instance.call("increment")
            took = time.perf_counter() - begun
            everybody = family(os.getpid())

            def turn() -> dict[str, list[float]]:
                return {
                    "instances-memory": [sum(map(pss, everybody)) / (1 << 30) * scale],
                    "instances-processor": [share(everybody, effort.size(_WATCH, 1)) * scale],
                    "instances-start": [took * scale],
                }

            yield turn

    return {OURS: ours()}
