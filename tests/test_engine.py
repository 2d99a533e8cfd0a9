"""The engine as a library: values, freshness, traps, fuel, interrupts, limits; both ways to call
it."""

from __future__ import annotations

import ast
import gc
import os
import resource
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_support import LIMITS, MIB, Bench, bench, load_artifact, number, slots
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test

from wasm_sandbox.protocol.failures import KINDS
from wasm_sandbox.worker import engines
from wasm_sandbox.worker.engines import wasmtime as package
from wasm_sandbox.worker.engines.interface import (
    CallLimits,
    CompileSettings,
    EngineRefusal,
    GuestExit,
    GuestTrap,
    LoadedModule,
    RunSettings,
)
from wasm_sandbox.worker.engines.wasmtime import verify

PAGE = 65536
FORCED = "forced by a test"

ARITHMETIC = """(module
  (memory (export "memory") 1 4)
  (global $calls (mut i32) (i32.const 0))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "count") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 10)))
    (i32.add (global.get $calls) (i32.load (i32.const 0))))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "mixed") (param i64 f32 f64 i32) (result f64 i64 i32 f32)
    (local.get 2) (local.get 0) (local.get 3) (local.get 1))
  (func (export "nothing")))"""


@pytest.fixture(scope="module", params=["raw", "public"])
def stage(request: pytest.FixtureRequest) -> Bench:
    """An engine, through its C interface and through its public binding."""
    return bench(fault="" if request.param == "raw" else FORCED)


@pytest.fixture(scope="module")
def arithmetic(stage: Bench) -> LoadedModule:
    return stage.load(ARITHMETIC)


# --- values --------------------------------------------------------------------------------------


def test_a_call_returns_what_the_guest_computed(arithmetic: LoadedModule) -> None:
    assert number(arithmetic.call("add", slots(2, -5), LIMITS).slots) == -3
    assert arithmetic.call("nothing", b"", LIMITS).slots == b""


def test_every_call_has_a_fresh_instance(arithmetic: LoadedModule) -> None:
    assert [number(arithmetic.call("count", b"", LIMITS).slots) for _ in range(3)] == [11, 11, 11]


def test_several_values_of_all_scalar_types_cross(arithmetic: LoadedModule) -> None:
    given = slots(-(1 << 62), struct.pack("<f", 1.5), struct.pack("<d", -2.25), 7)
    answer = arithmetic.call("mixed", given, LIMITS).slots
    assert struct.unpack("<d8xq8xi12xf12x", answer) == (-2.25, -(1 << 62), 7, 1.5)


def test_vectors_and_nan_payloads_keep_every_bit() -> None:
    stage = bench()
    module = stage.load(
        """(module
          (func (export "v") (param v128) (result v128) (local.get 0))
          (func (export "f") (param f32) (result f32) (local.get 0))
          (func (export "d") (param f64) (result f64) (local.get 0)))"""
    )
    vector = bytes(range(16))
    assert module.call("v", vector, LIMITS).slots == vector
    signalling = 0x7FA00001
    assert number(module.call("f", slots(signalling), LIMITS).slots) == signalling
    wide = 0x7FF4000000000123
    assert number(module.call("d", slots(wide), LIMITS).slots, size=8) == wide


@pytest.mark.parametrize("kind", ["funcref", "externref", "anyref", "exnref", "(ref null 0)"])
def test_reference_values_are_refused_by_name(stage: Bench, kind: str) -> None:
    module = stage.load(
        f'(module (type (struct)) (func (export "f") (param {kind})) (func (export "ok")))'
    )
    with pytest.raises(EngineRefusal, match="reference types") as refusal:
        module.call("f", slots(0), LIMITS)
    assert refusal.value.kind == "signature"
    assert kind in refusal.value.hint
    module.call("ok", b"", LIMITS)


def test_the_public_path_refuses_vectors_instead_of_aborting() -> None:
    module = bench(fault=FORCED).load('(module (func (export "f") (param v128)))')
    with pytest.raises(EngineRefusal, match="v128") as refusal:
        module.call("f", slots(0), LIMITS)
    assert FORCED in refusal.value.hint


@pytest.mark.parametrize("given", [0, 1, 3])
def test_a_wrong_number_of_arguments_is_refused(arithmetic: LoadedModule, given: int) -> None:
    with pytest.raises(EngineRefusal, match="takes 2 arguments") as refusal:
        arithmetic.call("add", slots(*range(given)), LIMITS)
    assert refusal.value.kind == "signature"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ad", "did you mean add"), ("memory", ""), ("", "exports"), ("\0é", "exports")],
)
def test_a_missing_export_is_named_with_what_is_close(
    arithmetic: LoadedModule, name: str, hint: str
) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        arithmetic.call(name, b"", LIMITS)
    assert refusal.value.kind == "missing_export"
    assert hint in refusal.value.hint


