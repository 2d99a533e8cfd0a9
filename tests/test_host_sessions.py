"""Instances that keep their state call functions of this program, too."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from cores import Driver, i32, run, serving, slots
from host_guests import forward

from wasm_sandbox.imports import read_imports
from wasm_sandbox.linking import link
from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.errors import HostFunctionError, PoolError, Trap
from wasm_sandbox.protocol.events import CallStopped
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.runners import TrioRunner
from wasm_sandbox.supervisor import imports
from wasm_sandbox.supervisor.requests import ModuleHandle

pytestmark = pytest.mark.usefixtures("patience")

STATE = b"""(module
  (import "env" "f" (func $f (param i32) (result i32)))
  (global $sum (mut i32) (i32.const 0))
  (func (export "add") (param i32) (result i32)
    (global.set $sum (i32.add (global.get $sum) (call $f (local.get 0)))) (global.get $sum))
  (export "f" (func $f)))"""
BORROWER = b"""(module
  (import "lender" "f" (func $f (param i32) (result i32)))
  (func (export "ask") (param i32) (result i32) (call $f (local.get 0))))"""


async def load(driver: Driver, source: bytes, function: Any) -> ModuleHandle:
    """A module with ``env.f``."""
    handle = await driver.load(source)
    given = read_imports({"env": {"f": function}})
    return link(given, handle, TrioRunner(1, driver.core.start))


def number(result: bytes) -> int:
    return int.from_bytes(result[:4], "little", signed=True)


def test_an_instance_calls_the_functions_that_its_module_was_loaded_with() -> None:
    async def main() -> None:
        async with serving(workers=1) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())
            doubles = await load(driver, STATE, lambda number: number * 2)
            negates = await load(driver, STATE, lambda number: -number)
            one, other = [await session.instantiate(each) for each in (doubles, negates)]
            assert number(await session.invoke(one, "add", slots(5))) == 10
            assert number(await session.invoke(one, "add", slots(6))) == 22
            assert number(await session.invoke(other, "add", slots(6))) == -6
            borrower = await driver.load(BORROWER)
            third = await session.instantiate(borrower, ((one, "f"),))
            assert number(await session.invoke(third, "ask", slots(7))) == 14
            await session.close()

    run(main)


def named(size: int) -> str:
    return "x" * size


def test_text_is_written_into_an_instances_memory() -> None:
    async def main() -> None:
        async with serving(workers=1) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())
            instance = await session.instantiate(
                await load(driver, forward("i32", "i32 i32"), named)
            )
            found = await session.invoke(instance, "call", slots(5))
            assert number(found[16:]) == 5
            await session.close()

    run(main)


def test_a_function_that_fails_leaves_the_instance_alive() -> None:
    async def main() -> None:
        async with serving(workers=1) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())
            instance = await session.instantiate(await load(driver, STATE, lambda n: 10 // n))
            assert number(await session.invoke(instance, "add", slots(5))) == 2
            with pytest.raises(HostFunctionError) as caught:
                await session.invoke(instance, "add", slots(0))
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert number(await session.invoke(instance, "add", slots(2))) == 7
            await session.close()

    run(main)


def test_a_cancelled_call_cancels_the_function_and_leaves_the_instance_alive() -> None:
    async def main() -> None:
        async with serving(workers=1) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())

            async def waits(number: int) -> int:
                if number:
                    return number
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    ended.append("cancelled")

            ended: list[str] = []
            instance = await session.instantiate(await load(driver, STATE, waits))
            with trio.CancelScope() as scope:
                await session.invoke(instance, "add", slots(0))
            while not any(isinstance(event, CallStopped) for event in driver.events):
                await trio.sleep(0.01)  # a session is sent its next call when the last is over
            assert number(await session.invoke(instance, "add", slots(3))) == 3
            assert ended == ["cancelled"]
            await session.close()

    run(main)


def test_a_function_cannot_wait_for_the_instance_that_waits_for_it() -> None:
    async def main() -> None:
        async with serving(workers=1) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())
            other = await driver.core.open_session(Limits(), Capabilities())

            async def again(number_: int) -> int:
                return number(await session.invoke(instance, "add", slots(number_)))

            async def around(number_: int) -> int:
                return number(await other.invoke(second, "add", slots(number_)))

            instance = await session.instantiate(await load(driver, STATE, again))
            with pytest.raises(HostFunctionError) as caught:
                await session.invoke(instance, "add", slots(1))
            assert isinstance(caught.value.__cause__, PoolError)

            second = await other.instantiate(await load(driver, STATE, again))
            instance = await session.instantiate(await load(driver, STATE, around))
            with pytest.raises(HostFunctionError) as caught:
                await session.invoke(instance, "add", slots(1))
            assert isinstance(caught.value.__cause__, HostFunctionError)
            assert isinstance(caught.value.__cause__.__cause__, PoolError)
            await session.close()
            await other.close()

    run(main)


def test_an_instance_that_is_not_made_yet_gets_no_text() -> None:
    async def main() -> None:
        start = b"""(func $start (drop (call $f (i32.const 3)))) (start $start)"""
        source = forward("i32", "i64").replace(
            b'(func (export "spin")', start + b'(func (export "spin")'
        )
        async with serving(workers=1) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())
            with pytest.raises(Trap, match="not made yet"):
                await session.instantiate(await load(driver, source, named))
            await session.close()

    run(main)


def test_a_call_behind_one_that_an_instance_is_busy_with_is_not_refused() -> None:
    async def main() -> None:
        async with serving(workers=2) as driver:
            session = await driver.core.open_session(Limits(), Capabilities())

            async def busy(number_: int) -> int:
                asked.set()
                await let_go.wait()
                return number_

            async def through_instance(number_: int) -> int:
                return number(await session.invoke(instance, "add", slots(number_)))

            async def through_pool(number_: int) -> int:
                request = driver.request(plain, "add", number_, parent=imports.serving.get())
                let_go_soon.set()
                return i32(await driver.outcome(request))

            asked, let_go, let_go_soon = trio.Event(), trio.Event(), trio.Event()
            instance = await session.instantiate(await load(driver, STATE, busy))
            plain = await load(driver, STATE, lambda number_: number_ * 2)
            first = await load(driver, STATE, through_instance)
            second = await load(driver, STATE, through_pool)
            async with trio.open_nursery() as nursery:

                async def call_first() -> None:
                    assert i32(await driver.call(first, "add", 3)) == 3

                async def release() -> None:
                    await let_go_soon.wait()
                    await trio.sleep(0.05)
                    let_go.set()

                nursery.start_soon(call_first)
                await asked.wait()
                nursery.start_soon(release)
                assert i32(await driver.call(second, "add", 4)) == 8
            await session.close()

    run(main)
