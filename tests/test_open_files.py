"""How many files a guest may hold open: exactly as many as its limit says, at no cost to the worker
that it runs in."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import guest_commands
import pytest

from wasm_sandbox import Capabilities, Limits, Pool
from wasm_sandbox.protocol.capabilities import MAX_DIRECTORIES, Filesystem

HOARDS = guest_commands.hoards().encode()
EMFILE = 33


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A directory with a file in it."""
    (tmp_path / "file").touch()
    return tmp_path


def pool(cache: Path, open_files: int, *directories: Path) -> Pool:
    granted = Filesystem.read_write(*directories)
    return Pool(
        1,
        cache_dir=cache,
        limits=Limits(open_files=open_files),
        capabilities=Capabilities(filesystem=granted),
    )


def hoarded(exit_code: int) -> tuple[int, int, int]:
    """How many files the guest held, the errnos of what else it did, that of the refusal."""
    return exit_code & 0xFFFF, exit_code >> 16 & 0xFF, exit_code >> 24


@pytest.mark.parametrize("open_files", [0, 1, 64, 2000])
def test_a_guest_holds_exactly_as_many_files_as_it_may(
    cache: Path, box: Path, open_files: int
) -> None:
    """In the first call as in the hundredth, and everything else goes on beside them."""
    if open_files + 500 > resource.getrlimit(resource.RLIMIT_NOFILE)[1]:
        pytest.skip("this program itself may not have so many (`ulimit -Hn`)")
    with pool(cache, open_files, box) as running:
        app = running.load(HOARDS)
        worker = running.workers()[0].pid
        for _ in range(3 if open_files > 64 else 100):
            exit_code = running.run(app).exit_code
            assert hoarded(exit_code) == (open_files, 0, EMFILE)
        assert running.workers()[0].pid == worker


def test_stdin_and_directories_are_not_among_them(cache: Path, box: Path) -> None:
    many = [box / str(number) for number in range(MAX_DIRECTORIES - 1)]
    for directory in many:
        directory.mkdir()
    with pool(cache, 5, box, *many) as running, open(os.devnull, "rb") as stdin:
        app = running.load(HOARDS)
        for _ in range(10):
            assert hoarded(running.run(app, stdin=stdin).exit_code) == (5, 0, EMFILE)


def test_a_guest_that_held_all_it_may_leaves_its_worker_enough(cache: Path, box: Path) -> None:
    """For many modules, and for what is streamed to it."""
    with pool(cache, 0, box) as running, open(box / "file", "rb") as stdin:
        app, reader = running.load(HOARDS), running.load(guest_commands.reads_stdin().encode())
        worker = running.workers()[0].pid
        assert hoarded(running.run(app).exit_code) == (0, 0, EMFILE)
        for number in range(64):
            source = f'(module (func (export "it") (result i32) (i32.const {number})))'
            assert running.load(source.encode())["it"]() == number
        assert running.run(reader, stdin=stdin).exit_code == 0
        assert hoarded(running.run(app, stdin=stdin).exit_code) == (0, 0, EMFILE)
        assert running.workers()[0].pid == worker
