"""Components for the tests, built from ``examples/guests/components`` by other people's tools."""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copy, copytree

from ecosystem.real_modules import (
    CACHE,
    Package,
    digest_of,
    install_with_npm,
    kept,
    run_command,
    with_npm,
    with_pip,
)

SOURCES = Path(__file__).resolve().parents[2] / "examples" / "guests" / "components"

COMPONENTIZE_PY = Package(
    client=with_pip,
    name="componentize-py",
    version="0.25.1",
    sha256="8623cd8cab8453cb0cd8bf03f3c7103420d06f2f3d360186a280a70a1ca5e89f",
)
JCO = Package(
    client=with_npm,
    name="@bytecodealliance/jco",
    version="1.35.0",
    sha256="893e80e993a2cb3735e195a0c2dc3ab7d683877a813bb024a27499ee86e12b13",
)
"""Its folder ``lib/wit`` holds the WIT of WASI."""
WASI = "0.2.12"


def _python(tool: Path, world: str, wit: Path, program: str, target: Path) -> None:
    code = "from componentize_py import script; script()"
    run_command(
        *(sys.executable, "-c", code, "-d", str(wit), "-w", world),
        *("componentize", program, "-p", str(SOURCES), "-o", str(target)),
        env={"PYTHONPATH": str(tool), "PATH": "/usr/bin:/bin"},
    )


def python_geometry() -> Path:
    """``geometry.py``, by componentize-py."""
    tool = COMPONENTIZE_PY.folder()
    build = partial(_python, tool, "geometry", SOURCES / "geometry.wit", "geometry")
    return _built("geometry-py", COMPONENTIZE_PY.version, "geometry.py", build)


def python_till() -> Path:
    """``till.py``, which calls an interface of the program, by componentize-py."""
    tool = COMPONENTIZE_PY.folder()
    build = partial(_python, tool, "till", SOURCES / "till.wit", "till")
    return _built("till-py", COMPONENTIZE_PY.version, "till.py", build)


def python_words() -> Path:
    """``words.py``, a command, by componentize-py."""
    tool, interfaces = COMPONENTIZE_PY.folder(), JCO.folder() / "package" / "lib" / "wit"

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            wit = Path(folder) / "wit"
            copytree(interfaces / "builtin" / WASI, wit / "deps")
            (wit / "words.wit").write_text(
                f"package examples:words;\nworld words {{ include wasi:cli/command@{WASI}; }}\n"
            )
            _python(tool, "words", wit, "words", target)

    return _built("words-py", COMPONENTIZE_PY.version, "words.py", build)


def python_talk() -> Path:
    """``talk.py``, which uses the network, by componentize-py."""
    tool, interfaces = COMPONENTIZE_PY.folder(), JCO.folder() / "package" / "lib" / "wit"

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            wit = Path(folder) / "wit"
            copytree(interfaces / "builtin" / WASI, wit / "deps")
            copy(SOURCES / "talk.wit", wit)
            _python(tool, "talk", wit, "talk", target)

    return _built("talk-py", COMPONENTIZE_PY.version, "talk.py", build)


def quickjs(program: str) -> Path:
    """A program in JavaScript, by componentize-qjs, which jco has as a backend."""
    version = "0.4.5"
    tool = install_with_npm("componentize-qjs", version)

    def build(target: Path) -> None:
        run_command(
            *(str(tool / ".bin" / "componentize-qjs"), "--wit", str(SOURCES / f"{program}.wit")),
            *("--js", str(SOURCES / f"{program}.js"), "--world", program, "-o", str(target)),
        )

    return _built(f"{program}-qjs", version, f"{program}.js", build)


def starlingmonkey(world: str) -> Path:
    """A program in JavaScript, by ComponentizeJS, which is jco's own backend."""
    version = "0.23.0"
    tool = install_with_npm("@bytecodealliance/componentize-js", version)

    def build(target: Path) -> None:
        script = tool / "build.mjs"
        script.write_text(
            "import { componentize } from '@bytecodealliance/componentize-js';\n"
            "import { readFile, writeFile } from 'node:fs/promises';\n"
            "const [source, witPath, worldName, out] = process.argv.slice(2);\n"
            "const made = await componentize(await readFile(source, 'utf8'), "
            "{ witPath, worldName });\n"
            "await writeFile(out, made.component);\n"
        )
        sources = (str(SOURCES / f"{world}.js"), str(SOURCES / f"{world}.wit"))
        run_command("node", str(script), *sources, world, str(target))

    return _built(f"{world}-js", version, f"{world}.js", build)


def _built(name: str, version: str, source: str, build: Callable[[Path], None]) -> Path:
    digest = digest_of(SOURCES / source)
    return kept(f"{name}-{version}-{digest}.wasm", build)
