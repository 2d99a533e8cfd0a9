"""WASI preview 1: what a command is given, what it may write, how it ends. Nothing is given
unasked."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from engine_support import LIMITS, MIB, Bench, bench, number
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from suites import WasiCase, suites_path, wasi_cases

from wasm_sandbox.protocol.capabilities import Grant
from wasm_sandbox.worker.engines.interface import (
    CallLimits,
    CommandResult,
    EngineRefusal,
    GuestTrap,
    LoadedModule,
    RunSettings,
    Wasi,
)

FORCED = "forced by a test"
PAGE = 65536

P1 = '(import "wasi_snapshot_preview1"'
# write(fd, at, size) -> errno; the iovec is at 0.
WRITE = f"""{P1} "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  {P1} "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 4)
  (func $write (param $fd i32) (param $at i32) (param $size i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))"""


@pytest.fixture(scope="module", params=["raw", "public"])
def fault(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "raw" else FORCED


@pytest.fixture(scope="module")
def stage(fault: str) -> Bench:
    return bench(fault=fault, guarded=True)


@dataclass
class Output:
    """Collects what a guest writes, up to ``room`` bytes."""

    room: int = 1 << 40
    written: dict[int, bytes] = field(default_factory=lambda: {1: b"", 2: b""})
    refused: int = 0

    def __call__(self, stream: int, data: bytes) -> bool:
        if len(data) > self.room:
            self.refused += 1
            return False
        self.room -= len(data)
        self.written[stream] += data
        return True


def exits(stage: Bench, code: int) -> CommandResult:
    module = stage.load(
        f"""(module {P1} "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
          (func (export "_start") (call $exit (i32.const {code})) unreachable))"""
    )
    return module.run_command(Wasi(), LIMITS)


@pytest.mark.parametrize("code", [0, 1, 42, 125, 126, 127, 255, 256, 300, 0x7FFFFFFF, 0xFFFFFFFF])
def test_every_exit_code_survives(stage: Bench, code: int) -> None:
    assert exits(stage, code).exit_code == code


def test_an_exit_does_not_haunt_the_next_call(stage: Bench) -> None:
    assert exits(stage, 7).exit_code == 7
    trapping = stage.load('(module (func (export "f") unreachable) (func (export "_start")))')
    with pytest.raises(GuestTrap):
        trapping.call("f", b"", LIMITS)
    assert trapping.run_command(Wasi(), LIMITS).exit_code == 0


def test_a_command_needs_no_wasi(stage: Bench) -> None:
    module = stage.load('(module (memory (export "memory") 2) (func (export "_start")))')
    ended = module.run_command(Wasi(), LIMITS)
    assert (ended.exit_code, ended.measured.memory) == (0, 2 * PAGE)


@pytest.mark.parametrize(
    "source", ["", '(func (export "_start") (param i32))', '(memory (export "_start") 1)']
)
def test_what_is_no_command_is_refused(stage: Bench, source: str) -> None:
    with pytest.raises(EngineRefusal, match="no command") as refusal:
        stage.load(f"(module {source})").run_command(Wasi(), LIMITS)
    assert refusal.value.kind == "missing_export"


def test_a_trap_ends_a_command(stage: Bench) -> None:
    module = stage.load('(module (func (export "_start") unreachable))')
    with pytest.raises(GuestTrap, match="unreachable"):
        module.run_command(Wasi(), LIMITS)


def test_the_start_function_may_exit(stage: Bench) -> None:
    module = stage.load(
        f"""(module {P1} "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
          (func $s (call $exit (i32.const 9))) (start $s) (func (export "_start") unreachable))"""
    )
    assert module.run_command(Wasi(), LIMITS).exit_code == 9


# --- output --------------------------------------------------------------------------------------

HELLO = f"""(module {WRITE}
  (data (i32.const 16) "out") (data (i32.const 20) "err")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 3)))
    (drop (call $write (i32.const 2) (i32.const 20) (i32.const 3)))))"""
# Exits with the error number of the first write that failed.
FLOOD = f"""(module {WRITE}
  (func (export "_start") (local $error i32)
    (loop $l
      (local.set $error (call $write (i32.const 1) (i32.const 16) (i32.const 5000)))
      (br_if $l (i32.eqz (local.get $error))))
    (call $exit (local.get $error))))"""


def test_stdout_and_stderr_are_told_apart(stage: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    output = Output()
    stage.load(HELLO).run_command(Wasi(on_output=output), LIMITS)
    assert output.written == {1: b"out", 2: b"err"}
    assert capfd.readouterr() == ("", "")


def test_output_that_nobody_asked_for_goes_nowhere(
    stage: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert stage.load(HELLO).run_command(Wasi(), LIMITS).exit_code == 0
    assert capfd.readouterr() == ("", "")


def test_a_refused_write_is_enospc_for_the_guest(stage: Bench) -> None:
    output = Output(room=100_000)
    ended = stage.load(FLOOD).run_command(Wasi(on_output=output), LIMITS)
    assert ended.exit_code == 51  # ENOSPC
    assert output.refused == 1
    assert 90_000 < len(output.written[1]) <= 100_000


def test_what_a_callback_raises_stops_the_guest(
    stage: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    class Expected(BaseException):
        pass

    def fail(_stream: int, _data: bytes) -> bool:
        raise Expected

    endless = f"""(module {WRITE}
      (func (export "_start") (loop $l
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1))) (br $l))))"""
    with pytest.raises(Expected):
        stage.load(endless).run_command(Wasi(on_output=fail), LIMITS)
    stage.engine.arm()
    assert capfd.readouterr() == ("", "")
    assert stage.load(HELLO).run_command(Wasi(on_output=Output()), LIMITS).exit_code == 0


def test_a_reactor_has_output_too(stage: Bench) -> None:
    module = stage.load(HELLO.replace("_start", "say"))
    output = Output()
    module.call("say", b"", LIMITS, Wasi(on_output=output))
    assert output.written[1] == b"out"


# --- argv, env, stdin ----------------------------------------------------------------------------

ECHO_ARGS = f"""(module
  {P1} "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  {P1} "args_get" (func $get (param i32 i32) (result i32)))
  {WRITE}
  (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $get (i32.const 100) (i32.const 4096)))
    (drop (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))))"""
ECHO_ENV = ECHO_ARGS.replace("args_", "environ_")
# Copies stdin to stdout, then exits with the count of reads.
CAT = f"""(module {P1} "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  {WRITE}
  (func (export "_start")
    (loop $l
      (i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const 60000))
      (if (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40))
        (then (call $exit (i32.const 99))))
      (drop (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 40))))
      (br_if $l (i32.load (i32.const 40))))))"""


def output_of(module: LoadedModule, wasi: Wasi) -> bytes:
    output = Output()
    given = Wasi(
        argv=wasi.argv,
        env=wasi.env,
        stdin=wasi.stdin,
        directories=wasi.directories,
        on_output=output,
    )
    assert module.run_command(given, LIMITS).exit_code == 0
    return output.written[1]


def test_argv_and_env_are_what_was_given_and_nothing_else(
    stage: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    args, env = stage.load(ECHO_ARGS), stage.load(ECHO_ENV)
    assert output_of(args, Wasi()) == b""
    assert output_of(env, Wasi()) == b""
    assert output_of(args, Wasi(argv=["é".encode(), b"", b"b c"])) == "é\0\0b c\0".encode()
    assert output_of(env, Wasi(env=[(b"A", b"1=2"), (b"B", b"")])) == b"A=1=2\0B=\0"


@pytest.mark.parametrize(
    "wasi",
    [
        Wasi(argv=[b"a\0b"]),
        Wasi(env=[(b"a\0", b"b")]),
        Wasi(env=[(b"a", b"\0")]),
        Wasi(argv=[b"\xff"]),
        Wasi(directories=[Grant("/tmp\0x", "/")]),
    ],
)
def test_strings_that_would_be_cut_are_refused(stage: Bench, wasi: Wasi) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        stage.load(ECHO_ARGS).run_command(wasi, LIMITS)
    assert refusal.value.kind == "signature"


@pytest.mark.parametrize("size", [0, 1, 59_999, 60_000, 5 * MIB])
def test_stdin_comes_from_bytes(stage: Bench, size: int) -> None:
    data = os.urandom(size)
    assert output_of(stage.load(CAT), Wasi(stdin=data)) == data


def test_stdin_comes_from_a_descriptor(stage: Bench) -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"through a pipe")
        os.close(write)
        assert output_of(stage.load(CAT), Wasi(stdin=f"/dev/fd/{read}")) == b"through a pipe"
    finally:
        os.close(read)


def test_stdin_is_empty_unless_given(stage: Bench) -> None:
    assert output_of(stage.load(CAT), Wasi()) == b""


def test_a_missing_stdin_is_refused(stage: Bench) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        stage.load(CAT).run_command(Wasi(stdin="/nowhere/at/all"), LIMITS)
    assert refusal.value.kind == "capability_denied"


# --- directories ---------------------------------------------------------------------------------

# Opens "file" below descriptor 3 for reading, or creates "new"; exits with the error number.
OPEN = f"""(module {P1} "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  {WRITE}
  (data (i32.const 64) "file") (data (i32.const 80) "new") (data (i32.const 96) "../outside")
  (func (export "_start")
    (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const AT) (i32.const SIZE)
      (i32.const FLAGS) (i64.const RIGHTS) (i64.const 0) (i32.const 0) (i32.const 128)))))"""
READ, CREATE = (64, 4, 0, 2), (80, 3, 1, 64)
ESCAPE = (96, 10, 0, 2)


def read_write(path: str, at: str) -> Grant:
    return Grant(path, at, writable=True, create=True, delete=True)


def opened(stage: Bench, how: tuple[int, int, int, int], *directories: Grant) -> int:
    source = OPEN
    for name, value in zip(("AT", "SIZE", "FLAGS", "RIGHTS"), how, strict=True):
        source = source.replace(name, str(value))
    module = stage.load(source)
    try:
        return module.run_command(Wasi(directories=directories), LIMITS).exit_code
    finally:
        module.close()


@pytest.fixture
def tree(tmp_path: Path) -> str:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "file").write_text("x")
    (tmp_path / "outside").write_text("secret")
    return str(tmp_path / "box")


def test_directories_are_read_only_unless_granted_otherwise(stage: Bench, tree: str) -> None:
    assert opened(stage, READ, Grant(tree, "/box")) == 0
    assert opened(stage, CREATE, Grant(tree, "/box")) == 63  # EPERM
    assert sorted(os.listdir(tree)) == ["file"]
    assert opened(stage, CREATE, read_write(tree, "/box")) == 0
    assert sorted(os.listdir(tree)) == ["file", "new"]


@pytest.mark.parametrize("writable", [False, True])
def test_a_path_cannot_leave_its_directory(stage: Bench, tree: str, writable: bool) -> None:
    grant = read_write(tree, "/box") if writable else Grant(tree, "/box")
    assert opened(stage, ESCAPE, grant) == 63


def test_without_a_grant_there_is_no_directory(stage: Bench) -> None:
    assert opened(stage, READ) == 8  # EBADF


def test_a_directory_that_is_not_there_is_refused(stage: Bench, tmp_path: Path) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        opened(stage, READ, Grant(str(tmp_path / "nowhere"), "/box"))
    assert refusal.value.kind == "capability_denied"


def test_no_descriptor_is_left_behind(stage: Bench, tree: str) -> None:
    opened(stage, READ, Grant(tree, "/box"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        opened(stage, READ, Grant(tree, "/box"))
        with pytest.raises(EngineRefusal):
            opened(stage, READ, Grant(tree, "/box"), Grant(tree + "/nowhere", "/"))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before + 10  # of 60 openings


# --- clock and random ----------------------------------------------------------------------------

CLOCK = f"""(module {P1} "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "now") (param $clock i32) (param $at i32) (result i32 i64)
    (call $time (local.get $clock) (i64.const 0) (local.get $at))
    (i64.load (i32.const 8))))"""
RANDOM = f"""(module {P1} "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "draw") (param $at i32) (param $size i32) (result i32 i64 i64)
    (call $random (local.get $at) (local.get $size))
    (i64.load (i32.const 8)) (i64.load (i32.const 16))))"""


def word(value: int) -> bytes:
    return value.to_bytes(16, "little")


def test_a_frozen_clock_stands_still(fault: str) -> None:
    module = bench(RunSettings(clock=("frozen", 1234.5)), fault).load(CLOCK)
    for clock in range(4):
        answer = module.call("now", word(clock) + word(8), LIMITS).slots
        assert (number(answer), number(answer, 1, 8)) == (0, 1_234_500_000_000)
    assert number(module.call("now", word(9) + word(8), LIMITS).slots) == 28  # EINVAL
    assert number(module.call("now", word(0) + word(PAGE - 7), LIMITS).slots) == 21  # EFAULT
    assert number(module.call("now", word(0) + word(0xFFFFFFFF), LIMITS).slots) == 21


def test_the_real_clock_moves(stage: Bench) -> None:
    module = stage.load(CLOCK)
    answer = module.call("now", word(0) + word(8), LIMITS).slots
    assert number(answer, 1, 8) > 1_600_000_000 * 10**9


def test_seeded_random_numbers_are_the_same_for_every_call(fault: str) -> None:
    draws: list[bytes] = []
    for seed in (1, 1, 2):
        module = bench(RunSettings(random=("seeded", seed)), fault).load(RANDOM)
        answers = {module.call("draw", word(8) + word(16), LIMITS).slots[16:] for _ in range(3)}
        assert len(answers) == 1
        draws.append(answers.pop())
        assert number(module.call("draw", word(PAGE - 1) + word(2), LIMITS).slots) == 21  # EFAULT
        assert number(module.call("draw", word(0) + word(1 << 31), LIMITS).slots) == 28  # EINVAL
    assert draws[0] == draws[1] != draws[2]


def test_no_random_numbers_is_an_error_for_the_guest(fault: str) -> None:
    module = bench(RunSettings(random=("none", 0)), fault).load(RANDOM)
    answer = module.call("draw", word(8) + word(16), LIMITS).slots
    assert (number(answer), number(answer, 1, 8)) == (58, 0)  # ENOTSUP


def test_secure_random_numbers_differ(stage: Bench) -> None:
    module = stage.load(RANDOM)
    assert len({module.call("draw", word(8) + word(16), LIMITS).slots[16:] for _ in range(5)}) == 5


# --- the official suite --------------------------------------------------------------------------


def _cases() -> Iterator[WasiCase]:
    folder = suites_path()
    if folder is not None:
        yield from wasi_cases(folder)


@pytest.mark.suite
@pytest.mark.parametrize("case", list(_cases()), ids=str)
def test_the_wasi_suite_passes(stage: Bench, case: WasiCase, tmp_path: Path) -> None:
    root = case.copy_root(tmp_path)
    output = Output()
    ended = stage.load(case.wasm.read_bytes()).run_command(
        Wasi(
            argv=case.argv,
            env=case.env,
            stdin=case.stdin,
            directories=[read_write(str(root), "/")] if root else [],
            on_output=output,
        ),
        CallLimits(memory=64 * MIB, table_elements=10_000),
    )
    assert ended.exit_code == case.exit_code
    assert case.stdout is None or output.written[1] == case.stdout
