"""Components that misbehave are stopped, told apart and bounded; others work together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from component_bench import Guest
from component_texts import ALLOCATOR, OPTIONS
from engine_support import LIMITS, MIB, bench, close_after_module, close_after_test

from wasm_sandbox.protocol.errors import ProtocolError
from wasm_sandbox.protocol.messages import decode_from_worker
from wasm_sandbox.worker.binary_exports import unsigned
from wasm_sandbox.worker.engines.interface import (
    CallLimits,
    EngineRefusal,
    GuestTrap,
    RunSettings,
)

__all__ = ["close_after_module", "close_after_test"]

Load = Callable[[str | bytes], Guest]


@pytest.fixture(scope="module")
def load() -> Load:
    stage = bench()
    return lambda source: Guest(stage, source)


def component(core: str, lifts: str) -> str:
    """A component of one core module ``$i`` without imports."""
    return f"(component (core module $m {core}) (core instance $i (instantiate $m)) {lifts})"


def returning(kind: str, *bytes_at_16: int, realloc: str = "") -> str:
    """A component whose ``f`` gives the value of ``kind`` that lies at 16."""
    data = "".join(f"\\{byte:02x}" for byte in bytes_at_16)
    return component(
        f"""(memory (export "memory") 1) (data (i32.const 16) "{data}")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc or "(i32.const 64)"})
        (func (export "f") (result i32) (i32.const 16))""",
        f"""(type $named {kind}) (export $k "k" (type $named))
        (func (export "f") (result $k) (canon lift (core func $i "f") {OPTIONS}))""",
    )


def word(number: int) -> tuple[int, ...]:
    return tuple(number.to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("(tuple string)", (*word(0xFFFF), *word(2)), "not inside"),
        ("(tuple string)", (*word(0xFFFFFFFF), *word(0xFFFFFFFF)), "a string of|not inside"),
        ("(tuple string)", (*word(32), *word(1), *word(0), *word(0), 0xFF), "not utf-8"),
        ("(list u64)", (*word(4), *word(1)), "not aligned"),
        ("(list u64)", (*word(8), *word(0xFFFFFFFF)), "not inside"),
        ("(list bool)", (*word(0), *word(0xFFFFFFFF)), "not inside"),
        ("(tuple char u8)", word(0xD800), "no character"),
        ("(tuple char u8)", word(0x110000), "no character"),
        ("(option u8)", (2,), "case 2"),
        ("(result u8)", (255,), "case 255"),
        ('(variant (case "a" u8) (case "b"))', (2,), "case 2"),
    ],
)
def test_a_result_that_is_none_of_its_type_is_a_bad_result(
    load: Load, kind: str, content: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(EngineRefusal, match=reason) as caught:
        load(returning(kind, *content)).call("f")
    assert caught.value.kind == "bad_result"


def test_an_enum_out_of_range_is_a_bad_result(load: Load) -> None:
    guest = load(
        component(
            '(func (export "f") (result i32) (i32.const 3))',
            """(type $named (enum "a" "b")) (export $k "k" (type $named))
            (func (export "f") (result $k) (canon lift (core func $i "f")))""",
        )
    )
    with pytest.raises(EngineRefusal, match="case 3") as caught:
        guest.call("f")
    assert caught.value.kind == "bad_result"


@pytest.mark.parametrize("place", [0xFFFFFFF0, 65535, 3])
def test_an_allocator_that_lies_is_a_bad_result(load: Load, place: int) -> None:
    guest = load(
        component(
            f"""(memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const {place}))
            (func (export "f") (param i32 i32))""",
            f'(func (export "f") (param "a" (list u16)) (canon lift (core func $i "f") {OPTIONS}))',
        )
    )
    with pytest.raises(EngineRefusal, match=r"not inside|not aligned") as caught:
        guest.call("f", [1, 2, 3])
    assert caught.value.kind == "bad_result"


@pytest.mark.parametrize("kind", ["(list (list bool))", "(list (list u8))", "(list string)"])
def test_lists_that_overlap_cannot_grow_beyond_the_output(load: Load, kind: str) -> None:
    """Each of 8000 elements is the same 32 KiB: a quarter of a gigabyte out of one page."""
    guest = load(
        component(
            """(memory (export "memory") 2)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "f") (result i32) (local $at i32)
              (loop $more
                (i32.store (i32.add (local.get $at) (i32.const 65536)) (i32.const 0))
                (i32.store (i32.add (local.get $at) (i32.const 65540)) (i32.const 32768))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $more (i32.lt_u (local.get $at) (i32.const 64000))))
              (i32.store (i32.const 131064) (i32.const 65536))
              (i32.store (i32.const 131068) (i32.const 8000))
              (i32.const 131064))""",
            f'(func (export "f") (result {kind}) (canon lift (core func $i "f") {OPTIONS}))',
        )
    )
    with pytest.raises(EngineRefusal) as caught:
        guest.call("f", limits=CallLimits(memory=MIB, table_elements=10, output=4 * MIB))
    assert (caught.value.kind, caught.value.allowed) == ("output_limit", 4 * MIB)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer_division_by_zero"),
        ("(drop (i32.load (i32.const -1)))", "memory_out_of_bounds"),
        ("(call $f)", "stack_overflow"),
    ],
)
def test_traps_keep_their_codes(load: Load, body: str, code: str) -> None:
    guest = load(
        component(
            f'(memory 1) (func $f (export "f") {body})',
            '(func (export "f") (canon lift (core func $i "f")))',
        )
    )
    with pytest.raises(GuestTrap) as caught:
        guest.call("f")
    assert caught.value.code == code


@pytest.mark.parametrize("where", ["realloc", "post-return", "start"])
def test_an_endless_loop_anywhere_is_interrupted(where: str) -> None:
    stage = bench()
    loops = {
        name: "(loop $l (br $l))" if name == where else ""
        for name in ("realloc", "post-return", "start")
    }
    guest = Guest(
        stage,
        component(
            f"""(memory (export "memory") 1)
            (func $start {loops["start"]}) (start $start)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
              {loops["realloc"]} (i32.const 64))
            (func (export "post-return") {loops["post-return"]})
            (func (export "f") (param i32 i32))""",
            f"""(func (export "f") (param "a" string)
              (canon lift (core func $i "f") {OPTIONS} (post-return
                (core func $i "post-return"))))""",
        ),
    )
    stage.engine.arm()
    timer = threading.Timer(0.2, stage.engine.interrupt)
    timer.start()
    with pytest.raises(GuestTrap) as caught:
        guest.call("f", "text")
    timer.join()
    assert caught.value.code == "interrupt"
    stage.engine.arm()


def test_fuel_is_counted_over_all_that_a_call_runs() -> None:
    stage = bench(RunSettings(fuel=True))
    guest = Guest(
        stage,
        component(
            f'{ALLOCATOR} (func (export "f") (param i32 i32) (loop $l (br $l)))',
            f'(func (export "f") (param "a" string) (canon lift (core func $i "f") {OPTIONS}))',
        ),
    )
    with pytest.raises(GuestTrap) as caught:
        guest.call("f", "x", limits=CallLimits(memory=MIB, table_elements=10, fuel=10_000))
    assert caught.value.code == "out_of_fuel"
    assert caught.value.measured.fuel == 10_000


def test_memory_is_bounded_over_all_core_instances(load: Load) -> None:
    """Two memories of one page each that may grow: neither gets what both may have together."""
    guest = load("""
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "grow") (result i32) (local $n i32)
      (loop $more
        (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
          (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $more))))
      (local.get $n)))
  (core instance $a (instantiate $m))
  (core instance $b (instantiate $m))
  (core module $both
    (import "a" "grow" (func $a (result i32)))
    (import "b" "grow" (func $b (result i32)))
    (func (export "f") (result i32) (i32.add (call $a) (call $b))))
  (core instance $i (instantiate $both (with "a" (instance $a)) (with "b" (instance $b))))
  (func (export "f") (result u32) (canon lift (core func $i "f"))))
