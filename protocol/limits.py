"""Limits: how much a guest may use before it is stopped.

Sizes are bytes, times are seconds, rates are bytes per second. Every field has a finite default,
except ``fuel``: metering every instruction costs up to 90 %, so it is on only when asked for.
"""

from __future__ import annotations

import math

from .errors import ConfigurationError, plain
from .fields import Settings

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_RANGES: dict[str, tuple[float, float]] = {
    "memory": (0, 16 * GIB),
    "table_elements": (0, 100_000_000),
    "stack": (64 * KIB, 64 * MIB),
    "fuel": (0, (1 << 63) - 1),
    "wall_time": (0.001, 365 * 86400),
    "cpu_time": (0.001, 365 * 86400),
    "idle_time": (0.01, 365 * 86400),
    "output": (0, 1 << 50),
    "open_files": (0, 65536),
    "file_size": (0, 1 << 50),
    "disk": (0, 1 << 50),
    "connections": (0, 65536),
    "network_received": (0, 1 << 50),
    "network_sent": (0, 1 << 50),
    "processes": (0, 4096),
    "cpu_fraction": (0.05, 1024),
    "io_read": (1, 1 << 50),
    "io_write": (1, 1 << 50),
    "compile_time": (0.01, 86400),
    "compile_memory": (32 * MIB, 64 * GIB),
    "module_size": (8, 2 * GIB),
}
_WHOLE = frozenset(_RANGES) - {
    "wall_time",
    "cpu_time",
    "idle_time",
    "cpu_fraction",
    "compile_time",
}


