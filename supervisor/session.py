"""A session: one worker whose instances keep their state from call to call, and may import each
other.

Calls are served one at a time, in order: whoever has a session sends the next when the last is
over. When the worker dies the session is over: its state is gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import trio

from ..protocol import errors, messages
from ..protocol.description import ExternGlobal, ModuleDescription
from ..protocol.limits import Limits
from ..protocol.profile import Profile
from ..protocol.receipts import DeathCertificate
from .calls import CallRecord
from .certificates import Verdict, to_error
from .dispatcher import Dispatcher
from .imports import served, serving
from .register import Register
from .requests import CallRequest, ModuleHandle, Outcome
from .worker import Worker

_WASI = "wasi_snapshot_preview1"
ALONE = 1
"""Number of the only instance of a session."""


class Owner(Protocol):
    """Whoever sends calls to a session that it may have to send elsewhere."""

    def give_back(self, records: list[CallRecord]) -> None:
        """Calls that were sent and not begun when the worker died, oldest first."""

    def session_over(self) -> None:
        """The worker is gone; all its calls were given their outcome, or back."""


class Session:
    """Made by ``Core.open_session``; ``close`` it in the end."""

    def __init__(
        self,
        calls: Dispatcher,
        limits: Limits,
        profile: Profile,
        *,
        owner: Owner | None = None,
    ) -> None:
        self._calls = calls
        self.mail = calls.mail
        self.network = calls.network
        self.leftovers = calls.leftovers
        self._limits = limits
        self.profile = profile
        self._owner = owner
        self._instances: dict[int, ModuleHandle] = {}
        self._ids = itertools.count(1)
        self._ready = trio.Event()
        self._over = trio.Event()
        self._worker: Worker | None = None
        self._certificate: DeathCertificate | None = None
        self._open = Register(calls.mail, calls.report, calls.timeouts)
        """Calls of its own, not its owner's, that have not ended."""

    # --- what callers use -----------------------------------------------------------------------

    async def instantiate(
        self, module: ModuleHandle, bindings: tuple[tuple[int, str], ...] | None = None
    ) -> int:
        """Make an instance; each import in order is bound to (instance, export). Returns its
        number. Without bindings, WASI and the module's host functions are what it imports.

        Raises:
            MissingImport: an import has no binding, or one of another type.
            Trap: the start function trapped; what it did to other instances stays done.
            WorkerLost: the session is over.
        """
        instance = next(self._ids)
        # An instance whose start function trapped may live on in tables that it filled.
        self._instances[instance] = module
        fuel = self._limits.fuel
        if bindings is None:
            bindings = tuple(
                (messages.FROM_WASI if each.module == _WASI else messages.FROM_HOST, each.name)
                for each in module.description.imports
            )
        await self._call(
            module,
            "",
            0,
            lambda call, number: messages.Instantiate(call, number, instance, bindings, fuel),
        )
        return instance

    async def settle_in(
        self,
        module: ModuleHandle,
        env: tuple[tuple[bytes, bytes], ...] = (),
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> Outcome:
        """Make the session's only instance, which is number ``ALONE``: the host gives what it
        imports, and ``_initialize`` is called where that is exported. What it cost is the outcome.

        Raises:
            ModuleError: an import that the host does not offer.
            GuestError, LimitExceeded: it did not come to be.
            WorkerLost: the session is over.
        """
        limits = self._limits
        return await self._call(
            module,
            "_initialize",
            0,
            lambda call, number: messages.Instantiate(
                call, number, ALONE, None, limits.fuel, limits.output, env
            ),
            on_output,
        )

    @property
    def free(self) -> bool:
        """Whether a call may be sent."""
        return self._worker is not None and self._worker.serving and not self._worker.records

    def send(self, record: CallRecord) -> None:
        """Send a call of the only instance."""
        assert self._worker is not None
        self._worker.assign(record, trio.current_time())

    async def invoke(self, instance: int, export: str, slots: bytes) -> bytes:
        """Call an export; arguments and results are slots of 16 bytes.

        Raises:
            MissingExport: no such function.
            GuestError, LimitExceeded: the guest failed or was stopped; the instance lives on.
            WorkerLost: the session is over.
        """
        module = self._instances[instance]
        kind = module.description.function(export)
        if kind is None:
            raise errors.MissingExport(f"there is no exported function {export!r}")
        if kind.references:
            raise errors.SignatureMismatch(
                f"{export} {kind}: references cannot cross the wall",
                "export a function over numbers",
            )
        if len(slots) != messages.SLOT * len(kind.params):
            raise errors.SignatureMismatch(f"{export} {kind} takes {len(kind.params)} values")
        fuel = self._limits.fuel
        outcome = await self._call(
            module,
            export,
            len(kind.results),
            lambda call, _: messages.Invoke(call, instance, export, slots, fuel),
        )
        return outcome.slots

    async def read_global(self, instance: int, export: str) -> bytes:
        """The value of an exported global, as one slot."""
        module = self._instances[instance]
        if not any(
            e.name == export and isinstance(e.type, ExternGlobal)
            for e in module.description.exports
        ):
            raise errors.MissingExport(f"there is no exported global {export!r}")
        outcome = await self._call(
            module, export, 1, lambda call, _: messages.ReadGlobal(call, instance, export)
        )
        return outcome.slots

    async def close(self) -> None:
        """End the worker, when its call is over."""
        self.stop(Verdict("stopped", "supervisor"))
        await self.wait_over()

    def stop(self, why: Verdict) -> None:
        """Ask the worker to end when its call is over."""
        if self._worker is not None:
            self._worker.stop(why)

    def abort(self, why: Verdict | None = None) -> None:
        """End the worker now."""
        if self._worker is not None:
            why = why or Verdict("stopped", "supervisor", "the pool was shut down")
            self._worker.kill(why)

    # --- life -----------------------------------------------------------------------------------

    async def live(self, worker: Worker) -> None:
        """The life of the session's worker."""
        self._worker = worker
        try:
            await worker.live()
        finally:
            self._worker = None
            self._ready.set()
            self._over.set()
            if self._owner is not None:
                self._owner.session_over()

    async def wait_ready(self) -> None:
        """Wait for READY.

        Raises:
            WorkerLost: it died before.
        """
        await self._ready.wait()
        self._check()

    async def wait_over(self) -> None:
        """Wait until the worker is gone."""
        await self._over.wait()

    @property
    def over(self) -> bool:
        """Whether the worker is gone."""
        return self._over.is_set()

    @property
    def worker(self) -> Worker | None:
        """Its worker, until that is gone."""
        return self._worker

    @property
    def certificate(self) -> DeathCertificate | None:
        """How the worker died, once it has."""
        return self._certificate

    def _check(self) -> Worker:
        if self._worker is None:
            assert self._certificate is not None
            raise to_error(self._certificate)
        return self._worker

    async def _call(
        self,
        module: ModuleHandle,
        export: str,
        results: int,
        message: Callable[[int, int], messages.ToWorker],
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> Outcome:
        outcome: list[Outcome] = []
        ended = trio.Event()

        def done(result: Outcome) -> None:
            outcome.append(result)
            ended.set()

        artifact = await self._calls.library.prepare(module, self.profile)
        worker = self._check()
        parent = self._parent(worker)
        request = CallRequest(
            module=module,
            profile=self.profile,
            limits=self._limits,
            export=export,
            results=results,
            parent=parent,
            on_output=on_output,
        )
        self._calls.refuse_quarantined(request)
        record = self._open.enter(request, done)
        record.message = lambda call: message(call, worker.load(record))
        record.artifact = artifact
        artifact.users += 1
        worker.assign(record, trio.current_time())
        try:
            await ended.wait()
        except trio.Cancelled:
            self._open.cancel(request)
            raise
        if outcome[0].error is not None:
            raise outcome[0].error
        return outcome[0]

    def _parent(self, worker: Worker) -> CallRecord | None:
        """The call for whose host function this one is made.

        Raises:
            PoolError: its guest is in this session, which serves one call at a time.
        """
        parent = caller = served(serving.get(), self.mail)
        while caller is not None:
            if caller.worker is worker:
                raise errors.PoolError(
                    "a host function cannot wait for the instance that waits for it",
                    "return first, and call the instance afterwards",
                )
            caller = caller.request.parent
        return parent

    # --- what the worker needs (Office) ---------------------------------------------------------

    def next_call(self) -> int:
        """A call number larger than all before."""
        return self._calls.next_call()

    def adopt(self, record: CallRecord) -> None:
        """A session's worker is never lent."""
        raise AssertionError(record)

    def artifact(self, record: CallRecord) -> tuple[int, ModuleDescription]:
        """Descriptor and description of what the call needs."""
        return self._calls.artifact(record)

    def guard(self, metered: bool) -> tuple[int, ...]:
        """Descriptors of what the worker needs where directories are granted."""
        return self._calls.guard(metered)

    def worker_forked(self, worker: Worker) -> None:
        """Its events are those of any worker."""
        self._calls.report.worker_started(worker)

    def worker_gone(self, worker: Worker) -> None:
        """Nothing waits here for another worker."""

    def worker_died(self, worker: Worker, certificate: DeathCertificate) -> None:
        """It may count against a module, as any other's."""
        self._certificate = certificate
        self._calls.worker_died(worker, certificate)

    def worker_ready(self, worker: Worker) -> None:
        """The worker can take calls, if it has the walls that were asked for."""
        if self._calls.accept(worker):
            self._calls.report.worker_ready(worker)
            self._ready.set()

    def worker_has_room(self, worker: Worker, now: float) -> None:
        """Nothing waits here: every caller waits for itself."""

    def give_back(self, records: list[CallRecord]) -> None:
        """Calls that were not begun when the worker died: there is no other worker with this
        state, unless its owner makes one."""
        assert self._certificate is not None
        own = [record for record in records if record.request in self._open]
        for record in own:
            record.fail(to_error(self._certificate))
        if self._owner is not None:
            self._owner.give_back([record for record in records if record not in own])
