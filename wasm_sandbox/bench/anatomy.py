"""Where each microsecond goes: the parts of a round trip and of a record of a batch, each measured
by itself. What is left of the whole is the supervisor's: scheduling, decoding, keeping
account."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import trio

from ..calls import build_request
from ..columns import pack, unpack
from ..future import CallFuture
from ..pool import Pool
from ..supervisor.watch import processor_clock
from .guests import ADD
from .measure import timed
from .model import WHOLE, Figure
from .pools import just, new_pool, warm, with_pool
from .registry import Effort, Subjects, Turn, benchmark

_FRAME = bytes(64)
"""As long as a small call's message, about."""
_RECORDS = 2500
_ECHO = """
import socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
while data := channel.recv(4096):
    channel.send(data)
"""


def _add(pool: Pool) -> Any:
    function = pool.load(ADD)["add"]
    warm(pool, function, 5, 3)
    return function


@contextmanager
def _another_process(count: int) -> Generator[Turn]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [sys.executable, "-I", "-c", _ECHO, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

        def question() -> None:
            ours.send(_FRAME)
            ours.recv(4096)

        try:
            question()
            yield lambda: timed(question, count)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            process.wait()


@contextmanager
def _another_thread(count: int) -> Generator[Turn]:
    """A thread that waits in trio for a descriptor, and gives an answer to this one."""
    ours, theirs = socket.socketpair()
    futures: list[Future[None]] = []

    async def serve() -> None:
        while True:
            await trio.lowlevel.wait_readable(theirs)
            if not theirs.recv(4096):
                return
            futures.pop().set_result(None)

    def question() -> None:
        future: Future[None] = Future()
        futures.append(future)
        ours.send(_FRAME)
        future.result()

    thread = threading.Thread(target=trio.run, args=(serve,), name="answers", daemon=True)
    with ours, theirs:
        thread.start()
        try:
            yield lambda: timed(question, count)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join()


@benchmark(
    Figure(
        name="round-trip-parts",
        title="where the time of a round trip goes",
        unit="µs",
        note="`submit(add, 5, 3).result()` with one worker.",
        kind="parts",
    )
)
def round_trip_parts(effort: Effort) -> Subjects:
    """Parts that follow each other."""
    count = effort.count(1000, 20)

    def whole(pool: Pool) -> Turn:
        add = _add(pool)
        return lambda: timed(lambda: pool.submit(add, 5, 3).result(), count)

    def request(pool: Pool) -> Turn:
        add = _add(pool)
        arguments: tuple[int, int] = (5, 3)
        return lambda: timed(
            lambda: CallFuture(add, build_request(add, arguments), lambda _: None), count
        )

    def guest(pool: Pool) -> Turn:
        add = _add(pool)
        return lambda: [add.detailed(5, 3)[1].wall_time * 1e6 for _ in range(count)]

    return {
        WHOLE: with_pool(whole, 1),
        "arguments to a request": with_pool(request, 1),
        "a message to another process and back": _another_process(count),
        "the worker: a fresh instance, and the guest": with_pool(guest, 1),
        "trio wakes, and gives the result to the caller's thread": _another_thread(count),
    }


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
