"""Host functions of the engine, on both paths: slots, memory, refusals and what they raise."""

from __future__ import annotations

import struct

import pytest
from engine_support import LIMITS, Bench, keep, number, slots
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test

from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.worker.engines import wasmtime as package
from wasm_sandbox.worker.engines.interface import (
    FROM_HOST,
    EngineRefusal,
    GuestExit,
    GuestMemory,
    GuestTrap,
    HostFunction,
    RunSettings,
    SessionLimits,
)

FORCED = "forced by a test"
ALL = ("i32", "i64", "f32", "f64")


class Stopped(Exception):
    """What a host function raises."""


def swap(_memory: GuestMemory, given: bytes) -> bytes:
    """Slots in the other order."""
    return b"".join(given[at : at + 16] for at in range(48, -1, -16))


def reverse(memory: GuestMemory, given: bytes) -> bytes:
    """Reverses bytes of the guest's memory; -1 where they are not all inside."""
    start, size = struct.unpack("<I12xI12x", given)
    view = memory.view(start, size)
    if view is None:
        return slots(-1)
    view[:] = bytes(view)[::-1]
    return slots(size)


def stop(_memory: GuestMemory, _given: bytes) -> bytes:
    raise GuestTrap("interrupt", "stopped by the host")


def fail(_memory: GuestMemory, _given: bytes) -> bytes:
    raise Stopped


def nothing(_memory: GuestMemory, given: bytes) -> bytes:
    assert given == b""
    return b""


FUNCTIONS = tuple(
    HostFunction(module="host", name=name, type=FunctionType(params, results), call=call)
    for name, params, results, call in (
        ("swap", ALL, ALL[::-1], swap),
        ("reverse", ("i32", "i32"), ("i32",), reverse),
        ("stop", (), (), stop),
        ("fail", (), (), fail),
        ("nothing", (), (), nothing),
    )
)
GUEST = """(module
  (import "host" "swap" (func $swap (param i32 i64 f32 f64) (result f64 f32 i64 i32)))
  (import "host" "reverse" (func $reverse (param i32 i32) (result i32)))
  (import "host" "stop" (func $stop))
  (import "host" "fail" (func $fail))
  (import "host" "nothing" (func $nothing))
  (memory (export "memory") 1)
  (data (i32.const 8) "abcdefgh")
  (func (export "swap") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
    (call $nothing)
    (call $swap (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "reverse") (param i32 i32) (result i64)
    (drop (call $reverse (local.get 0) (local.get 1))) (i64.load (i32.const 8)))
  (func (export "status") (param i32 i32) (result i32)
    (call $reverse (local.get 0) (local.get 1)))
  (func (export "stop") (call $stop) unreachable)
  (func (export "fail") (call $fail) unreachable)
  (export "itself" (func $reverse)))"""


@pytest.fixture(scope="module", params=["raw", "public"])
def stage(request: pytest.FixtureRequest) -> Bench:
    settings = RunSettings()
    fault = "" if request.param == "raw" else FORCED
    return Bench(keep(package.open_engine(settings, fault, FUNCTIONS)), settings)


def test_values_of_every_type_cross_both_ways(stage: Bench) -> None:
    given = slots(7, -8, struct.pack("<f", 0.5), struct.pack("<d", -0.25))
    found = stage.load(GUEST).call("swap", given, LIMITS).slots
    assert struct.unpack("<d8xf12xq8xi12x", found) == (-0.25, 0.5, -8, 7)


def test_a_host_function_reads_and_writes_the_guests_memory(stage: Bench) -> None:
    found = stage.load(GUEST).call("reverse", slots(8, 8), LIMITS).slots
    assert found[:8] == b"hgfedcba"


@pytest.mark.parametrize(
    ("start", "size", "status"),
    [
        (0, 65536, 65536),
        (65536, 0, 0),
        (65535, 1, 1),
        (65535, 2, -1),
        (65536, 1, -1),
        (0, 65537, -1),
        (-1, 1, -1),
        (-1, -1, -1),
        (8, -8, -1),
        (1 << 31, 1 << 31, -1),
    ],
)
def test_no_pointer_leaves_the_guests_memory(
    stage: Bench, start: int, size: int, status: int
) -> None:
    assert number(stage.load(GUEST).call("status", slots(start, size), LIMITS).slots) == status


def test_a_host_function_that_is_called_without_its_guest_has_no_memory(stage: Bench) -> None:
    assert number(stage.load(GUEST).call("itself", slots(8, 8), LIMITS).slots) == -1


def test_a_guest_that_exports_no_memory_has_none(stage: Bench) -> None:
    guest = GUEST.replace('(memory (export "memory") 1)', '(memory (export "other") 1)')
    assert number(stage.load(guest).call("status", slots(8, 8), LIMITS).slots) == -1


def test_a_host_function_can_stop_the_guest(stage: Bench) -> None:
    module = stage.load(GUEST)
    with pytest.raises(GuestTrap, match="stopped by the host") as caught:
        module.call("stop", b"", LIMITS)
    assert caught.value.code == "interrupt"
    assert caught.value.measured.memory == 65536
    assert module.call("reverse", slots(8, 8), LIMITS).slots[:8] == b"hgfedcba"


def test_what_a_host_function_raises_ends_the_call(stage: Bench) -> None:
    module = stage.load(GUEST)
    with pytest.raises(Stopped):
        module.call("fail", b"", LIMITS)
    assert module.call("reverse", slots(8, 8), LIMITS).slots[:8] == b"hgfedcba"


