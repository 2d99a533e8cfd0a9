"""All benchmarks, one after another, each in a process of its own that may fail or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from ..worker.jail.libc import PR_SET_PDEATHSIG, prctl
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


@contextmanager
def ended_by_signals() -> Generator[None]:
    """Within the block a signal that would end the program raises ``SystemExit``: what it started
    is ended first. To be entered in the main thread."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    fatal = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in fatal:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in fatal:
            signal.signal(number, signal.SIG_DFL)


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
            preexec_fn=_end_with_parent,
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


def _end_with_parent() -> None:
    """Whatever becomes of it: it may be killed, or interrupted before it knows of this process."""
    prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, kill, reap; without more waiting where this is interrupted, too."""
    try:
        _tell(process, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_END)
    finally:
        _tell(process, signal.SIGKILL)
        process.communicate()


def _tell(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
