"""How the doctor's findings look on a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..doctor import Findings
from ..protocol.isolation import WALLS, EnforcementRow, WallReport
from ..supervisor.attacks.survey import Row
from .reports import printable

WIDTH = 100
_NAME, _TITLE = 26, 36
_LEGEND = 4
"""Walls in a line of the legend."""


def print_findings(found: Findings) -> None:
    """Versions, machine, walls, policy, and what strict would say."""
    machine, versions = found.machine, found.versions
    path = f"its public interface: {found.fallback}" if found.fallback else "the raw call path"
    user = "root" if machine.user == 0 else f"user {machine.user}"
    print(f"wasm-sandbox {versions['wasm-sandbox']}")
    _item("engine", f"wasmtime {versions['wasmtime']}, through {path}")
    _item("python", ", ".join(f"{name} {text}" for name, text in _others(versions)))
    _item("machine", f"Linux {machine.kernel} on {machine.architecture}, as {user}")
    groups = ", ".join(machine.controllers)
    _item("cgroups", f"{machine.cgroups}: {groups}" if groups else machine.cgroups)
    _item("Landlock", f"ABI {machine.landlock}" if machine.landlock else "none")
    _item("seccomp", "yes" if machine.seccomp else "no")
    _item("user namespaces", f"no: {machine.user_namespaces}" if machine.user_namespaces else "yes")
    print("\nwalls")
    for report in found.walls:
        _wall(report)
    print("\npolicy")
    for row in found.policy:
        _field(row)
    print()
    if found.strict:
        print('isolation="strict" would start here')
    else:
        print('isolation="strict" would refuse to start here:')
        for row in found.policy:
            if row.gap:
                _item("", f"nothing enforces {row.field}")
        for exposure in found.exposures:
            _item("", f"no wall stops native code that tries to {exposure.title}")


def print_attack(row: Row) -> None:
    """One attack, behind all walls."""
    if row.all:
        said = f"SUCCEEDED: {row.evidence}"
    elif row.stopped_by:
        said = f"stopped by {', '.join(row.stopped_by)}"
    elif row.without:
        said = "stopped by several walls together, by none of them alone"
    else:
        said = f"refused by the machine itself: {row.refusal}"
    _item(row.title, said, width=_TITLE)


def print_table(rows: Sequence[Row]) -> None:
    """Attacks and walls: ``S`` succeeded with that wall alone, ``.`` was stopped."""
    walls = [wall for wall in WALLS if any(wall in row.alone for row in rows)]
    print(
        "\nS succeeded, . was stopped: without walls (0), with one wall alone, with all walls (*)"
    )
    legend = [f"{number:>2} {wall:<20}" for number, wall in enumerate(walls, 1)]
    for start in range(0, len(legend), _LEGEND):
        print(f"  {' '.join(legend[start : start + _LEGEND]).rstrip()}")
    numbers = [" 0", *(f"{number:>2}" for number in range(1, len(walls) + 1)), " *"]
    for digit in (0, 1):  # the tens above the ones
        print(" " * (_TITLE + 2) + "".join(f" {number[digit]}" for number in numbers).rstrip())
    for row in rows:
        if row.alone:
            cells = [row.without, *(row.alone.get(wall) for wall in walls), row.all]
            marks = "".join(f" {'-' if cell is None else '.S'[cell]}" for cell in cells)
            print(f"  {row.title:<{_TITLE}}{marks}")


def _wall(report: WallReport) -> None:
    if report.stands:
        _item(f"+ {report.wall}", WALLS[report.wall])
        return
    _item(f"- {report.wall}", report.reason)
    if report.remedy:
        _item("", f"to get it: {report.remedy}")


def _field(row: EnforcementRow) -> None:
    said = ", ".join(row.walls)
    if row.gap:
        said = "GAP: " + ("; ".join(f"{wall}: {why}" for wall, why, _ in row.missing) or row.note)
    elif not row.in_force:
        said = "not asked for" + (f" ({said} would enforce it)" if said else f": {row.note}")
    _item(row.field, said)


def _others(versions: dict[str, str]) -> list[tuple[str, str]]:
    return [(n, v) for n, v in versions.items() if n not in ("wasm-sandbox", "wasmtime")]


def _item(name: str, text: str, width: int = _NAME) -> None:
    lines = textwrap.wrap(printable(text), WIDTH - width - 3) or [""]
    print(f"  {name:<{width}} {lines[0]}")
    for line in lines[1:]:
        print(" " * (width + 3) + line)
