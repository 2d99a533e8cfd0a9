"""What a call cost, and what ended it: evidence as plain, picklable data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """What a worker measured of one call; never trusted for enforcement, only reported."""

    cpu_time: float = 0.0
    wall_time: float = 0.0
    fuel: int | None = None
    memory: int | None = None
    output: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    disk: int = 0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What one call used. Times are seconds, sizes are bytes."""

    fuel: int | None = None
    """Units of fuel burnt, or ``None`` where the call was not metered."""
    cpu_time: float = 0.0
    """Processor time of the call."""
    wall_time: float = 0.0
    """From the beginning of the call to its end."""
    queue_time: float = 0.0
    """From submission to the hand-over to a worker."""
    peak_memory: int | None = None
    """Linear memory of the instance at its largest (memories never shrink); ``None`` where it is
    not known, because the worker died."""
    bytes_in: int = 0
    """Bytes of arguments and input."""
    bytes_out: int = 0
    """Bytes of results and output."""
    bytes_read: int = 0
    """Bytes read from files in granted directories."""
    bytes_written: int = 0
    """Bytes written to files in granted directories, overwriting included."""
    disk: int = 0
    """Bytes added to granted directories, as ``Limits.disk`` counts them."""
    worker: int | None = None
    """Number of the worker that ran it, unique in its pool; ``None`` where it never ran."""
    attempts: int = 0
    """How many times it was begun: 0 or 1, more only with ``options(retries=)``."""
    host_calls: int = 0
    """How often the guest asked the supervisor's side for something."""
    connections: int = 0
    """Network connections that it made, or tried to make."""
    network_received: int = 0
    """Bytes received from the network."""
    network_sent: int = 0
    """Bytes sent to the network."""


Cause = Literal[
    "out_of_memory",
    "crashed",
    "syscall_denied",
    "protocol_violation",
    "deadline",
    "cpu_time",
    "idle_time",
    "output",
    "cancelled",
    "killed",
    "exited",
    "start_failed",
    "recycled",
    "evicted",
    "stopped",
    "linked",
]


class DeathCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker died, and who saw it."""

    worker: int
    """Number of the worker, unique in its pool."""
    pid: int
    """Its process id, already free for others."""
    cause: Cause
    """What ended it. ``killed`` is a SIGKILL that was neither ours nor the kernel's for memory."""
    wall: str
    """Which wall saw it: ``cgroup``, ``kernel``, ``supervisor``, ``protocol``, ``jail``."""
    phase: Literal["starting", "idle", "busy", "stopping"]
    """What it was doing."""
    signal: int | None = None
    """Signal that ended the process, as waitid(2) reports it."""
    exit_code: int | None = None
    """Exit status of the process, where it ended by itself."""
    evidence: str = ""
    """What the wall saw, in words: counters, the offending message, the last words of the
    worker."""
    modules: tuple[str, ...] = ()
    """SHA-256 of the modules whose calls it had begun and not ended."""
    age: float = 0.0
    """Seconds that it lived."""
    calls: int = 0
    """Calls that it had finished."""
    memory_peak: int | None = None
    """Bytes at most in its cgroup, where there is one."""
    cpu_time: float | None = None
    """Processor seconds of its cgroup, where there is one."""
