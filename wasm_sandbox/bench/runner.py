"""All benchmarks, one after another, each in a process of its own that may fail or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from .machine import Machine, look
from .measure import Measured
from .model import OURS, Line, Report, Row
from .noise import noise
from .registry import Benchmark

EffortName = Literal["full", "quick"]
_WORDS = 300
_END = 10.0
"""Seconds that what a benchmark started has to end, before it is killed."""


class Failed(Exception):
    """A benchmark gave no figures; the message says why."""


Run = Callable[[Benchmark, str], Measured]


def run(
    chosen: Iterable[Benchmark],
    effort: EffortName,
    version: str,
    show: Callable[[Benchmark], object] = lambda _: None,
    *,
    alone: Run | None = None,
    machine: Callable[[], Machine] = look,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Run benchmarks; ``show`` is told before each. What fails is a row that says why."""
    before, begun = machine(), clock()
    rows: list[Row] = []
    for benchmark in chosen:
        show(benchmark)
        try:
            found = (alone or in_a_process)(benchmark, effort)
        except Failed as failed:
            line = Line(subject=OURS, reason=str(failed), failed=True)
            rows += [Row(figure=figure, lines=(line,)) for figure in benchmark.figures]
        else:
            rows += [
                Row(
                    figure=figure,
                    lines=found.lines[figure.name],
                    before=found.before,
                    after=found.after,
                )
                for figure in benchmark.figures
            ]
    after = machine()
    return Report(
        version=version,
        effort=effort,
        before=before,
        after=after,
        seconds=clock() - begun,
        rows=tuple(msgspec.structs.replace(row, noise=noise(row, rows, before)) for row in rows),
    )


def in_a_process(benchmark: Benchmark, effort: str) -> Measured:
    """Run a benchmark in a process of its own.

    Raises:
        Failed: it ended without figures, or has not ended in time.
    """
    with tempfile.TemporaryDirectory(prefix="wasm-sandbox-bench-") as folder:
        path = Path(folder, "found.json")
        command = [sys.executable, "-m", f"{__package__}.child", benchmark.name, effort, str(path)]
        # What it starts is in its session, and is found by it if it has to be killed. It keeps its
        # temporary files where they are removed whatever becomes of it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            said = _wait(process, benchmark.patience)
        except BaseException:
            _end(process)
            raise
        try:
            return msgspec.json.decode(path.read_bytes(), type=Measured)
        except (OSError, msgspec.DecodeError):
            last = said.strip().rpartition("\n")[2] or "it said nothing"
            raise Failed(f"ended with {process.returncode}: {last[:_WORDS]}") from None


def _wait(process: subprocess.Popen[bytes], patience: float) -> str:
    try:
        return process.communicate(timeout=patience)[1].decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise Failed(f"not over after {patience:g} seconds") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, kill, reap."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.communicate(timeout=_END)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
