"""The parser of module types: never wrong, never surprised."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st
from suites import load_script

from wasm_sandbox.protocol.description import (
    Export,
    ExternFunction,
    ExternGlobal,
    ExternMemory,
    ExternTable,
    ExternTag,
    ExternType,
    FunctionType,
    GlobalType,
    Import,
    MemoryType,
    ModuleDescription,
    TableType,
    TagType,
)
from wasm_sandbox.worker.binary import (
    InterfaceTooLarge,
    MalformedModule,
    describe,
    looks_like_component,
    looks_like_text,
)
from wasm_sandbox.worker.engines.wasmtime.config import public_config

PREAMBLE = b"\0asm\1\0\0\0"


def leb(value: int) -> bytes:
    """An unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def from_text(text: str) -> ModuleDescription:
    return describe(bytes(wasmtime.wat2wasm(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '(func (export "f") (param i32 i64 f32 f64 v128) (result f64 i32))',
            ExternFunction(FunctionType(("i32", "i64", "f32", "f64", "v128"), ("f64", "i32"))),
        ),
        (
            (
                '(func (export "f") (param funcref externref anyref eqref i31ref)'
                " (param structref arrayref exnref)"
                " (param nullref nullfuncref nullexternref nullexnref) unreachable)"
            ),
            ExternFunction(
                FunctionType(
                    (
                        *("funcref", "externref", "anyref", "eqref", "i31ref", "structref"),
                        *("arrayref", "exnref", "nullref", "nullfuncref", "nullexternref"),
                        "nullexnref",
                    ),
                    (),
                )
            ),
        ),
        (
            '(type $t (struct)) (func (export "f") (param (ref $t) (ref null $t) (ref func)))',
            ExternFunction(FunctionType(("(ref 0)", "(ref null 0)", "(ref func)"), ())),
        ),
        ('(memory (export "f") 1 2)', ExternMemory(MemoryType(1, 2))),
        ('(memory (export "f") i64 1)', ExternMemory(MemoryType(1, None, is_64=True))),
        (
            '(memory (export "f") 7 9 (pagesize 1))',
            ExternMemory(MemoryType(7, 9, page_size=1)),
        ),
        ('(memory (export "f") 1 1 shared)', ExternMemory(MemoryType(1, 1, shared=True))),
        ('(table (export "f") 1 2 funcref)', ExternTable(TableType("funcref", 1, 2))),
        (
            '(table (export "f") i64 3 externref)',
            ExternTable(TableType("externref", 3, None, is_64=True)),
        ),
        (
            '(func $x) (table (export "f") 3 (ref func) (ref.func $x))',
            ExternTable(TableType("(ref func)", 3)),
        ),
        (
            '(global (export "f") (mut i64) (i64.const -9))',
            ExternGlobal(GlobalType("i64", mutable=True)),
        ),
        (
            '(global (export "f") v128 (v128.const i64x2 1 2))',
            ExternGlobal(GlobalType("v128")),
        ),
        (
            (
                "(type $a (array i8)) (type $s (struct (field (mut i16) (ref null $a) f64)))"
                '(global (export "f") (ref null $s)'
                " (struct.new $s (i32.const 3) (array.new_fixed $a 2 (i32.const 1) (i32.const -2))"
                " (f64.const 2)))"
            ),
            ExternGlobal(GlobalType("(ref null 1)")),
        ),
        (
            (
                '(global $g (import "a" "b") i32)'
                '(global (export "f") i32 (i32.add (global.get $g) (i32.const 5)))'
            ),
            ExternGlobal(GlobalType("i32")),
        ),
        ('(tag (export "f") (param i32 f32))', ExternTag(TagType(("i32", "f32")))),
        (
            (
                "(rec (type $a (sub (struct (field (ref null $b))))) (type $b (sub $a (struct"
                " (field (ref null $b))))) (type $f (func (param i32))))"
                '(func (export "f") (type $f))'
            ),
            ExternFunction(FunctionType(("i32",), ())),
        ),
        (
            '(type $f (sub final (func (result i32)))) (func (export "f") (type $f) (i32.const 1))',
            ExternFunction(FunctionType((), ("i32",))),
        ),
    ],
)
def test_every_kind_of_type_is_read(text: str, expected: ExternType) -> None:
    export = from_text(f"(module {text})").exports[0]
    assert (export.name, export.type) == ("f", expected)


