"""Components call functions of this program, typed by their WIT."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from component_texts import PADDING, Kind
from host_guests import KINDS, Hanging
from importing_components import COMMAND, ECHO, PRICES, SHOP, dividing, imported_echo

from wasm_sandbox import (
    Capabilities,
    CapabilityDenied,
    ConfigurationError,
    DeadlineExceeded,
    Err,
    Function,
    Grants,
    HostFunction,
    HostFunctionError,
    Limits,
    MissingImport,
    Module,
    Ok,
    Pool,
    PoolError,
    SignatureMismatch,
    Some,
    Trap,
    Variant,
    WitError,
    open_pool,
)
from wasm_sandbox.protocol.events import Event, HostFunctionsCalled
from wasm_sandbox.supervisor import watch

STUCK = 20.0
"""Seconds after which a test gives up waiting for something that has to come."""
OPS = "docs:math/ops"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def pool(cache: Path, events: list[Event]) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache, on_event=events.append) as pool:
        yield pool


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a worker that stops its guest when told to is not killed."""
    monkeypatch.setattr(watch, "GRACE", 15.0)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hanging functions wait for; the test's end lets them go."""
    event = threading.Event()
    yield event
    event.set()


def shop(pool: Pool, price: Any, log: Any = lambda _: None) -> Module:
    return pool.load(SHOP, imports={PRICES: {"unit-price": price}, "log": log})


def divide(pool: Pool, function: Any) -> Function:
    return pool.load(dividing(), imports={OPS: {"divide": function}})["divide"]


# -- values ---------------------------------------------------------------------------------------


def test_functions_of_interfaces_and_of_the_world_are_called(
    pool: Pool, events: list[Event]
) -> None:
    said: list[int] = []
    module = shop(pool, lambda item: item * 1.5, said.append)
    value, receipt = module["order"].detailed(3, 2)
    assert (value, said, receipt.host_calls) == (9.0, [3], 2)
    assert receipt.bytes_in
    (told,) = [each for each in events if isinstance(each, HostFunctionsCalled)]
    assert dict(told.functions) == {"log": 1, f"{PRICES}#unit-price": 1}


