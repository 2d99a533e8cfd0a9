"""An import that cannot be given is named, with what the module wants and what there is."""

from __future__ import annotations

import pytest
import wasmtime
from engine_support import Bench, bench
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test

from wasm_sandbox.worker.engines.interface import EngineRefusal
from wasm_sandbox.worker.engines.preview1 import FUNCTIONS


@pytest.fixture(scope="module", params=["raw", "public"])
def stage(request: pytest.FixtureRequest) -> Bench:
    """An engine, through its C interface and through its public binding."""
    return bench(fault="" if request.param == "raw" else "forced by a test")


@pytest.mark.parametrize(
    ("imports", "names", "hint"),
    [
        ('(import "env" "go" (func))', "env.go", "load(imports=)"),
        ('(import "wasi_unstable" "fd_write" (func))', "wasi_unstable", "wasm32-wasip1"),
        ('(import "wasi_snapshot_preview1" "fd_wrte" (func))', "fd_wrte", "did you mean fd_write"),
        ('(import "wasi:io/streams" "x" (func))', "wasi:io", "WASI 0.2"),
        ('(import "a" "m" (memory 1)) (import "b" "g" (global i32))', "a.m, b.g", ""),
    ],
)
def test_missing_imports_are_all_named(stage: Bench, imports: str, names: str, hint: str) -> None:
    module = stage.load(f'(module {imports} (func (export "f")))', prepare=False)
    with pytest.raises(EngineRefusal) as refusal:
        module.prepare()
    assert refusal.value.kind == "missing_import"
    assert names in refusal.value.message
    assert hint in refusal.value.hint


WASI = '(import "wasi_snapshot_preview1" "fd_write"'


@pytest.mark.parametrize(
    ("imported", "named"),
    [
        (f"{WASI} (func (param i32)))", "function (i32) -> ()"),
        (f"{WASI} (global i32))", "global"),
        (f"{WASI} (memory 1))", "memory"),
    ],
)
def test_an_import_of_another_type_says_what_is_wanted_and_what_there_is(
    stage: Bench, imported: str, named: str
) -> None:
    module = stage.load(f"(module {imported})", prepare=False)
    with pytest.raises(EngineRefusal) as refusal:
        module.prepare()
    assert refusal.value.kind == "signature"
    assert refusal.value.message == (
        f"the module imports wasi_snapshot_preview1.fd_write as a {named}; "
        "it is a function (i32, i32, i32, i32) -> (i32)"
    )
    assert "wasm32-wasip1" in refusal.value.hint


def test_an_import_whose_type_only_looks_the_same_is_refused(stage: Bench) -> None:
    module = stage.load(
        "(module (rec (type $exit (func (param i32))) (type (func)))"
        '(import "wasi_snapshot_preview1" "proc_exit" (func (type $exit))))',
        prepare=False,
    )
    with pytest.raises(EngineRefusal, match="proc_exit") as refusal:
        module.prepare()
    assert refusal.value.kind == "signature"


def test_the_types_of_wasi_are_the_engines() -> None:
    engine = wasmtime.Engine()
    linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
    linker.define_wasi()
    for name, kind in FUNCTIONS.items():
        function = linker.get(store, "wasi_snapshot_preview1", name)
        assert isinstance(function, wasmtime.Func)
        there = function.type(store)
        assert tuple(map(str, there.params)) == kind.params, name
        assert tuple(map(str, there.results)) == kind.results, name
