"""The check of what is left behind sees all that is ours, and nothing of a run beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import leftovers
import pytest

from wasm_sandbox.supervisor.cgroups.discovery import PROC
from wasm_sandbox.supervisor.cgroups.owners import pool_name

OURS = {os.getpid()}


@contextmanager
def holder(path: Path, how: str) -> Iterator[int]:
    """A process that has the file open, or mapped."""
    program = f"""
import mmap, sys
file = open({str(path)!r}, "r+b")
if {how!r} == "mapped":
    there = mmap.mmap(file.fileno(), 1)
    file.close()
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_what_a_living_process_beside_us_holds_is_its_own(tmp_path: Path, how: str) -> None:
    path = tmp_path / "psm_0123"
    path.write_bytes(b"x")
    with holder(path, how) as pid:
        assert leftovers.anothers(str(path), OURS)
        assert not leftovers.anothers(str(path), OURS | {pid})
    assert not leftovers.anothers(str(path), OURS)


def test_a_directory_is_whose_its_name_says_as_long_as_he_lives() -> None:
    name = pool_name(PROC, "wasm-sandbox-scratch")
    assert not leftovers.anothers(name, OURS)
    parts = name.split(".")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        parts[2] = str(process.pid)
        assert leftovers.anothers(".".join(parts), OURS)
        assert not leftovers.anothers(".".join(parts), OURS | {process.pid})
        process.communicate(b"\n")
    assert not leftovers.anothers(".".join(parts), OURS)  # dead: it may have been ours


def test_what_nobody_holds_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(leftovers, "PATIENCE", 0)
    for name in ("pymp-0123", pool_name(PROC, "wasm-sandbox-scratch")):
        with (
            pytest.raises(AssertionError, match=f"left behind:\nfile {tmp_path}"),
            leftovers.nothing_left(),
        ):
            (tmp_path / name).mkdir()
