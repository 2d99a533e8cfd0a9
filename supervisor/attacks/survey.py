"""Which wall stops which attack here: every attack without walls, with each wall alone, and with
all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import msgspec

from ...protocol.catalogue import ATTACKS
from ...protocol.isolation import WALLS
from .laboratory import Attempt, Laboratory
from .subject import CannotBuild

ALWAYS = ("engine", "process", "supervisor")
"""Walls that cannot be left out, but for one thing: see ``ChosenGroups``."""
CHOICE = tuple(wall for wall in WALLS if wall not in ALWAYS)
"""Walls that can."""
_PARENTS = {
    "cgroup.swap": "cgroup.memory",
    "landlock.network": "landlock",
    "landlock.scope": "landlock",
}
"""Walls that are no more than an addition to another."""
_CAP_SYS_ADMIN = 21
_TRIES = 3
"""How often an attack is made again that failed where no wall is known to stop it: a busy machine
may have."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attack. ``True`` is that it succeeded."""

    attack: str
    title: str
    without: bool
    """Without any wall that can be left out. If it fails there, no wall is to be praised."""
    refusal: str
    """What stopped it there; empty where nothing did."""
    alone: dict[str, bool]
    """With one wall alone, for each that stands here."""
    all: bool
    """With all walls."""
    evidence: str
    """What it got behind all walls, or what stopped it there."""

    @property
    def stopped_by(self) -> tuple[str, ...]:
        """The walls of which each stops it alone; ``supervisor`` for what none of them is for."""
        if not self.without:
            return ("supervisor",) if ATTACKS[self.attack].subject == "supervisor" else ()
        return tuple(wall for wall, succeeded in self.alone.items() if not succeeded)


def companions(wall: str, *, privileged: bool) -> tuple[str, ...]:
    """Walls that must stand before ``wall`` can be built, in the order in which they are built."""
    parent = _PARENTS.get(wall, "")
    if not privileged and not parent:
        # Without CAP_SYS_ADMIN the kernel wants a promise first: landlock_restrict_self(2) and
        # seccomp(2) that of no_new_privs, unshare(2) a user namespace.
        if wall in ("landlock", "seccomp"):
            parent = "no_new_privs"
        elif wall.startswith("namespace.") and wall != "namespace.user":
            parent = "namespace.user"
    return (*companions(parent, privileged=privileged), parent) if parent else ()


def _privileged() -> bool:
    """Whether this process has CAP_SYS_ADMIN, which root in a container has not."""
    with open("/proc/self/status") as lines:
        line = next(line for line in lines if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


async def survey(
    place: Laboratory,
    names: Iterable[str] = ATTACKS,
    walls: Iterable[str] | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> tuple[Row, ...]:
    """Make the attacks; ``walls`` are those to try alone, all that stand by default.

    Raises:
        PoolError: an attack has a fault, or no worker could be made.
    """
    standing, _ = await place.standing()
    chosen = ("supervisor", *CHOICE) if walls is None else walls
    tried = [wall for wall in chosen if wall in standing]
    rows: list[Row] = []
    for name in names:
        rows.append(await _row(place, name, tried))
        if on_row is not None:
            on_row(rows[-1])
    return tuple(rows)


async def _row(place: Laboratory, name: str, walls: Iterable[str]) -> Row:
    bare = await _attempt(place, name, ())
    alone: dict[str, bool] = {}
    for wall in walls if bare.succeeded else ():
        if wall not in CHOICE and wall not in ATTACKS[name].walls:
            continue  # it stood without any wall, too
        needed = companions(wall, privileged=_privileged())
        if not all(alone.get(each, True) for each in needed):
            continue  # nothing is left for it to stop
        try:
            attempt = await _attempt(place, name, (*needed, wall))
        except CannotBuild:
            continue
        if wall in attempt.walls:
            alone[wall] = attempt.succeeded
    behind_all = await _attempt(place, name, None)
    return Row(
        attack=name,
        title=ATTACKS[name].title,
        without=bare.succeeded,
        refusal="" if bare.succeeded else bare.evidence,
        alone=alone,
        all=behind_all.succeeded,
        evidence=behind_all.evidence,
    )


async def _attempt(place: Laboratory, name: str, walls: tuple[str, ...] | None) -> Attempt:
    attempt = await place.attempt(name, walls)
    entry = ATTACKS[name]
    stopping = {*entry.stopped_by(root=os.geteuid() == 0), *entry.sometimes}
    for _ in range(0 if walls is None or stopping & {*walls} else _TRIES):
        if not attempt.succeeded:
            attempt = await place.attempt(name, walls)
    return attempt
