"""What is installed is what the checkout shows, and the parts keep to their arrows."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest

import wasm_sandbox
from wasm_sandbox.supervisor import spawn

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("fuzz", "protocol", "supervisor", "worker")

# The arrows: what each part may import of the package. The face and fuzz may import all of it.
ARROWS = {
    "protocol": {"protocol"},
    "worker": {"protocol", "worker"},
    "supervisor": {"protocol", "supervisor"},
}

IN_CHECKOUT = all((ROOT / part).is_dir() for part in PARTS)
needs_checkout = pytest.mark.skipif(not IN_CHECKOUT, reason="needs the sources, not the wheel")
needs_wheel = pytest.mark.skipif(IN_CHECKOUT, reason="needs the wheel, not the sources")


def tables() -> dict[str, Any]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)


def setuptools_table() -> tuple[list[str], dict[str, str]]:
    table = tables()["tool"]["setuptools"]
    return table["packages"], table["package-dir"]


def folders_with_code() -> Iterator[str]:
    """Every folder of the checkout that belongs to the package, by its dotted name."""
    for folder, folders, names in os.walk(ROOT / "wasm_sandbox", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        if any(name.endswith(".py") for name in names):
            yield Path(folder).relative_to(ROOT).as_posix().replace("/", ".")


def modules(*parts: str) -> Iterator[tuple[Path, ast.Module]]:
    for part in parts:
        for path in sorted((ROOT / part).rglob("*.py")):
            yield path, ast.parse(path.read_text(), path)


def imports_of_the_package(path: Path, tree: ast.Module) -> Iterator[str]:
    """Which parts of the package a module imports, relatively or not; "" is the package itself."""
    package = ["wasm_sandbox", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = [*base, *([node.module] if node.module else [])]
            names = [".".join([*source, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "wasm_sandbox":
                yield rest[0] if rest else ""


def absolute_imports(tree: ast.Module) -> Iterator[str]:
    """The names of the packages that a module imports absolutely."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@needs_checkout
def test_every_folder_with_code_is_in_the_list_of_packages() -> None:
    packages, _ = setuptools_table()
    assert sorted(packages) == sorted(folders_with_code())


@needs_checkout
def test_pyright_is_shown_every_part() -> None:
    shown = set(tables()["tool"]["pyright"]["include"])
    assert shown >= {f"wasm_sandbox/{part}" for part in PARTS}


@needs_checkout
def test_every_package_has_an_init_file_that_says_what_it_is_for() -> None:
    packages, _ = setuptools_table()
    for package in packages:
        path = ROOT / package.replace(".", "/") / "__init__.py"
        assert ast.get_docstring(ast.parse(path.read_text())), path


@needs_checkout
@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_mapped_and_linked(part: str) -> None:
    _, package_dir = setuptools_table()
    assert package_dir[f"wasm_sandbox.{part}"] == part
    assert (ROOT / "wasm_sandbox" / part).readlink() == Path("..") / part


@needs_checkout
def test_nothing_else_is_mapped_or_linked() -> None:
    _, package_dir = setuptools_table()
    linked = {path.name for path in (ROOT / "wasm_sandbox").iterdir() if path.is_symlink()}
    assert linked == set(PARTS)
    assert set(package_dir) == {"wasm_sandbox"} | {f"wasm_sandbox.{part}" for part in PARTS}


@needs_checkout
def test_no_part_is_imported_by_its_bare_name() -> None:
    for path, tree in modules("wasm_sandbox", *PARTS, "tests", "examples", "benchmarks"):
        assert not set(PARTS) & set(absolute_imports(tree)), path


@needs_checkout
@pytest.mark.parametrize("part", ARROWS)
def test_a_part_imports_no_part_above_or_beside_it(part: str) -> None:
    for path, tree in modules(part):
        assert set(imports_of_the_package(path, tree)) <= ARROWS[part], path


@needs_checkout
def test_the_protocol_depends_on_msgspec_alone() -> None:
    for path, tree in modules("protocol"):
        foreign = set(absolute_imports(tree)) - sys.stdlib_module_names
        assert foreign <= {"msgspec"}, path


@needs_checkout
def test_every_requirement_is_pinned_in_the_constraints() -> None:
    project = tables()["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "a line is not name==version"
    pinned = {name.lower().replace("_", "-") for name, _ in pins}
    for wanted in (project["dependencies"], *project["optional-dependencies"].values()):
        assert {requirement.partition(">=")[0].lower() for requirement in wanted} <= pinned


@pytest.mark.parametrize("package", setuptools_table()[0])
def test_every_package_can_be_imported(package: str) -> None:
    importlib.import_module(package)


def test_the_package_carries_its_types() -> None:
    assert (Path(wasm_sandbox.__path__[0]) / "py.typed").is_file()


@pytest.mark.parametrize(
    "what", ["wasm_sandbox", "wasm_sandbox.pool", "wasm_sandbox.cli.call", "wasm_sandbox.cli.run"]
)
def test_importing_the_package_loads_neither_trio_nor_an_engine(what: str) -> None:
    """A pool imports trio when its zygote has been started, and comes up meanwhile."""
    program = f"import sys, {what}; print({{'trio', 'wasmtime'}} & set(sys.modules))"
    environment = {"PYTHONPATH": str(Path(wasm_sandbox.__path__[0]).parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


def test_a_zygote_loads_nothing_of_the_supervisors_nor_what_is_slow() -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({spawn.OPTIONAL!r}))
import wasm_sandbox.supervisor.spawned, wasm_sandbox.worker.zygote, wasm_sandbox.worker.entry
wasm_sandbox.worker.entry.warm_up()
slow = "dill._dill email hashlib importlib.metadata tempfile trio".split()
print(set(slow) & set(sys.modules))
"""
    environment = {"PYTHONPATH": str(Path(wasm_sandbox.__path__[0]).parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


def installed() -> Distribution:
    try:
        return distribution("wasm-sandbox")
    except ModuleNotFoundError:
        pytest.skip("wasm-sandbox is not installed; the sources are used as they are")


def test_the_command_is_installed() -> None:
    (command,) = installed().entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("wasm-sandbox", "wasm_sandbox.cli:start")
    assert callable(command.load())


@needs_wheel
def test_no_part_is_installed_under_its_bare_name() -> None:
    tops = {file.parts[0] for file in installed().files or ()}
    assert "wasm_sandbox" in tops
    assert not tops & set(PARTS)