def test_a_whole_module_is_described() -> None:
    found = from_text(
        """(module
          (import "a" "f" (func (param i32)))
          (import "a" "m" (memory 1))
          (import "b" "t" (tag (param f64)))
          (memory 2 3)
          (table 4 funcref)
          (func $start) (func (export "é") (result i64) (i64.const 0))
          (export "again" (func 2))
          (start $start)
          (@custom "note" "12345"))"""
    )
    named = ExternFunction(FunctionType((), ("i64",)))
    assert found.imports == (
        Import("a", "f", ExternFunction(FunctionType(("i32",), ()))),
        Import("a", "m", ExternMemory(MemoryType(1))),
        Import("b", "t", ExternTag(TagType(("f64",)))),
    )
    assert found.exports == (Export("é", named, 2), Export("again", named, 2))
    assert found.memories == (MemoryType(1), MemoryType(2, 3))
    assert found.tables == (TableType("funcref", 4),)
    assert found.start
    assert found.uses_gc  # a tag: exceptions live on the GC heap
    assert ("note", 5) in found.custom_sections
    assert found.function_count == 2
    assert found.code_size > 0


@pytest.mark.parametrize(
    ("text", "uses_gc"),
    [
        ('(func (export "f") (param externref))', False),
        ("(type (struct))", True),
        ("(type (array i8))", True),
        ("(tag)", True),
    ],
)
def test_a_gc_heap_is_counted_only_where_something_can_be_put_on_it(
    text: str, uses_gc: bool
) -> None:
    assert from_text(f"(module {text})").uses_gc is uses_gc


def test_other_kinds_of_file_are_recognised() -> None:
    assert looks_like_component(bytes(wasmtime.wat2wasm("(component)")))
    assert not looks_like_component(PREAMBLE)
    assert not looks_like_component(b"\0asm")
    assert looks_like_text(b"  \n(module)")
    assert looks_like_text(b";; a comment\n(module)")
    assert not looks_like_text(PREAMBLE)
    assert not looks_like_text(b"")


# --- hostile bytes -------------------------------------------------------------------------------

SEEDS = [
    bytes(wasmtime.wat2wasm(text))
    for text in (
        "(module)",
        """(module (rec (type $a (sub (struct (field (mut i8))))) (type $b (array (ref null $a))))
             (import "m" "n" (func (param v128) (result i32 i64)))
             (import "m" "t" (table i64 1 2 funcref))
             (memory (export "mem") i64 1 2) (table (export "tab") 3 (ref null $a))
             (global (export "g") (mut f64) (f64.const 1.5))
             (global v128 (v128.const i64x2 1 2)) (tag (export "e") (param i32))
             (func $s) (start $s) (func (export "f") (param (ref null $b)) (local i32) nop)
             (elem (i32.const 0) func) (data (i32.const 0) "abc") (@custom "x" "yz"))""",
    )
]
interesting = st.sampled_from([0, 1, 4, 0x40, 0x4E, 0x50, 0x60, 0x63, 0x70, 0x7F, 0x80, 0xFB, 0xFF])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real module with some bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "insert", "cut", "truncate"])):
            case "change" if at < len(data):
                data[at] = draw(interesting | st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=5))
            case "cut":
                del data[at : at + draw(st.integers(1, 5))]
            case "truncate":
                del data[at:]
            case _:
                pass
    return bytes(data)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(PREAMBLE.__add__) | mutated())
def test_any_bytes_give_a_description_or_one_kind_of_error(data: bytes) -> None:
    try:
        found = describe(data)
    except MalformedModule:
        return
    assert isinstance(found, ModuleDescription)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 13])
def test_a_count_is_not_believed(number: int) -> None:
    with pytest.raises(MalformedModule):
        describe(PREAMBLE + section(number, leb(0xFFFFFFFF)))


