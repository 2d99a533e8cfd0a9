"""The children of a supervision tree that are not plain functions: instances and pools, each with
its life from one start to the next end."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import trio

from . import instance as synchronous_face
from . import trio_instance as trio_face
from .callee import Settings, of_kind
from .module import Module
from .pool import Pool
from .protocol.errors import ConfigurationError, InstanceClosed, PoolError
from .protocol.events import Event, PoolFailed
from .sources import Source
from .supervisor.actor import Actor
from .supervisor.certificates import to_error
from .supervisor.tree import Started
from .trio_pool import TrioPool, open_pool

if TYPE_CHECKING:
    from .supervisor.core import Core

T = TypeVar("T")
Shutdown = float | Literal["brutal_kill", "infinity"]
"""Seconds that a child has to end when it is asked to, or OTP's words for none and for ever."""
Run = Callable[[Started], Awaitable[None]]
Forget = Callable[[BaseException | None], Awaitable[None]]
Lookup = Callable[[str], object]
Life = tuple[Run, Forget | None, Callable[[], object] | None]
"""A child's life, what is done when it will not be started again, and what it is in between."""


def _seconds(shutdown: Shutdown) -> float:
    match shutdown:
        case "brutal_kill":
            return 0.0
        case "infinity":
            return math.inf
        case _:
            return shutdown


class Runnable(ABC):
    """What a child is made from, again whenever its supervisor is started."""

    kind: str

    @abstractmethod
    def bind(self, synchronous: bool, lookup: Lookup) -> Life:
        """A new child. ``lookup`` finds the others."""


async def run_task(function: Callable[..., Awaitable[object]], started: Started) -> None:
    """The life of a child that is an asynchronous function."""
    if "task_status" in inspect.signature(function).parameters:
        await function(task_status=started)
    else:
        started.started()
        await function()


class InstanceBranch(Runnable):
    """An instance of a module in a pool."""

    kind = "instance"

    def __init__(
        self,
        pool: Pool | TrioPool | str,
        module: Module | Source,
        shutdown: Shutdown,
        settings: Mapping[str, Any],
    ) -> None:
        if isinstance(pool, str) and isinstance(module, Module):
            raise ConfigurationError(
                "child.module", module, "belongs to a pool, and the child's pool is made anew",
                "give what pool.load takes",
            )  # fmt: skip
        if not any(of_kind(pool, kind) for kind in (Pool, TrioPool, str)):
            raise ConfigurationError("child.pool", pool, "must be a pool, or the name of a child")
        self.pool = pool
        self.module = module
        self.shutdown = _seconds(shutdown)
        self.settings = settings

    def bind(self, synchronous: bool, lookup: Lookup) -> Life:
        """One instance, over its restarts."""
        life = _InstanceLife(self, lookup)
        return life.run, life.forget, life.face


