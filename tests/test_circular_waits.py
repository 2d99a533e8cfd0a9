"""What waits for who waits for it, in host functions and ``on_restart``, is refused or let go."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from host_guests import REACTOR
from leftovers import nothing_left

from wasm_sandbox import (
    HostFunctionError,
    Instance,
    InstanceClosed,
    Pool,
    PoolClosed,
    PoolError,
    RestartIntensityReached,
    RestartPolicy,
    Trap,
    open_pool,
)

ONCE = RestartPolicy(intensity=1, backoff_first=0.001)
WAITS: dict[str, Callable[[Any], Any]] = {
    "call": lambda instance: instance.call("run", 1),
    "memory": lambda instance: instance.memory(0, 8),
    "write_memory": lambda instance: instance.write_memory(0, b"x"),
    "read_global": lambda instance: instance.read_global("base"),
    "snapshot": lambda instance: instance.snapshot(),
    "close": lambda instance: instance.close(),
}
GUEST = REACTOR.replace(b"(global $base", b'(global $base (export "base")')
HOST = "a host function cannot wait for the instance"
HOOK = "on_restart cannot wait for the instance"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def stream(instance: Instance) -> object:
    return list(instance.stream("run", [1]))


class Asking:
    """A function that waits for an instance, once it has one."""

    wait: Callable[[Any], Any]
    instance: Any = None

    def __call__(self, given: Any) -> Any:
        if self.instance is not None:
            self.wait(self.instance)
        return given


def kill(instance: Any) -> None:
    os.kill(instance.usage().pid, signal.SIGKILL)


def test_a_host_function_cannot_wait_for_the_instance_that_waits_for_it(cache: Path) -> None:
    asking = Asking()
    with Pool(1, cache_dir=cache) as pool:
        module = pool.load(GUEST, imports={"env": {"f": asking}})
        with pool.instance(module) as instance:
            asking.instance = instance
            for asking.wait in (*WAITS.values(), stream):
                with pytest.raises(HostFunctionError) as caught:
                    instance.call("run", 1)
                assert isinstance(caught.value.__cause__, PoolError)
                assert HOST in str(caught.value.__cause__)
            asking.instance = None
            assert instance.call("run", 1) == 2  # it lives, and its mailbox is open


def test_on_restart_cannot_wait_for_the_instance_that_waits_for_it(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        module = pool.load(GUEST, imports={"env": {"f": abs}})
        for wait in (*WAITS.values(), stream):
            rebuild = Asking()
            with pool.instance(module, policy=ONCE, on_restart=rebuild) as instance:
                rebuild.wait, rebuild.instance = wait, instance
                kill(instance)
                with pytest.raises(RestartIntensityReached) as caught:
                    instance.call("run", 1)
                assert isinstance(caught.value.__cause__, PoolError)
                assert HOOK in str(caught.value.__cause__)


def test_in_trio_neither_can_wait_for_the_instance_that_waits_for_it(cache: Path) -> None:
    asking = Asking()

    async def ask() -> None:
        found = asking.wait(asking.instance)
        assert inspect.isawaitable(found)
        await found

    async def host(number: int) -> int:
        if number == 7:
            await ask()
        return number

    async def rebuild(_: object) -> None:
        await ask()

    async def main() -> None:
        with trio.fail_after(50):
            async with open_pool(workers=1, cache_dir=cache) as pool:
                module = await pool.load(GUEST, imports={"env": {"f": host}})
                for asking.wait in WAITS.values():
                    async with pool.instance(module, policy=ONCE, on_restart=rebuild) as instance:
                        asking.instance = instance
                        with pytest.raises(HostFunctionError) as caught:
                            await instance.call("run", 7)
                        assert HOST in str(caught.value.__cause__)
                        kill(instance)
                        with pytest.raises(RestartIntensityReached) as ended:
                            await instance.call("run", 1)
                        assert HOOK in str(ended.value.__cause__)

    trio.run(main)


def test_on_restart_can_give_its_instance_up(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        module = pool.load(GUEST, imports={"env": {"f": abs}})
        with pool.instance(
            module, on_restart=lambda instance: instance.close(cancel=True)
        ) as instance:
            kill(instance)
            with pytest.raises((Trap, InstanceClosed)):
                instance.call("run", 1)
            with pytest.raises(InstanceClosed):
                instance.call("run", 1)


def test_in_trio_on_restart_can_give_its_instance_up(cache: Path) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with open_pool(workers=1, cache_dir=cache) as pool:
                module = await pool.load(GUEST, imports={"env": {"f": abs}})
                async with pool.instance(
                    module, on_restart=lambda instance: instance.close(cancel=True)
                ) as instance:
                    kill(instance)
                    with pytest.raises((Trap, InstanceClosed)):
                        await instance.call("run", 1)

    trio.run(main)


@pytest.mark.parametrize("cancel", [False, True])
def test_on_restart_may_shut_its_pool_down(cancel: bool, cache: Path) -> None:
    pool = Pool(1, cache_dir=cache)
    with pool:
        module = pool.load(GUEST, imports={"env": {"f": abs}})
        shut_down = partial(pool.shutdown, cancel_futures=cancel)
        instance = pool.instance(module, on_restart=lambda _: shut_down())
        kill(instance)
        waiting = instance.submit("run", 1)
        if cancel:
            with pytest.raises((CancelledError, Trap)):
                waiting.result(30)
        else:
            assert waiting.result(30) == 2
        pool.shutdown()
        with pytest.raises(PoolClosed):
            instance.call("run", 1)
