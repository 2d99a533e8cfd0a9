"""Groups for workers that are to lack some of the walls which a group is."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ..cgroups import CgroupLimits, Group, Hierarchy
from ..cgroups.hierarchy import NoGroup

_FIELDS = {
    "cgroup.memory": "memory",
    "cgroup.swap": "swap",
    "cgroup.pids": "pids",
    "cgroup.cpu": "cpu_fraction",
}


class Containment(NoGroup):
    """A group without limits, which its worker's supervisor neither kills nor removes: there, no
    cgroup is a wall. Whoever made it does, so that nothing is left of an attack that succeeded."""

    def __init__(self, real: Group) -> None:
        super().__init__((), entrance="")
        self.real = real
        self.procs_files = real.procs_files


class ChosenGroups(Hierarchy):
    """The groups of another hierarchy, with only those limits that are walls of ``chosen``."""

    def __init__(self, real: Hierarchy, chosen: Collection[str] | None) -> None:
        super().__init__(real.kind, real.missing, real.directories)
        if chosen is not None:
            # The supervisor keeps a worker to its share only where no controller is said to do so.
            kept = "supervisor" in chosen and "cgroup.cpu" not in chosen
            self.controllers = self.controllers - {"cpu"} if kept else self.controllers | {"cpu"}
        self._real = real
        self._chosen = _FIELDS.keys() if chosen is None else _FIELDS.keys() & set(chosen)
        if "cgroup.memory" not in self._chosen:
            self._chosen -= {"cgroup.swap"}  # one limits memory, the other what is beyond that
        self.made: Group | None = None
        """The group that was made last, of the other hierarchy."""

    def group(self, name: str, limits: CgroupLimits) -> Group:
        """A group with the chosen ones of ``limits``."""
        absent = dict.fromkeys(_FIELDS[wall] for wall in _FIELDS.keys() - self._chosen)
        self.made = self._real.group(name, dataclasses.replace(limits, **absent))
        return self.made if self._chosen else Containment(self.made)

    def _make(self, name: str) -> Group:
        raise AssertionError("groups are made by the other hierarchy")
