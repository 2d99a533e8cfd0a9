"""Starting, dying, and being answered when a deadline is over."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..pool import Pool
from ..protocol.limits import Limits
from .guests import ADD, LOOP, SLEEP, large
from .measure import timed
from .model import OURS, Figure, Target
from .peers import PEERS, add
from .pools import MIB, WORKERS, Subject, all_idle, just, kill, new_pool, until
from .registry import Effort, Subjects, Turn, benchmark

_FIRST = """
import sys, time
import trio, wasm_sandbox.supervisor.core, wasm_sandbox.thread
from wasm_sandbox import Pool
begun = time.perf_counter()
with Pool(1, cache_dir=sys.argv[1]) as pool:
    assert pool.load(sys.argv[2])["add"](5, 3) == 8
    print((time.perf_counter() - begun) * 1e3)
"""
_ALLOWED = 0.05
_APART = 0.4
"""Seconds between deaths, so that they stay below the intensity at which a pool gives up."""


@contextmanager
def _module() -> Generator[tuple[str, str]]:
    """A directory for a cache, and a module in it."""
    with tempfile.TemporaryDirectory() as cache:
        path = Path(cache, "add.wat")
        path.write_bytes(ADD)
        yield cache, str(path)


@benchmark(
    Figure(
        name="first-result",
        title="`Pool()` to the first result",
        unit="ms",
        note="In a new program that has imported everything; the module is in the cache.",
        targets=(Target(bound=150),),
    )
)
def first_result(effort: Effort) -> Subjects:
    """Of ours, and of peers that start two workers here."""

    @contextmanager
    def ours() -> Generator[Turn]:
        with _module() as (cache, path):
            command = [sys.executable, "-c", _FIRST, cache, path]

            def turn() -> float:
                return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

            turn()
            yield turn

    @contextmanager
    def theirs(make: Callable[[int], Executor]) -> Generator[Turn]:
        make(WORKERS).shutdown()  # one that is not installed says so here

        def turn() -> list[float]:
            begun = time.perf_counter()
            executor = make(WORKERS)
            executor.submit(add, 5, 3).result()
            seconds = time.perf_counter() - begun
            executor.shutdown()
            return [seconds * 1e3]

        yield turn

    return {OURS: ours()} | {name: theirs(make) for name, make in PEERS.items()}


@benchmark(
    Figure(
        name="command",
        title="`wasm-sandbox call add.wasm add 5 3`, the whole command",
        unit="ms",
        targets=(Target(bound=400),),
    )
)
def command(effort: Effort) -> Subjects:
    """From the start of Python to its end."""

    @contextmanager
    def ours() -> Generator[Turn]:
        with _module() as (cache, path):
            words = [sys.executable, "-m", "wasm_sandbox", "call", "--cache-dir", cache]
            words += [path, "add", "5", "3"]

            def run() -> None:
                said = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
                if said != b"8\n":
                    raise RuntimeError(f"the command said {said!r}")

            run()
            yield lambda: timed(run, effort.count(2), scale=1e3)

    def nothing() -> object:
        return subprocess.run([sys.executable, "-c", "pass"], check=True)

    return {OURS: ours(), "python -c pass": just(lambda: timed(nothing, 1, scale=1e3))}


@benchmark(
    Figure(
        name="load",
        title="`pool.load` of a cached 16 MiB module",
        unit="ms",
    )
)
def load(effort: Effort) -> Subjects:
    """The first time in a pool, and again."""

    @contextmanager
    def ours() -> Generator[Turn]:
        with tempfile.TemporaryDirectory() as cache:
            path = Path(cache, "large.wasm")
            path.write_bytes(large(effort.size(16 * MIB, MIB)))
            with Pool(1, cache_dir=cache, limits=Limits(compile_time=300)) as pool:
                pool.load(path)

            def turn() -> list[float]:
                with Pool(1, cache_dir=cache) as pool:
                    return timed(lambda: pool.load(path), 1, scale=1e3)

            yield turn

    return {OURS + ", first in a pool": ours()}


class _Mortal:
    """A pool of one worker that is killed again and again."""

    def __init__(self, pool: Pool, spares: int, up: threading.Event) -> None:
        self._pool = pool
        self._spares = spares
        self._up = up
        self._add = pool.load(ADD)["add"]

    def turn(self) -> dict[str, list[float]]:
        """Two deaths: of one, until another worker is READY; of the other, until a call that comes
        at once is answered."""
        ready = self._after(self._kill(), self._wait_for_another)
        answered = self._after(self._kill(), lambda _: self._add(1, 2))
        return {"recovery": [ready], "recovery-answer": [answered]}

    def _kill(self) -> tuple[float, int]:
        time.sleep(_APART)
        self._add(1, 2)
        until("it is quiet", self._is_quiet, 0.005)
        [victim] = self._serving()
        self._up.clear()
        begun = time.perf_counter()
        kill(victim.pid)
        return begun, victim.number

    def _after(self, killed: tuple[float, int], wait: Callable[[int], object]) -> float:
        begun, number = killed
        wait(number)
        return (time.perf_counter() - begun) * 1e3

    def _wait_for_another(self, number: int) -> None:
        if not self._spares:
            self._up.wait(60)
        else:
            until("a spare serves", lambda: self._has_another(number), 0.0002)

    def _has_another(self, number: int) -> bool:
        return any(worker.number != number for worker in self._serving())

    def _is_quiet(self) -> bool:
        workers = self._pool.workers()
        return len(workers) > self._spares and all(w.phase == "idle" for w in workers)

    def _serving(self) -> list[Any]:
        return [w for w in self._pool.workers() if w.phase == "idle" and not w.spare]


@benchmark(
    Figure(
        name="recovery",
        title="a worker is killed: until another one is READY",
        unit="ms",
        note="Jailed. Cold, or from a spare (`Pool(spares=1)`).",
        targets=(
            Target(subject="cold", bound=15),
            Target(subject="with a spare", bound=5),
        ),
    ),
    Figure(
        name="recovery-answer",
        title="a worker is killed: until the next call is answered",
        unit="ms",
    ),
)
def recovery(effort: Effort) -> Subjects:
    """SIGKILL of an idle worker."""

    @contextmanager
    def mortal(spares: int) -> Generator[Turn]:
        up = threading.Event()

        def on_event(event: Any) -> None:
            if type(event).__name__ == "WorkerReady":
                up.set()

        with new_pool(1, spares=spares, on_event=on_event) as pool:
            all_idle(pool, 1 + spares)
            worker = _Mortal(pool, spares, up)

            def turn() -> dict[str, list[float]]:
                found = [worker.turn() for _ in range(effort.count(3))]
                return {name: [each[name][0] for each in found] for name in found[0]}

            yield turn

    return {"cold": mortal(0), "with a spare": mortal(1)}


@benchmark(
    Figure(
        name="deadline",
        title="how much later than its deadline a call is answered",
        unit="ms",
        note="A loop is interrupted; where a guest is blocked in a host call its worker is killed.",
        targets=(
            Target(subject="a loop", statistic="p99", bound=5),
            Target(subject="blocked in a host call", statistic="p99", bound=20),
        ),
    )
)
def deadline(effort: Effort) -> Subjects:
    """Until the caller has the error."""
    count = effort.count(20, 2)

    @contextmanager
    def late(source: bytes) -> Generator[Turn]:
        with new_pool(WORKERS) as pool:
            function = pool.load(source)["run"].options(limits=Limits(wall_time=_ALLOWED))

            def one() -> float:
                begun = time.perf_counter()
                error = pool.submit(function).exception()
                seconds = time.perf_counter() - begun
                if not isinstance(error, TimeoutError):
                    raise RuntimeError(f"it was not stopped: {error!r}")
                return (seconds - _ALLOWED) * 1e3

            one()
            yield lambda: [one() for _ in range(count)]

    subjects: dict[str, Subject] = {
        "a loop": late(LOOP),
        "blocked in a host call": late(SLEEP),
    }
    return subjects
