"""The pool for trio: the same words as ``Pool``, awaited; cancelling a scope stops its guests."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Never

import trio

from .batching import LARGE, BatchRoom, batch_request
from .buffers import BufferMap
from .callee import Settings
from .calls import (
    CompletedRun,
    build_request,
    check_owner,
    checked,
    conclude,
    innermost,
    main_of,
    pool_full,
)
from .chunks import Chunks, are_chunks
from .configuration import (
    CAPABILITIES,
    LIMITS,
    MAILBOX,
    MAX_INSTANCES,
    MAX_PENDING,
    QUARANTINE,
    RECYCLE,
    RESTART,
    Configuration,
    Walls,
    WhenFull,
    usable_processors,
)
from .function import Function
from .imports import Imports, read_imports
from .linking import link
from .module import Module
from .options import OnOutput, Stdin
from .protocol.capabilities import Capabilities
from .protocol.errors import PoolError
from .protocol.events import Event
from .protocol.isolation import EnforcementRow, WallReport
from .protocol.limits import Limits
from .protocol.policies import Quarantine, Recycle, RestartPolicy, RestartType
from .protocol.receipts import Receipt
from .runners import TrioRunner
from .sources import Memory, Source, naming, read
from .streaming import stream
from .supervisor.batches import Piece
from .supervisor.requests import CallRequest, Outcome
from .trio_chunks import ValueStream
from .trio_instance import TrioInstance, open_instance
from .trio_process import TrioProcess, run_to_end
from .waiting import Room, outcome_of

if TYPE_CHECKING:
    from .supervisor.audit import AuditLog
    from .supervisor.core import Core, WorkerSnapshot


class TrioPool:
    """A pool inside your own trio run. Get it by ``async with open_pool() as pool:``."""

    def __init__(self, configuration: Configuration, core: Core) -> None:
        self._configuration = configuration
        self._core = core
        workers = configuration.workers or usable_processors()
        self._host_functions = TrioRunner(workers, core.start)
        self._memory = Memory()
        self._room = Room(configuration.max_pending, configuration.when_full, pool_full)

    @property
    def core(self) -> Core:
        """Its supervisor."""
        return self._core

    @property
    def configuration(self) -> Configuration:
        """What it was made with."""
        return self._configuration

    async def load(
        self,
        source: Source,
        *,
        imports: Imports | None = None,
        worker_imports: Imports | None = None,
    ) -> Module:
        """Load a module: as ``Pool.load``. Coroutine functions run in this trio run."""
        given = read_imports(imports, worker_imports)
        await trio.lowlevel.checkpoint()
        known = None if given else self._memory.find(source)
        if known is not None and self._core.failure is None:
            return known
        limits = self._configuration.limits
        content = await trio.to_thread.run_sync(read, source, limits.module_size)
        metered = limits.fuel is not None
        with naming(content):
            handle = await self._core.load(content.data, limits, metered=metered)
            handle = link(given, handle, self._host_functions)
        module = Module(self, handle, content.name)
        if given:
            return module
        self._memory.remember(content, module)
        return module

    def instance(
        self,
        module: Module,
        /,
        *,
        restart: RestartType = "transient",
        policy: RestartPolicy = RESTART,
        limits: Limits | None = None,
        capabilities: Capabilities | None = None,
        tenant: str | None = None,
        mailbox: int = MAILBOX,
        on_restart: Callable[[TrioInstance], object] | None = None,
        on_output: OnOutput | None = None,
    ) -> AbstractAsyncContextManager[TrioInstance]:
        """An instance that keeps its state, for an ``async with``: as ``Pool.instance``.

        ``on_restart`` may be asynchronous; it runs in this trio run.
        """
        settings = Settings(
            self,
            module,
            restart=restart,
            policy=policy,
            limits=limits,
            capabilities=capabilities,
            tenant=tenant,
            mailbox=mailbox,
            on_restart=on_restart,
            on_output=on_output,
        )
        return open_instance(self._core, settings, self._configuration.when_full, on_restart)

    async def call(self, function: Function, /, *args: Any, **keywords: Never) -> Any:
        """Call a function and wait for its value. Cancelled, it returns when the guest has stopped.

        Waits while ``max_pending`` calls are not over, or raises ``QueueFull``.

        Raises:
            SandboxError: as the error tree has it.
        """
        return (await self.detailed(function, *args, **keywords))[0]

    async def detailed(
        self, function: Function, /, *args: Any, **keywords: Never
    ) -> tuple[Any, Receipt]:
        """Call a function and wait for its value and its receipt."""
        await trio.lowlevel.checkpoint_if_cancelled()
        request = build_request(check_owner(self, function, "call", keywords), args, waits=True)
        await self._room.enter(request)
        try:
            return await self._carry_out(function, request)
        finally:
            self._room.leave()

    async def _carry_out(self, function: Function, request: CallRequest) -> tuple[Any, Receipt]:
        outcome = await outcome_of(self._core, request)
        value, error = conclude(function, request, outcome)
        if error is not None:
            raise error
        return value, outcome.receipt

    async def map_buffers(self, function: Function, /, *columns: Any, out: Any = None) -> Any:
        """Call a function for every record of some columns of numbers: as ``Pool.map_buffers``.

        Each batch of them takes the place of one call in ``max_pending``. Cancelled, it returns
        when the guests have stopped.
        """
        function = check_owner(self, function, "map_buffers")
        task = BufferMap(function, columns, out)
        await trio.lowlevel.checkpoint_if_cancelled()
        room = BatchRoom(function, self._configuration, LARGE)
        under_way: deque[tuple[Piece, _Pending]] = deque()

        async def begin(piece: Piece, columns: bytes) -> tuple[Piece, _Pending]:
            request = batch_request(function, piece, columns, waits=True)
            # One of ours that ends makes room.
            await self._room.enter(request, patient=bool(under_way))
            return piece, _Pending(self._core, request, self._room)

        try:
            while True:
                while task.has_room(room, function.pace, [piece for piece, _ in under_way]):
                    under_way.append(await begin(*task.take(function.pace, room.most)))
                if not under_way:
                    return task.result
                piece, pending = under_way[0]
                outcome = await pending.end()
                function.pace.learn(outcome)
                del under_way[0]
                for taken in reversed(task.store(piece, outcome)):
                    under_way.appendleft(await begin(*taken))
        finally:
            with trio.CancelScope(shield=True):
                for _, pending in reversed(under_way):
                    pending.stop()
                for _, pending in under_way:
                    await pending.end()

    async def run(
        self,
        app: Module | Function,
        *argv: str | bytes | os.PathLike[str],
        stdin: Stdin | Chunks = b"",
        env: Mapping[str, str] | None = None,
        argv0: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        limits: Limits | None = None,
        capabilities: Capabilities | None = None,
        on_output: OnOutput | None = None,
    ) -> CompletedRun:
        """Run a WASI command and wait for its end: as ``Pool.run``. Chunks may be asynchronous."""
        if are_chunks(stdin):
            async with self.start(
                app,
                *argv,
                stdin=stdin,
                env=env,
                argv0=argv0,
                timeout=timeout,
                limits=limits,
                capabilities=capabilities,
            ) as process:
                return checked(await run_to_end(process, on_output), check)
        main = main_of(
            app,
            stdin=None if stdin == b"" else stdin,
            env=env,
            argv0=argv0,
            timeout=timeout,
            limits=limits,
            capabilities=capabilities,
            on_output=on_output,
        )
        completed: CompletedRun = await self.call(main, *argv)
        return checked(completed, check)

    @asynccontextmanager
    async def start(
        self,
        app: Module | Function,
        *argv: str | bytes | os.PathLike[str],
        stdin: Stdin | Chunks | None = None,
        env: Mapping[str, str] | None = None,
        argv0: str | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
        capabilities: Capabilities | None = None,
    ) -> AsyncGenerator[TrioProcess]:
        """Start a WASI command, whose standard streams are read and written while it runs: as
        ``Pool.start``, with trio's streams. Chunks may be asynchronous; those that are not are
        asked for in a thread. The end of the block returns when the guest has stopped.
        """
        main = main_of(
            app, env=env, argv0=argv0, timeout=timeout, limits=limits, capabilities=capabilities
        )
        await trio.lowlevel.checkpoint_if_cancelled()
        request, pipes, chunks = stream(check_owner(self, main, "start"), argv, stdin, bells=False)

        async def call() -> CompletedRun:
            completed: CompletedRun = (await self._carry_out(main, request))[0]
            return completed

        process = TrioProcess(pipes, chunks, call)
        failure: BaseException | None = None
        try:
            await self._room.enter(request)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(process.live)
                    # What the block raises passes by the nursery, which would wrap it in a group.
                    try:
                        yield process
                    except BaseException as error:
                        failure = error
                    nursery.cancel_scope.cancel()
            finally:
                self._room.leave()
        finally:
            process.close()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def stream(
        self, function: Function, chunks: Iterable[Any] | AsyncIterable[Any], /
    ) -> AsyncGenerator[ValueStream]:
        """As ``function.stream(chunks)``."""
        function, settings = check_owner(self, function, "stream"), function.settings
        async with (
            self.instance(
                function.module,
                restart="temporary",
                limits=settings.limits,
                capabilities=settings.capabilities,
                tenant=settings.tenant,
            ) as instance,
            instance.stream(
                function.name, chunks, returns=settings.returns, timeout=settings.timeout
            ) as values,
        ):
            yield values

    def enforcement(self) -> tuple[EnforcementRow, ...]:
        """For each field of the policy, the walls that enforce it here, and those missing."""
        return self._core.enforcement()

    def walls(self) -> tuple[WallReport, ...]:
        """Every wall that this version can build, and whether it stands here."""
        return self._core.walls()

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """The workers as they are now."""
        return self._core.workers()

    def wait_for(self, function: Function, args: tuple[Any, ...]) -> tuple[Any, Receipt]:
        """Refuse: blocking would stop the very loop that does the work.

        Raises:
            PoolError: always.
        """
        raise PoolError(
            f"{function.name}() would block, and its pool is a trio pool",
            "write `await pool.call(function, ...)`",
        )


class _Pending:
    """A batch that is under way; it holds a slot until it is over."""

    def __init__(self, core: Core, request: CallRequest, room: Room) -> None:
        self._core = core
        self._request = request
        self._room = room
        self._over = trio.Event()
        self._outcome: Outcome | None = None
        core.submit(request, self._done)

    def _done(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._room.leave()
        self._over.set()

    async def end(self) -> Outcome:
        """Wait for its outcome."""
        await self._over.wait()
        assert self._outcome is not None
        return self._outcome

    def stop(self) -> None:
        """Stop its guest."""
        self._core.cancel(self._request)


@asynccontextmanager
async def open_pool(
    workers: int | None = None,
    *,
    runtime: str = "wasmtime",
    limits: Limits = LIMITS,
    capabilities: Capabilities = CAPABILITIES,
    isolation: Walls = "best-effort",
    restart: RestartPolicy = RESTART,
    recycle: Recycle = RECYCLE,
    spares: int = 0,
    quarantine: Quarantine | None = QUARANTINE,
    cache_dir: str | os.PathLike[str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    audit: AuditLog | str | os.PathLike[str] | None = None,
    max_pending: int = MAX_PENDING,
    when_full: WhenFull = "wait",
    max_instances: int = MAX_INSTANCES,
) -> AsyncGenerator[TrioPool]:
    """A pool for trio, with the keywords of ``Pool``; the end of the block ends it.

    Errors of the block come out as they are, not in a group. Where the block fails or is cancelled,
    the calls of other tasks are cancelled; otherwise they are finished first.

    Raises:
        ConfigurationError: a value that cannot be used.
        IsolationError: a wall that was asked for cannot be built here.
        RestartIntensityReached: no worker could be started.
    """
    configuration = Configuration(
        workers=workers,
        runtime=runtime,
        limits=limits,
        capabilities=capabilities,
        isolation=isolation,
        restart=restart,
        recycle=recycle,
        spares=spares,
        quarantine=quarantine,
        cache_dir=cache_dir,
        on_event=on_event,
        audit=audit,
        max_pending=max_pending,
        when_full=when_full,
        max_instances=max_instances,
    )
    core = configuration.make_core()
    failure: BaseException | None = None
    serving = trio.CancelScope()

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        with serving:
            await core.serve(task_status=task_status)

    async with trio.open_nursery() as nursery:
        # What the block raises passes by the nursery, which would wrap it in a group.
        try:
            await nursery.start(serve)
        except BaseException as error:
            failure = error
        else:
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                # Until now a cancellation from outside ended the pool itself. From now on it ends
                # the block, and the end of the block ends the pool.
                serving.shield = True
                yield TrioPool(configuration, core)
            except BaseException as error:
                failure = error
            with trio.CancelScope(shield=True):
                await core.close(cancel=failure is not None)
    if failure is not None:
        raise innermost(failure)
