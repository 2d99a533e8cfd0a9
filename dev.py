"""The developer's commands, from one file that needs only Python 3.11 or newer and pip.

Every command first makes the virtual environment `.venv` fit: it creates it where it is missing,
installs the project and what the command needs, and does nothing when that was done before.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (here pip has not yet kept older ones away)
    found = "{}.{} ({})".format(*sys.version_info[:2], sys.executable)
    sys.exit("dev.py needs Python 3.11 or newer; this is Python " + found)

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints.txt"
VENV = ROOT / ".venv"
STAMP = "wasm-sandbox-installed.json"
UNFINISHED = "wasm-sandbox-unfinished"

WHEEL_TESTS = [
    f"tests/test_{name}.py"
    for name in (
        *("packaging", "lifecycle", "cache", "jail", "cgroups", "sealed", "plugins"),
        *("face", "face_trio", "cli", "cli_errors", "doctor", "example_guests", "streams"),
        *("components", "component_guests", "instances", "host_functions", "suites", "fuzz"),
    )
]
"""Files and processes of every kind: the whole suite has run from the sources, and the wheel is
checked to hold the same files."""

NO_ENVIRONMENT = """\
No virtual environment could be made with {python}.
It can neither give it a pip (its `ensurepip` is missing) nor lend its own (22.3 or newer).
Install one of them (Debian and Ubuntu: `apt install python3-venv`) and run this again."""


class Failed(Exception):
    """A step failed and has already said why on the terminal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def environment(**more: str) -> dict[str, str]:
    """The caller's environment without what would lead another Python astray."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**ours, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}


def run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
    """Runs a command to its end; raises `Failed` unless it exits with 0."""
    sys.stdout.flush()
    status = subprocess.run([str(part) for part in command], cwd=cwd, env=env or environment())
    if status.returncode:
        raise Failed(status.returncode if status.returncode > 0 else 128 - status.returncode)


class Environment:
    """A virtual environment that is made, filled and healed on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._stamp = folder / STAMP
        self._unfinished = folder / UNFINISHED

    def create(self) -> None:
        """Makes the environment anew, with a pip of its own where Python can give it one."""
        if subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(self.folder)],
            env=environment(),
            capture_output=True,
        ).returncode:
            run(sys.executable, "-m", "venv", "--clear", "--without-pip", self.folder)

    def pip_install(self, *arguments: str | Path) -> None:
        """Installs with the environment's pip, which the Python that runs may have to lend."""
        if not self._answers("import pip"):
            lent = [sys.executable, "-m", "pip", "--python", str(self.python)]
            if subprocess.run([*lent, "install", "--quiet", "pip"], env=environment()).returncode:
                sys.exit(NO_ENVIRONMENT.format(python=sys.executable))
        pip = (self.python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS)
        run(*pip, *arguments)

    def have(self, extras: set[str]) -> None:
        """Makes sure that the project is installed, editable, with at least these extras."""
        with locked():
            state = self._state()
            if state["of"] == fingerprint() and extras <= set(state["extras"]) and self._works():
                return
            if self._unfinished.exists() or not self._works():
                print(f"Making the virtual environment {self.folder}", flush=True)
                self.create()
                state = {"of": "", "extras": []}
            extras = extras | set(state["extras"])
            # Some versions of pip refuse empty brackets.
            wanted = f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)
            print(f"Installing wasm-sandbox with: {', '.join(sorted(extras)) or 'no extras'}")
            # Only an interruption leaves this mark; the next run then starts from an empty folder.
            self._unfinished.touch()
            self._stamp.unlink(missing_ok=True)
            try:
                self.pip_install("--editable", wanted)
                self._stamp.write_text(json.dumps({"of": fingerprint(), "extras": sorted(extras)}))
            except Failed:
                self._unfinished.unlink()
                raise
            self._unfinished.unlink()

    def _answers(self, program: str) -> bool:
        try:
            done = subprocess.run(
                [str(self.python), "-c", program], env=environment(), capture_output=True
            )
        except OSError:
            return False
        return done.returncode == 0

    def _works(self) -> bool:
        return self._answers("import sys; sys.exit(sys.version_info < (3, 11))")

    def _state(self) -> dict[str, str | list[str]]:
        try:
            return {"of": "", "extras": [], **json.loads(self._stamp.read_text())}
        except (OSError, TypeError, ValueError):
            return {"of": "", "extras": []}


def fingerprint() -> str:
    """Changes when an installation made before no longer fits this checkout."""
    digest = hashlib.sha256(os.fsencode(ROOT))
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


