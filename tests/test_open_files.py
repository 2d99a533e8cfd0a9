"""How many files a guest may hold open: exactly as many as its limit says, at no cost to the worker
that it runs in."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import guest_commands
import pytest
import trio

from wasm_sandbox import Capabilities, ConfigurationError, Limits, Pool, open_pool
from wasm_sandbox.protocol.capabilities import MAX_DIRECTORIES, Filesystem
from wasm_sandbox.protocol.profile import Profile
from wasm_sandbox.supervisor.shortages import check_open_files

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


def test_more_than_the_program_may_have_is_refused_where_they_could_be_opened(
    cache: Path, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, granted = Limits(open_files=900), Capabilities(filesystem=Filesystem.read_only(box))
    needed = Profile.of(limits, granted).descriptors
    too_many = pytest.raises(
        ConfigurationError,
        match=rf"limits\.open_files: .*{needed - 900} .*{needed - 1} .*got 900",
        check=lambda error: f"ulimit -n {needed})" in error.hint and "899" in error.hint,
    )

    async def in_trio() -> None:
        with too_many:
            async with open_pool(1, cache_dir=cache, limits=limits, capabilities=granted):
                pass
        async with open_pool(1, cache_dir=cache, limits=limits) as running:
            app = await running.load(HOARDS)
            with too_many:
                await running.run(app, capabilities=granted)
            with too_many:
                async with running.instance(app, capabilities=granted):
                    pass

    monkeypatch.setattr(resource, "getrlimit", lambda _: (needed - 1, needed - 1))
    with too_many, pool(cache, 900, box):
        pass
    with Pool(1, cache_dir=cache, limits=limits) as running:  # in which a guest can open none
        app = running.load(HOARDS)
        with too_many:
            running.run(app, capabilities=granted)
        with too_many, running.instance(app, capabilities=granted):
            pass
        with too_many:
            app.main.options(capabilities=granted)
        app.main.options(capabilities=granted, limits=Limits(open_files=899))
    trio.run(in_trio)


def test_where_no_number_would_be_few_enough_none_is_named(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(ConfigurationError, match="open_files") as caught:
        Pool(1, capabilities=Capabilities(filesystem=Filesystem.read_only(box)))
    assert caught.value.hint.endswith(")")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    check_open_files(Limits(), Capabilities(filesystem=Filesystem.read_only(box)))


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
