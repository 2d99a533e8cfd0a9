"""What an instance has used: a snapshot, and how it came to that."""

from __future__ import annotations

from typing import Literal

import msgspec

Phase = Literal["starting", "idle", "busy", "ended"]
"""What an instance is doing; ``starting`` is also being restarted."""


class UsageSample(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a timeline. The sums are those of ``InstanceUsage`` at that time."""

    when: float
    """``time.time()``, in seconds."""
    memory_used: int
    cpu_time: float
    calls: int
    restarts: int


class InstanceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance has used, over all its restarts unless it says otherwise. Times are seconds,
    sizes are bytes."""

    phase: Phase
    worker: int | None
    """Number of its worker, unique in its pool; ``None`` while it has none."""
    pid: int | None
    """Process id of its worker."""
    age: float
    """Since it was made."""
    memory_used: int
    """Linear memory after its last call; memories shrink only by a restart."""
    memory_peak: int
    """The most that it has been."""
    resident: int | None
    """Memory of its worker process, the interpreter and the engine included; ``None`` while it has
    none."""
    cpu_time: float
    """Processor time of its calls and starts; of the running call, too."""
    wall_time: float
    """Time in calls and starts; in the running call, too."""
    fuel: int
    """Units of fuel burnt, where it is metered."""
    calls: int
    """Calls that were begun and are over; reading memory or a global is one, too."""
    failures: int
    """How many of them did not return."""
    waiting: int
    """Calls in its mailbox, the running one not included."""
    restarts: int
    bytes_in: int
    """Arguments."""
    output: int
    """Results and what was written to stdout and stderr."""
    bytes_read: int
    """From files in granted directories."""
    bytes_written: int
    """To files in granted directories."""
    disk: int
    """Added to granted directories, as ``Limits.disk`` counts it."""
    host_calls: int
    """How often the guest asked the supervisor's side for something."""
    timeline: tuple[UsageSample, ...] = ()
    """How it came to that, oldest first: at most one sample a second, made when a call ends or when
    somebody asks, and the last 240 of them."""
