"""The trio face, and asyncio on the synchronous one, end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import guest_commands
import guests
import pytest
import trio
import trio.testing
from leftovers import nothing_left

from wasm_sandbox import (
    ConfigurationError,
    DeadlineExceeded,
    GuestExit,
    Pool,
    PoolError,
    QueueFull,
    SignatureMismatch,
    Trap,
    TrioPool,
    open_pool,
)

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "guests"
ADD = guests.add().encode()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def with_trio(cache: Path, work: Callable[[TrioPool], Awaitable[None]], **keywords: Any) -> None:
    async def main() -> None:
        async with open_pool(workers=2, cache_dir=cache, **keywords) as pool:
            await work(pool)

    trio.run(main)


def test_trio_awaits_calls(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        calc = await pool.load(EXAMPLES / "calc.wasm")
        assert await pool.load(EXAMPLES / "calc.wasm") is calc
        assert await pool.call(calc["add"], 5, 3) == 8
        value, receipt = await pool.detailed(calc["add"], 5, 3)
        assert (value, receipt.attempts) == (8, 1)
        with pytest.raises(PoolError, match=r"await pool\.call"):
            calc["add"](5, 3)
        with pytest.raises(SignatureMismatch):
            await pool.call(calc["add"], 5)
        with pytest.raises(ConfigurationError, match="imports no such function"):
            await pool.load(ADD, imports={"env": {"price": print}})
        with pytest.raises(SignatureMismatch, match="no keyword arguments"):
            await pool.call(calc["add"], 5, 3, timeout=1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"pool\.load"):
            await pool.call(print, 5)  # type: ignore[arg-type]
        app = await pool.load(guest_commands.exits(7).encode())
        assert (await pool.run(app)).exit_code == 7
        with pytest.raises(GuestExit):
            await pool.run(app, check=True)
        assert pool.enforcement()
        assert pool.workers()

    with_trio(cache, work)


def test_cancelling_a_scope_stops_the_guest(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        spin = (await pool.load(guests.loop().encode()))["spin"]
        sleeps = (await pool.load(guest_commands.sleeps().encode())).main
        for guest in (spin, sleeps):
            with trio.move_on_after(0.3) as scope:
                await pool.call(guest)
            assert scope.cancelled_caught
        assert await pool.call((await pool.load(ADD))["add"], 1, 2) == 3

    with_trio(cache, work)


def test_calls_of_many_tasks_run_at_once_and_a_full_queue_waits(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        add = (await pool.load(ADD))["add"]
        sums: list[int] = []

        async def one(n: int) -> None:
            sums.append(await pool.call(add, n, n))

        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(one, n)
        assert sorted(sums) == [2 * n for n in range(100)]

    with_trio(cache, work, max_pending=10)


def test_a_full_queue_may_raise_or_time_out(cache: Path) -> None:
    async def raises(pool: TrioPool) -> None:
        spin = (await pool.load(guests.loop().encode()))["spin"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.call, spin)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QueueFull):
                await pool.call(spin)
            nursery.cancel_scope.cancel()

    async def times_out(pool: TrioPool) -> None:
        spin = (await pool.load(guests.loop().encode()))["spin"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.call, spin)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceeded):
                await pool.call(spin.options(timeout=0.05))
            nursery.cancel_scope.cancel()

    with_trio(cache, raises, max_pending=1, when_full="raise")
    with_trio(cache, times_out, max_pending=1)


def test_errors_of_the_block_come_out_as_they_are(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        await pool.call((await pool.load(guests.traps().encode()))["unreachable"])

    with pytest.raises(Trap):
        with_trio(cache, work)


@pytest.mark.parametrize("seconds", [0, 0.001, 0.02, 0.05, 0.1, 0.2])
def test_a_pool_that_is_cancelled_while_it_opens_leaves_nothing(
    cache: Path, tmp_path: Path, seconds: float
) -> None:
    async def main() -> None:
        with trio.move_on_after(seconds) as scope:
            async with open_pool(workers=2, cache_dir=cache, audit=tmp_path / "audit"):
                await trio.sleep_forever()
        assert scope.cancelled_caught

    with nothing_left():
        trio.run(main)


def test_a_pool_that_cannot_open_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pool(cache_dir="/proc/cache", audit=tmp_path / "audit"):
            pass

    with nothing_left(), pytest.raises(ConfigurationError, match="cache_dir"):
        trio.run(main)


def test_a_cancelled_block_leaves_nothing(cache: Path) -> None:
    async def main() -> None:
        with trio.move_on_after(1) as scope:
            async with open_pool(workers=1, cache_dir=cache) as pool:
                await pool.call((await pool.load(guests.loop().encode()))["spin"])
        assert scope.cancelled_caught

    with nothing_left():
        trio.run(main)


def test_asyncio_awaits_and_cancels(cache: Path) -> None:
    async def main(pool: Pool) -> None:
        add = pool.load(ADD)["add"]
        spin = pool.load(guests.loop().encode())["spin"]
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, add, 5, 3) == 8
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(pool.submit(spin)), 0.2)
        assert await asyncio.wrap_future(pool.submit(add, 1, 2)) == 3

    with Pool(2, cache_dir=cache) as pool:
        asyncio.run(main(pool))
