"""The synchronous pool: a ``concurrent.futures.Executor`` for functions of WebAssembly modules."""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, NoReturn, TypeVar

from .batching import (
    LARGE,
    BatchFuture,
    BatchRoom,
    batch_request,
    map_records,
    mode_of,
    with_room,
)
from .buffers import BufferMap
from .calls import CompletedRun, build_request, check_owner, checked, main_of
from .chunks import Chunks, are_chunks
from .columns import Rows
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
from .future import CallFuture
from .imports import Imports, read_imports
from .linking import link
from .mapping import map_calls
from .module import Module
from .options import OnOutput, Stdin
from .process import Process, run_to_end, start
from .protocol.capabilities import Capabilities
from .protocol.errors import PoolError, SandboxError
from .protocol.events import Event
from .protocol.isolation import EnforcementRow, WallReport
from .protocol.limits import Limits, check_number
from .protocol.policies import Quarantine, Recycle, RestartPolicy, RestartType
from .protocol.receipts import Receipt
from .sources import Memory, Source, naming, read
from .supervisor.batches import Piece

if TYPE_CHECKING:
    from .instance import Instance
    from .supervisor.audit import AuditLog
    from .supervisor.core import Core, WorkerSnapshot
    from .thread import CoreThread

T = TypeVar("T")