def test_a_function_gets_the_custom_capabilities_that_it_needs(pool: Pool) -> None:
    def divide_by(a: int, b: int, *, grants: Grants) -> Ok | Err:
        if b > cast("int", grants["most"]):
            raise WitError("too much")
        return Ok(a // b)

    def granted(most: int) -> Capabilities:
        return Capabilities(custom={"most": most})

    call = divide(pool, HostFunction(divide_by, needs={"most": (1, 9)}))
    assert call.options(capabilities=granted(9))(8, 4) == Ok(2)
    assert call.options(capabilities=granted(3))(8, 4) == Err("too much")
    with pytest.raises(CapabilityDenied, match=r"capabilities\.custom\.most"):
        call(8, 4)


def test_what_is_needed_is_shown_with_its_types(pool: Pool) -> None:
    needed = {(each.module, each.name): str(each.type) for each in pool.load(SHOP).imports}
    assert needed == {
        ("", "log"): "func(item: u32)",
        (PRICES, "unit-price"): "func(item: u32) -> f64",
    }


def _point(x: int, y: int) -> dict[str, int]:
    return {"x": x, "y-axis": y}


class Point:
    """What may stand for a record."""

    x = 1
    y_axis = -2


POINT: Kind = ("record", ("x", "u8"), ("y-axis", "s16"))
EXAMPLES: list[tuple[Kind, Any]] = [
    ("u8", 255),
    ("u64", 2**64 - 1),
    ("s64", -(2**63)),
    ("f32", 0.5),
    ("f64", -1e300),
    ("bool", True),
    ("char", "ß"),
    ("string", "Grüße"),
    (("list", "u8"), b"\0\xff"),
    (("list", "s32"), [1, -1]),
    (("list", "string"), ["a", ""]),
    (("tuple", "u8", "string"), (1, "x")),
    (POINT, _point(1, -2)),
    (("variant", ("plain", None), ("many", ("list", "u16"))), Variant("many", [1, 2])),
    (("enum", "red", "blue"), "blue"),
    (("flags", "read", "write"), frozenset({"write"})),
    (("option", "string"), None),
    (("option", ("option", "u8")), Some(None)),
    (("result", "u8", "string"), Err("no")),
    (("result", None, None), Ok()),
    (("list", ("option", POINT)), [None, _point(0, 0)]),
]


@pytest.mark.parametrize(("kind", "value"), EXAMPLES, ids=lambda each: str(each)[:30])
def test_values_of_every_type_cross_both_ways(pool: Pool, kind: Kind, value: Any) -> None:
    def echo(given: Any, *_: int) -> Any:
        seen.append(given)
        return given

    seen: list[Any] = []
    module = pool.load(imported_echo(kind).encode(), imports={ECHO: {"echo": echo}})
    assert module["echo"](value, *PADDING) == value
    assert seen == [value]


def test_what_stands_for_a_value_is_taken_as_for_arguments(pool: Pool) -> None:
    module = pool.load(imported_echo(POINT).encode(), imports={ECHO: {"echo": lambda *_: Point}})
    assert module["echo"](_point(0, 0), *PADDING) == _point(1, -2)


@pytest.mark.parametrize(
    ("kind", "value", "returned", "said"),
    [
        ("u8", 0, 256, "the result must be u8, 0 to 255, not 256"),
        ("u8", 0, True, "the result must be u8"),
        ("f64", 0.0, "1", "the result must be f64"),
        ("string", "", b"bytes", "the result must be string"),
        ("char", "a", "ab", "the result must be a str of one character"),
        (
            ("list", POINT),
            [],
            [_point(0, 0), {"x": 1}],
            r"the result\[1\] the field y-axis is m",
        ),
        (("list", POINT), [], [{"x": 300, "y-axis": 1}], r"the result\[0\]\.x must be u8"),
        (("option", ("option", "u8")), None, 3, r"pass None, or Some\(value\)"),
        (("result", "u8", "string"), Ok(1), 5, r"pass Ok\(value\) or Err\(error\)"),
        (("variant", ("a", "u8"), ("b", None)), Variant("b"), "b", r"pass Variant\(case"),
        (("enum", "red", "blue"), "red", "green", "the result must be t0, not 'green'"),
        (("flags", "read", "write"), frozenset(), {"run"}, "the result has no flag 'run'"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_a_result_that_does_not_fit_is_told_with_its_place(
    pool: Pool, kind: Kind, value: Any, returned: Any, said: str
) -> None:
    source = imported_echo(kind).encode()
    module = pool.load(source, imports={ECHO: {"echo": lambda *_: returned}})
    with pytest.raises(HostFunctionError, match=said) as caught:
        module["echo"](value, *PADDING)
    assert isinstance(caught.value.__cause__, SignatureMismatch)


def test_a_function_that_gives_something_where_nothing_is_wanted_is_told(pool: Pool) -> None:
    with pytest.raises(HostFunctionError, match="log: the result must be nothing, not 5"):
        shop(pool, float, lambda _: 5)["order"](1, 1)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_a_result_is_returned_or_raised(pool: Pool, is_async: bool) -> None:
    def work(a: int, b: int) -> Any:
        if b == 0:
            raise WitError("division by zero")
        return Err("odd") if a % 2 else Ok(a // b)

    async def wait(a: int, b: int) -> Any:
        await asyncio.sleep(0)
        return work(a, b)

    called = divide(pool, wait if is_async else work)
    assert called(8, 2) == Ok(4)
    assert called(7, 2) == Err("odd")
    assert called(7, 0) == Err("division by zero")


def test_an_error_that_is_not_of_the_results_type_is_told(pool: Pool) -> None:
    def fail(_a: int, _b: int) -> Any:
        raise WitError(5)

    with pytest.raises(HostFunctionError, match=r"the result\.Err must be string, not 5"):
        divide(pool, fail)(1, 1)


def test_where_there_is_no_result_an_error_ends_the_call(pool: Pool) -> None:
    def fail(_: int) -> float:
        raise WitError("nobody hears it")

    with pytest.raises(HostFunctionError, match="raised WitError") as caught:
        shop(pool, fail)["order"](1, 1)
    assert isinstance(caught.value.__cause__, WitError)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_function_raises_is_the_cause(pool: Pool, kind: Any, is_async: bool) -> None:
    def work(_a: int, _b: int) -> Any:
        raise error

    async def wait(_a: int, _b: int) -> Any:
        raise error

    error = kind("as it is")
    with pytest.raises(HostFunctionError, match=f"ops#divide raised {kind.__name__}") as caught:
        divide(pool, wait if is_async else work)(1, 1)
    assert caught.value.__cause__ is error
    assert divide(pool, lambda a, b: Ok(a + b))(1, 2) == Ok(3)


def test_what_is_too_large_to_cross_is_told(pool: Pool) -> None:
    def grow(given: bytes, *_: int) -> bytes:
        return given * 9

    module = pool.load(imported_echo(("list", "u8")).encode(), imports={ECHO: {"echo": grow}})
    assert module["echo"](bytes(100_000), *PADDING) == bytes(900_000)
    with pytest.raises(HostFunctionError, match="at most"):
        module["echo"](bytes(1_000_000), *PADDING)
    with pytest.raises(Trap, match="at most") as caught:
        module["echo"](bytes(5_000_000), *PADDING)
    assert caught.value.code == "bad_argument"


# -- linking --------------------------------------------------------------------------------------


def price(item: int) -> float:
    return float(item)


def log(_: int) -> None: ...


@pytest.mark.parametrize(
    "imports",
    [
        {"docs:shop/prices": {"unit-price": price}, "log": log},
        {PRICES: {"unit_price": price}, "": {"log": log}},
        {PRICES: {"unit-price": HostFunction(price)}, "log": HostFunction(log, direct=True)},
    ],
)
def test_names_may_be_spelled_as_python_has_them_and_without_a_version(
    pool: Pool, imports: Any
) -> None:
    assert pool.load(SHOP, imports=imports)["order"](3, 2) == 6.0


@pytest.mark.parametrize(
    ("imports", "error", "said", "hint"),
    [
        ({"log": log}, MissingImport, r"prices@0\.1\.0#unit-price: func\(item: u32\) -> f64", ""),
        (
            {"log": log, PRICES: {"unit-prise": price}},
            MissingImport,
            "unit-price",
            "imports= has docs:shop/prices@0.1.0#unit-prise",
        ),
        (
            {"log": log, "docs:shop/price": {"unit-price": price}},
            MissingImport,
            "unit-price",
            "imports= has docs:shop/price#unit-price",
        ),
        (
            {"log": log, PRICES: {"unit-price": price, "total": price}},
            ConfigurationError,
            r"load\.imports\['docs:shop/prices@0\.1\.0'\]\['total'\].*no such thing",
            "it imports log, docs:shop/prices@0.1.0#unit-price",
        ),
        (
            {"log": log, PRICES: {"unit-price": price}, "logs": log},
            ConfigurationError,
            r"load\.imports\['logs'\]",
            "did you mean log?",
        ),
        (
            {"log": log, PRICES: {"unit-price": price, "unit_price": price}},
            ConfigurationError,
            "a second time",
            "",
        ),
        (
            {"log": log, PRICES: {"unit-price": price}, "docs:shop/prices": {"unit-price": price}},
            ConfigurationError,
            "a second time",
            "",
        ),
        (
            {"log": log, PRICES: {"unit-price": price}, "wasi:cli/stdout@0.2.0": {"get": price}},
            ConfigurationError,
            "wasi:cli/stdout@0.2.0 is offered by the pool itself",
            "",
        ),
        (
            {"log": log, PRICES: {"unit-price": lambda: 1.0}},
            SignatureMismatch,
            r"cannot be called as func\(item: u32\) -> f64: too many positional",
            "",
        ),
        ({"log": 5}, ConfigurationError, "log", ""),
        ({"log": log, PRICES: {"unit-price": 5}}, ConfigurationError, "must be callable", ""),
    ],
)
def test_what_does_not_fit_is_told_when_it_is_loaded(
    pool: Pool, imports: Any, error: type[Exception], said: str, hint: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        pool.load(SHOP, imports=imports)
    if hint:
        assert caught.value.hint == hint  # type: ignore[attr-defined]


def test_without_a_version_one_of_several_is_not_guessed(pool: Pool) -> None:
    source = b"""(component
      (import "docs:a/b@1.0.0" (instance $one (export "f" (func))))
      (import "docs:a/b@2.0.0" (instance $two (export "f" (func)))))"""
    with pytest.raises(ConfigurationError, match="several versions") as caught:
        pool.load(source, imports={"docs:a/b": {"f": lambda: None}})
    assert caught.value.hint == "give docs:a/b@1.0.0 and docs:a/b@2.0.0"
    one: dict[str, Any] = {"f": lambda: None}
    pool.load(source, imports={"docs:a/b@1.0.0": one, "docs:a/b@2.0.0": one})


def test_a_core_module_has_no_functions_without_a_module(pool: Pool) -> None:
    source = b'(module (import "env" "f" (func)))'
    with pytest.raises(ConfigurationError, match="by itself, and this is a core module"):
        pool.load(source, imports={"f": lambda: None})


def test_without_them_a_component_can_be_looked_at_and_its_calls_fail(pool: Pool) -> None:
    with pytest.raises(MissingImport, match="unit-price"):
        pool.load(SHOP)["order"](1, 1)


def test_the_same_bytes_with_other_functions_are_another_module(pool: Pool) -> None:
    one, two = shop(pool, lambda _: 1.0), shop(pool, lambda _: 2.0)
    assert (one["order"](1, 1), two["order"](1, 1), one["order"](1, 1)) == (1.0, 2.0, 1.0)


# -- where they run, how they are stopped ---------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["own", "wall_time", "timeout", "cancel"])
def test_a_function_that_hangs_ends_its_own_call_and_no_more(
    pool: Pool, release: threading.Event, kind: str, how: str
) -> None:
    hanging = Hanging(release)
    hangs = getattr(hanging, kind)

    def plain(item: int) -> float:
        if item:
            hangs()
        return 0.0

    async def coroutine(item: int) -> float:
        if item:
            await hangs()
        return 0.0

    function: Any = plain if kind == "thread" else coroutine
    if how == "own":
        function = HostFunction(function, timeout=0.5)
    called = shop(pool, function)["order"]
    assert called(0, 1) == 0.0  # now its worker has all that it needs
    worker = pool.workers()[0].number
    if how == "wall_time":
        called = called.options(limits=Limits(wall_time=0.5))
    elif how == "timeout":
        called = called.options(timeout=0.5)
    future = pool.submit(called, 1, 1)
    assert hanging.begun.wait(STUCK)
    if how == "cancel":
        assert future.cancel()
    else:
        wanted = HostFunctionError if how == "own" else DeadlineExceeded
        assert isinstance(future.exception(STUCK), wanted)
    assert shop(pool, float)["order"](3, 1) == 3.0
    assert pool.workers()[0].number == worker


def test_a_rate_makes_the_guest_wait(pool: Pool) -> None:
    seen: list[int] = []

    def see(item: int) -> float:
        seen.append(item)
        return 1.0

    storm = shop(pool, HostFunction(see, rate=0.1))["storm"]
    with pytest.raises(DeadlineExceeded):
        storm.options(limits=Limits(wall_time=0.3))(1_000_000)
    assert seen == [1_000_000]


def test_a_storm_is_served_and_counted(pool: Pool) -> None:
    function = HostFunction(lambda item: float(item), rate=1e6, direct=True)
    value, receipt = shop(pool, function)["storm"].detailed(3000)
    assert (value, receipt.host_calls) == (3000 * 3001 / 2, 3000)


def test_a_function_calls_the_pool_while_a_worker_is_free(cache: Path) -> None:
    with Pool(2, cache_dir=cache) as pool:
        inner = shop(pool, lambda item: item * 2.0)["order"]
        outer = shop(pool, lambda item: inner(item, 10))["order"]
        assert outer(1, 3) == 60.0


def test_a_call_that_no_worker_can_ever_take_is_refused(pool: Pool) -> None:
    inner = shop(pool, lambda item: item * 2.0)["order"]
    with pytest.raises(HostFunctionError) as caught:
        shop(pool, lambda item: inner(item, 10))["order"](1, 1)
    assert isinstance(caught.value.__cause__, PoolError)


def test_with_trio_they_run_beside_the_caller(cache: Path) -> None:
    async def main() -> None:
        async def slow(item: int) -> float:
            await trio.sleep(0)
            return item * 2.0

        async def never(_: int) -> float:
            scope.cancel()
            await trio.sleep_forever()
            return 0.0

        with trio.fail_after(50):
            async with open_pool(1, cache_dir=cache) as pool:
                given: dict[str, Any] = {"log": log, PRICES: {"unit-price": slow}}
                module = await pool.load(SHOP, imports=given)
                assert await pool.call(module["order"], 2, 3) == 12.0
                given[PRICES] = {"unit-price": never}
                module = await pool.load(SHOP, imports=given)
                with trio.CancelScope() as scope:
                    await pool.call(module["order"], 2, 3)
                assert scope.cancelled_caught

    trio.run(main)


def test_an_instance_calls_them_and_outlives_their_failures(pool: Pool) -> None:
    def sells(item: int) -> float:
        if not item:
            raise LookupError(item)
        return item * 2.0

    with pool.instance(shop(pool, sells)) as instance:
        assert instance.call("order", 1, 2) == 4.0
        with pytest.raises(HostFunctionError):
            instance.call("order", 0, 2)
        assert instance.call("order", 2, 2) == 8.0


def test_a_command_calls_them(pool: Pool) -> None:
    said: list[int] = []
    app = pool.load(COMMAND, imports={"tell": said.append})
    assert pool.run(app).exit_code == 0
    assert said == [7]


# -- in the worker --------------------------------------------------------------------------------


def test_functions_of_numbers_may_run_in_the_worker(pool: Pool) -> None:
    given: Any = {
        "docs:shop/prices": {"unit_price": lambda item: item * 2.5},
        "log": lambda _: None,
    }
    value, receipt = pool.load(SHOP, worker_imports=given)["order"].detailed(2, 2)
    assert (value, receipt.host_calls) == (10.0, 0)


@pytest.mark.parametrize("value", ["text", True, None])
def test_a_helper_that_gives_another_type_is_told(pool: Pool, value: Any) -> None:
    module = pool.load(
        SHOP, imports={"log": log}, worker_imports={PRICES: {"unit-price": lambda _: value}}
    )
    with pytest.raises(HostFunctionError, match="in the worker raised"):
        module["order"](1, 1)


@pytest.mark.parametrize(
    ("kind", "value"), [("u8", 256), ("s8", -129), ("u32", -1), ("s64", 2**63)]
)
def test_a_helper_whose_number_does_not_fit_is_told(pool: Pool, kind: str, value: int) -> None:
    source = imported_echo(kind).encode()
    module = pool.load(source, worker_imports={ECHO: {"echo": lambda *_: value}})
    with pytest.raises(HostFunctionError, match=f"{value} is no {kind}"):
        module["echo"](0, *PADDING)


def test_a_helper_of_more_than_numbers_is_refused(pool: Pool) -> None:
    with pytest.raises(SignatureMismatch, match="only numbers are passed"):
        pool.load(dividing(), worker_imports={OPS: {"divide": lambda a, b: Ok(a // b)}})