def test_export_names_may_be_any_text(stage: Bench) -> None:
    module = stage.load(r'(module (func (export "a\00b\c3\a9") (result i32) (i32.const 3)))')
    assert number(module.call("a\0bé", b"", LIMITS).slots) == 3


# --- traps ---------------------------------------------------------------------------------------

TRAPS = """(module $guest
  (memory 1) (table 2 funcref) (elem (i32.const 1) $unreachable)
  (type $other (func (param i32)))
  (func $inner unreachable)
  (func $unreachable (export "unreachable") call $inner)
  (func (export "integer_division_by_zero") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "integer_overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))
  (func (export "bad_conversion_to_integer") (drop (i32.trunc_f32_s (f32.const nan))))
  (func (export "memory_out_of_bounds") (drop (i32.load (i32.const -1))))
  (func (export "table_out_of_bounds") (drop (table.get (i32.const 9))))
  (func (export "indirect_call_to_null") (call_indirect (i32.const 0)))
  (func (export "bad_signature") (call_indirect (type $other) (i32.const 0) (i32.const 1)))
  (func $deep (export "stack_overflow") (call $deep) (call $deep))
  (func (export "null_reference") (call_ref $other (i32.const 0) (ref.null $other)))
  (tag $thrown (param i32))
  (func (export "uncaught_exception") (throw $thrown (i32.const 5))))"""


@pytest.mark.parametrize(
    "code",
    [
        "unreachable",
        "integer_division_by_zero",
        "integer_overflow",
        "bad_conversion_to_integer",
        "memory_out_of_bounds",
        "table_out_of_bounds",
        "indirect_call_to_null",
        "bad_signature",
        "stack_overflow",
        "null_reference",
        "uncaught_exception",
    ],
)
def test_traps_are_told_apart(stage: Bench, code: str) -> None:
    module = stage.load(TRAPS)
    for _ in range(2):
        with pytest.raises(GuestTrap) as trap:
            module.call(code, b"", LIMITS)
        assert trap.value.code == code
        assert "backtrace" not in trap.value.message
        assert trap.value.backtrace


def test_a_trap_carries_the_guests_backtrace(stage: Bench) -> None:
    with pytest.raises(GuestTrap) as trap:
        stage.load(TRAPS).call("unreachable", b"", LIMITS)
    frames = trap.value.backtrace
    assert [(frame.function, frame.name) for frame in frames] == [(0, "inner"), (1, "unreachable")]
    assert all(frame.offset for frame in frames)


def test_offsets_are_those_of_the_guests_own_binary(stage: Bench) -> None:
    # The memory that is not exported makes the compiler add exports before the code.
    plain = '(module (memory 1 1) (func (export "f") unreachable))'
    offsets: list[int | None] = []
    for source in (plain, plain.replace("(memory 1 1)", "(memory 1 2)")):
        with pytest.raises(GuestTrap) as trap:
            stage.load(source).call("f", b"", LIMITS)
        offsets.append(trap.value.backtrace[0].offset)
    assert offsets[0] == offsets[1]


def test_memory_is_measured_though_it_is_not_exported(stage: Bench) -> None:
    module = stage.load(
        """(module (memory 1) (memory $b 2) (table 1 funcref)
          (func (export "grow") (result i32) (memory.grow $b (i32.const 3))))"""
    )
    assert module.call("grow", b"", LIMITS).measured.memory == 6 * PAGE
    with pytest.raises(EngineRefusal, match="no function"):
        module.call("\0memory 0", b"", LIMITS)


def test_a_trap_in_the_start_function_is_the_calls_trap(stage: Bench) -> None:
    module = stage.load('(module (func $s unreachable) (start $s) (func (export "f")))')
    with pytest.raises(GuestTrap, match="unreachable"):
        module.call("f", b"", LIMITS)


def test_guest_names_cannot_make_messages_large(stage: Bench) -> None:
    name = "n" * 50_000
    module = stage.load(f'(module (func ${name} (export "f") unreachable))')
    with pytest.raises(GuestTrap) as trap:
        module.call("f", b"", LIMITS)
    assert len(trap.value.backtrace[0].name or "") <= 200
    with pytest.raises(EngineRefusal) as refusal:
        module.call(name, b"", LIMITS)
    assert len(str(refusal.value)) < 1500


