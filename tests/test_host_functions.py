"""Functions of this program that guests call: where they run, how they fail, how they are
stopped."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from host_guests import COMMAND, KINDS, REACTOR, STORM, Hanging, forward

from wasm_sandbox import (
    ArgumentOutOfRange,
    Capabilities,
    DeadlineExceeded,
    Filesystem,
    HostFunction,
    HostFunctionError,
    Limits,
    Module,
    Pool,
    PoolError,
    SignatureMismatch,
    Trap,
)

pytestmark = pytest.mark.usefixtures("patience")

STUCK = 60.0
"""Seconds after which a test gives up waiting for something that has to come."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache) as pool:
        yield pool


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hanging functions wait for; the test's end lets them go."""
    event = threading.Event()
    yield event
    event.set()


def load(pool: Pool, source: bytes, function: Any, name: str = "f") -> Module:
    return pool.load(source, imports={"env": {name: function}})


# -- values ---------------------------------------------------------------------------------------


@dataclass
class Order:
    """What a guest may send as JSON."""

    symbol: str
    count: int = 1


def four(a: int, b: int, c: float, d: float) -> tuple[int, int, float, float]:
    assert [type(each) for each in (a, b, c, d)] == [int, int, float, float]
    return a, b, c, d


def test_numbers_of_every_type_cross_both_ways(pool: Pool) -> None:
    module = load(pool, forward("i32 i64 f32 f64", "i32 i64 f32 f64"), four)
    for given in ((1, 2, 0.5, 0.25), (-1, -(2**63), -0.0, math.inf)):
        assert module["call"](*given) == given
    assert module["call"](2**32 - 1, 2**64 - 1, 0.0, 0.0)[:2] == (-1, -1)


@pytest.mark.parametrize(
    ("params", "results", "function", "given", "found"),
    [
        ("", "", lambda: None, (), None),
        ("i32", "i32", lambda a: 2**32 - a, (1,), -1),
        ("i32 i32", "i32", lambda *many: sum(many), (3, 4), 7),
        ("i32", "f64", lambda a, b=0.5: a + b, (1,), 1.5),
        ("i32", "f32", math.sqrt, (16,), 4.0),
        ("f64", "i64", int, (7.9,), 7),
    ],
    ids=["nothing", "unsigned", "variadic", "default", "builtin", "class"],
)
def test_what_has_no_annotations_takes_numbers(
    pool: Pool, params: str, results: str, function: Any, given: tuple[Any, ...], found: Any
) -> None:
    assert load(pool, forward(params, results), function)["call"](*given) == found


def text(symbol: str) -> int:
    return len(symbol) * 10 + (symbol == "ACME")


def raw(data: bytes) -> int:
    return int.from_bytes(data, "big")


def numbers(values: list[int]) -> int:
    return sum(values)


def anything(value: dict[str, Any]) -> int:
    return len(value)


def order(value: Order) -> int:
    return value.count


@pytest.mark.parametrize(
    ("function", "place", "found"),
    [
        (text, (8, 4), 41),
        (text, (8, 0), 0),
        (text, (65536, 0), 0),
        (raw, (32, 2), 0xFFFE),
        (numbers, (16, 6), 3),
    ],
    ids=["str", "empty", "empty_at_the_end", "bytes", "json"],
)
def test_annotated_parameters_take_the_bytes_that_they_point_to(
    pool: Pool, function: Any, place: tuple[int, int], found: int
) -> None:
    assert load(pool, forward("i32 i32", "i64"), function)["call"](*place) == found


@pytest.mark.parametrize(
    ("function", "sent", "found"),
    [
        (text, "é" * 5, 50),
        (anything, {"a": 1, "b": 2}, 2),
        (order, {"symbol": "ACME", "count": 7}, 7),
        (raw, bytes(3_000_000) + b"\x07", 7),
    ],
    ids=["str", "dict", "dataclass", "large"],
)
def test_what_a_caller_sends_reaches_the_host_function(
    pool: Pool, function: Any, sent: Any, found: int
) -> None:
    assert load(pool, forward("i32 i32", "i64"), function)["call"](sent) == found


def several(count: int, first: str, last: str) -> float:
    return count + len(first) / 10 + len(last) / 100


def test_several_buffers_cross_together(pool: Pool) -> None:
    module = load(pool, forward("i32 i32 i32 i32 i32", "f64"), several)
    assert module["call"](3, "ab", "abcde") == pytest.approx(3.25)


def named(size: int) -> str:
    return "é" * size


def some(size: int) -> bytes:
    return bytes(size)