class Pool(Executor):
    """Worker processes that run untrusted WebAssembly; ``with Pool() as pool:`` ends them all.

    Args:
        workers: how many at most; by default one for each processor that this process may use.
        runtime: the engine, ``"wasmtime"``.
        limits: what each call may use, unless ``Function.options`` says otherwise.
        capabilities: what each guest may reach, likewise.
        isolation: ``"strict"`` refuses to start where something that the policy says is enforced by
            no wall of this machine; ``"best-effort"`` uses every wall that there is, and
            ``enforcement`` tells; an ``Isolation`` names the walls that must stand.
        restart: how often workers may die on their own before the pool gives up.
        recycle: when healthy workers are replaced.
        spares: how many workers more stand ready behind their walls, to take at once the place of
            one of the same profile that died or is recycled. Each costs the memory of an idle
            worker, some 5 MiB.
        quarantine: when a module is refused because its calls keep crashing workers; ``None`` is
            never.
        cache_dir: where compiled modules are kept; a private directory of yours by default.
        on_event: called with each ``Event``, in the pool's thread; must be quick.
        audit: a file, or an ``AuditLog``, to which each event is appended as a line of JSON.
        max_pending: how many calls may be submitted and not over. A cancelled one makes room as
            soon as its guest is told to stop, for at most as many that have not stopped yet.
        when_full: whether ``submit`` then waits, or raises ``QueueFull``.
        max_instances: how many instances there may be at a time; each has a worker of its own.

    A pool may be used from all threads, but not in a forked child. One that is never shut down is
    shut down when the interpreter ends: it finishes the calls that were submitted, or cancels them
    if the program ends by an exception.

    Raises:
        ConfigurationError: a value that cannot be used.
        IsolationError: a wall that was asked for cannot be built here.
        RestartIntensityReached: no worker could be started.
    """

    def __init__(
        self,
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
    ) -> None:
        if sys.is_finalizing():  # a thread would not run, and its start be waited for
            raise PoolError("no pool can be made: the interpreter is ending", "make it earlier")
        self._configuration = Configuration(
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
        self._memory = Memory()
        core = self._configuration.make_core()
        try:
            from .thread import CoreThread  # imports trio, while the zygote comes up

            self._thread = CoreThread(self._configuration, core)
        except BaseException:
            core.discard()
            raise
        # The thread does not know the pool, so a pool that nobody holds ends.
        weakref.finalize(self, self._thread.close, cancel=True).atexit = False

    @property
    def thread(self) -> CoreThread:
        """Where its supervisor lives."""
        return self._thread

    @property
    def configuration(self) -> Configuration:
        """What it was made with."""
        return self._configuration

    def load(
        self,
        source: Source,
        *,
        imports: Imports | None = None,
        worker_imports: Imports | None = None,
    ) -> Module:
        """Load a module: compile it in a jailed process, or take it from the cache.

        Args:
            source: a path of a ``.wasm`` or ``.wat`` file, the content of one as bytes, or a
                ``Snapshot`` of an instance.
            imports: functions of this process that it imports, by module and name: callables, or a
                ``HostFunction`` with bounds of its own; see docs/host-functions.md. The same source
                loaded with other functions is another module.
            worker_imports: the same for small, pure functions of numbers, which are pickled and run
                in the worker, in its jail, beside the guest.

        Raises:
            ConfigurationError: no file that can be read, source code of another language, or a
                function that cannot be used, or that the module does not import.
            MissingImport: ``imports`` lacks something that the module imports.
            SignatureMismatch: a function does not fit its import.
            ModuleError: not valid, not supported, or beyond the limits for compiling.
        """
        given = read_imports(imports, worker_imports)
        self._thread.check_process()
        known = None if self._thread.closed or given else self._memory.find(source)
        if known is not None:
            return known
        limits = self._configuration.limits
        content = read(source, limits.module_size)
        metered = limits.fuel is not None
        with naming(content):
            handle = self._thread.run(lambda core: core.load(content.data, limits, metered=metered))
            handle = link(given, handle, self._thread.host_functions)
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
        on_restart: Callable[[Instance], object] | None = None,
        on_output: OnOutput | None = None,
    ) -> Instance:
        """Make an instance that keeps its state from call to call, in a worker process of its own,
        beside the pool's ``workers``. It lives until it is closed, or the pool is.

        Args:
            module: what it is an instance of. Its imports are as those of any module;
                ``_initialize`` is called where that is exported.
            restart: when another worker takes the place of one that died: ``"permanent"`` always,
                ``"transient"`` unless the guest ended itself with exit code 0, ``"temporary"``
                never.
            policy: how often that may happen: more than ``intensity`` deaths within ``period``,
                and it is over (``RestartIntensityReached``). All its deaths count, also those that
                a call caused.
            limits: instead of the pool's; ``memory`` is for the instance, times, ``fuel`` and
                ``output`` are for each call.
            capabilities: instead of the pool's; they hold for as long as it lives.
            tenant: as for ``Function.options``.
            mailbox: calls that may be submitted and not over; for more, ``submit`` does what the
                pool's ``when_full`` says.
            on_restart: called with the instance after each restart, to rebuild its state; its own
                calls are served before those that wait. What it raises is a failed restart. It
                runs in a thread of its own.
            on_output: called with (1 or 2, bytes) as the guest writes: as for ``Function.options``.

        Raises:
            ConfigurationError: a value that cannot be used.
            PoolError: the pool has ``max_instances`` already, or was shut down.
            SandboxError: the instance did not come to be.
        """
        from .callee import Settings
        from .instance import open_instance

        return open_instance(
            self._thread,
            Settings(
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
            ),
            on_restart,
        )

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Queue a call of a ``Function``; arguments that do not fit are the future's exception.

        Raises:
            TypeError: not a ``Function``; or (as ``SignatureMismatch``) keyword arguments.
            ConfigurationError: a function of another pool.
            PoolClosed: the pool was shut down.
            QueueFull: too many calls, and ``when_full`` is ``"raise"``.
        """
        return self._submit(check_owner(self, fn, "submit", kwargs), args)

    def _submit(
        self, function: Function, args: tuple[Any, ...], *, waits: bool = False
    ) -> CallFuture:
        try:
            request = build_request(function, args, waits=waits)
        except SandboxError as error:
            self._thread.check_open()
            refused = CallFuture(function, None, self._thread)
            refused.fail(error)
            return refused
        future = CallFuture(function, request, self._thread)
        self._thread.submit(future)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """The values of ``fn`` for the items of ``iterables``, in order.

        Inputs are consumed lazily, a bounded number ahead of what was taken. Where an input raises,
        the values before it come first, then that exception. Where a value fails, or the iterator
        is closed, the rest is cancelled.

        Args:
            fn: a ``Function``.
            iterables: arguments, one iterable for each parameter; the shortest ends it.
            timeout: seconds from now until the last value, or ``None``; when they are over, only
                values that are there already still come.
            chunksize: a hint, for compatibility.

        Raises:
            TimeoutError: from the iterator, when a value is not there in time.
        """
        function = check_owner(self, fn, "map")
        check_number("map.chunksize", chunksize, 1, 1 << 31, whole=True)
        check_number("map.timeout", timeout, -1 << 31, 1 << 31, whole=False, optional=True)
        mode = mode_of(function)
        if mode is not None and len(iterables) == len(function.numbers.type.params):
            pace = function.pace
            if not pace.known:
                pace.begin(chunksize)
            return map_records(
                function,
                Rows(function.numbers.type, iterables),
                partial(self._begin, function),
                self._configuration,
                mode=mode,
                pace=pace,
                timeout=timeout,
            )
        workers = self._configuration.workers or usable_processors()
        return map_calls(
            lambda *args: self.submit(function, *args),
            zip(*iterables),  # noqa: B905 - the shortest ends it, as in Executor.map
            window=max(min(self._configuration.max_pending, 256 * workers), 1),
            timeout=timeout,
        )

    def map_buffers(self, fn: Callable[..., T], /, *columns: Any, out: Any = None) -> Any:
        """Call ``fn`` for every record of some columns of numbers, and wait for all results.

        As ``map``, with buffers on both sides instead of Python's values, which cost more than the
        calls: ``array.array``, ``memoryview``, NumPy's arrays. They must not change meanwhile.

        Args:
            fn: a ``Function`` of numbers, in a module that imports nothing.
            columns: a buffer for each parameter, of just its type (``array('i')`` for i32, ``'q'``
                for i64, ``'f'``, ``'d'``; 16 bytes for each v128), all of one length. Nothing is
                converted; an unsigned item of the same size is the same number.
            out: where the results go, a buffer of just that type and length; several for several
                results. By default new ones.

        Returns:
            ``out``, or else a ``memoryview`` of the results; several are a tuple, none is ``None``.

        Raises:
            SandboxError: the first record that failed; its number is ``.record``. The results of
                those before it are in ``out``.
            SignatureMismatch: columns that do not fit.
            ConfigurationError: calls of this function cannot travel together.
        """
        function = check_owner(self, fn, "map_buffers")
        task = BufferMap(function, columns, out)
        self._thread.check_open()
        self._thread.check_may_wait()
        room = BatchRoom(function, self._configuration, LARGE)
        under_way: deque[tuple[Piece, BatchFuture]] = deque()

        def begin(piece: Piece, columns: bytes) -> tuple[Piece, BatchFuture]:
            ours = [future for _, future in under_way]
            start = partial(self._begin, function, piece, columns, waits=True)
            return piece, with_room(start, ours, None)

        try:
            while True:
                while task.has_room(room, function.pace, [piece for piece, _ in under_way]):
                    under_way.append(begin(*task.take(function.pace, room.most)))
                if not under_way:
                    return task.result
                piece, future = under_way[0]
                outcome = future.result()
                function.pace.learn(outcome)
                del under_way[0]
                for taken in reversed(task.store(piece, outcome)):
                    under_way.appendleft(begin(*taken))
        finally:
            while under_way:
                under_way.pop()[1].cancel()

    def _begin(
        self, function: Function, piece: Piece, columns: bytes, *, waits: bool = False
    ) -> BatchFuture:
        request = batch_request(function, piece, columns, waits=waits)
        future = BatchFuture(function, request, self._thread)
        self._thread.submit(future)
        return future

    def wait_for(self, function: Function, args: tuple[Any, ...]) -> tuple[Any, Receipt]:
        """Call and block until value and receipt are there; an interruption stops the guest."""
        self._thread.check_may_wait()
        future = self._submit(function, args, waits=True)
        try:
            return future.result(), future.receipt
        finally:
            future.cancel()  # does nothing unless the wait was interrupted

    def detailed(self, function: Function, /, *args: Any, **keywords: Never) -> tuple[Any, Receipt]:
        """Call and wait for the value and the receipt."""
        return self.wait_for(check_owner(self, function, "detailed", keywords), args)

    def run(
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
        """Run a WASI command and wait for its end, as ``subprocess.run`` runs a program.

        Args:
            app: the command's module, or ``module.main`` with options.
            argv: its arguments, without its own name.
            stdin: its standard input: bytes, an open descriptor or file, or chunks as for
                ``start``.
            env: its environment, and itself the grant; ``None`` is what the capability grants.
            argv0: its name for itself; the file's by default.
            check: raise ``GuestExit`` unless it exits with 0.
            timeout: seconds until ``DeadlineExceeded``.
            limits: instead of the pool's.
            capabilities: instead of the pool's.
            on_output: as for ``Function.options``.

        Raises:
            MissingExport: not a command.
            SandboxError: it trapped, was stopped by a limit, or lost its worker.
        """
        if are_chunks(stdin):
            process = self.start(
                app,
                *argv,
                stdin=stdin,
                env=env,
                argv0=argv0,
                timeout=timeout,
                limits=limits,
                capabilities=capabilities,
            )
            return checked(run_to_end(process, on_output), check)
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
        completed: CompletedRun = self.wait_for(check_owner(self, main, "run"), argv)[0]
        return checked(completed, check)

    def start(
        self,
        app: Module | Function,
        *argv: str | bytes | os.PathLike[str],
        stdin: Stdin | Chunks | None = None,
        env: Mapping[str, str] | None = None,
        argv0: str | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
        capabilities: Capabilities | None = None,
    ) -> Process:
        """Start a WASI command, whose standard streams are read and written while it runs.

        ``with pool.start(app) as process:``; docs/streams.md has all of it. A pipe of 64 KiB is all
        that is under way of a stream: a guest that writes more waits until it is read, and
        ``Limits.idle_time`` does not count that, but ``Limits.wall_time`` does. ``Limits.output``
        bounds what the command may write in all.

        Args:
            app: as for ``run``; a call that may be begun again (``retries``) is refused.
            argv: as for ``run``.
            stdin: its standard input: chunks, which are asked for as the guest takes them (an
                iterable, or a function that gives ``b""`` at the end), bytes, or an open descriptor
                or file; ``None`` makes ``process.stdin``, to be written to.
            env: as for ``run``.
            argv0: as for ``run``.
            timeout: as for ``run``.
            limits: as for ``run``.
            capabilities: as for ``run``.

        Raises:
            MissingExport: not a command.
            ConfigurationError: a value that cannot be used.
            PoolClosed: the pool was shut down.
            PoolError: no descriptor or thread is left.
        """
        main = main_of(
            app, env=env, argv0=argv0, timeout=timeout, limits=limits, capabilities=capabilities
        )
        return start(self._thread, check_owner(self, main, "start"), argv, stdin)

    def stream(self, function: Function, chunks: Iterable[Any], /) -> Iterator[Any]:
        """As ``function.stream(chunks)``."""
        function, settings = check_owner(self, function, "stream"), function.settings
        with self.instance(
            function.module,
            restart="temporary",
            limits=settings.limits,
            capabilities=settings.capabilities,
            tenant=settings.tenant,
        ) as instance:
            yield from instance.stream(
                function.name, chunks, returns=settings.returns, timeout=settings.timeout
            )

    def enforcement(self) -> tuple[EnforcementRow, ...]:
        """For each field of the policy, the walls that enforce it here, and those missing."""

        async def ask(core: Core) -> tuple[EnforcementRow, ...]:
            return core.enforcement()

        return self._thread.run(ask)

    def walls(self) -> tuple[WallReport, ...]:
        """Every wall that this version can build, and whether it stands here."""

        async def ask(core: Core) -> tuple[WallReport, ...]:
            return core.walls()

        return self._thread.run(ask)

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """The workers as they are now."""

        async def ask(core: Core) -> tuple[WorkerSnapshot, ...]:
            return core.workers()

        return self._thread.run(ask)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls and end all workers; may be called again.

        Args:
            wait: until all is over and nothing is left. An interruption cancels all calls.
            cancel_futures: cancel the calls that are not over, instead of finishing them.
        """
        self._thread.close(cancel=cancel_futures)
        if wait:
            self._thread.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the calls; where the block failed, cancel them."""
        self.shutdown(cancel_futures=kind is not None)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Pool, its modules and their functions belong to one process and cannot be pickled; "
            "make a Pool in the other one"
        )

    def __repr__(self) -> str:
        state = "closed" if self._thread.closed else f"{self._thread.pending} calls pending"
        return f"<Pool of {self._configuration.workers or usable_processors()} workers, {state}>"
