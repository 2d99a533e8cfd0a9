"""What the documents and examples show works as it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wasm_sandbox

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))
GUESTS = ROOT / "examples" / "guests"

# A program, with the comment above it that would say why it cannot be run here.
PROGRAM = re.compile(
    r"(?P<reason><!-- not run: .+? -->\n+)?^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SESSION = re.compile(r"^```console\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
OPENING = re.compile(r"^```python\b.*$", re.MULTILINE)


def programs(document: Path) -> Iterator[tuple[str, str]]:
    """The programs of a document, each with the place where it stands as its name."""
    text = document.read_text()
    for program in PROGRAM.finditer(text):
        line = text.count("\n", 0, program.start("code")) + 1
        if not program["reason"]:
            # Blank lines in front, so that a traceback shows the line of the document.
            code = "\n" * (line - 1) + program["code"]
            yield f"{document.relative_to(ROOT)}:{line}", code


def commands(document: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """The lines of a document that call ``wasm-sandbox``, each with the output shown below it."""
    for session in SESSION.finditer(document.read_text()):
        for command in re.split(r"^\$ ", session["lines"], flags=re.MULTILINE)[1:]:
            line, _, shown = command.partition("\n")
            if line.startswith("wasm-sandbox "):
                yield f"{document.relative_to(ROOT)}: {line}", (line, shown)


COMMANDS = dict(command for document in DOCUMENTS for command in commands(document))
PROGRAMS = dict(program for document in DOCUMENTS for program in programs(document))


def run(path: Path, folder: Path) -> None:
    """Runs a program as a user would: a process of its own, in a folder that holds the guests."""
    for guest in [*GUESTS.glob("*.wasm"), *GUESTS.glob("*.wat")]:
        shutil.copy(guest, folder)
    environment = {**os.environ, "PYTHONPATH": str(Path(wasm_sandbox.__path__[0]).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", PROGRAMS)
def test_every_program_in_the_documents_runs(place: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAMS[place])
    run(path, tmp_path)


@pytest.mark.timeout(900)  # one of them makes every attack, each behind one wall after the other
@pytest.mark.parametrize("place", COMMANDS)
def test_every_command_line_in_the_documents_runs_and_prints_what_is_shown(place: str) -> None:
    command, shown = COMMANDS[place]
    done = subprocess.run(
        [sys.executable, "-m", "wasm_sandbox", *shlex.split(command)[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(wasm_sandbox.__path__[0]).parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown or not shown


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs(example: Path, tmp_path: Path) -> None:
    run(example, tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_block_is_written_so_that_it_can_be_found(document: Path) -> None:
    text = document.read_text()
    assert len(OPENING.findall(text)) == len(PROGRAM.findall(text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (document.parent / target).exists(), target
