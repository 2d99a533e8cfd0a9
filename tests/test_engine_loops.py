"""A trampoline calls a function for one record after another, as the host would."""

from __future__ import annotations

import struct
import threading
from typing import Any

import pytest
from batch_guests import LONG, PURE, STATE
from engine_support import Bench, bench, close_after_module, close_after_test  # noqa: F401

from wasm_sandbox.protocol.batch import most_records, width
from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.protocol.trampoline import source
from wasm_sandbox.worker.engines.interface import (
    CallLimits,
    EngineRefusal,
    GuestTrap,
    LoadedModule,
    RecordLoop,
)

LIMITS = CallLimits(memory=1 << 20, table_elements=100)


@pytest.fixture(scope="module")
def engine() -> Bench:
    return bench()


def loop_of(
    engine: Bench, text: str, export: str, count: int, limits: CallLimits = LIMITS
) -> tuple[RecordLoop, LoadedModule]:
    module = engine.load(text)
    function = module.description.function(export)
    assert function is not None
    trampoline = engine.load(source(function), prepare=False)
    return module.loop(export, trampoline, limits, count), module


CASES: dict[str, tuple[str, list[tuple[Any, ...]], str, list[tuple[Any, ...]]]] = {
    "add": ("ii", [(1, 2), (-5, 3), (2**31 - 1, 1)], "i", [(3,), (-2,), (-(2**31),)]),
    "swap": ("qd", [(1, 0.5), (-2, 1e300)], "dq", [(0.5, 1), (1e300, -2)]),
    "widen": ("fq", [(0.5, 2**32 + 7), (-1.5, -1)], "dif", [(0.5, 7, 0.5), (-1.5, -1, -1.5)]),
    "check": ("i", [(1,), (2,)], "", [(), ()]),
}


def columns(codes: str, rows: list[tuple[Any, ...]]) -> bytes:
    return b"".join(
        struct.pack(f"<{len(rows)}{code}", *(row[at] for row in rows))
        for at, code in enumerate(codes)
    )


@pytest.mark.parametrize("export", CASES)
def test_columns_in_columns_out(engine: Bench, export: str) -> None:
    codes, rows, result_codes, results = CASES[export]
    loop, _ = loop_of(engine, PURE, export, len(rows))
    loop.arguments[:] = columns(codes, rows)
    loop.run(0, len(rows))
    assert bytes(loop.results) == columns(result_codes, results)
    loop.close()


def test_vectors_cross(engine: Bench) -> None:
    loop, _ = loop_of(engine, PURE, "lanes", 2)
    loop.arguments[:] = struct.pack("<8i2i", *range(8), 1, 10)
    loop.run(0, 2)
    assert struct.unpack("<8i", loop.results) == (1, 2, 3, 4, 14, 15, 16, 17)
    loop.close()


def test_part_of_the_records_may_be_run(engine: Bench) -> None:
    loop, _ = loop_of(engine, PURE, "add", 4)
    loop.arguments[:] = struct.pack("<8i", *range(8))
    loop.run(1, 3)
    assert struct.unpack("<4i", loop.results) == (0, 6, 8, 0)
    assert loop.position() == 2
    loop.close()


def test_a_trap_is_the_functions_own_and_the_rest_can_go_on(engine: Bench) -> None:
    loop, module = loop_of(engine, STATE, "div", 4)
    loop.arguments[:] = struct.pack("<8i", 8, 8, 8, 8, 1, 0, 2, 4)
    with pytest.raises(GuestTrap) as caught:
        loop.run(0, 4)
    with pytest.raises(GuestTrap) as alone:
        module.call("div", struct.pack("<q8xq8x", 8, 0), LIMITS)
    assert (caught.value.code, caught.value.message, caught.value.backtrace) == (
        alone.value.code,
        alone.value.message,
        alone.value.backtrace,
    )
    assert loop.position() == 1
    loop.run(2, 4)
    assert struct.unpack("<4i", loop.results) == (8, 0, 4, 2)
    assert loop.measured().memory == 65536
    loop.close()


def test_it_is_interrupted_like_any_call(engine: Bench) -> None:
    loop, _ = loop_of(engine, PURE, "spin", 2)
    loop.arguments[:] = struct.pack("<2i", 1, LONG)
    engine.engine.arm()
    timer = threading.Timer(0.1, engine.engine.interrupt)
    timer.start()
    with pytest.raises(GuestTrap, match="interrupt") as caught:
        loop.run(0, 2)
    timer.join()
    assert caught.value.code == "interrupt"
    assert loop.position() == 1
    loop.close()
    engine.engine.arm()


def test_its_own_memory_is_not_the_guests(engine: Bench) -> None:
    kind = FunctionType(("i32",), ("i32",))
    small = CallLimits(memory=65536, table_elements=0)
    loop, _ = loop_of(engine, STATE, "count", most_records(kind), small)
    assert len(loop.arguments) == most_records(kind) * width(kind.params) > small.memory
    loop.close()
    with pytest.raises(EngineRefusal):
        loop_of(engine, STATE, "count", 1, CallLimits(memory=65535, table_elements=0))


@pytest.mark.parametrize(
    "declared",
    ["(table 1 funcref)", '(func (export "_initialize"))', "(memory 1 1)(table 20000 funcref)"],
)
def test_where_there_can_be_none_it_says_so(engine: Bench, declared: str) -> None:
    text = f'(module {declared} (func (export "f") (param i32) (result i32) (local.get 0)))'
    with pytest.raises(EngineRefusal):
        loop_of(engine, text, "f", 1, CallLimits(memory=1 << 20, table_elements=50_000))


def test_a_function_of_another_type_is_refused(engine: Bench) -> None:
    module = engine.load(PURE)
    trampoline = engine.load(source(FunctionType(("i64",), ())), prepare=False)
    with pytest.raises(EngineRefusal):
        module.loop("add", trampoline, LIMITS, 1)


def test_the_public_path_has_none(engine: Bench) -> None:
    public = bench(fault="for the test")
    module = public.load(PURE)
    with pytest.raises(EngineRefusal):
        module.loop("add", module, LIMITS, 1)


@pytest.mark.parametrize("fault", ["", "for the test"], ids=["raw", "public"])
def test_a_kept_instance_keeps_its_state(fault: str) -> None:
    kept = bench(fault=fault).load(STATE).keep(LIMITS)
    results = [kept.invoke("count", struct.pack("<q8x", 10)) for _ in range(3)]
    assert [int.from_bytes(slots[:4], "little") for slots in results] == [11, 12, 13]
    assert kept.measured().memory == 65536
    kept.close()
