"""Bytes into a guest and out of it, next to a copy from memory to memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from ..protocol.limits import Limits
from .guests import BUFFERS
from .model import OURS, Figure, Target
from .pools import MIB, Subject, just, new_pool
from .registry import Effort, Subjects, Turn, benchmark

SIZE = 64 * MIB
SIZES = tuple(1 << shift for shift in (10, 14, 18, 22, 26))
_LIMITS = Limits(memory=256 * MIB, output=2 * SIZE, wall_time=60)
FRESH, TOUCHED = OURS + ", a fresh instance", OURS + ", an instance whose memory is touched"
COPY = "copy in this process"


def data_of(size: int) -> bytes:
    """Bytes that lie in memory of their own: zeros might all be one page of the kernel's."""
    return b"\x5a" * size


def gigabytes(run: Callable[[], object], size: int) -> float:
    """A second, of ``size`` bytes."""
    begun = time.perf_counter()
    run()
    return size / (time.perf_counter() - begun) / 1e9


def _copy(into: bytearray, data: bytes) -> Turn:
    view = memoryview(into)

    def run() -> None:
        view[:] = data

    return lambda: gigabytes(run, len(data))


@contextmanager
def _fresh(name: str, size: int, *args: Any, returns: Any = None) -> Generator[Turn]:
    with new_pool(1, limits=_LIMITS) as pool:
        function = pool.load(BUFFERS)[name].options(returns=returns)
        function(*args)
        yield lambda: gigabytes(lambda: function(*args), size)


@contextmanager
def _touched(name: str, size: int, *args: Any, returns: Any = None) -> Generator[Turn]:
    with new_pool(1, limits=_LIMITS) as pool, pool.instance(pool.load(BUFFERS)) as instance:
        instance.call("length", data_of(size))
        yield lambda: gigabytes(lambda: instance.call(name, *args, returns=returns), size)


@benchmark(
    Figure(
        name="bytes-in",
        title="64 MiB of bytes into a guest",
        unit="GB/s",
        better="higher",
        targets=(Target(subject=TOUCHED, bound=4), Target(subject=FRESH, bound=1)),
    )
)
def bytes_in(effort: Effort) -> Subjects:
    """``length(data)``."""
    data = data_of(effort.size(SIZE, MIB))
    return {
        FRESH: _fresh("length", len(data), data),
        TOUCHED: _touched("length", len(data), data),
        COPY: just(_copy(bytearray(data), data)),
    }


@benchmark(
    Figure(
        name="bytes-out",
        title="64 MiB of bytes out of a guest",
        unit="GB/s",
        note="Into a buffer that the caller uses again (`returns=buffer`), and as new `bytes`.",
        better="higher",
        targets=(
            Target(subject=TOUCHED + ", into a buffer", bound=4),
            Target(subject=TOUCHED + ", as new bytes", bound=0.8),
        ),
    )
)
def bytes_out(effort: Effort) -> Subjects:
    """``give(size)``."""
    size = effort.size(SIZE, MIB)
    into = bytearray(data_of(size))

    def both(make: Callable[..., Subject], whose: str) -> dict[str, Subject]:
        return {
            whose + ", into a buffer": make("give", size, size, returns=into),
            whose + ", as new bytes": make("give", size, size, returns=bytes),
        }

    return {
        **both(_fresh, FRESH),
        **both(_touched, TOUCHED),
        COPY: just(_copy(bytearray(data_of(size)), data_of(size))),
    }


@benchmark(
    Figure(
        name="bytes-by-size",
        title="bytes into a fresh instance, by size",
        unit="GB/s",
        better="higher",
        kind="growth",
        axis="bytes",
    )
)
def bytes_by_size(effort: Effort) -> Subjects:
    """``length(data)`` from 1 KiB to 64 MiB."""
    most = effort.size(SIZE, MIB)
    return {str(size): _fresh("length", size, data_of(size)) for size in SIZES if size <= most}
