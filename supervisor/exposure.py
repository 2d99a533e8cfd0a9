"""Attacks that no wall of this machine would stop, by the map of ``catalogue.ATTACKS``: what
``isolation="strict"`` refuses. Nothing is attacked for it."""

from __future__ import annotations

import os
from collections.abc import Collection

import msgspec

from ..protocol.catalogue import ATTACKS
from ..protocol.errors import IsolationError
from ..protocol.isolation import WallReport


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """One such attack."""

    attack: str
    title: str
    missing: tuple[WallReport, ...]
    """The walls of which each would stop it."""

    def error(self) -> IsolationError:
        """The refusal."""
        reasons = "; ".join(f"{wall.wall}: {wall.reason}" for wall in self.missing)
        remedy = next((wall.remedy for wall in self.missing if wall.remedy), "")
        return IsolationError(
            f"attack.{self.attack}",
            f"no wall here keeps native code in a worker from this: {self.title} ({reasons})",
            remedy,
        )


def exposures(walls: Collection[WallReport], *, root: bool) -> tuple[Exposure, ...]:
    """The attacks that none of the standing ``walls`` stops, in a pool of root or of another."""
    standing = {report.wall for report in walls if report.stands}
    return tuple(
        Exposure(
            attack=name,
            title=entry.title,
            missing=tuple(report for report in walls if report.wall in stopping),
        )
        for name, entry in ATTACKS.items()
        if entry.subject != "supervisor"
        and not standing & (stopping := entry.stopped_by(root=root))
    )


def refuse_exposures(walls: Collection[WallReport]) -> None:
    """Insist that every attack is stopped here.

    Raises:
        IsolationError: names the first that is not.
    """
    for exposure in exposures(walls, root=os.geteuid() == 0):
        raise exposure.error()
