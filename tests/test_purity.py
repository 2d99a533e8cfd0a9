"""A function counts as pure only where nothing that it can reach leaves a trace in its instance."""

from __future__ import annotations

import pytest
from engine_support import close_after_module, close_after_test  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_sandbox.protocol.batch import MOST_VALUES
from wasm_sandbox.worker.binary import describe
from wasm_sandbox.worker.engines import wasmtime as package
from wasm_sandbox.worker.engines.interface import CompileSettings
from wasm_sandbox.worker.engines.wasmtime.compile import to_binary
from wasm_sandbox.worker.purity import MOST_CODE, mark


def pure(body: str, module: str = "", signature: str = "(param i32) (result i32)") -> bool:
    """Whether the compiler says so of the export ``f``."""
    text = f'(module {module} (func (export "f") {signature} {body}))'
    compiled = package.compile_module(text.encode(), CompileSettings(), parallel=False)
    return compiled.description.is_pure("f")


LOADS = "\n".join(
    f"(drop ({load} (i32.const 0)))"
    for load in (
        *("i32.load", "i64.load", "f32.load", "f64.load", "i32.load8_s", "i64.load32_u"),
        *("v128.load", "v128.load8x8_s", "v128.load32_splat", "v128.load64_zero"),
    )
)
PURE = {
    "arithmetic": "(i32.add (local.get 0) (i32.const -70000))",
    "control": """(block $out (loop $again
        (br_if $again (local.get 0)) (br_table $again $out 1 (local.get 0)))) (i32.const 1)""",
    "if": "(if (result i32) (local.get 0) (then (i32.const 1)) (else (return (i32.const 2))))",
    "block type": """(local.get 0) (block (param i32) (result i32 i32) (i32.const 1)) (drop)""",
    "locals": "(local i64 f32 v128) (local.set 1 (i64.const -1)) (local.tee 0 (i32.const 1))",
    "typed select": "(select (result i32) (i32.const 1) (local.get 0) (i32.const 0))",
    "conversions": "(i32.trunc_sat_f64_u (f64.convert_i32_s (i32.extend8_s (local.get 0))))",
    "vectors": """(i8x16.extract_lane_s 3 (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
        (v128.const i64x2 1 2) (i32x4.splat (local.get 0))))""",
    "lane": "(i32x4.extract_lane 1 (i32x4.add (v128.const i64x2 1 2) (i32x4.splat (local.get 0))))",
    "constants": "(drop (f32.const 1)) (drop (f64.const nan:0x4)) (i32.const 0x0b0b0b0b)",
    "trap": "(i32.div_s (local.get 0) (i32.const 0))",
    "for ever": "(loop $l (br $l)) (unreachable)",
}
READING = {
    "loads": f"{LOADS} (i32.const 1)",
    "lane load": "(i32x4.extract_lane 0 (v128.load32_lane 1 (i32.const 0) (v128.const i64x2 1 2)))",
    "other memory": "(i32.load 1 offset=70000 (i32.const 0))",
    "sizes": "(i32.add (memory.size) (memory.size 1))",
    "globals": "(i32.add (global.get $fixed) (global.get $changing))",
    "calls": "(return_call $reads (call $reads (local.get 0)))",
    "recursion": "(call $odd (local.get 0))",
}
AROUND = """
(memory 2) (memory 2) (table $t 2 funcref)
(elem $e funcref (ref.func $reads)) (data $d "x") (data (i32.const 0) "abc") (tag $tag)
(global $fixed i32 (i32.const 7)) (global $changing (mut i32) (i32.const 8))
(type $unary (func (param i32) (result i32)))
(func $reads (param i32) (result i32) (i32.load (local.get 0)))
(func $even (param i32) (result i32) (if (result i32) (local.get 0)
  (then (call $odd (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 1))))
(func $odd (param i32) (result i32) (if (result i32) (local.get 0)
  (then (call $even (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 0))))
(func $writes (param i32) (result i32) (i32.store (i32.const 0) (local.get 0)) (i32.const 1))
(func $far (param i32) (result i32) (call $farther (local.get 0)))
(func $farther (param i32) (result i32) (if (local.get 0) (then (return (call $far (i32.const 0)))))
  (call $writes (local.get 0)))
"""
IMPURE = {
    "store": "(i32.store8 (i32.const 0) (local.get 0))",
    "store in dead code": "(return (i32.const 1)) (i64.store (i32.const 0) (i64.const 1))",
    "vector store": "(v128.store (i32.const 0) (v128.const i64x2 1 2))",
    "lane store": "(v128.store8_lane 0 (i32.const 0) (v128.const i64x2 1 2))",
    "grow": "(drop (memory.grow (i32.const 0)))",
    "fill": "(memory.fill (i32.const 0) (i32.const 0) (i32.const 0))",
    "copy": "(memory.copy (i32.const 0) (i32.const 0) (i32.const 0))",
    "init": "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 0))",
    "data.drop": "(data.drop $d)",
    "elem.drop": "(elem.drop $e)",
    "table.set": "(table.set $t (i32.const 0) (ref.func $reads))",
    "table.grow": "(drop (table.grow $t (ref.null func) (i32.const 1)))",
    "table.fill": "(table.fill $t (i32.const 0) (ref.null func) (i32.const 1))",
    "table.copy": "(table.copy $t $t (i32.const 0) (i32.const 0) (i32.const 1))",
    "table.init": "(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))",
    "global.set": "(global.set $changing (local.get 0))",
    "atomic store": "(i32.atomic.store (i32.const 0) (local.get 0))",
    "atomic add": "(drop (i32.atomic.rmw.add (i32.const 0) (local.get 0)))",
    "call_indirect": "(drop (call_indirect $t (type $unary) (local.get 0) (i32.const 0)))",
    "call_ref": "(drop (call_ref $unary (local.get 0) (ref.func $reads)))",
    "throw": "(throw $tag)",
    "a call of what writes": "(drop (call $writes (local.get 0)))",
    "a call of what calls what writes": "(drop (call $far (local.get 0)))",
    "a tail call of what writes": "(return_call $writes (local.get 0))",
}


