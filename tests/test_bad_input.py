"""Whatever is handed in, the answer is an error that says what is wrong, and the pool serves on.

All tests of this file share one pool: what breaks it breaks the tests after it.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import guest_commands
import guests
import hostile
import pytest

from wasm_sandbox import (
    ArgumentOutOfRange,
    Capabilities,
    Clock,
    CompilationLimit,
    ConfigurationError,
    Environment,
    Filesystem,
    InvalidModule,
    Isolation,
    Limits,
    MemoryLimitExceeded,
    MissingExport,
    MissingImport,
    ModuleError,
    Network,
    Pool,
    Random,
    Recycle,
    RestartPolicy,
    SandboxError,
    SignatureMismatch,
    TableLimitExceeded,
    Trap,
    UnsupportedModule,
)
from wasm_sandbox.protocol.capabilities import MAX_DIRECTORIES, Grant

ADD = guests.add().encode()
COMPILING = Limits(compile_time=20, compile_memory=1 << 30, module_size=1 << 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache, limits=COMPILING) as pool:
        yield pool


@pytest.fixture
def pool(shared: Pool) -> Iterator[Pool]:
    """The pool; after each test it must still serve."""
    yield shared
    assert shared.load(ADD)["add"](20, 22) == 42


def each(name: str, *values: Any) -> list[tuple[str, Any]]:
    """``name`` with each of ``values``."""
    return [(name, value) for value in values]


def said(error: SandboxError, *, hint: bool = False) -> None:
    """The message is for people: not empty, not endless, without control characters."""
    text = str(error)
    assert 10 < len(text) < 4000
    assert all(character.isprintable() or character in "\n\t" for character in text), text
    assert bool(error.hint) or not hint, f"no hint: {text}"


# -- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", hostile.MALFORMED)
def test_what_is_no_module_is_refused(pool: Pool, what: str) -> None:
    with pytest.raises(ModuleError) as caught:
        pool.load(hostile.MALFORMED[what])
    assert type(caught.value) in (InvalidModule, UnsupportedModule)
    said(caught.value)


@pytest.mark.parametrize("cut", range(12))
def test_a_truncated_module_is_refused(pool: Pool, cut: int) -> None:
    parts = hostile.truncated(hostile.functions(hostile.body(b"\x41\x01\x1a" * 40)), 12)
    with pytest.raises(InvalidModule) as caught:
        pool.load(parts[cut % len(parts)])
    said(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_refused(pool: Pool, seed: int) -> None:
    for source in (hostile.random_bytes(seed), hostile.random_module(seed)):
        with pytest.raises(InvalidModule) as caught:
            pool.load(source)
        said(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_are_refused_or_harmless(pool: Pool, seed: int) -> None:
    whole = hostile.functions(hostile.body(b"\x41\x01\x1a" * 20))
    try:
        module = pool.load(hostile.flipped(whole, seed))
        for name in module:
            module[name].options(timeout=5)()
    except SandboxError as error:
        said(error)


@pytest.mark.parametrize(
    "text",
    [
        "(module",
        "(module))",
        "(module (func (export",
        "(modul)",
        "hello",
        '(module (func (export "f") (i32.add)))',
        "(module (func (result i32)))",
        "(module \0)",
        "(module \x1b[2J\x1b]0;owned\x07)",
        "(module \u202e)",
        "(module (import",
        "(" * 10_000,
        "(module " + "(" * 2000,
    ],
    ids=lambda text: ascii(text)[1:21],
)
def test_text_that_is_no_module_is_refused(pool: Pool, text: str) -> None:
    with pytest.raises(InvalidModule) as caught:
        pool.load(text.encode())
    said(caught.value)


@pytest.mark.parametrize(
    "source",
    [b"(component)", b"\0asm\x0d\0\1\0", b"(component (core module))"],
    ids=["text", "binary", "nested"],
)
def test_an_empty_component_is_one(pool: Pool, source: bytes) -> None:
    module = pool.load(source)
    assert module.wit == "world component {\n}"
    with pytest.raises(MissingExport) as caught:
        module["add"]
    said(caught.value, hint=True)


@pytest.mark.parametrize(
    "source",
    [
        b'(component (import "m" (core module)))',
        b'(component (import "c" (component)))',
        b'(component (import "f" (func (param "a" (stream u8)))))',
    ],
    ids=["core module", "component", "stream"],
)
def test_a_component_of_another_kind_is_refused_as_such(pool: Pool, source: bytes) -> None:
    with pytest.raises(UnsupportedModule, match=r"(?i)component") as caught:
        pool.load(source)
    said(caught.value, hint=True)


def test_the_empty_module_is_a_module(pool: Pool) -> None:
    module = pool.load(hostile.EMPTY)
    assert list(module) == []
    with pytest.raises(MissingExport, match="no functions"):
        module["run"]


def needs(*names: str) -> bytes:
    """A module that imports a function under each name and exports ``run``."""
    imports = (hostile.name(name) * 2 + b"\0\0" for name in names)
    return hostile.module(
        hostile.section(hostile.TYPE, hostile.vector(hostile.NOTHING)),
        hostile.section(hostile.IMPORT, hostile.vector(*imports)),
        hostile.section(hostile.FUNCTION, hostile.vector(b"\0")),
        hostile.section(
            hostile.EXPORT,
            hostile.vector(hostile.name("run") + b"\0" + hostile.leb(len(names))),
        ),
        hostile.section(hostile.CODE, hostile.vector(hostile.body(b""))),
    )


@pytest.mark.parametrize(
    "names",
    [
        tuple(f"f{number}" for number in range(1000)),
        ("n" * 9000,),
        ("\x1b[2J\x1b]0;owned\x07\r\n\u202egnp.exe",),
        ("",),
    ],
    ids=["many", "long", "escapes", "empty"],
)
def test_missing_imports_are_named_in_few_and_clean_words(
    pool: Pool, names: tuple[str, ...]
) -> None:
    with pytest.raises(MissingImport) as caught:
        pool.load(needs(*names))["run"]()
    said(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        *(hostile.many_types, lambda: hostile.many_imports(20_000), hostile.long_names),
        *(hostile.terminal_names, hostile.wide_tables),
    ],
    ids=["types", "imports", "long names", "terminal names", "tables"],
)
def test_what_is_absurd_is_refused_in_few_words_or_loaded(
    pool: Pool, make: Callable[[], bytes]
) -> None:
    """There is nothing in these to call: loading them must be harmless, however it ends."""
    try:
        assert list(pool.load(make())) == []
    except (ModuleError, TableLimitExceeded) as error:
        said(error)


@pytest.mark.parametrize(
    "source",
    [
        *(hostile.custom_section(900_000), hostile.many_custom_sections(20_000)),
        *(hostile.name_section_bomb(20_000), hostile.long_names(what=hostile.EXPORT)),
    ],
    ids=["ballast", "many custom sections", "name section", "long export"],
)
def test_what_is_only_ugly_is_loaded(pool: Pool, source: bytes) -> None:
    module = pool.load(source)
    assert all(module[name]() is None for name in module)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_module_above_module_size_is_not_read(pool: Pool, tmp_path: Path, size: int) -> None:
    source = ADD + b" " * (COMPILING.module_size - len(ADD) + size)
    file = tmp_path / "large.wat"
    file.write_bytes(source)
    for given in (source, bytearray(source), memoryview(source), file, str(file)):
        with pytest.raises(CompilationLimit, match="module_size") as caught:
            pool.load(given)
        assert caught.value.limit == "module_size"
        said(caught.value, hint=True)
    assert pool.load(source[: COMPILING.module_size])["add"](1, 2) == 3


# -- files ----------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"(?i)no such file") as caught:
        pool.load(tmp_path / "missing.wasm")
    assert caught.value.field == "source"
    said(caught.value)


def test_a_directory_is_no_module(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"(?i)directory|regular file") as caught:
        pool.load(tmp_path)
    said(caught.value)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may read every file: for the test, be somebody else."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_file_that_may_not_be_read(pool: Pool, tmp_path: Path, nobody: None) -> None:
    file = next(path for path in map(Path, ("/proc/1/environ", "/etc/shadow")) if path.exists())
    with pytest.raises(ConfigurationError, match=r"(?i)permission") as caught:
        pool.load(file)
    said(caught.value)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem"])
def test_a_special_file_is_no_module(pool: Pool, device: str) -> None:
    with pytest.raises(SandboxError) as caught:
        pool.load(device)
    assert type(caught.value) in (ConfigurationError, InvalidModule)
    said(caught.value)


def test_a_named_pipe_does_not_block(pool: Pool, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wasm"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="regular file"):
        pool.load(pipe)


@pytest.mark.parametrize(
    "source",
    ["", "a\0b.wasm", "x" * 5000, guests.add(), 7, None, 1.5, ["calc.wasm"], object()],
    ids=["empty", "NUL", "long", "text as str", "int", "None", "float", "list", "object"],
)
def test_what_is_no_path(pool: Pool, source: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pool.load(source)
    assert caught.value.field == "source"
    said(caught.value, hint=source == guests.add())


@pytest.mark.parametrize("suffix", [".c", ".py", ".rs", ".go"])
def test_source_code_is_refused_with_a_remedy(pool: Pool, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"guest{suffix}"
    file.write_text("int main() {}")
    with pytest.raises(ConfigurationError) as caught:
        pool.load(file)
    said(caught.value, hint=True)


# -- arguments ------------------------------------------------------------------------------------

VALUES = guests.all_values().encode()
WRONG: list[tuple[str, Any]] = [
    *each("i32", 1.0, True, None, [], {}, object(), 1j),
    *each("i64", 1.0, False, None, b"\1"),
    *each("f32", "1", None, True, [1.0], b""),
    *each("f64", "1", None, False, 1j),
    *each("v128", 1.0, "x", b"15 bytes are few", b"", bytes(15), bytes(17)),
]
OUTSIDE: list[tuple[str, Any]] = [
    *each("i32", 2**32, -(2**31) - 1, 10**30, -(10**30)),
    *each("i64", 2**64, -(2**63) - 1, 1 << 5000),
    *each("v128", 2**128, -(2**127) - 1),
    *each("f64", 10**400),
]


def _label(value: object) -> str:
    return repr(value)[:24] if type(value) is not object else "object"


@pytest.mark.parametrize(("kind", "value"), WRONG, ids=_label)
def test_arguments_of_a_wrong_type_are_refused(pool: Pool, kind: str, value: Any) -> None:
    if kind == "v128" and isinstance(value, bytes) and len(value) == 16:
        assert pool.load(VALUES)[kind](value) == value
        return
    with pytest.raises(SignatureMismatch) as caught:
        pool.load(VALUES)[kind](value)
    assert isinstance(caught.value, TypeError)
    said(caught.value)


@pytest.mark.parametrize(("kind", "value"), OUTSIDE, ids=_label)
def test_numbers_out_of_range_are_refused(pool: Pool, kind: str, value: Any) -> None:
    with pytest.raises(ArgumentOutOfRange) as caught:
        pool.load(VALUES)[kind](value)
    assert isinstance(caught.value, OverflowError)
    said(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308])
def test_every_float_is_a_float(pool: Pool, value: float) -> None:
    returned = pool.load(VALUES)["f64"](value)
    assert repr(returned) == repr(value)


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, 3), (1, 2, 3, 4, 5, 6)])
def test_a_wrong_number_of_arguments_is_refused(pool: Pool, arguments: tuple[int, ...]) -> None:
    with pytest.raises(SignatureMismatch, match="2") as caught:
        pool.load(ADD)["add"](*arguments)
    said(caught.value)
    refused = pool.submit(pool.load(ADD)["add"], *arguments)
    assert type(refused.exception()) is SignatureMismatch


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, [1]])
def test_buffers_need_a_module_that_takes_them(pool: Pool, value: Any) -> None:
    with pytest.raises(MissingExport, match=r"f cannot take argument 1.*alloc") as caught:
        pool.load(b'(module (func (export "f") (param i32 i32)))')["f"](value)
    assert type(value).__name__ in str(caught.value)
    said(caught.value, hint=True)


@pytest.mark.parametrize("value", [{1: object()}, {"a": math.nan}, {"a": 1j}, "\ud800"])
def test_values_that_cannot_be_encoded_are_refused(pool: Pool, value: Any) -> None:
    with pytest.raises(SignatureMismatch) as caught:
        pool.load(guests.buffers().encode())["length"](value)
    said(caught.value)


def test_a_value_that_holds_itself_is_refused(pool: Pool) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SignatureMismatch):
        pool.load(guests.buffers().encode())["length"](endless)


@pytest.mark.parametrize("argument", ["a\0b", b"a\0b", 7, None, "\ud800\udfff"])
def test_arguments_of_commands_that_cannot_be_passed(pool: Pool, argument: Any) -> None:
    with pytest.raises(SignatureMismatch) as caught:
        pool.run(pool.load(guest_commands.hello().encode()), argument)
    said(caught.value)


@pytest.mark.parametrize("given", [print, 7, None, "add", lambda: None])
def test_what_is_no_function_of_a_module_is_refused(pool: Pool, given: Any) -> None:
    with pytest.raises(TypeError, match="Function"):
        pool.submit(given)


# -- exports, imports, start ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "ad", "ADD", "add\0", "memory", 7, None])
def test_an_export_that_is_missing(pool: Pool, name: Any) -> None:
    module = pool.load(ADD)
    with pytest.raises(MissingExport) as caught:
        module[name]
    assert isinstance(caught.value, KeyError)
    said(caught.value, hint=True)


def test_an_export_that_is_no_function(pool: Pool) -> None:
    with pytest.raises(MissingExport, match="memory") as caught:
        pool.load(guests.no_functions().encode())["memory"]
    said(caught.value, hint=True)


def test_a_module_that_is_no_command(pool: Pool) -> None:
    with pytest.raises(MissingExport, match="_start") as caught:
        pool.run(pool.load(ADD))
    said(caught.value, hint=True)


@pytest.mark.parametrize(
    "text",
    [guests.missing_import(), guests.unknown_wasi_import(), guests.imported_memory()],
    ids=["function", "WASI", "memory"],
)
def test_an_import_that_nobody_gives(pool: Pool, text: str) -> None:
    with pytest.raises(MissingImport) as caught:
        pool.load(text.encode())["run"]()
    said(caught.value)


def test_an_import_of_another_type_is_no_missing_one(pool: Pool) -> None:
    module = pool.load(
        b'(module (import "wasi_snapshot_preview1" "fd_close" (func (param i64)))'
        b' (func (export "run")))'
    )
    with pytest.raises(SignatureMismatch, match=r"fd_close as a function \(i64\)") as caught:
        module["run"]()
    assert "it is a function (i32) -> (i32)" in str(caught.value)
    said(caught.value, hint=True)


def test_a_start_function_that_traps(pool: Pool) -> None:
    module = pool.load(guests.start_traps().encode())
    for _ in range(3):
        with pytest.raises(Trap) as caught:
            module["run"]()
        assert caught.value.code == "unreachable"
        assert caught.value.receipt is not None
        said(caught.value)


CODES = {
    "divide_by_zero": "integer_division_by_zero",
    "overflow": "integer_overflow",
    "bad_conversion": "bad_conversion_to_integer",
}
"""Codes of traps that are not the names of the exports that trap."""


@pytest.mark.parametrize("export", guests.TRAPS)
def test_each_trap_has_its_code(pool: Pool, export: str) -> None:
    with pytest.raises(Trap) as caught:
        pool.load(guests.traps().encode())[export]()
    assert caught.value.code == CODES.get(export, export)
    said(caught.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (guests.huge_minimum_memory(), MemoryLimitExceeded),
        (guests.huge_minimum_table(), TableLimitExceeded),
    ],
    ids=["memory", "table"],
)
def test_what_is_larger_than_its_limit_from_the_start(
    pool: Pool, text: str, error: type[SandboxError]
) -> None:
    with pytest.raises(error) as caught:
        pool.load(text.encode())["run"]()
    said(caught.value)


# -- compile bombs --------------------------------------------------------------------------------

TIME_BOMBS: dict[str, Callable[[], bytes]] = {
    "nested blocks": lambda: hostile.nested_blocks(300_000),
    "long function": lambda: hostile.long_function(1_000_000),
    "wide v128 locals": lambda: hostile.wide_locals(1000),
    "wide i64 locals": lambda: hostile.wide_locals(20_000, kind=hostile.I64),
    "many functions": lambda: hostile.many_functions(200_000),
    "many blocks": lambda: hostile.many_blocks(100_000),
    "branch ladder": lambda: hostile.branch_ladder(100_000, 1000),
    "many calls": lambda: hostile.many_calls(300_000),
    "loops over locals": lambda: hostile.loops_over_locals(10_000, 1000),
    "several at once": lambda: hostile.loops_over_locals(4_000, 500, copies=100),
}
MEMORY_BOMBS: dict[str, Callable[[], bytes]] = {
    "nested blocks": lambda: hostile.nested_blocks(1_000_000),
    "long function": lambda: hostile.long_function(3_000_000),
    "many functions": lambda: hostile.many_functions(300_000),
    "branch ladder": lambda: hostile.branch_ladder(60_000, 1000),
    "many calls": lambda: hostile.many_calls(400_000),
    "loops over locals": lambda: hostile.loops_over_locals(10_000, 1000),
    "several at once": lambda: hostile.loops_over_locals(5_000, 1000, copies=8),
}


@pytest.fixture(scope="module")
def impatient(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache, limits=Limits(compile_time=0.15)) as pool:
        yield pool


@pytest.fixture(scope="module")
def frugal(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache, limits=Limits(compile_memory=32 << 20)) as pool:
        yield pool


@pytest.mark.parametrize("what", TIME_BOMBS)
def test_a_bomb_for_the_compilers_time_is_stopped(impatient: Pool, shared: Pool, what: str) -> None:
    with pytest.raises(CompilationLimit) as caught:
        impatient.load(TIME_BOMBS[what]())
    assert caught.value.limit == "compile_time"
    assert caught.value.certificate is not None
    assert caught.value.certificate.cause == "deadline"
    assert caught.value.certificate.age < 3
    said(caught.value, hint=True)
    assert shared.load(ADD)["add"](1, 2) == 3


@pytest.mark.parametrize("what", MEMORY_BOMBS)
def test_a_bomb_for_the_compilers_memory_is_stopped(frugal: Pool, shared: Pool, what: str) -> None:
    with pytest.raises(CompilationLimit) as caught:
        frugal.load(MEMORY_BOMBS[what]())
    assert caught.value.limit == "compile_memory"
    assert caught.value.certificate is not None
    said(caught.value, hint=True)
    assert shared.load(ADD)["add"](1, 2) == 3


def test_a_refused_bomb_holds_up_nobody(impatient: Pool) -> None:
    bomb = TIME_BOMBS["wide i64 locals"]()
    failed: list[SandboxError] = []

    def load() -> None:
        try:
            impatient.load(bomb)
        except SandboxError as error:
            failed.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in failed] == [CompilationLimit] * 3


# -- policies -------------------------------------------------------------------------------------

WHOLE = [
    *("memory", "table_elements", "stack", "open_files", "file_size", "disk", "connections"),
    *("processes", "output", "io_read", "io_write", "compile_memory", "module_size"),
]
SECONDS = ["wall_time", "cpu_time", "idle_time", "compile_time", "cpu_fraction"]


@pytest.mark.parametrize("field", [*WHOLE, *SECONDS, "fuel"])
@pytest.mark.parametrize("value", [-1, True, "1", math.nan, math.inf, -math.inf, 10**60, [], b"1"])
def test_limits_refuse_what_is_no_sensible_number(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{field: value})
    assert caught.value.field == f"limits.{field}"
    said(caught.value)


@pytest.mark.parametrize("field", WHOLE)
def test_sizes_are_whole_numbers(field: str) -> None:
    with pytest.raises(ConfigurationError, match="whole"):
        Limits(**{field: 1e6})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [*WHOLE, *SECONDS])
def test_only_fuel_may_be_none(field: str) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**{field: None})  # type: ignore[arg-type]
    assert Limits(fuel=None).fuel is None


@pytest.mark.parametrize("field", SECONDS)
def test_times_are_above_zero(field: str) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**{field: 0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Filesystem.read_only("/nowhere/at/all"),
        lambda: Filesystem.read_only("/etc/hostname/"),
        lambda: Filesystem.read_only("/", "/tmp", at="/x"),
        lambda: Filesystem.read_only("/", at=""),
        lambda: Filesystem.read_only("/", at="/a\0b"),
        lambda: Filesystem.read_only("a\0b"),
        lambda: Filesystem.read_only("/", at="/x") | Filesystem.read_only("/tmp", at="/x"),
        lambda: Filesystem.read_write("/", max_file_size=-1),
        lambda: Filesystem.read_write("/", max_file_size=cast("int", 1.5)),
        lambda: Filesystem.read_write("/tmp", allow_create=cast("bool", 1)),
        lambda: Filesystem.read_write("/tmp", allow_delete=cast("bool", None)),
        lambda: Capabilities(filesystem=Filesystem((Grant("/tmp", "/tmp", create=True),))),
        lambda: Capabilities(filesystem=Filesystem((Grant("/", "/"),) * (MAX_DIRECTORIES + 1))),
        *(Network.hosts, Network.ports),
        lambda: Clock.frozen(-1),
        lambda: Clock.frozen(math.nan),
        lambda: Clock.frozen(math.inf),
        lambda: Clock.frozen(1e20),
        lambda: Random.seeded(-1),
        lambda: Random.seeded(1 << 64),
    ],
)
def test_capabilities_refuse_what_cannot_be_granted(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.field.startswith("capabilities.")
    said(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        *(partial(Random.seeded, cast("int", value)) for value in (True, 1.5, "7", None)),
        *(partial(Clock.frozen, cast("float", value)) for value in (True, "0", None)),
        lambda: Environment.set({"A": cast("str", 7)}),
        lambda: Environment.set({"A=B": "x"}),
        lambda: Environment.set({"A": "x\0y"}),
        lambda: Environment.allow(cast("str", 7)),
        lambda: Capabilities(stdio=cast("bool", "yes")),
        lambda: Capabilities(filesystem=cast("Filesystem", "/tmp")),
        lambda: Capabilities(environment=cast("Environment", None)),
        lambda: Capabilities(random=cast("Random", Clock())),
    ],
)
def test_capabilities_refuse_values_of_a_wrong_type(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.field.startswith("capabilities.")


OPTIONS: list[tuple[str, Any]] = [
    *each("timeout", -1, 0, math.nan, math.inf, True, "1", []),
    *each("fuel", -1, 1.5, True, "1", 1 << 63),
    *each("limits", None, {}, 7, Capabilities()),
    *each("capabilities", None, {}, "minimal", Limits()),
    *each("tenant", "", "x" * 201, 7, b"a"),
    *each("retries", -1, 101, 1.0, True, None),
    *each("returns", int, "str", 7, dict),
    *each("instance", "kept", 7),
    *((name, b"") for name in ("stdin", "env", "argv0", "on_output")),
    *(("timeouts", 1), ("memory", 1), ("", 1)),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS, ids=_label)
def test_options_refuse_what_cannot_be_used(pool: Pool, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pool.load(ADD)["add"].options(**{name: value})
    assert caught.value.field == name or caught.value.field.startswith(f"options.{name}")
    said(caught.value)


COMMAND_OPTIONS: list[tuple[str, Any]] = [
    *each("stdin", "text", -1, 1 << 40, True, 1.5, object()),
    *each("env", [], "A=B", {"": "x"}, {"A=": "x"}, {"A": 7}, {7: "x"}),
    *each("env", {"A": "x\0"}, {"A\0": "x"}),
    *each("argv0", 7, b"x", "a\0b"),
    *each("on_output", 7, "print"),
]


@pytest.mark.parametrize(("name", "value"), COMMAND_OPTIONS, ids=_label)
def test_options_of_commands_refuse_what_cannot_be_used(pool: Pool, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pool.load(guest_commands.hello().encode()).main.options(**{name: value})
    assert caught.value.field.startswith(f"options.{name}")
    said(caught.value)


@pytest.mark.parametrize(
    "keywords",
    [
        *({"workers": value} for value in (0, -1, 1.5, True, "2", 10_000)),
        *({"max_pending": value} for value in (0, -1, None, math.inf)),
        {"runtime": "wasmer"},
        {"when_full": "drop"},
        *({"isolation": value} for value in ("none", None, frozenset({"engine"}))),
        *[{"limits": None}, {"limits": {}}, {"limits": 7}],
        *[{"capabilities": None}, {"capabilities": {}}],
        *({"restart": 7}, {"recycle": None}, {"cache_dir": 7}, {"on_event": "print"}),
    ],
    ids=_label,
)
def test_a_pool_refuses_what_cannot_be_used(keywords: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Pool(**keywords)
    assert caught.value.field == next(iter(keywords))
    said(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RestartPolicy(intensity=-1),
        lambda: Recycle(max_calls=-1),
        lambda: Recycle(max_calls=True),
        lambda: Isolation(require=frozenset({"moat"})),
    ],
)
def test_policies_refuse_what_cannot_be_used(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    said(caught.value)
