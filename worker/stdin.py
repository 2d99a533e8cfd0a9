"""Standard input from a descriptor, for an engine that wants a path.

The jail has no way to the file behind the descriptor, so it is not opened anew. Its bytes are
copied into a pipe instead, which can be, by a thread that lives as long as the call.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from types import TracebackType

PIECE = 1 << 16
"""Bytes that are read at a time; a pipe holds as many."""
END_SECONDS = 0.1
"""How long the thread may take to notice that the call is over. It does not where another reader
of the same input was quicker, and left it waiting for more; then it ends when there is more."""


class Stdin:
    """A context in which ``path`` can be read for what ``source`` yields.

    A regular file is read from its position on, as a program would read it; but the position stays,
    for what is read is not what the guest has taken, and another attempt has to find the same.
    """

    def __init__(self, source: int) -> None:
        self._read, write = os.pipe()
        stop, self._hold = os.pipe()
        os.set_blocking(write, False)
        self.path = f"/dev/fd/{self._read}"
        self.error: OSError | None = None
        """Why the input could not be read to its end, where that is so."""
        self._thread = threading.Thread(
            target=self._copy, args=(os.dup(source), write, stop), name="stdin", daemon=True
        )

    def __enter__(self) -> Stdin:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._hold)
        self._thread.join(END_SECONDS)
        os.close(self._read)

    def _copy(self, source: int, write: int, stop: int) -> None:
        regular = stat.S_ISREG(os.fstat(source).st_mode)
        offset = os.lseek(source, 0, os.SEEK_CUR) if regular else 0
        try:
            while ready(source, select.POLLIN, stop):
                data = os.pread(source, PIECE, offset) if regular else os.read(source, PIECE)
                offset += len(data)
                rest = memoryview(data)
                while rest and ready(write, select.POLLOUT, stop):
                    rest = rest[os.write(write, rest) :]
                if not data:
                    break
        except OSError as error:
            self.error = error
        finally:
            for descriptor in (source, write, stop):
                os.close(descriptor)


def ready(descriptor: int, events: int, stop: int) -> bool:
    """Wait until the descriptor is ready, or the other end of ``stop`` is closed: ``False``."""
    poll = select.poll()
    poll.register(descriptor, events)
    poll.register(stop, 0)
    return all(ready != stop for ready, _ in poll.poll())
