"""Sessions: instances that live on, import from each other, and share their limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_support import MIB, Bench, SessionHost, bench, number, slots
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from suites import Report, Script, load_script, suites_path

from wasm_sandbox.worker.engines import wasmtime as package
from wasm_sandbox.worker.engines.interface import (
    EngineRefusal,
    GuestExit,
    GuestTrap,
    RunSettings,
    Session,
    SessionLimits,
    Wasi,
)

PAGE = 65536
WIDE = SessionLimits(memory=64 * MIB, table_elements=1000, shares=8)

COUNTER = """(module
  (memory (export "memory") 1)
  (global $count (export "count") (mut i32) (i32.const 40))
  (global (export "wide") i64 (i64.const -2))
  (global (export "vector") v128 (v128.const i64x2 1 2))
  (global (export "nan") f32 (f32.const nan:0x200001))
  (global (export "reference") funcref (ref.null func))
  (func (export "increment") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1))) (global.get $count))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "fail") (global.set $count (i32.const 7)) unreachable)
  (tag $t) (func (export "throw") (throw $t))
  (func (export "spin") (loop (br 0)))
  (func (export "same") (param externref) (result externref) (local.get 0)))"""


@pytest.fixture(scope="module")
def stage() -> Bench:
    return bench(RunSettings(stateful=True))


@pytest.fixture
def session(stage: Bench) -> Iterator[Session]:
    made = stage.engine.session(WIDE)
    yield made
    made.close()


def counter(stage: Bench, session: Session) -> int:
    return session.instantiate(stage.load(COUNTER, prepare=False), [])


def test_state_lives_on(stage: Bench, session: Session) -> None:
    instance = counter(stage, session)
    assert [number(session.invoke(instance, "increment", b"").slots) for _ in range(3)] == [
        41,
        42,
        43,
    ]


def test_two_instances_do_not_share(stage: Bench, session: Session) -> None:
    first, second = counter(stage, session), counter(stage, session)
    session.invoke(first, "increment", b"")
    assert number(session.read_global(first, "count")) == 41
    assert number(session.read_global(second, "count")) == 40


def test_globals_are_read_bit_by_bit(stage: Bench, session: Session) -> None:
    instance = counter(stage, session)
    assert number(session.read_global(instance, "wide"), size=8) == -2
    assert session.read_global(instance, "vector") == (1).to_bytes(8, "little") + b"\2" + bytes(7)
    assert number(session.read_global(instance, "nan")) == 0x7FA00001


@pytest.mark.parametrize("kind", ["fail", "throw"])
def test_a_session_outlives_a_trap(stage: Bench, session: Session, kind: str) -> None:
    instance = counter(stage, session)
    for _ in range(2):
        with pytest.raises(GuestTrap):
            session.invoke(instance, kind, b"")
    expected = 8 if kind == "fail" else 41
    assert number(session.invoke(instance, "increment", b"").slots) == expected


def test_a_session_outlives_an_interrupt(stage: Bench, session: Session) -> None:
    instance = counter(stage, session)
    timer = threading.Timer(0.05, stage.engine.interrupt)
    timer.start()
    with pytest.raises(GuestTrap, match="interrupt"):
        session.invoke(instance, "spin", b"")
    timer.join()
    stage.engine.arm()
    assert number(session.invoke(instance, "increment", b"").slots) == 41


def test_fuel_is_given_call_by_call() -> None:
    stage = bench(RunSettings(stateful=True, fuel=True))
    session = stage.engine.session(WIDE)
    instance = session.instantiate(stage.load(COUNTER, prepare=False), [], fuel=1000)
    with pytest.raises(GuestTrap, match="fuel"):
        session.invoke(instance, "spin", b"", fuel=1000)
    answer = session.invoke(instance, "increment", b"", fuel=1000)
    assert number(answer.slots) == 41
    assert answer.measured.fuel
    session.close()


def test_reference_values_are_refused_by_name(stage: Bench, session: Session) -> None:
    instance = counter(stage, session)
    for act in (
        lambda: session.invoke(instance, "same", slots(0)),
        lambda: session.read_global(instance, "reference"),
    ):
        with pytest.raises(EngineRefusal) as refusal:
            act()
        assert refusal.value.kind == "signature"


@pytest.mark.parametrize(
    "act",
    [
        lambda session, at: session.invoke(at, "nothing", b""),
        lambda session, at: session.invoke(at, "memory", b""),
        lambda session, at: session.read_global(at, "increment"),
        lambda session, at: session.read_global(at, "nothing"),
    ],
)
def test_what_is_not_there_is_missing(stage: Bench, session: Session, act: object) -> None:
    assert callable(act)
    with pytest.raises(EngineRefusal) as refusal:
        act(session, counter(stage, session))
    assert refusal.value.kind == "missing_export"


@pytest.mark.parametrize("instance", [-2, 1, 1 << 40])
def test_an_unknown_instance_is_refused(stage: Bench, session: Session, instance: int) -> None:
    counter(stage, session)
    with pytest.raises(EngineRefusal, match="no instance"):
        session.invoke(instance, "increment", b"")


# --- imports -------------------------------------------------------------------------------------

USER = """(module
  (import "a" "increment" (func $increment (result i32)))
  (import "a" "memory" (memory 1))
  (import "a" "count" (global $count (mut i32)))
  (func (export "twice") (result i32) (drop (call $increment)) (call $increment))
  (func (export "poke") (i32.store (i32.const 0) (global.get $count))))"""
BINDINGS = ["increment", "memory", "count"]


def test_instances_import_from_each_other(stage: Bench, session: Session) -> None:
    base = counter(stage, session)
    user = session.instantiate(stage.load(USER, prepare=False), [(base, n) for n in BINDINGS])
    assert number(session.invoke(user, "twice", b"").slots) == 42
    assert number(session.read_global(base, "count")) == 42
    session.invoke(user, "poke", b"")


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["increment"],
        ["increment", "memory", "nothing"],
        ["memory", "memory", "count"],
        ["grow", "memory", "count"],
        ["increment", "memory", "wide"],
    ],
)
def test_bindings_that_do_not_fit_are_unlinkable(
    stage: Bench, session: Session, names: list[str]
) -> None:
    base = counter(stage, session)
    with pytest.raises(EngineRefusal) as refusal:
        session.instantiate(stage.load(USER, prepare=False), [(base, name) for name in names])
    assert refusal.value.kind == "unlinkable"
    assert number(session.invoke(base, "increment", b"").slots) == 41


def test_a_trapping_start_is_a_trap_and_what_it_did_stands(stage: Bench, session: Session) -> None:
    base = counter(stage, session)
    module = stage.load(
        """(module (import "a" "increment" (func $i (result i32)))
          (func $s (drop (call $i)) unreachable) (start $s))""",
        prepare=False,
    )
    with pytest.raises(GuestTrap, match="unreachable"):
        session.instantiate(module, [(base, "increment")])
    assert number(session.read_global(base, "count")) == 41


def test_a_kept_instance_may_have_wasi(stage: Bench) -> None:
    written: list[bytes] = []

    def on_output(_: int, data: bytes) -> bool:
        written.append(data)
        return True

    session = stage.engine.session(WIDE, Wasi(on_output=on_output))
    module = stage.load(
        """(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00\\02\\00\\00\\00hi")
          (func (export "say") (result i32)
            (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
          (func (export "leave") (call $exit (i32.const 300))))""",
        prepare=False,
    )
    instance = session.instantiate(module, None)
    assert number(session.invoke(instance, "say", b"").slots) == 0
    with pytest.raises(GuestExit) as end:
        session.invoke(instance, "leave", b"")
    assert end.value.code == 300
    assert number(session.invoke(instance, "say", b"").slots) == 0
    assert written == [b"hi", b"hi"]
    session.close()


# --- limits --------------------------------------------------------------------------------------


GROWING = """(module (memory 1)
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""


def growing(stage: Bench, session: Session) -> int:
    return session.instantiate(stage.load(GROWING, prepare=False), [])


def test_the_limit_is_for_all_instances_together(stage: Bench) -> None:
    session = stage.engine.session(SessionLimits(memory=10 * PAGE, table_elements=10, shares=2))
    first, second = growing(stage, session), growing(stage, session)
    assert number(session.invoke(first, "grow", slots(4)).slots) == 1
    assert number(session.invoke(second, "grow", slots(4)).slots) == 1
    assert number(session.invoke(first, "grow", slots(1)).slots) == -1
    with pytest.raises(EngineRefusal) as refusal:
        growing(stage, session)
    assert refusal.value.kind == "memory_limit"
    assert number(session.invoke(first, "grow", slots(0)).slots) == 5
    session.close()


@pytest.mark.parametrize("shares", [1, 2, 5])
def test_what_older_instances_have_grown_to_is_never_given_again(stage: Bench, shares: int) -> None:
    session = stage.engine.session(
        SessionLimits(memory=20 * PAGE, table_elements=10, shares=shares)
    )
    instances = [growing(stage, session)]
    sizes = [1]
    while True:
        while number(session.invoke(instances[-1], "grow", slots(1)).slots) >= 0:
            sizes[-1] += 1
        assert sum(sizes) <= 20
        try:
            instances.append(growing(stage, session))
        except EngineRefusal:
            break
        sizes.append(1)
    assert sum(sizes) == 20
    session.close()


def test_what_older_instances_did_not_take_is_left_for_later_ones(stage: Bench) -> None:
    session = stage.engine.session(SessionLimits(memory=20 * PAGE, table_elements=10))
    instances = [growing(stage, session) for _ in range(10)]
    assert [number(session.invoke(i, "grow", slots(1)).slots) for i in instances] == [1] * 10
    assert number(session.invoke(instances[0], "grow", slots(1)).slots) == -1
    session.close()


def test_tables_are_shared_like_memories(stage: Bench) -> None:
    session = stage.engine.session(SessionLimits(memory=PAGE, table_elements=10))
    module = stage.load(
        """(module (table 1 funcref)
          (func (export "grow") (param i32) (result i32)
            (table.grow (ref.null func) (local.get 0))))""",
        prepare=False,
    )
    first = session.instantiate(module, [])
    assert number(session.invoke(first, "grow", slots(5)).slots) == 1
    second = session.instantiate(module, [])
    assert number(session.invoke(second, "grow", slots(3)).slots) == 1
    assert number(session.invoke(first, "grow", slots(1)).slots) == -1
    assert number(session.invoke(second, "grow", slots(1)).slots) == -1
    session.close()


def test_the_memory_of_an_instance_that_never_came_to_be_still_counts(stage: Bench) -> None:
    session = stage.engine.session(SessionLimits(memory=20 * PAGE, table_elements=10, shares=2))
    failing = stage.load("(module (memory 1) (func $s unreachable) (start $s))", prepare=False)
    with pytest.raises(GuestTrap):
        session.instantiate(failing, [])
    instance = growing(stage, session)
    assert number(session.invoke(instance, "grow", slots(9)).slots) == 1
    with pytest.raises(EngineRefusal, match="memory"):
        growing(stage, session)
    session.close()


def test_our_own_exports_cannot_be_bound(stage: Bench, session: Session) -> None:
    base = growing(stage, session)
    user = stage.load('(module (import "a" "b" (memory 1)))', prepare=False)
    with pytest.raises(EngineRefusal) as refusal:
        session.instantiate(user, [(base, "\0memory 0")])
    assert refusal.value.kind == "unlinkable"


def test_all_instances_share_one_gc_heap(stage: Bench, session: Session) -> None:
    for _ in range(20):
        session.instantiate(stage.load("(module (type (struct)) (tag))", prepare=False), [])


def test_an_only_instance_gets_all_of_it(stage: Bench) -> None:
    session = stage.engine.session(SessionLimits(memory=20 * PAGE, table_elements=10))
    instance = growing(stage, session)
    assert number(session.invoke(instance, "grow", slots(19)).slots) == 1
    assert session.invoke(instance, "grow", slots(1)).measured.memory == 20 * PAGE
    session.close()


def test_a_fixed_memory_may_be_larger_than_a_share(stage: Bench) -> None:
    session = stage.engine.session(SessionLimits(memory=10 * PAGE, table_elements=10, shares=5))
    fixed = stage.load('(module (memory (export "memory") 6 6))', prepare=False)
    session.instantiate(fixed, [])
    with pytest.raises(EngineRefusal) as refusal:
        session.instantiate(fixed, [])
    assert (refusal.value.kind, refusal.value.used) == ("memory_limit", 12 * PAGE)
    session.close()


def test_the_fallback_has_no_sessions_and_says_so() -> None:
    engine = package.open_engine(RunSettings(stateful=True), "forced by a test")
    with pytest.raises(EngineRefusal, match="forced by a test"):
        engine.session(WIDE)


# --- the official suite --------------------------------------------------------------------------


def _scripts() -> list[Path]:
    folder = suites_path()
    return sorted((folder / "spec").glob("*.json.gz")) if folder else []


@pytest.mark.suite
@pytest.mark.parametrize("script", _scripts(), ids=lambda path: path.name.removesuffix(".json.gz"))
def test_the_specification_suite_passes(stage: Bench, script: Path) -> None:
    host = SessionHost(stage)
    try:
        report: Report = Script(host).run(load_script(script), script.name.removesuffix(".json.gz"))
    finally:
        host.close()
    assert report.failures == []
    # Nothing is left out but references, which the design does not let across the wall.
    assert all("a reference value" in refused for refused in report.refused)