def listed(size: int) -> list[int]:
    return list(range(size))


def made(size: int) -> Order:
    return Order("ACME", size)


@pytest.mark.parametrize("results", ["i64", "i32 i32"])
@pytest.mark.parametrize(
    ("function", "size", "returns", "found"),
    [
        (named, 3, str, "ééé"),
        (named, 0, str, ""),
        (named, 1_000_000, str, "é" * 1_000_000),
        (some, 5, bytes, bytes(5)),
        (listed, 3, "json", [0, 1, 2]),
        (made, 3, "json", {"symbol": "ACME", "count": 3}),
    ],
    ids=["str", "empty", "large", "bytes", "list", "dataclass"],
)
def test_annotated_results_are_written_into_the_guests_memory(
    pool: Pool, results: str, function: Any, size: int, returns: Any, found: Any
) -> None:
    called = load(pool, forward("i32", results), function)["call"]
    assert called.options(returns=returns)(size) == found


def is_even(number: bool) -> bool:
    return not number


def test_truth_is_an_integer_for_the_guest(pool: Pool) -> None:
    module = load(pool, forward("i32", "i32"), is_even)
    assert [module["call"](number) for number in (0, 1, 7)] == [1, 0, 0]


def echo(data: bytes) -> bytes:
    return data


def test_pointers_of_64_bits_are_understood(pool: Pool) -> None:
    wide = """(func (export "alloc") (param i64) (result i64) (i64.const 512))"""
    memory = '(memory (export "memory") i64 1)'
    source = forward("i64 i64", "i64 i64", alloc=wide, memory=memory).replace(
        b"(data (i32.const", b"(data (i64.const"
    )
    called = load(pool, source, echo)["call"]
    assert called(8, 4) == (512, 4)
    assert called.options(returns=str)("hello") == "hello"
    with pytest.raises(Trap) as caught:
        called(2**64 - 2, 4)
    assert caught.value.code == "memory_out_of_bounds"


# -- where they run -------------------------------------------------------------------------------


def test_plain_functions_run_in_threads_of_this_process(pool: Pool) -> None:
    def where() -> int:
        names.append(threading.current_thread().name)
        return os.getpid()

    names: list[str] = []
    assert load(pool, forward("", "i32"), where)["call"]() == os.getpid()
    direct = HostFunction(where, direct=True)
    assert load(pool, forward("", "i32"), direct)["call"]() == os.getpid()
    assert [name == "wasm-sandbox" for name in names] == [False, True]
    assert threading.current_thread().name not in names


async def slept(number: int) -> int:
    await asyncio.sleep(0)
    return number + (asyncio.get_running_loop() is not None)


class Called:
    """An object that is called, and gives a coroutine."""

    async def __call__(self, number: int) -> int:
        return await slept(number)


def test_coroutine_functions_run_in_a_loop_of_the_pools(pool: Pool) -> None:
    for function in (slept, Called()):
        assert load(pool, forward("i32", "i32"), function)["call"](41) == 42


def test_coroutine_functions_run_in_the_loop_that_loaded_them(pool: Pool) -> None:
    async def here() -> int:
        return int(asyncio.get_running_loop() in loops)

    async def main() -> int:
        loops.append(asyncio.get_running_loop())
        module = load(pool, forward("", "i32"), here)
        found: int = await asyncio.wrap_future(pool.submit(module["call"]))
        return found

    loops: list[asyncio.AbstractEventLoop] = []
    assert asyncio.run(main()) == 1
    assert load(pool, forward("", "i32"), here)["call"]() == 0


def test_a_loop_that_has_ended_is_told(pool: Pool) -> None:
    async def main() -> Module:
        return load(pool, forward("i32", "i32"), slept)

    module = asyncio.run(main())
    with pytest.raises(HostFunctionError, match="closed"):
        module["call"](1)


# -- how they fail --------------------------------------------------------------------------------


