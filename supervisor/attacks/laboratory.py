"""One attack after the other, each in a fresh worker with the walls that are asked for.

Theory of operation. Workers here are the pool's own: the same class supervises them, the same
zygote forks them, the same code jails them. Three things differ. The zygote is asked for the role
``attack``; the groups have only the limits that are asked for; and the one call of each worker runs
the attack. What an attack says of itself is checked from outside where that can be done.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Collection
from contextlib import ExitStack, asynccontextmanager, suppress

import msgspec
import trio

from ...protocol.attacks import (
    EXIT_SUCCEEDED,
    INTACT,
    Attack,
    Report,
    Victim,
    decode_report,
    encode,
)
from ...protocol.capabilities import Capabilities, Filesystem
from ...protocol.catalogue import ATTACKS
from ...protocol.errors import LimitExceeded, PoolError, ProtocolError, WorkerLost
from ...protocol.isolation import AROUND
from ...protocol.limits import Limits
from ...protocol.profile import Profile
from ...protocol.receipts import DeathCertificate
from ..cgroups import CgroupError, Group, Hierarchy, discover, sweep
from ..cgroups.discovery import PROC, ROOT, find_trees
from ..cgroups.hierarchy import CONTROLLERS
from ..requests import Outcome
from ..worker import Worker
from .groups import ChosenGroups
from .subject import AttackZygote, Office, Order, Subject
from .targets import Scenery
from .witness import confirmed

LIMITS = Limits(
    memory=32 << 20,
    file_size=1 << 20,
    open_files=16,
    wall_time=60.0,
    cpu_time=10.0,
    idle_time=10.0,
)
"""What the workers may use: little, so that attacks on it need little."""
EXPOSE = "expose"
"""What a worker does that is a victim: it holds the secret in its memory."""
DEATH_SECONDS = 0.2
"""How long a worker may take to die of its parent's death."""
FAULT = 70
"""Exit status of a worker whose own code failed."""
_BURNING = msgspec.structs.replace(LIMITS, cpu_fraction=0.05)
"""Limits under which the processor is attacked."""
_EXITS = {"execute": EXIT_SUCCEEDED, "execute_set_uid": 0}
"""Exit status of the attacks that succeed by becoming another program."""
_OUTLIVE = ("outlive", "outlive_without_signal")

