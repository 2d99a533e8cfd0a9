"""One cap for many: an engine's store limiter bounds each memory (and each table), not their
sum."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...protocol.description import ModuleDescription
from .interface import EngineRefusal

Need = tuple[int, int | None]
"""What one memory or table begins with, and the most that it may ever have (``None``:
unbounded)."""


_ALL_32 = 1 << 32
"""Bytes that 32 bits can address, and elements that they can number."""


def uniform_cap(needs: Sequence[Need], limit: int) -> int | None:
    """The largest ``cap`` up to ``limit`` for which everything together stays within ``limit``.

    A thing that begins with ``low`` and may have ``high`` gets ``min(high, max(low, cap))`` at
    most; their sum is at most ``limit``. ``None`` where they begin with more than that.
    """
    total = sum(low for low, _ in needs)
    if total > limit:
        return None
    # The sum as a function of the cap is piecewise linear: it begins to grow with a thing at its
    # low mark, and stops at its high one. Raise the water from mark to mark.
    marks = sorted(
        [(low, 1) for low, high in needs if high is None or high > low]
        + [(high, -1) for low, high in needs if high is not None and high > low]
    )
    growing = level = 0
    for mark, change in marks:
        rise = growing * (mark - level)
        if total + rise > limit:
            break
        total += rise
        level = mark
        growing += change
    return min(limit, level + (limit - total) // growing) if growing else limit


def memory_needs(description: ModuleDescription) -> list[Need]:
    """In bytes: every memory of the module, and its GC heap where it has one."""
    needs: list[Need] = []
    for memory in description.memories:
        if memory.maximum is not None:
            most: int | None = memory.maximum * memory.page_size
        else:
            most = None if memory.is_64 else _ALL_32
        needs.append((memory.minimum * memory.page_size, most))
    if description.uses_gc:
        needs.append((0, _ALL_32))  # references are indices of 32 bits
    return needs


def table_needs(description: ModuleDescription) -> list[Need]:
    """In elements: every table of the module."""
    return [
        (t.minimum, _ALL_32 if t.maximum is None and not t.is_64 else t.maximum)
        for t in description.tables
    ]


class Caps(msgspec.Struct, frozen=True):
    """What to tell the store limiter."""

    memory: int
    """Bytes that each memory may grow to."""
    tables: int
    """Elements that each table may grow to."""
    first_memory: int
    """The same while the instance is made: the limiter checks what a memory begins with too."""
    first_tables: int

    change: bool = False
    """Whether the two differ: the limiter has to be set again after the instance is made."""

    @staticmethod
    def of(memory: int, tables: int, memory_floor: int, table_floor: int) -> Caps:
        """The caps ``memory`` and ``tables``, where one thing begins with as much as the floors
        say."""
        first_memory, first_tables = max(memory, memory_floor), max(tables, table_floor)
        return Caps(
            memory,
            tables,
            first_memory,
            first_tables,
            (first_memory, first_tables) != (memory, tables),
        )


def caps(description: ModuleDescription, memory: int, table_elements: int) -> Caps:
    """The caps under which one instance has at most ``memory`` bytes and ``table_elements``
    elements.

    Raises:
        EngineRefusal: ``memory_limit`` or ``table_limit``.
    """
    memories, tables = memory_needs(description), table_needs(description)
    found = Caps.of(
        _cap("memory", "bytes of memory", memories, memory),
        _cap("table", "table elements", tables, table_elements),
        floor(memories),
        floor(tables),
    )
    if found.change and description.start:
        # The start function would run under the wider caps.
        kind, used, allowed = (
            ("memory", found.first_memory, memory)
            if found.first_memory != found.memory
            else ("table", found.first_tables, table_elements)
        )
        raise EngineRefusal(
            f"{kind}_limit",
            f"the limit of {allowed} cannot be kept for a module with a start function, one {kind} "
            "of which begins large while others may grow",
            "raise the limit, or declare maxima in the module",
            used=used,
            allowed=allowed,
        )
    return found


def floor(needs: Sequence[Need]) -> int:
    """The most that any of them begins with."""
    return max((low for low, _ in needs), default=0)


def _cap(kind: str, things: str, needs: Sequence[Need], limit: int) -> int:
    cap = uniform_cap(needs, limit)
    if cap is None:
        used = sum(low for low, _ in needs)
        raise EngineRefusal(
            f"{kind}_limit",
            f"the module begins with {used} {things}, {limit} are allowed",
            f"raise the limit to {used} at the least",
            used=used,
            allowed=limit,
        )
    return cap
