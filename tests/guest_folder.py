"""A folder of guests to call, for tests that name this file in ``pytest_plugins``."""

from __future__ import annotations

from pathlib import Path

import guest_commands
import guests
import pytest
from command_lines import EXAMPLES, Run, with_cache

from wasm_sandbox.cli.main import main


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of guests, with the cache that the tests share."""
    folder = tmp_path_factory.mktemp("guests")
    for name, text in {
        "add": guests.add(),
        "loop": guests.loop(),
        "traps": guests.traps(),
        "values": guests.all_values(),
        "missing": guests.missing_import(),
        "exits": guest_commands.exits(300),
        "hello": guest_commands.hello(),
        "stdin": guest_commands.copies_stdin(),
        "sleeps": guest_commands.sleeps(),
        "floods": guest_commands.floods(),
        "traps_late": guest_commands.command_traps(),
    }.items():
        (folder / f"{name}.wat").write_text(text)
    (folder / "text.txt").write_text("hello")
    (folder / "cut.wasm").write_bytes((EXAMPLES / "text.wasm").read_bytes()[:100])
    return folder


@pytest.fixture
def here_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Runs a command line in this very process, which is quicker."""
    monkeypatch.chdir(here)

    def run_here(*arguments: str) -> tuple[int, str, str]:
        code = main(with_cache(here, arguments))
        out, err = capsysbinary.readouterr()
        return code, out.decode(), err.decode()

    return run_here
