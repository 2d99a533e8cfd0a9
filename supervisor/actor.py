"""An instance as an actor: a mailbox, a worker of its own, and what follows when that dies.

Theory of operation. Calls wait in the mailbox and are sent one at a time, so the worker never holds
one that has to be called back. The worker is a ``Session``'s; when it dies, a call that it had
begun fails with its death certificate, one that it had not begun goes back to the front of the
mailbox, and those in the mailbox stay there. ``keep`` then asks the pure restart logic what
follows: another session, in which the state is rebuilt (``on_restart``) before the mailbox is
served again, or the end, in which every call that waits gets the same typed error.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ..protocol import errors, messages
from ..protocol.capabilities import Capabilities
from ..protocol.limits import Limits
from ..protocol.policies import RestartPolicy, RestartType
from ..protocol.profile import Profile
from ..protocol.receipts import DeathCertificate
from ..protocol.usage import InstanceUsage, Phase
from . import restart
from .calls import CallRecord
from .certificates import Verdict, to_error
from .imports import rebuilding, served, serving
from .orders import invocation
from .register import Register, again
from .requests import CallRequest, ModuleHandle, Outcome
from .seats import CERTIFICATES
from .session import ALONE, Session
from .usage import Account

if TYPE_CHECKING:
    from .actors import Actors

Hook = Callable[[], Awaitable[BaseException | None]]
"""Rebuilds the state of an instance that was restarted; answers what it failed with."""
Monitor = Callable[[DeathCertificate], object]


@dataclass(frozen=True, kw_only=True)
class ActorOptions:
    """What an instance was made with; ``docs/instances.md`` explains each."""

    module: ModuleHandle
    name: str
    limits: Limits
    capabilities: Capabilities
    tenant: str | None = None
    env: tuple[tuple[bytes, bytes], ...] = ()
    restart: RestartType = "transient"
    policy: RestartPolicy
    on_restart: Hook | None = None
    on_output: Callable[[int, bytes], None] | None = None


class Actor:
    """Made by ``Core.open_instance``; ``close`` it in the end."""

    def __init__(
        self, actors: Actors, number: int, options: ActorOptions, *, supervised: bool = False
    ) -> None:
        self.number = number
        self.supervised = supervised
        """Whether a tree watches over it, and not ``keep``."""
        self.options = options
        self.profile = Profile.of(
            options.limits,
            options.capabilities,
            tenant=options.tenant,
            stateful=True,
            helpers=options.module.helpers,
        )
        self.failure: errors.SandboxError | None = None
        """What new calls are refused with; ``None`` while they are taken."""
        self.over = trio.Event()
        """It has ended, and nothing of it is left."""
        self.links: set[Actor] = set()
        self.monitors: dict[object, Monitor] = {}
        """By whatever token they are cancelled with."""
        self._actors = actors
        self._calls = actors.calls
        self._open = Register(
            self._calls.mail, self._calls.report, self._calls.timeouts, self._call_ended
        )
        """Its calls that have not ended."""
        self._mailbox: OrderedDict[CallRequest, CallRecord] = OrderedDict()
        self._first: OrderedDict[CallRequest, CallRecord] = OrderedDict()
        """What ``on_restart`` calls: served before the mailbox is."""
        self._session: Session | None = None
        self._rebuilding = False
        """Whether ``on_restart`` runs."""
        self.left = False
        """Whether the guest of the last session ended itself, with exit code 0."""
        self._closing = False
        self._attempt = trio.CancelScope()
        """Around what is done to have another session."""
        self._deaths: list[DeathCertificate] = []
        self._account = Account()

    # --- calls ----------------------------------------------------------------------------------

    def submit(
        self,
        request: CallRequest,
        done: Callable[[Outcome], None],
        *,
        message: Callable[[int], messages.ToWorker] | None = None,
        first: bool = False,
    ) -> None:
        """Put a call into the mailbox; ``done`` is called exactly once, in this thread, perhaps
        before this returns.

        Args:
            request: the call.
            done: gets its outcome.
            message: what to send instead of a call of ``request.export``.
            first: it is ``on_restart`` that calls: before the mailbox is served.
        """
        record = self._open.enter(request, done)
        record.message = message or invocation(request, ALONE)
        first = first and self._rebuilding
        failure = self.failure or self._actors.failure
        if failure is not None and not first:
            record.fail(again(failure))
        elif self._calls.admit(record):
            record.bring(self._calls.leftovers)
            self._open.keep_time(record)
            (self._first if first else self._mailbox)[request] = record
            self._feed()

    def check_may_wait(self, *, first: bool = False) -> None:
        """From any thread: refuse a wait that could never end; ``first`` is as for ``submit``.

        Raises:
            PoolError: the instance waits for the caller.
        """
        if rebuilding.get() is self and not first:
            raise errors.PoolError(
                "on_restart cannot wait for the instance that waits for it",
                "call the one that it is given; close(cancel=True) gives it up",
            )
        if self._waits_for(served(serving.get(), self._calls.mail)):
            raise errors.PoolError(
                "a host function cannot wait for the instance that waits for it",
                "return first, and call the instance afterwards",
            )

    def _waits_for(self, caller: CallRecord | None) -> bool:
        """Whether a call of this instance waits for ``caller``, or is it."""
        while caller is not None:
            if caller.request in self._open:
                return True
            caller = caller.request.parent
        return False

    def cancel(self, request: CallRequest) -> None:
        """Stop a call, wherever it is. Does nothing where it has ended."""
        self._open.cancel(request)

    def _call_ended(self, record: CallRecord, outcome: Outcome) -> None:
        self._mailbox.pop(record.request, None)
        self._first.pop(record.request, None)
        self._account.ended(outcome.receipt, failed=outcome.error is not None)
        if isinstance(outcome.error, errors.GuestExit) and self._session is not None:
            self.left = outcome.error.code == 0
            self._session.stop(Verdict("exited", "guest", str(outcome.error)))
        self._feed()

    def _feed(self) -> None:
        """Send the next call, if there is one and it may be sent."""
        session = self._session
        if session is None:
            return
        queue = self._first if self._rebuilding else self._mailbox
        if queue and session.free:
            session.send(queue.popitem(last=False)[1])
        elif self._rebuilding and session.over:
            assert session.certificate is not None
            for record in list(queue.values()):
                record.fail(to_error(session.certificate))

    # --- what its session says (Owner) ----------------------------------------------------------

    def give_back(self, records: list[CallRecord]) -> None:
        """A call that the worker had not begun: it is the next again."""
        queue = self._first if self._rebuilding else self._mailbox
        for record in records:
            record.worker = None
            queue[record.request] = record
            queue.move_to_end(record.request, last=False)

    def session_over(self) -> None:
        """The worker is gone."""
        self._feed()

    # --- life -----------------------------------------------------------------------------------

    async def start(self, *, again: bool = False) -> None:
        """Have a worker with the instance in it; with ``again``, rebuild its state.

        Raises:
            SandboxError: it could not be had; nothing is left of the attempt.
        """
        options = self.options
        session = await self._actors.open_session(self)
        self.left = False
        try:
            outcome = await session.settle_in(options.module, options.env, options.on_output)
            self._account.began(outcome.receipt)
            self._session = session
            if again and options.on_restart is not None:
                await self._rebuild(options.on_restart)
        except BaseException:
            self._session = None
            session.abort(Verdict("stopped", "supervisor", "the instance did not come to be"))
            with trio.CancelScope(shield=True):
                await session.wait_over()
            raise
        self._feed()

    async def _rebuild(self, hook: Hook) -> None:
        self._rebuilding = True
        token = rebuilding.set(self)
        try:
            error = await hook()
        finally:
            rebuilding.reset(token)
            self._rebuilding = False
            for record in list(self._first.values()):
                record.fail(errors.PoolError("on_restart was over before this call of it began"))
        if error is not None:
            raise errors.PoolError(f"on_restart failed: {errors.described(error)}") from error

    async def keep(self) -> None:
        """Watch over it until it has ended; restart it as its policy says."""
        options, history = self.options, restart.History()
        while True:
            certificate = await self.wait_death()
            reason: errors.SandboxError = to_error(certificate)
            phase: restart.Phase = "idle"
            while not self._has_session():
                normal = self.left and phase == "idle"
                if self._closing or not restart.should_restart(options.restart, normal_exit=normal):
                    return self.end(errors.InstanceClosed(self.options.name, certificate))
                if self._actors.ending:
                    assert self._actors.failure is not None
                    return self.end(self._actors.failure)
                history, decision = restart.decide(
                    options.policy, history, restart.Death(when=trio.current_time(), phase=phase)
                )
                if not isinstance(decision, restart.Restart):
                    return self.end(self._given_up(reason))
                reason, phase = await self._restart(decision.after) or reason, "starting"
            history = restart.became_ready(history)

    def _has_session(self) -> bool:
        return self._session is not None

    async def _restart(self, after: float) -> errors.SandboxError | None:
        """Try to have another session after so many seconds; why there is none."""
        with trio.CancelScope() as self._attempt:
            await trio.sleep(after)
            try:
                await self._start_again()
            except errors.SandboxError as error:
                return error
        return None

    # --- for a tree, which watches over it instead of ``keep`` ------------------------------------

    async def wait_death(self) -> DeathCertificate:
        """Wait until its worker is dead; how it died."""
        session = self._session
        assert session is not None
        await session.wait_over()
        certificate = self._died(session)
        if self.supervised and self._closing:
            self.end(errors.InstanceClosed(self.options.name, certificate))
        return certificate

    async def start_again(self) -> None:
        """Have another worker with the instance in it, and rebuild its state. Raises as ``start``
        does."""
        if self.failure is not None:
            raise again(self.failure)
        await self._start_again()

    async def _start_again(self) -> None:
        await self.start(again=True)
        self._account.restarts += 1
        self._actors.restarted(self)

    async def halt(self, seconds: float) -> None:
        """End its worker when its call is over, or after so many seconds. What waits goes on
        waiting."""
        session = self._session
        if session is None:
            return
        session.stop(Verdict("stopped", "supervisor", "its supervisor ended it"))
        with trio.move_on_after(seconds):
            await session.wait_over()
        session.abort(Verdict("stopped", "supervisor", f"it did not end within {seconds:g} s"))
        await session.wait_over()
        self._died(session, alone=True)

    # --- parts of its life ------------------------------------------------------------------------

    def _given_up(self, reason: errors.SandboxError) -> errors.SandboxError:
        policy = self.options.policy
        error = errors.RestartIntensityReached(
            f"the instance of {self.options.name} died more than {policy.intensity} times within "
            f"{policy.period:g} s, or could not be restarted as often; the last: {reason}",
            self._deaths,
            "see error.certificates",
        )
        error.__cause__ = reason.__cause__ or reason
        return error

    def _died(self, session: Session, *, alone: bool = False) -> DeathCertificate:
        """Take leave of a session; unless it goes ``alone``, those who are linked die, too."""
        certificate = session.certificate
        assert certificate is not None
        self._session = None
        self._deaths = [*self._deaths[1 - CERTIFICATES :], certificate]
        if not (alone or self._closing or self.left or certificate.cause == "linked"):
            for other in self._linked():
                other.die_with(self)
        for monitor in tuple(self.monitors.values()):
            self._actors.tell(monitor, certificate)
        return certificate

    def _linked(self) -> set[Actor]:
        """All that die with it: also those that are linked to the linked ones."""
        found: set[Actor] = {self}
        frontier: list[Actor] = [self]
        while frontier:
            new = frontier.pop().links - found
            found |= new
            frontier.extend(new)
        return found - {self}

    def die_with(self, other: Actor) -> None:
        """End its worker, if it has one, because the worker of ``other`` died."""
        if self._session is not None:
            why = f"instance {other.number}, to which it is linked, died"
            self._session.abort(Verdict("linked", "supervisor", why))

    # --- ends -----------------------------------------------------------------------------------

    async def close(self, *, cancel: bool = False) -> None:
        """End it: at once with ``cancel``, otherwise when its calls are done. Waits for that, but
        for ``on_restart``, which is cancelled by it."""
        self.failure = self.failure or errors.InstanceClosed(self.options.name)
        if cancel:
            self._closing = True
            self._attempt.cancel()
            for record in self._open:
                self.cancel(record.request)
        await self._open.wait_empty()
        self._closing = True
        self._attempt.cancel()
        if self._session is not None:
            self._session.stop(Verdict("stopped", "supervisor", "the instance was closed"))
        elif self.supervised:
            self.end(errors.InstanceClosed(self.options.name))
        if rebuilding.get() is not self:
            await self.over.wait()

    def abandon(self, error: errors.SandboxError) -> None:
        """End all its calls with a copy of ``error``, and its worker with them."""
        self.failure = self.failure or error
        self._open.abandon(error)
        if self._session is not None:
            self._session.abort(Verdict("cancelled", "supervisor", str(error)))

    def end(self, error: errors.SandboxError) -> None:
        """Nothing more will come of it, and it has no worker: those who wait learn why."""
        if self.over.is_set():
            return
        self.failure = self.failure or error
        self._open.abandon(error)
        for other in self.links:
            other.links.discard(self)
        self.links.clear()
        self.monitors.clear()
        self._actors.ended(self, error)
        self.over.set()

    # --- what others see ------------------------------------------------------------------------

    def monitor(self, callback: Monitor) -> Callable[[], None]:
        """Have ``callback`` called with each death certificate, until what is returned is called.

        Raises:
            InstanceClosed: it is over.
        """
        self._check_open()
        token = object()
        self.monitors[token] = callback

        def cancel() -> None:
            self.monitors.pop(token, None)

        return cancel

    def link(self, other: Actor) -> None:
        """Tie two instances: see ``Instance.link``.

        Raises:
            ConfigurationError: to itself.
            InstanceClosed: one of the two is over.
        """
        if other is self:
            raise errors.ConfigurationError("link", other, "is the instance itself")
        self._check_open()
        other._check_open()
        self.links.add(other)
        other.links.add(self)

    def unlink(self, other: Actor) -> None:
        """Undo ``link``."""
        self.links.discard(other)
        other.links.discard(self)

    def _check_open(self) -> None:
        if self.failure is not None:
            raise again(self.failure)

    def usage(self) -> InstanceUsage:
        """What it has used, and what it is doing."""
        session = self._session
        worker = None if session is None else session.worker
        if self.over.is_set():
            phase: Phase = "ended"
        elif worker is None or self._rebuilding:
            phase = "starting"
        else:
            phase = "busy" if worker.records else "idle"
        return self._account.snapshot(phase, worker, len(self._mailbox))
