"""Compiling: good modules come out described, bad ones are refused with a reason and a hint."""

from __future__ import annotations

import pytest
import wasmtime
from engine_support import LIMITS, bench, number
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test

from wasm_sandbox.worker.binary import MAX_INTERFACE
from wasm_sandbox.worker.engines import wasmtime as package
from wasm_sandbox.worker.engines.interface import CompileSettings, EngineRefusal, RunSettings

PREAMBLE = b"\0asm\1\0\0\0"


def refuse(data: bytes) -> EngineRefusal:
    with pytest.raises(EngineRefusal) as refusal:
        package.compile_module(data, CompileSettings(), parallel=False)
    return refusal.value


def test_text_and_binary_make_the_same_module() -> None:
    text = b'(module (func (export "f") (param i64)))'
    binary = bytes(wasmtime.wat2wasm(text.decode()))
    settings = CompileSettings()
    first = package.compile_module(text, settings, parallel=False)
    second = package.compile_module(binary, settings, parallel=False)
    assert first.description == second.description
    assert first.description.exports[0].name == "f"
    assert first.artifact
    assert first.seconds > 0


@pytest.mark.parametrize(
    ("data", "kind", "named"),
    [
        (b"", "invalid_module", "empty"),
        (b"\x7fELF\2\1\1\0", "invalid_module", "7f 45 4c 46"),
        (PREAMBLE[:4], "invalid_module", ""),
        (PREAMBLE[:6], "invalid_module", ""),
        (b"\0asm\2\0\0\0", "invalid_module", "version"),
        (PREAMBLE + b"\xff", "invalid_module", ""),
        (PREAMBLE + b"\1\xff", "invalid_module", ""),
        (b"(module (func (export", "invalid_module", ""),
        (b"(module (func $f (result i32)))", "invalid_module", "type mismatch"),
        (b"(not-a-module)", "invalid_module", ""),
        (b'(module (func (export "\xff")))', "invalid_module", "UTF-8"),
        (b'(component (import "m" (core module)))', "unsupported_module", "core module"),
        (b"\0asm\x0d\0\1\0\5\xff", "invalid_module", ""),
        (b"(module (memory 1 1 shared))", "unsupported_module", "threads"),
        (b"(module (memory 1 (pagesize 1)))", "unsupported_module", "page size"),
    ],
)
def test_bad_input_is_refused_with_a_hint(data: bytes, kind: str, named: str) -> None:
    refusal = refuse(data)
    assert refusal.kind == kind
    assert named in refusal.message
    assert refusal.hint or "UTF-8" in refusal.message
    assert "\n" not in refusal.message


@pytest.mark.parametrize("size", range(0, 60, 7))
def test_truncated_modules_are_refused(size: int) -> None:
    whole = bytes(
        wasmtime.wat2wasm('(module (memory 1) (func (export "f") (result i32) (i32.const 1)))')
    )
    if size < len(whole) and size != 8:  # 8 bytes are the empty module
        assert refuse(whole[:size]).kind == "invalid_module"


def test_messages_are_cut() -> None:
    name = "x" * 100_000
    refusal = refuse(f'(module (export "{name}" (func 0)) (export "{name}" (func 0)))'.encode())
    assert len(refusal.message) <= 500


def test_an_interface_that_fits_no_frame_is_refused() -> None:
    exports = "".join(f'(export "{i:06}" (func 0))' for i in range(MAX_INTERFACE // 20))
    refusal = refuse(f"(module (func) {exports})".encode())
    assert refusal.kind == "unsupported_module"
    assert "imports and exports" in refusal.message


def test_cache_keys_tell_apart_what_must_not_be_mixed() -> None:
    plain = package.settings_text(CompileSettings())
    assert plain == package.settings_text(CompileSettings(fuel=False))
    assert plain != package.settings_text(CompileSettings(fuel=True))
    assert "50." in package.engine_text()
    assert package.cpu_text() == package.cpu_text()
    assert "=" in package.cpu_text()


@pytest.mark.parametrize("fuel", [False, True])
def test_what_compiles_for_a_setting_runs_with_it(fuel: bool) -> None:
    module = bench(RunSettings(fuel=fuel)).load(
        """(module (type $s (struct (field i32))) (tag $t (param i32))
          (memory 1) (memory i64 1)
          (func $tail (param i32) (result i32)
            (if (result i32) (local.get 0)
              (then (return_call $tail (i32.sub (local.get 0) (i32.const 1))))
              (else (struct.get $s 0 (struct.new $s (i32.const 5))))))
          (func (export "f") (result i32)
            (block $caught (result i32)
              (try_table (catch $t $caught) (throw $t (call $tail (i32.const 100000))))
              unreachable)))"""
    )
    assert number(module.call("f", b"", LIMITS).slots) == 5
