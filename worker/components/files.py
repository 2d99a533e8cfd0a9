"""``wasi:filesystem``, by the functions of WASI preview 1 behind the bridge.

Source: WIT of ``wasi:filesystem@0.2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .bridge import BUFFER
from .file_calls import ANSWER, CODE, ON, PATH_LIMIT, PATHS, SECOND, FileCalls, FileError, number_in
from .heap import BadValue
from .offers import State, offer
from .open_files import Descriptor, FileSink, FileSource, Listing
from .pipes import Failed

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
_STAMPS: dict[int, int] = {0: 0, 1: 2, 2: 1}
"""``fstflags`` by the case of ``new-timestamp``, for the time of access."""
_ALL_64 = (1 << 64) - 1

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
_FLAGS = (
    "flags<read, write, file-integrity-sync, data-integrity-sync, requested-write-sync, "
    "mutate-directory>"
)
_FOLLOW = "flags<symlink-follow>"
_OPEN = "flags<create, directory, exclusive, truncate>"
_HASH = "record<lower: u64, upper: u64>"
_ADVICE = "enum<normal, sequential, random, will-need, dont-need, no-reuse>"


class Files:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._calls = FileCalls(state)

    def _get(self, descriptor: int) -> Descriptor:
        return self._state.objects.get(descriptor, Descriptor)

    def _add(self, thing: object) -> list[Any]:
        return [0, self._state.objects.add(thing)]

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
                    Descriptor(self._calls, number, _READ | _MUTATE * grant.writable).use()
                ),
                grant.at,
            ]
            for number, (grant, _) in enumerate(wasi.granted, 3)
        ]

    @offer(ON, "filesystem-error-code", f"(borrow<error>) -> option<{CODE}>")
    def filesystem_error_code(self, error: int) -> list[Any]:
        return self._state.objects.get(error, Failed).code(ON)

    def _method(self, descriptor: int, name: str, *arguments: int) -> list[Any]:
        self._calls.ask(name, self._get(descriptor).number, *arguments)
        return [0, None]

    @offer(
        ON,
        "[method]descriptor.read-via-stream",
        f"(borrow<descriptor>, u64) -> result<own<input-stream>, {CODE}>",
    )
    def read_via_stream(self, descriptor: int, at: int) -> list[Any]:
        return self._add(FileSource(self._calls, self._get(descriptor), at))

    @offer(
        ON,
        "[method]descriptor.write-via-stream",
        f"(borrow<descriptor>, u64) -> result<own<output-stream>, {CODE}>",
    )
    def write_via_stream(self, descriptor: int, at: int) -> list[Any]:
        return self._add(FileSink(self._calls, self._get(descriptor), at))

    @offer(
        ON,
        "[method]descriptor.append-via-stream",
        f"(borrow<descriptor>) -> result<own<output-stream>, {CODE}>",
    )
    def append_via_stream(self, descriptor: int) -> list[Any]:
        return self._add(FileSink(self._calls, self._get(descriptor), None))

    @offer(
        ON,
        "[method]descriptor.advise",
        f"(borrow<descriptor>, u64, u64, {_ADVICE}) -> result<_, {CODE}>",
    )
    def advise(self, descriptor: int, _offset: int, _length: int, _advice: int) -> list[Any]:
        self._get(descriptor)
        return [0, None]

    @offer(ON, "[method]descriptor.sync-data", f"(borrow<descriptor>) -> result<_, {CODE}>")
    def sync_data(self, descriptor: int) -> list[Any]:
        return self._method(descriptor, "fd_datasync")

    @offer(ON, "[method]descriptor.sync", f"(borrow<descriptor>) -> result<_, {CODE}>")
    def sync(self, descriptor: int) -> list[Any]:
        return self._method(descriptor, "fd_sync")

    @offer(ON, "[method]descriptor.get-flags", f"(borrow<descriptor>) -> result<{_FLAGS}, {CODE}>")
    def get_flags(self, descriptor: int) -> list[Any]:
        return [0, self._get(descriptor).flags]

    @offer(ON, "[method]descriptor.get-type", f"(borrow<descriptor>) -> result<{_TYPE}, {CODE}>")
    def get_type(self, descriptor: int) -> list[Any]:
        return [0, _kind(self._calls.stat_of("fd_filestat_get", self._get(descriptor).number)[2])]

    @offer(ON, "[method]descriptor.set-size", f"(borrow<descriptor>, u64) -> result<_, {CODE}>")
    def set_size(self, descriptor: int, size: int) -> list[Any]:
        return self._method(descriptor, "fd_filestat_set_size", size)

    @offer(
        ON,
        "[method]descriptor.set-times",
        f"(borrow<descriptor>, {_NEW}, {_NEW}) -> result<_, {CODE}>",
    )
    def set_times(self, descriptor: int, accessed: Any, modified: Any) -> list[Any]:
        return self._method(descriptor, "fd_filestat_set_times", *_times(accessed, modified))

    @offer(
        ON,
        "[method]descriptor.read",
        f"(borrow<descriptor>, u64, u64) -> result<tuple<list<u8>, bool>, {CODE}>",
    )
    def read(self, descriptor: int, size: int, at: int) -> list[Any]:
        data = self._calls.read_at(self._get(descriptor).number, size, at)
        return [0, [data, not data and size > 0]]

    @offer(
        ON,
        "[method]descriptor.write",
        f"(borrow<descriptor>, list<u8>, u64) -> result<u64, {CODE}>",
    )
    def write(self, descriptor: int, data: bytes, at: int) -> list[Any]:
        return [0, self._calls.write_at(self._get(descriptor).number, memoryview(data), at)]

    @offer(
        ON,
        "[method]descriptor.read-directory",
        f"(borrow<descriptor>) -> result<own<directory-entry-stream>, {CODE}>",
    )
    def read_directory(self, descriptor: int) -> list[Any]:
        opened = self._get(descriptor)
        if self._calls.stat_of("fd_filestat_get", opened.number)[2] != _DIRECTORY:
            raise FileError(54)
        return self._add(Listing(self._calls, opened))

    @offer(
        ON,
        "[method]directory-entry-stream.read-directory-entry",
        f"(borrow<directory-entry-stream>) -> "
        f"result<option<record<type: {_TYPE}, name: string>>, {CODE}>",
    )
    def read_directory_entry(self, listing: int) -> list[Any]:
        entry = self._state.objects.get(listing, Listing).next()
        return [0, [0, None] if entry is None else [1, [_kind(entry[0]), entry[1]]]]

    @offer(ON, "[method]descriptor.stat", f"(borrow<descriptor>) -> result<{_STAT_SHAPE}, {CODE}>")
    def stat(self, descriptor: int) -> list[Any]:
        return [0, _described(self._calls.stat_of("fd_filestat_get", self._get(descriptor).number))]

    @offer(
        ON,
        "[method]descriptor.stat-at",
        f"(borrow<descriptor>, {_FOLLOW}, string) -> result<{_STAT_SHAPE}, {CODE}>",
    )
    def stat_at(self, descriptor: int, follow: int, path: str) -> list[Any]:
        return [0, _described(self._stat_at(descriptor, follow, path))]

    def _stat_at(self, descriptor: int, follow: int, path: str) -> tuple[int, ...]:
        number, place = self._get(descriptor).number, self._calls.put(PATHS, path)
        return self._calls.stat_of("path_filestat_get", number, follow, *place)

    @offer(
        ON,
        "[method]descriptor.set-times-at",
        f"(borrow<descriptor>, {_FOLLOW}, string, {_NEW}, {_NEW}) -> result<_, {CODE}>",
    )
    def set_times_at(
        self, descriptor: int, follow: int, path: str, accessed: Any, modified: Any
    ) -> list[Any]:
        place, times = self._calls.put(PATHS, path), _times(accessed, modified)
        return self._method(descriptor, "path_filestat_set_times", follow, *place, *times)

    @offer(
        ON,
        "[method]descriptor.create-directory-at",
        f"(borrow<descriptor>, string) -> result<_, {CODE}>",
    )
    def create_directory_at(self, descriptor: int, path: str) -> list[Any]:
        return self._method(descriptor, "path_create_directory", *self._calls.put(PATHS, path))

    @offer(
        ON,
        "[method]descriptor.remove-directory-at",
        f"(borrow<descriptor>, string) -> result<_, {CODE}>",
    )
    def remove_directory_at(self, descriptor: int, path: str) -> list[Any]:
        return self._method(descriptor, "path_remove_directory", *self._calls.put(PATHS, path))

    @offer(
        ON,
        "[method]descriptor.unlink-file-at",
        f"(borrow<descriptor>, string) -> result<_, {CODE}>",
    )
    def unlink_file_at(self, descriptor: int, path: str) -> list[Any]:
        return self._method(descriptor, "path_unlink_file", *self._calls.put(PATHS, path))

    @offer(
        ON,
        "[method]descriptor.rename-at",
        f"(borrow<descriptor>, string, borrow<descriptor>, string) -> result<_, {CODE}>",
    )
    def rename_at(self, descriptor: int, old: str, other: int, new: str) -> list[Any]:
        places = (
            *self._calls.put(PATHS, old),
            self._get(other).number,
            *self._calls.put(SECOND, new),
        )
        return self._method(descriptor, "path_rename", *places)

    @offer(
        ON,
        "[method]descriptor.link-at",
        f"(borrow<descriptor>, {_FOLLOW}, string, borrow<descriptor>, string) -> result<_, {CODE}>",
    )
    def link_at(self, descriptor: int, follow: int, old: str, other: int, new: str) -> list[Any]:
        places = (
            *self._calls.put(PATHS, old),
            self._get(other).number,
            *self._calls.put(SECOND, new),
        )
        return self._method(descriptor, "path_link", follow, *places)

    @offer(
        ON,
        "[method]descriptor.symlink-at",
        f"(borrow<descriptor>, string, string) -> result<_, {CODE}>",
    )
    def symlink_at(self, descriptor: int, old: str, new: str) -> list[Any]:
        target, place = self._calls.put(PATHS, old), self._calls.put(SECOND, new)
        self._calls.ask("path_symlink", *target, self._get(descriptor).number, *place)
        return [0, None]

    @offer(
        ON,
        "[method]descriptor.readlink-at",
        f"(borrow<descriptor>, string) -> result<string, {CODE}>",
    )
    def readlink_at(self, descriptor: int, path: str) -> list[Any]:
        number, place = self._get(descriptor).number, self._calls.put(PATHS, path)
        memory = self._calls.ask("path_readlink", number, *place, BUFFER, PATH_LIMIT, ANSWER)
        size = number_in(memory)
        try:
            return [0, str(memory[BUFFER : BUFFER + size], "utf-8")]
        except UnicodeDecodeError:
            raise FileError(25) from None

    @offer(
        ON,
        "[method]descriptor.open-at",
        f"(borrow<descriptor>, {_FOLLOW}, string, {_OPEN}, {_FLAGS}) -> "
        f"result<own<descriptor>, {CODE}>",
    )
    def open_at(
        self, descriptor: int, follow: int, path: str, opening: int, flags: int
    ) -> list[Any]:
        rights = _READING * bool(flags & _READ) | _WRITING * bool(flags & _WRITE)
        sync = sum(bit for flag, bit in _SYNC.items() if flags & flag)
        number, place = self._get(descriptor).number, self._calls.put(PATHS, path)
        memory = self._calls.ask(
            "path_open", number, follow, *place, opening, rights, rights, sync, ANSWER
        )
        return self._add(Descriptor(self._calls, number_in(memory), flags))

    @offer(
        ON,
        "[method]descriptor.is-same-object",
        "(borrow<descriptor>, borrow<descriptor>) -> bool",
    )
    def is_same_object(self, one: int, other: int) -> bool:
        both = [
            self._calls.stat_of("fd_filestat_get", self._get(each).number) for each in (one, other)
        ]
        return both[0][:2] == both[1][:2]

    @offer(
        ON, "[method]descriptor.metadata-hash", f"(borrow<descriptor>) -> result<{_HASH}, {CODE}>"
    )
    def metadata_hash(self, descriptor: int) -> list[Any]:
        return [0, _hash(self._calls.stat_of("fd_filestat_get", self._get(descriptor).number))]

    @offer(
        ON,
        "[method]descriptor.metadata-hash-at",
        f"(borrow<descriptor>, {_FOLLOW}, string) -> result<{_HASH}, {CODE}>",
    )
    def metadata_hash_at(self, descriptor: int, follow: int, path: str) -> list[Any]:
        return [0, _hash(self._stat_at(descriptor, follow, path))]


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
