"""The enforcement table: for each field of the policy, the walls that enforce it on this
machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..protocol.capabilities import Grant
from ..protocol.errors import IsolationError
from ..protocol.isolation import WALLS, EnforcementRow, Isolation, WallReport
from ..protocol.limits import Limits
from .cgroups import Hierarchy

WALLS_OF: dict[str, tuple[str, ...]] = {
    "limits.memory": ("engine", "cgroup.memory", "cgroup.swap", "rlimits"),
    "limits.table_elements": ("engine",),
    "limits.stack": ("engine",),
    "limits.fuel": ("engine",),
    "limits.wall_time": ("engine", "supervisor"),
    "limits.cpu_time": ("engine", "supervisor"),
    "limits.idle_time": ("engine", "supervisor"),
    "limits.output": ("process", "supervisor"),
    "limits.open_files": ("engine", "rlimits"),
    "limits.file_size": ("engine", "rlimits"),
    "limits.disk": ("engine",),
    "limits.connections": ("supervisor", "seccomp", "landlock.network", "namespace.network"),
    "limits.network_received": ("supervisor", "seccomp", "landlock.network", "namespace.network"),
    "limits.network_sent": ("supervisor", "seccomp", "landlock.network", "namespace.network"),
    "limits.processes": ("engine", "seccomp", "cgroup.pids"),
    "limits.cpu_fraction": ("cgroup.cpu", "supervisor"),
    "limits.io_read": ("engine",),
    "limits.io_write": ("engine",),
    "limits.compile_time": ("supervisor",),
    "limits.compile_memory": ("cgroup.memory", "rlimits"),
    "limits.module_size": ("supervisor",),
    "capabilities.filesystem": ("engine", "landlock", "namespace.mount"),
    "capabilities.network": (
        *("engine", "supervisor", "seccomp", "landlock.network", "namespace.network"),
    ),
    "capabilities.environment": ("engine", "environment"),
    "capabilities.clock": ("engine",),
    "capabilities.random": ("engine",),
    "capabilities.stdio": ("engine", "descriptors"),
    "capabilities.custom": ("supervisor",),
}
_NOTES = {
    "capabilities.custom": "a host function is not called without the grants that it needs; what "
    "they mean is its own",
    "capabilities.network": "guests have no sockets: the supervisor connects, to checked addresses",
    "limits.processes": "guests have no way to start a process",
    "limits.disk": "in force with a writable directory",
    "limits.io_read": "in force with a granted directory",
    "limits.io_write": "in force with a writable directory",
}
_NAMESPACES = (
    "allow user namespaces (sysctl user.max_user_namespaces, "
    "kernel.apparmor_restrict_unprivileged_userns, a container's seccomp profile), or run the "
    "program with CAP_SYS_ADMIN"
)
_REMEDIES = {
    "namespace.user": _NAMESPACES,
    "namespace.mount": f"{_NAMESPACES}; needs Linux 5.12 or newer, and /proc",
    "namespace.network": _NAMESPACES,
    "namespace.ipc": _NAMESPACES,
    "namespace.uts": _NAMESPACES,
    "namespace.pid": _NAMESPACES,
    "uid": "run the program as root with CAP_SETUID and CAP_SETGID, in a user namespace that maps "
    "the ids that docs/security.md names",
    "rlimits": "raise the hard limits of the program that makes the pool (ulimit -H)",
    "no_new_privs": "needs Linux 3.5 or newer",
    "death_signal": "the zygote was gone before the worker began",
    "seccomp": "needs a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    "landlock": "needs Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` in the "
    "`lsm=` list of the kernel's command line (see /sys/kernel/security/lsm)",
    "landlock.network": "needs Linux 6.7 or newer, with Landlock",
    "landlock.scope": "needs Linux 6.12 or newer, with Landlock",
}


def wall_reports(
    standing: Iterable[str], missing: Iterable[tuple[str, str]], hierarchy: Hierarchy
) -> tuple[WallReport, ...]:
    """One report for each wall of this version; the arguments are those of ``enforcement``."""
    walls = {"supervisor", *standing, *(f"cgroup.{name}" for name in hierarchy.controllers)}
    absent = {wall: (why, _REMEDIES.get(wall, "")) for wall, why in missing}
    for name, unavailable in hierarchy.missing.items():
        absent[f"cgroup.{name}"] = unavailable.reason, unavailable.remedy
    unknown = "no worker has reported it yet", ""
    return tuple(
        WallReport(wall, True)
        if wall in walls
        else WallReport(wall, False, *absent.get(wall, unknown))
        for wall in WALLS
    )


def enforcement(
    limits: Limits,
    directories: Sequence[Grant],
    standing: Iterable[str],
    missing: Iterable[tuple[str, str]],
    hierarchy: Hierarchy,
) -> tuple[EnforcementRow, ...]:
    """One row for each field of ``Limits`` and ``Capabilities``.

    Args:
        limits: the limits that hold.
        directories: what is granted.
        standing: walls that a worker reported as built.
        missing: (wall, why) that it could not build.
        hierarchy: where cgroups are made.
    """
    walls = {report.wall: report for report in wall_reports(standing, missing, hierarchy)}
    return tuple(
        EnforcementRow(
            field=field,
            in_force=_in_force(field, limits, directories),
            walls=_enforcing(field, [wall for wall in wanted if walls[wall].stands]),
            missing=tuple(
                (wall, walls[wall].reason, walls[wall].remedy)
                for wall in wanted
                if not walls[wall].stands
            ),
            note=_NOTES.get(field, ""),
        )
        for field, wanted in WALLS_OF.items()
    )


def _enforcing(field: str, walls: Sequence[str]) -> tuple[str, ...]:
    # The supervisor keeps shares of a processor only where the kernel does not.
    return tuple(walls[:1] if field == "limits.cpu_fraction" else walls)


def _in_force(field: str, limits: Limits, directories: Sequence[Grant]) -> bool:
    match field:
        case "limits.fuel":
            return limits.fuel is not None
        case "limits.io_read" | "limits.open_files":
            return bool(directories)
        case "limits.io_write" | "limits.file_size" | "limits.disk":
            return any(grant.writable for grant in directories)
        case _:
            return True


def refuse_absent(isolation: Isolation, walls: Iterable[WallReport]) -> None:
    """Insist on the walls that must stand.

    Raises:
        IsolationError: names the first that does not.
    """
    for report in walls:
        if report.wall in isolation.require and not report.stands:
            reason = f"{WALLS[report.wall]}: {report.reason}"
            raise IsolationError(report.wall, reason, report.remedy)


def refuse_gaps(rows: Iterable[EnforcementRow]) -> None:
    """Insist that every field in force is enforced.

    Raises:
        IsolationError: names the first that is not.
    """
    for row in rows:
        if row.gap:
            reasons = "; ".join(f"{wall}: {reason}" for wall, reason, _ in row.missing)
            remedy = next((remedy for *_, remedy in row.missing if remedy), "")
            raise IsolationError(row.field, reasons or row.note or "no wall enforces it", remedy)