Judgement = tuple[bool, str, DeathCertificate | None]
"""Whether an attack succeeded, the evidence, and how its worker ended."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """How one attack ended, behind one choice of walls."""

    attack: str
    walls: tuple[str, ...]
    """Those that stood."""
    succeeded: bool
    evidence: str
    """What it got, what the kernel said, or how the worker ended."""
    certificate: DeathCertificate | None = None
    """Where the attack ended its worker."""


@asynccontextmanager
async def laboratory() -> AsyncGenerator[Laboratory]:
    """A place for attacks. Leaving the block ends all that was started, and all that attacks left.

    Raises:
        OSError, PoolError: what is needed could not be made.
    """
    await trio.to_thread.run_sync(sweep)
    with Scenery() as scenery:
        hierarchy = discover()
        try:
            async with trio.open_nursery() as nursery:
                made = Laboratory(scenery, hierarchy, nursery)
                try:
                    yield made
                finally:
                    with trio.CancelScope(shield=True):
                        await made.close()
        finally:
            hierarchy.close()


class Laboratory:
    """Made by ``laboratory``."""

    def __init__(self, scenery: Scenery, hierarchy: Hierarchy, nursery: trio.Nursery) -> None:
        self.hierarchy = hierarchy
        self._scenery = scenery
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self._zygotes: dict[frozenset[str], AttackZygote] = {}
        """By the walls around them, among ``AROUND``."""
        trees = find_trees(ROOT, PROC)
        own = trees.get("memory") or trees.get("")
        self._own_group = os.path.join(own.own, "cgroup.procs") if own else ""

    async def standing(self) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """(walls that a worker has here, (wall, why not) for those that it could not build).

        Raises:
            CannotBuild: no worker can be made.
        """
        with ExitStack() as leftovers:
            subject = await self._start(EXPOSE, None, leftovers, Victim())
            try:
                walls = *(await subject.ready()), *self._outer_walls(None)
                assert subject.worker.ready is not None
                return walls, subject.worker.ready.missing
            finally:
                await subject.end()

    async def attempt(self, name: str, walls: Collection[str] | None = None) -> Attempt:
        """Make an attack behind ``walls`` and no others; ``None`` is all that this machine allows.

        Raises:
            CannotBuild: a worker with these walls cannot be made.
            PoolError: the attack itself has a fault.
        """
        self._scenery.tidy()
        with ExitStack() as leftovers:
            if not ATTACKS[name].sibling:
                return await self._attempt(name, walls, leftovers, Victim())
            sibling = await self._start(EXPOSE, walls, leftovers, Victim())
            try:
                await sibling.ready()
                address = _report(await sibling.call()).number
                victim = Victim(sibling.worker.pid, address)
                return await self._attempt(name, walls, leftovers, victim)
            finally:
                await sibling.end()

    async def _attempt(
        self, name: str, walls: Collection[str] | None, leftovers: ExitStack, sibling: Victim
    ) -> Attempt:
        subject = await self._start(name, walls, leftovers, sibling)
        certificate = None
        try:
            standing = *(await subject.ready()), *self._outer_walls(walls)
            if name in _OUTLIVE:
                succeeded, evidence, certificate = await self._outlive(subject)
            else:
                succeeded, evidence, certificate = self._judge(subject, await subject.call())
            if name == "leave_process" and succeeded:
                await subject.end()
                succeeded = subject.order.survived()
                evidence = "it lived on" if succeeded else "it died with its worker"
        finally:
            await subject.end()
        return Attempt(
            attack=name,
            walls=standing,
            succeeded=succeeded,
            evidence=evidence,
            certificate=certificate,
        )

    async def _start(
        self, name: str, walls: Collection[str] | None, leftovers: ExitStack, sibling: Victim
    ) -> Subject:
        """A worker for one attack; ``leftovers`` is told how to end what it leaves."""
        zygote = await self._zygote(walls)
        groups, office, number = ChosenGroups(self.hierarchy, walls), Office(), next(self._numbers)
        limits = _BURNING if name == "burn_processor" else LIMITS
        profile = Profile.of(limits, self._capabilities(name))
        worker = Worker(number, profile, zygote, groups, office)
        assert groups.made is not None
        leftovers.callback(_clear, groups.made)
        targets = msgspec.structs.replace(
            self._scenery.targets,
            sibling=sibling,
            group=self._own_group,
            group_limits=_limit_files(groups.made),
        )
        order = Order(Attack(name, None if walls is None else tuple(walls), targets))
        leftovers.callback(order.close)
        zygote.orders[number] = order
        subject = Subject(worker, zygote, office, order, limits)
        self._nursery.start_soon(subject.live)
        return subject

    def _capabilities(self, name: str) -> Capabilities:
        filesystem = Filesystem.none()
        if name in ATTACKS and ATTACKS[name].granted:
            filesystem = Filesystem.read_write(os.path.join(self._scenery.folder, "granted"))
        return Capabilities(filesystem=filesystem)

    async def _zygote(self, walls: Collection[str] | None) -> AttackZygote:
        around = AROUND if walls is None else AROUND & {*walls}
        zygote = self._zygotes.get(around)
        if zygote is not None and not zygote.lost.is_set():
            return zygote
        if zygote is not None:
            await zygote.close()
        inherited = {} if "environment" in around else self._scenery.environment
        zygote = self._zygotes[around] = AttackZygote(inherited, tuple(around))
        self._nursery.start_soon(zygote.serve)
        await zygote.wait_ready()
        zygote.own(self.hierarchy.directories)
        return zygote

    def _outer_walls(self, walls: Collection[str] | None) -> list[str]:
        """Those of ``walls`` that are not for the worker to build."""
        groups = (f"cgroup.{name}" for name in CONTROLLERS if name in self.hierarchy.controllers)
        return [wall for wall in ("supervisor", *groups) if walls is None or wall in walls]

    def _judge(self, subject: Subject, outcome: Outcome) -> Judgement:
        name, error = subject.order.attack.name, outcome.error
        if error is None and name == "change_arena":
            changed = outcome.data != encode(Report(True, INTACT))
            return changed, "it was changed" if changed else "what was checked was a copy", None
        if error is None:
            report = _report(outcome)
            if not report.succeeded:
                return False, report.evidence, None
            seen = confirmed(name, self._scenery, report, subject.worker.pid)
            return seen, report.evidence if seen else "nothing of it is seen outside", None
        certificate = error.certificate if isinstance(error, WorkerLost | LimitExceeded) else None
        if certificate is None or certificate.exit_code == FAULT:
            raise PoolError(f"the attack {name} has a fault: {error}")
        became = certificate.cause == "exited" and certificate.exit_code == _EXITS.get(name)
        return became, "it became another program" if became else str(error), certificate

    async def _outlive(self, subject: Subject) -> Judgement:
        """Kill the zygote, and look whether the worker lives, before its supervisor can act: that
        may be dead as well."""
        changed = trio.Event()
        outcomes: list[Outcome] = []

        async def call() -> None:
            outcomes.append(await subject.call(lambda stream, data: changed.set()))
            changed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await changed.wait()
            if outcomes:
                return self._judge(subject, outcomes[0])
            subject.zygote.kill()
            survived = subject.order.survived(DEATH_SECONDS)
            await subject.end()
            await subject.zygote.lost.wait()
        return survived, "it lived on" if survived else "it died with its parent", None

    async def close(self) -> None:
        """End the zygotes."""
        for zygote in self._zygotes.values():
            await zygote.close()


def _report(outcome: Outcome) -> Report:
    if outcome.error is not None:
        raise PoolError(f"a worker that was to be attacked failed: {outcome.error}")
    try:
        return decode_report(outcome.data or b"")
    except ProtocolError as error:
        raise PoolError(f"an attack left no report: {error}") from None


def _limit_files(group: Group) -> tuple[str, ...]:
    """The files that limit the memory of a group, in either version."""
    names = "memory.max", "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"
    paths = (os.path.join(path, name) for path in group.directories for name in names)
    return tuple(path for path in paths if os.path.exists(path))


def _clear(group: Group) -> None:
    with suppress(CgroupError):  # what does not die is swept later
        group.kill()
        group.remove()
