"""The public face, end to end: real workers behind every promise that a user reads."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guest_commands
import guests
import pytest

import wasm_sandbox
from wasm_sandbox import (
    BadResult,
    Capabilities,
    ConfigurationError,
    DeadlineExceeded,
    Environment,
    Filesystem,
    GuestExit,
    InvalidModule,
    Limits,
    MemoryLimitExceeded,
    MissingExport,
    MissingImport,
    OutOfFuel,
    OutputLimitExceeded,
    Pool,
    Random,
    SandboxError,
    SignatureMismatch,
    Trap,
)
from wasm_sandbox.values import Returns

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "guests"
ADD = guests.add().encode()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(2, cache_dir=cache) as pool:
        yield pool


# -- the package --------------------------------------------------------------------------------


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in wasm_sandbox.__all__:
        value = getattr(wasm_sandbox, name)
        assert name in dir(wasm_sandbox)
        if name != "__version__":
            assert inspect.getdoc(value), name


def test_the_type_checkers_see_every_public_name() -> None:
    source = Path(wasm_sandbox.__file__).read_text()
    seen = source.partition("if TYPE_CHECKING:")[2].partition("__all__")[0]
    for name in wasm_sandbox.__all__:
        assert f" {name}," in seen or f" {name}\n" in seen or f" {name}:" in seen, name


def test_there_is_nothing_but_the_public_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pole'"):
        wasm_sandbox.pole  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_every_error_is_in_the_public_tree() -> None:
    from wasm_sandbox.protocol import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, SandboxError):
            assert name in wasm_sandbox.__all__
            assert getattr(wasm_sandbox, name).__module__ == "wasm_sandbox"


def test_importing_the_package_loads_neither_event_loop_nor_engine() -> None:
    program = (
        "import sys, wasm_sandbox; print({'trio', 'wasmtime', 'msgspec'} & set(sys.modules) or '')"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert loaded.stdout == "\n", loaded.stderr


def test_the_face_never_loads_the_engine() -> None:
    program = (
        "import sys, wasm_sandbox; [getattr(wasm_sandbox, n) for n in wasm_sandbox.__all__];"
        "print('wasmtime' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert loaded.stdout == "False\n", loaded.stderr


# -- values -------------------------------------------------------------------------------------


def test_the_first_program_of_the_readme(pool: Pool) -> None:
    calc = pool.load(EXAMPLES / "calc.wasm")
    add = calc["add"]
    assert add(5, 3) == 8
    future = pool.submit(add, 5, 3)
    assert future.result() == 8
    assert list(pool.map(add, range(4), range(4))) == [0, 2, 4, 6]
    assert future.receipt.attempts == 1
    assert future.receipt.worker is not None


def test_all_types_of_values_cross(pool: Pool) -> None:
    module = pool.load(guests.all_values().encode())
    values = (-1, 2**63 - 1, 0.5, -1e300, bytes(range(16)))
    assert module["all"](*values) == values
    assert module["i32"](2**32 - 1) == -1
    assert module["i64"](2**64 - 1) == -1
    assert module["v128"](1) == (1).to_bytes(16, "little")


def test_several_results_are_a_tuple_and_none_is_none(pool: Pool) -> None:
    assert pool.load(guests.swap().encode())["swap"](1, 2) == (2, 1)
    assert pool.load(guests.many_results(100).encode())["count"]() == tuple(range(100))


def test_references_are_refused_when_the_function_is_asked_for(pool: Pool) -> None:
    module = pool.load(guests.references().encode())
    with pytest.raises(SignatureMismatch, match="references"):
        module["is_null"]


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 3_000_000])
def test_buffers_of_all_sizes_cross(pool: Pool, size: int) -> None:
    module = pool.load(guests.buffers().encode())
    content = os.urandom(size)
    assert module["echo"].options(returns=bytes)(content) == content
    assert module["pair"].options(returns=bytes)(memoryview(content)) == content
    assert module["length"](bytearray(content)) == size


def test_text_and_json_cross(pool: Pool) -> None:
    text = pool.load(EXAMPLES / "text.wasm")
    assert text["greet"].options(returns=str)("Wörld") == "Hello, Wörld!"
    assert text["json_sum"].options(returns="json")([1, 2, 3]) == {"count": 3, "sum": 6}


@pytest.mark.parametrize("lie", guests.LIES)
def test_a_lying_buffer_is_the_guests_fault(pool: Pool, lie: str) -> None:
    module = pool.load(guests.lying_buffers().encode())
    returns: Returns = "json" if lie == "not_json" else str
    with pytest.raises((BadResult, OutputLimitExceeded)):
        module[lie].options(returns=returns)()
    assert pool.load(ADD)["add"](1, 2) == 3


def test_a_guest_without_the_convention_is_refused(pool: Pool) -> None:
    with pytest.raises(MissingExport, match="alloc"):
        pool.load(ADD)["add"]("text")


def test_each_call_has_a_fresh_instance(pool: Pool) -> None:
    increment = pool.load(guests.counter().encode())["increment"]
    assert [increment() for _ in range(3)] == [1, 1, 1]
    assert list(pool.map(increment, *[[]])) == []


# -- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(guests.TRAPS))
def test_a_trap_says_what_and_where(pool: Pool, name: str) -> None:
    with pytest.raises(Trap) as trap:
        pool.load(guests.traps().encode())[name]()
    assert trap.value.receipt is not None
    assert trap.value.receipt.attempts == 1


BAD_MODULES: list[tuple[bytes, type[SandboxError]]] = [
    (b"", InvalidModule),
    (b"\0asm", InvalidModule),
    (b"\0asm\1\0\0\0\xff", InvalidModule),
    (b"(module", InvalidModule),
    (b"\xff\xfe", InvalidModule),
    (guests.missing_import().encode(), MissingImport),
]


@pytest.mark.parametrize(("source", "kind"), BAD_MODULES, ids=range(len(BAD_MODULES)))
def test_a_module_that_cannot_be_used_is_refused(
    pool: Pool, source: bytes, kind: type[SandboxError]
) -> None:
    def use() -> None:
        module = pool.load(source)
        module[next(iter(module))]()

    with pytest.raises(kind):
        use()


def test_fuel_runs_out_and_is_counted(pool: Pool) -> None:
    work = pool.load(guests.work().encode())["work"]
    value, receipt = work.options(fuel=1_000_000).detailed(100)
    assert value == 100
    assert receipt.fuel is not None
    assert 100 < receipt.fuel < 10_000
    with pytest.raises(OutOfFuel) as refusal:
        work.options(fuel=100)(1000)
    assert refusal.value.limit == "fuel"


def test_a_deadline_ends_a_loop(pool: Pool) -> None:
    spin = pool.load(guests.loop().encode())["spin"]
    for limited in (
        spin.options(timeout=0.1),
        spin.options(limits=Limits(wall_time=0.1)),
    ):
        with pytest.raises(DeadlineExceeded) as refusal:
            limited()
        assert isinstance(refusal.value, TimeoutError)
        assert refusal.value.receipt is not None
    assert pool.load(ADD)["add"](1, 2) == 3


def test_memory_is_limited(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        huge = pool.load(guests.huge_minimum_memory(64).encode())
        run = huge[next(iter(huge))].options(limits=Limits(memory=1 << 20))
        with pytest.raises(MemoryLimitExceeded):
            run(*[0] * len(run.type.params))


def test_cancelling_stops_the_guest_whatever_it_does(pool: Pool) -> None:
    spinning = pool.submit(pool.load(guests.loop().encode())["spin"])
    sleeping = pool.submit(pool.load(guest_commands.sleeps().encode()).main)
    time.sleep(0.3)
    assert spinning.cancel()
    assert sleeping.cancel()
    add = pool.load(ADD)["add"]
    assert [pool.submit(add, 1, n).result() for n in range(4)] == [1, 2, 3, 4]


def test_tenants_and_capabilities_have_workers_of_their_own(pool: Pool) -> None:
    add = pool.load(ADD)["add"]
    _, mine = add.options(tenant="a").detailed(1, 2)
    _, yours = add.options(tenant="b").detailed(1, 2)
    assert mine.worker != yours.worker


# -- commands -----------------------------------------------------------------------------------


def test_a_command_is_run_like_a_program(pool: Pool) -> None:
    words = pool.load(EXAMPLES / "wordcount.wasm")
    done = pool.run(words, stdin=b"one two two\n")
    assert done.exit_code == 0
    assert b"two" in done.stdout
    assert done.stderr == b""
    assert pool.submit(words.main.options(stdin=b"x"), "-").result().exit_code == 0


@pytest.mark.parametrize("code", [0, 1, 125, 126, 255, 256, 2**32 - 1])
def test_every_exit_code_comes_back(pool: Pool, code: int) -> None:
    app = pool.load(guest_commands.exits(code).encode())
    assert pool.run(app).exit_code == code
    if code:
        with pytest.raises(GuestExit) as refusal:
            pool.run(app, check=True)
        assert refusal.value.code == code


def test_a_command_reads_what_it_is_given(pool: Pool, tmp_path: Path) -> None:
    app = pool.load(guest_commands.reads_stdin().encode())
    assert pool.run(app).exit_code == 0
    assert pool.run(app, stdin=b"abc").exit_code == 3
    assert pool.run(app, stdin=bytes(200_000)).exit_code == 200_000
    (tmp_path / "input").write_bytes(bytes(1000))
    with (tmp_path / "input").open("rb") as file:
        assert pool.run(app, stdin=file).exit_code == 1000


def test_output_comes_as_it_is_written(pool: Pool) -> None:
    pieces: list[tuple[int, bytes]] = []
    app = pool.load(guest_commands.hello().encode())
    done = pool.run(app, on_output=lambda *piece: pieces.append(piece))
    assert pieces == [(1, b"hello\n")]
    assert done.stdout == b""
    assert pool.run(app).stdout == b"hello\n"


def test_what_an_output_function_raises_stops_the_command(pool: Pool) -> None:
    def refuse(_: int, __: bytes) -> None:
        raise BrokenPipeError

    app = pool.load(guest_commands.floods().encode())
    with pytest.raises(BrokenPipeError):
        pool.run(app, on_output=refuse, limits=Limits(output=1 << 30))


def test_output_is_limited(pool: Pool) -> None:
    app = pool.load(guest_commands.floods().encode())
    with pytest.raises(OutputLimitExceeded):
        pool.run(app, limits=Limits(output=10_000))


def test_a_command_sees_the_files_and_variables_it_was_granted(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 7)
    words = pool.load(EXAMPLES / "wordcount.wasm")
    granted = Capabilities(filesystem=Filesystem.read_only(tmp_path, at="/data"))
    assert b"word" in pool.run(words, "/data/a.txt", capabilities=granted).stdout
    assert pool.run(words, "/data/a.txt").exit_code != 0


def test_environment_capabilities_reach_a_command(pool: Pool) -> None:
    granted = Capabilities(environment=Environment.set({"A": "1"}))
    app = pool.load(EXAMPLES / "misbehave.wasm")
    assert b"A=1" in pool.run(app, "env", capabilities=granted).stdout
    assert b"B=2" in pool.run(app, "env", env={"B": "2"}).stdout
    assert b"=" not in pool.run(app, "env").stdout


def test_environment_capabilities_reach_a_library(pool: Pool) -> None:
    count = pool.load(
        b'(module (import "wasi_snapshot_preview1" "environ_sizes_get"'
        b' (func $sizes (param i32 i32) (result i32))) (memory (export "memory") 1)'
        b' (func (export "count") (result i32)'
        b" (drop (call $sizes (i32.const 0) (i32.const 4))) (i32.load (i32.const 0))))"
    )["count"]
    assert count() == 0
    granted = Capabilities(environment=Environment.set({"A": "1", "B": "2"}))
    assert count.options(capabilities=granted)() == 2


def test_the_same_seed_gives_the_same_bytes(pool: Pool) -> None:
    random = pool.load(guest_commands.time_and_random().encode())["random"]
    seeded = random.options(capabilities=Capabilities(random=Random.seeded(7)))
    assert seeded() == seeded()
    assert random() != random()


def test_a_reactor_is_initialised(pool: Pool) -> None:
    assert pool.load(guest_commands.reactor().encode())["value"]() == 42


# -- one call, one pool -------------------------------------------------------------------------


def test_one_call_needs_one_line(cache: Path) -> None:
    assert wasm_sandbox.call(EXAMPLES / "calc.wasm", "add", 5, 3, cache_dir=cache) == 8
    text = EXAMPLES / "text.wasm"
    assert wasm_sandbox.call(text, "greet", "you", returns=str, cache_dir=cache) == "Hello, you!"
    with pytest.raises(ConfigurationError):
        wasm_sandbox.call(ADD, "add", 1, 2, timeuot=1, cache_dir=cache)


def test_one_run_needs_one_line(cache: Path) -> None:
    app = guest_commands.copies_stdin().encode()
    assert wasm_sandbox.run(app, stdin=b"x", cache_dir=cache).stdout == b"x"
    with pytest.raises(GuestExit):
        wasm_sandbox.run(guest_commands.exits(3).encode(), check=True, cache_dir=cache)


# -- what the pool knows of itself --------------------------------------------------------------


def test_the_pool_tells_its_walls_and_workers(pool: Pool) -> None:
    fields = {row.field: row for row in pool.enforcement()}
    for name in Limits.__struct_fields__:
        assert f"limits.{name}" in fields
    assert fields["limits.memory"].walls
    assert 1 <= len(pool.workers()) <= 2


def test_workers_can_be_watched(cache: Path) -> None:
    """As often as one likes: what is read is kept open, once for each worker."""
    with Pool(1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        assert add(1, 2) == 3
        (before,) = pool.workers()
        now = before
        opened = len(os.listdir("/proc/self/fd"))
        used = before.cpu_time
        assert used is not None
        assert before.memory is not None
        assert before.memory > 1 << 20
        for number in range(300):
            assert add(number, 1) == number + 1
            (now,) = pool.workers()
            assert now.cpu_time is not None
            assert now.cpu_time >= used
            used = now.cpu_time
        assert used != before.cpu_time
        assert (now.number, now.calls) == (before.number, before.calls + 300)
        assert len(os.listdir("/proc/self/fd")) == opened


def test_events_come_as_data(cache: Path) -> None:
    events: list[Any] = []
    with Pool(1, cache_dir=cache, on_event=events.append) as pool:
        pool.load(ADD)["add"](1, 2)
    kinds = {type(event).__name__ for event in events}
    assert {"WorkerStarted", "WorkerReady", "WorkerDied"} <= kinds