def test_initialize_runs_first_and_only_once(stage: Bench) -> None:
    module = stage.load(
        """(module (global $g (mut i32) (i32.const 1))
          (func (export "_initialize") (global.set $g (i32.mul (global.get $g) (i32.const 7))))
          (func (export "read") (result i32) (global.get $g)))"""
    )
    assert number(module.call("read", b"", LIMITS).slots) == 7
    assert module.call("_initialize", b"", LIMITS).slots == b""


# --- fuel ----------------------------------------------------------------------------------------

SPIN = """(module
  (func (export "spin") (loop (br 0)))
  (func (export "short") (result i32) (i32.const 1)))"""
BOTH = pytest.mark.parametrize("fault", ["", FORCED], ids=["raw", "public"])


@BOTH
def test_fuel_is_counted_and_runs_out(fault: str) -> None:
    module = bench(RunSettings(fuel=True), fault).load(SPIN)
    limits = CallLimits(memory=MIB, table_elements=10, fuel=10_000)
    used = module.call("short", b"", limits).measured.fuel
    assert used is not None
    assert 0 < used < 100
    assert module.call("short", b"", limits).measured.fuel == used  # deterministic
    with pytest.raises(GuestTrap) as trap:
        module.call("spin", b"", limits)
    assert trap.value.code == "out_of_fuel"
    assert trap.value.measured.fuel == 10_000
    assert module.call("short", b"", CallLimits(memory=MIB, table_elements=1)).measured.fuel == used


@BOTH
def test_the_start_function_burns_the_calls_fuel(fault: str) -> None:
    module = bench(RunSettings(fuel=True), fault).load(
        '(module (func $s (loop (br 0))) (start $s) (func (export "f")))'
    )
    with pytest.raises(GuestTrap) as trap:
        module.call("f", b"", CallLimits(memory=MIB, table_elements=10, fuel=1000))
    assert trap.value.code == "out_of_fuel"


@BOTH
def test_fuel_where_nothing_counts_it_is_refused_not_ignored(fault: str) -> None:
    module = bench(fault=fault).load(SPIN)
    with pytest.raises(EngineRefusal, match="do not count fuel"):
        module.call("short", b"", CallLimits(memory=MIB, table_elements=10, fuel=1000))


# --- interrupts ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("where", ["call", "start"])
def test_a_running_guest_is_stopped_from_another_thread(fault: str, where: str) -> None:
    stage = bench(fault=fault)
    source = SPIN
    if where == "start":
        source = '(module (func $s (loop (br 0))) (start $s) (func (export "spin")))'
    module = stage.load(source)
    timer = threading.Timer(0.05, stage.engine.interrupt)
    timer.start()
    with pytest.raises(GuestTrap) as trap:
        module.call("spin", b"", LIMITS)
    timer.join()
    assert trap.value.code == "interrupt"


@BOTH
def test_an_interrupt_before_the_first_instruction_is_not_lost(fault: str) -> None:
    stage = bench(fault=fault)
    module = stage.load(SPIN)
    stage.engine.interrupt()
    with pytest.raises(GuestTrap) as trap:
        module.call("spin", b"", LIMITS)
    assert trap.value.code == "interrupt"
    stage.engine.arm()
    assert number(module.call("short", b"", LIMITS).slots) == 1


def test_python_runs_while_a_guest_does(stage: Bench) -> None:
    module = stage.load(SPIN)
    ticks: list[int] = []
    stopped = threading.Event()

    def work() -> None:
        ticks.extend(range(100_000))
        while not stopped.wait(0.01):  # the first may come before the call begins
            stage.engine.increment_epoch()

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(GuestTrap):
        module.call("spin", b"", LIMITS)
    stopped.set()
    thread.join()
    assert len(ticks) == 100_000


# --- memory and tables ---------------------------------------------------------------------------


def limits(memory: int = MIB, table_elements: int = 100) -> CallLimits:
    return CallLimits(memory=memory, table_elements=table_elements)


def test_memory_grows_to_the_limit_and_no_further(arithmetic: LoadedModule) -> None:
    assert number(arithmetic.call("grow", slots(1), limits(2 * PAGE)).slots) == 1
    assert number(arithmetic.call("grow", slots(2), limits(2 * PAGE)).slots) == -1
    assert arithmetic.call("grow", slots(1), limits(2 * PAGE)).measured.memory == 2 * PAGE


def test_a_minimum_over_the_limit_is_refused_with_both_numbers(arithmetic: LoadedModule) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        arithmetic.call("nothing", b"", limits(PAGE - 1))
    found = refusal.value
    assert (found.kind, found.used, found.allowed) == ("memory_limit", PAGE, PAGE - 1)


