"""Standard output and error that go to the program through pipes, as fast as it reads them."""

from __future__ import annotations

import os
import select
import threading

from .engines.interface import GuestTrap
from .stdin import ready


class Outlets:
    """The worker's ends for one call. The guest that writes waits here for room."""

    def __init__(self, stdout: int, stderr: int) -> None:
        self._ends = {1: stdout, 2: stderr}
        self._stop, self._hold = os.pipe()
        self._lock = threading.Lock()
        for end in self._ends.values():
            os.set_blocking(end, False)

    def write(self, stream: int, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            BrokenPipeError: nobody reads any more.
            GuestTrap: the call is being stopped, and must not go on.
        """
        end, rest = self._ends[stream], memoryview(data)
        while rest:
            try:
                rest = rest[os.write(end, rest) :]
            except BlockingIOError:
                if not ready(end, select.POLLOUT, self._stop):
                    raise GuestTrap("interrupt", "stopped while it waited for a reader") from None

    def stop(self) -> None:
        """Let nobody wait any more. Safe from any thread."""
        with self._lock:
            if self._hold >= 0:
                os.close(self._hold)
                self._hold = -1

    def close(self) -> None:
        """Close everything."""
        self.stop()
        for end in (*self._ends.values(), self._stop):
            os.close(end)
