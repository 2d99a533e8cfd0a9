"""Events of a pool's life, as data, for ``Pool(on_event=)`` and ``Pool(audit=)``.

``when`` is ``time.time()``, in seconds. ``sha256`` is a module's digest, in hexadecimal digits;
``tenant`` is that of the call, as ``options(tenant=)`` named it. No argument, result or output is
in them, and no value of a variable: a log is read by more people than the data.
"""

from __future__ import annotations

import msgspec

from .capabilities import Grant
from .grants import GrantValue
from .receipts import DeathCertificate


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all events."""

    when: float


# --- the pool -------------------------------------------------------------------------------------


class PoolStarted(Event, frozen=True, kw_only=True, tag=True):
    """The first worker is READY: the pool takes calls."""

    workers: int
    isolation: str
    """``strict``, ``best-effort``, or the walls that must stand, joined by commas."""
    walls: tuple[str, ...]
    """Walls around that worker."""
    missing: tuple[tuple[str, str], ...]
    """(wall, why it does not stand)."""
    gaps: tuple[str, ...]
    """Fields of the policy that are in force and that nothing enforces here."""


class PoolStopped(Event, frozen=True, kw_only=True, tag=True):
    """All workers are gone: a pool's last event."""


class PoolFailed(Event, frozen=True, kw_only=True, tag=True):
    """The pool gave up."""

    reason: str


class RestartDelayed(Event, frozen=True, kw_only=True, tag=True):
    """The next worker of this seat starts ``seconds`` later, because the last ones failed to."""

    seconds: float


class AuditFailed(Event, frozen=True, kw_only=True, tag=True):
    """The audit log cannot be written. The pool goes on, and counts what is lost."""

    reason: str


class AuditResumed(Event, frozen=True, kw_only=True, tag=True):
    """The audit log can be written again; so many events are missing before this one."""

    lost: int


# --- workers --------------------------------------------------------------------------------------


class WorkerStarted(Event, frozen=True, kw_only=True, tag=True):
    """A worker was forked."""

    worker: int
    pid: int
    tenant: str | None = None


class WorkerReady(Event, frozen=True, kw_only=True, tag=True):
    """A worker's jail is on and its engine is up, ``seconds`` after the fork was asked for."""

    worker: int
    seconds: float
    walls: tuple[str, ...]


class Granted(Event, frozen=True, kw_only=True, tag=True):
    """What every guest of a worker may use from now on; before its first call."""

    worker: int
    tenant: str | None
    directories: tuple[Grant, ...]
    clock: str
    random: str
    stdio: bool
    network: tuple[str, ...] = ()
    """Each grant as a host, or the kind of it, and its ports: ``loopback:8000``."""
    scratch: tuple[tuple[str, int], ...] = ()
    """The guest's path and the size of each scratch directory."""
    helpers: str = ""
    """SHA-256 of the pickled functions that run in it (``worker_imports=``), where there are
    any."""
    custom: tuple[tuple[str, GrantValue], ...] = ()
    """The custom capabilities, which host functions see."""


class WorkerDied(Event, frozen=True, kw_only=True, tag=True):
    """A worker is gone: it crashed, was killed, recycled, evicted or stopped."""

    certificate: DeathCertificate
    tenant: str | None = None


class EngineFallback(Event, frozen=True, kw_only=True, tag=True):
    """A worker serves calls through the engine's public interface, which is slower; ``reason``
    says why."""

    worker: int
    reason: str


# --- instances ------------------------------------------------------------------------------------


class InstanceStarted(Event, frozen=True, kw_only=True, tag=True):
    """An instance that keeps its state is up; ``instance`` is its number, unique in its pool."""

    instance: int
    tenant: str | None
    sha256: str


class InstanceRestarted(Event, frozen=True, kw_only=True, tag=True):
    """Its worker died, and it is up again in another one."""

    instance: int
    tenant: str | None
    sha256: str