""")
    assert guest.call("f", limits=CallLimits(memory=MIB, table_elements=10)) == 14
    with pytest.raises(EngineRefusal) as caught:
        guest.call("f", limits=CallLimits(memory=65536, table_elements=10))
    assert caught.value.kind == "memory_limit"


# --- components in components --------------------------------------------------------------------

COUNTER = """
  (component $counter
    (core module $memory
      (global $dropped (mut i32) (i32.const 0))
      (func (export "dtor") (param i32) (global.set $dropped (i32.add (global.get $dropped)
        (local.get 0))))
      (func (export "dropped") (result i32) (global.get $dropped)))
    (core instance $d (instantiate $memory))
    (type $r (resource (rep i32) (dtor (core func $d "dtor"))))
    (export $res "counter" (type $r))
    (core func $new (canon resource.new $r))
    (core func $rep (canon resource.rep $r))
    (core module $m
      (import "" "new" (func $new (param i32) (result i32)))
      (import "" "rep" (func $rep (param i32) (result i32)))
      (func (export "make") (param i32) (result i32) (call $new (local.get 0)))
      (func (export "get") (param i32) (result i32) (local.get 0))
      (func (export "eat") (param i32) (result i32) (call $rep (local.get 0))))
    (core instance $i (instantiate $m
      (with "" (instance (export "new" (func $new)) (export "rep" (func $rep))))))
    (func (export "[constructor]counter") (param "value" u32) (result (own $res))
      (canon lift (core func $i "make")))
    (func (export "[method]counter.get") (param "self" (borrow $res)) (result u32)
      (canon lift (core func $i "get")))
    (func (export "eat") (param "it" (own $res)) (result u32)
      (canon lift (core func $i "eat")))
    (func (export "dropped") (result u32) (canon lift (core func $d "dropped"))))
