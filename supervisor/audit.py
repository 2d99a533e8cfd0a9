"""The audit log: one line of JSON for each event, appended to a file.

A line is written by one write(2) to a descriptor with ``O_APPEND``, so several pools, threads and
programs can share a file. A disk that is full, or gone, costs lines and nothing else: they are
counted, and the count is the first line when the file can be written again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import stat
import threading
import time
from typing import Any

import msgspec

from ..protocol import events
from ..protocol.errors import ConfigurationError
from ..protocol.limits import MIB, check_number

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LONGEST, _MOST = 1000, 64
"""Characters of a text and entries of a list that are kept: so a line has a bound."""
_logs = itertools.count(1)


class AuditLog:
    """A file for ``Pool(audit=)``. Thread-safe; may be given to several pools.

    Args:
        path: the file, made with mode 0600 where there is none. A symbolic link is refused.
        max_bytes: at this size, from 4096 bytes, the file is renamed to ``path.1``, in place of an
            earlier one, and a new one begun; ``None`` leaves that to others (logrotate(8): a file
            that was moved away is noticed).

    Raises:
        ConfigurationError: it cannot be written, or is no file.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = 64 * MIB) -> None:
        check_number("audit.max_bytes", max_bytes, 4096, 1 << 62, whole=True, optional=True)
        self.path = os.path.abspath(os.fsdecode(path))
        self.max_bytes = max_bytes
        self.lost = 0
        """Events since the last line that could be written."""
        self._lock = threading.Lock()
        self._number = next(_logs)
        self._torn = False
        """Whether the last line may not have been written to its end."""
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigurationError(
                "audit",
                self.path,
                f"cannot be written: {error.strerror or error}",
                "name a file, in a directory that exists, that you may write to",
            ) from None

    def write(self, event: events.Event) -> str:
        """Append an event; why that failed, or empty. Raises nothing for what a disk does."""
        with self._lock:
            try:
                self._catch_up()
                self._append(self._line(event))
            except OSError as error:
                self.lost += 1
                return error.strerror or str(error)
        return ""

    def close(self) -> None:
        """Give the descriptor back. May be called again; writing opens the file anew."""
        with self._lock:
            self._close()

    def _catch_up(self) -> None:
        if self.lost:
            self._append(self._line(events.AuditResumed(when=time.time(), lost=self.lost)))
            self.lost = 0

    def _line(self, event: events.Event) -> bytes:
        fields: dict[str, Any] = _bounded(msgspec.to_builtins(event))
        fields |= {"program": os.getpid(), "log": self._number}
        # ASCII: a name of a file may be no text at all, and nothing in a line is to end it.
        return json.dumps(fields, allow_nan=False).encode() + b"\n"

    def _append(self, line: bytes) -> None:
        self._renew(len(line))
        if self._torn:
            line = b"\n" + line
        written = self._write(line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(0, "the disk is full")

    def _write(self, data: bytes) -> int:
        return os.write(self._file, data)

    def _renew(self, more: int) -> None:
        """Open the file where it is closed or was moved away, and move it away where it is full."""
        if self._file >= 0 and not self._is(self.path):
            self._close()
        if self._file < 0:
            self._file = self._open()
        size = os.fstat(self._file).st_size
        if self.max_bytes is None or size == 0 or size + more <= self.max_bytes:
            return
        # Whoever comes second finds that the file it has locked is not the one at the path.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if self._is(self.path):
            os.rename(self.path, f"{self.path}.1")
        self._close()
        self._file = self._open()

    def _is(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file), os.lstat(path))
        return False

    def _open(self) -> int:
        file = os.open(self.path, _FLAGS, 0o600)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(0, "it is no ordinary file")
        self._torn = False
        return file

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _bounded(value: Any) -> Any:
    """``value`` with long texts and lists cut short."""
    match value:
        case str() if len(value) > _LONGEST:
            return value[:_LONGEST] + "…"
        case dict():
            return {key: _bounded(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [_bounded(each) for each in value[:_MOST]]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
