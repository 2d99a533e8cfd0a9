"""Message channels between the program and guests, and between two guests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
import trio
import trio.testing
from guests import buffers
from leftovers import nothing_left

from wasm_sandbox import (
    Channel,
    ConfigurationError,
    DeadlineExceeded,
    Limits,
    MissingImport,
    Module,
    Pool,
    SandboxError,
    open_pool,
)
from wasm_sandbox.channel import MAX_MESSAGE

_ALLOC = buffers().removeprefix("(module ").removesuffix(")")
RELAY = f"""(module
  (import "from" "recv" (func $recv (result i64)))
  (import "to" "send" (func $send (param i32 i32) (result i32)))
  (import "to" "close" (func $close))
  {_ALLOC}
  (func (export "relay") (result i32) (local $count i32) (local $got i64)
    (block $end
      (loop $more
        (local.set $got (call $recv))
        (br_if $end (i32.eqz (i32.wrap_i64 (local.get $got))))
        (br_if $end (call $send
          (i32.wrap_i64 (i64.shr_u (local.get $got) (i64.const 32)))
          (i32.wrap_i64 (local.get $got))))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br $more)))
    (call $close)
    (local.get $count)))""".encode()
"""``relay`` hands messages on until there are none, or nobody takes them; gives how many."""


def relay(pool: Pool, source: Channel, sink: Channel) -> Module:
    return pool.load(RELAY, imports=wires(source, sink))


def wires(source: Channel, sink: Channel) -> dict[str, Any]:
    return {"from": source.imports(receive="recv"), "to": sink.imports(send="send", close="close")}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """A pool of two workers."""
    with nothing_left(), Pool(2) as made:
        yield made


@pytest.mark.parametrize("size", [1, 1000, MAX_MESSAGE])
def test_messages_go_through_a_guest_in_order(pool: Pool, size: int) -> None:
    inward, outward = Channel(), Channel()
    future = pool.submit(relay(pool, inward, outward)["relay"])
    for number in range(3):
        message = bytes([number]) * size
        inward.send(message, timeout=30)
        assert outward.receive(timeout=60) == message
    inward.send(b"last")
    inward.close()
    assert list(outward) == [b"last"]
    assert future.result() == 4
    assert outward.closed


def test_two_guests_talk_to_each_other(pool: Pool) -> None:
    first, middle, last = Channel(2), Channel(1), Channel(2)
    calls = [
        pool.submit(relay(pool, first, middle)["relay"]),
        pool.submit(relay(pool, middle, last)["relay"]),
    ]

    def feed() -> None:
        with first:
            for number in range(100):
                first.send(b"%d" % number)

    thread = threading.Thread(target=feed)
    thread.start()
    assert list(last) == [b"%d" % number for number in range(100)]
    thread.join(60)
    assert [call.result() for call in calls] == [100, 100]


def test_a_slow_reader_holds_up_the_guest_and_the_writer(pool: Pool) -> None:
    inward, outward = Channel(1), Channel(1)
    future = pool.submit(relay(pool, inward, outward)["relay"])
    sent = 0
    while sent < 10:  # one in each, and one with the guest
        try:
            inward.send(b"x", timeout=0.5)
        except TimeoutError:
            break
        sent += 1
    assert sent <= 3
    assert not future.done()
    inward.close()
    assert len(list(outward)) == sent == future.result()


def test_closing_ends_both_sides(pool: Pool) -> None:
    inward, outward = Channel(), Channel()
    future = pool.submit(relay(pool, inward, outward)["relay"])
    outward.close()
    outward.close()
    inward.send(b"nobody takes it")
    assert future.result() == 0
    with pytest.raises(BrokenPipeError):
        outward.send(b"x")
    with pytest.raises(EOFError):
        outward.receive()
    with Channel() as channel:
        channel.send(b"kept")
    assert channel.receive() == b"kept"


def test_two_guests_that_wait_for_each_other_end_at_their_deadline(pool: Pool) -> None:
    one, other = Channel(), Channel()
    limits = Limits(wall_time=0.5)
    calls = [
        pool.submit(relay(pool, *ends)["relay"].options(limits=limits))
        for ends in ((one, other), (other, one))
    ]
    for call in calls:
        with pytest.raises(DeadlineExceeded, match="wall_time"):
            call.result()


def test_a_guest_that_waits_is_cancelled_and_takes_nothing_along(pool: Pool) -> None:
    inward, outward = Channel(), Channel()
    module = relay(pool, inward, outward)
    future = pool.submit(module["relay"])
    inward.send(b"one")
    assert outward.receive(timeout=60) == b"one"
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    again = pool.submit(module["relay"])
    # The guest may have been told to stop while this was on its way to it.
    while outward.closed is False and not len(outward):
        inward.send(b"two")
        try:
            assert outward.receive(timeout=1) == b"two"
            break
        except TimeoutError:
            continue
    inward.close()
    again.result()


@pytest.mark.parametrize("cancel", [False, True])
def test_a_pool_ends_while_its_guests_wait(cancel: bool) -> None:
    inward, outward = Channel(), Channel()
    pool = Pool(1)
    future = pool.submit(relay(pool, inward, outward)["relay"])
    inward.send(b"one")
    assert outward.receive(timeout=60) == b"one"
    if not cancel:
        inward.close()
    pool.shutdown(cancel_futures=cancel)
    if cancel:
        with pytest.raises((CancelledError, SandboxError)):
            future.result()
    else:
        assert future.result() == 1


@pytest.mark.parametrize("message", [b"", bytes(MAX_MESSAGE + 1), "text", 7, None])
def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(ConfigurationError, match="message"):
        Channel().send(message)


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "1", True])
def test_a_capacity_that_cannot_be_is_refused(capacity: Any) -> None:
    with pytest.raises(ConfigurationError, match="capacity"):
        Channel(capacity)


def test_functions_have_the_names_that_they_are_given(pool: Pool) -> None:
    channel = Channel()
    assert set(channel.imports()) == {"channel_send", "channel_recv", "channel_close"}
    assert set(channel.imports(send="s")) == {"s"}
    with pytest.raises(ConfigurationError, match="two functions"):
        channel.imports(send="s", close="s")
    with pytest.raises(MissingImport):
        pool.load(RELAY, imports={"from": channel.imports(receive="recv")})


def test_trio_has_both_ends() -> None:
    async def main() -> None:
        inward, outward = Channel(1), Channel(1)
        async with open_pool(workers=1) as pool, trio.open_nursery() as nursery:
            module = await pool.load(RELAY, imports=wires(inward, outward))
            counts: list[int] = []

            async def run() -> None:
                counts.append(await pool.call(module["relay"]))

            async def feed() -> None:
                for number in range(20):
                    await inward.asend(b"%d" % number)
                inward.close()

            nursery.start_soon(run)
            nursery.start_soon(feed)
            assert [each async for each in outward] == [b"%d" % number for number in range(20)]
        assert counts == [20]
        with trio.move_on_after(0.05) as scope:
            await Channel().areceive()
        assert scope.cancelled_caught

    trio.run(main)


def test_a_wait_that_was_cancelled_takes_no_message() -> None:
    async def main() -> None:
        channel = Channel(1)
        with trio.move_on_after(0.05):
            await channel.areceive()
        channel.send(b"one")
        with trio.move_on_after(0.05) as scope:
            await channel.asend(b"two")
        assert scope.cancelled_caught
        assert (len(channel), await channel.areceive()) == (1, b"one")
        assert channel._waiters == set()  # pyright: ignore[reportPrivateUsage]

    trio.run(main)


def test_asyncio_has_both_ends(pool: Pool) -> None:
    async def main() -> None:
        inward, outward = Channel(1), Channel(1)
        module = pool.load(RELAY, imports=wires(inward, outward))
        call = asyncio.wrap_future(pool.submit(module["relay"]))
        for number in range(20):
            await inward.asend(b"%d" % number)
            assert await outward.areceive() == b"%d" % number
        inward.close()
        assert [each async for each in outward] == []
        assert await call == 20
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Channel().areceive(), 0.05)

    asyncio.run(main())


def test_many_threads_lose_and_repeat_nothing() -> None:
    channel = Channel(3)
    taken: list[bytes] = []

    def take() -> None:
        taken.extend(channel)

    def give(start: int) -> None:
        for number in range(start, start + 200):
            channel.send(b"%d" % number)

    readers = [threading.Thread(target=take) for _ in range(3)]
    writers = [threading.Thread(target=give, args=(200 * each,)) for each in range(3)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join(60)
    channel.close()
    for thread in readers:
        thread.join(60)
    assert sorted(map(int, taken)) == list(range(600))
