"""What is told of workers, modules and calls: each event made in one place."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from ..protocol import events
from ..protocol.errors import (
    CapabilityDenied,
    LimitExceeded,
    ModuleQuarantined,
    SandboxError,
)
from ..protocol.receipts import DeathCertificate
from .batches import failure_of
from .life import Life
from .requests import CallRequest, Outcome

if TYPE_CHECKING:
    from .calls import CallRecord
    from .worker import Worker


class Reporter:
    """Makes events of what it is told, and hands them to the pool's ``Life``."""

    def __init__(self, life: Life) -> None:
        self._emit = life.emit

    # --- workers --------------------------------------------------------------------------------

    def worker_started(self, worker: Worker) -> None:
        """A worker was forked."""
        tenant = worker.profile.tenant
        self._emit(
            events.WorkerStarted(
                when=time.time(), worker=worker.number, pid=worker.pid, tenant=tenant
            )
        )

    def worker_ready(self, worker: Worker) -> None:
        """A worker stands behind its walls; its guests may use what its profile says."""
        ready, profile, when = worker.ready, worker.profile, time.time()
        assert ready is not None
        self._emit(
            events.WorkerReady(
                when=when, worker=worker.number, seconds=worker.took, walls=ready.walls
            )
        )
        self._emit(
            events.Granted(
                when=when,
                worker=worker.number,
                tenant=profile.tenant,
                directories=profile.directories,
                scratch=tuple((scratch.at, scratch.size) for scratch in profile.scratch),
                clock=profile.clock[0],
                random=profile.random[0],
                stdio=profile.stdio,
                network=tuple(str(grant) for grant in profile.network),
                helpers=hashlib.sha256(profile.helpers).hexdigest() if profile.helpers else "",
                custom=tuple((name, profile.grants[name]) for name in profile.grants),
            )
        )
        if ready.note:
            note = ready.note
            self._emit(events.EngineFallback(when=when, worker=worker.number, reason=note))

    def worker_died(self, worker: Worker, certificate: DeathCertificate) -> None:
        """A worker is gone."""
        tenant = worker.profile.tenant
        self._emit(events.WorkerDied(when=time.time(), certificate=certificate, tenant=tenant))

    # --- modules --------------------------------------------------------------------------------

    def module_compiled(self, sha256: str, seconds: float, size: int) -> None:
        """An artifact of ``size`` bytes was made in ``seconds``."""
        self._emit(
            events.ModuleCompiled(when=time.time(), sha256=sha256, seconds=seconds, size=size)
        )

    def module_loaded(self, sha256: str) -> None:
        """An artifact was in the cache."""
        self._emit(events.ModuleLoaded(when=time.time(), sha256=sha256))

    def module_refused(self, sha256: str, error: SandboxError) -> None:
        """No artifact was made."""
        reason = type(error).__name__
        self._emit(
            events.ModuleRefused(when=time.time(), sha256=sha256, reason=reason, detail=str(error))
        )

    def module_quarantined(
        self, refusal: ModuleQuarantined, tenant: str | None, *, compiling: bool = False
    ) -> None:
        """Calls of a module are refused from now on."""
        self._emit(
            events.ModuleQuarantined(
                when=time.time(),
                sha256=refusal.sha256,
                tenant=tenant,
                seconds=refusal.seconds,
                certificates=refusal.certificates,
                compiling=compiling,
            )
        )

    # --- calls ----------------------------------------------------------------------------------

    def call_granted(self, request: CallRequest) -> None:
        """A call is taken. Only what it is given beyond its profile is worth telling."""
        command = request.command
        variables = request.env if command is None else command.env
        stdin = command is not None and (
            command.stdin_descriptor is not None or command.ends is not None
        )
        if variables or stdin:
            self._emit(
                events.CallGranted(
                    when=time.time(),
                    tenant=request.profile.tenant,
                    sha256=request.module.sha256.hex(),
                    export=request.export,
                    environment=tuple(name.decode("utf-8", "replace") for name, _ in variables),
                    stdin=stdin,
                )
            )

    def call_refused(self, request: CallRequest, error: SandboxError) -> None:
        """A call is not taken."""
        self._emit(
            events.CallRefused(
                when=time.time(),
                tenant=request.profile.tenant,
                sha256=request.module.sha256.hex(),
                export=request.export,
                reason=type(error).__name__,
                detail=str(error),
                calls=1 if request.batch is None else request.batch.count,
            )
        )

    def call_ended(self, record: CallRecord, outcome: Outcome) -> None:
        """A call is over. That it returned, trapped or lost its worker is told elsewhere."""
        request, error, calls = record.request, outcome.error, 1
        if record.imported:
            self._emit(
                events.HostFunctionsCalled(
                    when=time.time(),
                    worker=outcome.receipt.worker,
                    tenant=request.profile.tenant,
                    sha256=request.module.sha256.hex(),
                    export=request.export,
                    functions=tuple(record.imported.items()),
                )
            )
        if request.batch is not None:
            error = failure_of(request.batch, outcome)
            if record.stop is not None:  # one that was stopped ends with all that is left of it
                calls = request.batch.count - outcome.done
        if isinstance(error, CapabilityDenied):
            self._emit(
                events.CallDenied(
                    when=time.time(),
                    worker=outcome.receipt.worker,
                    tenant=request.profile.tenant,
                    sha256=request.module.sha256.hex(),
                    export=request.export,
                    capability=error.capability,
                    detail=str(error),
                )
            )
        elif error is not None and (record.stop is not None or isinstance(error, LimitExceeded)):
            self._emit(
                events.CallStopped(
                    when=time.time(),
                    worker=outcome.receipt.worker,
                    reason=type(error).__name__,
                    tenant=request.profile.tenant,
                    sha256=request.module.sha256.hex(),
                    export=request.export,
                    calls=calls,
                )
            )
