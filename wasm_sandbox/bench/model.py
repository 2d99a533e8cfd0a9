"""What is measured and what came out, as plain data: this is the format of the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from .machine import Calibration, Machine

OURS = "wasm-sandbox"
WHOLE = "the whole"
"""The subject whose parts the others are, in figures of the kind ``parts``."""
FORMAT = 1
Statistic = Literal["median", "p99"]
Verdict = Literal["kept", "missed", "not measured"]


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ``statistic`` of ``subject`` should be at most, or at least where more is better."""

    bound: float
    subject: str = OURS
    statistic: Statistic = "median"
    against: str | None = None
    """``bound`` is a multiple of this subject's, in the same run."""


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is measured."""

    name: str
    """For ``--only``, and the names of files."""
    title: str
    unit: str
    note: str = ""
    """How it is measured, where the title does not tell."""
    better: Literal["lower", "higher"] = "lower"
    kind: Literal["subjects", "growth", "parts"] = "subjects"
    """``growth``: subjects are numbers of ``axis``; ``parts``: subjects add up to a whole."""
    axis: str = ""
    targets: tuple[Target, ...] = ()


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What samples have in common; ``drift`` is how far the medians of turns lie apart, as a share
    of the median: noise of the machine that a median of all hides."""

    median: float
    p10: float
    p90: float
    p99: float
    drift: float
    samples: int
    turns: int


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One subject of a figure: its spread, or the reason why there is none."""

    subject: str
    spread: Spread | None = None
    reason: str = ""
    failed: bool = False
    """It was tried and failed; otherwise it is not here."""


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """The run of a row that was measured again, without the others of its report."""

    machine: Machine
    version: str
    effort: Literal["full", "quick"]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure of all subjects, in one run."""

    figure: Figure
    lines: tuple[Line, ...]
    before: Calibration | None = None
    after: Calibration | None = None
    noise: tuple[str, ...] = ()
    """Why not to trust the figures, in words."""
    again: Again | None = None
    """Its run, where that is not the report's."""

    def line(self, subject: str) -> Line | None:
        """The line of a subject."""
        return next((line for line in self.lines if line.subject == subject), None)

    def measured(self) -> list[tuple[str, Spread]]:
        """The subjects that have a spread."""
        return [(line.subject, line.spread) for line in self.lines if line.spread is not None]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    format: int = FORMAT
    version: str
    effort: Literal["full", "quick"]
    before: Machine
    after: Machine
    seconds: float
    rows: tuple[Row, ...]


def updated(report: Report, newer: Report) -> Report:
    """A report with the rows of a newer one in place of its own, or after them."""
    again = Again(machine=newer.before, version=newer.version, effort=newer.effort)
    rows = {row.figure.name: row for row in report.rows}
    for row in newer.rows:
        rows[row.figure.name] = msgspec.structs.replace(row, again=again)
    return msgspec.structs.replace(report, rows=tuple(rows.values()))


def spread(turns: Sequence[Sequence[float]]) -> Spread:
    """What the samples of some turns have in common; there is one at least."""
    ordered = sorted(sample for turn in turns for sample in turn)
    medians = [percentile(sorted(turn), 50) for turn in turns if turn]
    middle = percentile(ordered, 50)
    return Spread(
        median=middle,
        p10=percentile(ordered, 10),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        drift=(max(medians) - min(medians)) / abs(middle) if middle else 0.0,
        samples=len(ordered),
        turns=len(medians),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted samples, between the two that are nearest."""
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def limit_of(row: Row, target: Target) -> float | None:
    """The bound of a target in the row's unit; ``None`` where the other subject is not there."""
    if target.against is None:
        return target.bound
    line = row.line(target.against)
    found = None if line is None else value_of(line, target)
    return None if found is None else found * target.bound


def value_of(line: Line, target: Target) -> float | None:
    """What a target is about."""
    if line.spread is None:
        return None
    return line.spread.p99 if target.statistic == "p99" else line.spread.median


def verdict(row: Row, target: Target) -> Verdict:
    """Whether a target is kept."""
    line, limit = row.line(target.subject), limit_of(row, target)
    value = None if line is None else value_of(line, target)
    if value is None or limit is None:
        return "not measured"
    kept = value <= limit if row.figure.better == "lower" else value >= limit
    return "kept" if kept else "missed"


def in_words(row: Row, target: Target) -> str:
    """A target as people write it."""
    sign = "≤" if row.figure.better == "lower" else "≥"
    statistic = "p99 " if target.statistic == "p99" else ""
    whose = "" if target.subject == OURS else f"{target.subject}: "
    if target.against is not None:
        return f"{whose}{statistic}{sign} {target.bound:g} × {target.against}"
    return f"{whose}{statistic}{sign} {target.bound:,g} {row.figure.unit}"
