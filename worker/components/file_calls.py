"""Files as WASI preview 1 has them, for what components have: its functions behind the bridge, and
their errors.

Source: witx of WASI preview 1 for the layouts; WIT of ``wasi:filesystem@0.2`` for the errors.
"""

from __future__ import annotations

import struct

from .bridge import BUFFER
from .offers import State
from .pipes import Failed

_ERRNO = {
    2: "access",
    6: "would-block",
    7: "already",
    8: "bad-descriptor",
    10: "busy",
    16: "deadlock",
    19: "quota",
    20: "exist",
    22: "file-too-large",
    25: "illegal-byte-sequence",
    26: "in-progress",
    27: "interrupted",
    28: "invalid",
    31: "is-directory",
    32: "loop",
    33: "quota",
    34: "too-many-links",
    35: "message-size",
    37: "name-too-long",
    43: "no-device",
    44: "no-entry",
    46: "no-lock",
    48: "insufficient-memory",
    51: "insufficient-space",
    54: "not-directory",
    55: "not-empty",
    56: "not-recoverable",
    58: "unsupported",
    59: "no-tty",
    60: "no-such-device",
    61: "overflow",
    63: "not-permitted",
    64: "pipe",
    69: "read-only",
    70: "invalid-seek",
    74: "text-file-busy",
    75: "cross-device",
    76: "not-permitted",
}
"""By error numbers of preview 1; those without a name of their own are ``io``. ``EMFILE`` is that
``Limits.open_files`` is used up, for which the nearest is ``quota``."""


ON = "wasi:filesystem/types"
CODE = (
    "enum<access, would-block, already, bad-descriptor, busy, deadlock, quota, exist, "
    "file-too-large, illegal-byte-sequence, in-progress, interrupted, invalid, io, is-directory, "
    "loop, too-many-links, message-size, name-too-long, no-device, no-entry, no-lock, "
    "insufficient-memory, insufficient-space, not-directory, not-empty, not-recoverable, "
    "unsupported, no-tty, no-such-device, overflow, not-permitted, pipe, read-only, invalid-seek, "
    "text-file-busy, cross-device>"
)
_PLACES = {name: place for place, name in enumerate(CODE[len("enum<") : -1].split(", "))}
_VECTOR = 512
ANSWER = 520
"""Where what the functions give is put."""
PATHS = 1 << 10
SECOND = PATHS + (1 << 13)
"""Where paths are put; the longest that the warden lets pass has 1024 bytes."""
PATH_LIMIT = 4096
_STAT = struct.Struct("<QQB7xQQQQQ")


class FileError(OSError):
    """A function of preview 1 failed; ``code`` is the place of its ``error-code``."""

    def __init__(self, errno: int) -> None:
        name = _ERRNO.get(errno, "io")
        super().__init__(errno, name)
        self.code = _PLACES[name]
        self.failed = Failed(name, ON, self.code)


class FileCalls:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    def ask(self, name: str, *arguments: int) -> memoryview:
        """Call a function of preview 1; the bridge's memory afterwards.

        Raises:
            FileError: it gave an error number.
        """
        bridge = self._state.bridge
        assert bridge is not None
        errno = bridge.ask(name, *arguments)
        if errno:
            raise FileError(errno)
        return bridge.memory()

    def put(self, at: int, path: str) -> tuple[int, int]:
        """Place and length of a path in the bridge's memory."""
        data = path.encode()
        if len(data) > PATH_LIMIT:
            raise FileError(37)
        bridge = self._state.bridge
        assert bridge is not None
        bridge.memory()[at : at + len(data)] = data
        return at, len(data)

    def _vector(self, size: int, data: memoryview | None = None) -> int:
        bridge = self._state.bridge
        assert bridge is not None
        memory = bridge.memory()
        struct.pack_into("<II", memory, _VECTOR, BUFFER, size)
        if data is not None:
            memory[BUFFER : BUFFER + size] = data
        return _VECTOR

    def read_at(self, descriptor: int, size: int, at: int) -> bytes:
        """At most ``size`` bytes from a place on; nothing at the end."""
        vector = self._vector(min(size, BUFFER))
        memory = self.ask("fd_pread", descriptor, vector, 1, at, ANSWER)
        return bytes(memory[BUFFER : BUFFER + number_in(memory)])

    def write_at(self, descriptor: int, data: memoryview, at: int) -> int:
        """How many bytes were written at a place: at least one, where there are any."""
        size = min(len(data), BUFFER)
        vector = self._vector(size, data[:size])
        memory = self.ask("fd_pwrite", descriptor, vector, 1, at, ANSWER)
        written = number_in(memory)
        if size and not written:
            raise FileError(51)
        return written

    def stat_of(self, name: str, *arguments: int) -> tuple[int, ...]:
        """A filestat: device, inode, type, links, size and three times."""
        return _STAT.unpack_from(self.ask(name, *arguments, BUFFER), BUFFER)


def number_in(memory: memoryview) -> int:
    """What a function put at ``ANSWER``."""
    return int.from_bytes(memory[ANSWER : ANSWER + 4], "little")
