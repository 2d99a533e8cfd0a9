"""The guest's ends of the pipes between it and the program.

What a streamed command reads and writes passes by the supervisor: the kernel's pipes bound how much
of it is under way, and a guest that writes faster than the program reads waits in its writing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

STREAM_SLACK = 1 << 16
"""Bytes by which a worker's output may pass its limit before that is a violation: one piece on
its way."""


class GuestEnds:
    """Descriptors for a worker: of stdin to read from, of stdout and stderr to write to.

    They are the program's to close, from whatever thread, when the call is over; ``held`` tells
    whether the guest has waited for the program since it was asked last.
    """

    def __init__(self, stdin: int, stdout: int, stderr: int, held: Callable[[], bool]) -> None:
        self._lock = threading.Lock()
        self._open: tuple[int, ...] = (stdin, stdout, stderr)
        self.held = held

    def copies(self) -> tuple[int, ...]:
        """New descriptors of them, to be closed by the caller; none where they are closed.

        Raises:
            OSError: no descriptor is left.
        """
        made: list[int] = []
        with self._lock:
            try:
                for descriptor in self._open:
                    made.append(os.dup(descriptor))
            except OSError:
                for descriptor in made:
                    os.close(descriptor)
                raise
        return tuple(made)

    def close(self) -> None:
        """Close them; may be called again."""
        with self._lock:
            descriptors, self._open = self._open, ()
            for descriptor in descriptors:
                os.close(descriptor)
