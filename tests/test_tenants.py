"""No worker process ever serves two tenants, however their calls are mixed."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import guests
import pytest
import trio
from cores import run, serving
from native import attack_request, native_workers

from wasm_sandbox import Event, Pool
from wasm_sandbox.protocol.events import WorkerStarted

ADD = guests.add().encode()
TENANTS = (None, "a", "A", "b", "None")
CALLERS, CALLS = 4, 40
"""How many ask at once, and how often each does, each time for another tenant."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def turns(caller: int) -> Sequence[str | None]:
    """Whose turn it is, call by call: some in bunches, some in turn."""
    chance = random.Random(caller)
    names: list[str | None] = []
    while len(names) < CALLS:
        names += [chance.choice(TENANTS)] * chance.choice((1, 1, 1, 5))
    return names[:CALLS]


def test_no_process_remembers_two_tenants(cache: Path) -> None:
    """Told by the workers' own memory: whoever runs native code there leaves his name."""
    visitors: defaultdict[int, set[str | None]] = defaultdict(set)
    calls: defaultdict[str | None, int] = defaultdict(int)

    async def main() -> None:
        async with serving(cache, workers=2) as driver, trio.open_nursery() as nursery:
            module = await driver.load(ADD)

            async def caller(number: int) -> None:
                for tenant in turns(number):
                    request = attack_request(driver, module, "visit", name=tenant, tenant=tenant)
                    outcome = await driver.outcome(request)
                    assert outcome.error is None
                    assert outcome.data is not None
                    assert outcome.receipt.worker is not None
                    seen = json.loads(outcome.data)["visitors"]
                    visitors[outcome.receipt.worker].update(seen)
                    assert seen[-1] == tenant
                    calls[tenant] += 1

            for number in range(CALLERS):
                nursery.start_soon(caller, number)

    with native_workers():
        run(main)
    assert [names for names in visitors.values() if len(names) > 1] == []
    assert {name for names in visitors.values() for name in names} == set(TENANTS)
    assert sum(calls.values()) == CALLERS * CALLS
    assert len(visitors) > len(TENANTS), "no worker had to make room: nothing was shown"


def test_no_worker_of_a_pool_has_two_tenants_in_its_receipts(cache: Path) -> None:
    events: list[Event] = []
    pairs: set[tuple[int | None, str | None]] = set()

    with Pool(2, cache_dir=cache, on_event=events.append) as pool:
        add = pool.load(ADD)["add"]
        tenants = {name: add.options(tenant=name) for name in TENANTS}

        def caller(number: int) -> None:
            for lone, tenant in enumerate(turns(number)):
                if lone % 2:
                    future = pool.submit(tenants[tenant], lone, number)
                    assert future.result() == lone + number
                    pairs.add((future.receipt.worker, tenant))
                else:
                    bunch = [pool.submit(tenants[tenant], lone, n) for n in range(3)]
                    assert [future.result() for future in bunch] == [lone, lone + 1, lone + 2]
                    pairs.update((future.receipt.worker, tenant) for future in bunch)

        threads = [threading.Thread(target=caller, args=(n,)) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    workers = [worker for worker, _ in pairs]
    assert len(workers) == len(set(workers)), sorted(map(str, pairs))
    assert {tenant for _, tenant in pairs} == set(TENANTS)
    started = [event for event in events if isinstance(event, WorkerStarted)]
    assert len({event.worker for event in started}) == len(started), "a number was given twice"
    assert set(workers) <= {event.worker for event in started}
