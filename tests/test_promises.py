"""docs/promises.md names every promise, and every proof that it names exists."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import wasm_sandbox

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = Path(wasm_sandbox.__path__[0]).parent
ROW = re.compile(r"^\| (\d+) \|(?P<cells>.*)\|$", re.MULTILINE)
TEST = re.compile(r"(?P<path>tests/[\w/]+\.py)::(?P<name>[\w:]+)(?P<parameters>\[.*\])?")
MEASUREMENT = re.compile(r"wasm_sandbox/bench/\w+\.py")
UNIT = r"(?:[µm]?s|[KMG]i?B(?:/s)?|times|calls/s|calls a second)(?!\w)|%"
FIGURE = re.compile(rf"(?<![\w.])\d[\d.,]*(?: to \d[\d.,]*)? ?(?:{UNIT})")


class Promise(NamedTuple):
    number: int
    cells: list[str]

    @property
    def proof(self) -> str:
        return self.cells[-1]


PROMISES = [
    Promise(int(row[1]), [cell.strip() for cell in row["cells"].split("|")])
    for row in ROW.finditer((ROOT / "docs" / "promises.md").read_text())
]


def names_of_tests(path: Path) -> set[str]:
    """The pytest names, within the file, of all test functions and methods of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for function in inner:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + function.name)
    return {name for name in found if name.rpartition("::")[2].startswith("test")}


def test_every_promise_has_its_row_once_and_in_order() -> None:
    assert [promise.number for promise in PROMISES] == list(range(1, 51))


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: str(promise.number))
def test_a_promise_says_from_whom_what_in_which_form_and_by_what_proof(promise: Promise) -> None:
    assert len(promise.cells) == 4
    assert all(promise.cells)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: str(promise.number))
def test_every_proof_exists(promise: Promise) -> None:
    proofs = re.findall(r"`([^`]+)`", promise.proof)
    assert proofs or promise.proof == "not yet"
    for proof in proofs:
        if test := TEST.fullmatch(proof):
            assert test["name"] in names_of_tests(ROOT / test["path"]), f"there is no test {proof}"
        else:
            assert MEASUREMENT.fullmatch(proof), f"neither a test nor a benchmark: {proof}"
            assert (PACKAGES / proof).is_file(), f"there is no benchmark {proof}"


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: str(promise.number))
def test_every_measurement_comes_with_its_figure_and_unit(promise: Promise) -> None:
    for clause in promise.proof.split("; "):
        for proof in filter(MEASUREMENT.fullmatch, re.findall(r"`([^`]+)`", clause)):
            figures = clause.replace(f"`{proof}`", "")
            assert FIGURE.search(figures), f"{proof} is named without a figure and its unit"


@pytest.mark.parametrize(
    "text",
    ["after 13 ms", "278 to 358 µs", "0.08 %", "1.5 GB/s", "2.0 times", "9,000 calls a second"],
)
def test_a_figure_is_a_number_with_a_unit(text: str) -> None:
    assert FIGURE.search(text)


@pytest.mark.parametrize("text", ["in 2 runs", "with 32 workers", "v2 ms", "quick", "10 messages"])
def test_a_number_without_a_unit_is_no_figure(text: str) -> None:
    assert not FIGURE.search(text)
