"""What was sealed can be verified once and trusted for ever."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wasmtime

from wasm_sandbox.supervisor.sealed import (
    copy_digested,
    is_sealed,
    seal,
    seal_digested,
)

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def sealed() -> Iterator[int]:
    fd = seal(CONTENT)
    yield fd
    os.close(fd)


def _reopen_and_write(fd: int) -> None:
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        os.write(again, b"x")
    finally:
        os.close(again)


CHANGES: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "append": lambda fd: os.pwrite(fd, b"x", len(CONTENT)),
    "shrink": lambda fd: os.ftruncate(fd, 10),
    "grow": lambda fd: os.ftruncate(fd, len(CONTENT) + 1),
    "map for writing": lambda fd: mmap.mmap(fd, 0, flags=mmap.MAP_SHARED),
    "write through another descriptor": _reopen_and_write,
    "further seals": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    "allocate more": lambda fd: os.posix_fallocate(fd, 0, len(CONTENT) * 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_changes_a_sealed_file(sealed: int, change: str) -> None:
    with pytest.raises(PermissionError):
        CHANGES[change](sealed)
    assert os.pread(sealed, len(CONTENT) + 1, 0) == CONTENT


def test_the_copy_does_not_follow_its_source() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, CONTENT)
        with mmap.mmap(fd, 0, flags=mmap.MAP_SHARED) as mapping:
            copied = seal(fd)
            mapping[0:4] = b"evil"
        assert os.pread(copied, len(CONTENT), 0) == CONTENT
        os.close(copied)
        assert not is_sealed(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 10_240])
def test_bytes_of_every_kind_and_size_arrive_whole(
    kind: Callable[[bytes], bytes | bytearray | memoryview], size: int
) -> None:
    fd = seal(kind(CONTENT[:size]))
    assert is_sealed(fd)
    assert os.pread(fd, size + 1, 0) == CONTENT[:size]
    os.close(fd)


@pytest.mark.parametrize(("size", "offset"), [(None, 0), (None, 100), (50, 0), (50, 100)])
def test_a_part_of_a_file_or_of_bytes_can_be_sealed(size: int | None, offset: int) -> None:
    expected = CONTENT[offset:] if size is None else CONTENT[offset : offset + size]
    with tempfile.TemporaryFile() as file:
        file.write(CONTENT)
        file.flush()
        position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        for source in (file.fileno(), CONTENT):
            fd = seal(source, size, offset=offset)
            assert os.pread(fd, len(CONTENT), 0) == expected
            os.close(fd)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == position


def test_a_source_shorter_than_it_was_said_to_be_is_an_error_and_leaks_nothing() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryFile() as file:
        file.write(CONTENT)
        file.flush()
        for source in (file.fileno(), CONTENT):
            with pytest.raises(OSError, match="ends before"):
                seal(source, len(CONTENT) + 1)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (7 << 20) + 5])
def test_digests_are_of_each_mebibyte_however_many_threads_there_are(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    content = os.urandom(size)
    pieces = [content[start : start + (1 << 20)] for start in range(0, size, 1 << 20)]
    expected = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    for cpus in (1, 2, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cpus: set(range(n)))
        fd, digests = seal_digested(content, size)
        try:
            assert digests == expected
            assert os.pread(fd, size + 1, 0) == content
        finally:
            os.close(fd)


def test_digests_are_of_what_was_written_while_the_source_changes() -> None:
    size = 8 << 20
    done = threading.Event()
    with tempfile.TemporaryFile() as source:
        source.truncate(size)

        def change() -> None:
            while not done.is_set():
                os.pwrite(source.fileno(), os.urandom(4096) * 64, random.randrange(size - 262_144))

        thread = threading.Thread(target=change)
        thread.start()
        try:
            fd, digests = seal_digested(source.fileno(), size)
        finally:
            done.set()
            thread.join()
    again, expected = seal_digested(fd, size)
    assert digests == expected
    os.close(fd)
    os.close(again)


def test_copies_land_where_they_were_sent() -> None:
    with tempfile.TemporaryFile() as target:
        target.write(b"head")
        target.flush()
        copy_digested(CONTENT, target.fileno(), 100, source_offset=7, target_offset=4)
        target.seek(0)
        assert target.read() == b"head" + CONTENT[7:107]


def test_copying_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", no_thread)
    content = os.urandom(5 << 20)
    fd = seal(content)
    assert os.pread(fd, len(content) + 1, 0) == content
    os.close(fd)


def test_an_engine_loads_native_code_from_a_sealed_file(tmp_path: Path) -> None:
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, '(module (func (export "f") (result i32) i32.const 7))')
    fd = seal(bytes(module.serialize()))
    try:
        loaded = wasmtime.Module.deserialize_file(engine, f"/proc/self/fd/{fd}")
        store = wasmtime.Store(engine)
        function = wasmtime.Instance(store, loaded, []).exports(store)["f"]
        assert isinstance(function, wasmtime.Func)
        assert function(store) == 7
    finally:
        os.close(fd)
