"""Pools over a core without processes, for tests that name this file in ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fakes import SOURCE, FakeCore

from wasm_sandbox import (
    Module,
    Pool,
)
from wasm_sandbox.configuration import Configuration


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[FakeCore]:
    """The doubles that the test's pools made."""
    made: list[FakeCore] = []

    def make(configuration: Configuration) -> Any:
        made.append(FakeCore(configuration))
        return made[-1]

    monkeypatch.setattr(Configuration, "make_core", make)
    return made


@pytest.fixture
def pool(cores: list[FakeCore]) -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


@pytest.fixture
def module(pool: Pool) -> Module:
    return pool.load(SOURCE)
