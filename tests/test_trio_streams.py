"""Commands whose standard streams are trio's: ``pool.start`` of ``open_pool``."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import guest_commands
import pytest
import trio
import trio.testing
from leftovers import nothing_left

from wasm_sandbox import (
    ConfigurationError,
    DeadlineExceeded,
    GuestExit,
    Limits,
    OutputLimitExceeded,
    QueueFull,
    Trap,
    TrioPool,
    WorkerLost,
    open_pool,
)
from wasm_sandbox.pipes import PIECE

EPIPE = 64
CAT = guest_commands.copies_stdin().encode()
FLOODS = guest_commands.floods().encode()


def with_trio(work: Callable[[TrioPool], Awaitable[None]], **keywords: Any) -> None:
    async def main() -> None:
        async with open_pool(workers=1, **keywords) as pool:
            await work(pool)
            cat = await pool.load(CAT)
            assert (await pool.run(cat, stdin=b"alive")).stdout == b"alive"

    with nothing_left():
        trio.run(main)


def test_a_guest_answers_while_it_runs() -> None:
    async def work(pool: TrioPool) -> None:
        async with pool.start(await pool.load(CAT)) as process:
            assert process.stdin is not None
            for text in (b"one", b"two"):
                await process.stdin.send_all(text)
                assert await process.stdout.receive_some() == text
            assert process.running
            await process.stdin.aclose()
            assert [piece async for piece in process.stdout] == []
            assert (await process.wait(check=True)).exit_code == 0

    with_trio(work)


async def _asynchronous(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 10_000):
        yield content[at : at + 10_000]


def _asked(content: bytes) -> Callable[[], Awaitable[bytes]]:
    pieces = _asynchronous(content)

    async def ask() -> bytes:
        return await anext(pieces, b"")

    return ask


@pytest.mark.parametrize("given", [bytes, lambda content: iter([content]), _asynchronous, _asked])
def test_input_may_be_asynchronous(given: Callable[[bytes], Any]) -> None:
    content = os.urandom(3 * PIECE + 1)

    async def work(pool: TrioPool) -> None:
        cat = await pool.load(CAT)
        async with pool.start(cat, stdin=given(content)) as process:
            assert process.stdin is None
            assert b"".join([piece async for piece in process.stdout]) == content
        assert (await pool.run(cat, stdin=given(content))).stdout == content

    with_trio(work)


class Mine(Exception):
    """A program's own."""


def test_what_the_chunks_raise_ends_the_guest_and_comes_out() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(PIECE)
        raise Mine

    def plain() -> Iterator[bytes]:
        yield bytes(PIECE)
        raise Mine

    async def one() -> bytes:
        return next(given)

    async def work(pool: TrioPool) -> None:
        cat = await pool.load(CAT)
        for stdin in (chunks(), plain()):
            with pytest.raises(Mine):
                await pool.run(cat, stdin=stdin)
        for runs_out in (one, lambda: next(given)):
            with pytest.raises(RuntimeError) as caught:
                await pool.run(cat, stdin=runs_out)
            assert isinstance(caught.value.__cause__, StopIteration)

    given = iter([b"half of it"])

    with_trio(work)


def test_both_sides_learn_that_the_other_has_gone() -> None:
    async def work(pool: TrioPool) -> None:
        async with pool.start(await pool.load(FLOODS)) as process:
            await process.stdout.aclose()
            assert (await process.wait()).exit_code == EPIPE
            with pytest.raises(trio.ClosedResourceError):
                await process.stdout.receive_some()
        exits = await pool.load(guest_commands.exits(3).encode())
        async with pool.start(exits) as process:
            assert (await process.wait()).exit_code == 3
            assert process.stdin is not None
            with pytest.raises(trio.BrokenResourceError):
                await process.stdin.send_all(b"more")
            await process.stdin.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await process.stdin.send_all(b"more")
            with pytest.raises(GuestExit):
                await process.wait(check=True)

    with_trio(work)


def test_who_waits_at_a_stream_learns_of_its_end() -> None:
    async def work(pool: TrioPool) -> None:
        cat = await pool.load(CAT)
        async with pool.start(cat, limits=Limits(wall_time=0.3, idle_time=0.05)) as process:
            assert process.stdin is not None
            with pytest.raises(trio.BrokenResourceError):
                await process.stdin.send_all(bytes(10 * PIECE))
            with pytest.raises(DeadlineExceeded):
                await process.wait()
        async with pool.start(cat) as process, trio.open_nursery() as nursery:
            with pytest.raises(ConfigurationError, match="max_bytes"):
                await process.stdout.receive_some(0)

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await process.stdout.receive_some()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(trio.BusyResourceError):
                await process.stdout.receive_some()
            await process.stdout.aclose()

    with_trio(work)


def test_errors_of_the_guest_end_its_streams() -> None:
    async def work(pool: TrioPool) -> None:
        traps = await pool.load(guest_commands.command_traps().encode())
        async with pool.start(traps) as process:
            assert await process.stdout.receive_some() == b"before the trap\n"
            with pytest.raises(Trap):
                await process.stdout.receive_some()
        floods = await pool.load(FLOODS)
        with pytest.raises(OutputLimitExceeded):
            await pool.run(floods, stdin=iter(()), limits=Limits(output=3 * PIECE))
        async with pool.start(floods) as process:
            assert await process.stdout.receive_some()
            (worker,) = pool.workers()
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                async for _ in process.stdout:
                    pass

    with_trio(work)


@pytest.mark.parametrize("end", ["block", "raise", "cancel", "outside"])
def test_the_end_of_the_block_is_the_guests(end: str) -> None:
    async def work(pool: TrioPool) -> None:
        cat = await pool.load(CAT)

        async def use() -> None:
            async with pool.start(cat, stdin=itertools.repeat(bytes(PIECE))) as process:
                assert await process.stdout.receive_some()
                if end == "raise":
                    raise Mine
                if end == "outside":
                    await trio.sleep_forever()
                if end == "cancel":
                    process.cancel()
                    with pytest.raises(trio.ClosedResourceError):
                        await process.wait()

        if end == "raise":
            with pytest.raises(Mine):
                await use()
        else:
            with trio.move_on_after(1 if end == "outside" else 30) as scope:
                await use()
            assert scope.cancelled_caught is (end == "outside")
        assert [worker.phase for worker in pool.workers() if worker.phase == "busy"] == []

    with_trio(work)


def test_a_process_counts_as_a_call() -> None:
    async def work(pool: TrioPool) -> None:
        cat = await pool.load(CAT)
        async with pool.start(cat):
            with pytest.raises(QueueFull):
                async with pool.start(cat):
                    pass

    with_trio(work, max_pending=1, when_full="raise")
