"""Imports held against what is given for them, before anything runs; and what needs no pool."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypedDict

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from wasm_sandbox import (
    ConfigurationError,
    HostFunction,
    Limits,
    MissingExport,
    MissingImport,
    ModuleError,
    SignatureMismatch,
)
from wasm_sandbox.imports import read_imports
from wasm_sandbox.linking import link
from wasm_sandbox.protocol.description import (
    Export,
    ExternFunction,
    ExternMemory,
    FunctionType,
    Import,
    MemoryType,
    ModuleDescription,
)
from wasm_sandbox.protocol.messages import LentFunction
from wasm_sandbox.runners import ThreadRunner
from wasm_sandbox.supervisor.host_calls import _call
from wasm_sandbox.supervisor.imports import HostImport
from wasm_sandbox.supervisor.rate import Rate
from wasm_sandbox.supervisor.requests import ModuleHandle

I32, I64, F32, F64 = "i32", "i64", "f32", "f64"
CONVENTION = (
    Export("memory", ExternMemory(MemoryType(1)), 0),
    Export("alloc", ExternFunction(FunctionType((I32,), (I32,))), 0),
)


class Runner(ThreadRunner):
    """Coroutines are not run here."""

    def coroutine(self, work: Any) -> Any:
        return work

    async def wait(self, future: Any) -> Any:
        return future.result()


def function(module: str, name: str, params: tuple[str, ...], results: tuple[str, ...]) -> Import:
    return Import(module, name, ExternFunction(FunctionType(params, results)))


def bind(
    imports: Any,
    *needed: Import,
    exports: tuple[Export, ...] = CONVENTION,
) -> tuple[HostImport, ...]:
    return bound(imports, None, *needed, exports=exports).imports


def bound(
    imports: Any, worker_imports: Any, *needed: Import, exports: tuple[Export, ...] = CONVENTION
) -> ModuleHandle:
    description = ModuleDescription(imports=needed, exports=exports)
    handle = ModuleHandle(bytes(32), b"", description, Limits())
    return link(read_imports(imports, worker_imports), handle, Runner(1))


def one(
    called: Callable[..., Any], params: tuple[str, ...], results: tuple[str, ...], **more: Any
) -> HostImport:
    """``called`` bound to an import of this type."""
    (found,) = bind({"env": {"f": called}}, function("env", "f", params, results), **more)
    return found


class Big:
    """More than can be sent."""

    def __init__(self) -> None:
        self.table = os.urandom(1 << 19)

    def __call__(self, number: float) -> float:
        return self.table[0] + number


def print_bytes(data: bytes) -> None:
    del data


async def waits() -> None: ...
def one_int(a: int) -> int: ...  # type: ignore[empty-body]


def price(symbol: str) -> float:
    return len(symbol)


PRICE = function("env", "price", (I32, I32), (F64,))
WASI = function("wasi_snapshot_preview1", "proc_exit", (I32,), ())
NETWORK = function("wasm_sandbox", "close", (I32,), (I32,))


# -- which functions ------------------------------------------------------------------------------


def test_what_is_given_is_bound_and_what_is_the_pools_is_left() -> None:
    (found,) = bind({"env": {"price": price}}, WASI, PRICE, NETWORK, PRICE)
    assert found.name == "env.price"
    assert found.shape.buffers == (0,)
    assert bind(None, PRICE) == bind({}, PRICE) == bind({"env": {}}, PRICE) == ()


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        ((PRICE, function("env", "prise", (), ())), r"env\.prise .*imports= has env\.price"),
        ((PRICE, function("other", "f", (I32,), ())), r"other\.f \(i32\) -> \(\)"),
        (
            (PRICE, Import("env", "memory", ExternMemory(MemoryType(1)))),
            r"env\.memory \(a memory\)",
        ),
        ((PRICE, function("env", "\x1b[31m" + "x" * 9999, (), ())), r"env\.\ufffd\[31mx{55} \(\)"),
        ((PRICE, *(function("env", f"f{n}", (), ()) for n in range(20))), "and 12 more"),
    ],
    ids=["misspelt", "other", "memory", "hostile", "many"],
)
def test_what_is_missing_is_named_with_what_is_close(needed: tuple[Import, ...], said: str) -> None:
    with pytest.raises(MissingImport, match=said):
        bind({"env": {"price": price}}, *needed)


@pytest.mark.parametrize(
    ("imports", "field", "said"),
    [
        ({"env": {"price": price, "prise": price}}, "load.imports['env']['prise']", "mean price"),
        ({"env": {"price": price, "xyz": price}}, "load.imports['env']['xyz']", r"env\.price"),
        ({"evn": {"x": print}, "env": {"price": price}}, "load.imports['evn']['x']", "no such"),
        ({"env": {"price": 5}}, "load.imports['env']['price']", "callable"),
        ({"env": {5: price}}, "load.imports['env']", "must be str"),
        ({"env": price}, "load.imports['env']", "by itself"),
        ({"env": 5}, "load.imports['env']", "must be Mapping"),
        ({5: {}}, "load.imports", "must be str"),
        (print, "load.imports", "must be Mapping"),
        ([("env", {})], "load.imports", "must be Mapping"),
        ({"wasi_snapshot_preview1": {"f": price}}, "load.imports", "the pool itself"),
        ({"wasm_sandbox": {"close": price}}, "load.imports", "the pool itself"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(imports: Any, field: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        bind(imports, PRICE)
    assert caught.value.field.startswith(field)


def test_a_name_that_is_imported_as_two_things_is_refused() -> None:
    with pytest.raises(SignatureMismatch, match="twice"):
        bind({"env": {"price": price}}, PRICE, function("env", "price", (I32,), ()))
    with pytest.raises(SignatureMismatch, match="as a memory"):
        bind({"env": {"price": price}}, Import("env", "price", ExternMemory(MemoryType(1))))


@pytest.mark.parametrize(
    ("given_", "field"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"rate": None}, "rate"),
        ({"direct": 1}, "direct"),
        ({"direct": True, "timeout": 1.0}, "timeout"),
    ],
)
def test_a_bound_that_cannot_be_kept_is_refused(given_: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HostFunction(price, **given_)
    assert caught.value.field == f"HostFunction.{field}"


def test_what_is_no_function_or_cannot_be_direct_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="callable"):
        HostFunction(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="coroutine"):
        HostFunction(waits, direct=True)
    assert HostFunction(functools.partial(waits)).is_async


# -- which run in the worker ----------------------------------------------------------------------


def halve(number: float) -> float:
    return number / 2


HALVE = function("env", "halve", (F64,), (F64,))


def test_what_runs_in_the_worker_is_pickled_and_no_import_of_this_process() -> None:
    handle = bound({"env": {"price": price}}, {"env": {"halve": halve}}, PRICE, HALVE)
    assert [each.name for each in handle.imports] == ["env.price"]
    assert [(each.name, each.number) for each in handle.lent] == [("halve", 0)]
    assert handle.helpers
    assert handle.key is handle
    assert bound(None, {"env": {"halve": halve}}, HALVE).helpers == handle.helpers


@pytest.mark.parametrize(
    ("imports", "worker_imports", "error", "said"),
    [
        (None, {"env": {"halve": HostFunction(halve)}}, ConfigurationError, "nothing keeps them"),
        (None, {"env": {"halve": waits}}, ConfigurationError, "no loop"),
        (None, {"env": {"halve": 5}}, ConfigurationError, "callable"),
        (None, {"env": {"halve": (i for i in [1.0]).send}}, ConfigurationError, "pickled"),
        ({"env": {"halve": halve}}, {"env": {"halve": halve}}, ConfigurationError, "too"),
        (None, {"env": {"halve": halve, "x": halve}}, ConfigurationError, "no such function"),
        (None, {"env": {"half": halve}}, MissingImport, r"env\.half"),
        (None, {"env": {"halve": print_bytes}}, SignatureMismatch, "buffer|pointer"),
        (None, {"env": {"halve": one_int}}, SignatureMismatch, "is int, and gets f64"),
        (None, {"wasm_sandbox": {"close": halve}}, ConfigurationError, "the pool itself"),
        (None, {"env": {"halve": Big()}}, ConfigurationError, "may be sent"),
    ],
)
def test_what_cannot_run_in_the_worker_is_refused(
    imports: Any, worker_imports: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        bound(imports, worker_imports, HALVE)


def test_only_numbers_are_passed_in_the_worker() -> None:
    with pytest.raises(SignatureMismatch, match="only numbers"):
        bound(None, {"env": {"price": price}}, PRICE)


# -- which types ----------------------------------------------------------------------------------


class Point(TypedDict):
    """JSON of a fixed shape."""

    x: int
    y: int


class Lost(TypedDict):
    """JSON of a shape that is not to be found."""

    x: Nowhere  # type: ignore[name-defined] # noqa: F821


def lost(a: Lost) -> int: ...  # type: ignore[empty-body]
def nothing() -> None: ...
def one_float(a: float) -> float: ...  # type: ignore[empty-body]
def two(a: int, b: int) -> tuple[int, float]: ...  # type: ignore[empty-body]
def texts(a: str, b: bytes, c: int) -> str: ...  # type: ignore[empty-body]
def points(a: list[Point], b: dict[str, Any]) -> Point: ...  # type: ignore[empty-body]
def optional(a: int, b: str = "") -> int: ...  # type: ignore[empty-body]
def many(*numbers: int) -> int: ...  # type: ignore[empty-body]
def many_texts(*words: str) -> int: ...  # type: ignore[empty-body]
def by_keyword(a: int, *, b: int = 1) -> int: ...  # type: ignore[empty-body]
def needs_keyword(a: int, *, b: int) -> int: ...  # type: ignore[empty-body]
def sets(a: set[int]) -> int: ...  # type: ignore[empty-body]
def unions(a: int | None) -> int: ...  # type: ignore[empty-body]
def unknown(a: Nowhere) -> int: ...  # type: ignore[name-defined,empty-body] # noqa: F821
def broken(a: int | "str") -> int: ...  # type: ignore[empty-body] # noqa: UP037
def truth(a: bool) -> bool: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("called", "params", "results", "buffers", "result"),
    [
        (nothing, (), (), (), ""),
        (one_int, (I32,), (I64,), (), ""),
        (one_float, (F32,), (F64,), (), ""),
        (two, (I32, I64), (I32, F32), (), ""),
        (texts, (I32,) * 5, (I64,), (0, 2), "packed"),
        (texts, (I32,) * 5, (I32, I32), (0, 2), "pair"),
        (points, (I32,) * 4, (I64,), (0, 2), "packed"),
        (optional, (I32,), (I32,), (), ""),
        (optional, (I32,) * 3, (I32,), (1,), ""),
        (many, (I32, I64, I32), (I32,), (), ""),
        (many, (), (I32,), (), ""),
        (many_texts, (I32,) * 4, (I32,), (0, 2), ""),
        (by_keyword, (I32,), (I32,), (), ""),
        (truth, (I32,), (I32,), (), ""),
        (lambda *a: a, (F64, I32), (I32, F64), (), ""),
        (print, (F64, I32), (), (), ""),
        (functools.partial(texts, c=5), (I32,) * 4, (I64,), (0, 2), "packed"),
    ],
)
def test_a_function_that_fits_is_bound(
    called: Any, params: Any, results: Any, buffers: tuple[int, ...], result: str
) -> None:
    shape = one(called, params, results).shape
    assert (shape.buffers, shape.result) == (buffers, result)


@pytest.mark.parametrize(
    ("called", "params", "results", "said"),
    [
        (one_int, (), (I32,), "nothing is left for its parameter a"),
        (one_int, (I32, I32), (I32,), "takes no parameter 2"),
        (one_int, (F64,), (I32,), "is int, and gets f64"),
        (one_float, (I32,), (F32,), "is float, and gets i32"),
        (one_int, (I32,), (F64,), "declared to return int"),
        (one_int, (I32,), (), "declared to return int"),
        (nothing, (), (I32,), "declared to return nothing"),
        (two, (I32, I32), (I32,), "declared to return a tuple"),
        (two, (I32, I32), (I32, I32), "a tuple of other types"),
        (price, (I32,), (F64,), "takes a pointer and a length"),
        (price, (I64, I64), (F64,), "both i32"),
        (price, (I32, F64), (F64,), "takes a pointer and a length"),
        (texts, (I32,) * 5, (I32,), "its result needs an i64"),
        (texts, (I32,) * 4, (I64,), "nothing is left for its parameter c"),
        (optional, (I32, I32), (I32,), "takes a pointer and a length"),
        (needs_keyword, (I32,), (I32,), "by keyword only"),
        (sets, (I32, I32), (I32,), "numbers are int, float or bool"),
        (unions, (I32,), (I32,), "annotated"),
        (unknown, (I32,), (I32,), "cannot be evaluated"),
        (broken, (I32,), (I32,), "cannot be evaluated"),
        (lost, (I32, I32), (I32,), "cannot be read from JSON"),
        (truth, (I64,), (I32,), "is bool, and gets i64"),
        (nothing, ("v128",), (), "only i32, i64, f32 and f64"),
        (nothing, (), ("externref",), "only i32, i64, f32 and f64"),
    ],
)
def test_a_function_that_cannot_fit_is_refused(
    called: Any, params: Any, results: Any, said: str
) -> None:
    with pytest.raises(SignatureMismatch, match=said) as caught:
        one(called, params, results)
    assert "env.f" in str(caught.value)


@pytest.mark.parametrize(
    ("called", "params", "results", "exports", "said"),
    [
        (price, (I32, I32), (F64,), (), "memory"),
        (texts, (I32,) * 5, (I64,), CONVENTION[:1], "alloc"),
        (
            texts,
            (I32,) * 5,
            (I64,),
            (CONVENTION[0], Export("alloc", ExternFunction(FunctionType((I64,), (I32,))), 0)),
            "alloc",
        ),
    ],
)
def test_buffers_need_a_module_that_keeps_the_convention(
    called: Any, params: Any, results: Any, exports: Any, said: str
) -> None:
    with pytest.raises(MissingExport, match=said):
        one(called, params, results, exports=exports)


ANNOTATIONS = [int, float, bool, str, bytes, dict, list, list[int], Point, Any, None, set, tuple]


@given(
    st.lists(st.sampled_from(ANNOTATIONS), max_size=4),
    st.sampled_from([*ANNOTATIONS, tuple[int, float], tuple[str, int], tuple[int, ...]]),
    st.lists(st.sampled_from([I32, I64, F32, F64, "v128", "externref"]), max_size=6),
    st.lists(st.sampled_from([I32, I64, F32, F64]), max_size=3),
)
def test_every_signature_is_bound_or_refused(
    takes: list[Any], gives: Any, params: list[str], results: list[str]
) -> None:
    def called(*_: Any) -> Any: ...

    import inspect

    kind = inspect.Parameter.POSITIONAL_ONLY
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(f"p{at}", kind, annotation=each) for at, each in enumerate(takes)],
        return_annotation=gives,
    )
    try:
        shape = one(called, tuple(params), tuple(results)).shape
    except ModuleError:
        return
    assert len(params) == len(takes) + len(shape.buffers)
    for at in shape.buffers:
        assert params[at : at + 2] == [I32, I32]


# -- how often ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 1, 3, 1000])
def test_no_second_has_more_than_its_rate_and_one_more(rate: float) -> None:
    limit, now = Rate(rate), 100.0
    begun: list[float] = []
    for _ in range(200):
        wait = limit.delay(now)
        begun.append(now + wait)
        now += wait
    for start in begun:
        assert sum(start <= when < start + 1 for when in begun) <= 2 * rate + 1
    assert len(begun) / (begun[-1] - 100.0 + 1) <= rate + 1


def test_who_comes_slowly_never_waits() -> None:
    limit = Rate(10)
    assert [limit.delay(at * 0.1001) for at in range(1000)] == [0.0] * 1000


def test_who_stops_waiting_gives_the_place_back() -> None:
    limit, now = Rate(10), 100.0
    assert [limit.delay(now) for _ in range(10)] == pytest.approx([0.0] * 10)
    for _ in range(600):
        wait = limit.delay(now)
        limit.give_back(now + wait)
        now += 0.05 * (now < 100.05)
    assert limit.delay(now) == pytest.approx(0.05)


def test_a_place_that_is_given_back_is_had_once_and_not_after_its_time() -> None:
    limit = Rate(1)
    assert [limit.delay(100.0) for _ in range(5)] == [0, 1, 2, 3, 4]
    limit.give_back(103.0)
    limit.give_back(101.0)
    assert [limit.delay(100.5) for _ in range(3)] == [0.5, 2.5, 4.5]
    limit.give_back(103.0)
    assert [limit.delay(103.5) for _ in range(2)] == [2.5, 3.5]


def test_calls_that_are_stopped_while_they_wait_starve_nobody() -> None:
    async def answer(_slots: bytes, _data: bytes) -> tuple[bytes, bytes]:
        return b"", b""

    async def main() -> None:
        shape = LentFunction("env", "f", FunctionType((), ()))
        function = HostImport(shape=shape, timeout=1.0, rate=Rate(10), call=answer)
        for _ in range(600):
            with trio.move_on_after(0.05):
                await _call(function, b"", b"", 0)
        begun = trio.current_time()
        await _call(function, b"", b"", 0)
        assert trio.current_time() - begun <= 0.11

    trio.run(main, clock=MockClock(autojump_threshold=0))
