"""Plug-ins beside the pool for trio: ``open_plugins``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from ..calls import innermost
from ..function import Function
from ..imports import Imports
from ..module import Module
from ..protocol.capabilities import Capabilities
from ..protocol.errors import ConfigurationError, PoolError
from ..protocol.limits import Limits
from ..protocol.receipts import Receipt
from ..trio_pool import TrioPool
from .faces import NamedPlugin, PluginFolder, failed_event
from .releases import Releases
from .state import Host, PluginEvent, Rules, Slot
from .watching import Watch

T = TypeVar("T")


class TrioPlugin(NamedPlugin):
    """A plug-in beside a trio pool. Get it by ``plugins["name"]``."""

    def __init__(self, slot: Slot, pool: TrioPool) -> None:
        super().__init__(slot)
        self._pool = pool

    async def call(self, entry: str, /, *args: Any) -> Any:
        """Call an entry point of the version that serves now: as ``Plugin.call``."""
        return await self._pool.call(self.release[entry], *args)

    async def detailed(self, entry: str, /, *args: Any) -> tuple[Any, Receipt]:
        """Call it and wait for its value and its receipt."""
        return await self._pool.detailed(self.release[entry], *args)


class TrioPlugins(PluginFolder):
    """The plug-ins of a directory, beside a trio pool. Get it by ``async with open_plugins(…)``."""

    def __init__(self, pool: TrioPool, rules: Rules) -> None:
        self._pool = pool
        super().__init__(Releases(_Awaiting(pool), pool.configuration, rules))
        self._one = trio.Lock()

    def __getitem__(self, name: str) -> TrioPlugin:
        """The plug-in of this name: as in ``Plugins``."""
        return TrioPlugin(self._releases.slot(name), self._pool)

    async def refresh(self) -> tuple[PluginEvent, ...]:
        """Take in what changed: as ``Plugins.refresh``. Cancelled, it leaves the rest as it is."""
        events: list[PluginEvent] = []
        try:
            async with self._one:
                await self._releases.refresh(events)
        finally:
            self._releases.tell(events)
        return tuple(events)

    def rollback(self, name: str) -> None:
        """Let the version before serve again: as ``Plugins.rollback``."""
        self._releases.tell([self._releases.roll_back(name)])

    async def follow(self, watch: Watch) -> None:
        """Refresh at each change, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(watch.descriptor)
            try:
                await trio.to_thread.run_sync(watch.look)
                await self.refresh()
            except PoolError:
                return
            except ConfigurationError as error:
                self._releases.tell([failed_event(error)])


class _Awaiting(Host):
    """A trio pool."""

    def __init__(self, pool: TrioPool) -> None:
        self._pool = pool

    async def load(self, data: bytes, imports: Imports | None) -> Module:
        """Load a module."""
        return await self._pool.load(data, imports=imports)

    async def call(self, function: Function, args: tuple[Any, ...]) -> Any:
        """Call a function."""
        return await self._pool.call(function, *args)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await trio.sleep(seconds)

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Do it in a thread."""
        return await trio.to_thread.run_sync(function, *args)


@asynccontextmanager
async def open_plugins(
    pool: TrioPool,
    directory: str | os.PathLike[str],
    *,
    granted: Capabilities | Mapping[str, Capabilities] | None = None,
    limits: Limits | None = None,
    imports: Imports | None = None,
    watch: bool = False,
    on_event: Callable[[PluginEvent], object] | None = None,
) -> AsyncGenerator[TrioPlugins]:
    """The plug-ins of a directory for a trio pool, with the arguments of ``Plugins``; they are
    watched, if at all, until the end of the block. Errors of the block come out as they are.

    Raises: as ``Plugins``.
    """
    rules = Rules.of(pool.configuration, directory, granted, limits, imports, on_event)
    plugins = TrioPlugins(pool, rules)
    failure: BaseException | None = None
    watching = Watch(rules.directory) if watch else None
    try:
        await plugins.refresh()
        async with trio.open_nursery() as nursery:
            if watching is not None:
                nursery.start_soon(plugins.follow, watching)
            try:
                yield plugins
            except BaseException as error:
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        if watching is not None:
            watching.close()
    if failure is not None:
        raise innermost(failure)
