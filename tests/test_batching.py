"""Calls that travel together end as they would have ended alone, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from batch_guests import LONG, PURE, STATE, each_mode, turns_in, until
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_sandbox import (
    CpuTimeExceeded,
    DeadlineExceeded,
    Function,
    Limits,
    OutOfFuel,
    Pool,
    SandboxError,
    Trap,
)
from wasm_sandbox.protocol.events import CallStopped, Event


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(2, cache_dir=cache) as pool:
        yield pool


def fresh(function: Function, **options: Any) -> Function:
    """The function as if nobody had called it: what is known of its pace is forgotten."""
    return function.options(**options)


def facts(error: SandboxError) -> tuple[Any, ...]:
    """What a caller sees of an error."""
    return type(error), str(error), getattr(error, "backtrace", ()), getattr(error, "limit", "")


def together(pool: Pool, function: Function, columns: Sequence[Any], size: int) -> Any:
    """The values of a ``map``, and how it ended."""
    got: list[Any] = []
    try:
        for value in pool.map(fresh(function), *columns, chunksize=size):
            got.append(value)
    except SandboxError as error:
        return got, facts(error)
    return got, None


def one_by_one(function: Function, rows: Sequence[tuple[Any, ...]]) -> Any:
    """The same of calls of their own."""
    got: list[Any] = []
    for row in rows:
        try:
            got.append(function(*row))
        except SandboxError as error:
            return got, facts(error)
    return got, None


INTEGERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([-(1 << 31), (1 << 31) - 1]),
    st.integers(-(1 << 31), 1 << 30),
)
ODD = st.sampled_from(
    [True, 1.0, 1 << 31, (1 << 32) - 1, 1 << 32, -(1 << 31) - 1, None, "1", 10**30]
)
I32 = st.integers(0, 19).flatmap(lambda n: ODD if n == 0 else INTEGERS)
I64 = st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.sampled_from([1 << 64, False, 2.5]))
F64 = st.one_of(
    st.floats(allow_nan=False), st.integers(-5, 5), st.sampled_from([True, 1 << 60, "x"])
)
F32 = st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([1e39, 0.1, 3, None]))
V128 = st.one_of(st.binary(min_size=16, max_size=16), st.sampled_from([7, -1, b"short", 1 << 128]))
RECORDS: dict[tuple[str, str], st.SearchStrategy[tuple[Any, ...]]] = {
    ("pure", "add"): st.tuples(I32, I32),
    ("pure", "div"): st.tuples(I32, I32),
    ("pure", "deep"): st.tuples(st.one_of(st.integers(0, 50), st.just(10_000_000))),
    ("pure", "swap"): st.tuples(I64, F64),
    ("pure", "widen"): st.tuples(F32, I64),
    ("pure", "lanes"): st.tuples(V128, I32),
    ("pure", "check"): st.tuples(st.integers(0, 13)),
    ("state", "count"): st.tuples(INTEGERS),
    ("state", "div"): st.tuples(I32, I32),
    ("state", "deep"): st.tuples(st.one_of(st.integers(0, 50), st.just(10_000_000))),
}


@settings(max_examples=150)
@given(data=st.data())
def test_a_map_is_as_its_calls_one_by_one(pool: Pool, data: st.DataObject) -> None:
    module, name = data.draw(st.sampled_from(list(RECORDS)))
    function = pool.load((PURE if module == "pure" else STATE).encode())[name]
    modes = ["fresh", "per-batch"] if module == "pure" else ["fresh"]
    function = function.options(
        instance=data.draw(st.sampled_from(modes)), fuel=data.draw(st.sampled_from([None, 10_000]))
    )
    rows = data.draw(st.lists(RECORDS[module, name], max_size=40))
    size = data.draw(st.sampled_from([1, 2, 7, 64]))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(
        function.type.params
    )
    lazily = data.draw(st.booleans())
    given = [iter(column) for column in columns] if lazily else columns
    assert together(pool, function, given, size) == one_by_one(function, rows)


def test_the_same_iterator_twice_gives_pairs(pool: Pool) -> None:
    numbers = iter(range(1000))
    add = pool.load(PURE.encode())["add"]
    assert list(pool.map(add, numbers, numbers)) == [2 * n + 1 for n in range(0, 1000, 2)]


def test_the_shortest_input_ends_it(pool: Pool) -> None:
    add = fresh(pool.load(PURE.encode())["add"])
    assert list(pool.map(add, range(5), [1] * 7, chunksize=2)) == [1, 2, 3, 4, 5]
    assert list(pool.map(add, iter(range(9)), [1] * 7)) == [n + 1 for n in range(7)]


# --- state ----------------------------------------------------------------------------------------


def test_every_call_of_a_map_has_a_fresh_instance(pool: Pool) -> None:
    count = pool.load(STATE.encode())["count"]
    assert list(pool.map(fresh(count), [10] * 500, chunksize=64)) == [11] * 500


def test_per_batch_keeps_the_state_within_a_batch(pool: Pool) -> None:
    count = pool.load(STATE.encode())["count"].options(instance="per-batch")
    assert list(pool.map(count, [0] * 50, chunksize=50)) == list(range(1, 51))
    assert count(10) == 11


def test_what_a_trap_left_behind_is_gone_with_its_batch(pool: Pool) -> None:
    module = pool.load(STATE.encode())
    div = module["div"].options(instance="per-batch")
    got: list[int] = []
    with pytest.raises(Trap, match="divide by zero") as caught:
        got.extend(pool.map(div, [8] * 5, [1, 2, 4, 0, 8], chunksize=5))
    assert got == [8, 4, 2]
    alone = pool.submit(div, 1, 0).exception()
    assert isinstance(alone, Trap)
    assert caught.value.backtrace == alone.backtrace


# --- budgets --------------------------------------------------------------------------------------


@each_mode
def test_a_batch_has_the_time_of_each_of_its_calls(pool: Pool, source: str, instance: str) -> None:
    turns = turns_in(pool, 0.1)
    limits = Limits(cpu_time=0.5, wall_time=10)
    spin = pool.load(source.encode())["spin"].options(limits=limits, instance=instance)
    assert list(pool.map(spin, [turns] * 12, chunksize=12)) == [turns] * 12


@each_mode
def test_a_call_that_takes_too_long_fails_at_its_place(
    pool: Pool, source: str, instance: str
) -> None:
    spin = pool.load(source.encode())["spin"].options(
        limits=Limits(wall_time=0.3), instance=instance
    )
    got: list[int] = []
    with pytest.raises(DeadlineExceeded) as caught:
        got.extend(pool.map(spin, [1, 2, 3, LONG, 5], chunksize=5))
    assert got == [1, 2, 3]
    assert caught.value.limit == "wall_time"
    assert caught.value.receipt is not None
    until(lambda: "0 calls" in repr(pool))


@each_mode
def test_a_call_that_computes_too_long_fails_at_its_place(
    pool: Pool, source: str, instance: str
) -> None:
    spin = pool.load(source.encode())["spin"].options(
        limits=Limits(cpu_time=0.2), instance=instance
    )
    got: list[int] = []
    with pytest.raises(CpuTimeExceeded):
        got.extend(pool.map(spin, [1, LONG, 3], chunksize=3))
    assert got == [1]


@each_mode
def test_every_call_has_all_of_its_fuel(pool: Pool, source: str, instance: str) -> None:
    spin = pool.load(source.encode())["spin"].options(fuel=50_000, instance=instance)
    assert list(pool.map(spin, [4] * 30, chunksize=30)) == [4] * 30
    got: list[int] = []
    with pytest.raises(OutOfFuel) as caught:
        got.extend(pool.map(fresh(spin), [4, 4, 4, 400, 4], chunksize=5))
    assert got == [4, 4, 4]
    assert caught.value.used == 50_000


# --- cancelling -----------------------------------------------------------------------------------


@each_mode
def test_closing_a_map_stops_its_guests(pool: Pool, source: str, instance: str) -> None:
    spin = pool.load(source.encode())["spin"].options(instance=instance)
    values = pool.map(spin, [1, LONG, LONG, LONG, LONG, LONG], chunksize=2)
    values.close()  # type: ignore[attr-defined]
    until(lambda: "0 calls" in repr(pool))
    assert pool.load(PURE.encode())["add"](1, 2) == 3


def test_a_map_that_is_stopped_is_one_event(cache: Path) -> None:
    events: list[Event] = []
    with Pool(1, cache_dir=cache, on_event=events.append) as pool:
        spin = pool.load(PURE.encode())["spin"]
        values = pool.map(spin, [LONG] * 3, chunksize=3)
        until(lambda: any(worker.phase == "busy" for worker in pool.workers()))
        values.close()  # type: ignore[attr-defined]
        until(lambda: "0 calls" in repr(pool))
        with pytest.raises(DeadlineExceeded):
            list(pool.map(fresh(spin, limits=Limits(wall_time=0.2)), [1, LONG, 1], chunksize=3))
    stopped = [(event.reason, event.calls) for event in events if isinstance(event, CallStopped)]
    assert stopped == [("Trap", 3), ("DeadlineExceeded", 1)]
