"""Our own pools, as benchmarks need them."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ..pool import Pool
from .registry import Absent, Turn

WORKERS = 2
MIB = 1 << 20
_PATIENCE = 60.0


@contextmanager
def new_pool(workers: int = WORKERS, **settings: Any) -> Generator[Pool]:
    """A pool with a cache of its own."""
    with tempfile.TemporaryDirectory() as cache, Pool(workers, cache_dir=cache, **settings) as pool:
        yield pool


@contextmanager
def with_pool(
    turn_of: Callable[[Pool], Turn], workers: int = WORKERS, **settings: Any
) -> Generator[Turn]:
    """A subject: a turn that needs a pool."""
    with new_pool(workers, **settings) as pool:
        yield turn_of(pool)


@contextmanager
def just(turn: Turn) -> Generator[Turn]:
    """A subject that needs nothing made ready."""
    yield turn


Subject = AbstractContextManager[Turn]


def warm(pool: Pool, function: Any, *args: Any, calls: int = 200) -> None:
    """Have every worker know a function."""
    for future in [pool.submit(function, *args) for _ in range(calls)]:
        future.result()


def all_idle(pool: Pool, workers: int) -> None:
    """Wait until so many workers are up.

    Raises:
        TimeoutError: they are not, after a minute.
    """
    until("the workers are up", lambda: _idle(pool) >= workers)


def until(what: str, condition: Callable[[], bool], pause: float = 0.02) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it has not come about in a minute.
    """
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(pause)


def more_descriptors() -> None:
    """As many as this process may have: a crowd needs some for each of its workers."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def kill(pid: int) -> None:
    """End a worker of ours as the kernel does."""
    os.kill(pid, signal.SIGKILL)


def _idle(pool: Pool) -> int:
    return sum(worker.phase == "idle" for worker in pool.workers())


# --- what the kernel says -------------------------------------------------------------------------

ROOT_ALONE = "the kernel shows the memory of a jailed worker to root alone: run this as root"


def pss(pid: int) -> int:
    """Bytes of memory of a process, pages that it shares divided by those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        raise Absent(ROOT_ALONE) from None
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def family(pid: int) -> list[int]:
    """A process and all its descendants; not those that have no memory of their own."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if Path(f"/proc/{child}/comm").read_text() != "wasm-init\n":  # like a thread
                found += family(child)
    return found


def share(pids: list[int], seconds: float) -> float:
    """Processor time that processes use, in % of one processor; this one without its asking."""

    def used() -> float:
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids if pid != os.getpid())

    before, own = used(), time.process_time()
    time.sleep(seconds)
    own = time.process_time() - own
    return (used() - before + own) / seconds * 100