@pytest.mark.parametrize(
    ("import_", "kind", "said"),
    [
        ('"host" "revers" (func (param i32 i32) (result i32))', "missing_import", "mean reverse?"),
        ('"host" "revers_" (func)', "missing_import", "mean reverse?"),
        ('"host" "other" (func)', "missing_import", "no such function"),
        ('"hosts" "stop" (func)', "missing_import", "what is in wasi_snapshot_preview1 and host"),
        ('"host" "reverse" (func (param i32) (result i32))', "signature", "(i32, i32) -> (i32)"),
        ('"host" "reverse" (memory 1)', "signature", "(i32, i32) -> (i32)"),
    ],
)
def test_an_import_that_does_not_fit_is_named(
    stage: Bench, import_: str, kind: str, said: str
) -> None:
    with pytest.raises(EngineRefusal) as caught:
        stage.load(f"(module (import {import_}))")
    assert caught.value.kind == kind
    assert said in str(caught.value)


# -- a module's own, and its memory ---------------------------------------------------------------


def greet(memory: GuestMemory, _given: bytes) -> bytes:
    """Puts a text where the guest's ``alloc`` says, as ``(ptr << 32) | len``."""
    start = memory.allocate(5, "i32")
    view = memory.view(start, 5)
    assert view is not None
    view[:] = b"hello"
    return slots(start << 32 | 5)


OWN = HostFunction(module="own", name="greet", type=FunctionType((), ("i64",)), call=greet)
GREETED = """(module
  (import "own" "greet" (func $greet (result i64)))
  {more}
  (memory (export "memory") 1)
  (func $alloc (export "alloc") (param {kind}) (result {kind}) {alloc})
  (func (export "greet") (result i64) (local $at i32)
    (local.set $at (i32.wrap_i64 (i64.shr_u (call $greet) (i64.const 32))))
    (i64.load (local.get $at)))
  (export "itself" (func $greet)))"""


def greeted(alloc: str = "(i32.const 64)", *, kind: str = "i32", more: str = "") -> str:
    return GREETED.format(alloc=alloc, kind=kind, more=more)


def test_a_function_of_one_module_is_no_others(stage: Bench) -> None:
    assert stage.load(greeted(), OWN).call("greet", b"", LIMITS).slots[:8] == b"hello\0\0\0"
    with pytest.raises(EngineRefusal, match=r"own\.greet") as caught:
        stage.load(greeted())
    assert caught.value.kind == "missing_import"
    assert stage.load(GUEST).call("reverse", slots(8, 8), LIMITS).slots[:8] == b"hgfedcba"


def test_many_modules_have_functions_of_their_own(stage: Bench) -> None:
    def answer(number: int) -> HostFunction:
        return HostFunction(
            module="own", name="n", type=FunctionType((), ("i32",)), call=lambda *_: slots(number)
        )

    source = '(module (import "own" "n" (func $n (result i32))) (export "n" (func $n)))'
    modules = [stage.load(source, answer(number)) for number in range(50)]
    found = [number(module.call("n", b"", LIMITS).slots) for module in modules]
    assert found == list(range(50))


@pytest.mark.parametrize(
    ("alloc", "kind", "code"),
    [
        ("unreachable", "i32", "unreachable"),
        ("(i32.div_s (i32.const 1) (i32.const 0))", "i32", "integer_division_by_zero"),
        ("(i64.const 64)", "i64", "bad_argument"),
        ("(f64.const 64)", "f64", "bad_argument"),
    ],
)
def test_an_alloc_that_traps_or_is_another_ends_the_call(
    stage: Bench, alloc: str, kind: str, code: str
) -> None:
    with pytest.raises(GuestTrap) as caught:
        stage.load(greeted(alloc, kind=kind), OWN).call("greet", b"", LIMITS)
    assert caught.value.code == code


def test_an_alloc_may_end_the_guest(stage: Bench) -> None:
    more = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    module = stage.load(greeted("(call $exit (i32.const 300)) (i32.const 0)", more=more), OWN)
    with pytest.raises(GuestExit) as caught:
        module.call("greet", b"", LIMITS)
    assert caught.value.code == 300


def test_what_a_function_raises_within_alloc_ends_the_call(stage: Bench) -> None:
    more = '(import "host" "fail" (func $fail))'
    module = stage.load(greeted("(call $fail) (i32.const 0)", more=more), OWN)
    with pytest.raises(Stopped):
        module.call("greet", b"", LIMITS)


def test_without_its_guest_there_is_no_alloc(stage: Bench) -> None:
    with pytest.raises(GuestTrap, match="alloc"):
        stage.load(greeted(), OWN).call("itself", b"", LIMITS)


def test_in_a_session_only_an_alloc_of_known_type_is_called() -> None:
    settings = RunSettings(stateful=True)
    bench = Bench(keep(package.open_engine(settings, "", FUNCTIONS)), settings)
    session = bench.engine.session(SessionLimits(memory=1 << 24, table_elements=1000))
    lender = session.instantiate(bench.load(greeted(), OWN, prepare=False), [(FROM_HOST, "greet")])
    assert session.invoke(lender, "greet", b"").slots[:8] == b"hello\0\0\0"
    borrow = greeted("unreachable", kind="f64").replace("own", "lender")
    for source in (borrow, borrow.replace("f64", "v128"), borrow.replace("f64", "externref")):
        module = bench.load(source, prepare=False)
        borrower = session.instantiate(module, [(lender, "itself")])
        with pytest.raises(GuestTrap, match="alloc") as caught:
            session.invoke(borrower, "greet", b"")
        assert caught.value.code == "bad_argument"
    assert session.invoke(lender, "greet", b"").slots[:8] == b"hello\0\0\0"
    with pytest.raises(EngineRefusal, match="greet"):
        session.instantiate(bench.load(greeted(), prepare=False), [(FROM_HOST, "greet")])
    session.close()
