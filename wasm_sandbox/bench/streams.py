"""What passes through a guest as a stream."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager

from ..protocol.limits import Limits
from .guests import COPIES
from .measure import timed
from .model import OURS, Figure
from .pools import new_pool
from .registry import Effort, Subjects, Turn, benchmark

_LIMITS = Limits(output=1 << 40, wall_time=600)
_PIECE = bytes(1 << 20)


@benchmark(
    Figure(
        name="stream",
        title="a MiB through a command, in at its stdin and out at its stdout",
        unit="µs",
        note="Many MiB; the program writes in one thread and reads in another.",
    )
)
def stream(effort: Effort) -> Subjects:
    """Through a guest that copies, and through cat(1)."""
    size = effort.count(64, 4)

    @contextmanager
    def ours() -> Generator[Turn]:
        with new_pool(1) as pool:
            copies = pool.load(COPIES)

            def run() -> None:
                stdin = itertools.repeat(_PIECE, size)
                with pool.start(copies, stdin=stdin, limits=_LIMITS) as process:
                    assert sum(map(len, process.stdout)) == size << 20

            run()
            yield lambda: [sample / size for sample in timed(run, 1)]

    @contextmanager
    def cat() -> Generator[Turn]:
        yield lambda: [sample / size for sample in timed(lambda: _cat(size), 1)]

    return {OURS: ours(), "subprocess, cat(1)": cat()}


def _cat(size: int) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, taken = process.stdin, 0

        def feed() -> None:
            with stdin:
                for _ in range(size):
                    stdin.write(_PIECE)

        thread = threading.Thread(target=feed)
        thread.start()
        while data := os.read(process.stdout.fileno(), 1 << 16):
            taken += len(data)
        thread.join()
        assert taken == size << 20
