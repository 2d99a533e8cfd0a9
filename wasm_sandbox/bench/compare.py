"""Two runs compared, with the noise in mind.

A figure is *changed* where it is so by more than the turns of its own runs differ, in both of the
ways in which it can be looked at: beside the calibration of its row, because a slower machine makes
both slower, and beside the peers of its row; where there are none, as it is. The smaller change is
what counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec

from .model import OURS, WHOLE, Report, Row, Spread
from .svg import number

LEAST = 0.10
"""Changes up to this share are noise in any case."""
_OF_TIME = ("s", "ms", "µs", "ns", "ns a call", "% of a processor")
_Change = Literal["slower", "faster", "same", "gone", "not run", "new"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One subject of one figure in two runs."""

    figure: str
    subject: str
    unit: str
    old: float | None
    new: float | None
    ratio: float | None
    """How many times as much it costs now, without what the machine and the peers have changed."""
    noise: float
    """By how much it may change and mean nothing."""
    change: _Change
    noisy: bool
    """Whether one of the runs had reasons not to be trusted here."""


def compare(old: Report, new: Report) -> list[Change]:
    """All subjects of ours, in the order of the new run."""
    before = {row.figure.name: row for row in old.rows}
    found: list[Change] = []
    for row in new.rows:
        found += _rows(before.pop(row.figure.name, None), row)
    for row in before.values():
        found += [
            _one(row, None, subject) for subject, _ in row.measured() if _is_ours(row, subject)
        ]
    return found


def regressions(changes: Sequence[Change]) -> list[Change]:
    """Those that are slower, or could not be measured any more."""
    return [change for change in changes if change.change in ("slower", "gone")]


def _rows(old: Row | None, new: Row) -> list[Change]:
    names = [line.subject for line in new.lines]
    if old is not None:
        names += [line.subject for line in old.lines if line.subject not in names]
    changes = [_one(old, new, name) for name in names if _is_ours(new, name)]
    return [each for each in changes if each.old is not None or each.new is not None]


def _is_ours(row: Row, subject: str) -> bool:
    """Rows without a subject of that name have ways of ours only."""
    mine = [line.subject for line in row.lines if line.subject.startswith(OURS)]
    return subject in mine if mine else subject != WHOLE or row.figure.kind == "parts"


def _one(old: Row | None, new: Row | None, subject: str) -> Change:
    rows = [row for row in (old, new) if row is not None]
    one, other = _spread(old, subject), _spread(new, subject)
    ratio: float | None = None
    noise = LEAST
    change: _Change = "new" if not one else "not run" if new is None else "gone"
    if old is not None and new is not None and one and other:
        ratio, noise = _ratio(old, new, one, other), LEAST + one.drift + other.drift
        change = "slower" if ratio > 1 + noise else "faster" if ratio < 1 / (1 + noise) else "same"
    return Change(
        figure=rows[-1].figure.name,
        subject=subject,
        unit=rows[-1].figure.unit,
        old=one.median if one else None,
        new=other.median if other else None,
        ratio=ratio,
        noise=noise,
        change=change,
        noisy=any(row.noise for row in rows),
    )


def _ratio(old: Row, new: Row, one: Spread, other: Spread) -> float:
    plain = _cost(new, other) / _cost(old, one)
    ways = (plain / _of_the_machine(old, new), plain / _of_the_peers(old, new))
    return min(ways, key=lambda way: abs(math.log(way)))


def _cost(row: Row, spread: Spread) -> float:
    """Less is better, and nothing is 0."""
    value = max(spread.median, 1e-12)
    return value if row.figure.better == "lower" else 1 / value


def _of_the_machine(old: Row, new: Row) -> float:
    """How many times as long the machine takes now; 1 for what does not depend on its speed."""
    figure = new.figure
    if old.before is None or old.after is None or new.before is None or new.after is None:
        return 1.0
    if figure.unit == "GB/s":
        return (old.before.copy + old.after.copy) / (new.before.copy + new.after.copy)
    if figure.unit in _OF_TIME or figure.unit.endswith("/s"):
        return (new.before.loop + new.after.loop) / (old.before.loop + old.after.loop)
    return 1.0


def _of_the_peers(old: Row, new: Row) -> float:
    """How many times as long the peers take now; 1 where there are none."""
    before, after = dict(old.measured()), dict(new.measured())
    both = [name for name in after if name in before and not _is_ours(new, name)]
    changes = [_cost(new, after[name]) / _cost(old, before[name]) for name in both]
    return median(changes) if changes else 1.0


def _spread(row: Row | None, subject: str) -> Spread | None:
    return None if row is None else dict(row.measured()).get(subject)


def lines(changes: Sequence[Change]) -> list[str]:
    """The comparison as text."""
    shown = [f"{'':<8} {'what':<58} {'old':>10} {'new':>10}  {'cost':>6}  noise"]
    for each in changes:
        name = f"{each.figure}: {each.subject}" if each.subject != OURS else each.figure
        old, new = ("–" if x is None else number(x) for x in (each.old, each.new))
        cost = "" if each.ratio is None else f"×{each.ratio:.2f}"
        doubt = " (noisy)" if each.noisy else ""
        shown.append(
            f"{each.change:<8} {name:<58} {old:>10} {new:>10}  {cost:>6}  ±{each.noise:.0%}{doubt}"
            f"  {each.unit}"
        )
    return shown
