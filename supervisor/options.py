"""What a core is made with, and what it shows of its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..protocol import events
from ..protocol.capabilities import Capabilities
from ..protocol.isolation import Isolation
from ..protocol.limits import Limits
from ..protocol.policies import Quarantine, Recycle, RestartPolicy
from .audit import AuditLog


@dataclass(frozen=True, kw_only=True)
class CoreOptions:
    """What a pool was made with; ``docs/api.md`` explains each."""

    workers: int = 2
    spares: int = 0
    max_instances: int = 1000
    runtime: str = "wasmtime"
    limits: Limits = field(default_factory=Limits)
    capabilities: Capabilities = field(default_factory=Capabilities)
    isolation: Literal["strict", "best-effort"] | Isolation = "best-effort"
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    recycle: Recycle = field(default_factory=Recycle)
    quarantine: Quarantine | None = None
    cache_dir: str | None = None
    on_event: Callable[[events.Event], None] | None = None
    audit: AuditLog | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerSnapshot:
    """What a worker was doing at the moment of asking, and had used by then. Times are seconds.

    Asking for all workers once a second costs some 10 µs for each of them.
    """

    number: int
    pid: int
    phase: Literal["starting", "idle", "busy", "stopping"]
    tenant: str | None
    calls: int
    waiting: int
    age: float
    spare: bool = False
    """Whether it only waits to take the place of another one."""
    cpu_time: float | None = None
    """Processor time of all its threads; ``None`` while there is no process."""
    memory: int | None = None
    """Bytes that it takes of the machine now: those charged to its control group or, where there is
    none, those resident, which it may share with others. ``None`` while there is no process."""
