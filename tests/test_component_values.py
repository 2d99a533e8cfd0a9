"""Every WIT type crosses, there and back, whatever the values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from component_bench import Guest, importing
from component_texts import PADDING, Kind, echo
from engine_support import Bench, bench, close_after_module, close_after_test
from hypothesis import given, settings
from hypothesis import strategies as st
from importing_components import ECHO, imported_echo

from wasm_sandbox import Err, Ok, Some, Variant
from wasm_sandbox.protocol.wit import INTEGERS
from wasm_sandbox.worker.components.abi import Codecs
from wasm_sandbox.worker.components.codec import MAX_FLAT_PARAMETERS
from wasm_sandbox.worker.components.heap import Handles, Heap

__all__ = ["close_after_module", "close_after_test"]

PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(low, high) for name, (low, high) in INTEGERS.items()},
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "char": st.characters(exclude_categories=["Cs"]),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
}
NAMES = [f"n{letter}-{at}" for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz" * 2)]
NAMES = [name.replace("-", "-x") for name in NAMES]


def named(count: st.SearchStrategy[int]) -> st.SearchStrategy[list[str]]:
    return count.map(lambda size: NAMES[:size])


def compound(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    parts = st.lists(inner, min_size=1, max_size=4)
    optional = st.none() | inner
    return st.one_of(
        inner.map(lambda kind: ("list", kind)),
        inner.map(lambda kind: ("option", kind)),
        parts.map(lambda kinds: ("tuple", *kinds)),
        parts.map(lambda kinds: ("record", *zip(NAMES, kinds, strict=False))),
        st.lists(optional, min_size=1, max_size=4).map(
            lambda kinds: ("variant", *zip(NAMES, kinds, strict=False))
        ),
        st.tuples(optional, optional).map(lambda pair: ("result", *pair)),
        named(st.integers(1, 40)).map(lambda names: ("enum", *names)),
        named(st.integers(1, 32)).map(lambda names: ("flags", *names)),
    )


KINDS: st.SearchStrategy[Kind] = st.recursive(
    st.sampled_from(sorted(PRIMITIVES)), compound, max_leaves=8
)


def cases(name: str, payloads: st.SearchStrategy[Any]) -> st.SearchStrategy[Variant]:
    return payloads.map(lambda payload: Variant(name, payload))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Python values of a type, as they come back."""
    if kind is None:
        return st.none()
    if isinstance(kind, str):
        return PRIMITIVES[kind]
    form, *parts = kind
    match form:
        case "list":
            return (
                st.binary(max_size=20)
                if parts == ["u8"]
                else st.lists(values(parts[0]), max_size=4)
            )
        case "option":
            inner = values(parts[0])
            nested = parts[0][0] == "option" and not isinstance(parts[0], str)
            return st.none() | (inner.map(Some) if nested else inner)
        case "tuple":
            return st.tuples(*map(values, parts))
        case "record":
            return st.fixed_dictionaries({name: values(of) for name, of in parts})
        case "variant":
            return st.one_of([cases(name, values(of)) for name, of in parts])
        case "result":
            return values(parts[0]).map(Ok) | values(parts[1]).map(Err)
        case "enum":
            return st.sampled_from(parts)
        case _:
            return st.frozensets(st.sampled_from(parts))


@pytest.fixture(scope="module")
def stage() -> Bench:
    return bench()


@pytest.fixture(scope="module")
def load(stage: Bench) -> Callable[[str], Guest]:
    return lambda source: Guest(stage, source)


@settings(max_examples=60)
@given(data=st.data())
def test_generated_values_of_generated_types_come_back(
    load: Callable[[str], Guest], data: st.DataObject
) -> None:
    kind = data.draw(KINDS)
    encoding = data.draw(st.sampled_from(["utf8", "utf16", "latin1+utf16"]))
    guest = load(echo(kind, encoding))
    for value in data.draw(st.lists(values(kind), min_size=1, max_size=3)):
        assert guest.call("echo", value, *PADDING) == value
    guest.module.close()


@settings(max_examples=60)
@given(data=st.data())
def test_generated_values_of_generated_types_reach_a_host_function_and_come_back(
    stage: Bench, data: st.DataObject
) -> None:
    kind = data.draw(KINDS)
    seen: list[Any] = []

    def echo_back(value: Any, *padding: int) -> Any:
        assert padding == PADDING
        seen.append(value)
        return value

    guest = importing(stage, imported_echo(kind), ECHO, "echo", echo_back)
    for value in data.draw(st.lists(values(kind), min_size=1, max_size=3)):
        assert guest.call("echo", value, *PADDING) == value
        assert seen.pop() == value
    guest.module.close()


@settings(max_examples=60)
@given(data=st.data())
def test_the_same_values_pass_as_core_values(
    load: Callable[[str], Guest], data: st.DataObject
) -> None:
    kind = data.draw(KINDS)
    guest = load(echo(kind))
    ref = guest.world.exports[0].functions[0][1].result
    assert ref is not None
    codec = Codecs(guest.world.types).get(ref)
    memory, top = bytearray(1 << 16), 1024

    def allocate(align: int, size: int) -> int:
        nonlocal top
        at = -(-top // align) * align
        top = at + size
        return at

    heap = Heap(lambda: memoryview(memory), allocate, "utf8", Handles(), 1 << 16)
    value = data.draw(values(kind))
    face = guest.codecs["echo"]
    put, take = face.converters()
    flats: list[Any] = []
    codec.lower(heap, put[0](value), flats)
    if len(codec.flat) <= MAX_FLAT_PARAMETERS:
        assert len(flats) == len(codec.flat)
    left = iter(flats)
    assert take(codec.lift(heap, left)) == value
    assert next(left, None) is None
    guest.module.close()


@pytest.mark.parametrize(
    ("kind", "flat", "value", "sum_of_bits"),
    [
        ("(tuple u8 s16)", "i32 i32", (3, -1), 3 + 0xFFFFFFFF),
        ("(option u64)", "i32 i64", 7, 1 + 7),
        ("(option u64)", "i32 i64", None, 0),
        ("(result f32 (error u32))", "i32 i32", Ok(1.0), 0x3F800000),
        ("(result f32 (error u32))", "i32 i32", Err(9), 1 + 9),
        ("(result f64 (error u32))", "i32 i64", Ok(1.0), 0x3FF0000000000000),
        ("(result f64 (error f32))", "i32 i64", Err(1.0), 1 + 0x3F800000),
        ("(result (tuple f32 f32) (error s64))", "i32 i64 f32", Err(-1), 0),
        ("(result (tuple f32 f32) (error s64))", "i32 i64 f32", Ok((1.0, 2.0)), 0x7F800000),
    ],
)
def test_core_values_are_as_the_canonical_abi_has_them(
    load: Callable[[str], Guest], kind: str, flat: str, value: Any, sum_of_bits: int
) -> None:
    bits = {
        "i32": "(i64.extend_i32_u (local.get {}))",
        "i64": "(local.get {})",
        "f32": "(i64.extend_i32_u (i32.reinterpret_f32 (local.get {})))",
    }
    total = "(i64.const 0)"
    for at, each in enumerate(flat.split()):
        total = f"(i64.add {total} {bits[each].format(at)})"
    guest = load(f"""
(component
  (core module $m (func (export "f") (param {flat}) (result i64) {total}))
  (core instance $i (instantiate $m))
  (func (export "f") (param "a" {kind}) (result u64) (canon lift (core func $i "f"))))
""")
    assert guest.call("f", value) == sum_of_bits
