"""The calls of a pool: taken, matched to workers, stopped, and ended exactly once.

Calls are matched to workers whenever one is submitted, finished, or given back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from copy import copy

import trio

from ..protocol import errors
from ..protocol.description import ModuleDescription
from ..protocol.limits import Limits
from ..protocol.policies import Recycle
from ..protocol.profile import Profile
from ..protocol.receipts import DeathCertificate
from .calls import CallRecord
from .certificates import Verdict
from .express import Loan
from .leftovers import Leftovers
from .library import Artifact, Library
from .life import Life
from .network.access import NetworkAccess
from .quarantine import Key, Ward
from .queues import STARVING, Queues
from .register import Register
from .reporter import Reporter
from .requests import BatchRequest, CallRequest, Outcome
from .seats import Seats
from .sending import Mail
from .timeouts import Timeouts
from .walls import Walls
from .worker import Worker

_CROWD = 64
"""Waiting calls of a lane beyond which one more changes nothing about who serves it."""
MAX_ARGUMENTS = 1 << 19
"""Bytes of arguments and environment of a command: they travel in one frame."""


class Dispatcher:
    """Between those who submit calls and the workers in the seats, whose ``Office`` it is."""

    def __init__(
        self,
        recycle: Recycle,
        life: Life,
        walls: Walls,
        ward: Ward,
        queues: Queues,
        seats: Seats,
    ) -> None:
        self._recycle = recycle
        self._life = life
        self._walls = walls
        self._ward = ward
        self._queues = queues
        self._seats = seats
        self.mail = Mail()
        """Held while several calls are submitted together, so that they travel together."""
        self.report = Reporter(life)
        self.network = NetworkAccess(life.emit)
        self.leftovers = Leftovers(life.start)
        self.timeouts = Timeouts()
        self._open = Register(self.mail, self.report, self.timeouts)
        """Its calls that have not ended."""
        self._numbers = itertools.count(1)
        self._clock_offset = 0.0
        """From ``time.perf_counter()`` to trio's clock, for threads that cannot ask trio."""
        self.first_ready = trio.Event()
        self.library: Library
        """Where artifacts come from."""

    def open(self, library: Library) -> None:
        """Begin, in the trio run."""
        self.library = library
        self._clock_offset = trio.current_time() - time.perf_counter()

    # --- submission -----------------------------------------------------------------------------

    def submit(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        """Queue a call; ``done`` is called exactly once, in this thread, perhaps before this
        returns."""
        record = self._open.enter(request, done)
        if self._life.failure is not None:
            record.fail(copy(self._life.failure))
            return
        if not self.admit(record):
            return
        command = request.command
        if command is not None and command.size > MAX_ARGUMENTS:
            record.fail(
                errors.ConfigurationError(
                    "argv and env",
                    command.size,
                    f"have more than {MAX_ARGUMENTS:,} bytes together",
                    "pass large data on stdin or in a file",
                )
            )
            return
        self.report.call_granted(request)
        record.bring(self.leftovers)
        self._open.keep_time(record)
        artifact = self.library.get(request.module, request.profile, guarded=request.guarded)
        wanted = _looping(request)
        trampoline = None
        if wanted is not None:
            trampoline = self.library.trampoline(wanted, request.profile)
            if trampoline is None and wanted.attempt:
                # It can do without, a little slower; what comes after it will have one.
                self.library.order_trampoline(wanted, request.profile, self._life.start)
                wanted = None
        if (
            artifact is None
            or (wanted is not None and trampoline is None)
            or not self._has_room_for(record)
        ):
            self._life.start(self._prepare, record)
        else:
            self._enqueue(record, artifact, trampoline)

    def admit(self, record: CallRecord) -> bool:
        """Whether a call may be taken; it is over if not."""
        request = record.request
        try:
            self.refuse_gaps(request.limits, request.profile)
            self.refuse_quarantined(request)
        except (errors.IsolationError, errors.ModuleQuarantined) as error:
            self._refuse(record, error)
            return False
        return True

    def refuse_gaps(self, limits: Limits, profile: Profile) -> None:
        """Take nothing for which no wall stands that was asked for.

        Raises:
            IsolationError: this is such.
        """
        if self._walls.required:
            self._walls.refuse_gaps(limits, profile)

    def refuse_quarantined(self, request: CallRequest) -> None:
        """Take no call of a module that is in quarantine for its tenant.

        Raises:
            ModuleQuarantined: this is one.
        """
        if self._ward.occupied:
            refusal = self._ward.refusal(_key(request), trio.current_time())
            if refusal is not None:
                raise refusal

    def _refuse(self, record: CallRecord, error: errors.SandboxError) -> None:
        self.report.call_refused(record.request, error)
        record.fail(error)

    async def _prepare(self, record: CallRecord) -> None:
        request = record.request
        wanted = _looping(request)
        trampoline = None
        try:
            if not self._has_room_for(record):
                with trio.CancelScope() as record.room:
                    await self.leftovers.wait_for_room(request.profile.tenant)
            if wanted is not None:
                trampoline = await self.library.prepare_trampoline(wanted, request.profile)
            artifact = await self.library.prepare(
                request.module, request.profile, guarded=request.guarded
            )
        except errors.SandboxError as error:
            if not record.finished:
                record.fail(copy(error))
        else:
            if not record.finished:
                self._enqueue(record, artifact, trampoline)

    def _has_room_for(self, record: CallRecord) -> bool:
        """Whether the call need not wait: it is over, it brings nothing that may have to be
        dropped, or not too much waits for that."""
        luggage = record.request.luggage
        return (
            record.finished
            or luggage is None
            or self.leftovers.has_room(record.request.profile.tenant)
            or not luggage.brought.droppable()
        )

    def _enqueue(self, record: CallRecord, artifact: Artifact, trampoline: Artifact | None) -> None:
        record.artifact, record.trampoline = artifact, trampoline
        artifact.users += 1
        if trampoline is not None:
            trampoline.users += 1
        lane = self._queues.lane(record.request.profile)
        lane.waiting.append(record)
        if len(lane.waiting) > _CROWD:
            return  # every worker has its fill; the next to finish takes from the front
        lane.match(record.submitted)
        if lane.waiting:
            self._seats.balance()
            self._refuse_stuck(record)

    def _refuse_stuck(self, record: CallRecord) -> None:
        """Fail a call that a host function waits for, and that no worker can ever take: every one
        has a guest that waits for a host function that waits for such a call."""
        if record.request.parent is None or record.worker is not None or record.finished:
            return
        workers = self._seats.workers
        if len(workers) == len(list(self._seats)) and all(
            worker.head is not None and _waits_in_vain(worker.head, set()) for worker in workers
        ):
            record.fail(
                errors.PoolError(
                    "every worker of the pool waits for a host function that waits for the pool",
                    "Pool(workers=) needs one more than host functions that call it at a time; "
                    "or use another pool for what they call",
                )
            )

    def submit_express(
        self, request: CallRequest, done: Callable[[Outcome], None]
    ) -> tuple[Loan, CallRecord] | None:
        """From any thread: send a simple call to an idle worker at once, if there is one.

        Returns the loan by which it was sent, of whose worker ``heed`` must be called in the trio
        thread soon; or ``None``: the call has to be submitted there as usual.
        """
        if request.timeout is not None or request.command is not None:
            return None
        if request.parent is not None or request.env:  # it is counted, or told of, there
            return None
        if request.batch is not None or request.luggage is not None:
            return None
        if request.profile.directories:  # it has to be seen whether they are still the same
            return None
        if self._life.failure is not None or self._walls.required or self._ward.occupied:
            return None
        lane = self._queues.find(request.profile)
        if lane is None:
            return None
        now = time.perf_counter() + self._clock_offset
        record = CallRecord(request, done, now, self._open.end)
        while lane.loans:
            try:
                loan = lane.loans.pop()
            except IndexError:  # another thread was quicker
                return None
            if loan.send(record):
                return loan, record
        return None

    # --- ends -----------------------------------------------------------------------------------

    def cancel(self, request: CallRequest) -> None:
        """Stop a call, wherever it is. Does nothing where it has ended."""
        self._open.cancel(request)

    def abandon(self, error: errors.SandboxError) -> None:
        """End all calls with a copy of ``error``."""
        self._queues.clear()
        self._open.abandon(error)
        for worker in self._seats.workers:
            if worker.records:
                worker.kill(Verdict("cancelled", "supervisor", str(error)))

    async def wait_idle(self) -> None:
        """Wait until every call has ended."""
        await self._open.wait_empty()

    # --- what workers need (Office) -------------------------------------------------------------

    def next_call(self) -> int:
        """A call number larger than all before."""
        return next(self._numbers)

    def adopt(self, record: CallRecord) -> None:
        """Take on a call that was sent by a loan."""
        request = record.request
        self._open.adopt(record)
        artifact = self.library.get(request.module, request.profile)
        if artifact is not None:
            record.artifact = artifact
            artifact.users += 1

    def artifact(self, record: CallRecord) -> tuple[int, ModuleDescription]:
        """Descriptor and description of the artifact that the call needs; its submission fetched
        it."""
        assert record.artifact is not None
        return record.artifact.descriptor, record.artifact.description

    def guard(self, metered: bool) -> tuple[int, ...]:
        """Descriptors of what stands between guests and WASI; a submission fetched it."""
        return self.library.guard(metered)

    def worker_forked(self, worker: Worker) -> None:
        """A worker's process is there."""
        self.report.worker_started(worker)

    def worker_gone(self, worker: Worker) -> None:
        """A worker is dead: no call goes to it, not even those that it gives back."""
        self._queues.gone(worker)
        self._seats.fill()

    def worker_died(self, worker: Worker, certificate: DeathCertificate) -> None:
        """Put the module that the worker died of into quarantine, if this was once too often."""
        self.report.worker_died(worker, certificate)
        batch = None if worker.head is None else worker.head.request.batch
        search = None if batch is None else batch.search
        if not certificate.modules or (search is not None and search.forgives()):
            return
        # The oldest: others are named only because a fallen worker says that it had begun them.
        key = worker.profile.tenant, certificate.modules[0]
        refusal = self._ward.died(key, certificate, trio.current_time())
        if refusal is None:
            return
        self.report.module_quarantined(refusal, worker.profile.tenant)
        for record in self._open:
            if record.worker is None and _key(record.request) == key:
                self._refuse(record, copy(refusal))

    def worker_ready(self, worker: Worker) -> None:
        """Take a worker into service."""
        # The first decides whether the pool starts at all (``Core.serve``).
        if self.first_ready.is_set() and not self.accept(worker):
            return
        assert worker.ready is not None
        self._walls.reported(worker.ready.walls, worker.ready.missing)
        self.report.worker_ready(worker)
        self.first_ready.set()
        self._seats.became_ready(worker)

    def accept(self, worker: Worker) -> bool:
        """Whether a worker that is READY has the walls that were asked for; it is ended if not."""
        assert worker.ready is not None
        try:
            self._walls.refuse_worker(worker.ready.walls, worker.ready.missing)
        except errors.IsolationError as error:
            worker.reject(str(error))
            return False
        return True

    def worker_has_room(self, worker: Worker, now: float) -> None:
        """A worker finished a call: recycle it, hand its seat on, or feed it."""
        if worker.asked is not None:
            return
        why = worker.recycle_reason(self._recycle)
        if why is not None:
            self._queues.gone(worker)
            worker.stop(Verdict("recycled", "supervisor", why))
            self._seats.fill()
        elif self._queues.only(worker.profile):
            lane = self._queues.lane(worker.profile)
            lane.feed(worker, now)
            if not worker.records:
                lane.lend(worker, self._recycle)
        else:
            # A worker that was made for its lane serves it for a while, before another may starve.
            if now - worker.born < STARVING or not self._seats.starving(worker.profile, now):
                self._queues.lane(worker.profile).feed(worker, now)
            else:
                self._seats.balance(worker)
            if not worker.records:
                self._seats.balance()

    def give_back(self, records: list[CallRecord]) -> None:
        """Queue calls again that were sent and not begun."""
        for record in records:
            record.worker = None
        if self._life.ending or self._life.failed:
            assert self._life.failure is not None
            for record in records:
                record.fail(copy(self._life.failure))
            return
        for record in records:
            try:
                self.refuse_quarantined(record.request)
            except errors.ModuleQuarantined as refusal:
                self._refuse(record, refusal)
        records = [record for record in records if not record.finished]
        for record in records:
            if record.artifact is None:  # it came by a loan, and its artifact was closed meanwhile
                self._life.start(self._prepare, record)
        records = [record for record in records if record.artifact is not None]
        now = trio.current_time()
        for lane in self._queues.add_first(records):
            lane.match(now)
        for record in records:
            self._refuse_stuck(record)


def _looping(request: CallRequest) -> BatchRequest | None:
    """The request's batch, where its records may share an instance."""
    batch = request.batch
    return None if batch is None or batch.mode == "fresh" or request.profile.metered else batch


def _waits_in_vain(record: CallRecord, seen: set[CallRecord]) -> bool:
    """Whether the call cannot go on unless a worker of the pool becomes free."""
    seen.add(record)
    worker = record.worker
    if worker is None:
        return not record.request.profile.stateful
    if worker.head is not record:
        return worker.head is not None and _unseen(worker.head, seen)
    return worker.host_calls.serving and any(_unseen(each, seen) for each in record.nested)


def _unseen(record: CallRecord, seen: set[CallRecord]) -> bool:
    return record not in seen and _waits_in_vain(record, seen)


def _key(request: CallRequest) -> Key:
    return request.profile.tenant, request.module.sha256.hex()
