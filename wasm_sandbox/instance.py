"""An instance that keeps its state, as an actor: the synchronous face of it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from .callee import Callee, Settings, bytes_of, of_kind
from .future import CallFuture, Desk
from .mapping import stream_calls
from .module import Module
from .protocol.errors import ConfigurationError, PoolClosed, SandboxError
from .protocol.fields import check_callable
from .protocol.receipts import DeathCertificate, Receipt
from .protocol.usage import InstanceUsage
from .snapshot import Snapshot
from .values import Returns

if TYPE_CHECKING:
    from .supervisor.actor import Actor, ActorOptions
    from .supervisor.core import Core
    from .thread import CoreThread


class Instance:
    """A guest that lives on from call to call, in a worker process of its own. Get it by
    ``pool.instance(module)``; ``with`` closes it.

    Its calls wait in a mailbox and are served one at a time, in the order in which they were
    submitted, from whatever threads. A trap, or a limit of a call, leaves it alive with its state
    as the guest left it. Where its worker is lost, the running call fails with ``WorkerLost`` and
    those that wait are served by the next worker, once ``on_restart`` has rebuilt the state.
    ``docs/instances.md`` has all of it.
    """

    def __init__(self, thread: CoreThread, callee: Callee, desk: Desk) -> None:
        self._thread = thread
        self._callee = callee
        self._desk = desk
        self._actor = callee.actor

    @property
    def module(self) -> Module:
        """The module that it is an instance of."""
        return self._callee.module

    @property
    def number(self) -> int:
        """Its number, unique in its pool."""
        return self._actor.number

    def call(
        self, name: str, /, *args: Any, returns: Returns = None, timeout: float | None = None
    ) -> Any:
        """Call an exported function and wait for its value; Ctrl-C stops the guest.

        Args:
            name: of the function.
            args: as for a ``Function``.
            returns: as for ``Function.options``.
            timeout: seconds from now to the answer, waiting in the mailbox included.

        Raises:
            MissingExport, SignatureMismatch: there is no such function, or of another type.
            WorkerLost: the worker died during this call; see ``error.certificate``.
            InstanceClosed: it is over, and the call was not begun.
            RestartIntensityReached: its worker died too often; the call was not begun.
            SandboxError: as the error tree has it.
        """
        return self.detailed(name, *args, returns=returns, timeout=timeout)[0]

    def detailed(
        self, name: str, /, *args: Any, returns: Returns = None, timeout: float | None = None
    ) -> tuple[Any, Receipt]:
        """As ``call``; the value and the receipt."""
        self._thread.check_may_wait()
        future = self._submit(name, args, returns, timeout, waits=True)
        try:
            return future.result(), future.receipt
        finally:
            future.cancel()  # does nothing unless the wait was interrupted

    def submit(
        self, name: str, /, *args: Any, returns: Returns = None, timeout: float | None = None
    ) -> CallFuture:
        """Put a call into the mailbox; arguments that do not fit are the future's exception.

        Where the mailbox is full it waits for room, or raises ``QueueFull`` in a pool that was made
        with ``when_full="raise"``.

        Raises:
            MissingExport: there is no such function.
            PoolClosed: the pool was shut down.
        """
        return self._submit(name, args, returns, timeout, waits=False)

    def stream(
        self,
        name: str,
        chunks: Iterable[Any],
        /,
        *,
        returns: Returns = None,
        timeout: float | None = None,
    ) -> Generator[Any, None, None]:
        """The values of an exported function for each of ``chunks``, in order, as they come.

        One chunk is with the guest at a time, and the next one is asked for meanwhile; nothing more
        is, until you take the value of the one before. So neither side runs ahead. A call that
        fails ends the stream with its error, and none of the chunks after it reaches the guest.
        Where ``chunks`` raises, the values of those before come first, then that exception. Closing
        the iterator stops the call that runs.

        Args:
            name: of the function.
            chunks: each is the argument of one call, or a tuple is all of them.
            returns: as for ``Function.options``.
            timeout: of each call.

        Raises: as ``call``, from the iterator.
        """
        self._callee.function(name, returns, timeout)

        def submit(*args: Any) -> CallFuture:
            return self._submit(name, args, returns, timeout, waits=True)

        return stream_calls(submit, chunks)

    def _submit(
        self,
        name: str,
        args: tuple[Any, ...],
        returns: Returns,
        timeout: float | None,
        *,
        waits: bool,
    ) -> CallFuture:
        function = self._callee.function(name, returns, timeout)
        try:
            request = self._callee.request(function, args, waits=waits)
        except SandboxError as error:
            self._thread.check_open()
            refused = CallFuture(function, None, self._thread)
            refused.fail(error)
            return refused
        future = CallFuture(function, request, self._thread, self._desk)
        self._thread.submit(future)
        return future

    def memory(self, start: int = 0, length: int = 1 << 62, *, name: str = "memory") -> bytes:
        """A copy of a part of an exported memory, in turn with the calls.

        Args:
            start: of the part.
            length: of it; shorter where the memory ends.
            name: of the memory.
        """
        return self._thread.run(lambda _: self._callee.read_memory(name, start, length))

    def write_memory(
        self, start: int, data: bytes | bytearray | memoryview, *, name: str = "memory"
    ) -> None:
        """Put bytes into an exported memory, in turn with the calls: for guests that want their
        arguments somewhere else than where ``alloc`` says.

        Args:
            start: where they go.
            data: the bytes; a ``memoryview`` is not copied and must not change meanwhile.
            name: of the memory.

        Raises:
            Trap: ``memory_out_of_bounds``: they would not all lie in it. Nothing is written.
        """
        content = bytes_of(data)
        self._thread.run(lambda _: self._callee.write_memory(name, start, content))

    def read_global(self, name: str) -> Any:
        """The value of an exported global, in turn with the calls."""
        return self._thread.run(lambda _: self._callee.read_global(name))

    def snapshot(self) -> Snapshot:
        """The state as it is in turn with the calls: what ``pool.load`` makes a module of, each of
        whose instances begins there. ``docs/instances.md`` says what is part of it.

        Raises:
            UnsupportedModule: there is state that cannot be carried over; the message says which.
            CompilationLimit: it would be larger than ``Limits.module_size``.
            SandboxError: as for calls.
        """
        return self._thread.run(lambda _: self._callee.snapshot())

    def usage(self) -> InstanceUsage:
        """What it has used, and what it is doing; not in turn with the calls."""

        async def ask(_: Core) -> InstanceUsage:
            return self._actor.usage()

        return self._thread.run(ask)

    def monitor(self, callback: Callable[[DeathCertificate], object]) -> Callable[[], None]:
        """Have ``callback`` called with the death certificate of each of its workers, until the
        function that this returns is called.

        It runs in the pool's thread, before the instance is restarted; it must be quick, and cannot
        wait for the pool.

        Raises:
            ConfigurationError: it cannot be called.
            InstanceClosed: the instance is over.
        """

        async def ask(_: Core) -> Callable[[], None]:
            return self._actor.monitor(callback)

        check_callable("monitor.callback", callback)
        cancel = self._thread.run(ask)
        return lambda: self._thread.post(cancel)

    def link(self, other: Instance) -> None:
        """Tie the two: where the worker of one dies, the other's is ended, too, and both go on as
        their own policies say. Those that leave by themselves or are closed take nobody along.

        Raises:
            ConfigurationError: an instance of another pool, or this one.
            InstanceClosed: one of the two is over.
        """

        async def ask(_: Core) -> None:
            self._actor.link(other._actor)

        self._check_beside("link", other)
        self._thread.run(ask)

    def unlink(self, other: Instance) -> None:
        """Undo ``link``.

        Raises:
            ConfigurationError: no instance of this pool.
        """

        async def ask(_: Core) -> None:
            self._actor.unlink(other._actor)

        self._check_beside("unlink", other)
        self._thread.run(ask)

    def _check_beside(self, field: str, other: Instance) -> None:
        if not of_kind(other, Instance) or other._thread is not self._thread:
            raise ConfigurationError(field, other, "is no instance of this pool")

    def close(self, *, cancel: bool = False) -> None:
        """End it, and wait until nothing is left of it; may be called again.

        Args:
            cancel: stop the calls that are not over, instead of finishing them. An interruption
                does so, too.

        Raises:
            PoolError: it waits for the caller, a host function or ``on_restart``: those can only
                ``cancel`` it.
        """
        if self._thread.is_over:
            return
        if not cancel:
            self._actor.check_may_wait()
        self._thread.leave(self._desk)
        try:
            self._end(cancel)
        except PoolClosed:
            pass  # it ends with its pool
        except BaseException:
            self._end(True)
            raise

    def _end(self, cancel: bool) -> None:
        self._thread.run(lambda _: self._actor.close(cancel=cancel))

    def __enter__(self) -> Instance:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the calls; where the block failed, cancel them."""
        self.close(cancel=kind is not None)

    def __repr__(self) -> str:
        return f"<Instance {self.number} of {self.module.name}>"


