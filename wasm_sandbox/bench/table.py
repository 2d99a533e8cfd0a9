"""A run as text for a terminal."""

from __future__ import annotations

from .model import Report, Row, in_words, verdict
from .noise import busy
from .svg import number


def lines(report: Report) -> list[str]:
    """The whole run."""
    before = report.before
    where = f"{before.processor}, {before.cpus} processors, Linux {before.kernel}"
    load = f"load {before.load:.1f} before, {report.after.load:.1f} after"
    shown = [f"{where}, Python {before.python}; {load}; {report.seconds:.0f} s"]
    if said := busy(before):
        shown.append(f"noise: {said}")
    for row in report.rows:
        shown += ["", *of_row(row)]
    return shown


def of_row(row: Row) -> list[str]:
    """One figure."""
    figure = row.figure
    shown = [f"{figure.name}: {figure.title.replace('`', '')} ({figure.unit})"]
    measured = dict(row.measured())
    first = next(iter(measured.values()), None)
    for line in row.lines:
        found = line.spread
        if found is None:
            state = "failed" if line.failed else "absent"
            shown.append(f"  {line.subject:<56} {state}: {line.reason}")
            continue
        ratio = found.median / first.median if first is not None and first.median else 0.0
        shown.append(
            f"  {line.subject:<56} {number(found.median):>10}"
            f"  [{number(found.p10)} .. {number(found.p90)}]  ×{ratio:.2f}  n={found.samples}"
        )
    for target in figure.targets:
        shown.append(f"  target {in_words(row, target)}: {verdict(row, target)}")
    shown += [f"  noise: {said}" for said in row.noise]
    return shown
