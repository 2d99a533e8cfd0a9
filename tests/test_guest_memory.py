"""Host functions that read, write and allocate in the memory of the guest that waits for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
from host_guests import forward
from hypothesis import given, settings
from hypothesis import strategies as st
from importing_components import PRICES, SHOP

from wasm_sandbox import (
    AsyncGuestMemory,
    Capabilities,
    ConfigurationError,
    Grants,
    GuestMemory,
    HostFunction,
    HostFunctionError,
    Limits,
    MissingExport,
    Module,
    Pool,
    PoolError,
    SignatureMismatch,
    Trap,
    open_pool,
)
from wasm_sandbox.protocol.host_calls import MemoryAnswer, MemoryOrder
from wasm_sandbox.runners import TrioRunner
from wasm_sandbox.supervisor.reach import Reach

pytestmark = pytest.mark.usefixtures("patience")

STUCK = 60.0
"""Seconds after which a test gives up waiting for something that has to come."""
PAGE = 65536
MOST = 4 << 20
NETWORK = '(import "wasm_sandbox" "close" (func $close (param i32) (result i32)))'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache) as pool:
        yield pool


def load(pool: Pool, function: Any, source: bytes = forward("i32", "i64"), **more: Any) -> Module:
    return pool.load(source, imports={"env": {"f": function}}, **more)


# -- what it does ----------------------------------------------------------------------------------


def works(at: int, *, memory: GuestMemory) -> int:
    assert memory.read(at, 4) == b"ACME"
    memory.write(at + 1, bytearray(b"XY"))
    assert memory.read(at, 4) == b"AXYE"
    assert memory.read(at, 0) == b""
    memory.write(at, b"")
    place = memory.allocate(3 * PAGE)
    assert (place, memory.size) == (4096, 5 * PAGE)
    large = os.urandom(3 * PAGE)
    memory.write(place, memoryview(large))
    assert memory.read(place, 3 * PAGE) == large
    return memory.size


async def works_later(at: int, *, memory: AsyncGuestMemory) -> int:
    assert await memory.read(at, 4) == b"ACME"
    await memory.write(at + 1, bytearray(b"XY"))
    assert await memory.read(at, 4) == b"AXYE"
    assert await memory.read(at, 0) == b""
    await memory.write(at, b"")
    place = await memory.allocate(3 * PAGE)
    assert (place, await memory.size()) == (4096, 5 * PAGE)
    large = os.urandom(3 * PAGE)
    await memory.write(place, memoryview(large))
    assert await memory.read(place, 3 * PAGE) == large
    return await memory.size()


@pytest.mark.parametrize("function", [works, works_later])
def test_a_function_works_in_its_guests_memory(pool: Pool, function: Callable[..., Any]) -> None:
    value, receipt = load(pool, function)["call"].detailed(8)
    assert (value, receipt.host_calls) == (5 * PAGE, 1)


def test_with_trio_too_and_in_an_instance(cache: Path) -> None:
    async def main() -> None:
        async with open_pool(1, cache_dir=cache) as pool:
            for function in (works, works_later):
                module = await pool.load(forward("i32", "i64"), imports={"env": {"f": function}})
                assert await pool.call(module["call"], 8) == 5 * PAGE
                async with pool.instance(module) as instance:
                    assert await instance.call("call", 8) == 5 * PAGE
                    assert await instance.memory(8, 4) == b"AXYE"

    trio.run(main)


def test_in_an_instance_and_in_a_map(pool: Pool) -> None:
    def count(at: int, *, memory: GuestMemory) -> int:
        memory.write(at, bytes([memory.read(at, 1)[0] + 1]))
        return memory.read(at, 1)[0]

    module = load(pool, count)
    with pool.instance(module) as instance:
        assert [instance.call("call", 100) for _ in range(3)] == [1, 2, 3]
        assert instance.memory(100, 1) == b"\x03"
    assert list(pool.map(module["call"], [100] * 20)) == [1] * 20


def test_beside_grants_buffers_and_a_result_of_its_own(pool: Pool) -> None:
    def greet(name: str, *, grants: Grants, memory: GuestMemory) -> str:
        memory.write(16, b"{1, 2}")
        return f"{name} {grants['tier']} {memory.read(16, 6).decode()}"

    module = load(pool, HostFunction(greet, needs={"tier": str}), forward("i32 i32", "i64"))
    call = module["call"].options(capabilities=Capabilities(custom={"tier": "gold"}), returns=str)
    assert call(8, 4) == "ACME gold {1, 2}"


def test_a_pointer_may_come_signed(pool: Pool) -> None:
    def ends(at: int, *, memory: GuestMemory) -> int:
        assert at < 0
        memory.write(at, b"high")
        assert memory.read(at, 4) == memory.read(at + (1 << 32), 4) == b"high"
        with pytest.raises(Trap):
            memory.read(at, PAGE + 1)
        return memory.size

    source = forward("i32", "i64", memory='(memory (export "memory") 32769)')
    call = load(pool, ends, source)["call"].options(limits=Limits(memory=3 << 30))
    assert call(1 << 31) == (1 << 31) + PAGE


def test_a_memory_of_64_bits_has_pointers_of_64_bits(pool: Pool) -> None:
    def works_wide(at: int, *, memory: GuestMemory) -> int:
        place = memory.allocate(16)
        memory.write(place, memory.read(at, 4))
        with pytest.raises(Trap):
            memory.read(-1, 1)
        with pytest.raises(Trap):
            memory.read(1 << 63, 1)
        return int.from_bytes(memory.read(place, 8), "little")

    source = forward(
        "i64",
        "i64",
        memory='(memory (export "memory") i64 1)',
        alloc='(func (export "alloc") (param i64) (result i64) (i64.const 1024))',
    ).replace(b"(data (i32.const", b"(data (i64.const")
    assert load(pool, works_wide, source)["call"](8) == int.from_bytes(b"ACME", "little")


Step = tuple[int, int, bytes | None]


@given(
    st.lists(
        st.tuples(
            st.integers(-40, PAGE + 40) | st.integers(-(2**33), 2**33),
            st.integers(0, 80),
            st.none() | st.binary(max_size=80),
        ),
        max_size=20,
    )
)
@settings(max_examples=30, deadline=None)
def test_it_is_as_a_bytearray_would_be(pool: Pool, steps: list[Step]) -> None:
    def play(at: int, *, memory: GuestMemory) -> int:
        model = bytearray(memory.read(0, PAGE))
        for pointer, size, data in steps:
            start = pointer + 2**32 if -(2**31) <= pointer < 0 else pointer
            end = start + (size if data is None else len(data))
            if not 0 <= start <= end <= PAGE:
                with pytest.raises(Trap, match=str(pointer if start >= 2**32 else start)) as out:
                    memory.read(pointer, size) if data is None else memory.write(pointer, data)
                assert out.value.code == "memory_out_of_bounds"
            elif data is None:
                assert memory.read(pointer, size) == model[start:end]
            else:
                memory.write(pointer, data)
                model[start:end] = data
        assert memory.read(0, PAGE) == model
        return at

    assert load(pool, play)["call"](7) == 7


def test_threads_of_one_function_take_turns(pool: Pool) -> None:
    def both(at: int, *, memory: GuestMemory) -> int:
        def write(number: int) -> bool:
            data = bytes([number]) * (20_000 * number)
            for _ in range(20):
                memory.write(PAGE * number, data)
                if memory.read(PAGE * number, len(data)) != data:
                    return False
            return True

        with ThreadPoolExecutor(3) as threads:
            return sum(threads.map(write, (1, 2, 3)))

    source = forward("i32", "i64", memory='(memory (export "memory") 9)')
    assert load(pool, both, source)["call"](0) == 3


def test_tasks_of_one_function_take_turns(pool: Pool) -> None:
    async def many(at: int, *, memory: AsyncGuestMemory) -> int:
        await asyncio.gather(*[memory.write(at + n, bytes([n])) for n in range(50)])
        return sum(await memory.read(at, 50))

    assert load(pool, many)["call"](1000) == sum(range(50))


def test_what_is_cancelled_before_its_turn_is_not_done() -> None:
    async def main() -> None:
        sent: list[int] = []
        reach = Reach(MOST, lambda _, order: sent.append(order.start))
        first, second, third = [reach.ask(MemoryOrder("read", n, 1)) for n in range(3)]
        while not sent:
            await trio.sleep(0)
        with trio.CancelScope() as scope:
            scope.cancel()
            await TrioRunner(1, print).wait(second)
        assert second.cancelled()
        assert not first.cancel()
        reach.answered(MemoryAnswer(PAGE), b"x")
        assert first.result() == (MemoryAnswer(PAGE), b"x")
        assert sent == [0, 2]
        reach.close()
        assert isinstance(third.exception(), PoolError)

    trio.run(main)


# -- what it refuses -------------------------------------------------------------------------------


def test_what_is_outside_is_an_error_that_ends_the_call_if_nobody_catches_it(pool: Pool) -> None:
    def reads(at: int, *, memory: GuestMemory) -> int:
        return memory.read(at, 8)[0]

    module = load(pool, reads)
    with pytest.raises(HostFunctionError, match="raised Trap: 8 bytes at 65530 are not all") as end:
        module["call"](PAGE - 6)
    assert isinstance(end.value.__cause__, Trap)
    assert end.value.receipt is not None
    assert end.value.receipt.host_calls == 1
    assert module["call"](8) == ord("A")


@pytest.mark.parametrize("size", [-1, MOST + 1])
def test_more_than_can_cross_is_refused_and_what_can_crosses(pool: Pool, size: int) -> None:
    def works_largely(at: int, *, memory: GuestMemory) -> int:
        with pytest.raises(ValueError, match=f"between 0 and {MOST}; got {size}"):
            memory.read(at, size)
        if size > 0:
            with pytest.raises(ValueError, match=str(MOST)):
                memory.write(at, bytes(size))
        with pytest.raises(ConfigurationError, match="between 0 and"):
            memory.allocate(-1)
        with pytest.raises(TypeError):
            memory.write(at, "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            memory.read(0.5, 1)  # type: ignore[arg-type]
        with pytest.raises(Trap):
            memory.read(1 << 70, 1)
        large = os.urandom(MOST)
        memory.write(at, large)
        return int(memory.read(at, MOST) == large)

    source = forward("i32", "i64", memory='(memory (export "memory") 66)')
    assert load(pool, works_largely, source)["call"](PAGE) == 1


def wants(*, memory: GuestMemory) -> None:
    memory.read(0, 1)


async def wants_later(*, memory: AsyncGuestMemory) -> None:
    await memory.read(0, 1)


async def mixed(*, memory: GuestMemory) -> None:
    memory.read(0, 1)


def mixed_up(*, memory: AsyncGuestMemory | None = None) -> None:
    assert memory


def in_a_row(memory: GuestMemory) -> None:
    memory.read(0, 1)


def misnamed(*, heap: GuestMemory | None = None) -> None:
    assert heap


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (mixed, SignatureMismatch, r"coroutine function.*`\*, memory: AsyncGuestMemory`"),
        (mixed_up, SignatureMismatch, r"plain function.*`\*, memory: GuestMemory`"),
        (in_a_row, SignatureMismatch, r"`\*, memory: GuestMemory`"),
        (misnamed, SignatureMismatch, r"parameter heap.*`\*, memory: GuestMemory`"),
        (HostFunction(wants, direct=True), ConfigurationError, "the pool's thread"),
    ],
    ids=["async", "plain", "positional", "misnamed", "direct"],
)
def test_what_cannot_be_given_is_refused_when_it_is_loaded(
    pool: Pool, function: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        load(pool, function, forward())


@pytest.mark.parametrize("function", [wants, wants_later])
def test_so_is_where_there_is_no_memory_to_give(pool: Pool, function: Any) -> None:
    with pytest.raises(MissingExport, match="does not export memory"):
        load(pool, function, forward(memory="(memory 1)", alloc=""))
    with pytest.raises(SignatureMismatch, match="unit-price asks for its guest's memory"):
        pool.load(SHOP, imports={PRICES: {"unit-price": function}, "log": print})
    if function is wants:
        with pytest.raises(SignatureMismatch, match="only numbers"):
            pool.load(forward(), worker_imports={"env": {"f": function}})


# -- the guest's alloc -----------------------------------------------------------------------------


def makes_room(at: int, *, memory: GuestMemory) -> int:
    return memory.allocate(8)


async def makes_room_later(at: int, *, memory: AsyncGuestMemory) -> int:
    return await memory.allocate(8)


@pytest.mark.parametrize("function", [makes_room, makes_room_later])
@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("(unreachable)", "unreachable", "unreachable"),
        ("(i32.const 0)", "bad_argument", r"got 0 from alloc\(8\)"),
        ("(i32.const -8)", "bad_argument", "got 4294967288 from"),
        ("(i32.wrap_i64 (call $f (i32.const 1)))", "bad_argument", "alloc called a host function"),
        ("(call $close (i32.const 1))", "bad_argument", "alloc called a host function"),
    ],
    ids=["traps", "null", "outside", "calls", "network"],
)
def test_an_alloc_that_misbehaves_ends_the_call(
    pool: Pool, function: Callable[..., Any], body: str, code: str, said: str
) -> None:
    alloc = f'(func (export "alloc") (param i32) (result i32) {body})'
    module = load(pool, function, forward("i32", "i64", alloc=alloc, more=NETWORK))
    for _ in range(3):
        with pytest.raises(Trap, match=said) as caught:
            module["call"](8)
        assert caught.value.code == code


def test_a_module_without_alloc_is_told_of_when_it_is_needed(pool: Pool) -> None:
    def tries(at: int, *, memory: GuestMemory) -> int:
        with pytest.raises(MissingExport, match=r"alloc \(i32\) -> \(i32\)"):
            memory.allocate(8)
        return memory.read(at, 1)[0]

    assert load(pool, tries, forward("i32", "i64", alloc=""))["call"](8) == ord("A")


def test_an_alloc_may_write_and_exit(pool: Pool) -> None:
    source = b"""(module
      (import "env" "f" (func $f (param i32) (result i64)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 8) "\\10\\00\\00\\00\\05\\00\\00\\00hello")
      (func (export "alloc") (param i32) (result i32)
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64)))
        (call $exit (i32.const 7)) (unreachable))
      (func (export "_start") (drop (call $f (i32.const 0)))))"""
    done = pool.run(load(pool, makes_room, source))
    assert (done.exit_code, done.stdout) == (7, b"hello")
