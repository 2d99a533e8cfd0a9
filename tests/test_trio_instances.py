"""Instances in a trio run: the same actors, awaited; cancelling a scope stops their calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import actor_guests
import pytest
import trio
from cores import innermost
from leftovers import nothing_left

from wasm_sandbox import (
    ConfigurationError,
    DeadlineExceeded,
    DeathCertificate,
    InstanceClosed,
    MissingExport,
    QueueFull,
    RestartIntensityReached,
    RestartPolicy,
    Trap,
    TrioInstance,
    TrioPool,
    WorkerLost,
    open_pool,
)

pytestmark = pytest.mark.usefixtures("patience")

COUNTER = actor_guests.COUNTER.encode()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def with_trio(cache: Path, work: Callable[[TrioPool], Awaitable[None]], **keywords: Any) -> None:
    async def main() -> None:
        with trio.fail_after(150):
            async with open_pool(workers=1, cache_dir=cache, **keywords) as pool:
                await work(pool)

    with nothing_left():
        try:
            trio.run(main)
        except BaseExceptionGroup as group:
            raise innermost(group) from group


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.sleep(0.002)


async def kill(instance: TrioInstance) -> None:
    """Kill its worker, and wait until that is known."""
    await until(lambda: instance.usage().pid)
    usage = instance.usage()
    assert usage.pid
    os.kill(usage.pid, signal.SIGKILL)
    await until(lambda: instance.usage().worker != usage.worker)


async def wait_for_spin(instance: TrioInstance) -> None:
    before = instance.usage().cpu_time
    await until(lambda: instance.usage().cpu_time > before + 0.02)


def test_trio_awaits_the_calls_of_an_instance(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        counter = await pool.load(COUNTER)
        async with pool.instance(counter) as instance:
            assert [await instance.call("increment") for _ in range(3)] == [1, 2, 3]
            value, receipt = await instance.detailed("add", 10)
            assert (value, receipt.attempts) == (13, 1)
            assert await instance.read_global("count") == 13
            await instance.call("poke", 8, 0x41)
            assert await instance.memory(8, 1) == b"A"
            await instance.write_memory(8, b"BC")
            assert await instance.memory(8, 2) == b"BC"
            assert instance.usage().calls == 9
            assert instance.module is counter
            with pytest.raises(Trap):
                await instance.call("fail")
            with pytest.raises(MissingExport):
                await instance.call("nothing")
            with pytest.raises(ConfigurationError):
                instance.link(instance)
        assert instance.usage().phase == "ended"
        with pytest.raises(InstanceClosed):
            await instance.call("increment")
        with pytest.raises(ConfigurationError):
            pool.instance(counter, restart="never")  # type: ignore[arg-type]

    with_trio(cache, work)


def test_cancelling_a_scope_stops_the_call_and_leaves_the_instance(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        async with pool.instance(await pool.load(COUNTER)) as instance:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(instance.call, "spin")
                await wait_for_spin(instance)
                with trio.move_on_after(0.05) as waiting:
                    await instance.call("increment")
                assert waiting.cancelled_caught
                with pytest.raises(DeadlineExceeded):
                    await instance.call("increment", timeout=0.05)
                nursery.cancel_scope.cancel()
            assert await instance.call("increment") == 201
            assert instance.usage().restarts == 0

    with_trio(cache, work)


def test_the_mailbox_has_its_bound(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        async with pool.instance(await pool.load(COUNTER), mailbox=1) as instance:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(instance.call, "spin")
                await wait_for_spin(instance)
                if pool.configuration.when_full == "raise":
                    with pytest.raises(QueueFull, match="mailbox"):
                        await instance.call("increment")
                else:
                    with pytest.raises(DeadlineExceeded):
                        await instance.call("increment", timeout=0.05)
                    assert instance.usage().waiting == 0
                nursery.cancel_scope.cancel()
            assert await instance.call("increment") == 201

    with_trio(cache, work)
    with_trio(cache, work, when_full="raise")


def test_a_lost_worker_and_an_asynchronous_on_restart(cache: Path) -> None:
    seen: list[DeathCertificate] = []

    async def rebuild(instance: TrioInstance) -> None:
        await trio.sleep(0.01)
        assert await instance.call("add", 1000) == 1000
        assert await instance.read_global("count") == 1000

    async def work(pool: TrioPool) -> None:
        async with pool.instance(await pool.load(COUNTER), on_restart=rebuild) as instance:
            instance.monitor(seen.append)
            async with trio.open_nursery() as nursery:

                async def lose() -> None:
                    with pytest.raises(WorkerLost):
                        await instance.call("spin")

                nursery.start_soon(lose)
                await wait_for_spin(instance)
                await kill(instance)
                assert await instance.call("increment") == 1001
        assert [each.cause for each in seen] == ["killed", "stopped"]

    with_trio(cache, work)


def test_an_on_restart_that_raises_ends_it_in_the_end(cache: Path) -> None:
    def rebuild(_: TrioInstance) -> None:
        raise KeyError("state")

    async def work(pool: TrioPool) -> None:
        policy = RestartPolicy(intensity=2, period=60)
        counter = await pool.load(COUNTER)
        async with pool.instance(counter, policy=policy, on_restart=rebuild) as instance:
            await kill(instance)
            with pytest.raises(RestartIntensityReached) as error:
                await instance.call("increment")
            assert isinstance(error.value.__cause__, KeyError)

    with_trio(cache, work)


def test_a_block_that_fails_cancels_the_calls_and_its_error_comes_out_as_it_is(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        counter = await pool.load(COUNTER)
        failures: list[BaseException] = []
        async with trio.open_nursery() as nursery:

            async def spin(instance: TrioInstance) -> None:
                try:
                    await instance.call("spin")
                except Trap as trap:
                    failures.append(trap)

            async def block() -> None:
                async with pool.instance(counter) as instance:
                    nursery.start_soon(spin, instance)
                    await wait_for_spin(instance)
                    raise KeyError

            with pytest.raises(KeyError):
                await block()
        assert len(failures) == 1

    with_trio(cache, work)


@pytest.mark.parametrize("when", ["at once", "in the block", "at its end"])
def test_cancelling_around_an_instance_leaves_nothing(cache: Path, when: str) -> None:
    async def work(pool: TrioPool) -> None:
        counter = await pool.load(COUNTER)
        with trio.CancelScope() as scope:
            if when == "at once":
                scope.deadline = trio.current_time() + 0.003
            async with pool.instance(counter) as instance, trio.open_nursery() as nursery:
                if when == "in the block":
                    nursery.start_soon(instance.call, "spin")
                    await wait_for_spin(instance)
                scope.deadline = trio.current_time() + 0.02
                if when == "at its end":
                    spin = instance._callee.function("spin", None, None)
                    request = instance._callee.request(spin, ())
                    instance._actor.submit(request, lambda _: None)
                else:
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        async with pool.instance(counter) as instance:
            assert await instance.call("increment") == 1

    with_trio(cache, work)


def test_an_instance_ends_with_its_pool(cache: Path) -> None:
    async def work(pool: TrioPool) -> None:
        held = pool.instance(await pool.load(COUNTER))
        kept.append(await held.__aenter__())
        blocks.append(held)
        assert await kept[0].call("increment") == 1

    async def after() -> None:
        with pytest.raises(InstanceClosed):
            await kept[0].call("increment")
        await blocks[0].__aexit__(None, None, None)

    kept: list[TrioInstance] = []
    blocks: list[Any] = []

    async def main() -> None:
        async with open_pool(workers=1, cache_dir=cache) as pool:
            await work(pool)
        await after()

    with nothing_left():
        trio.run(main)