"""
"""A component with a resource; ``eat`` takes one away and keeps it."""


def using_counter(body: str) -> str:
    """A component around ``COUNTER`` whose ``f`` is ``body``, on core functions of its names."""
    names = ["[constructor]counter", "[method]counter.get", "eat", "dropped"]
    lowered = "".join(
        f'(core func $l{at} (canon lower (func $c "{name}")))' for at, name in enumerate(names)
    )
    return f"""
(component {COUNTER}
  (instance $c (instantiate $counter))
  (alias export $c "counter" (type $res))
  (core func $drop (canon resource.drop $res))
  {lowered}
  (core module $m
    (import "" "make" (func $make (param i32) (result i32)))
    (import "" "get" (func $get (param i32) (result i32)))
    (import "" "eat" (func $eat (param i32) (result i32)))
    (import "" "dropped" (func $dropped (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (func (export "f") (result i32) (local $h i32) {body}))
  (core instance $i (instantiate $m (with "" (instance
    (export "make" (func $l0)) (export "get" (func $l1)) (export "eat" (func $l2))
    (export "dropped" (func $l3)) (export "drop" (func $drop))))))
  (func (export "f") (result u32) (canon lift (core func $i "f"))))
"""


def test_resources_go_between_components_and_are_destroyed(load: Load) -> None:
    guest = load(
        using_counter("""
    (local.set $h (call $make (i32.const 40)))
    (drop (call $get (local.get $h)))
    (call $drop (local.get $h))
    (i32.add (call $dropped) (call $eat (call $make (i32.const 2))))""")
    )
    assert guest.call("f") == 42


MADE = "(local.set $h (call $make (i32.const 1)))"


@pytest.mark.parametrize(
    "body",
    [
        "(call $get (i32.const 7))",
        "(call $get (i32.const 0))",
        MADE + "(call $drop (local.get $h)) (call $get (local.get $h))",
        MADE + "(drop (call $eat (local.get $h))) (call $get (local.get $h))",
        MADE + "(call $drop (local.get $h)) (call $drop (local.get $h)) (i32.const 0)",
    ],
    ids=["none", "zero", "dropped", "given away", "dropped twice"],
)
def test_a_handle_that_is_none_is_a_trap(load: Load, body: str) -> None:
    with pytest.raises(GuestTrap, match="no handle") as caught:
        load(using_counter(body)).call("f")
    assert caught.value.code == "bad_value"


def test_handles_are_bounded(load: Load) -> None:
    guest = load(
        using_counter("(loop $more (drop (call $make (i32.const 1))) (br $more)) (i32.const 0)")
    )
    with pytest.raises(GuestTrap, match=r"more than .* handles"):
        guest.call("f")


def test_an_allocator_may_not_call_outside(load: Load) -> None:
    guest = load("""
(component
  (component $inner
    (core module $m (func (export "g")))
    (core instance $i (instantiate $m))
    (func (export "g") (canon lift (core func $i "g"))))
  (instance $c (instantiate $inner))
  (core func $g (canon lower (func $c "g")))
  (core module $m
    (import "" "g" (func $g))
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (call $g) (i32.const 64))
    (func (export "f") (param i32 i32)))
  (core instance $i (instantiate $m (with "" (instance (export "g" (func $g))))))
  (func (export "f") (param "a" string)
    (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc
      (core func $i "realloc")))))
""")
    with pytest.raises(GuestTrap) as caught:
        guest.call("f", "x")
    assert caught.value.code == "cannot_leave_component"


def test_text_goes_from_one_component_into_another(load: Load) -> None:
    guest = load(f"""
(component
  (component $inner
    (core module $m {ALLOCATOR}
      (func (export "same") (param i32 i32) (result i32)
        (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1))
          (i32.const 16)))
    (core instance $i (instantiate $m))
    (func (export "same") (param "a" string) (result string)
      (canon lift (core func $i "same") {OPTIONS} string-encoding=utf16)))
  (instance $c (instantiate $inner))
  (core module $memory {ALLOCATOR})
  (core instance $i (instantiate $memory))
  (core func $same (canon lower (func $c "same") {OPTIONS}))
  (core module $m
    (import "" "same" (func $same (param i32 i32 i32)))
    (func (export "f") (param i32 i32) (result i32)
      (call $same (local.get 0) (local.get 1) (i32.const 32)) (i32.const 32)))
  (core instance $f (instantiate $m (with "" (instance (export "same" (func $same))))))
  (func (export "f") (param "a" string) (result string) (canon lift (core func $f "f") {OPTIONS})))
