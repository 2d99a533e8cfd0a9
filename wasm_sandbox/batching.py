"""Calls that travel together: how many, and what becomes of each.

Theory of operation. A call costs a message there and one back, some tens of microseconds; that of a
small function costs a few nanoseconds to microseconds in the worker. So the calls of a ``map`` are
packed, some thousand at a time, into *batches* that take about ``TARGET`` seconds: long against a
message, short against everything that waits for a worker. How many that are is measured as it goes
(``Pace``); slow functions go one by one.

Nobody can tell but by the time that it takes. What a batch could not end as its calls would have
ended alone is run again (``supervisor.batches``), always before what follows it.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import suppress
from typing import Any

from .columns import Rows, cut, pack, unpack
from .configuration import Configuration, usable_processors
from .function import Function
from .future import CallFuture
from .protocol.batch import Mode, most_records, width
from .protocol.errors import QueueFull, SandboxError
from .supervisor.batches import Piece, failure_of, remaining
from .supervisor.imports import serving
from .supervisor.requests import BatchRequest, CallRequest, Outcome

TARGET = 0.001
"""Seconds that a batch should take in its worker: less than what makes a worker count as slow
(``supervisor.queues.QUICK``), so that the next batch waits behind it there."""
GROWTH = 32
"""How many times as large as the last one a batch may be."""
DEPTH, LEAST_DEPTH = 6, 2
"""Batches for each worker that are under way: so many that none waits for us; fewer where they are
large, but one that runs and one that waits."""
PROBES, PATIENCE = 2, 0.005
"""Calls that ``map`` lets go first, and waits for so many seconds each, where it does not know how
long they take. What is new to a worker is slow the first time."""
SINGLES, RECORDS = 256, 8192
"""Calls of a ``map`` for each worker that are under way, of a slow function and of a quick one."""
LEAST = 4
"""Calls that have to wait at the same moment for it to pay that they travel together."""
LARGE = 1 << 20
"""Records of a ``map_buffers`` that are under way."""


def mode_of(function: Function) -> Mode | None:
    """How batches of a function are run; ``None`` where its calls have to travel alone.

    What a module that imports nothing computes cannot be seen from outside, so that a call may be
    run again as if it had not been run before.
    """
    options, description = function.settings, function.module.description
    alone = function.is_command or options.on_output is not None or options.returns is not None
    if alone or options.timeout is not None or description.imports:
        return None
    if description.component is not None or not most_records(function.numbers.type):
        return None
    if options.instance == "per-batch":
        return "per-batch"
    pure = options.limits.fuel is None and description.is_pure(function.name)
    return "shared" if pure else "fresh"


def batch_request(
    function: Function, piece: Piece, columns: bytes, *, waits: bool = False
) -> CallRequest:
    """The request for a piece, whose arguments are ``columns``; ``waits`` as for
    ``build_request``."""
    options = function.settings
    return CallRequest(
        module=function.module.handle,
        profile=function.profile,
        limits=options.limits,
        export=function.name,
        buffers=((0, columns),),
        results=len(function.numbers.type.results),
        retries=0 if piece.search else options.retries,  # it is one itself
        batch=BatchRequest(piece.count, piece.mode, function.numbers.type, search=piece.search),
        parent=serving.get() if waits else None,
    )


def most_at_once(function: Function, configuration: Configuration) -> int:
    """Records that a batch may have."""
    most, serves = most_records(function.numbers.type), configuration.recycle.max_calls
    return most if serves is None else min(most, serves)


class BatchRoom:
    """How many batches may be under way, and how large they may be."""

    def __init__(self, function: Function, configuration: Configuration, records: int) -> None:
        """``records`` may be under way together, or ``LEAST_DEPTH`` batches for each worker."""
        self._workers = workers = configuration.workers or usable_processors()
        self._records = records
        self._calls = configuration.max_pending
        share = max(records // (LEAST_DEPTH * workers), 1)
        self.most = min(most_at_once(function, configuration), share)
        """Records of one batch."""

    def has(self, sizes: Sequence[int], size: int) -> bool:
        """Whether one of ``size`` records may be added to those under way."""
        if not sizes:
            return True
        batches = (SINGLES if size == 1 else DEPTH) * self._workers
        return len(sizes) < min(batches, self._calls) and sum(sizes) + size <= self._records


class Pace:
    """How long the calls of one function take, and so how many go together."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._last = 1
        self.alone = True
        """Whether only calls that travelled alone were measured."""

    @property
    def known(self) -> bool:
        """Whether any has been measured."""
        return self._seconds is not None

    def size(self, most: int) -> int:
        """Records of the next batch."""
        if self._seconds is None:
            return min(self._last, most)
        fitting = TARGET / max(self._seconds, 1e-9)
        return max(int(min(fitting, self._last * GROWTH, most)), 1)

    def begin(self, size: int) -> None:
        """What the first batch should have."""
        self._last = size

    def learn(self, outcome: Outcome) -> None:
        """A batch has ended. What counts is processor time: these guests cannot wait, and how busy
        others keep the machine says nothing of them."""
        if outcome.error is None and outcome.done:
            self._seconds = outcome.receipt.cpu_time / outcome.done
            self._last = outcome.done
            self.alone = False

    def learn_alone(self, seconds: float) -> None:
        """A call of its own has taken so many seconds of processor time, some of them for what it
        would share with others. That says whether calls should travel together, not how many."""
        quick = seconds * LEAST <= TARGET
        if self._seconds is None or quick != (self._seconds * LEAST <= TARGET):
            self._seconds, self._last, self.alone = seconds, 1, True


