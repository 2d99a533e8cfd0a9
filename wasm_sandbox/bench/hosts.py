"""A guest calls the program."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ..imports import HostFunction
from .functions import same
from .guests import ASKS, ASKS_WITH_BYTES, COMPONENT_ASKS
from .measure import timed
from .model import OURS, Figure
from .pools import new_pool
from .registry import Effort, Subjects, Turn, benchmark

_RATE = 1e6


async def _awaited(number: int) -> int:
    await asyncio.sleep(0)
    return number


def _echo(data: bytes) -> bytes:
    return data


def _each(run: Callable[[], object], calls: int) -> list[float]:
    return [sample / calls for sample in timed(run, 1)]


@contextmanager
def _asking(calls: int, source: bytes = ASKS, **functions: Any) -> Generator[Turn]:
    with new_pool(1) as pool:
        ask = pool.load(source, **functions)["ask"]
        ask(calls)
        yield lambda: _each(lambda: ask(calls), calls)


def _serve(connection: Connection) -> None:
    while (number := connection.recv()) is not None:
        connection.send(same(number))


@contextmanager
def _pipe(calls: int) -> Generator[Turn]:
    ours, theirs = multiprocessing.Pipe()
    peer = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    peer.start()

    def question() -> None:
        for number in range(calls):
            ours.send(number)
            ours.recv()

    try:
        question()
        yield lambda: _each(question, calls)
    finally:
        ours.send(None)
        peer.join()


@benchmark(
    Figure(
        name="host-call",
        title="a guest calls a function of the program, there and back",
        unit="µs",
        note="Many questions of one call.",
    )
)
def host_call(effort: Effort) -> Subjects:
    """In its several ways, and a question to another process by a pipe."""
    calls = effort.count(500, 20)

    def asking(function: HostFunction) -> dict[str, Any]:
        return {"imports": {"env": {"f": function}}}

    ways: dict[str, dict[str, Any]] = {
        "direct": asking(HostFunction(same, direct=True, rate=_RATE)),
        "in a thread": asking(HostFunction(same, rate=_RATE)),
        "a coroutine": asking(HostFunction(_awaited, rate=_RATE)),
        "`worker_imports=`": {"worker_imports": {"env": {"f": same}}},
    }
    component: dict[str, Any] = {"imports": {"f": HostFunction(same, direct=True, rate=_RATE)}}
    return {
        **{f"{OURS}, {way}": _asking(calls, **given) for way, given in ways.items()},
        f"{OURS}, direct, from a component": _asking(calls, COMPONENT_ASKS, **component),
        "multiprocessing.Pipe": _pipe(calls),
    }


@benchmark(
    Figure(
        name="host-call-bytes",
        title="a guest calls a function of the program, with bytes each way",
        unit="µs",
        kind="growth",
        axis="bytes",
    )
)
def host_call_bytes(effort: Effort) -> Subjects:
    """``direct=True``, 1 KiB to 1 MiB."""
    calls = effort.count(50, 5)

    @contextmanager
    def ours(size: int) -> Generator[Turn]:
        with new_pool(1) as pool:
            echo = HostFunction(_echo, direct=True, rate=_RATE)
            ask = pool.load(ASKS_WITH_BYTES, imports={"env": {"f": echo}})["ask"]
            ask(size, calls)
            yield lambda: _each(partial(ask, size, calls), calls)

    return {str(size): ours(size) for size in (1 << 10, 1 << 15, 1 << 20)}