def open_instance(
    thread: CoreThread, settings: Settings, on_restart: Callable[[Instance], object] | None
) -> Instance:
    """Make an instance.

    Raises:
        ConfigurationError: ``on_restart`` is asynchronous.
        SandboxError: it did not come to be.
    """
    options, attach = plan(thread, settings, on_restart)
    return attach(thread.run(lambda core: core.open_instance(options)))


def plan(
    thread: CoreThread, settings: Settings, on_restart: Callable[[Instance], object] | None
) -> tuple[ActorOptions, Callable[[Actor], Instance]]:
    """What the supervisor is asked for, and what makes an ``Instance`` of what it gives.

    Raises:
        ConfigurationError: ``on_restart`` is asynchronous.
    """
    if inspect.iscoroutinefunction(on_restart):
        raise ConfigurationError(
            "instance.on_restart", on_restart, "must not be async", "open_pool() takes such"
        )
    rebuild = None if on_restart is None else _Rebuild(thread, settings, on_restart)

    def attach(actor: Actor) -> Instance:
        if rebuild is not None:
            rebuild.actor = actor
        instance = Instance(thread, Callee(actor, settings), Desk(actor, settings.mailbox))
        weakref.finalize(instance, thread.drop, actor).atexit = False
        return instance

    return settings.actor_options(rebuild), attach


class _Rebuild:
    """Calls ``on_restart`` in a thread of its own, with an instance whose calls go first."""

    actor: Actor

    def __init__(
        self, thread: CoreThread, settings: Settings, wanted: Callable[[Instance], object]
    ) -> None:
        self._thread = thread
        self._settings = settings
        self._wanted = wanted

    async def __call__(self) -> BaseException | None:
        return await trio.to_thread.run_sync(
            self._run, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )

    def _run(self) -> BaseException | None:
        callee = Callee(self.actor, self._settings, first=True)
        desk = Desk(self.actor, self._settings.mailbox, first=True)
        try:
            self._wanted(Instance(self._thread, callee, desk))
        except BaseException as error:  # whatever it is, it is theirs, and must not end the pool
            return error
        finally:
            desk.first = callee.first = False
        return None
