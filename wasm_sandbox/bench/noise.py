"""Signs that the machine was not quiet: they are told with the figures, and not hidden."""

from __future__ import annotations

from collections.abc import Sequence

from .machine import Machine
from .model import Row

LOAD, CHANGE, SLOWER, STOLEN, DRIFT, WIDE = 0.5, 0.1, 0.15, 0.02, 0.25, 1.0
"""Shares: of the processors that are busy before the run; that the calibration changes meanwhile;
that it is slower than the run's best; of the time that the host gave to others; that turns lie
apart; that p10 and p90 lie apart."""


def noise(row: Row, rows: Sequence[Row], machine: Machine) -> tuple[str, ...]:
    """Why not to trust a row of some, in words."""
    return (*_of_the_moment(row, rows, machine), *_of_the_samples(row))


def busy(machine: Machine) -> str:
    """What to say of a machine that had other work before a run began; empty if it had none."""
    if machine.load <= LOAD * machine.cpus:
        return ""
    return f"the load was {machine.load:.1f} on {machine.cpus} processors before it began"


def _of_the_moment(row: Row, rows: Sequence[Row], machine: Machine) -> list[str]:
    if row.before is None or row.after is None:
        return []
    said: list[str] = []
    one, other = row.before.loop, row.after.loop
    best = min(each.before.loop for each in rows if each.before is not None)
    if abs(other - one) > CHANGE * min(one, other):
        said.append(f"the calibration loop took {one * 1e3:.2f} ms before, {other * 1e3:.2f} after")
    elif (slower := min(one, other) / best - 1) > SLOWER:
        said.append(f"the calibration loop was {slower:.0%} slower than at the run's best moment")
    seconds = (row.after.when - row.before.when) * machine.cpus
    stolen = (row.after.stolen - row.before.stolen) / seconds if seconds > 0 else 0.0
    if stolen > STOLEN:
        said.append(f"the machine's host gave {stolen:.0%} of the time to others")
    return said


def _of_the_samples(row: Row) -> list[str]:
    said: list[str] = []
    for subject, spread in row.measured():
        wide = (spread.p90 - spread.p10) / abs(spread.median) if spread.median else 0.0
        if spread.drift > DRIFT:
            said.append(f"{subject}: the turns' medians lie {spread.drift:.0%} apart")
        elif wide > WIDE:
            said.append(f"{subject}: p10 and p90 lie {wide:.0%} apart")
    return said
