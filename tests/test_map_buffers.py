"""Columns of numbers in, columns of numbers out: as the calls one by one, without Python values."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from batch_guests import LONG, PURE, STATE, until

from wasm_sandbox import (
    ConfigurationError,
    DeadlineExceeded,
    Limits,
    Module,
    Pool,
    PoolClosed,
    QueueFull,
    SignatureMismatch,
    Trap,
    open_pool,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(2, cache_dir=cache) as pool:
        yield pool


@pytest.fixture(scope="module")
def module(pool: Pool) -> Module:
    return pool.load(PURE.encode())


COUNTS = [0, 1, 2, 1000, 300_001]


@pytest.mark.parametrize("count", COUNTS)
def test_results_are_those_of_the_calls_in_order(pool: Pool, module: Module, count: int) -> None:
    first, second = array("i", range(count)), array("i", range(count, 0, -1))
    results = pool.map_buffers(module["add"], first, second)
    assert results.format == "i"
    assert results.tolist() == [count] * count


@pytest.mark.parametrize("count", COUNTS)
def test_it_is_the_same_in_fresh_instances(pool: Pool, count: int) -> None:
    count = min(count, 2000)
    function = pool.load(STATE.encode())["count"]
    assert pool.map_buffers(function, array("i", range(count))).tolist() == list(
        range(1, count + 1)
    )


def test_several_results_are_several_buffers(pool: Pool, module: Module) -> None:
    whole, part = array("q", range(-500, 500)), array("d", [n / 3 for n in range(1000)])
    back, again = pool.map_buffers(module["swap"], whole, part)
    assert (back.format, again.format) == ("d", "q")
    assert (back.tolist(), again.tolist()) == (part.tolist(), whole.tolist())
    wide, wrapped, same = pool.map_buffers(module["widen"], array("f", [0.5, -2]), whole[:2])
    assert (wide.tolist(), wrapped.tolist(), same.tolist()) == ([0.5, -2], [-500, -499], [0.5, -2])


def test_vectors_are_bytes(pool: Pool, module: Module) -> None:
    vectors = struct.pack("<12i", *range(12))
    added = pool.map_buffers(module["lanes"], vectors, array("i", [1, 2, 3]))
    assert struct.unpack("<12i", added) == (1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14)


def test_no_result_is_none(pool: Pool, module: Module) -> None:
    assert pool.map_buffers(module["check"], array("i", range(12))) is None


def test_bits_are_kept(pool: Pool, module: Module) -> None:
    signalling = struct.pack("<Q", 0x7FF0_0000_0000_0001)
    quiet = memoryview(signalling * 100).cast("d")
    back, _ = pool.map_buffers(module["swap"], array("q", bytes(800)), quiet)
    assert bytes(back) == signalling * 100


def test_unsigned_items_and_other_names_of_the_type_are_taken(pool: Pool, module: Module) -> None:
    ones = array("I", [(1 << 32) - 1] * 3)
    assert pool.map_buffers(module["add"], ones, array("i", [1, 2, 3])).tolist() == [0, 1, 2]
    wide = memoryview(array("q", [5, 6])).cast("B").cast("l")
    assert pool.map_buffers(module["swap"], wide, array("d", [1, 2]))[1].tolist() == [5, 6]


def test_results_go_where_they_are_wanted(pool: Pool, module: Module) -> None:
    numbers, out = array("i", range(1000)), array("i", bytes(4000))
    assert pool.map_buffers(module["add"], numbers, numbers, out=out) is out
    assert out.tolist() == list(range(0, 2000, 2))
    places = array("d", bytes(16)), array("q", bytes(16))
    swapped = pool.map_buffers(module["swap"], array("q", [1, 2]), array("d", [3, 4]), out=places)
    assert swapped is places
    assert (places[0].tolist(), places[1].tolist()) == ([3, 4], [1, 2])


GOOD = array("i", [1, 2, 3])
WRONG: dict[str, tuple[str, tuple[Any, ...], Any]] = {
    "too few columns": ("add", (GOOD,), None),
    "no column": ("add", (), None),
    "too many columns": ("add", (GOOD, GOOD, GOOD), None),
    "a list": ("add", (GOOD, [1, 2, 3]), None),
    "a wider type": ("add", (GOOD, array("q", [1, 2, 3])), None),
    "floats for integers": ("add", (GOOD, array("f", [1, 2, 3])), None),
    "bytes for integers": ("add", (GOOD, bytes(12)), None),
    "integers for floats": ("swap", (array("q", [1]), array("q", [1])), None),
    "another byte order": ("add", (GOOD, memoryview(bytes(12)).cast("B")), None),
    "lengths": ("add", (GOOD, array("i", [1, 2])), None),
    "holes": ("add", (GOOD, memoryview(array("i", range(6)))[::2]), None),
    "half a vector": ("lanes", (bytes(24), array("i", [1])), None),
    "a short out": ("add", (GOOD, GOOD), array("i", [1, 2])),
    "an out of another type": ("add", (GOOD, GOOD), array("f", [1, 2, 3])),
    "an out that cannot be written": ("add", (GOOD, GOOD), memoryview(bytes(12)).cast("i")),
    "one out for two": ("swap", (array("q", [1]), array("d", [1])), (array("d", [1]),)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(pool: Pool, module: Module, case: str) -> None:
    name, columns, out = WRONG[case]
    with pytest.raises(SignatureMismatch, match=name):
        pool.map_buffers(module[name], *columns, out=out)


def test_numpy_arrays_are_taken_where_their_type_fits(pool: Pool, module: Module) -> None:
    numpy = pytest.importorskip("numpy")
    numbers = numpy.arange(1000, dtype=numpy.int32)
    out = numpy.empty(1000, dtype=numpy.int32)
    assert (pool.map_buffers(module["add"], numbers, numbers, out=out) == 2 * numbers).all()
    assert list(pool.map(module["add"], numbers, numbers)) == (2 * numbers).tolist()
    for wrong in (numbers.astype(">i4"), numbers.astype(numpy.int64), numbers[::2]):
        with pytest.raises(SignatureMismatch):
            pool.map_buffers(module["add"], wrong, wrong)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 5.0}, {"returns": bytes}],
    ids=["timeout", "returns"],
)
def test_functions_whose_calls_travel_alone_are_refused(pool: Pool, options: Any) -> None:
    source = b'(module (func (export "f") (param i32) (result i64) (i64.const 0)))'
    function = pool.load(source)["f"].options(**options)
    with pytest.raises(ConfigurationError, match=r"pool\.map"):
        pool.map_buffers(function, GOOD)


@pytest.mark.parametrize("source", [PURE, STATE], ids=["shared", "fresh"])
def test_the_first_record_that_fails_is_named(pool: Pool, source: str) -> None:
    divisors, out = array("i", [1] * 3000), array("i", [7] * 3000)
    divisors[1234] = divisors[2345] = 0
    div = pool.load(source.encode())["div"]
    alone = pool.submit(div, 1, 0).exception()
    for _ in range(3):  # in batches of other sizes each time
        with pytest.raises(Trap) as caught:
            pool.map_buffers(div, array("i", range(3000)), divisors, out=out)
        assert caught.value.record == 1234
        assert (str(caught.value), caught.value.backtrace) == (str(alone), alone.backtrace)  # type: ignore[union-attr]
        assert out[:1234].tolist() == list(range(1234))
    until(lambda: "0 calls" in repr(pool))


def test_a_record_that_takes_too_long_is_named(pool: Pool, module: Module) -> None:
    spin = module["spin"].options(limits=Limits(wall_time=0.3))
    pool.map_buffers(spin, array("i", [1] * 100))
    with pytest.raises(DeadlineExceeded) as caught:
        pool.map_buffers(spin, array("i", [1, 1, 1, LONG, 1]))
    assert caught.value.record == 3


def test_a_narrow_pool_takes_as_many_as_a_wide_one(cache: Path) -> None:
    with Pool(2, cache_dir=cache, max_pending=1, when_full="raise") as pool:
        module = pool.load(PURE.encode())
        numbers = array("i", range(5000))
        assert pool.map_buffers(module["add"], numbers, numbers)[4999] == 9998
        running = pool.submit(module["spin"], LONG)
        with pytest.raises(QueueFull):
            pool.map_buffers(module["add"], numbers, numbers)
        running.cancel()
    with pytest.raises(PoolClosed):
        pool.map_buffers(module["add"], numbers, numbers)


def test_a_trio_pool_does_the_same(cache: Path) -> None:
    async def main() -> None:
        async with open_pool(2, cache_dir=cache, max_pending=1) as pool:
            module = await pool.load(PURE.encode())
            numbers = array("i", range(300_000))
            results = await pool.map_buffers(module["add"], numbers, numbers)
            assert results.tolist() == list(range(0, 600_000, 2))
            numbers[777] = 0
            with pytest.raises(Trap) as caught:
                await pool.map_buffers(module["div"], numbers, numbers)
            assert caught.value.record == 0
            with trio.move_on_after(0.3) as scope:
                await pool.map_buffers(module["spin"], array("i", [LONG] * 10))
            assert scope.cancelled_caught
            assert await pool.call(module["add"], 1, 2) == 3

    trio.run(main)