""")
    assert guest.call("f", "größer 𝄞") == "größer 𝄞"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        ('(component (import "f" (func)))', None, ""),
        (
            '(component (import "f" (func $f)) (core func $l (canon lower (func $f))))',
            "missing_import",
            "f",
        ),
        (
            """(component (import "wasi:http/types@0.3.0" (instance $h (export "f" (func))))
            (alias export $h "f" (func $f)) (core func $l (canon lower (func $f))))""",
            "missing_import",
            "wasi:http",
        ),
        ('(component (import "m" (core module)))', "unsupported_module", "core module"),
        (b"\0asm\x0d\0\1\0\1\5", "invalid_module", "."),
        ("(component (core module (func unreachable drop (i32.add))))", "invalid_module", "."),
    ],
)
def test_what_cannot_be_linked_is_refused_with_its_name(
    load: Load, source: str, kind: str | None, reason: str
) -> None:
    if kind is None:
        load(source)
        return
    with pytest.raises(EngineRefusal, match=reason) as caught:
        load(source)
    assert caught.value.kind == kind


def test_a_component_without_end_is_refused(load: Load) -> None:
    """Each component instantiates the one before it ten times: 10**6 core instances in 1 KiB."""
    text = "(component $c0 (core module $m) (core instance (instantiate $m)))"
    for level in range(1, 7):
        inner = "".join(f"(instance (instantiate $c{level - 1}))" for _ in range(10))
        text = f"(component $c{level} {text} {inner})"
    with pytest.raises(EngineRefusal, match="core instances") as caught:
        load(text.replace("(component $c6", "(component", 1))
    assert caught.value.kind == "unsupported_module"


def test_components_nested_without_end_are_refused(load: Load) -> None:
    data = b"\0asm\x0d\0\1\0"
    for _ in range(5000):
        data = b"\0asm\x0d\0\1\0\4" + unsigned(len(data)) + data
    with pytest.raises(EngineRefusal, match="nested") as caught:
        load(data)
    assert caught.value.kind == "invalid_module"


@pytest.mark.parametrize(
    "types",
    [
        [["list", 0]],
        [["list", 1], ["list", "u8"]],
        [["list", -1]],
        [["list", "u9"]],
        [["own", 0]],
        [["list", "u8"], *[["list", at] for at in range(200)]],
    ],
    ids=["itself", "a later one", "none", "unknown", "no resource", "too deep"],
)
def test_a_description_of_impossible_types_is_a_breach(types: list[Any]) -> None:
    """A compiler is in the guest's hands: what it describes is checked before anyone follows it."""
    import msgspec

    world = [types, [""] * len(types), [], [], []]
    description = [[], [], [], [], False, False, [], 0, 0, [world, b""]]
    body = msgspec.msgpack.encode([[43, 1, description, 0.0]])
    with pytest.raises(ProtocolError):
        decode_from_worker(body)


def test_limits_are_those_of_every_module() -> None:
    assert LIMITS.output >= MIB
