"""One cap for several memories keeps their sum under the limit, and wastes nothing of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandbox.protocol.description import MemoryType, ModuleDescription, TableType
from wasm_sandbox.worker.engines.interface import EngineRefusal
from wasm_sandbox.worker.engines.limits import Need, caps, memory_needs, table_needs, uniform_cap

PAGE = 65536


@st.composite
def needs(draw: st.DrawFn) -> list[Need]:
    """What memories begin with and may have."""
    lows = draw(st.lists(st.integers(0, 50), max_size=6))
    return [(low, draw(st.none() | st.integers(low, 80))) for low in lows]


def total(things: list[Need], cap: int) -> int:
    """All that they can have together under ``cap``."""
    return sum(max(low, cap) if high is None else min(high, max(low, cap)) for low, high in things)


@given(needs(), st.integers(0, 400))
def test_the_cap_is_the_largest_that_keeps_the_sum(things: list[Need], limit: int) -> None:
    cap = uniform_cap(things, limit)
    if cap is None:
        assert sum(low for low, _ in things) > limit
        return
    assert 0 <= cap <= limit
    assert total(things, cap) <= limit
    assert cap == limit or total(things, cap + 1) > limit


@given(needs(), st.integers(0, 400))
def test_the_caps_for_the_start_are_wide_enough_for_what_memories_begin_with(
    things: list[Need], limit: int
) -> None:
    described = ModuleDescription(
        memories=tuple(MemoryType(low, high, page_size=1) for low, high in things)
    )
    if sum(low for low, _ in things) > limit:
        with pytest.raises(EngineRefusal) as refusal:
            caps(described, limit, 0)
        assert refusal.value.kind == "memory_limit"
        assert refusal.value.used == sum(low for low, _ in things)
        assert refusal.value.allowed == limit
        return
    found = caps(described, limit, 0)
    assert all(low <= found.first_memory for low, _ in things)
    assert found.change == (found.first_memory != found.memory)


def test_what_a_type_can_have_at_most_is_known() -> None:
    described = ModuleDescription(
        memories=(MemoryType(1, 2), MemoryType(3), MemoryType(1, is_64=True)),
        tables=(TableType("funcref", 1, 2), TableType("funcref", 3)),
        uses_gc=True,
    )
    assert memory_needs(described) == [
        (PAGE, 2 * PAGE),
        (3 * PAGE, 1 << 32),
        (PAGE, None),
        (0, 1 << 32),  # the GC heap
    ]
    assert table_needs(described) == [(1, 2), (3, 1 << 32)]


def test_a_start_function_never_runs_under_wider_caps() -> None:
    memories = (MemoryType(100), MemoryType(0))
    plain = ModuleDescription(memories=memories)
    assert caps(plain, 101 * PAGE, 0).change
    started = ModuleDescription(memories=memories, start=True)
    with pytest.raises(EngineRefusal, match="start function") as refusal:
        caps(started, 101 * PAGE, 0)
    assert refusal.value.kind == "memory_limit"