MEMORIES = """(module
  (memory $a (export "a") 1) (memory $b (export "b") 2) (memory $c (export "c") 1 1)
  (func (export "fill") (result i32)
    (loop $l (br_if $l (i32.ge_s (memory.grow $a (i32.const 1)) (i32.const 0))))
    (loop $l (br_if $l (i32.ge_s (memory.grow $b (i32.const 1)) (i32.const 0))))
    (i32.add (memory.size $a) (i32.add (memory.size $b) (memory.size $c)))))"""


@pytest.mark.parametrize("pages", [4, 5, 6, 9, 100])
def test_the_memory_limit_is_for_all_memories_together(stage: Bench, pages: int) -> None:
    answer = stage.load(MEMORIES).call("fill", b"", limits(pages * PAGE))
    assert pages - 1 <= number(answer.slots) <= pages
    assert answer.measured.memory == number(answer.slots) * PAGE


def test_a_large_beginning_beside_a_growing_memory_keeps_the_limit(stage: Bench) -> None:
    module = stage.load(
        """(module (memory $a 100) (memory $b 0)
          (func (export "fill") (result i32)
            (loop $l (br_if $l (i32.ge_s (memory.grow $b (i32.const 1)) (i32.const 0))))
            (loop $l (br_if $l (i32.ge_s (memory.grow $a (i32.const 1)) (i32.const 0))))
            (i32.add (memory.size $a) (memory.size $b))))"""
    )
    answer = module.call("fill", b"", limits(103 * PAGE))
    assert number(answer.slots) == 103
    assert answer.measured.memory == 103 * PAGE


