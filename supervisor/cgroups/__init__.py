"""Control groups of a pool: a fresh group for each worker, with limits, counters and a kill that
nothing escapes.

``discover`` finds out where groups can be made (v1, v2 as root, v2 delegated, or nowhere, with the
reason and the remedy) and gives a ``Hierarchy``; ``Hierarchy.group`` makes a worker's ``Group``;
``sweep`` clears away what pools left whose supervisor was killed. All calls are synchronous and
take single milliseconds; see docs/cgroups.md.
"""

from .discovery import discover, sweep
from .hierarchy import Group, Hierarchy
from .janitor import remove_directories
from .model import (
    CgroupError,
    CgroupLimits,
    CgroupUsage,
    GroupBusy,
    LimitBelowUsage,
    Unavailable,
)

__all__ = [
    "CgroupError",
    "CgroupLimits",
    "CgroupUsage",
    "Group",
    "GroupBusy",
    "Hierarchy",
    "LimitBelowUsage",
    "Unavailable",
    "discover",
    "remove_directories",
    "sweep",
]
