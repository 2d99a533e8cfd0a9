"""What components have open of files: descriptors, and the streams of them."""

from __future__ import annotations

import struct
from contextlib import suppress

from .bridge import BUFFER
from .file_calls import ANSWER, FileCalls, FileError, number_in
from .pipes import Sink, Source

_ENTRY = struct.Struct("<QQIB3x")


class Descriptor:
    """``descriptor``: an open file or directory. Streams of it keep it open."""

    def __init__(self, calls: FileCalls, number: int, flags: int) -> None:
        self._calls = calls
        self.number = number
        self.flags = flags
        self._users = 1

    def use(self) -> Descriptor:
        """One more needs it."""
        self._users += 1
        return self

    def release(self) -> None:
        """One less."""
        self._users -= 1
        if not self._users:
            with suppress(FileError):  # nobody can be told
                self._calls.ask("fd_close", self.number)


class FileSource(Source):
    """A file that is read from a place on."""

    def __init__(self, calls: FileCalls, descriptor: Descriptor, at: int) -> None:
        self._calls = calls
        self._descriptor = descriptor.use()
        self._at = at

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._calls.read_at(self._descriptor.number, size, self._at)
        self._at += len(data)
        return data

    def release(self) -> None:
        """The stream was dropped."""
        self._descriptor.release()


class FileSink(Sink):
    """A file that is written from a place on; from its end, where there is no place."""

    def __init__(self, calls: FileCalls, descriptor: Descriptor, at: int | None) -> None:
        self._calls = calls
        self._descriptor = descriptor.use()
        self._at = at

    def write(self, data: bytes) -> bool:
        """Write all of it."""
        calls, at = self._calls, self._at
        if at is None:
            at = calls.stat_of("fd_filestat_get", self._descriptor.number)[4]
        rest = memoryview(data)
        while rest:
            written = calls.write_at(self._descriptor.number, rest, at)
            at += written
            rest = rest[written:]
        if self._at is not None:
            self._at = at
        return True

    def release(self) -> None:
        """The stream was dropped."""
        self._descriptor.release()


class Listing:
    """``directory-entry-stream``."""

    def __init__(self, calls: FileCalls, descriptor: Descriptor) -> None:
        self._calls = calls
        self._descriptor = descriptor.use()
        self._cookie = 0
        self._entries: list[tuple[int, str]] = []

    def next(self) -> tuple[int, str] | None:
        """The next entry's ``filetype`` and name, but for the directory itself and its parent."""
        while True:
            while self._entries:
                entry = self._entries.pop(0)
                if entry[1] not in (".", ".."):
                    return entry
            if not self._fill():
                return None

    def _fill(self) -> bool:
        memory = self._calls.ask(
            "fd_readdir", self._descriptor.number, BUFFER, BUFFER, self._cookie, ANSWER
        )
        used = number_in(memory)
        at, end = BUFFER, BUFFER + used
        while at + _ENTRY.size <= end:
            cookie, _, size, kind = _ENTRY.unpack_from(memory, at)
            name = at + _ENTRY.size
            if name + size > end:
                break
            self._cookie = cookie
            # WASI's names are UTF-8, and the engine leaves out those that are not.
            self._entries.append((kind, str(memory[name : name + size], "utf-8", "replace")))
            at = name + size
        return bool(self._entries)

    def release(self) -> None:
        """The stream was dropped."""
        self._descriptor.release()