class Limits(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one guest may use. Which wall enforces a field *here* is what ``pool.enforcement()``
    tells.

    Raises:
        ConfigurationError: an unknown field, or a value of the wrong type or outside its range;
            ``.field`` names it.
    """

    place = "limits"

    memory: int = 256 * MIB
    """Bytes of linear memory of one instance, summed over all its memories and its GC heap.

    Stops a guest that grows without bound: ``memory.grow`` answers -1 (the guest goes on), a module
    whose declared minimum is larger is refused (``MemoryLimitExceeded``). It does not count the
    worker's own few MiB; those are in the cgroup's limit. Enforced by the engine's store limiter
    and its pooled slots, by the cgroup, and by ``RLIMIT_DATA``. Costs nothing."""

    table_elements: int = 1_000_000
    """Elements of all tables of one instance together.

    Stops a guest that fills memory by tables: ``table.grow`` answers -1, and a module whose
    declared minimum is larger is refused (``TableLimitExceeded``). Objects that elements refer to
    count as ``memory``. Enforced by the engine. Costs nothing."""

    stack: int = 512 * KIB
    """Bytes of stack for the guest's frames (trap ``stack_overflow`` beyond).

    Stops endless recursion. It does not count a stack that a compiler keeps in linear memory: that
    is the guest's own affair. Enforced by the engine. Costs nothing."""

    fuel: int | None = None
    """Units of fuel, roughly instructions, that a call may burn (``OutOfFuel`` beyond);
    deterministic.

    ``None`` is unmetered. It does not count time in host calls or in bulk memory operations. Costs
    0-90 % of the guest's speed, so it selects workers whose modules were compiled with metering."""

    wall_time: float = 60.0
    """Seconds from the beginning of a call to its end (``DeadlineExceeded``), sleeping included.

    Enforced by epoch interruption, then by killing the worker. Does not count time in the queue:
    that is ``options(timeout=)``. Costs up to a fifth of a guest's speed, for checks in its loops
    that are there whatever this says."""

    cpu_time: float = 60.0
    """Seconds of processor time of a call, all threads of its worker together
    (``CpuTimeExceeded``).

    Sleeping and waiting cost nothing. Read from the kernel's clock of the worker, at the moments at
    which it could have been used up. Enforced by epoch interruption, then by killing the worker.
    Costs nothing beyond what ``wall_time`` does."""

    idle_time: float = 60.0
    """Seconds for which a running call may use no processor at all (asleep, or waiting for input)
    before it is stopped (``IdleTimeExceeded``). Waiting for the network is idle, too, but the time
    begins anew with every answer that the guest gets. Waiting for a program that is slow to read or
    write the guest's streams (``pool.start``) is not. It does not stop a guest that wakes up now
    and then to use a hundredth of a processor. Enforced by the supervisor. Costs nothing."""

    output: int = 16 * MIB
    """Bytes that one call may hand back: stdout, stderr and result buffers together
    (``OutputLimitExceeded``).

    So it bounds what the caller's process has to hold. Of the streams of ``pool.start`` nothing is
    held, but they count. It does not count files: those are ``disk``. Enforced by the worker, and
    again by the supervisor. Costs nothing."""

    open_files: int = 64
    """Files and directories that a guest may hold open at a time, beside those granted to it;
    ``EMFILE`` beyond.

    Enforced by the engine, where each is counted, and by ``RLIMIT_NOFILE``, which leaves the worker
    some for itself. Together they must not be more than the program's own hard limit
    (``ulimit -Hn``): where directories are granted, that is a ``ConfigurationError``. Costs
    nothing."""

    file_size: int = 64 * MIB
    """Bytes that any one file may grow to by a guest's writing, in whatever way: ``EFBIG`` beyond.

    Holes count, so a sparse file is no way around it. Enforced by the engine, where every writing
    passes, and by ``RLIMIT_FSIZE``. Costs nothing."""

    disk: int = 256 * MIB
    """Bytes that a call may add to all its writable directories together
    (``DiskLimitExceeded``).

    Counts what files grow by, holes included, and 4 KiB for each file or directory that is made.
    What is deleted again counts, too, and so does what is cut off and written again. It does not
    count overwriting. Enforced by the engine, where every writing passes. Costs a call that is
    granted directories about 60 µs, together with ``io_read`` and ``io_write``."""

    connections: int = 8
    """Network connections that one call may have open at a time; and a hundred times as many one
    after the other. The guest gets ``EMFILE`` for the next. Counts only where
    ``capabilities.network`` grants something. Enforced by the supervisor. Costs nothing."""

    network_received: int = 64 * MIB
    """Bytes that one call may receive from the network, heads of responses included. The guest gets
    ``EDQUOT`` for more. It does not bound how fast they come. Enforced by the supervisor, which
    reads no further. Costs nothing."""

    network_sent: int = 64 * MIB
    """Bytes that one call may send to the network, likewise."""

    processes: int = 0
    """Processes that a guest may start. It has no import to start one with, so that every number is
    kept; the tasks of its worker are bounded by ``cgroup.pids``, whatever this says. Costs
    nothing."""

    cpu_fraction: float = 1.0
    """Processors that a worker may keep busy: 0.5 is half of one.

    A guest that would use more is held back, not ended; waiting so is not idle time. Enforced by
    the cgroup, over a fiftieth of a second. Where there is none for processors, the supervisor
    stops the worker until its share is right again: over some tenths of a second below one
    processor, over seconds else, for a guest has one thread and can use more only if it broke
    out. From 0.05, the least that the kernel gives. Costs nothing with a cgroup; else some
    twenty wake-ups of the supervisor a second for a busy worker below one processor."""

    io_read: int = 1 * GIB
    """Bytes per second that a worker's guests may read from granted directories.

    A guest that is quicker waits: after a pause it may read a tenth of a second's worth at once,
    and a single reading moves no more than that, or 16 MiB. So there is no limit on the total, but
    with ``wall_time`` it follows. Waiting counts as idle time. Enforced by the engine, where every
    reading of files and directories passes; not for what the kernel reads to find a file."""

    io_write: int = 256 * MIB
    """Bytes per second that a worker's guests may write to granted directories, overwriting
    included; otherwise as ``io_read``."""

    compile_time: float = 60.0
    """Seconds of wall time for compiling one module (``CompilationLimit``); the compiler is killed
    by the supervisor. Does not count a module that is in the cache. Costs nothing."""

    compile_memory: int = 2 * GIB
    """Bytes for compiling one module (``CompilationLimit``), for all threads of its compiler
    together. Modules that are compiled at the same time have as much each. Enforced by cgroup and
    ``RLIMIT_DATA``. Costs nothing."""

    module_size: int = 128 * MIB
    """Bytes of a module, as given (``CompilationLimit`` beyond). It says nothing of what compiling
    them takes. Enforced by the supervisor, before anything reads it. Costs nothing."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_number(
                f"limits.{name}",
                getattr(self, name),
                *_RANGES[name],
                whole=name in _WHOLE,
                optional=name == "fuel",
            )


def check_number(
    field: str, value: object, low: float, high: float, *, whole: bool, optional: bool = False
) -> None:
    """Refuse what is not a number in ``[low, high]``.

    Raises:
        ConfigurationError: names ``field`` and the range.
    """
    if value is None and optional:
        return
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = "a whole number" if whole else "a number"
        raise ConfigurationError(field, value, f"must be {wanted}, not {type(value).__name__}")
    assert isinstance(value, int | float)
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigurationError(field, value, f"must be between {plain(low)} and {plain(high)}")