class BatchFuture(CallFuture):
    """The future of a batch; its result is the ``Outcome``, whatever that is."""

    def finish(self, outcome: Outcome) -> None:
        """The batch is over."""
        self._receipt = outcome.receipt
        with suppress(Exception):  # it was cancelled
            self.set_result(outcome)


class Values(Iterator[Any]):
    """The values of a ``map``. Iterating takes no step of Python for each."""

    def __init__(self, found: Generator[list[Any]]) -> None:
        self._found = found
        self._values: Iterator[Any] = itertools.chain.from_iterable(found)

    def __iter__(self) -> Iterator[Any]:
        return self._values

    def __next__(self) -> Any:
        return next(self._values)

    def close(self) -> None:
        """Cancel what was not taken yet."""
        self._values = iter(())
        self._found.close()


def with_room(
    begin: Callable[[], BatchFuture], ours: Iterable[BatchFuture], deadline: float | None
) -> BatchFuture:
    """``begin()``, once there is room.

    Raises:
        QueueFull: it is others that fill the queue. One of ours that ends makes room.
        TimeoutError: not before ``deadline``.
    """
    waiting = iter(ours)
    while True:
        try:
            return begin()
        except QueueFull:
            mine = next((future for future in waiting if not future.done()), None)
            if mine is None:
                raise
            mine.exception(None if deadline is None else deadline - time.monotonic())


class _Job:
    """A piece, its arguments, and its future once it is under way."""

    __slots__ = ("columns", "future", "piece")

    def __init__(self, piece: Piece, columns: bytes) -> None:
        self.piece = piece
        self.columns = columns
        self.future: BatchFuture | None = None


Begin = Callable[[Piece, bytes], BatchFuture]


def map_records(
    function: Function,
    rows: Rows,
    begin: Begin,
    configuration: Configuration,
    *,
    mode: Mode,
    pace: Pace,
    timeout: float | None,
) -> Iterator[Any]:
    """As ``mapping.map_calls``, for calls that travel together.

    Args:
        function: what is called. rows: with what.
        begin: submits a piece.
        configuration: the pool's. No more than ``max_pending`` records are under way.
        mode: how batches are run.
        pace: how many go together.
        timeout: seconds from now until the last value.
    """
    kinds = function.numbers.type.params
    deadline = None if timeout is None else time.monotonic() + timeout
    workers = configuration.workers or usable_processors()
    room = BatchRoom(function, configuration, min(configuration.max_pending, RECORDS * workers))
    jobs: deque[_Job] = deque()
    position = 0
    failure: Exception | None = None
    refusal: SandboxError | None = None

    def fill(*, once: bool = False) -> bool:
        """Submit until there is enough under way, or one batch; whether more may come."""
        nonlocal failure, refusal, position
        try:
            while room.has([job.piece.count for job in jobs], size := pace.size(room.most)):
                count, columns = rows.take(size)
                if count:
                    packed, refusal = pack(function.numbers, columns, count)
                    good = len(packed) // width(kinds)
                    if good:
                        put(_Job(Piece(position, good, mode if good > 1 else single(mode)), packed))
                        position += good
                if rows.failure is not None:
                    failure = rows.failure
                if count < size or refusal is not None:
                    return False
                if once:
                    break
        except Exception as error:
            failure = error
        return failure is None

    def put(job: _Job) -> None:
        start(job)
        jobs.append(job)

    def start(job: _Job) -> None:
        ours = [other.future for other in jobs if other.future is not None]
        job.future = with_room(lambda: begin(job.piece, job.columns), ours, deadline)

    def await_end(job: _Job) -> Outcome:
        if job.future is None:
            start(job)
        assert job.future is not None
        try:
            outcome: Outcome = job.future.result(
                None if deadline is None else deadline - time.monotonic()
            )
        except BaseException:
            job.future.cancel()
            raise
        return outcome

    def values(more: bool) -> Generator[list[Any]]:
        try:
            yield []  # so that closing has something to close, however early
            while jobs:
                job = jobs.popleft()
                piece = job.piece
                request = BatchRequest(piece.count, piece.mode, function.numbers.type)
                outcome = await_end(job)
                pace.learn(outcome)
                error = failure_of(request, outcome)
                if error is None:
                    for rest in reversed(remaining(piece, request, outcome)):
                        at = rest.start - piece.start
                        columns = cut(kinds, job.columns, piece.count, at, rest.count)
                        jobs.appendleft(_Job(rest, columns))
                    if more:
                        more = fill()
                got = unpack(
                    function.numbers.type.results, outcome.data or b"", piece.count, outcome.done
                )
                del job
                yield got
                if error is not None:
                    raise error
            if failure is not None or refusal is not None:
                raise failure or refusal  # type: ignore[misc]
        finally:
            _cancel(jobs)

    def probe() -> bool:
        """Have a call or two go alone, to see how long such calls take; whether more may come."""
        more = True
        while more and len(jobs) < PROBES and pace.size(room.most) == 1:
            more = fill(once=True)
            if not jobs:
                break
            last = jobs[-1].future
            assert last is not None
            if not wait([last], PATIENCE).done or last.exception() is not None:
                break
            pace.learn(last.result())
        return more

    try:
        more = pace.known or probe()
        if failure is not None and not jobs:
            raise failure
        if more:
            more = fill()
    except BaseException:
        _cancel(jobs)
        raise
    found = values(more)
    next(found)
    return Values(found)


def single(mode: Mode) -> Mode:
    """The mode of a batch of one: nothing is shared, and no trampoline needed."""
    return "fresh" if mode == "shared" else mode


def _cancel(jobs: deque[_Job]) -> None:
    """Cancel all, the last first, so that those before do not make room for them."""
    while jobs:
        future = jobs.pop().future
        if future is not None:
            future.cancel()