@pytest.mark.parametrize(
    "body",
    [
        section(1, b"\x01\x60" + leb(0xFFFFFFF0)),
        section(1, b"\x01\x5f" + leb(0xFFFFFFF0)),
        section(1, b"\x01\x4e" + leb(0xFFFFFFF0)),
        section(2, b"\x01" + leb(0xFFFFFFF0)),
        section(0, leb(0xFFFFFFF0)),
        b"\x01" + leb(0xFFFFFFF0),
        section(1, b"\x80" * 64),
        section(7, b"\x01\x01a\x00\x63"),
        section(7, b"\x01\x01a\x09\x00"),
        section(5, b"\x01\x00\x01") * 2,
        section(14, b""),
        section(7, b"\x01\x01\xff\x00\x00"),
        section(6, b"\x01\x7f\x00\x41"),
    ],
)
def test_malformed_sections_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedModule):
        describe(PREAMBLE + body)


def test_one_large_type_under_many_names_is_refused() -> None:
    types = b"\x01\x60" + leb(1000) + b"\x7b" * 1000 + b"\0"
    exports = leb(2000) + b"".join(b"\x04" + b"%04d" % i + b"\0\0" for i in range(2000))
    data = PREAMBLE + section(1, types) + section(3, b"\x01\0") + section(7, exports)
    with pytest.raises(InterfaceTooLarge):
        describe(data)


# --- against the engine's own reflection ---------------------------------------------------------

# For other types the engine's reflection aborts the process, which is why there is a parser.
SAFE = {"i32", "i64", "f32", "f64", "funcref", "externref"}


def _names(types: object) -> tuple[str, ...]:
    assert isinstance(types, list)
    return tuple("externref" if str(kind) == "anyref" else str(kind) for kind in types)


def _same(theirs: object, ours: ExternType) -> bool:
    match theirs, ours:
        case wasmtime.FuncType(), ExternFunction(type=mine):
            return not set(mine.params + mine.results) <= SAFE or (
                _names(theirs.params),
                _names(theirs.results),
            ) == (mine.params, mine.results)
        case wasmtime.MemoryType(), ExternMemory(type=mine):
            limits = theirs.limits
            return (limits.min, limits.max, theirs.is_64) == (
                mine.minimum,
                mine.maximum,
                mine.is_64,
            )
        case wasmtime.TableType(), ExternTable(type=mine):
            limits = theirs.limits
            return mine.is_64 or (limits.min, limits.max) == (mine.minimum, mine.maximum)
        case wasmtime.GlobalType(), ExternGlobal(type=mine):
            return theirs.mutable == mine.mutable and (
                mine.value not in SAFE or _names([theirs.content]) == (mine.value,)
            )
        case _:
            return isinstance(theirs, wasmtime.TagType) and isinstance(ours, ExternTag)


def _modules(suites: Path) -> Iterator[tuple[str, bytes]]:
    for script in sorted((suites / "spec").glob("*.json.gz")):
        for command in load_script(script):
            for holder in (command, command.get("module")):
                if isinstance(holder, dict) and "wasm" in holder:
                    yield f"{script.stem}:{command['line']}", base64.b64decode(holder["wasm"])
    for program in sorted((suites / "wasi").rglob("*.wasm")):
        yield program.name, program.read_bytes()


@pytest.mark.suite
def test_every_module_of_the_suites_is_described_as_the_engine_describes_it(suites: Path) -> None:
    engine = wasmtime.Engine(public_config(False, parallel=False))
    compared = 0
    for where, data in _modules(suites):
        try:
            wasmtime.Module.validate(engine, data)
        except wasmtime.WasmtimeError:
            continue
        ours = describe(data)
        theirs = wasmtime.Module(engine, data)
        assert [(i.module, i.name) for i in theirs.imports] == [
            (i.module, i.name) for i in ours.imports
        ], where
        assert [e.name for e in theirs.exports] == [e.name for e in ours.exports], where
        for mine, their in zip(ours.imports, theirs.imports, strict=True):
            assert _same(their.type, mine.type), (where, mine)
        for export, exported in zip(ours.exports, theirs.exports, strict=True):
            assert _same(exported.type, export.type), (where, export)
        compared += 1
    assert compared > 1000
