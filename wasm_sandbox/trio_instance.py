"""An instance that keeps its state, as an actor: the face of it for trio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from .callee import Callee, Settings, bytes_of, of_kind
from .calls import conclude, mailbox_full
from .configuration import WhenFull
from .mapping import arguments
from .module import Module
from .protocol.errors import ConfigurationError
from .protocol.fields import check_callable
from .protocol.receipts import DeathCertificate, Receipt
from .protocol.usage import InstanceUsage
from .snapshot import Snapshot
from .supervisor.requests import CallRequest, Outcome
from .trio_chunks import ValueStream
from .values import Returns
from .waiting import Room, outcome_of

if TYPE_CHECKING:
    from .supervisor.actor import Actor, ActorOptions
    from .supervisor.core import Core


class TrioInstance:
    """A guest that lives on from call to call. Get it by ``async with pool.instance(module)``; as
    ``Instance``, but awaited. Cancelling a scope stops its call, wherever it is."""

    def __init__(self, callee: Callee, room: Room | None) -> None:
        self._callee = callee
        self._actor = callee.actor
        self._room = room
        """``None`` while ``on_restart`` calls: that waits for no room, and goes first."""

    @property
    def module(self) -> Module:
        """The module that it is an instance of."""
        return self._callee.module

    @property
    def number(self) -> int:
        """Its number, unique in its pool."""
        return self._actor.number

    async def call(
        self, name: str, /, *args: Any, returns: Returns = None, timeout: float | None = None
    ) -> Any:
        """Call an exported function and wait for its value: as ``Instance.call``."""
        return (await self.detailed(name, *args, returns=returns, timeout=timeout))[0]

    async def detailed(
        self, name: str, /, *args: Any, returns: Returns = None, timeout: float | None = None
    ) -> tuple[Any, Receipt]:
        """As ``call``; the value and the receipt."""
        await trio.lowlevel.checkpoint_if_cancelled()
        function = self._callee.function(name, returns, timeout)
        request = self._callee.request(function, args, waits=True)
        outcome = await self._outcome(request)
        value, error = conclude(function, request, outcome)
        if error is not None:
            raise error
        return value, outcome.receipt

    async def _outcome(self, request: CallRequest) -> Outcome:
        room = self._room
        if room is None:
            return await outcome_of(self._callee, request)
        await room.enter(request)
        try:
            return await outcome_of(self._callee, request)
        finally:
            room.leave()

    @asynccontextmanager
    async def stream(
        self,
        name: str,
        chunks: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        returns: Returns = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[ValueStream]:
        """The values of an exported function for each of ``chunks``, in order: as
        ``Instance.stream``.

        ``async with instance.stream("update", chunks) as values:``, then ``async for value in
        values:``. Chunks may be asynchronous; those that are not are asked for in place. The end of
        the block stops the call that runs.
        """
        self._callee.function(name, returns, timeout)
        values = ValueStream()

        async def call(chunk: Any) -> Any:
            return await self.call(name, *arguments(chunk), returns=returns, timeout=timeout)

        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(values.fill, chunks, call)
            # What the block raises passes by the nursery, which would wrap it in a group.
            try:
                yield values
            except BaseException as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def memory(self, start: int = 0, length: int = 1 << 62, *, name: str = "memory") -> bytes:
        """A copy of a part of an exported memory: as ``Instance.memory``."""
        return await self._callee.read_memory(name, start, length)

    async def write_memory(
        self, start: int, data: bytes | bytearray | memoryview, *, name: str = "memory"
    ) -> None:
        """Put bytes into an exported memory: as ``Instance.write_memory``."""
        await self._callee.write_memory(name, start, bytes_of(data))

    async def read_global(self, name: str) -> Any:
        """The value of an exported global, in turn with the calls."""
        return await self._callee.read_global(name)

    async def snapshot(self) -> Snapshot:
        """The state as it is in turn with the calls: as ``Instance.snapshot``."""
        return await self._callee.snapshot()

    def usage(self) -> InstanceUsage:
        """What it has used, and what it is doing."""
        return self._actor.usage()

    def monitor(self, callback: Callable[[DeathCertificate], object]) -> Callable[[], None]:
        """Have ``callback`` called with the death certificate of each of its workers, until the
        function that this returns is called. It must be quick. Raises as ``Instance.monitor``."""
        check_callable("monitor.callback", callback)
        return self._actor.monitor(callback)

    def link(self, other: TrioInstance) -> None:
        """Tie the two: as ``Instance.link``."""
        self._check_beside("link", other)
        self._actor.link(other._actor)

    def unlink(self, other: TrioInstance) -> None:
        """Undo ``link``: as ``Instance.unlink``."""
        self._check_beside("unlink", other)
        self._actor.unlink(other._actor)

    def _check_beside(self, field: str, other: TrioInstance) -> None:
        if not of_kind(other, TrioInstance) or other.module.owner is not self.module.owner:
            raise ConfigurationError(field, other, "is no instance of this pool")

    async def close(self, *, cancel: bool = False) -> None:
        """End it, and wait until nothing is left of it: as ``Instance.close``. Cancelled, it
        cancels the calls that it waits for."""
        if not cancel:
            self._actor.check_may_wait()
        try:
            await self._actor.close(cancel=cancel)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._actor.close(cancel=True)
            raise

    def __repr__(self) -> str:
        return f"<TrioInstance {self.number} of {self.module.name}>"


@asynccontextmanager
async def open_instance(
    core: Core,
    settings: Settings,
    when_full: WhenFull,
    on_restart: Callable[[TrioInstance], object] | None,
) -> AsyncGenerator[TrioInstance]:
    """An instance for as long as the block lasts; its calls are finished at the end, or cancelled
    where the block failed or was cancelled."""
    options, attach = plan(settings, when_full, on_restart)
    instance = attach(await core.open_instance(options))
    try:
        yield instance
    except BaseException:
        with trio.CancelScope(shield=True):
            await instance.close(cancel=True)
        raise
    await instance.close()


def plan(
    settings: Settings,
    when_full: WhenFull,
    on_restart: Callable[[TrioInstance], object] | None,
) -> tuple[ActorOptions, Callable[[Actor], TrioInstance]]:
    """What the supervisor is asked for, and what makes a ``TrioInstance`` of what it gives."""
    rebuild = None if on_restart is None else _Rebuild(settings, on_restart)

    def attach(actor: Actor) -> TrioInstance:
        if rebuild is not None:
            rebuild.actor = actor
        return TrioInstance(
            Callee(actor, settings), Room(settings.mailbox, when_full, mailbox_full)
        )

    return settings.actor_options(rebuild), attach


class _Rebuild:
    """Calls ``on_restart`` with an instance whose calls go first."""

    actor: Actor

    def __init__(self, settings: Settings, wanted: Callable[[TrioInstance], object]) -> None:
        self._settings = settings
        self._wanted = wanted

    async def __call__(self) -> BaseException | None:
        callee = Callee(self.actor, self._settings, first=True)
        try:
            done = self._wanted(TrioInstance(callee, None))
            if inspect.isawaitable(done):
                await done
        except trio.Cancelled:
            raise
        except BaseException as error:  # whatever it is, it is theirs, and must not end the pool
            return error
        finally:
            callee.first = False
        return None