class Mute(BaseException):
    """Raises instead of telling what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("kind", [KeyError, SystemExit, KeyboardInterrupt, Trap, Mute])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_function_raises_is_the_cause(pool: Pool, kind: Any, is_async: bool) -> None:
    error = kind("x", "y") if kind is Trap else kind("x")

    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    module = load(pool, forward(), coroutine if is_async else plain)
    worker = pool.workers()[0].number
    with pytest.raises(HostFunctionError, match=rf"env\.f raised {kind.__name__}") as caught:
        module["call"]()
    assert caught.value.__cause__ is error
    assert caught.value.receipt is not None
    assert caught.value.receipt.host_calls == 1
    assert pool.workers()[0].number == worker  # it lives


@pytest.mark.parametrize("direct", [False, True])
def test_an_iterator_that_is_at_its_end_is_the_cause(pool: Pool, direct: bool) -> None:
    function = HostFunction(lambda: next(iter(())), direct=direct)
    with pytest.raises(HostFunctionError, match=r"env\.f raised StopIteration") as caught:
        load(pool, forward(), function)["call"]()
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize(
    ("results", "value", "cause"),
    [
        ("i32", 1.0, SignatureMismatch),
        ("i32", True, SignatureMismatch),
        ("i32", "1", SignatureMismatch),
        ("i32", None, SignatureMismatch),
        ("i32", 2**32, ArgumentOutOfRange),
        ("f32", 1e300, ArgumentOutOfRange),
        ("", 1, SignatureMismatch),
        ("i32 i32", (1,), SignatureMismatch),
        ("i32 i32", [1, 2], SignatureMismatch),
        ("i32 i32", (1, "2"), SignatureMismatch),
    ],
    ids=repr,
)
def test_a_result_of_another_type_is_told(
    pool: Pool, results: str, value: Any, cause: type[Exception]
) -> None:
    with pytest.raises(HostFunctionError, match=r"env\.f") as caught:
        load(pool, forward("", results), lambda: value)["call"]()
    assert type(caught.value.__cause__) is cause


@pytest.mark.parametrize("value", [b"x", 1, "\ud800", None], ids=repr)
def test_a_result_that_is_not_the_text_that_was_declared_is_told(pool: Pool, value: Any) -> None:
    def declared() -> str:
        return value  # type: ignore[no-any-return]

    with pytest.raises(HostFunctionError) as caught:
        load(pool, forward("", "i64"), declared)["call"]()
    assert isinstance(caught.value.__cause__, SignatureMismatch)


def test_a_plain_function_that_gives_a_coroutine_is_told(pool: Pool) -> None:
    with pytest.raises(HostFunctionError, match="async def"):
        load(pool, forward("i32", "i32"), lambda number: slept(number))["call"](1)


def test_what_is_too_large_to_cross_is_told(pool: Pool) -> None:
    with pytest.raises(HostFunctionError, match="at most"):
        load(pool, forward("i32", "i64"), some)["call"](9 << 20)
    memory = '(memory (export "memory") 200)'
    with pytest.raises(Trap, match="at most") as caught:
        load(pool, forward("i32 i32", "i64", memory=memory), raw)["call"](0, 9 << 20)
    assert caught.value.code == "bad_argument"


# -- hostile guests -------------------------------------------------------------------------------


def never(_: str) -> str:
    raise AssertionError("it is not called")


@pytest.mark.parametrize(
    ("start", "size"),
    [(0, 65537), (65536, 1), (65535, 2), (-1, 1), (-1, -1), (8, -8), (1 << 31, 1 << 31)],
)
def test_no_pointer_leaves_the_guests_memory(pool: Pool, start: int, size: int) -> None:
    with pytest.raises(Trap) as caught:
        load(pool, forward("i32 i32", "i64"), never)["call"](start, size)
    assert caught.value.code in ("memory_out_of_bounds", "bad_argument")


def no_list(_: list[str]) -> None:
    raise AssertionError("it is not called")


@pytest.mark.parametrize(
    ("function", "results", "place"),
    [
        (never, "i64", (32, 2)),
        (no_list, "", (40, 4)),
        (no_list, "", (16, 6)),
        (no_list, "", (8, 0)),
    ],
    ids=["utf8", "json", "another_json", "empty"],
)
def test_bytes_that_are_not_what_was_declared_trap(
    pool: Pool, function: Any, results: str, place: tuple[int, int]
) -> None:
    with pytest.raises(Trap, match=r"env\.f: argument 1 does not decode") as caught:
        load(pool, forward("i32 i32", results), function)["call"](*place)
    assert caught.value.code == "bad_argument"


def short() -> str:
    return "text"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("(i32.const 0)", "bad_argument"),
        ("(i32.const 65535)", "bad_argument"),
        ("(i32.const -1)", "bad_argument"),
        ("unreachable", "unreachable"),
        ("(i32.wrap_i64 (call $f))", "bad_argument"),
    ],
)
def test_an_alloc_that_misbehaves_ends_its_own_call(pool: Pool, body: str, code: str) -> None:
    alloc = f'(func (export "alloc") (param i32) (result i32) {body})'
    with pytest.raises(Trap) as caught:
        load(pool, forward("", "i64", alloc=alloc), short)["call"]()
    assert caught.value.code == code


def test_an_alloc_that_never_returns_is_stopped(pool: Pool) -> None:
    alloc = '(func (export "alloc") (param i32) (result i32) (loop $l (br $l)) unreachable)'
    called = load(pool, forward("", "i64", alloc=alloc), short)["call"]
    with pytest.raises(DeadlineExceeded):
        called.options(limits=Limits(wall_time=0.2))()


def test_the_memory_may_move_while_alloc_runs(pool: Pool) -> None:
    alloc = """(func (export "alloc") (param i32) (result i32)
      (i32.mul (memory.grow (i32.const 100)) (i32.const 65536)))"""
    called = load(pool, forward("", "i64", alloc=alloc), short)["call"]
    assert called.options(returns=str)() == "text"


# -- how they are stopped -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_takes_too_long_ends_the_call(
    pool: Pool, release: threading.Event, kind: str
) -> None:
    function = HostFunction(getattr(Hanging(release), kind), timeout=0.05)
    module = load(pool, forward(), function)
    worker = pool.workers()[0].number
    with pytest.raises(HostFunctionError, match=r"timeout of 0\.05 s") as caught:
        module["call"]()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert pool.workers()[0].number == worker


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["wall_time", "timeout", "cancel"])
def test_the_calls_own_end_does_not_wait_for_the_function(
    pool: Pool, release: threading.Event, kind: str, how: str
) -> None:
    hanging = Hanging(release)
    called = load(pool, forward(), getattr(hanging, kind))["call"]
    worker = pool.workers()[0].number
    if how == "wall_time":
        called = called.options(limits=Limits(wall_time=0.05))
    elif how == "timeout":
        called = called.options(timeout=0.05)
    future = pool.submit(called)
    while not hanging.begun.wait(0.01):
        if future.done():  # on a busy machine its time may be up before it comes to the function
            future = pool.submit(called)
    if how == "cancel":
        assert future.cancel()
    else:
        assert isinstance(future.exception(STUCK), DeadlineExceeded)
    assert load(pool, forward("", "i32"), lambda: 1)["call"]() == 1
    assert pool.workers()[0].number == worker
    if kind == "coroutine":
        assert hanging.ended == ["cancelled"]


def test_a_guest_that_waits_for_the_host_is_not_idle(pool: Pool) -> None:
    event = threading.Event()
    waits = load(pool, forward("f64", "i32"), lambda seconds: int(not event.wait(seconds)))["call"]
    assert waits.options(limits=Limits(idle_time=0.05))(0.3) == 1


# -- functions that call the pool -----------------------------------------------------------------


# -- what is counted ------------------------------------------------------------------------------


def test_a_storm_that_comes_too_fast_is_stopped_by_the_calls_limit(pool: Pool) -> None:
    def see(number: int) -> int:
        seen.append(number)
        return number

    seen: list[int] = []
    storm = load(pool, STORM, HostFunction(see, rate=0.1))["storm"]
    with pytest.raises(DeadlineExceeded):
        storm.options(limits=Limits(wall_time=0.3))(1_000_000)
    assert seen == [1_000_000]


# -- modules --------------------------------------------------------------------------------------


def test_the_same_bytes_with_other_functions_are_another_module(pool: Pool) -> None:
    source = forward("", "i32")
    modules = [load(pool, source, lambda number=number: number) for number in range(60)]
    workers: set[int | None] = set()
    for _ in range(2):
        for number, module in enumerate(modules):
            value, receipt = module["call"].detailed()
            assert value == number
            workers.add(receipt.worker)
    assert len(workers) == len({module.sha256 for module in modules}) == 1


def test_a_command_calls_host_functions(pool: Pool, tmp_path: Path) -> None:
    said: list[str] = []

    def say(what: str) -> None:
        said.append(what)

    module = load(pool, COMMAND, say, "say")
    assert pool.run(module).exit_code == 8  # EBADF: no directory is granted
    granted = Capabilities(filesystem=Filesystem.read_only(tmp_path, at="/here"))
    assert pool.run(module, capabilities=granted).exit_code == 0
    assert said == ["hello", "hello"]


def test_a_reactor_calls_host_functions_from_its_beginning_on(pool: Pool) -> None:
    assert load(pool, REACTOR, lambda number: number * 100)["run"](5) == 600


def test_with_buffers_and_functions_at_once_nothing_is_mixed_up(pool: Pool) -> None:
    called = load(pool, forward("i32 i32", "i64"), echo)["call"].options(returns=bytes)
    for size in (0, 10, 40_000, 2_000_000):
        sent = os.urandom(size)
        assert called(sent) == sent


def test_tenants_share_the_functions_and_no_worker(pool: Pool) -> None:
    called = load(pool, forward("", "i32"), lambda: 3)["call"]
    receipts = [called.options(tenant=name).detailed()[1] for name in ("a", "b", "a")]
    assert len({receipt.worker for receipt in receipts[:2]}) == 2


# -- functions in the worker ----------------------------------------------------------------------


def in_worker(pool: Pool, source: bytes, function: Any, **imports: Any) -> Module:
    return pool.load(source, worker_imports={"env": {"f": function}}, **imports)


def test_a_helper_runs_in_the_worker_in_its_jail(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path, here = str(tmp_path / "secret"), os.getpid()

    def look(_: int) -> int:
        found = 0 if os.getpid() == here else 1
        with contextlib.suppress(OSError), open(path) as file:
            found += len(file.read()) * 10
        return found

    looked = in_worker(pool, forward("i32", "i32"), look)["call"]
    value, receipt = looked.detailed(0)
    assert (value, receipt.host_calls) == (1, 0)


def test_helpers_pass_numbers_of_every_type(pool: Pool) -> None:
    many = "i32 i64 f32 f64"
    called = in_worker(pool, forward(many, many), lambda *given: given)["call"]
    assert called(-1, 2**63, 0.5, -math.inf) == (-1, -(2**63), 0.5, -math.inf)
    assert in_worker(pool, forward("f64", "f64"), math.sqrt)["call"](16.0) == 4.0
    assert in_worker(pool, forward(), lambda: None)["call"]() is None
    unsigned = in_worker(pool, forward("", "i32"), lambda: 2**32 - 1)["call"]
    assert unsigned() == -1


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.0, "float"), (True, "bool"), ("1", "str"), (None, "NoneType"), (2**32, "no i32")],
    ids=repr,
)
def test_a_helper_that_gives_another_type_is_told(pool: Pool, value: Any, said: str) -> None:
    with pytest.raises(HostFunctionError, match=said):
        in_worker(pool, forward("", "i32"), lambda: value)["call"]()


@pytest.mark.parametrize("value", [True, "1", None, (1.0, 2.0)], ids=repr)
def test_a_helper_that_gives_no_float_is_told(pool: Pool, value: Any) -> None:
    with pytest.raises(HostFunctionError, match=r"env\.f in the worker raised"):
        in_worker(pool, forward("", "f32"), lambda: value)["call"]()


def test_a_helper_that_fails_or_hangs_ends_its_own_call(pool: Pool) -> None:
    called = in_worker(pool, STORM, lambda number: 10 // (number - 1))["storm"]
    with pytest.raises(HostFunctionError, match="ZeroDivisionError"):
        called(3)
    with pytest.raises(HostFunctionError, match="SystemExit"):
        in_worker(pool, forward("", "i32"), lambda: exec("raise SystemExit(3)"))["call"]()

    def forever() -> int:
        while True:
            pass

    hangs = in_worker(pool, forward("", "i32"), forever)["call"]
    with pytest.raises(DeadlineExceeded):
        hangs.options(limits=Limits(wall_time=0.2))()
    assert load(pool, forward("", "i32"), lambda: 1)["call"]() == 1


def test_modules_without_the_helpers_never_share_their_worker(pool: Pool) -> None:
    source = forward("i32", "i32")
    doubles = in_worker(pool, source, lambda number: number * 2)["call"]
    again = in_worker(pool, source, lambda number: number * 3)["call"]
    plain = load(pool, source, lambda number: number)["call"]
    seen: dict[int | None, str] = {}
    for called, name, factor in ((doubles, "2", 2), (again, "3", 3), (plain, "1", 1)) * 2:
        value, receipt = called.detailed(7)
        assert value == 7 * factor
        assert seen.setdefault(receipt.worker, name) == name


def test_helpers_that_cannot_be_had_in_the_worker_are_told(pool: Pool) -> None:
    class Broken:
        def __reduce__(self) -> Any:
            return (exec, ("raise RuntimeError('not here')",))

        def __call__(self) -> int:
            return 1

    class Threads:
        def __reduce__(self) -> Any:
            import _thread
            import time

            return (_thread.start_new_thread, (time.sleep, (30,)))

        def __call__(self) -> int:
            return 1

    for function, said in ((Broken(), "not here"), (Threads(), "start threads")):
        called = in_worker(pool, forward("", "i32"), function)["call"]
        with pytest.raises(PoolError, match=said):
            called()
    assert load(pool, forward("", "i32"), lambda: 1)["call"]() == 1
