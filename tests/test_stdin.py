"""Standard input from a descriptor: whatever it is, and whatever becomes of the call."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import guest_commands
import pytest
from leftovers import descriptors, nothing_left

from wasm_sandbox import CapabilityDenied, Module, Pool
from wasm_sandbox.supervisor.resources import for_reading
from wasm_sandbox.worker.stdin import PIECE, Stdin

COUNTS = guest_commands.reads_stdin().encode()
LARGE = 40 * PIECE + 1


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """A pool of two workers."""
    with nothing_left(), Pool(2) as made:
        yield made


@pytest.fixture(scope="module")
def counts(pool: Pool) -> Module:
    """A command whose exit code is the number of bytes that it read."""
    return pool.load(COUNTS)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be closed after the test."""
    with ExitStack() as stack:
        yield stack


def written(stack: ExitStack, write: int, size: int) -> None:
    """Write to a descriptor from another thread, and close it."""

    def feed() -> None:
        with open(write, "wb") as sink:
            sink.write(bytes(size))

    thread = threading.Thread(target=feed)
    thread.start()
    stack.callback(thread.join)


@pytest.mark.parametrize("size", [0, 1, PIECE, LARGE])
def test_it_may_be_a_pipe_or_a_socket(
    pool: Pool, counts: Module, stack: ExitStack, size: int
) -> None:
    read, write = os.pipe()
    stack.callback(os.close, read)
    written(stack, write, size)
    assert pool.run(counts, stdin=read).exit_code == size
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    written(stack, theirs.detach(), size)
    assert pool.run(counts, stdin=ours.fileno()).exit_code == size


@pytest.mark.parametrize("size", [0, 1, PIECE, LARGE])
@pytest.mark.parametrize("before", [0, 1, 100])
def test_a_file_is_read_from_its_position_which_stays(
    pool: Pool, counts: Module, tmp_path: Path, before: int, size: int
) -> None:
    """What comes before is not the guest's to see."""
    path = tmp_path / "input"
    path.write_bytes(bytes(before + size))
    with path.open("rb") as file:
        file.seek(before)
        for _ in range(2):
            assert pool.run(counts, stdin=file).exit_code == size
        assert file.tell() == os.lseek(file.fileno(), 0, os.SEEK_CUR) == before


def _can_write(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def test_a_worker_gets_a_file_or_terminal_to_read_and_nothing_else(
    stack: ExitStack, tmp_path: Path
) -> None:
    master, terminal = pty.openpty()
    file = os.open(tmp_path / "input", os.O_RDWR | os.O_CREAT)
    for given, alone in ((file, True), (terminal, True), (master, False)):
        stack.callback(os.close, given)
        handed = for_reading(given)
        stack.callback(os.close, handed)
        assert os.path.samestat(os.fstat(given), os.fstat(handed))
        assert _can_write(given)
        assert _can_write(handed) is not alone
        os.set_blocking(handed, False)
        assert os.get_blocking(given) is alone
    os.write(file, b"before")
    handed = for_reading(file)
    stack.callback(os.close, handed)
    os.lseek(handed, 3, os.SEEK_SET)
    assert os.lseek(file, 0, os.SEEK_CUR) == len(b"before")


def test_what_cannot_be_read_is_refused_by_name(pool: Pool, counts: Module, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(CapabilityDenied, match="stdin cannot be read: Is a directory"):
            pool.run(counts, stdin=directory)
    finally:
        os.close(directory)


def test_two_commands_may_share_it(pool: Pool, counts: Module, stack: ExitStack) -> None:
    read, write = os.pipe()
    stack.callback(os.close, read)
    calls = [pool.submit(counts.main.options(stdin=read)) for _ in range(2)]
    written(stack, write, LARGE)
    assert sum(call.result().exit_code for call in calls) == LARGE


def test_it_ends_with_the_call(stack: ExitStack) -> None:
    """Though nobody writes any more, or nobody reads all."""
    read, write = os.pipe()
    endless = os.open("/dev/zero", os.O_RDONLY)
    for end in (read, write, endless):
        stack.callback(os.close, end)
    before = descriptors(), threading.active_count()
    with Stdin(read) as given:
        assert threading.active_count() == before[1] + 1
    assert (descriptors(), threading.active_count()) == before
    os.write(write, bytes(1))
    with Stdin(read) as given, open(given.path, "rb") as reader:
        assert reader.read(1) == b"\0"
    assert (descriptors(), threading.active_count()) == before
    with Stdin(endless) as given, open(given.path, "rb") as reader:
        assert reader.read(LARGE) == bytes(LARGE)
    assert (descriptors(), threading.active_count()) == before
