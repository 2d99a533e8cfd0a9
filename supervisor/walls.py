"""The walls that stand around a pool's workers, held against what its user insists on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ..protocol.isolation import EnforcementRow, Isolation, WallReport
from ..protocol.limits import Limits
from ..protocol.profile import Profile
from .cgroups import Hierarchy
from .enforcement import enforcement, refuse_absent, refuse_gaps, wall_reports
from .exposure import refuse_exposures

_REMEMBERED = 1000


class Walls:
    """What the last worker that was ready reported, and what follows from it."""

    def __init__(
        self,
        isolation: Literal["strict", "best-effort"] | Isolation,
        groups: Callable[[], Hierarchy],
    ) -> None:
        self._isolation: Literal["strict", "best-effort"] | Isolation = isolation
        self._groups = groups
        self._standing: tuple[str, ...] = ()
        self._missing: tuple[tuple[str, str], ...] = ()
        self._without_gaps: set[tuple[Limits, Profile]] = set()

    @property
    def required(self) -> bool:
        """Whether any wall was insisted on."""
        return self._isolation != "best-effort"

    def reported(self, standing: tuple[str, ...], missing: tuple[tuple[str, str], ...]) -> None:
        """A worker is ready behind these walls; (wall, why) for those that it could not build."""
        if (standing, missing) != (self._standing, self._missing):
            self._without_gaps.clear()
        self._standing, self._missing = standing, missing

    def refuse_worker(
        self, standing: tuple[str, ...], missing: tuple[tuple[str, str], ...]
    ) -> None:
        """Hold the walls of one worker against the isolation that was asked for: another one, or
        an earlier one, may have had more.

        Raises:
            IsolationError: it may not serve.
        """
        reports = wall_reports(standing, missing, self._groups())
        if isinstance(self._isolation, Isolation):
            refuse_absent(self._isolation, reports)
        elif self._isolation == "strict":
            refuse_exposures(reports)

    def reports(self) -> tuple[WallReport, ...]:
        """Every wall that this version can build, and whether it stands here."""
        return wall_reports(self._standing, self._missing, self._groups())

    def rows(self, limits: Limits, profile: Profile) -> tuple[EnforcementRow, ...]:
        """For each field of the policy, the walls that enforce it on this machine."""
        return enforcement(limits, profile.granted, self._standing, self._missing, self._groups())

    def refuse_gaps(self, limits: Limits, profile: Profile) -> None:
        """Hold limits and capabilities against the isolation that was asked for.

        Raises:
            IsolationError: a wall is missing that was insisted on; for ``strict``, nothing enforces
                a field, or keeps native code in a worker from an attack.
        """
        key = limits, profile
        if key not in self._without_gaps:
            if self._isolation == "strict":
                refuse_gaps(self.rows(*key))
            self.refuse_worker(self._standing, self._missing)
            if len(self._without_gaps) > _REMEMBERED:
                self._without_gaps.clear()
            self._without_gaps.add(key)