def test_the_gc_heap_counts_as_memory(stage: Bench) -> None:
    module = stage.load(
        """(module (type $node (struct (field i64) (field (ref null $node))))
          (memory (export "memory") 0)
          (func (export "hoard") (local (ref null $node))
            (loop $l
              (local.set 0 (struct.new $node (i64.const 1) (local.get 0)))
              (br $l)))
          (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
    )
    with pytest.raises((EngineRefusal, GuestTrap)) as failure:
        module.call("hoard", b"", limits(4 * MIB))
    assert isinstance(failure.value, EngineRefusal)
    assert failure.value.kind == "memory_limit"
    half = 2 * MIB // PAGE
    assert number(module.call("grow", slots(half), limits(4 * MIB)).slots) == 0
    assert number(module.call("grow", slots(half + 1), limits(4 * MIB)).slots) == -1


def test_the_table_limit_is_for_all_tables_together(stage: Bench) -> None:
    module = stage.load(
        """(module (table $a 1 funcref) (table $b 2 funcref)
          (func (export "fill") (result i32)
            (loop $l (br_if $l (i32.ge_s
              (table.grow $a (ref.null func) (i32.const 1)) (i32.const 0))))
            (loop $l (br_if $l (i32.ge_s
              (table.grow $b (ref.null func) (i32.const 1)) (i32.const 0))))
            (i32.add (table.size $a) (table.size $b))))"""
    )
    assert number(module.call("fill", b"", limits(table_elements=11)).slots) == 10
    with pytest.raises(EngineRefusal) as refusal:
        module.call("fill", b"", limits(table_elements=2))
    assert (refusal.value.kind, refusal.value.used, refusal.value.allowed) == ("table_limit", 3, 2)


@pytest.mark.parametrize(
    "source",
    [
        " ".join(["(memory 1)"] * 40),
        " ".join(["(table 1 funcref)"] * 40),
        "(memory i64 1)",
        "(table 2000000 funcref)",
    ],
    ids=["memories", "tables", "memory64", "a large table"],
)
def test_modules_that_no_pool_slot_fits_run_all_the_same(stage: Bench, source: str) -> None:
    module = stage.load(f'(module {source} (func (export "f") (result i32) (i32.const 4)))')
    wide = CallLimits(memory=64 * MIB, table_elements=3_000_000)
    assert number(module.call("f", b"", wide).slots) == 4


def test_memory64_grows_to_the_limit() -> None:
    module = bench().load(
        """(module (memory (export "memory") i64 1)
          (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0))))"""
    )
    assert number(module.call("grow", slots(15), limits()).slots, size=8) == 1
    assert number(module.call("grow", slots(16), limits()).slots, size=8) == -1


# --- stack ---------------------------------------------------------------------------------------


def depth(settings: RunSettings) -> int:
    module = bench(settings).load(
        """(module (memory (export "memory") 1) (global $deep (export "deep") (mut i32) (i32.const
        0))
          (func $f (param i32) (result i32)
            (if (result i32) (local.get 0)
              (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
              (else (i32.const 0))))
          (export "f" (func $f)))"""
    )
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high + 1) // 2
        try:
            module.call("f", slots(middle), LIMITS)
        except GuestTrap:
            high = middle - 1
        else:
            low = middle
    return low


def test_the_stack_is_as_deep_as_asked() -> None:
    small, large = depth(RunSettings(stack=128 << 10)), depth(RunSettings(stack=4 * MIB))
    assert 20 < large / small < 40


@BOTH
@pytest.mark.parametrize("size", [0, 1, 1 << 40])
def test_a_stack_out_of_range_is_refused_before_the_engine_aborts(fault: str, size: int) -> None:
    with pytest.raises(EngineRefusal, match="stack"):
        bench(RunSettings(stack=size), fault)


# --- loading -------------------------------------------------------------------------------------


def test_what_is_no_artifact_is_refused(stage: Bench) -> None:
    module = stage.load(SPIN)
    for content in (b"", b"\0asm\1\0\0\0", os.urandom(1000)):
        with pytest.raises(EngineRefusal) as refusal:
            load_artifact(stage.engine, content, module.description)
        assert refusal.value.kind == "invalid_module"


def test_artifacts_of_other_settings_are_refused() -> None:
    metered = package.compile_module(SPIN.encode(), CompileSettings(fuel=True), parallel=False)
    with pytest.raises(EngineRefusal, match="fuel"):
        load_artifact(bench().engine, metered.artifact, metered.description)


# --- the way it is called ------------------------------------------------------------------------


def test_the_raw_path_is_verified_and_used() -> None:
    assert package.raw_path_fault() == ""
    engine = package.open_engine(RunSettings())
    assert engine.raw_path
    assert engine.note == ""
    assert engine.name.startswith("wasmtime 50.")


def test_the_fallback_says_why() -> None:
    engine = package.open_engine(RunSettings(), FORCED)
    assert not engine.raw_path
    assert engine.note == FORCED


@pytest.fixture
def installed_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another major version of the engine's package, as it seems."""
    name = "51.0.0"
    monkeypatch.setattr(verify, "installed_version", lambda: name)
    verify.version_fault.cache_clear()
    yield name
    verify.version_fault.cache_clear()


def test_another_major_version_is_not_called_raw(installed_version: str) -> None:
    assert installed_version in package.raw_path_fault()
    engine = package.open_engine(RunSettings())
    assert not engine.raw_path
    assert installed_version in engine.note


def test_warming_up_leaves_a_process_that_may_fork() -> None:
    script = """
        import os, sys, threading
        from wasm_sandbox.worker.engines import wasmtime
        wasmtime.warm_up()
        assert threading.active_count() == 1
        assert len(os.listdir("/proc/self/task")) == 1
        pid = os.fork()
        if pid == 0:
            os._exit(bool(wasmtime.raw_path_fault()))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=150)


def _memory_of_this_process() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _trap(module: LoadedModule) -> None:
    with pytest.raises(GuestTrap):
        module.call("unreachable", b"", LIMITS)


@pytest.mark.parametrize(
    ("source", "work", "times"),
    [
        (ARITHMETIC, lambda module: module.call("add", slots(1, 2), LIMITS), 100_000),
        (TRAPS, _trap, 5_000),
    ],
    ids=["calls", "traps"],
)
def test_calls_leave_nothing_behind(
    source: str, work: Callable[[LoadedModule], object], times: int
) -> None:
    module = bench().load(source)
    for _ in range(times // 10):
        work(module)
    gc.collect()
    before = _memory_of_this_process()
    for _ in range(times):
        work(module)
    gc.collect()
    assert _memory_of_this_process() - before < 2 * MIB


def test_every_kind_of_refusal_is_known_to_the_protocol() -> None:
    kinds = {"memory_limit", "table_limit"}
    for path in Path(engines.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "EngineRefusal"
                and isinstance(node.args[0], ast.Constant)
            ):
                kinds.add(str(node.args[0].value))
    assert len(kinds) > 5
    assert kinds <= KINDS


def test_proc_exit_ends_a_call_with_its_code(stage: Bench) -> None:
    module = stage.load(
        """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (func (export "leave") (call $exit (i32.const 77))))"""
    )
    with pytest.raises(GuestExit) as end:
        module.call("leave", b"", LIMITS)
    assert end.value.code == 77
    assert end.value.measured.memory == PAGE
