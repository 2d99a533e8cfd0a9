"""The heart of a pool: its parts put together, their common life, and an orderly end.

Theory of operation. A pool has as many *seats* as workers (``seats``); the *keeper* has a zygote at
hand that forks them; the *dispatcher* matches calls to them. Everything runs in one trio thread, so
nothing here needs a lock. The inner nursery is shielded: when the outside is cancelled, ``serve``
first ends the workers and tidies up, then lets the cancellation through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from copy import copy

import trio

from ..protocol import errors, events
from ..protocol.capabilities import Capabilities
from ..protocol.isolation import EnforcementRow, Isolation, WallReport
from ..protocol.limits import Limits
from ..protocol.profile import Profile
from .actor import Actor, ActorOptions
from .actors import Actors
from .cache import ArtifactCache
from .calls import CallRecord
from .cgroups import CgroupError, sweep
from .compiler import Compilation, compile_module
from .dispatcher import Dispatcher
from .express import Loan
from .imports import rebuilding, served, serving
from .keeper import ZygoteKeeper
from .library import Library
from .life import Life
from .options import CoreOptions, WorkerSnapshot
from .quarantine import Ward
from .queues import Queues
from .requests import CallRequest, ModuleHandle, Outcome
from .seats import Seats
from .session import Session
from .shortages import pool_error, remedy
from .spawn import Launch
from .walls import Walls
from .worker import Worker
from .zygote import GOODBYE_SECONDS, ZygoteLost

__all__ = ["Core", "CoreOptions", "WorkerSnapshot"]

_log = logging.getLogger("wasm_sandbox")
COMPILERS = 2
"""Modules that are compiled at the same time."""


class Core:
    """One pool. All methods are called in the thread of the trio run that ``serve`` is in."""

    def __init__(self, options: CoreOptions, launch: Launch | None = None) -> None:
        self.options = options
        self.profile = Profile.of(options.limits, options.capabilities, runtime=options.runtime)
        self._life = Life(options.on_event, options.audit, self._failed)
        self._keeper = ZygoteKeeper(self._life, launch)
        self._walls = Walls(options.isolation, lambda: self._keeper.groups)
        self._ward = Ward(options.quarantine)
        self._queues = Queues()
        self._seats = Seats(options, self.profile, self._life, self._keeper, self._queues)
        self._calls = Dispatcher(
            options.recycle, self._life, self._walls, self._ward, self._queues, self._seats
        )
        self.mail = self._calls.mail
        """Held while several calls are submitted together, so that they travel together."""
        self.network = self._calls.network
        self._sessions: set[Session] = set()
        self._actors = Actors(self._calls, self._life, options.max_instances, self._session_for)
        self._closing = trio.Event()
        self._closed = trio.Event()
        self._compilers = trio.CapacityLimiter(COMPILERS)

    # --- life -----------------------------------------------------------------------------------

    @property
    def failure(self) -> errors.SandboxError | None:
        """What new calls are refused with; ``None`` while they are taken."""
        return self._life.failure

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the pool until ``close``; reports started when the first worker is READY.

        Raises:
            RestartIntensityReached: no worker could be started.
            IsolationError: a wall that was asked for cannot be built here.
        """
        try:
            await self._live(task_status)
        finally:
            self.discard()
            self._life.close()
            self._closed.set()

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        life = self._life
        library: Library | None = None
        try:
            async with trio.open_nursery() as life.nursery:
                life.start(self._keeper.run, self._seats.after)  # takes longest, so it goes first
                try:
                    library = await self._open()
                    life.start(self._calls.timeouts.run)
                    for seat in self._seats:
                        life.start(self._seats.keep, seat, self._calls)
                    await self._calls.first_ready.wait()
                    if self.failure is not None:
                        raise self.failure
                    self._walls.refuse_gaps(self.options.limits, self.profile)
                    self._report_start()
                    task_status.started()
                    await self._closing.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end()
                    life.cancel()
        finally:
            if library is not None:
                library.close()
            try:
                self._keeper.remove_groups()
            except CgroupError as error:
                _log.warning("%s", error)
            life.emit(events.PoolStopped(when=time.time()))

    def discard(self) -> None:
        """End a zygote that was launched for this core and that it did not come to use."""
        self._keeper.discard()

    async def _open(self) -> Library:
        """What calls need before workers are there."""
        await trio.to_thread.run_sync(sweep)
        cache = await trio.to_thread.run_sync(_open_cache, self.options.cache_dir)
        library = Library(cache, self._keeper.hello, self._compile, self._ward, self._calls.report)
        self._calls.open(library)
        return library

    def _report_start(self) -> None:
        asked = self.options.isolation
        isolation = ",".join(sorted(asked.require)) if isinstance(asked, Isolation) else asked
        reports = self._walls.reports()
        self._life.emit(
            events.PoolStarted(
                when=time.time(),
                workers=self.options.workers,
                isolation=isolation,
                walls=tuple(each.wall for each in reports if each.stands),
                missing=tuple((each.wall, each.reason) for each in reports if not each.stands),
                gaps=tuple(row.field for row in self.enforcement() if row.gap),
            )
        )

    async def close(self, *, cancel: bool) -> None:
        """End the pool. With ``cancel`` at once; otherwise when all submitted calls are done."""
        self._life.refuse(errors.PoolClosed("the pool was shut down", "make a new Pool"))
        if cancel:
            self._abandon(errors.PoolClosed("the pool was shut down before the call was done"))
        await self._calls.wait_idle()
        await self._actors.close()
        self._closing.set()
        await self._closed.wait()

    def _failed(self, error: errors.SandboxError) -> None:
        self._calls.first_ready.set()
        self._keeper.wake()
        self._abandon(error)

    def _abandon(self, error: errors.SandboxError) -> None:
        self._calls.abandon(error)
        self._actors.abandon(error)

    async def _end(self) -> None:
        self._life.ending = True
        self._life.refuse(errors.PoolClosed("the pool was shut down", "make a new Pool"))
        self._keeper.wake()
        if self.failure is not None and not isinstance(self.failure, errors.PoolClosed):
            self._abandon(self.failure)
        else:
            self._abandon(errors.PoolClosed("the pool was shut down before the call was done"))
        self._seats.stop()
        for session in self._sessions:
            session.abort()
        with trio.move_on_after(GOODBYE_SECONDS):
            await self._workers_gone()
        if self._keeper.zygote is not None and (self._seats.workers or self._sessions):
            self._keeper.zygote.kill()  # it is frozen, or worse; its workers go with it
            with trio.move_on_after(GOODBYE_SECONDS):
                await self._workers_gone()
        await self._calls.leftovers.wait()

    async def _workers_gone(self) -> None:
        await self._seats.wait_empty()
        for session in tuple(self._sessions):
            await session.wait_over()

    # --- calls ----------------------------------------------------------------------------------

    def submit(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        """Queue a call: as ``Dispatcher.submit``."""
        self._calls.submit(request, done)

    def submit_express(
        self, request: CallRequest, done: Callable[[Outcome], None]
    ) -> tuple[Loan, CallRecord] | None:
        """From any thread: as ``Dispatcher.submit_express``."""
        return self._calls.submit_express(request, done)

    def cancel(self, request: CallRequest) -> None:
        """Stop a call, wherever it is. Does nothing where it has ended."""
        self._calls.cancel(request)

    def forgo(self, request: CallRequest) -> None:
        """A call was cancelled before it came here: what it brings is dropped, as of any other."""
        if request.luggage is not None:
            self._calls.leftovers.take(request.luggage.brought, request.profile.tenant)

    def is_waited_for(self) -> bool:
        """From any thread: whether the caller is a host function for which a call of this pool
        waits, or the ``on_restart`` of one of its instances."""
        return served(serving.get(), self.mail) is not None or rebuilding.get() in self._actors

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        """Start a task that ends with the pool, at the latest."""
        self._life.start(task)

    # --- modules and sessions -------------------------------------------------------------------

    async def load(self, source: bytes, limits: Limits, *, metered: bool = False) -> ModuleHandle:
        """Compile a module, or take it from the cache.

        Raises:
            ModuleError: it cannot be used here.
            PoolError: the pool was closed, or has failed.
        """
        if self.failure is not None:
            raise copy(self.failure)
        return await self._calls.library.load(source, limits, metered=metered)

    async def open_session(self, limits: Limits, capabilities: Capabilities) -> Session:
        """A worker of its own, beside the seats, whose instances keep their state.

        Raises:
            WorkerLost, PoolError: no worker could be had.
        """
        if self.failure is not None:
            raise copy(self.failure)
        profile = Profile.of(limits, capabilities, stateful=True)
        return await self._start_session(Session(self._calls, limits, profile))

    async def open_instance(self, options: ActorOptions, *, supervised: bool = False) -> Actor:
        """An instance with a worker of its own, beside the seats, a mailbox and a policy, or where
        it is ``supervised``, a tree that restarts it.

        Raises: as ``Actors.open``.
        """
        return await self._actors.open(options, supervised=supervised)

    async def _session_for(self, actor: Actor) -> Session:
        options = actor.options
        return await self._start_session(
            Session(self._calls, options.limits, actor.profile, owner=actor)
        )

    async def _start_session(self, session: Session) -> Session:
        zygote = await self._keeper.living()
        try:
            worker = Worker(
                self._keeper.next_number(), session.profile, zygote, self._keeper.groups, session
            )
        except (OSError, CgroupError) as error:
            raise pool_error("no worker could be made", error) from error
        self._sessions.add(session)
        self._life.start(self._keep_session, session, worker)
        try:
            await session.wait_ready()
        except trio.Cancelled:
            session.abort()
            raise
        return session

    async def _keep_session(self, session: Session, worker: Worker) -> None:
        await session.live(worker)
        self._sessions.discard(session)

    async def _compile(self, source: bytes, limits: Limits, metered: bool) -> Compilation:
        async with self._compilers:
            zygote = await self._keeper.living()
            try:
                return await compile_module(
                    source,
                    limits,
                    metered=metered,
                    number=self._keeper.next_number(),
                    zygote=zygote,
                    hierarchy=self._keeper.groups,
                )
            except ZygoteLost as error:
                raise errors.PoolError("the zygote died while a module was compiled") from error
            except (OSError, CgroupError) as error:
                raise pool_error("no compiler could be started", error) from error

    # --- what others see ------------------------------------------------------------------------

    def enforcement(self) -> tuple[EnforcementRow, ...]:
        """For each field of the policy, the walls that enforce it on this machine."""
        return self._walls.rows(self.options.limits, self.profile)

    def walls(self) -> tuple[WallReport, ...]:
        """Every wall that this version can build, and whether it stands here."""
        return self._walls.reports()

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """The workers of this moment."""
        now = trio.current_time()
        return tuple(
            WorkerSnapshot(
                number=worker.number,
                pid=worker.pid,
                phase=worker.phase,
                tenant=worker.profile.tenant,
                calls=worker.calls,
                waiting=len(worker.records),
                age=now - worker.born,
                spare=seat.spare,
                cpu_time=worker.cpu_time(),
                memory=worker.memory(),
            )
            for seat in self._seats
            if (worker := seat.worker) is not None
        )


def _open_cache(directory: str | None) -> ArtifactCache:
    if directory is None:
        return ArtifactCache.open()
    try:
        return ArtifactCache(directory)
    except OSError as error:
        raise errors.ConfigurationError(
            "cache_dir",
            directory,
            f"cannot hold the cache: {error.strerror or error}",
            remedy(error, "name a directory of your own that nobody else can write to"),
        ) from None
