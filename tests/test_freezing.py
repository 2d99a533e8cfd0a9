"""A module made of an instance begins as that instance was, or is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
import wasmtime
from engine_support import MIB, Bench, bench, number, slots
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_sandbox.worker.binary import describe
from wasm_sandbox.worker.engines.interface import (
    EngineRefusal,
    GuestTrap,
    RunSettings,
    Session,
    SessionLimits,
)
from wasm_sandbox.worker.instructions import first_change

PAGE = 65536
LIMITS = SessionLimits(memory=64 * MIB, table_elements=1000)

STATE = """(module
  (memory $a (export "a") 1 40) (memory $b (export "b") 2 2) (memory $c (export "c") i64 1 9)
  (data (memory $a) (i32.const 10) "old") (data (memory $b) (i32.const 65530) "older")
  (global $i (export "i") (mut i32) (i32.const 1)) (global $l (export "l") (mut i64) (i64.const 2))
  (global $f (export "f") (mut f32) (f32.const 3)) (global $d (export "d") (mut f64) (f64.const 4))
  (global $v (export "v") (mut v128) (v128.const i64x2 5 6))
  (global (export "fixed") i64 (i64.const -7))
  (func (export "a") (param i32 i32) (i32.store8 $a (local.get 0) (local.get 1)))
  (func (export "b") (param i32 i32) (i32.store8 $b (local.get 0) (local.get 1)))
  (func (export "c") (param i32 i32)
    (i32.store8 $c (i64.extend_i32_u (local.get 0)) (local.get 1)))
  (func (export "set") (param i32 i64 f32 f64 v128)
    (global.set $i (local.get 0)) (global.set $l (local.get 1)) (global.set $f (local.get 2))
    (global.set $d (local.get 3)) (global.set $v (local.get 4)))
  (func (export "grow") (param i32 i32)
    (drop (memory.grow $a (local.get 0)))
    (drop (memory.grow $c (i64.extend_i32_u (local.get 1))))))"""
STATE = STATE.replace('func (export "', 'func (export "do_')
GLOBALS = ("i", "l", "f", "d", "v", "fixed")


@pytest.fixture(scope="module")
def stage() -> Bench:
    return bench(RunSettings(stateful=True))


@pytest.fixture
def opened(stage: Bench) -> Iterator[Callable[[str | bytes], Session]]:
    """Opens a session with one instance, number 0."""
    sessions: list[Session] = []

    def make(source: str | bytes) -> Session:
        session = stage.engine.session(LIMITS)
        sessions.append(session)
        session.instantiate(stage.load(source, prepare=False), None)
        return session

    yield make
    for session in sessions:
        session.close()


def frozen(session: Session, source: str | bytes, most: int = 64 * MIB) -> bytes:
    pieces: list[bytes] = []
    data = source.encode() if isinstance(source, str) else source
    session.freeze(0, data, most, lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


def memory(session: Session, name: str) -> bytes:
    views: list[bytes] = []
    session.read_memory(0, name, 0, 1 << 40, lambda view: views.append(bytes(view)))
    return views[0]


def state(session: Session) -> list[bytes]:
    return [
        *(memory(session, name) for name in "abc"),
        *(session.read_global(0, name) for name in GLOBALS),
    ]


Writes = list[tuple[str, int, int]]
WRITES: st.SearchStrategy[Writes] = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, PAGE - 1) | st.integers(4090, 4100) | st.sampled_from([0, PAGE - 1]),
        st.integers(0, 255),
    ),
    max_size=30,
)


@given(
    writes=WRITES,
    grown=st.tuples(st.integers(0, 30), st.integers(0, 8)),
    numbers=st.binary(min_size=40, max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_the_state_after_is_the_state_before(
    stage: Bench, writes: Writes, grown: tuple[int, int], numbers: bytes
) -> None:
    def opened(source: str | bytes) -> Session:
        session = stage.engine.session(LIMITS)
        session.instantiate(stage.load(source, prepare=False), None)
        return session

    first = opened(STATE)
    first.invoke(0, "do_grow", slots(*grown))
    for which, address, value in writes:
        first.invoke(0, f"do_{which}", slots(address, value))
    cut = [numbers[:4], numbers[4:12], numbers[12:16], numbers[16:24], numbers[24:40]]
    first.invoke(0, "do_set", slots(*cut))
    binary = frozen(first, STATE)
    second = opened(binary)
    assert state(second) == state(first)
    assert [session.read_global(0, "v") for session in (first, second)] == [cut[4]] * 2
    assert frozen(second, binary) == binary
    first.close()
    second.close()


def test_what_the_guest_keeps_to_itself_is_restored_too(
    opened: Callable[[str | bytes], Session],
) -> None:
    source = """(module (memory 1 1) (memory $other 1) (global $n (mut i64) (i64.const 1))
      (func (export "set") (param i32)
        (i32.store (i32.const 8) (local.get 0)) (i32.store $other (i32.const 8) (local.get 0))
        (global.set $n (i64.extend_i32_u (local.get 0))))
      (func (export "get") (result i32 i32 i64)
        (i32.load (i32.const 8)) (i32.load $other (i32.const 8)) (global.get $n)))"""
    session = opened(source)
    session.invoke(0, "set", slots(77))
    results = opened(frozen(session, source)).invoke(0, "get", b"").slots
    assert [number(results, at, 8) for at in range(3)] == [77] * 3


def test_nothing_is_initialized_again(opened: Callable[[str | bytes], Session]) -> None:
    source = """(module (memory (export "memory") 1) (data (i32.const 0) "zero")
      (global $n (mut i32) (i32.const 0)) (table 1 funcref) (elem (i32.const 0) $begin)
      (func $begin (global.set $n (i32.add (global.get $n) (i32.const 1)))) (start $begin)
      (func (export "_initialize") (call_indirect (i32.const 0)))
      (func (export "clear") (i32.store (i32.const 0) (i32.const 0)))
      (func (export "indirect") (call_indirect (i32.const 0)))
      (func (export "n") (result i32) (global.get $n)))"""
    session = opened(source)
    session.invoke(0, "clear", b"")
    binary = frozen(session, source)
    described = describe(binary)
    assert not described.start
    assert described.function("_initialize") is None
    again = opened(binary)
    assert memory(again, "memory") == bytes(PAGE)
    assert number(again.invoke(0, "n", b"").slots) == 2
    again.invoke(0, "indirect", b"")  # the table is as it was
    assert number(again.invoke(0, "n", b"").slots) == 3


def test_segments_that_code_names_stay_what_they_were(
    opened: Callable[[str | bytes], Session],
) -> None:
    source = """(module (memory (export "memory") 1) (data $gone (i32.const 0) "abc")
      (data $stays "wxyz")
      (func (export "gone") (memory.init $gone (i32.const 0) (i32.const 0) (i32.const 1)))
      (func (export "none") (memory.init $gone (i32.const 0) (i32.const 0) (i32.const 0)))
      (func (export "stays") (memory.init $stays (i32.const 9) (i32.const 0) (i32.const 4))))"""
    session = opened(source)
    again = opened(frozen(session, source))
    for each in (session, again):
        each.invoke(0, "none", b"")
        with pytest.raises(GuestTrap, match="out of bounds"):
            each.invoke(0, "gone", b"")
        each.invoke(0, "stays", b"")
        assert memory(each, "memory")[:13] == b"abc" + bytes(6) + b"wxyz"


def test_exceptions_are_no_state(opened: Callable[[str | bytes], Session]) -> None:
    source = """(module (tag $t (param i32)) (table 1 funcref) (memory (export "memory") 1)
      (global $n (mut i32) (i32.const 0))
      (func $throw (param i32) (throw $t (local.get 0)))
      (func (export "catch") (param i32) (result i32)
        (global.set $n (i32.add (global.get $n) (block $caught (result i32)
          (try_table (catch $t $caught) (call $throw (local.get 0))) (unreachable))))
        (i32.store (i32.const 0) (global.get $n)) (global.get $n))
      (func (export "leave") (throw $t (i32.const 1))))"""
    session = opened(source)
    session.invoke(0, "catch", slots(40))
    with pytest.raises(GuestTrap):
        session.invoke(0, "leave", b"")
    again = opened(frozen(session, source))
    assert memory(again, "memory")[:4] == struct.pack("<i", 40)
    assert number(again.invoke(0, "catch", slots(2)).slots) == 42


def test_pages_of_zeros_take_no_room(opened: Callable[[str | bytes], Session]) -> None:
    session = opened(STATE)
    session.invoke(0, "do_grow", slots(39, 8))
    small = frozen(session, STATE)
    assert len(small) < 3 * 4096 + 1000
    for address in (0, 40_000):
        session.invoke(0, "do_c", slots(address, 1))
    assert len(frozen(session, STATE)) == pytest.approx(len(small) + 2 * 4096, abs=40)


def test_a_snapshot_over_the_limit_is_refused_before_a_byte_of_it_is_handed_over(
    opened: Callable[[str | bytes], Session],
) -> None:
    session = opened(STATE)
    size = len(frozen(session, STATE))
    assert len(frozen(session, STATE, size)) == size
    pieces: list[bytes] = []
    with pytest.raises(EngineRefusal, match=f"{size:,} bytes") as refusal:
        session.freeze(0, STATE.encode(), size - 1, lambda piece: pieces.append(bytes(piece)))
    assert refusal.value.kind == "module_limit"
    assert not pieces


REFUSED = {
    "a table is set": (
        '(table 1 funcref) (func (export "f") (table.set (i32.const 0) (ref.null func)))',
        "function 0 of the module changes a table",
    ),
    "a table grows": (
        "(table 1 funcref) (func) (func (drop (table.grow (ref.null func) (i32.const 1))))",
        "function 1 of the module changes a table",
    ),
    "a table is filled": (
        "(table 1 funcref) (func (table.fill (i32.const 0) (ref.null func) (i32.const 0)))",
        "changes a table",
    ),
    "a table is copied": (
        "(table 1 funcref) (func (table.copy (i32.const 0) (i32.const 0) (i32.const 0)))",
        "changes a table",
    ),
    "a table is initialised": (
        """(table 1 funcref) (elem $e func)
          (func (table.init $e (i32.const 0) (i32.const 0) (i32.const 0)))""",
        "changes a table",
    ),
    "a segment is dropped": (
        '(memory 1) (data $d "x") (func (data.drop $d))',
        "changes which data segments there are",
    ),
    "a global refers": (
        "(global (mut externref) (ref.null extern))",
        "mutable global of type externref",
    ),
    "there is a heap": ("(type (struct (field i32)))", "engine's heap"),
    "too many globals": ("(global (mut i32) (i32.const 0))" * 1001, "1001 mutable globals"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_state_that_cannot_be_written_down_is_refused_and_named(
    opened: Callable[[str | bytes], Session], case: str
) -> None:
    text, message = REFUSED[case]
    source = f"(module {text})"
    session = opened(source)
    with pytest.raises(EngineRefusal, match=message) as refusal:
        frozen(session, source)
    assert refusal.value.kind == "unsupported_module"


def nothing() -> None:
    """Nobody interrupts."""


def change(text: str, *, drops: bool = False) -> int | None:
    data = bytes(wasmtime.wat2wasm(f"(module {text})"))
    return first_change(data, len(describe(data).tables), drops=drops, check=nothing)


HARMLESS = """(table 2 funcref) (memory 1) (data $d "xyz") (elem declare func $f) (tag $t)
  (type $plain (func)) (global $g (mut i32) (i32.const 0))
  (func $f (local i32 i64 f32 f64 v128 funcref)
    (local.set 0 (i32.const 0x26)) (local.set 1 (i64.const 0x26fc0c26))
    (local.set 2 (f32.const 1.5)) (local.set 3 (f64.const 2.5))
    (local.set 4 (v128.const i32x4 0x26002600 0x0cfc0cfc 0 0))
    (block (result i32) (loop (if (i32.const 1) (then (br_table 0 1 0 (i32.const 38)))))
      (i32.const 3)) (drop)
    (drop (table.get (i32.const 0))) (drop (table.size)) (drop (ref.func $f))
    (drop (ref.is_null (ref.null func))) (call_indirect (type $plain) (i32.const 0))
    (drop (select (result i64) (i64.const 1) (i64.const 2) (i32.const 0)))
    (block $b (try_table (catch $t $b) (catch_all $b) (throw $t)))
    (memory.copy (i32.const 0) (i32.const 0) (i32.const 38))
    (memory.fill (i32.const 0) (i32.const 38) (i32.const 0))
    (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0))
    (drop (i32.trunc_sat_f32_s (f32.const 1))) (drop (memory.grow (i32.const 0)))
    (drop (i32.load offset=38 (i32.const 0))) (i64.store32 offset=9788 (i32.const 0) (i64.const 38))
    (drop (v128.load8_lane 3 (i32.const 0) (local.get 4)))
    (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (local.get 4) (local.get 4)))
    (drop (i32x4.extract_lane 1 (local.get 4))) (drop (i8x16.relaxed_swizzle (local.get 4)
      (local.get 4))) (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))) (atomic.fence)
    (global.set $g (i32.const 38)) (drop (memory.size)))"""


def test_code_that_only_looks_like_it_changes_no_table() -> None:
    assert change(HARMLESS) is None
    assert change(HARMLESS, drops=True) is None
    assert change(HARMLESS + "(func (table.set (i32.const 0) (ref.null func)))") == 1
    last = HARMLESS.replace("(drop (memory.size)))", "(table.set (i32.const 0) (ref.null func)))")
    assert change(last) == 0
    assert change(HARMLESS + "(func) (func (data.drop $d))", drops=True) == 2


def test_only_bodies_that_may_change_one_are_read() -> None:
    checked: list[int] = []
    lookalike = "(func (drop (i32.extend8_s (i32.const 38))))"
    data = bytes(wasmtime.wat2wasm(f"(module {HARMLESS} {lookalike})"))
    assert first_change(data, 2, drops=True, check=lambda: checked.append(1)) is None
    assert len(checked) == 1


def test_the_last_of_many_tables_counts_too() -> None:
    for tables in (127, 128, 129, 300):
        last = f"(func (table.set {tables - 1} (i32.const 0) (ref.null func)))"
        assert change("(table 0 funcref)" * tables + "(func)" + last) == 1


@pytest.mark.parametrize("index", [b"\x00", b"\x80\x00", b"\x80\x80\x80\x80\x00"])
def test_an_index_may_be_written_long(index: bytes) -> None:
    code = b"\x00\x41\x00\xd0\x70\x26" + index + b"\x0b"
    body = b"\x01" + bytes([len(code)]) + code
    data = bytes(wasmtime.wat2wasm("(module (table 1 funcref) (func))"))
    at = data.index(b"\x0a\x04\x01\x02\x00\x0b")
    data = data[:at] + b"\x0a" + bytes([len(body)]) + body
    wasmtime.Module.validate(wasmtime.Engine(), data)
    assert first_change(data, 1, drops=False, check=nothing) == 0


def test_code_that_is_not_understood_counts_as_a_change() -> None:
    code = b"\x00\x26\x00\xff\x0b"
    data = b"\0asm\1\0\0\0" + b"\x0a" + struct.pack("BBB", len(code) + 2, 1, len(code)) + code
    assert first_change(data, 1, drops=False, check=nothing) == 0


def test_an_interrupt_ends_it(stage: Bench, opened: Callable[[str | bytes], Session]) -> None:
    session = opened(STATE)
    stage.engine.interrupt()
    with pytest.raises(GuestTrap) as trap:
        frozen(session, STATE)
    assert trap.value.code == "interrupt"
    stage.engine.arm()
    assert frozen(session, STATE)
