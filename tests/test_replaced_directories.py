"""A granted directory that was replaced by another one at the same path is granted, not the old."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import nothing_left

from wasm_sandbox import Capabilities, CapabilityDenied, Filesystem, Function, Pool
from wasm_sandbox.protocol.events import Event, WorkerDied

WORDS = (Path(__file__).parents[1] / "examples/guests/wordcount.wasm").read_bytes()


@pytest.fixture
def events() -> list[Event]:
    """What happened to the pool."""
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory that is granted."""
    folder = tmp_path / "granted"
    fill(folder, "one")
    return folder


@pytest.fixture
def count(tmp_path: Path, folder: Path, events: list[Event]) -> Iterator[Function]:
    """Counts the words of the file in the directory, on a pool of one worker."""
    files = Filesystem.read_only(folder, at="/data")
    with (
        nothing_left(),
        Pool(
            1,
            capabilities=Capabilities(filesystem=files),
            cache_dir=tmp_path / "cache",
            on_event=events.append,
        ) as pool,
    ):
        yield pool.load(WORDS).main


def fill(folder: Path, words: str) -> None:
    """Make the directory, with a file of these words."""
    folder.mkdir()
    (folder / "words").write_text(words)


def deaths(events: list[Event]) -> list[tuple[str, str]]:
    """What workers died of."""
    return [
        (event.certificate.cause, event.certificate.evidence)
        for event in events
        if isinstance(event, WorkerDied)
    ]


def words(count: Function) -> int:
    """How many words the guest finds."""
    return int(count("/data/words").stdout.split()[1])


def test_a_worker_is_kept_as_long_as_its_directory_is(
    count: Function, folder: Path, events: list[Event]
) -> None:
    assert words(count) == 1
    (folder / "words").write_text("one two")
    (folder / "more").touch()
    folder.chmod(0o700)
    assert words(count) == 2
    assert deaths(events) == []


def test_the_next_call_sees_the_new_directory(
    count: Function, folder: Path, events: list[Event]
) -> None:
    assert words(count) == 1
    for number in range(2, 5):
        shutil.rmtree(folder)
        fill(folder, "word " * number)
        assert words(count) == number
    assert deaths(events) == [("recycled", "a granted directory was replaced")] * 3


def test_a_directory_that_was_away_is_found_again(count: Function, folder: Path) -> None:
    away = folder.with_name("away")
    folder.rename(away)
    with pytest.raises(CapabilityDenied):
        count("/data/words")
    away.rename(folder)
    assert words(count) == 1
