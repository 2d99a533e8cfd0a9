"""Calling the command line in a folder of guests (``guest_folder`` makes one)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import wasm_sandbox

Run = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "guests"
ENVIRONMENT = {"PYTHONPATH": str(Path(wasm_sandbox.__path__[0]).parent)}
CALC, TEXT, WORDS = (str(EXAMPLES / name) for name in ("calc.wat", "text.wasm", "wordcount.wasm"))


def with_cache(here: Path, arguments: tuple[str, ...]) -> list[str]:
    command, *rest = arguments
    cache = ["--cache-dir", str(here / "cache")] if command in ("call", "run", "inspect") else []
    return [command, *cache, *rest]


def start(
    here: Path,
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    session: bool = False,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "wasm_sandbox", *with_cache(here, arguments)],
        cwd=here,
        env={**os.environ, **ENVIRONMENT},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        start_new_session=session,
    )


def run(here: Path, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    with start(here, *arguments, stdin=subprocess.PIPE) as process:
        out, err = process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()
