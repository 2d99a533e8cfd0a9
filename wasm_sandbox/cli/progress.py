"""A line on the terminal while something is done, and only if that takes a while."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

FIRST, EVERY = 0.5, 1.0
"""Seconds before the line appears, and between its changes."""


@contextmanager
def progress(what: str) -> Generator[None]:
    """Show ``what`` and the seconds so far on standard error, if that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    start = time.monotonic()

    def show() -> None:
        pause = FIRST
        while not over.wait(pause):
            pause = EVERY
            print(
                f"\r{what}: {time.monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True
            )
        if pause == EVERY:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