class InstanceEnded(Event, frozen=True, kw_only=True, tag=True):
    """It is over. ``reason`` is the class name of the error that calls are refused with."""

    instance: int
    tenant: str | None
    sha256: str
    reason: str
    detail: str


# --- modules --------------------------------------------------------------------------------------


class ModuleCompiled(Event, frozen=True, kw_only=True, tag=True):
    """A module was compiled, in ``seconds``; ``size`` is the artifact's, in bytes."""

    sha256: str
    seconds: float
    size: int


class ModuleLoaded(Event, frozen=True, kw_only=True, tag=True):
    """A module's artifact was taken from the cache."""

    sha256: str


class ModuleRefused(Event, frozen=True, kw_only=True, tag=True):
    """A module was not compiled; ``reason`` is the error's class name."""

    sha256: str
    reason: str
    detail: str


class ModuleQuarantined(Event, frozen=True, kw_only=True, tag=True):
    """Calls of the module are refused to this tenant for ``seconds``, because of these deaths."""

    sha256: str
    tenant: str | None
    seconds: float
    certificates: tuple[DeathCertificate, ...]
    compiling: bool = False
    """Whether it was compilers that died: then nobody can load it, whichever the tenant."""


# --- calls ----------------------------------------------------------------------------------------


class CallGranted(Event, frozen=True, kw_only=True, tag=True):
    """A call was given more than its worker's guests have anyway."""

    tenant: str | None
    sha256: str
    export: str
    environment: tuple[str, ...]
    """Names of variables."""
    stdin: bool
    """Whether an open file is its standard input."""


class CallRefused(Event, frozen=True, kw_only=True, tag=True):
    """A call was not taken: no wall for what it asks, or a module in quarantine. ``reason`` is the
    error's class name."""

    tenant: str | None
    sha256: str
    export: str
    reason: str
    detail: str
    calls: int = 1
    """How many: the records of a batch end together."""


class CallDenied(Event, frozen=True, kw_only=True, tag=True):
    """A call failed because it asked for what it was not granted (``CapabilityDenied``)."""

    worker: int | None
    tenant: str | None
    sha256: str
    export: str
    capability: str
    detail: str


class CallStopped(Event, frozen=True, kw_only=True, tag=True):
    """A call was stopped by a limit, or from outside; ``reason`` is the error's class name."""

    worker: int | None
    reason: str
    tenant: str | None = None
    sha256: str = ""
    export: str = ""
    calls: int = 1
    """How many: the records of a batch end together."""


class HostFunctionsCalled(Event, frozen=True, kw_only=True, tag=True):
    """A call is over whose guest called functions of this program."""

    worker: int | None
    tenant: str | None
    sha256: str
    export: str
    functions: tuple[tuple[str, int], ...]
    """Module and name of each, and how often."""


class NetworkAllowed(Event, frozen=True, kw_only=True, tag=True):
    """A call may connect, and is about to."""

    worker: int
    tenant: str | None
    sha256: str
    export: str
    operation: str
    """``http``, ``tcp``, or ``lookup``: it may know the address."""
    where: str
    """Host and port, as the guest asked for them; of a look-up the host."""
    address: str
    """The address that it gets."""
    grant: str
    """The grant of ``capabilities.network`` that lets it."""


class NetworkRefused(Event, frozen=True, kw_only=True, tag=True):
    """A call may not connect, or a name that it had looked up gave no address; its guest was told,
    if it still waits."""

    worker: int
    tenant: str | None
    sha256: str
    export: str
    operation: str
    """``http``, ``tcp`` or ``lookup``."""
    where: str
    """Host and port, URL, or host, as the guest asked for it, at most 200 characters."""
    address: str
    """The address that was refused; empty where it did not come to one."""
    reason: str
    others: int = 0
    """Further refusals of the call that are told by this event alone: their requests were given up,
    or the call ended, before it was their turn."""
