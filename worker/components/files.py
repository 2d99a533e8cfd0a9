"""``wasi:filesystem``, by the functions of WASI preview 1 behind the bridge.

Source: WIT of ``wasi:filesystem@0.2``; witx of WASI preview 1 for the layouts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .bridge import BUFFER
from .heap import BadValue
from .offers import State, offer
from .pipes import Failed, Sink, Source

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

_TYPES = (0, 1, 2, 3, 6, 7, 7, 5)
"""``descriptor-type`` by ``filetype``."""
_DIRECTORY = 3
_READ, _WRITE, _MUTATE = 1, 2, 32
"""``descriptor-flags``."""
_READING = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 14 | 1 << 21
_WRITING = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 22 | 1 << 23
"""Rights of preview 1, which stand for the way in which a file is opened."""
_SYNC = {4: 1 << 4, 8: 1 << 1, 16: 1 << 3}
"""``fdflags`` by ``descriptor-flags``."""
_VECTOR, _ANSWER = 512, 520
_PATHS = 1 << 10
_SECOND = _PATHS + (1 << 13)
"""Where paths are put; the longest that the warden lets pass has 1024 bytes."""
_PATH_LIMIT = 4096
_STAMPS: dict[int, int] = {0: 0, 1: 2, 2: 1}
"""``fstflags`` by the case of ``new-timestamp``, for the time of access."""
_ALL_64 = (1 << 64) - 1
_STAT = struct.Struct("<QQB7xQQQQQ")
_ENTRY = struct.Struct("<QQIB3x")

_TYPE = (
    "enum<unknown, block-device, character-device, directory, fifo, symbolic-link, regular-file, "
    "socket>"
)
_TIME = "record<seconds: u64, nanoseconds: u32>"
_STAT_SHAPE = (
    f"record<type: {_TYPE}, link-count: u64, size: u64, data-access-timestamp: option<{_TIME}>, "
    f"data-modification-timestamp: option<{_TIME}>, status-change-timestamp: option<{_TIME}>>"
)
_NEW = f"variant<no-change, now, timestamp({_TIME})>"
_CODE = (
    "enum<access, would-block, already, bad-descriptor, busy, deadlock, quota, exist, "
    "file-too-large, illegal-byte-sequence, in-progress, interrupted, invalid, io, is-directory, "
    "loop, too-many-links, message-size, name-too-long, no-device, no-entry, no-lock, "
    "insufficient-memory, insufficient-space, not-directory, not-empty, not-recoverable, "
    "unsupported, no-tty, no-such-device, overflow, not-permitted, pipe, read-only, invalid-seek, "
    "text-file-busy, cross-device>"
)
_PLACES = {name: place for place, name in enumerate(_CODE[len("enum<") : -1].split(", "))}
_FLAGS = (
    "flags<read, write, file-integrity-sync, data-integrity-sync, requested-write-sync, "
    "mutate-directory>"
)
_FOLLOW = "flags<symlink-follow>"
_OPEN = "flags<create, directory, exclusive, truncate>"
_HASH = "record<lower: u64, upper: u64>"
_ADVICE = "enum<normal, sequential, random, will-need, dont-need, no-reuse>"
_ON = "wasi:filesystem/types"


class FileError(OSError):
    """A function of preview 1 failed; ``code`` is the place of its ``error-code``."""

    def __init__(self, errno: int) -> None:
        name = _ERRNO.get(errno, "io")
        super().__init__(errno, name)
        self.code = _PLACES[name]
        self.failed = Failed(name, _ON, self.code)


class Descriptor:
    """``descriptor``: an open file or directory. Streams of it keep it open."""

    def __init__(self, files: Files, number: int, flags: int) -> None:
        self._files = files
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
                self._files.ask("fd_close", self.number)


class FileSource(Source):
    """A file that is read from a place on."""

    def __init__(self, files: Files, descriptor: Descriptor, at: int) -> None:
        self._files = files
        self._descriptor = descriptor.use()
        self._at = at

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._files.read_at(self._descriptor, size, self._at)
        self._at += len(data)
        return data

    def release(self) -> None:
        """The stream was dropped."""
        self._descriptor.release()


class FileSink(Sink):
    """A file that is written from a place on; from its end, where there is no place."""

    def __init__(self, files: Files, descriptor: Descriptor, at: int | None) -> None:
        self._files = files
        self._descriptor = descriptor.use()
        self._at = at

    def write(self, data: bytes) -> bool:
        """Write all of it."""
        files, at = self._files, self._at
        if at is None:
            at = files.stat_of("fd_filestat_get", self._descriptor.number)[4]
        rest = memoryview(data)
        while rest:
            written = files.write_at(self._descriptor, rest, at)
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

    def __init__(self, files: Files, descriptor: Descriptor) -> None:
        self._files = files
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
        memory = self._files.ask(
            "fd_readdir", self._descriptor.number, BUFFER, BUFFER, self._cookie, _ANSWER
        )
        used = _number(memory)
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


class Files:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    # --- steps ------------------------------------------------------------------------------------

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

    def _put(self, at: int, path: str) -> tuple[int, int]:
        """Place and length of a path in the bridge's memory."""
        data = path.encode()
        if len(data) > _PATH_LIMIT:
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

    def read_at(self, descriptor: Descriptor, size: int, at: int) -> bytes:
        """At most ``size`` bytes from a place on; nothing at the end."""
        vector = self._vector(min(size, BUFFER))
        memory = self.ask("fd_pread", descriptor.number, vector, 1, at, _ANSWER)
        return bytes(memory[BUFFER : BUFFER + _number(memory)])

    def write_at(self, descriptor: Descriptor, data: memoryview, at: int) -> int:
        """How many bytes were written at a place: at least one, where there are any."""
        size = min(len(data), BUFFER)
        vector = self._vector(size, data[:size])
        memory = self.ask("fd_pwrite", descriptor.number, vector, 1, at, _ANSWER)
        written = _number(memory)
        if size and not written:
            raise FileError(51)
        return written

    def stat_of(self, name: str, *arguments: int) -> tuple[int, ...]:
        """A filestat: device, inode, type, links, size and three times."""
        return _STAT.unpack_from(self.ask(name, *arguments, BUFFER), BUFFER)

    def _get(self, descriptor: int) -> Descriptor:
        return self._state.objects.get(descriptor, Descriptor)

    def _add(self, thing: object) -> list[Any]:
        return [0, self._state.objects.add(thing)]

    # --- what guests call -------------------------------------------------------------------------

    @offer(
        "wasi:filesystem/preopens",
        "get-directories",
        "() -> list<tuple<own<descriptor>, string>>",
    )
    def get_directories(self) -> list[list[Any]]:
        wasi = self._state.wasi
        return [
            [
                self._state.objects.add(
                    Descriptor(self, number, _READ | _MUTATE * grant.writable).use()
                ),
                grant.at,
            ]
            for number, (grant, _) in enumerate(wasi.granted, 3)
        ]

    @offer(_ON, "filesystem-error-code", f"(borrow<error>) -> option<{_CODE}>")
    def filesystem_error_code(self, error: int) -> list[Any]:
        return self._state.objects.get(error, Failed).code(_ON)

    def _method(self, descriptor: int, name: str, *arguments: int) -> list[Any]:
        self.ask(name, self._get(descriptor).number, *arguments)
        return [0, None]

    @offer(
        _ON,
        "[method]descriptor.read-via-stream",
        f"(borrow<descriptor>, u64) -> result<own<input-stream>, {_CODE}>",
    )
    def read_via_stream(self, descriptor: int, at: int) -> list[Any]:
        return self._add(FileSource(self, self._get(descriptor), at))

    @offer(
        _ON,
        "[method]descriptor.write-via-stream",
        f"(borrow<descriptor>, u64) -> result<own<output-stream>, {_CODE}>",
    )
    def write_via_stream(self, descriptor: int, at: int) -> list[Any]:
        return self._add(FileSink(self, self._get(descriptor), at))

    @offer(
        _ON,
        "[method]descriptor.append-via-stream",
        f"(borrow<descriptor>) -> result<own<output-stream>, {_CODE}>",
    )
    def append_via_stream(self, descriptor: int) -> list[Any]:
        return self._add(FileSink(self, self._get(descriptor), None))

    @offer(
        _ON,
        "[method]descriptor.advise",
        f"(borrow<descriptor>, u64, u64, {_ADVICE}) -> result<_, {_CODE}>",
    )
    def advise(self, descriptor: int, _offset: int, _length: int, _advice: int) -> list[Any]:
        self._get(descriptor)
        return [0, None]

    @offer(_ON, "[method]descriptor.sync-data", f"(borrow<descriptor>) -> result<_, {_CODE}>")
    def sync_data(self, descriptor: int) -> list[Any]:
        return self._method(descriptor, "fd_datasync")

    @offer(_ON, "[method]descriptor.sync", f"(borrow<descriptor>) -> result<_, {_CODE}>")
    def sync(self, descriptor: int) -> list[Any]:
        return self._method(descriptor, "fd_sync")

    @offer(
        _ON, "[method]descriptor.get-flags", f"(borrow<descriptor>) -> result<{_FLAGS}, {_CODE}>"
    )
    def get_flags(self, descriptor: int) -> list[Any]:
        return [0, self._get(descriptor).flags]

    @offer(_ON, "[method]descriptor.get-type", f"(borrow<descriptor>) -> result<{_TYPE}, {_CODE}>")
    def get_type(self, descriptor: int) -> list[Any]:
        return [0, _kind(self.stat_of("fd_filestat_get", self._get(descriptor).number)[2])]

    @offer(_ON, "[method]descriptor.set-size", f"(borrow<descriptor>, u64) -> result<_, {_CODE}>")
    def set_size(self, descriptor: int, size: int) -> list[Any]:
        return self._method(descriptor, "fd_filestat_set_size", size)

    @offer(
        _ON,
        "[method]descriptor.set-times",
        f"(borrow<descriptor>, {_NEW}, {_NEW}) -> result<_, {_CODE}>",
    )
    def set_times(self, descriptor: int, accessed: Any, modified: Any) -> list[Any]:
        return self._method(descriptor, "fd_filestat_set_times", *_times(accessed, modified))

    @offer(
        _ON,
        "[method]descriptor.read",
        f"(borrow<descriptor>, u64, u64) -> result<tuple<list<u8>, bool>, {_CODE}>",
    )
    def read(self, descriptor: int, size: int, at: int) -> list[Any]:
        data = self.read_at(self._get(descriptor), size, at)
        return [0, [data, not data and size > 0]]

    @offer(
        _ON,
        "[method]descriptor.write",
        f"(borrow<descriptor>, list<u8>, u64) -> result<u64, {_CODE}>",
    )
    def write(self, descriptor: int, data: bytes, at: int) -> list[Any]:
        return [0, self.write_at(self._get(descriptor), memoryview(data), at)]

    @offer(
        _ON,
        "[method]descriptor.read-directory",
        f"(borrow<descriptor>) -> result<own<directory-entry-stream>, {_CODE}>",
    )
    def read_directory(self, descriptor: int) -> list[Any]:
        opened = self._get(descriptor)
        if self.stat_of("fd_filestat_get", opened.number)[2] != _DIRECTORY:
            raise FileError(54)
        return self._add(Listing(self, opened))

    @offer(
        _ON,
        "[method]directory-entry-stream.read-directory-entry",
        f"(borrow<directory-entry-stream>) -> "
        f"result<option<record<type: {_TYPE}, name: string>>, {_CODE}>",
    )
    def read_directory_entry(self, listing: int) -> list[Any]:
        entry = self._state.objects.get(listing, Listing).next()
        return [0, [0, None] if entry is None else [1, [_kind(entry[0]), entry[1]]]]

    @offer(
        _ON, "[method]descriptor.stat", f"(borrow<descriptor>) -> result<{_STAT_SHAPE}, {_CODE}>"
    )
    def stat(self, descriptor: int) -> list[Any]:
        return [0, _described(self.stat_of("fd_filestat_get", self._get(descriptor).number))]

    @offer(
        _ON,
        "[method]descriptor.stat-at",
        f"(borrow<descriptor>, {_FOLLOW}, string) -> result<{_STAT_SHAPE}, {_CODE}>",
    )
    def stat_at(self, descriptor: int, follow: int, path: str) -> list[Any]:
        return [0, _described(self._stat_at(descriptor, follow, path))]

    def _stat_at(self, descriptor: int, follow: int, path: str) -> tuple[int, ...]:
        number, place = self._get(descriptor).number, self._put(_PATHS, path)
        return self.stat_of("path_filestat_get", number, follow, *place)

    @offer(
        _ON,
        "[method]descriptor.set-times-at",
        f"(borrow<descriptor>, {_FOLLOW}, string, {_NEW}, {_NEW}) -> result<_, {_CODE}>",
    )
    def set_times_at(
        self, descriptor: int, follow: int, path: str, accessed: Any, modified: Any
    ) -> list[Any]:
        place, times = self._put(_PATHS, path), _times(accessed, modified)
        return self._method(descriptor, "path_filestat_set_times", follow, *place, *times)

    @offer(
        _ON,
        "[method]descriptor.create-directory-at",
        f"(borrow<descriptor>, string) -> result<_, {_CODE}>",
    )
    def create_directory_at(self, descriptor: int, path: str) -> list[Any]:
        return self._method(descriptor, "path_create_directory", *self._put(_PATHS, path))

    @offer(
        _ON,
        "[method]descriptor.remove-directory-at",
        f"(borrow<descriptor>, string) -> result<_, {_CODE}>",
    )
    def remove_directory_at(self, descriptor: int, path: str) -> list[Any]:
        return self._method(descriptor, "path_remove_directory", *self._put(_PATHS, path))

    @offer(
        _ON,
        "[method]descriptor.unlink-file-at",
        f"(borrow<descriptor>, string) -> result<_, {_CODE}>",
    )
    def unlink_file_at(self, descriptor: int, path: str) -> list[Any]:
        return self._method(descriptor, "path_unlink_file", *self._put(_PATHS, path))

    @offer(
        _ON,
        "[method]descriptor.rename-at",
        f"(borrow<descriptor>, string, borrow<descriptor>, string) -> result<_, {_CODE}>",
    )
    def rename_at(self, descriptor: int, old: str, other: int, new: str) -> list[Any]:
        places = (*self._put(_PATHS, old), self._get(other).number, *self._put(_SECOND, new))
        return self._method(descriptor, "path_rename", *places)

    @offer(
        _ON,
        "[method]descriptor.link-at",
        f"(borrow<descriptor>, {_FOLLOW}, string, borrow<descriptor>, string) -> "
        f"result<_, {_CODE}>",
    )
    def link_at(self, descriptor: int, follow: int, old: str, other: int, new: str) -> list[Any]:
        places = (*self._put(_PATHS, old), self._get(other).number, *self._put(_SECOND, new))
        return self._method(descriptor, "path_link", follow, *places)

    @offer(
        _ON,
        "[method]descriptor.symlink-at",
        f"(borrow<descriptor>, string, string) -> result<_, {_CODE}>",
    )
    def symlink_at(self, descriptor: int, old: str, new: str) -> list[Any]:
        target, place = self._put(_PATHS, old), self._put(_SECOND, new)
        self.ask("path_symlink", *target, self._get(descriptor).number, *place)
        return [0, None]

    @offer(
        _ON,
        "[method]descriptor.readlink-at",
        f"(borrow<descriptor>, string) -> result<string, {_CODE}>",
    )
    def readlink_at(self, descriptor: int, path: str) -> list[Any]:
        number, place = self._get(descriptor).number, self._put(_PATHS, path)
        memory = self.ask("path_readlink", number, *place, BUFFER, _PATH_LIMIT, _ANSWER)
        size = _number(memory)
        try:
            return [0, str(memory[BUFFER : BUFFER + size], "utf-8")]
        except UnicodeDecodeError:
            raise FileError(25) from None

    @offer(
        _ON,
        "[method]descriptor.open-at",
        f"(borrow<descriptor>, {_FOLLOW}, string, {_OPEN}, {_FLAGS}) -> "
        f"result<own<descriptor>, {_CODE}>",
    )
    def open_at(
        self, descriptor: int, follow: int, path: str, opening: int, flags: int
    ) -> list[Any]:
        rights = _READING * bool(flags & _READ) | _WRITING * bool(flags & _WRITE)
        sync = sum(bit for flag, bit in _SYNC.items() if flags & flag)
        number, place = self._get(descriptor).number, self._put(_PATHS, path)
        memory = self.ask(
            "path_open", number, follow, *place, opening, rights, rights, sync, _ANSWER
        )
        return self._add(Descriptor(self, _number(memory), flags))

    @offer(
        _ON,
        "[method]descriptor.is-same-object",
        "(borrow<descriptor>, borrow<descriptor>) -> bool",
    )
    def is_same_object(self, one: int, other: int) -> bool:
        both = [self.stat_of("fd_filestat_get", self._get(each).number) for each in (one, other)]
        return both[0][:2] == both[1][:2]

    @offer(
        _ON, "[method]descriptor.metadata-hash", f"(borrow<descriptor>) -> result<{_HASH}, {_CODE}>"
    )
    def metadata_hash(self, descriptor: int) -> list[Any]:
        return [0, _hash(self.stat_of("fd_filestat_get", self._get(descriptor).number))]

    @offer(
        _ON,
        "[method]descriptor.metadata-hash-at",
        f"(borrow<descriptor>, {_FOLLOW}, string) -> result<{_HASH}, {_CODE}>",
    )
    def metadata_hash_at(self, descriptor: int, follow: int, path: str) -> list[Any]:
        return [0, _hash(self._stat_at(descriptor, follow, path))]


def _number(memory: memoryview) -> int:
    """What a function put at ``_ANSWER``."""
    return int.from_bytes(memory[_ANSWER : _ANSWER + 4], "little")


def _kind(filetype: int) -> int:
    return _TYPES[filetype] if filetype < len(_TYPES) else 0


def _described(stat: tuple[int, ...]) -> list[Any]:
    _, _, kind, links, size, *times = stat
    return [_kind(kind), links, size, *([1, list(divmod(each, 1_000_000_000))] for each in times)]


def _hash(stat: tuple[int, ...]) -> list[int]:
    # Of tuples of integers, which is the same in every process.
    return [hash(stat[:2]) & _ALL_64, hash(stat) & _ALL_64]


def _times(accessed: Sequence[Any], modified: Sequence[Any]) -> tuple[int, int, int]:
    """Two ``new-timestamp`` as times and ``fstflags``."""
    flags, times = 0, list[int]()
    for place, (kind, time) in enumerate((accessed, modified)):
        flags |= _STAMPS[kind] << 2 * place
        nanoseconds: int = 0 if time is None else time[0] * 1_000_000_000 + time[1]
        if nanoseconds >> 64:
            raise BadValue("a time that is too far away")
        times.append(nanoseconds)
    return times[0], times[1], flags