class _InstanceLife:
    """An instance that stays the same while the tree restarts it, as long as its pool does."""

    def __init__(self, branch: InstanceBranch, lookup: Lookup) -> None:
        self._branch = branch
        self._lookup = lookup
        self._pool: Pool | TrioPool | None = None
        self._actor: Actor | None = None
        self._face: object = None

    async def run(self, started: Started) -> None:
        """From its start to the death of its worker."""
        pool = self._find_pool()
        if self._actor is None or self._actor.over.is_set() or pool is not self._pool:
            await self._open(pool)
        else:
            await self._ask(self._start_again)
        started.started(self._face)
        try:
            await self._ask(self._watch)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._ask(self._halt)
            raise

    def face(self) -> object:
        """The instance, also while it is being restarted."""
        return self._face

    async def forget(self, error: BaseException | None) -> None:
        """It will not be started again: those who wait learn it."""
        self._face = None
        if self._actor is None:
            return
        name = self._actor.options.name
        reason = error if isinstance(error, PoolError) else InstanceClosed(name)

        async def end(_: Core) -> None:
            assert self._actor is not None
            self._actor.end(reason)

        with suppress(PoolError):  # it has ended with its pool
            await self._ask(end)

    def _find_pool(self) -> Pool | TrioPool:
        pool = self._branch.pool
        if isinstance(pool, str):
            found = self._lookup(pool)
            if not isinstance(found, Pool | TrioPool):
                raise ConfigurationError("child.pool", pool, "is no child that is a pool")
            pool = found
        return pool

    async def _open(self, pool: Pool | TrioPool) -> None:
        settings = dict(self._branch.settings)
        on_restart = settings.get("on_restart")
        source = self._branch.module
        self._pool = pool
        attach: Callable[[Actor], object]
        if isinstance(pool, Pool):
            if not isinstance(source, Module):
                source = await trio.to_thread.run_sync(pool.load, source)
            options, attach = synchronous_face.plan(
                pool.thread, Settings(pool, source, **settings), on_restart
            )
        else:
            if not isinstance(source, Module):
                source = await pool.load(source)
            when_full = pool.configuration.when_full
            options, attach = trio_face.plan(
                Settings(pool, source, **settings), when_full, on_restart
            )
        self._actor = await self._ask(lambda core: core.open_instance(options, supervised=True))
        self._face = attach(self._actor)

    async def _ask(self, function: Callable[[Core], Awaitable[T]]) -> T:
        if isinstance(self._pool, Pool):
            return await self._pool.thread.ask(function)
        assert self._pool is not None
        return await function(self._pool.core)

    async def _start_again(self, _: Core) -> None:
        assert self._actor is not None
        await self._actor.start_again()

    async def _watch(self, _: Core) -> None:
        assert self._actor is not None
        certificate = await self._actor.wait_death()
        if not self._actor.left and not self._actor.over.is_set():
            raise to_error(certificate)

    async def _halt(self, _: Core) -> None:
        assert self._actor is not None
        await self._actor.halt(self._branch.shutdown)


class PoolBranch(Runnable):
    """A pool."""

    kind = "pool"

    def __init__(self, shutdown: Shutdown, keywords: Mapping[str, Any]) -> None:
        self.shutdown = _seconds(shutdown)
        self.keywords = keywords

    def bind(self, synchronous: bool, lookup: Lookup) -> Life:
        """One pool after the other."""
        return (self._run if synchronous else self._run_in_trio), None, None

    def _listening(self, failed: Callable[[str], object]) -> dict[str, Any]:
        wanted = self.keywords.get("on_event")

        def on_event(event: Event) -> None:
            if isinstance(event, PoolFailed):
                failed(event.reason)
            if wanted is not None:
                wanted(event)

        return {**self.keywords, "on_event": on_event}

    async def _run_in_trio(self, started: Started) -> None:
        failure = _Failure()
        async with open_pool(**self._listening(failure.set)) as pool:
            started.started(pool)
            try:
                await failure.wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True), trio.move_on_after(self.shutdown):
                    await pool.core.close(cancel=False)
                raise

    async def _run(self, started: Started) -> None:
        failure = _Failure()
        token = trio.lowlevel.current_trio_token()
        keywords = self._listening(lambda reason: token.run_sync_soon(failure.set, reason))
        pool = await trio.to_thread.run_sync(lambda: Pool(**keywords))
        over = trio.Event()
        try:
            started.started(pool)
            await failure.wait()
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hurry, pool, over)
                    await trio.to_thread.run_sync(pool.shutdown)
                    over.set()

    async def _hurry(self, pool: Pool, over: trio.Event) -> None:
        with trio.move_on_after(self.shutdown):
            await over.wait()
        pool.shutdown(wait=False, cancel_futures=True)


class _Failure:
    """That a pool gave up."""

    def __init__(self) -> None:
        self._happened = trio.Event()
        self._reason = ""

    def set(self, reason: str) -> None:
        """It did."""
        self._reason = reason
        self._happened.set()

    async def wait(self) -> None:
        """Wait for it.

        Raises:
            PoolError: always.
        """
        await self._happened.wait()
        raise PoolError(self._reason)
