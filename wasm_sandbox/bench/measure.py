"""One benchmark in this process: all subjects are made ready, and then take turns."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import cast

import msgspec

from .machine import Calibration, calibrate
from .model import Line, spread
from .registry import Absent, Benchmark, Effort, Samples, Turn

_WORDS = 500


class Measured(msgspec.Struct, frozen=True):
    """What a benchmark found: for each figure the lines of all subjects."""

    lines: dict[str, tuple[Line, ...]]
    before: Calibration
    after: Calibration


def measure(
    benchmark: Benchmark,
    effort: Effort,
    calibrated: Callable[[], Calibration] = calibrate,
) -> Measured:
    """Measure. A subject that is absent or fails is said to be so, and the others go on."""
    subjects = benchmark.subjects(effort)
    turns: dict[str, Turn] = {}
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in subjects}
    without: dict[str, Line] = {}
    with ExitStack() as stack:
        for name, subject in reversed(list(subjects.items())):
            try:
                turns[name] = stack.enter_context(subject)
            except Absent as absent:
                without[name] = Line(subject=name, reason=str(absent))
            except Exception as error:  # whatever it is, it is this subject's, and is reported
                without[name] = _failed(name, error)
        before = calibrated()
        ordered = [name for name in subjects if name in turns]
        for at in range(benchmark.turns or effort.turns):
            # The one that begins has the caches as the last one left them: not always the same.
            first = at % max(len(ordered), 1)
            for name in ordered[first:] + ordered[:first]:
                if name in without:
                    continue
                try:
                    samples = by_figure(benchmark, turns[name]())
                except Absent as absent:
                    without[name] = Line(subject=name, reason=str(absent))
                    continue
                except Exception as error:  # as above
                    without[name] = _failed(name, error)
                    continue
                for figure, values in samples.items():
                    found[name].setdefault(figure, []).append(values)
        after = calibrated()
    lines: dict[str, tuple[Line, ...]] = {}
    for each in benchmark.figures:
        some = [without.get(name) or _line(name, found[name], each.name) for name in subjects]
        lines[each.name] = tuple(line for line in some if line is not None)
    return Measured(lines, before, after)


def by_figure(benchmark: Benchmark, samples: Samples) -> dict[str, list[float]]:
    """The samples of a turn by the figure's name; a benchmark of one figure need not say it."""
    if isinstance(samples, Mapping):
        named = cast("Mapping[str, Iterable[float]]", samples)
        return {name: list(values) for name, values in named.items()}
    (figure,) = benchmark.figures
    return {figure.name: [samples] if isinstance(samples, (int, float)) else list(samples)}


def timed(action: Callable[[], object], count: int, *, scale: float = 1e6) -> list[float]:
    """Seconds times ``scale`` of each of ``count`` runs."""
    samples: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        action()
        samples.append((time.perf_counter() - begun) * scale)
    return samples


def _line(name: str, found: dict[str, list[list[float]]], figure: str) -> Line | None:
    """The line of a subject; ``None`` where it measures other figures only."""
    if any(turns := found.get(figure, [])):
        return Line(subject=name, spread=spread(turns))
    if any(any(others) for others in found.values()):
        return None
    return Line(subject=name, reason="nothing was measured", failed=True)


def _failed(name: str, error: Exception) -> Line:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
    return Line(subject=name, reason=text[:_WORDS], failed=True)
