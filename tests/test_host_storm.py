"""A guest that calls a host function as often as it can: each call arrives once and in order, and
nothing grows. Nothing can: it waits for each answer before it calls again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host_guests import STORM
from importing_components import PRICES, SHOP

from wasm_sandbox import HostFunction, Limits, Pool

_log = logging.getLogger(__name__)
LIMITS = Limits(wall_time=3600.0, cpu_time=3600.0)
GROWTH = 4 << 20
"""Bytes by which a process may grow after a tenth of the calls: less than 20,000 that wait would
take, each with a frame, a task and its arguments."""
TIMEOUT = pytest.mark.timeout(3600)
Guest = tuple[bytes, Callable[[HostFunction], Any]]
CORE: Guest = STORM, lambda function: {"env": {"f": function}}
COMPONENT: Guest = SHOP, lambda function: {PRICES: {"unit_price": function}, "log": print}


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize(
    ("guest", "direct", "calls"),
    [
        pytest.param(CORE, True, 20_000, id="core-direct"),
        pytest.param(CORE, False, 2_000, id="core-threads"),
        pytest.param(COMPONENT, True, 5_000, id="component-direct"),
        *(
            pytest.param(guest, direct, calls, id=name, marks=[pytest.mark.slow, TIMEOUT])
            for guest, direct, calls, name in (
                (CORE, True, 1_000_000, "core-direct-million"),
                (CORE, False, 100_000, "core-threads-many"),
                (COMPONENT, True, 100_000, "component-direct-many"),
            )
        ),
    ],
)
def test_a_storm_of_calls_arrives_once_in_order_and_nothing_grows(
    guest: Guest, direct: bool, calls: int
) -> None:
    source, imports = guest
    arrived, strayed = 0, 0
    sizes: dict[int, tuple[int, int]] = {}
    """Of this process and of the worker, after so many calls."""

    def answer(number: int) -> Any:
        nonlocal arrived, strayed
        arrived += 1
        strayed += number != calls + 1 - arrived
        if arrived in (calls // 10, calls // 2, calls):
            sizes[arrived] = resident(os.getpid()), resident(worker.pid)
        return 1

    with Pool(1, limits=LIMITS) as pool:
        module = pool.load(source, imports=imports(HostFunction(answer, rate=1e6, direct=direct)))
        (worker,) = pool.workers()
        value, receipt = module["storm"].detailed(calls)
    assert (value, arrived, strayed, receipt.host_calls) == (calls, calls, 0, calls)
    _log.info("%d calls in %.1f s; sizes in bytes: %s", calls, receipt.wall_time, sizes)
    first, *later = sizes.values()
    for before, *after in zip(first, *later, strict=True):
        assert max(after) - before <= GROWTH, f"of this process and of its worker: {sizes}"