@contextmanager
def locked() -> Generator[None, None, None]:
    """Two commands started at once do not install into one environment at the same time."""
    folder = os.open(ROOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def suites() -> dict[str, str]:
    """Where the WebAssembly test suites are, for tests that run away from the checkout."""
    beside = ROOT.parent / "shared" / "suites"
    return {"WASM_SANDBOX_SUITES": str(beside)} if beside.is_dir() else {}


OURS = Environment(VENV)


def become(*arguments: str) -> NoReturn:
    """Replaces this process, so that exit code and signals are the command's own."""
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execve(OURS.python, [str(OURS.python), *arguments], environment())


def run_all(*commands: tuple[str, ...]) -> None:
    """Runs every command in the environment, and fails in the end if any of them failed."""
    failures: list[Failed] = []
    for command in commands:
        try:
            run(OURS.python, *command)
        except Failed as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


def demo(arguments: list[str]) -> None:
    """Set up, and run a real program on a real file in the sandbox."""
    OURS.have(set())
    become(str(ROOT / "examples" / "demo.py"), *arguments)


def test(arguments: list[str]) -> None:
    """Set up, and run the tests (all but those marked ecosystem or slow)."""
    OURS.have({"test"})
    become("-m", "pytest", *arguments)


def ecosystem(arguments: list[str]) -> None:
    """Run real programs from package registries through a pool."""
    OURS.have({"test", "guests"})
    become("-m", "pytest", "-m", "ecosystem", *arguments)


def fuzz(arguments: list[str]) -> None:
    """Attack the supervisor with generated conversations; --short for a brief run."""
    OURS.have({"fuzz"})
    become("-m", "wasm_sandbox.fuzz", *arguments)


def bench(arguments: list[str]) -> None:
    """Measure our figures beside the peers'; --quick for a minute's run."""
    OURS.have({"bench"})
    become("-m", "wasm_sandbox", "bench", *arguments)


def security_table(arguments: list[str]) -> None:
    """Attack the walls in every situation at hand, and write the table of docs/security.md."""
    OURS.have({"test"})
    become(str(ROOT / "tests" / "security_table.py"), *arguments)


def lint(arguments: list[str]) -> None:
    """Check style and formatting with ruff."""
    OURS.have({"lint"})
    run_all(("-m", "ruff", "check", *arguments), ("-m", "ruff", "format", "--check", "--quiet"))


def format_(arguments: list[str]) -> None:
    """Apply ruff's safe corrections and its formatting."""
    OURS.have({"lint"})
    run_all(("-m", "ruff", "check", "--fix", "--quiet", *arguments), ("-m", "ruff", "format"))


def types(arguments: list[str]) -> None:
    """Check types with mypy and pyright; the library under the strict rules of both."""
    OURS.have({"lint", "test", "bench"})
    # Both read the links in wasm_sandbox/ and so are given no file names.
    run_all(("-m", "mypy", *arguments), ("-m", "pyright", *arguments))


def contracts(arguments: list[str]) -> None:
    """Check which part imports which, with import-linter."""
    OURS.have({"lint"})
    become("-c", "from importlinter.cli import lint_imports_command as c; c()", *arguments)


def wheel_test(arguments: list[str]) -> None:
    """Run tests against the built and installed wheel, out of reach of the sources: those of what
    needs its files to be where they belong, or what is given (`tests` for all)."""
    OURS.have({"package"})
    with tempfile.TemporaryDirectory(prefix="wasm-sandbox-wheel-") as name:
        temporary = Path(name)
        # From a copy without build/, because setuptools ships what an older build left there.
        source, packages = temporary / "source", temporary / "packages"
        left_out = shutil.ignore_patterns(
            ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info"
        )
        shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
        run(OURS.python, "-m", "build", "--outdir", packages, source)
        (wheel,) = packages.glob("*.whl")
        check_contents(wheel, source)

        clean = Environment(temporary / "venv")
        clean.create()
        clean.pip_install(f"{wheel}[test]")
        outside = temporary / "outside"
        for part in ("tests", "docs", "examples", "benchmarks"):
            shutil.copytree(source / part, outside / part)
        for path in (source / "pyproject.toml", source / "LICENSE", *source.glob("*.md")):
            shutil.copy2(path, outside)
        shutil.rmtree(source)
        where = "import wasm_sandbox; print('Testing what is in', wasm_sandbox.__path__[0])"
        run(clean.python, "-c", where, cwd=outside)
        pytest = (str(clean.python), "-m", "pytest", *(arguments or WHEEL_TESTS))
        run(*pytest, cwd=outside, env=environment(**suites()))


def check_contents(wheel: Path, source: Path) -> None:
    """Ends the command unless the wheel holds exactly the files of the package."""
    package = source / "wasm_sandbox"
    there = {
        (Path(folder) / name).relative_to(source).as_posix()
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if there != packed:
        sys.exit(
            f"The wheel lacks {sorted(there - packed)} and has {sorted(packed - there)} too many;"
            " see [tool.setuptools] in pyproject.toml."
        )
    print(f"{wheel.name}: {len(packed)} files, as in the sources")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__.strip("_").replace("_", "-"): command
    for command in (
        *(demo, test, lint, format_, types, contracts),
        *(wheel_test, ecosystem, fuzz, bench, security_table),
    )
}


def main(arguments: list[str]) -> int:
    """Runs the command named first; the others are handed to it."""
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: python3 dev.py COMMAND [ARGUMENT ...]\n")
        for name, command in COMMANDS.items():
            print(f"    {name:<15} {command.__doc__}")
        return 0 if arguments in ([], ["--help"], ["-h"]) else 2
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except Failed as failure:
        return failure.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
