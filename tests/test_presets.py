"""The presets grant what they say, field by field, and guests get exactly that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasm_sandbox import (
    Capabilities,
    Clock,
    Environment,
    Filesystem,
    Grants,
    Network,
    Pool,
    Random,
)

GUESTS = Path(__file__).resolve().parents[1] / "examples" / "guests"
HARMLESS = ("LANG", "LC_ALL", "TERM", "TZ")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with Pool(1, cache_dir=tmp_path_factory.mktemp("cache")) as pool:
        yield pool


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the current one, with a file; secrets in the environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("word word\n")
    for name in HARMLESS:
        monkeypatch.setenv(name, f"my-{name}")
    monkeypatch.setenv("TOKEN", "secret")
    return tmp_path


def granted(capabilities: Capabilities) -> dict[str, object]:
    return {name: getattr(capabilities, name) for name in Capabilities.__struct_fields__}


def test_minimal_grants_nothing_but_clock_random_numbers_and_captured_output() -> None:
    assert granted(Capabilities.minimal()) == {
        "filesystem": Filesystem.none(),
        "network": Network.none(),
        "environment": Environment.none(),
        "clock": Clock.real(),
        "random": Random.secure(),
        "stdio": True,
        "custom": Grants(),
    }


def test_minimal_is_what_everything_has_by_default(pool: Pool) -> None:
    assert Capabilities() == Capabilities.minimal()
    assert pool.configuration.capabilities == Capabilities.minimal()
    assert pool.load(GUESTS / "calc.wasm")["add"].settings.capabilities == Capabilities.minimal()


def test_development_adds_the_current_directory_to_read_and_four_variables(project: Path) -> None:
    assert granted(Capabilities.development()) == {
        **granted(Capabilities.minimal()),
        "filesystem": Filesystem.read_only(project, at="."),
        "environment": Environment.allow(*HARMLESS),
    }


def test_a_guest_with_minimal_gets_no_file_and_no_variable(pool: Pool, project: Path) -> None:
    words = pool.load(GUESTS / "wordcount.wasm")
    for name in ("notes.txt", str(project / "notes.txt"), "/etc/passwd"):
        assert pool.run(words, name, capabilities=Capabilities.minimal()).exit_code == 1
    shown = pool.run(
        pool.load(GUESTS / "misbehave.wasm"), "env", capabilities=Capabilities.minimal()
    )
    assert b"=" not in shown.stdout


def test_a_guest_with_development_reads_but_does_not_write(pool: Pool, project: Path) -> None:
    capabilities = Capabilities.development()
    words, misbehave = (pool.load(GUESTS / f"{name}.wasm") for name in ("wordcount", "misbehave"))
    assert b"2  word" in pool.run(words, "notes.txt", capabilities=capabilities).stdout
    for outside in ("../notes.txt", "/etc/passwd"):
        assert pool.run(words, outside, capabilities=capabilities).exit_code == 1
    shown = pool.run(misbehave, "env", capabilities=capabilities).stdout.decode()
    assert sorted(shown.split()) == [f"{name}=my-{name}" for name in HARMLESS]
    refused = pool.run(misbehave, "disk", ".", capabilities=capabilities)
    assert b"refused to create" in refused.stderr
    assert os.listdir(project) == ["notes.txt"]
