"""What the jail costs: a worker's start and its calls, behind every wall that this machine allows
and behind none that can be left out."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

from ..supervisor import keeper
from ..supervisor.cgroups import Hierarchy
from ..supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from ..supervisor.cgroups.model import Unavailable
from ..supervisor.spawn import ZygotePopen, start_zygote
from ..supervisor.watch import processor_clock
from ..supervisor.zygote import Zygote
from .guests import ADD
from .measure import timed
from .model import Figure
from .pools import new_pool, warm
from .registry import Effort, Subjects, Turn, benchmark


def _bare_zygote(_: Zygote) -> tuple[ZygotePopen, socket.socket]:
    return start_zygote(chosen=())


def _no_groups() -> Hierarchy:
    left_out = Unavailable(reason="left out by the benchmark", remedy="")
    return NoHierarchy(dict.fromkeys(map(str, CONTROLLERS), left_out))


@contextmanager
def _without_walls() -> Generator[None]:
    """Pools made in the block have only the walls that cannot be left out. No setting of a pool
    does this."""
    bare = mock.patch.object(Zygote, "_start", _bare_zygote)
    with bare, mock.patch.object(keeper, "discover", _no_groups):
        yield


class _Watch:
    """Workers as they come up."""

    def __init__(self) -> None:
        self.started: list[float] = []
        self.used: list[float] = []
        self._pids: dict[int, int] = {}
        self._ready = threading.Event()

    def __call__(self, event: Any) -> None:
        match type(event).__name__:
            case "WorkerStarted":
                self._pids[event.worker] = event.pid
            case "WorkerReady":
                self.started.append(event.seconds * 1e3)
                self.used.append((processor_clock(self._pids[event.worker]) or 0.0) * 1e3)
                self._ready.set()
            case _:
                pass

    def begin(self) -> None:
        """Forget what came before."""
        self._ready.clear()

    def wait(self) -> None:
        """Until a worker is READY."""
        if not self._ready.wait(60):
            raise TimeoutError("no worker is READY after a minute")


@benchmark(
    Figure(name="jail-start", title="a worker, from fork to READY", unit="ms"),
    Figure(name="jail-processor", title="processor time of a worker until READY", unit="ms"),
    Figure(name="jail-call", title="one call at a time, one worker", unit="µs"),
    Figure(
        name="jail-calls",
        title="tiny calls, thousands in flight, one worker",
        unit="calls/s",
        better="higher",
    ),
)
def jail(effort: Effort) -> Subjects:
    """Behind all walls, and behind none."""
    calls, starts = effort.count(1000, 20), effort.count(10, 2)

    @contextmanager
    def of(*, walls: bool) -> Generator[Turn]:
        watch, tenants = _Watch(), itertools.count()
        with ExitStack() as stack:
            with nullcontext() if walls else _without_walls():
                pool = stack.enter_context(new_pool(1, on_event=watch))
            add = pool.load(ADD)["add"]

            def turn() -> dict[str, list[float]]:
                for _ in range(starts):  # each tenant has a worker of its own
                    watch.begin()
                    add.options(tenant=f"number {next(tenants)}")(5, 3)
                    watch.wait()
                started, used = watch.started[-starts:], watch.used[-starts:]
                warm(pool, add, 5, 3)
                single = timed(lambda: add(5, 3), calls)
                [bunch] = timed(lambda: warm(pool, add, 5, 3, calls=calls), 1, scale=1)
                return {
                    "jail-start": started,
                    "jail-processor": used,
                    "jail-call": single,
                    "jail-calls": [calls / bunch],
                }

            yield turn

    return {"all walls": of(walls=True), "no walls": of(walls=False)}
