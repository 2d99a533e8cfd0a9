"""A function over chunks, in one instance that keeps its state: ``Instance.stream`` and
``Function.stream``."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import guest_commands
import guests
import pytest
import trio
from actor_guests import COUNTER
from leftovers import nothing_left

from wasm_sandbox import (
    ConfigurationError,
    InstanceClosed,
    MissingExport,
    Module,
    Pool,
    SignatureMismatch,
    Trap,
    TrioInstance,
    TrioPool,
    WorkerLost,
    open_pool,
)

TEXTS = ["one", "", "three" * 10_000]
ECHO = guests.buffers().encode()


class Mine(Exception):
    """A program's own."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """A pool of one worker."""
    with nothing_left(), Pool(1) as made:
        yield made


@pytest.fixture(scope="module")
def counter(pool: Pool) -> Module:
    """``add`` adds to its state and returns it; ``fail`` and ``leave`` end a call."""
    return pool.load(COUNTER.encode())


def test_state_goes_from_chunk_to_chunk_in_order(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        assert list(instance.stream("add", range(5))) == [0, 1, 3, 6, 10]
        assert list(instance.stream("add", iter([(1,), (2,)]))) == [11, 13]
        assert instance.read_global("count") == 13
    assert list(counter["add"].stream(range(5))) == [0, 1, 3, 6, 10]
    assert list(counter["add"].stream(range(5))) == [0, 1, 3, 6, 10]
    assert list(counter["add"].stream([])) == []


@pytest.mark.parametrize(
    ("returns", "chunks"),
    [
        (str, TEXTS),
        (bytes, [text.encode() for text in TEXTS]),
        ("json", [{"a": [1]}, [], ["x"]]),
    ],
)
def test_chunks_and_values_are_those_of_any_call(
    pool: Pool, returns: Any, chunks: list[Any]
) -> None:
    echo = pool.load(ECHO)["echo"].options(returns=returns)
    assert list(echo.stream(chunks)) == chunks


def test_neither_side_runs_ahead(pool: Pool, counter: Module) -> None:
    """One chunk is with the guest, and one is at hand."""
    asked: list[int] = []

    def chunks() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield 1

    with pool.instance(counter) as instance:
        values = instance.stream("add", chunks())
        assert asked == []
        for taken in range(1, 6):
            assert next(values) == taken
            assert len(asked) == taken + 1
        values.close()
        assert len(asked) == 6
        assert instance.read_global("count") in (5, 6)


def test_a_failure_ends_it_and_no_later_chunk_reaches_the_guest(
    pool: Pool, counter: Module
) -> None:
    with pool.instance(counter) as instance:
        with pytest.raises(SignatureMismatch):
            list(instance.stream("add", [1, "text", 5]))
        assert instance.read_global("count") == 1
        values = instance.stream("fail", [(), (), ()])
        with pytest.raises(Trap):
            next(values)
        assert list(values) == []
        assert instance.read_global("count") == 100


def test_what_the_chunks_raise_comes_after_the_values_before(pool: Pool, counter: Module) -> None:
    def chunks() -> Iterator[int]:
        yield 1
        yield 2
        raise Mine

    values = counter["add"].stream(chunks())
    assert [next(values), next(values)] == [1, 3]
    with pytest.raises(Mine):
        next(values)


def test_a_worker_that_is_killed_ends_it(pool: Pool, counter: Module) -> None:
    def chunks() -> Iterator[int]:
        yield 1
        os.kill(instance.usage().pid or 0, signal.SIGKILL)
        yield from [1] * 1000

    with pool.instance(counter, restart="temporary") as instance:
        values = instance.stream("add", chunks())
        with pytest.raises((WorkerLost, InstanceClosed)):
            list(values)


def test_what_cannot_be_streamed_is_refused(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance, pytest.raises(MissingExport):
        instance.stream("ad", [1])
    with pytest.raises(ConfigurationError, match="retries"):
        counter["add"].options(retries=1).stream([1])
    with pytest.raises(ConfigurationError, match=r"pool\.start"):
        pool.load(guest_commands.exits(0).encode()).main.stream([1])


def with_trio(work: Callable[[TrioPool], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_pool(workers=1) as pool:
            await work(pool)

    trio.run(main)


async def _asynchronous() -> AsyncIterator[int]:
    for number in range(5):
        yield number


@pytest.mark.parametrize("chunks", [lambda: range(5), _asynchronous])
def test_trio_streams_values(chunks: Callable[[], Any]) -> None:
    async def work(pool: TrioPool) -> None:
        counter = await pool.load(COUNTER.encode())
        async with pool.instance(counter) as instance, instance.stream("add", chunks()) as values:
            assert [value async for value in values] == [0, 1, 3, 6, 10]
        async with counter["add"].stream(chunks()) as values:
            assert [value async for value in values] == [0, 1, 3, 6, 10]

    with_trio(work)


def test_trio_hears_of_failures_after_the_values_before() -> None:
    async def chunks() -> AsyncIterator[int]:
        yield 1
        raise Mine from KeyError()

    async def use(
        instance: TrioInstance, name: str, given: Any, error: type[Exception]
    ) -> list[Any]:
        taken: list[Any] = []
        async with instance.stream(name, given) as values:
            while True:
                try:
                    taken.append(await values.receive())
                except error:
                    break
                await trio.sleep(0.01)
        return taken

    async def work(pool: TrioPool) -> None:
        counter = await pool.load(COUNTER.encode())
        async with pool.instance(counter) as instance:
            assert await use(instance, "add", chunks(), Mine) == [1]
            async with instance.stream("add", chunks()) as values:
                await values.receive()
                with pytest.raises(Mine) as caught:
                    await values.receive()
            assert isinstance(caught.value.__cause__, KeyError)
            assert await use(instance, "fail", [(), ()], Trap) == []
            with pytest.raises(Mine):
                async with instance.stream("add", [1, 2]):
                    raise Mine
            with trio.move_on_after(0.3) as scope:
                async with instance.stream("spin", [()]) as values:
                    await values.receive()
            assert scope.cancelled_caught
            assert await instance.call("increment") == 201

    with_trio(work)
