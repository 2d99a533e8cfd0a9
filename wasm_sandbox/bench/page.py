"""A run as a page of documentation: Markdown, and a plot beside each figure that has something to
compare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from .model import OURS, WHOLE, Again, Line, Report, Row, in_words, verdict
from .noise import busy
from .svg import Bar, bars, curve, number, stack

PAGE, DATA, PLOTS = "performance.md", "performance.json", "performance"
REST = "all the rest"

_HEAD = """\
# Performance

`wasm-sandbox bench --write` has measured and written this page. Read the ratios: peers were
measured in the same run, in turns with ours. Peers that are pools run plain Python, without any
sandbox; what is ours runs WebAssembly in jailed workers, behind every wall that the machine allows.

A figure is the median of all samples; a tenth of them is below p10, and a tenth above p90. Where
the machine was not quiet, the figure says so. `performance.json`, beside this page, has all of it
as data, and `wasm-sandbox bench --compare OLD.json NEW.json` compares two runs.
"""
_SIGNS = {"kept": "yes", "missed": "**no**", "not measured": "not measured"}


def write(report: Report, folder: Path) -> list[Path]:
    """Write the page, its data and its plots; what was written. Plots of another run go."""
    files = {PAGE: page(report), DATA: data(report)}
    files |= {f"{PLOTS}/{name}": text for name, text in plots(report).items()}
    (folder / PLOTS).mkdir(exist_ok=True)
    for old in (folder / PLOTS).glob("*.svg"):
        old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def data(report: Report) -> str:
    """The run as JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"


def read(path: Path) -> Report:
    """A run that ``data`` wrote.

    Raises:
        OSError: there is no such file.
        msgspec.DecodeError: it holds something else.
    """
    return msgspec.json.decode(path.read_bytes(), type=Report)


def page(report: Report) -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_machine(report), *_targets(report), *_figures(report)])


def plots(report: Report) -> dict[str, str]:
    """The plots, by the names of their files."""
    return {f"{row.figure.name}.svg": text for row in report.rows if (text := plot(row))}


def plot(row: Row) -> str:
    """The plot of a row; empty where it has nothing to compare."""
    figure, measured = row.figure, row.measured()
    title = figure.title.replace("`", "")
    if len(measured) < 2:
        return ""
    match figure.kind:
        case "growth":
            points = [(float(subject), found.median) for subject, found in measured]
            return curve(title, figure.unit, figure.axis, points)
        case "parts":
            shown = parts(row)
            return stack(title, figure.unit, shown) if shown else ""
        case "subjects":
            marks = [target.bound for target in figure.targets if target.against is None]
            return bars(
                title,
                figure.unit,
                [
                    Bar(name, found.median, found.p10, found.p90, name.startswith(OURS))
                    for name, found in measured
                ],
                marks,
            )


def parts(row: Row) -> list[tuple[str, float]]:
    """The parts of a whole, and what they leave of it; nothing where one of them is missing."""
    found = {name: spread.median for name, spread in row.measured()}
    whole = found.pop(WHOLE, None)
    if whole is None or len(found) + 1 < len(row.lines):
        return []
    return [*found.items(), (REST, max(whole - sum(found.values()), 0.0))]


def _machine(report: Report) -> Iterator[str]:
    before, after = report.before, report.after
    packages = ", ".join(f"{name} {found}" for name, found in before.packages.items())
    memory = f"{before.memory / (1 << 30):.0f} GiB of memory to be had"
    yield f"{before.processor}, {before.cpus} processors, {memory}; Linux {before.kernel}."
    yield f"Python {before.python}, wasm-sandbox {report.version}, {packages}."
    yield (
        f"{before.when}, a {report.effort} run of {report.seconds:.0f} seconds; load"
        f" {before.load:.1f} before, {after.load:.1f} after."
    )
    if said := busy(before):
        yield f"\n**Noise:** {said}. Every figure below has suffered from it."
    yield ""


def _again(run: Again) -> str:
    machine = run.machine
    return (
        f"Measured again by itself: {machine.when}, a {run.effort} run, "
        f"wasm-sandbox {run.version}; {machine.processor}, {machine.cpus} processors, "
        f"Linux {machine.kernel}, load {machine.load:.1f} before."
    )


def _targets(report: Report) -> Iterator[str]:
    yield "## Targets\n"
    yield "| what | target | measured | kept |"
    yield "|---|---|---|---|"
    for row in report.rows:
        for target in row.figure.targets:
            line = row.line(target.subject)
            value = line.spread if line is not None else None
            shown = "" if value is None else f"{number(value.median)} {row.figure.unit}"
            if value is not None and target.statistic == "p99":
                shown += f", p99 {number(value.p99)}"
            if target.against is not None:
                shown += _against(row, target.subject, target.against)
            sign = _SIGNS[verdict(row, target)] + (" (noisy)" if row.noise else "")
            sign += " (measured again)" if row.again is not None else ""
            yield f"| {row.figure.title} | {in_words(row, target)} | {shown} | {sign} |"
    yield ""


def _against(row: Row, subject: str, other: str) -> str:
    found = dict(row.measured())
    if subject not in found or other not in found or not found[other].median:
        return ""
    return f" = {found[subject].median / found[other].median:.2f} × {other}"


def _figures(report: Report) -> Iterator[str]:
    yield "## Figures\n"
    drawn = plots(report)
    for row in report.rows:
        figure = row.figure
        yield f"### {figure.title[0].upper()}{figure.title[1:]}\n"
        if figure.note:
            yield figure.note + "\n"
        if row.again is not None:
            yield _again(row.again) + "\n"
        first = f"{figure.axis or 'what'} | median, {figure.unit}"
        yield f"| {first} | p10 | p90 | p99 | samples | turns |"
        yield "|---|---|---|---|---|---|---|"
        for line in row.lines:
            yield f"| {line.subject} | {_cells(line)} |"
        yield ""
        for said in row.noise:
            yield f"* noise: {said}"
        if row.noise:
            yield ""
        if f"{figure.name}.svg" in drawn:
            yield f"![{figure.title.replace('`', '')}]({PLOTS}/{figure.name}.svg)\n"


def _cells(line: Line) -> str:
    found = line.spread
    if found is None:
        reason = " ".join(line.reason.replace("|", "/").split())
        return f"{'failed: ' * line.failed}{reason} | | | | | "
    values = (found.median, found.p10, found.p90, found.p99)
    return " | ".join([*map(number, values), f"{found.samples:,}", str(found.turns)])
