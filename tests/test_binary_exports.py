"""Exports that we add make every memory and table that grows visible, and change nothing else."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
import wasmtime
from suites import load_script

from wasm_sandbox.protocol.description import Export, ExternMemory, ExternTable
from wasm_sandbox.worker.binary import describe
from wasm_sandbox.worker.binary_exports import growing, shift, show
from wasm_sandbox.worker.engines.wasmtime.config import public_config


def binary(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def exports(data: bytes) -> dict[str, Export]:
    return {export.name: export for export in describe(data).exports}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("", []),
        ("(memory 1)", [("memory", 0)]),
        ("(memory 1 1)", []),
        ('(memory (export "m") 1)', []),
        ('(import "a" "m" (memory 1)) (memory 2 3)', [("memory", 1)]),
        ("(table 1 funcref) (table 2 2 funcref) (memory 1)", [("memory", 0), ("table", 0)]),
        ('(memory (export "a") (export "b") 1) (memory 0)', [("memory", 1)]),
        ('(memory 1) (func (export "\\00memory 0"))', [("memory", 0)]),
        ('(memory 1) (data (i32.const 0) "x") (@custom "c" "y")', [("memory", 0)]),
        ('(@custom "c" (before first) "y") (memory 1) (func $f) (start $f)', [("memory", 0)]),
    ],
)
def test_what_grows_unseen_is_exported(text: str, hidden: list[tuple[str, int]]) -> None:
    data = binary(text)
    described = describe(data)
    things = growing(described)
    assert [(thing.kind, thing.index) for thing in things if thing.hidden] == hidden
    shown = show(data, things)
    found = exports(shown)
    for thing in things:
        kind = ExternMemory if thing.kind == "memory" else ExternTable
        assert isinstance(found[thing.name].type, kind)
        assert found[thing.name].index == thing.index
    assert describe(shown).exports[: len(described.exports)] == described.exports
    if hidden:
        assert shift(describe(shown).exports[-1].name) == len(shown) - len(data)
    else:
        assert shown is data


@pytest.mark.suite
def test_every_module_of_the_suite_stays_valid_and_the_same(suites: Path) -> None:
    engine = wasmtime.Engine(public_config(False, parallel=False))
    changed = 0
    for script in sorted((suites / "spec").glob("*.json.gz")):
        for command in load_script(script):
            if "wasm" not in command:
                continue
            data = base64.b64decode(command["wasm"])
            described = describe(data)
            shown = show(data, growing(described))
            wasmtime.Module.validate(engine, shown)
            after = describe(shown)
            assert msgspec.structs.replace(after, exports=described.exports) == described
            changed += shown is not data
    assert changed > 100
