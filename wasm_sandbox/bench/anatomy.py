"""Where each microsecond goes: the parts of a round trip, as it takes its steps, and of a record of
a batch, each measured by itself. What is left of that is the supervisor's: scheduling, decoding,
keeping account."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from ..columns import pack, unpack
from ..pool import Pool
from ..protocol.receipts import Receipt
from ..supervisor.express import Loan
from ..supervisor.watch import processor_clock
from .guests import ADD
from .measure import timed
from .model import WHOLE, Figure
from .pools import Subject, just, new_pool, warm, with_pool
from .registry import Effort, Subjects, Turn, benchmark

_RECORDS = 2500
_METHODS = ("send", "listen", "take")
_STEPS = 6
"""Steps of the short way: to the loan, sent, listening, answered, taken, and back at the caller."""
_TRIES = 10


def _add(pool: Pool) -> Any:
    function = pool.load(ADD)["add"]
    warm(pool, function, 5, 3)
    return function


class _Watched:
    """One call at a time, by the short way (``supervisor.express``), and when each step of it was
    taken. A call whose answer the pool's thread had to read is made again."""

    def __init__(self, pool: Pool, count: int) -> None:
        self._pool = pool
        self._add = _add(pool)
        self._count = count
        self._times: list[float] = []

    def calls(self) -> list[tuple[list[float], Receipt]]:
        """The times at which something began, and at last the end, for each call."""
        found: list[tuple[list[float], Receipt]] = []
        with self._watching():
            for _ in range(_TRIES * self._count):
                self._times.clear()
                self._now()
                future = self._pool.submit(self._add, 5, 3)
                future.result()
                self._now()
                if len(self._times) == _STEPS + 1:
                    found.append((self._times.copy(), future.receipt))
                if len(found) == self._count:
                    break
        return found

    def clock(self) -> float:
        """Processor seconds of the worker."""
        return processor_clock(self._pool.workers()[0].pid) or 0.0

    def _now(self) -> None:
        self._times.append(time.perf_counter())

    @contextmanager
    def _watching(self) -> Generator[None]:
        before = [getattr(Loan, name) for name in _METHODS]

        def step(method: Callable[..., Any], *, ends: bool) -> Callable[..., Any]:
            def stepped(*args: Any) -> Any:
                self._now()
                result = method(*args)
                if ends and result:
                    self._now()
                return result

            return stepped

        try:
            for name, method in zip(_METHODS, before, strict=True):
                setattr(Loan, name, step(method, ends=name != "take"))
            yield
        finally:
            for name, method in zip(_METHODS, before, strict=True):
                setattr(Loan, name, method)


@benchmark(
    Figure(
        name="round-trip-parts",
        title="where the time of a round trip goes",
        unit="µs",
        note="`submit(add, 5, 3).result()` with one worker, in order. Each call notes when a step "
        "of it begins, so the parts add up to the whole, but for what a sum of medians is off "
        "a median of sums. What the worker does beside the guest is its processor time.",
        kind="parts",
    )
)
def round_trip_parts(effort: Effort) -> Subjects:
    """Parts that follow each other."""
    count = effort.count(500, 20)

    def between(first: int, last: int) -> Subject:
        def turn_of(pool: Pool) -> Turn:
            watched = _Watched(pool, count)
            return lambda: [(t[last] - t[first]) * 1e6 for t, _ in watched.calls()]

        return with_pool(turn_of, 1)

    def guest(pool: Pool) -> Turn:
        watched = _Watched(pool, count)
        return lambda: [receipt.wall_time * 1e6 for _, receipt in watched.calls()]

    def around(pool: Pool) -> Turn:
        watched = _Watched(pool, count)
        return lambda: [_besides(watched)[1] * 1e6]

    def kernel(pool: Pool) -> Turn:
        watched = _Watched(pool, count)

        def turn() -> list[float]:
            calls, besides = _besides(watched)
            return [(t[4] - t[3] - r.wall_time - besides) * 1e6 for t, r in calls]

        return turn

    return {
        WHOLE: between(0, _STEPS),
        "arguments to a request, and a future": between(0, 1),
        "the call, written to its worker": between(1, 2),
        "until the caller's thread listens": between(2, 3),
        "the worker: a fresh instance, and the guest": with_pool(guest, 1),
        "the worker: reading, understanding, answering": with_pool(around, 1),
        "the kernel: waking the worker, then the caller's thread": with_pool(kernel, 1),
        "the answer, read and checked": between(4, 5),
        "the future has its value, and the caller": between(5, _STEPS),
    }


def _besides(watched: _Watched) -> tuple[list[tuple[list[float], Receipt]], float]:
    """Calls, and seconds that the worker's processor spent on each beside its guest."""
    begun = watched.clock()
    calls = watched.calls()
    used = watched.clock() - begun - sum(receipt.cpu_time for _, receipt in calls)
    return calls, used / len(calls)


@benchmark(
    Figure(
        name="record-parts",
        title="where the processor time of a call in a batch goes",
        unit="ns",
        note="`pool.map` of an addition over lists with one worker; of both processes.",
        kind="parts",
    )
)
def record_parts(effort: Effort) -> Subjects:
    """Parts of two processes, which go on at once."""
    calls = effort.count(500_000, 5000)
    rounds = max(calls // _RECORDS, 1)
    first, second = list(range(calls)), list(range(calls))
    columns = first[:_RECORDS], second[:_RECORDS]

    @contextmanager
    def used(*, everybody: bool) -> Generator[Turn]:
        with new_pool(1) as pool:
            add = _add(pool)
            list(pool.map(add, first, second))
            [worker] = pool.workers()

            def clock() -> float:
                own = time.process_time() if everybody else 0.0
                return own + (processor_clock(worker.pid) or 0.0)

            def turn() -> list[float]:
                begun = clock()
                list(pool.map(add, first, second))
                return [(clock() - begun) / calls * 1e9]

            yield turn

    def packing(pool: Pool) -> Turn:
        codec = _add(pool).codec
        return lambda: _each(lambda: pack(codec, columns, len(columns[0])), rounds)

    def unpacking() -> list[float]:
        data, count = bytes(4 * _RECORDS), _RECORDS
        return _each(lambda: unpack(("i32",), data, count, count), rounds)

    return {
        WHOLE: used(everybody=True),
        "lists to columns": with_pool(packing, 1),
        "the worker": used(everybody=False),
        "columns to lists": just(unpacking),
    }


def _each(run: Callable[[], object], rounds: int) -> list[float]:
    return [sample / _RECORDS for sample in timed(run, rounds, scale=1e9)]
