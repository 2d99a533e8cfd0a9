"""The instances of a pool: how many there may be, and their common end."""

from __future__ import annotations

import contextvars
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from copy import copy

import trio

from ..protocol import errors, events
from ..protocol.receipts import DeathCertificate
from .actor import Actor, ActorOptions, Monitor
from .dispatcher import Dispatcher
from .life import Life
from .session import Session

_log = logging.getLogger("wasm_sandbox")


class Actors:
    """All instances of one pool.

    Args:
        calls: what is the same for all calls of the pool.
        life: the pool's.
        most: how many there may be at a time.
        open_session: makes the worker of an instance.
    """

    def __init__(
        self,
        calls: Dispatcher,
        life: Life,
        most: int,
        open_session: Callable[[Actor], Awaitable[Session]],
    ) -> None:
        self.calls = calls
        self.open_session = open_session
        self._life = life
        self._most = most
        self._numbers = itertools.count(1)
        self._actors: set[Actor] = set()

    def __contains__(self, actor: Actor | None) -> bool:
        return actor in self._actors

    @property
    def failure(self) -> errors.SandboxError | None:
        """What new calls are refused with; ``None`` while they are taken."""
        return self._life.failure

    @property
    def ending(self) -> bool:
        """Whether nothing more is started."""
        return self._life.ending or self._life.failed

    async def open(self, options: ActorOptions, *, supervised: bool = False) -> Actor:
        """Make an instance, which is up; where it is ``supervised``, a tree restarts it.

        Raises:
            PoolError: the pool takes nothing more, or has as many instances as it may have.
            IsolationError: nothing here enforces what a strict pool's instance asks for.
            SandboxError: the instance did not come to be.
        """
        if self.failure is not None:
            raise copy(self.failure)
        if len(self._actors) >= self._most:
            raise errors.PoolError(
                f"the pool has {self._most} instances, and may have no more",
                "close one, or raise Pool(max_instances=)",
            )
        actor = Actor(self, next(self._numbers), options, supervised=supervised)
        self.calls.refuse_gaps(options.limits, actor.profile)
        self._actors.add(actor)
        try:
            await actor.start()
        except BaseException:
            self._actors.discard(actor)
            raise
        if not supervised:
            # Not in the context of a host function that may have asked for it: it outlives that.
            contextvars.Context().run(self._life.start, actor.keep)
        self._life.emit(
            events.InstanceStarted(
                when=time.time(),
                instance=actor.number,
                tenant=options.tenant,
                sha256=options.module.sha256.hex(),
            )
        )
        return actor

    async def close(self) -> None:
        """End them all, when their calls are done."""
        async with trio.open_nursery() as nursery:
            for actor in self._actors:
                nursery.start_soon(actor.close)

    def abandon(self, error: errors.SandboxError) -> None:
        """End all their calls with a copy of ``error``, and them."""
        for actor in tuple(self._actors):
            actor.abandon(error)

    # --- what actors tell -----------------------------------------------------------------------

    def restarted(self, actor: Actor) -> None:
        """It has another worker."""
        options = actor.options
        self._life.emit(
            events.InstanceRestarted(
                when=time.time(),
                instance=actor.number,
                tenant=options.tenant,
                sha256=options.module.sha256.hex(),
            )
        )

    def ended(self, actor: Actor, error: errors.SandboxError) -> None:
        """It is over."""
        self._actors.discard(actor)
        self._life.emit(
            events.InstanceEnded(
                when=time.time(),
                instance=actor.number,
                tenant=actor.options.tenant,
                sha256=actor.options.module.sha256.hex(),
                reason=type(error).__name__,
                detail=str(error),
            )
        )

    def tell(self, monitor: Monitor, certificate: DeathCertificate) -> None:
        """Call a user's function."""
        try:
            monitor(certificate)
        except BaseException:  # it must not end the pool, not even by SystemExit
            _log.exception("a monitor failed for %r", certificate)
