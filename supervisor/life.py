"""What the parts of a pool share: whether it goes on, its tasks, and who hears what happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import trio

from ..protocol import errors, events
from .audit import AuditLog
from .shortages import breakdown

_log = logging.getLogger("wasm_sandbox")


class Life:
    """The life of one pool."""

    def __init__(
        self,
        on_event: Callable[[events.Event], None] | None,
        audit: AuditLog | None,
        on_failure: Callable[[errors.SandboxError], None],
    ) -> None:
        self._on_event = on_event
        self._audit = audit
        self._audit_fails = False
        self._on_failure = on_failure
        self._scopes: set[trio.CancelScope] = set()
        self.nursery: trio.Nursery
        """Where tasks run; set by who opens it."""
        self.failure: errors.SandboxError | None = None
        """What new calls are refused with; ``None`` while they are taken."""
        self.failed = False
        """Whether nothing more will be started; ``failure`` alone may only mean that it is
        closed."""
        self.ending = False
        """Whether the workers are being ended."""

    def start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Start a task that only ``cancel`` ends: a cancellation from outside must not reach it."""

        scope = trio.CancelScope(shield=True)
        self._scopes.add(scope)  # at once: it may be cancelled before it has begun

        async def shielded() -> None:
            with scope:
                try:
                    await task(*arguments)
                except Exception as error:
                    # Must not look like an orderly end to those whose calls it takes along.
                    self.refuse(breakdown(error))
                    raise
                finally:
                    self._scopes.discard(scope)

        self.nursery.start_soon(shielded)

    def cancel(self) -> None:
        """End all tasks."""
        for scope in self._scopes:
            scope.cancel()

    def refuse(self, error: errors.SandboxError) -> None:
        """Take no more calls; the first reason stands."""
        if self.failure is None:
            self.failure = error

    def fail(self, error: errors.SandboxError) -> None:
        """The pool cannot go on: say so to everybody, loudly."""
        self.failure, self.failed = error, True
        self.emit(events.PoolFailed(when=time.time(), reason=str(error)))
        self._on_failure(error)

    def emit(self, event: events.Event) -> None:
        """Write an event to the audit log, and tell the user's function of it."""
        if self._audit is not None:
            reason = self._audit.write(event)
            if reason and not self._audit_fails:
                _log.error("the audit log %s cannot be written: %s", self._audit.path, reason)
                self._tell(events.AuditFailed(when=time.time(), reason=reason))
            self._audit_fails = bool(reason)
        self._tell(event)

    def close(self) -> None:
        """Nothing more will happen."""
        if self._audit is not None:
            self._audit.close()

    def _tell(self, event: events.Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except BaseException:  # a user's function must not end the pool, not even by SystemExit
            _log.exception("on_event failed for %r", event)
