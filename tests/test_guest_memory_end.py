"""Host functions in the memory of their guest, and the ends of functions, calls, workers and pools:
nothing hangs, and nobody reaches another guest."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from host_guests import forward
from leftovers import nothing_left

from wasm_sandbox import (
    AsyncGuestMemory,
    DeadlineExceeded,
    GuestMemory,
    HostFunction,
    HostFunctionError,
    Limits,
    Module,
    Pool,
    PoolError,
    WorkerLost,
    open_pool,
)

pytestmark = pytest.mark.usefixtures("patience")

STUCK = 60.0
"""Seconds after which a test gives up waiting for something that has to come."""
PAGE = 65536
SPINS = '(func (export "alloc") (param i32) (result i32) (loop $l (br $l)) (unreachable))'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache) as pool:
        yield pool


def load(pool: Pool, function: Any, source: bytes = forward("i32", "i64")) -> Module:
    return pool.load(source, imports={"env": {"f": function}})


def first(at: int, *, memory: GuestMemory) -> int:
    return memory.read(at, 1)[0]


def check_service(pool: Pool) -> None:
    """The next guest is served."""
    assert load(pool, first)["call"](8) == ord("A")


class Spinning:
    """A function whose guest never makes the room that it asks for, and what it is told."""

    def __init__(self) -> None:
        self.begun, self.told = threading.Event(), threading.Event()
        self.error: BaseException | None = None

    def plain(self, *, memory: GuestMemory) -> None:
        self.begun.set()
        try:
            memory.allocate(8)
        except BaseException as error:
            self._tell(error)
            raise

    async def coroutine(self, *, memory: AsyncGuestMemory) -> None:
        self.begun.set()
        try:
            await memory.allocate(8)
        except BaseException as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        self.error = error
        self.told.set()

    def check(self, kind: str) -> None:
        assert self.told.wait(STUCK)
        assert isinstance(self.error, PoolError if kind == "plain" else asyncio.CancelledError)


KINDS = ["plain", "coroutine"]


@pytest.fixture
def spinning() -> Spinning:
    return Spinning()


def spins(pool: Pool, spinning: Spinning, kind: str, **bounds: Any) -> Module:
    function = HostFunction(getattr(spinning, kind), **bounds)
    return load(pool, function, forward(alloc=SPINS))


@pytest.mark.parametrize("kind", KINDS)
def test_deadlines_hold_while_the_guest_makes_room(
    pool: Pool, spinning: Spinning, kind: str
) -> None:
    check_service(pool)  # by now there is one
    workers = [worker.pid for worker in pool.workers()]
    call = spins(pool, spinning, kind)["call"].options(limits=Limits(wall_time=0.2))
    with pytest.raises(DeadlineExceeded):
        call()
    spinning.check(kind)
    with pytest.raises(HostFunctionError, match=r"timeout of 0\.2 s") as late:
        spins(pool, spinning, kind, timeout=0.2)["call"]()
    assert isinstance(late.value.__cause__, TimeoutError)
    future = pool.submit(spins(pool, spinning := Spinning(), kind)["call"])
    assert spinning.begun.wait(STUCK)
    assert future.cancel()
    spinning.check(kind)
    check_service(pool)
    assert [worker.pid for worker in pool.workers()] == workers


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_killed_meanwhile_costs_that_call_alone(
    pool: Pool, spinning: Spinning, kind: str
) -> None:
    future = pool.submit(spins(pool, spinning, kind)["call"])
    behind = pool.submit(load(pool, first)["call"], 8)
    assert spinning.begun.wait(STUCK)
    os.kill(pool.workers()[0].pid, signal.SIGKILL)
    assert isinstance(future.exception(STUCK), WorkerLost)
    spinning.check(kind)
    assert behind.result(STUCK) == ord("A")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_can_be_shut_down_meanwhile(cache: Path, spinning: Spinning, kind: str) -> None:
    pool = Pool(1, cache_dir=cache)
    future = pool.submit(spins(pool, spinning, kind)["call"])
    assert spinning.begun.wait(STUCK)
    pool.shutdown(cancel_futures=True)
    assert future.cancelled()
    spinning.check(kind)


def test_a_cancelled_scope_ends_the_function_that_waits_for_room(cache: Path) -> None:
    async def main() -> None:
        async def waits(*, memory: AsyncGuestMemory) -> None:
            scope.cancel()
            try:
                await memory.allocate(8)
            finally:
                ended.append("cancelled")

        ended: list[str] = []
        async with open_pool(1, cache_dir=cache) as pool:
            module = await pool.load(forward(alloc=SPINS), imports={"env": {"f": waits}})
            with trio.CancelScope() as scope:
                await pool.call(module["call"])
            assert scope.cancelled_caught
            module = await pool.load(forward("i32", "i64"), imports={"env": {"f": first}})
            assert await pool.call(module["call"], 8) == ord("A")
        assert ended == ["cancelled"]

    trio.run(main)


def test_an_access_that_is_given_up_does_not_disturb_the_next(pool: Pool) -> None:
    async def impatient(at: int, *, memory: AsyncGuestMemory) -> int:
        for _ in range(20):
            task = asyncio.ensure_future(memory.write(PAGE, bytes(1 << 20)))
            await asyncio.sleep(0)
            task.cancel()
            assert await memory.read(at, 4) == b"ACME"
        task = asyncio.ensure_future(memory.write(PAGE, bytes(1 << 20)))
        await asyncio.sleep(0)
        task.cancel()
        return 7

    source = forward("i32", "i64", memory='(memory (export "memory") 20)')
    assert [load(pool, impatient, source)["call"](8) for _ in range(5)] == [7] * 5


def test_it_is_dead_when_the_function_has_returned(cache: Path) -> None:
    kept: list[GuestMemory] = []

    def keeps(at: int, *, memory: GuestMemory) -> int:
        kept.append(memory)
        return at

    with Pool(1, cache_dir=cache) as pool:
        assert load(pool, keeps)["call"](3) == 3
        for use in (lambda: kept[0].read(0, 1), lambda: kept[0].size, lambda: kept[0].allocate(1)):
            with pytest.raises(PoolError, match="is over"):
                use()
    with pytest.raises(PoolError, match="is over"):
        kept[0].write(0, b"x")


def test_a_thread_that_goes_on_never_meets_the_next_guest(pool: Pool) -> None:
    ended: list[str] = []

    def hammers(at: int, *, memory: GuestMemory) -> int:
        def hammer() -> None:
            try:
                while True:
                    begun.set()
                    memory.write(at, b"\xff" * 40_000)
            except PoolError as error:
                ended.append(str(error))

        begun = threading.Event()
        threads.append(threading.Thread(target=hammer))
        threads[-1].start()
        assert begun.wait(STUCK)
        return at

    def looks(at: int, *, memory: GuestMemory) -> int:
        return sum(any(memory.read(at, 40_000)) for _ in range(3))

    threads: list[threading.Thread] = []
    one, other = load(pool, hammers), load(pool, looks)
    for _ in range(20):
        assert one["call"](8192) == 8192
        assert other["call"](8192) == 0
    for thread in threads:
        thread.join(STUCK)
    assert len(ended) == 20


def test_a_thread_that_was_given_up_is_told(pool: Pool) -> None:
    def slow(at: int, *, memory: GuestMemory) -> int:
        over.wait(STUCK)
        try:
            memory.write(at, b"late")
        except PoolError as error:
            told.append(error)
        done.set()
        return 0

    over, done = threading.Event(), threading.Event()
    told: list[PoolError] = []
    with pytest.raises(HostFunctionError, match="timeout"):
        load(pool, HostFunction(slow, timeout=0.05))["call"](8)
    over.set()
    assert done.wait(STUCK)
    assert len(told) == 1


def test_the_supervisors_thread_does_not_wait_for_itself(cache: Path) -> None:
    async def main() -> None:
        def misuses(at: int, *, memory: GuestMemory) -> int:
            with pytest.raises(PoolError, match="own thread"):
                trio.from_thread.run_sync(memory.read, at, 4)
            return memory.read(at, 1)[0]

        async with open_pool(1, cache_dir=cache) as pool:
            module = await pool.load(forward("i32", "i64"), imports={"env": {"f": misuses}})
            assert await pool.call(module["call"], 8) == ord("A")

    trio.run(main)
