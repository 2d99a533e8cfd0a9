"""An artifact comes back exactly as it was stored, and the cache stays within its size."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caches import ARTIFACT, DESCRIPTION, fetch, file_of, key, names, no_descriptor_left_open
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_sandbox.supervisor.cache import ArtifactCache, ArtifactKey, module_digest, seal


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    with no_descriptor_left_open():
        yield


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture(params=["disk", "memory"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactCache]:
    if request.param == "disk":
        cache = ArtifactCache(tmp_path / "cache")
    else:
        cache = ArtifactCache.disabled("no disk in this test")
    yield cache
    cache.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 1])
def test_what_was_put_is_what_is_got(either: ArtifactCache, size: int) -> None:
    artifact = os.urandom(size)
    assert fetch(either, key()) is None
    assert either.put(key(), DESCRIPTION, artifact)
    assert fetch(either, key()) == (DESCRIPTION, artifact)
    assert fetch(either, key()) == (DESCRIPTION, artifact)


@pytest.mark.parametrize(
    "other",
    [key(1), key(engine="engine 1.0.1"), key(settings="fuel=yes"), key(cpu="abd")],
    ids=["module", "engine", "settings", "cpu"],
)
def test_every_field_of_the_key_tells_entries_apart(
    either: ArtifactCache, other: ArtifactKey
) -> None:
    assert either.put(key(), DESCRIPTION, ARTIFACT)
    assert fetch(either, other) is None
    assert key().digest() == key().digest() != other.digest()


def test_fields_of_a_key_do_not_run_into_each_other() -> None:
    assert key(engine="ab", settings="c").digest() != key(engine="a", settings="bc").digest()


def test_a_key_that_is_no_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="module_sha256"):
        ArtifactKey(module_sha256=b"short", engine="", settings="", cpu="")


def test_a_later_put_replaces_an_earlier_one(either: ArtifactCache) -> None:
    assert either.put(key(), b"old", b"old")
    assert either.put(key(), b"new", ARTIFACT)
    assert fetch(either, key()) == (b"new", ARTIFACT)


def test_what_is_handed_out_is_sealed(either: ArtifactCache) -> None:
    assert either.put(key(), DESCRIPTION, ARTIFACT)
    entry = either.get(key())
    assert entry is not None
    seals = fcntl.fcntl(entry.artifact_fd, fcntl.F_GET_SEALS)
    with pytest.raises(PermissionError):
        os.pwrite(entry.artifact_fd, b"x", 0)
    os.close(entry.artifact_fd)
    for wanted in ("WRITE", "SHRINK", "GROW", "SEAL"):
        assert seals & getattr(fcntl, f"F_SEAL_{wanted}")


def test_whoever_holds_the_stored_file_cannot_change_what_was_stored(
    either: ArtifactCache,
) -> None:
    source = os.memfd_create("source", os.MFD_CLOEXEC)
    try:
        os.write(source, ARTIFACT + b"more")
        assert either.put(key(), DESCRIPTION, source, len(ARTIFACT))
        os.pwrite(source, b"evil", 0)
        assert fetch(either, key()) == (DESCRIPTION, ARTIFACT)
        os.ftruncate(source, 3)
        assert not either.put(key(1), DESCRIPTION, source, len(ARTIFACT))
        assert fetch(either, key(1)) is None
    finally:
        os.close(source)


def test_a_sealed_file_is_stored_as_it_is(either: ArtifactCache) -> None:
    fd = seal(ARTIFACT)
    try:
        assert either.put(key(), DESCRIPTION, fd)
        assert fetch(either, key()) == (DESCRIPTION, ARTIFACT)
        assert either.put(key(), DESCRIPTION, fd, 10)
        assert fetch(either, key()) == (DESCRIPTION, ARTIFACT[:10])
    finally:
        os.close(fd)


def test_another_pool_finds_what_this_one_stored(cache: ArtifactCache) -> None:
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert fetch(ArtifactCache(cache.directory), key()) == (DESCRIPTION, ARTIFACT)


def test_threads_can_share_a_cache(either: ArtifactCache) -> None:
    wrong: list[object] = []

    def use(first: int) -> None:
        for round_ in range(20):
            number = (first + round_) % 3
            either.put(key(number), DESCRIPTION, ARTIFACT + bytes([number]))
            found = fetch(either, key(number))
            if found != (DESCRIPTION, ARTIFACT + bytes([number])):
                wrong.append(found)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert either.corruptions == 0


def test_the_digest_of_a_module_is_its_sha256() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert module_digest(memoryview(b"abc")).hex() == expected


def _used(cache: ArtifactCache, wanted: ArtifactKey, seconds_ago: int) -> None:
    when = file_of(cache, wanted).stat().st_mtime - seconds_ago
    os.utime(file_of(cache, wanted), (when, when))


def test_the_entries_used_longest_ago_make_room(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache", max_bytes=3 * (len(ARTIFACT) + 200))
    for number in range(3):
        assert cache.put(key(number), DESCRIPTION, ARTIFACT)
        _used(cache, key(number), 100 - number)
    assert fetch(cache, key(0)) is not None  # now 1 is the oldest
    assert cache.put(key(3), DESCRIPTION, ARTIFACT)
    assert [fetch(cache, key(n)) is not None for n in range(4)] == [True, False, True, True]


def test_entries_in_memory_used_longest_ago_make_room() -> None:
    cache = ArtifactCache.disabled("test", max_bytes=3 * (len(ARTIFACT) + 200))
    for number in range(3):
        assert cache.put(key(number), DESCRIPTION, ARTIFACT)
    assert fetch(cache, key(0)) is not None
    assert cache.put(key(3), DESCRIPTION, ARTIFACT)
    assert [fetch(cache, key(n)) is not None for n in range(4)] == [True, False, True, True]
    cache.close()


def test_entries_in_memory_leave_the_program_its_descriptors() -> None:
    cache = ArtifactCache.disabled("test")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        assert cache.put(key(number), DESCRIPTION, b"small")
    assert len(os.listdir("/proc/self/fd")) - before <= 128
    assert fetch(cache, key(199)) is not None
    cache.close()


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 6000), max_size=20))
def test_the_bound_holds_after_every_put(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    cache = ArtifactCache(tmp_path_factory.mktemp("bound") / "cache", max_bytes=10_000)
    assert cache.directory is not None
    for number, size in enumerate(sizes):
        assert cache.put(key(number), b"", bytes(size))
        assert fetch(cache, key(number)) is not None
        total = sum(f.stat().st_size for f in cache.directory.glob("*.artifact"))
        assert total <= 10_000


def test_a_smaller_bound_takes_effect_at_the_start(cache: ArtifactCache) -> None:
    for number in range(3):
        assert cache.put(key(number), DESCRIPTION, ARTIFACT)
    assert len(names(cache)) == 4
    assert names(ArtifactCache(cache.directory, max_bytes=len(ARTIFACT))) == ["key"]


def test_small_entries_are_bounded_in_number(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wasm_sandbox.supervisor.cache._MAX_ENTRIES", 5)
    for number in range(9):
        assert cache.put(key(number), DESCRIPTION, b"")
    assert len(names(cache)) == 6


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_what_does_not_fit_at_all_evicts_nothing(tmp_path: Path, kind: str) -> None:
    if kind == "disk":
        cache = ArtifactCache(tmp_path / "cache", max_bytes=10_000)
    else:
        cache = ArtifactCache.disabled("test", max_bytes=10_000)
    assert cache.put(key(0), b"", b"small")
    assert not cache.put(key(1), b"", bytes(10_001))
    assert "do not fit" in str(cache.last_error)
    assert fetch(cache, key(0)) == (b"", b"small")
    cache.close()


def test_a_large_directory_is_not_looked_through_at_every_store(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the cost of storing would grow with what is stored; the bound holds within 1/64."""
    looks = 0
    tidy = ArtifactCache._tidy

    def look(*arguments: Any, **keywords: Any) -> None:
        nonlocal looks
        looks += 1
        tidy(*arguments, **keywords)

    monkeypatch.setattr(ArtifactCache, "_tidy", look)
    monkeypatch.setattr("wasm_sandbox.supervisor.cache._MAX_ENTRIES", 256)
    for number in range(600):
        assert cache.put(key(number), b"", b"")
        assert len(names(cache)) <= 256 + 256 // 64 + 2  # the key, and the one that is kept
    assert looks < 300
