"""A worker that attacks: the pool's own kind, of a zygote that forks it in another role, with one
call in its life."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from ...protocol.attacks import Attack
from ...protocol.description import ModuleDescription
from ...protocol.errors import PoolError
from ...protocol.limits import Limits
from ...protocol.receipts import DeathCertificate
from ...protocol.zygote import Role
from ..calls import CallRecord
from ..certificates import Verdict
from ..leftovers import Leftovers
from ..network.access import NetworkAccess
from ..requests import CallRequest, ModuleHandle, Outcome
from ..sending import Mail
from ..spawn import ZygotePopen, start_zygote
from ..worker import Worker
from ..zygote import Child, Zygote

_OVER = Verdict("stopped", "supervisor", "the attack is over")
_NO_MODULE = ModuleDescription()


class CannotBuild(Exception):
    """A worker with these walls cannot be made here."""


@dataclass(eq=False)
class Order:
    """What a worker is forked for, and how to see whether anything of it lives."""

    attack: Attack
    words: int = -1
    """The reading end of its standard error, which its descendants inherit."""

    def survived(self, seconds: float = 0.0) -> bool:
        """Whether a process lives that has the worker's standard error, after so many seconds at
        most. Blocks."""
        poll = select.poll()
        poll.register(self.words, 0)  # the end is always reported
        return not poll.poll(seconds * 1000)

    def close(self) -> None:
        """Give the descriptor back."""
        if self.words >= 0:
            os.close(self.words)
            self.words = -1


class AttackZygote(Zygote):
    """Forks workers that attack.

    Args:
        inherited: variables that it and they have in their environment, as if nobody had emptied
            it.
        chosen: the walls to build around it, ``None`` for all.
    """

    def __init__(self, inherited: Mapping[str, str], chosen: tuple[str, ...] | None) -> None:
        self._inherited = inherited
        self._chosen = chosen
        super().__init__()
        self.orders: dict[int, Order] = {}
        """By the number of the worker."""

    def _start(self) -> tuple[ZygotePopen, socket.socket]:
        return start_zygote(self._inherited, self._chosen)

    async def fork(
        self,
        worker: int,
        role: Role,
        procs_files: tuple[str, ...],
        descriptors: tuple[int, ...],
        attack: Attack | None = None,
    ) -> Child:
        """As asked, but in the role ``attack``."""
        order = self.orders.pop(worker)
        order.words = os.open(f"/proc/self/fd/{descriptors[-1]}", os.O_RDONLY | os.O_NONBLOCK)
        return await super().fork(worker, "attack", procs_files, descriptors, order.attack)


class Office:
    """What a worker asks of its pool, where there is none."""

    def __init__(self) -> None:
        self.mail = Mail()
        self.network = NetworkAccess(lambda _: None)
        self.leftovers = Leftovers(lambda _: None)
        self.settled = trio.Event()
        """Whether the worker is ready, or dead."""

    def next_call(self) -> int:
        """A worker has one call."""
        return 1

    def adopt(self, record: CallRecord) -> None:
        """This worker is never lent."""
        raise AssertionError(record)

    def artifact(self, record: CallRecord) -> tuple[int, ModuleDescription]:
        """Any descriptor will do: there is no module in it."""
        return 0, _NO_MODULE

    def guard(self, metered: bool) -> tuple[int, ...]:
        """An attack needs no guest, so nothing has to stand between one and its directories."""
        return 0, 0

    def worker_forked(self, worker: Worker) -> None:
        """Nobody is told."""

    def worker_gone(self, worker: Worker) -> None:
        """It may have died before it was ready."""
        self.settled.set()

    def worker_died(self, worker: Worker, certificate: DeathCertificate) -> None:
        """Who waits for it is told by ``Subject``."""

    def worker_ready(self, worker: Worker) -> None:
        """The worker can take its call."""
        self.settled.set()

    def worker_has_room(self, worker: Worker, now: float) -> None:
        """There is nothing more for it."""

    def give_back(self, records: list[CallRecord]) -> None:
        """There is no other worker for what was not begun."""
        for record in records:
            record.fail(PoolError("the worker died before the attack began"))


class Subject:
    """A worker, its life, and the one call that it gets."""

    def __init__(
        self, worker: Worker, zygote: Zygote, office: Office, order: Order, limits: Limits
    ) -> None:
        self.worker = worker
        self.zygote = zygote
        self.order = order
        self._office = office
        self._limits = limits
        self._buried = trio.Event()
        self._certificate: DeathCertificate | None = None

    async def live(self) -> None:
        """The life of the worker."""
        try:
            self._certificate = await self.worker.live()
        finally:
            self._office.settled.set()
            self._buried.set()

    async def ready(self) -> tuple[str, ...]:
        """The walls that it built.

        Raises:
            CannotBuild: it died before it was ready.
        """
        await self._office.settled.wait()
        if self.worker.ready is None:
            raise CannotBuild((await self.end()).evidence)
        return self.worker.ready.walls

    async def call(self, on_output: Callable[[int, bytes], None] | None = None) -> Outcome:
        """Let it attack."""
        outcomes: list[Outcome] = []
        ended = trio.Event()

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.set()

        request = CallRequest(
            module=ModuleHandle(bytes(32), b"", _NO_MODULE, self._limits),
            profile=self.worker.profile,
            limits=self._limits,
            export=self.order.attack.name,
            returns_buffer=True,
            on_output=on_output,
        )
        now = trio.current_time()
        self.worker.assign(CallRecord(request, done, now, lambda record, outcome: None), now)
        await ended.wait()
        return outcomes[0]

    async def end(self) -> DeathCertificate:
        """Kill it, where it lives, and wait for its burial."""
        self.worker.kill(_OVER)
        await self._buried.wait()
        assert self._certificate is not None
        return self._certificate