@pytest.mark.parametrize("body", PURE.values(), ids=PURE)
def test_a_function_of_values_is_pure(body: str) -> None:
    assert pure(body)


@pytest.mark.parametrize("body", READING.values(), ids=READING)
def test_reading_leaves_no_trace(body: str) -> None:
    assert pure(body, AROUND)


@pytest.mark.parametrize("body", IMPURE.values(), ids=IMPURE)
def test_what_may_leave_a_trace_is_not_pure(body: str) -> None:
    assert pure("(i32.const 1)", AROUND)
    assert not pure(f"{body} (i32.const 1)", AROUND)


@pytest.mark.parametrize(
    "module",
    [
        '(import "a" "b" (func))',
        '(import "a" "b" (global i32))',
        '(import "a" "b" (memory 1))',
        "(func $s) (start $s)",
        '(func (export "_initialize"))',
        "(rec (type (func (param i32) (result i32))) (type (func)))",
        "(type (sub (func (param i32) (result i32))))",
        "(type (struct (field (mut i32))))",
    ],
)
def test_nothing_is_pure_in_such_a_module(module: str) -> None:
    assert not pure("(i32.const 1)", module)


def test_only_what_can_travel_in_batches_is_marked() -> None:
    many = f"(param {'i32 ' * (MOST_VALUES + 1)})"
    assert pure("", signature=f"(param {'i32 ' * MOST_VALUES})")
    assert not pure("", signature=many)
    assert not pure("", signature="(param externref)")


def test_long_code_is_not_looked_at_for_ever() -> None:
    line = "(drop (i32.const 1))"
    assert pure(line * 1000 + "(i32.const 1)")
    assert not pure(line * (MOST_CODE // 3) + "(i32.const 1)")


def test_one_impure_function_does_not_taint_those_that_do_not_call_it() -> None:
    module = f'{AROUND} (func (export "g") (param i32) (drop (call $writes (local.get 0))))'
    assert pure("(i32.const 1)", module)


BINARY = to_binary(
    f'(module {AROUND} (export "f" (func $reads)) (export "g" (func $far)))'.encode()
)


@given(st.integers(8, len(BINARY) - 1), st.integers(0, 255))
@settings(max_examples=1000)
def test_bytes_that_make_no_sense_prove_nothing_and_break_nothing(at: int, byte: int) -> None:
    damaged = BINARY[:at] + bytes([byte]) + BINARY[at + 1 :]
    mark(damaged, describe(BINARY))
