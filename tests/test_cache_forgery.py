"""Nothing forged, damaged or misplaced is believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from caches import ARTIFACT, DESCRIPTION, fetch, file_of, key, no_descriptor_left_open
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_sandbox.supervisor.cache import ArtifactCache


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    with no_descriptor_left_open():
        yield


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> ArtifactCache:
    cache = ArtifactCache(tmp_path_factory.mktemp("damaged") / "cache")
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    return cache


@pytest.fixture(scope="module")
def intact(damaged: ArtifactCache) -> bytes:
    return file_of(damaged, key()).read_bytes()


def _is_refused_and_removed(cache: ArtifactCache, content: bytes) -> None:
    before = cache.corruptions
    file_of(cache, key()).write_bytes(content)
    assert cache.get(key()) is None
    assert cache.corruptions == before + 1
    assert cache.last_error is not None
    assert not file_of(cache, key()).exists()


@settings(max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), early=st.booleans())
def test_one_flipped_bit_anywhere_is_found(
    damaged: ArtifactCache, intact: bytes, place: float, bit: int, early: bool
) -> None:
    content = bytearray(intact)
    content[int(place * (120 if early else len(content)))] ^= 1 << bit
    _is_refused_and_removed(damaged, bytes(content))


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), early=st.booleans())
def test_an_entry_cut_short_anywhere_is_found(
    damaged: ArtifactCache, intact: bytes, place: float, early: bool
) -> None:
    _is_refused_and_removed(damaged, intact[: int(place * (120 if early else len(intact)))])


@settings(max_examples=60)
@given(content=st.binary(max_size=300))
def test_any_other_file_in_the_place_of_an_entry_is_refused(
    damaged: ArtifactCache, content: bytes
) -> None:
    _is_refused_and_removed(damaged, content)


def test_bytes_after_the_end_are_found(damaged: ArtifactCache, intact: bytes) -> None:
    _is_refused_and_removed(damaged, intact + b"x")


def test_bytes_cannot_move_from_the_description_to_the_artifact(
    damaged: ArtifactCache, intact: bytes
) -> None:
    at = 48  # the two sizes
    moved = (len(DESCRIPTION) - 1).to_bytes(8, "little") + (len(ARTIFACT) + 1).to_bytes(8, "little")
    assert int.from_bytes(intact[at : at + 8], "little") == len(DESCRIPTION)
    _is_refused_and_removed(damaged, intact[:at] + moved + intact[at + 16 :])


def test_an_artifact_made_with_another_secret_is_refused(
    damaged: ArtifactCache, tmp_path: Path
) -> None:
    forger = ArtifactCache(tmp_path / "forger")
    assert forger.put(key(), DESCRIPTION, b"native code of the attacker")
    _is_refused_and_removed(damaged, file_of(forger, key()).read_bytes())


def test_a_genuine_artifact_of_another_module_is_refused(
    damaged: ArtifactCache, intact: bytes
) -> None:
    assert damaged.put(key(7), DESCRIPTION, ARTIFACT)
    _is_refused_and_removed(damaged, file_of(damaged, key(7)).read_bytes())


def test_a_damaged_entry_is_healed_by_the_next_put(cache: ArtifactCache) -> None:
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    _is_refused_and_removed(cache, b"garbage")
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert fetch(cache, key()) == (DESCRIPTION, ARTIFACT)


@pytest.mark.parametrize("what", ["symlink", "fifo", "directory"])
def test_what_is_no_plain_file_is_not_read(cache: ArtifactCache, what: str, tmp_path: Path) -> None:
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    file = file_of(cache, key())
    file.rename(tmp_path / "elsewhere")
    if what == "symlink":
        file.symlink_to(tmp_path / "elsewhere")
    elif what == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    assert cache.get(key()) is None
    assert cache.last_error is not None


@pytest.mark.parametrize("damage", ["readable by others", "cut short", "too long", "deleted"])
def test_a_secret_that_may_be_known_or_is_not_whole_is_replaced(
    cache: ArtifactCache, damage: str
) -> None:
    assert cache.directory is not None
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    secret = cache.directory / "key"
    before = secret.read_bytes()
    match damage:
        case "readable by others":
            secret.chmod(0o644)
        case "cut short":
            secret.write_bytes(before[:31])
        case "too long":
            secret.write_bytes(before + b"x")
        case _:
            secret.unlink()
    assert cache.get(key()) is None
    assert secret.read_bytes() != before
    assert len(secret.read_bytes()) == 32
    assert secret.stat().st_mode & 0o777 == 0o600
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert fetch(cache, key()) == (DESCRIPTION, ARTIFACT)
