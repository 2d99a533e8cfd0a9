"""The buffer convention: bytes into the guest's memory and out of it, whatever the guest
answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from engine_support import LIMITS, MIB, Bench, bench, number, slots
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_sandbox.worker.engines.interface import (
    Argument,
    BufferArgument,
    CallLimits,
    EngineRefusal,
    GuestTrap,
    LoadedModule,
    ReturnMode,
)

PAGE = 65536
FORCED = "forced by a test"

# A bump allocator that grows the memory; ``frees`` counts what was freed, ``echo`` returns its
# argument packed, ``pair`` as a pair, ``joined`` a copy of both.
GUEST = """(module
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 16))
  (func $alloc (export "alloc") (param $size i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $size)))
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
      (then (if (i32.lt_s (memory.grow (i32.add (i32.const 1)
          (i32.shr_u (i32.sub (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
            (i32.const 16)))) (i32.const 0))
        (then (return (i32.const 0))))))
    (local.get $at))
  (func $pack (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1))))
  (func (export "echo") (param i32 i32) (result i64) (call $pack (local.get 0) (local.get 1)))
  (func (export "pair") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1))
  (func (export "joined")
      (param $a i32) (param $an i32) (param $k i64) (param $b i32) (param $bn i32)
      (result i64) (local $at i32)
    (local.set $at (call $alloc (i32.add (local.get $an) (local.get $bn))))
    (memory.copy (local.get $at) (local.get $a) (local.get $an))
    (memory.copy (i32.add (local.get $at) (local.get $an)) (local.get $b) (local.get $bn))
    (call $pack (local.get $at) (i32.add (local.get $an) (local.get $bn))))
  (func (export "length") (param i32 i32) (result i32) (local.get 1))
  (func (export "anything") (param i64) (result i64) (local.get 0))
  (func (export "trap") (param i32 i32) (result i64) unreachable))"""


@pytest.fixture(scope="module", params=["raw", "public"])
def stage(request: pytest.FixtureRequest) -> Bench:
    return bench(fault="" if request.param == "raw" else FORCED)


@pytest.fixture(scope="module")
def guest(stage: Bench) -> LoadedModule:
    return stage.load(GUEST)


def given_bytes(data: bytes) -> BufferArgument:
    """An argument that copies ``data`` in, in two pieces."""

    def fill(target: memoryview) -> None:
        half = len(data) // 2
        target[:half] = data[:half]
        target[half:] = data[half:]

    return BufferArgument(size=len(data), fill=fill)


def ask(
    guest: LoadedModule,
    export: str,
    *arguments: bytes,
    returns: str = "buffer",
    limits: CallLimits = LIMITS,
) -> bytes:
    """The buffer that ``export`` returns for these buffers."""
    taken: list[bytes] = []
    guest.call_buffers(
        export,
        [given_bytes(data) for data in arguments],
        limits,
        returns=cast(ReturnMode, returns),
        drain=lambda view: taken.append(bytes(view)),
    )
    assert len(taken) == 1
    return taken[0]


@pytest.mark.parametrize("export", ["echo", "pair"])
@pytest.mark.parametrize("size", [0, 1, 2, 1000, PAGE, 3 * MIB])
def test_bytes_come_back_as_they_went(guest: LoadedModule, export: str, size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(min(size, 4096))) * (size // 4096 or 1)
    assert ask(guest, export, data) == data


def test_buffers_and_numbers_mix(guest: LoadedModule) -> None:
    taken: list[bytes] = []
    arguments: list[Argument] = [given_bytes(b"left "), slots(-3), given_bytes(b"right")]
    guest.call_buffers(
        "joined",
        arguments,
        LIMITS,
        returns="packed",
        drain=lambda view: taken.append(bytes(view)),
    )
    assert taken == [b"left right"]


def test_a_number_can_be_the_result(guest: LoadedModule) -> None:
    answer = guest.call_buffers("length", [given_bytes(b"12345")], LIMITS)
    assert number(answer.slots) == 5
    assert answer.measured.memory == PAGE


def test_a_buffer_larger_than_the_memory_limit_is_a_bad_result(guest: LoadedModule) -> None:
    small = CallLimits(memory=2 * PAGE, table_elements=10)
    with pytest.raises(EngineRefusal, match="answered 0") as refusal:
        ask(guest, "echo", bytes(3 * PAGE), limits=small)
    assert refusal.value.kind == "bad_result"


def test_a_buffer_that_cannot_be_addressed_is_refused(guest: LoadedModule) -> None:
    argument = BufferArgument(size=(1 << 32) + 5, fill=lambda _: None)
    with pytest.raises(EngineRefusal) as refusal:
        guest.call_buffers("echo", [argument], LIMITS, returns="packed")
    assert refusal.value.kind == "memory_limit"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer=st.integers(0, (1 << 64) - 1)
    | st.integers(0, PAGE + 2).map(lambda n: (PAGE - 9 << 32) + n)
)
def test_no_pointer_of_the_guest_is_believed(guest: LoadedModule, answer: int) -> None:
    start, size = answer >> 32, answer & 0xFFFFFFFF
    taken: list[int] = []

    def run() -> None:
        guest.call_buffers(
            "anything",
            [slots(answer)],
            LIMITS,
            returns="packed",
            drain=lambda view: taken.append(len(view)),
        )

    if start + size <= PAGE:
        run()
        assert taken == [size]
    else:
        with pytest.raises(EngineRefusal) as refusal:
            run()
        assert refusal.value.kind == "bad_result"
        assert not taken


@pytest.mark.parametrize("answer", [PAGE - 3, PAGE, 1 << 31, (1 << 32) - 1])
def test_no_pointer_of_alloc_is_believed(stage: Bench, answer: int) -> None:
    module = stage.load(
        f"""(module (memory (export "memory") 1)
          (func (export "alloc") (param i32) (result i32) (i32.const {answer}))
          (func (export "f") (param i32 i32)))"""
    )
    with pytest.raises(EngineRefusal) as refusal:
        module.call_buffers("f", [given_bytes(b"1234")], LIMITS)
    assert refusal.value.kind == "bad_result"


def test_everything_is_freed_once_after_the_result_was_taken(stage: Bench) -> None:
    module = stage.load(
        """(module
          (memory (export "memory") 1)
          (func (export "alloc") (param i32) (result i32) (i32.const 64))
          (func (export "free") (param i32 i32)
            (memory.fill (local.get 0) (i32.const 0) (local.get 1))
            (if (i32.ne (local.get 0) (i32.const 64)) (then unreachable))
            (if (i32.ne (local.get 1) (i32.const 3)) (then unreachable)))
          (func (export "echo") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1)))"""
    )
    assert ask(module, "echo", b"abc") == b"abc"


def test_a_free_of_another_type_is_left_alone(stage: Bench) -> None:
    module = stage.load(
        """(module
          (memory (export "memory") 1)
          (func (export "alloc") (param i32) (result i32) (i32.const 64))
          (func (export "free") (param i32) unreachable)
          (func (export "echo") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1)))"""
    )
    assert ask(module, "echo", b"abc") == b"abc"


def test_memory64_takes_wide_pointers() -> None:
    module = bench().load(
        """(module
          (memory (export "memory") i64 1)
          (func (export "alloc") (param i64) (result i64) (i64.const 64))
          (func (export "echo") (param i64 i64) (result i64 i64) (local.get 0) (local.get 1)))"""
    )
    assert ask(module, "echo", b"wide") == b"wide"


@pytest.mark.parametrize(
    ("source", "kind", "named"),
    [
        ('(func (export "f") (param i32 i32))', "missing_export", "memory"),
        (
            '(memory (export "memory") 1) (func (export "f") (param i32 i32))',
            "missing_export",
            "alloc",
        ),
        (
            (
                '(memory (export "memory") 1) (func (export "f") (param i32 i32))'
                '(func (export "alloc") (param i64) (result i32) (i32.const 0))'
            ),
            "signature",
            "alloc",
        ),
        (
            (
                '(memory (export "memory") 1) (func (export "f") (param i32))'
                '(func (export "alloc") (param i32) (result i32) (i32.const 8))'
            ),
            "signature",
            "takes",
        ),
        (
            (
                '(memory (export "memory") 1) (func (export "f") (param i32 i64))'
                '(func (export "alloc") (param i32) (result i32) (i32.const 8))'
            ),
            "signature",
            "takes",
        ),
        ('(memory (export "memory") 1)', "missing_export", "'f'"),
    ],
)
def test_modules_outside_the_convention_are_refused_before_they_run(
    stage: Bench, source: str, kind: str, named: str
) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        stage.load(f"(module {source})").call_buffers("f", [given_bytes(b"x")], LIMITS)
    assert refusal.value.kind == kind
    assert named in refusal.value.message


@pytest.mark.parametrize(("export", "returns"), [("length", "packed"), ("echo", "pair")])
def test_a_result_of_another_shape_is_refused(
    guest: LoadedModule, export: str, returns: str
) -> None:
    with pytest.raises(EngineRefusal, match="no buffer") as refusal:
        ask(guest, export, b"abc", returns=returns)
    assert refusal.value.kind == "signature"


def test_a_trap_in_between_is_the_calls_trap(guest: LoadedModule) -> None:
    with pytest.raises(GuestTrap):
        ask(guest, "trap", b"abc")


def test_what_a_callback_raises_ends_the_call(guest: LoadedModule) -> None:
    class Expected(Exception):
        pass

    def fail(_: memoryview) -> Iterator[None]:
        raise Expected

    with pytest.raises(Expected):
        guest.call_buffers("echo", [BufferArgument(size=3, fill=fail)], LIMITS)
    with pytest.raises(Expected):
        guest.call_buffers("echo", [given_bytes(b"abc")], LIMITS, returns="packed", drain=fail)
    assert ask(guest, "echo", b"after") == b"after"
