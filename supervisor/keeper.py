"""Keeping a zygote: there is always one, or one is about to be, until the pool ends."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from copy import copy

import trio

from ..protocol import errors
from ..protocol.zygote import Hello
from . import restart
from .cgroups import Hierarchy, discover
from .life import Life
from .shortages import pool_error
from .spawn import Launch
from .zygote import ForkRefused, Zygote, ZygoteLost


class ZygoteKeeper:
    """The zygote of a pool, whichever it is, and the groups that its workers enter."""

    def __init__(self, life: Life, launch: Launch | None = None) -> None:
        self._life = life
        self._launch = launch
        """The first zygote, if it was started ahead of the pool."""
        self._numbers = itertools.count(1)
        self._engine: Hello | None = None
        """What the last zygote said of the engine."""
        self._hierarchy: Hierarchy | None = None
        self._changed = trio.Event()
        self.zygote: Zygote | None = None
        """The one that is up, if one is."""

    async def run(self, after: Callable[[restart.Death, str], Awaitable[None]]) -> None:
        """Start a zygote and, when it is lost and ``after`` has decided so, another one. The first
        has to come up: where that fails, so would all."""
        life = self._life
        while not life.ending and not life.failed:
            phase: restart.Phase = "starting"
            try:
                launch, self._launch = self._launch, None
                zygote = Zygote() if launch is None else Zygote(launch)
            except OSError as error:
                reason = str(pool_error("no process could be started", error))
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(zygote.serve)
                    try:
                        phase, reason = await self._follow(zygote)
                    finally:
                        self.zygote = None
                        await zygote.close()
            if self._engine is None:
                life.fail(errors.PoolError(reason))
            else:
                await after(restart.Death(when=trio.current_time(), phase=phase), reason)

    async def _follow(self, zygote: Zygote) -> tuple[restart.Phase, str]:
        """The life of one zygote; what it was doing when it was lost, and why."""
        try:
            engine = await zygote.wait_ready()
            # Groups are made when there is somebody who removes them after us.
            self._hierarchy = self._hierarchy or discover()
            zygote.own(self._hierarchy.directories)
        except (errors.PoolError, ForkRefused, ZygoteLost) as error:
            return "starting", str(error)
        self._engine, self.zygote = engine, zygote
        self.wake()
        await zygote.lost.wait()
        return "idle", "the zygote died"

    def discard(self) -> None:
        """End the zygote that was started ahead, if it was not needed."""
        if self._launch is not None:
            self._launch.discard()

    def wake(self) -> None:
        """Let those who wait for a zygote look again."""
        self._changed.set()
        self._changed = trio.Event()

    def remove_groups(self) -> None:
        """Remove the groups of the pool.

        Raises:
            CgroupError: one could not be removed; it is swept later.
        """
        if self._hierarchy is not None:
            self._hierarchy.close()

    async def living(self) -> Zygote:
        """The zygote, once it is up.

        Raises:
            PoolError: the pool has failed or ends, and there will be none.
        """
        await trio.lowlevel.checkpoint()
        life = self._life
        while not life.failed and not life.ending:
            if self.zygote is not None and not self.zygote.lost.is_set():
                return self.zygote
            await self._changed.wait()
        assert life.failure is not None
        raise copy(life.failure)

    def next_number(self) -> int:
        """A number for a process, larger than all before."""
        return next(self._numbers)

    @property
    def groups(self) -> Hierarchy:
        """Where the groups of workers are made."""
        assert self._hierarchy is not None, "workers are made when a zygote is up"
        return self._hierarchy

    def hello(self) -> Hello:
        """What is known of the engine."""
        assert self._engine is not None, "modules are loaded when a worker has been ready"
        return self._engine
