"""Custom capabilities: named grants that host functions see, and without which they are not
called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from plugin_folders import manifest

from wasm_sandbox import (
    Capabilities,
    CapabilityDenied,
    ConfigurationError,
    Grants,
    HostFunction,
    HostFunctionError,
    Pool,
    open_pool,
)
from wasm_sandbox.plugins.grants import grant_capabilities
from wasm_sandbox.plugins.manifest import parse_manifest
from wasm_sandbox.protocol.events import CallDenied, Event
from wasm_sandbox.protocol.grants import check_granted, check_needs, within

GUEST = b"""(module
  (import "env" "rows" (func $rows (param i32) (result i32)))
  (func (export "rows") (param i32) (result i32) (call $rows (local.get 0)))
  (func (export "nothing") (result i32) (i32.const 7)))"""
NEEDS: dict[str, Any] = {"max_rows": (1, 1000), "tier": str}
GRANTED = {"max_rows": 10, "tier": "gold"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """What the pool told."""
    return []


@pytest.fixture(scope="module")
def pool(cache: Path, events: list[Event]) -> Iterator[Pool]:
    """The pool of most tests."""
    with Pool(1, cache_dir=cache, on_event=events.append) as made:
        yield made


seen: list[Grants] = []


def rows(wanted: int, *, grants: Grants) -> int:
    seen.append(grants)
    most = grants["max_rows"]
    assert isinstance(most, int)
    return min(wanted, most)


async def rows_later(wanted: int, *, grants: Grants) -> int:
    return rows(wanted, grants=grants)


def lent(function: Callable[..., Any] = rows, **more: Any) -> dict[str, Any]:
    return {"env": {"rows": HostFunction(function, needs=NEEDS, **more)}}


def custom(**grants: Any) -> Capabilities:
    return Capabilities(custom=grants)


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "more"),
    [(rows, {}), (rows_later, {}), (rows, {"direct": True})],
    ids=["plain", "coroutine", "direct"],
)
def test_a_function_sees_the_grants_of_the_call_that_calls_it(
    pool: Pool, function: Callable[..., Any], more: dict[str, Any]
) -> None:
    call = pool.load(GUEST, imports=lent(function, **more))["rows"]
    ten = call.options(capabilities=custom(**GRANTED))
    three = call.options(capabilities=custom(max_rows=3, tier="silver"))
    seen.clear()
    assert [ten(50), three(50), ten(2)] == [10, 3, 2]
    assert [grants["tier"] for grants in seen] == ["gold", "silver", "gold"]
    assert dict(zip(seen[0], map(seen[0].__getitem__, seen[0]), strict=True)) == GRANTED


def test_so_it_does_in_trio_and_from_an_instance(cache: Path) -> None:
    async def main() -> None:
        async with open_pool(1, cache_dir=cache) as pool:
            module = await pool.load(GUEST, imports=lent(rows_later))
            call = module["rows"].options(capabilities=custom(**GRANTED))
            assert await pool.call(call, 50) == 10
            async with pool.instance(module, capabilities=custom(max_rows=4, tier="")) as instance:
                assert await instance.call("rows", 50) == 4

    trio.run(main)


def test_a_missing_grant_denies_the_call_and_the_function_is_not_called(
    pool: Pool, events: list[Event]
) -> None:
    module = pool.load(GUEST, imports=lent())
    seen.clear()
    with pytest.raises(CapabilityDenied, match=r"capabilities\.custom\.tier") as denied:
        module["rows"].options(capabilities=custom(max_rows=3))(1)
    assert denied.value.capability == "capabilities.custom.tier"
    assert "env.rows" in str(denied.value)
    assert denied.value.receipt is not None
    with pytest.raises(CapabilityDenied, match=r"capabilities\.custom\.max_rows"):
        module["rows"](1)
    assert module["nothing"]() == 7  # it asks for nothing
    assert seen == []
    told = [event.capability for event in events if isinstance(event, CallDenied)]
    assert told[-2:] == ["capabilities.custom.tier", "capabilities.custom.max_rows"]


def test_what_the_function_itself_denies_is_its_own_error(pool: Pool) -> None:
    def deny(wanted: int, *, grants: Grants) -> int:
        raise CapabilityDenied("x", "y")

    call = pool.load(GUEST, imports=lent(deny))["rows"].options(capabilities=custom(**GRANTED))
    with pytest.raises(HostFunctionError, match="raised CapabilityDenied"):
        call(1)


def test_other_grants_are_another_worker(pool: Pool) -> None:
    """As with every capability: a fallen worker speaks for no call with other grants."""
    call = pool.load(GUEST, imports=lent())["rows"]
    workers = [
        call.options(capabilities=custom(**grants)).detailed(1)[1].worker
        for grants in (GRANTED, {**GRANTED, "tier": "silver"}, {**GRANTED, "max_rows": 11})
    ]
    assert len(set(workers)) == 3


# --- what is granted must be needed ---------------------------------------------------------------


def test_a_grant_that_no_function_needs_is_refused(pool: Pool) -> None:
    module = pool.load(GUEST, imports=lent())
    with pytest.raises(ConfigurationError, match="did you mean max_rows") as refusal:
        module["rows"].options(capabilities=custom(**GRANTED, max_row=5))
    assert refusal.value.field == "capabilities.custom.max_row"
    with pytest.raises(ConfigurationError, match="no host function"):
        pool.instance(module, capabilities=custom(**GRANTED, other=5))
    bare = pool.load(GUEST, imports={"env": {"rows": lambda wanted: wanted}})
    with pytest.raises(ConfigurationError, match="HostFunction"):
        bare["rows"].options(capabilities=custom(**GRANTED))


def test_a_pools_grants_are_held_against_each_module(cache: Path) -> None:
    with Pool(1, cache_dir=cache, capabilities=custom(**GRANTED)) as pool:
        assert pool.load(GUEST, imports=lent())["rows"](50) == 10
        with pytest.raises(ConfigurationError, match="no host function"):
            pool.load(b'(module (func (export "f")))')["f"]


@pytest.mark.parametrize(
    ("need", "fits", "not_"),
    [
        (bool, [True, False], [1, "yes", []]),
        (str, ["", "gold"], [1, True, ["gold"]]),
        (list, [[], ["a"], ("a", "b")], ["a", 1]),
        ((1, 10), [1, 10], [0, 11, 2.5, True, "1", ["1"]]),
        ((0.5, 2.0), [0.5, 1, 2.0], [0.4, 3, True]),
    ],
    ids=str,
)
def test_a_grant_must_be_what_is_needed(need: Any, fits: list[Any], not_: list[Any]) -> None:
    for value in fits:
        check_granted(Grants.of({"a": value}), [{"b": str}, {"a": need}])
    for value in not_:
        with pytest.raises(ConfigurationError, match="a host function needs"):
            check_granted(Grants.of({"a": value}), [{"a": need}])


def test_it_must_be_what_each_of_several_functions_needs() -> None:
    declared: list[Any] = [{"rows": (1, 10)}, {"rows": (5, 20)}]
    check_granted(Grants.of({"rows": 7}), declared)
    for rows_ in (4, 11):
        with pytest.raises(ConfigurationError):
            check_granted(Grants.of({"rows": rows_}), declared)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"x", {}, [1], "x" * 4097, ["x"] * 4097, object()),
        *(float("nan"), float("inf"), 1 << 64, 10**400),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_value_that_cannot_be_granted_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        custom(a=value)
    assert refusal.value.field == "capabilities.custom.a"


@pytest.mark.parametrize("name", ["", "a b", "1a", "x" * 65, 3])
def test_a_name_that_cannot_be_one_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="no name"):
        Capabilities(custom={name: True})


def test_what_is_no_mapping_is_refused_and_so_are_too_many() -> None:
    with pytest.raises(ConfigurationError):
        Capabilities(custom=["a"])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="more than 64"):
        custom(**{f"n{number}": True for number in range(65)})


def test_grants_are_values() -> None:
    one, other = custom(b=["x", "y"], a=1), custom(a=1, b=("x", "y"))
    assert one == other
    assert hash(one) == hash(other)
    assert one.grants["b"] == ("x", "y")
    assert list(one.grants) == ["a", "b"]
    assert len(one.grants) == 2
    assert "c" not in one.grants
    with pytest.raises(KeyError):
        one.grants["c"]
    assert custom(a=True) != custom(a=1)


@pytest.mark.parametrize(
    "needs",
    [
        *({"a": int}, {"a b": str}, 3, ["a"]),
        *({"a": bounds} for bounds in ((2, 1), (1,), (0, 10**400), (float("nan"), 1))),
    ],
)
def test_needs_that_nothing_can_meet_are_refused(needs: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"HostFunction\.needs"):
        HostFunction(rows, needs=needs)
    check_needs("needs", {"a": (1, 1), "b": (0.0, 1), "c": list, "d": bool, "e": str})


def test_a_function_that_would_not_see_them_has_no_needs() -> None:
    with pytest.raises(ConfigurationError, match="no parameter grants"):
        HostFunction(lambda wanted: wanted, needs={"a": str})


# --- attenuation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "granted", "fits"),
    [
        (False, True, True),
        (True, True, True),
        (True, False, False),
        (3, 5, True),
        (5.5, 5, False),
        ("gold", "gold", True),
        ("gold", "silver", False),
        (("a",), ("a", "b"), True),
        (("a", "c"), ("a", "b"), False),
        (True, 1, False),
        (1, True, False),
        ("a", ("a",), False),
    ],
)
def test_less_than_what_is_granted_may_be_asked_for(asked: Any, granted: Any, fits: bool) -> None:
    assert within(asked, granted) is fits


def test_a_plug_in_has_what_it_asks_for_and_no_more() -> None:
    def given(asked: str) -> Capabilities:
        text = manifest(more=f"[capabilities.custom]\n{asked}")
        return grant_capabilities(parse_manifest(text.encode()), custom(**GRANTED))

    assert given("max_rows = 5") == custom(max_rows=5)
    with pytest.raises(CapabilityDenied, match=r"capabilities\.custom\.max_rows"):
        given("max_rows = 11")
    with pytest.raises(CapabilityDenied, match=r"capabilities\.custom\.other"):
        given("other = true")
