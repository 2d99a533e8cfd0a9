"""Helpers for the tests of the artifact cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wasm_sandbox.supervisor.cache import ArtifactCache, ArtifactKey

DESCRIPTION = b"exports: add"
ARTIFACT = bytes(range(256)) * 4200  # more than the MiB that is digested at once


def key(number: int = 0, **changes: str) -> ArtifactKey:
    fields = {"engine": "engine 1.0.0", "settings": "fuel=no", "cpu": "abc"} | changes
    return ArtifactKey(module_sha256=number.to_bytes(32, "big"), **fields)


def fetch(cache: ArtifactCache, wanted: ArtifactKey) -> tuple[bytes, bytes] | None:
    entry = cache.get(wanted)
    if entry is None:
        return None
    try:
        assert os.fstat(entry.artifact_fd).st_size == entry.artifact_size
        return entry.description, os.pread(entry.artifact_fd, entry.artifact_size, 0)
    finally:
        os.close(entry.artifact_fd)


def file_of(cache: ArtifactCache, wanted: ArtifactKey) -> Path:
    assert cache.directory is not None
    return cache.directory / f"{wanted.digest()}.artifact"


def names(cache: ArtifactCache) -> list[str]:
    assert cache.directory is not None
    return sorted(os.listdir(cache.directory))


@contextmanager
def no_descriptor_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before
