"""Whatever a component's bytes are, it is refused in words, or runs and ends in one of the ways
that there are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from component_bench import Guest
from component_commands import command
from component_texts import PADDING, echo
from engine_support import LIMITS, Bench, bench, close_after_module, close_after_test
from hypothesis import given, settings
from hypothesis import strategies as st
from test_component_guests import using_counter

from wasm_sandbox import SandboxError, Variant
from wasm_sandbox.worker.binary_reader import MalformedModule
from wasm_sandbox.worker.components.resolve import resolve
from wasm_sandbox.worker.components.skeleton import skeleton
from wasm_sandbox.worker.engines.interface import EngineRefusal, GuestExit, GuestTrap, Wasi

__all__ = ["close_after_module", "close_after_test"]

GEOMETRY = Path(__file__).resolve().parents[1] / "examples" / "guests" / "geometry.wat"
RECORD = ("record", ("a", ("list", "string")), ("b", ("variant", ("x", None), ("y", "f64"))))
SHAPES = "docs:geometry/shapes@0.1.0"
SOURCES: list[tuple[str, list[tuple[str, tuple[Any, ...]]]]] = [
    (
        GEOMETRY.read_text(),
        [
            ("greet", ("x" * 50,)),
            (f"{SHAPES}#double", (Variant("square", {"x": 1, "y": 2}),)),
            (f"{SHAPES}#divide", (1, 0)),
            (f"{SHAPES}#bounds", ([{"x": 1, "y": 2}] * 3,)),
        ],
    ),
    (using_counter("(call $eat (call $make (i32.const 2)))"), [("f", ())]),
    (echo(RECORD), [("echo", ({"a": ["x", "yz"], "b": Variant("y", 1.5)}, *PADDING))]),
    (
        command(
            """(call $write (call $stdout) (i32.const 0) (i32.const 5) (i32.const 64))
            (i32.const 0)"""
        ),
        [],
    ),
]
BINARIES = [(bytes(wasmtime.wat2wasm(text)), calls) for text, calls in SOURCES]
ENDS = (EngineRefusal, GuestTrap, GuestExit, SandboxError)


@pytest.fixture(scope="module")
def stage() -> Bench:
    return bench()


@st.composite
def mutants(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, tuple[Any, ...]]]]:
    """A component with a few bytes changed, left out or added."""
    binary, calls = draw(st.sampled_from(BINARIES))
    data = bytearray(binary)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(8, len(data) - 1))
        byte = draw(st.integers(0, 255) | st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1]))
        match draw(st.sampled_from(["change", "change", "leave out", "add"])):
            case "change":
                data[at] = byte
            case "add":
                data.insert(at, byte)
            case _:
                del data[at]
    return bytes(data), calls


@settings(max_examples=300)
@given(mutant=mutants())
def test_a_damaged_component_is_refused_or_runs(
    stage: Bench, mutant: tuple[bytes, list[tuple[str, tuple[Any, ...]]]]
) -> None:
    data, calls = mutant
    try:
        guest = Guest(stage, data)
    except ENDS:
        return
    try:
        for name, arguments in calls:
            if name in guest.codecs:
                with contextlib.suppress(*ENDS):
                    guest.call(name, *arguments)
        with contextlib.suppress(*ENDS):
            guest.module.run_command(Wasi(), LIMITS)
    finally:
        guest.module.close()


@settings(max_examples=300)
@given(mutant=mutants())
def test_what_reads_components_needs_no_validation_to_be_safe(
    mutant: tuple[bytes, list[tuple[str, tuple[Any, ...]]]],
) -> None:
    for read in (skeleton, resolve):
        with contextlib.suppress(MalformedModule):
            read(mutant[0])
