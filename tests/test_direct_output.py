"""Output that passes the warden reaches the host in large pieces, and is otherwise as ever."""

from __future__ import annotations

import pytest
from engine_support import LIMITS, Bench, bench
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test

from wasm_sandbox.worker.engines.interface import CommandResult, GuestExit, GuestTrap, Wasi

EBADF, EPIPE, ENOSPC = 8, 64, 51
IMPORTS = """
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 20 20)
  (data (i32.const 0) "\\00\\04\\00\\00\\05\\00\\00\\00") (data (i32.const 1024) "hello")
  (func $say (param $fd i32) (result i32)
    (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16)))
  (func $check (param $error i32)
    (if (local.get $error) (then (call $exit (local.get $error)))))"""


@pytest.fixture(scope="module", params=["", "the public binding"])
def stage(request: pytest.FixtureRequest) -> Bench:
    return bench(fault=request.param, guarded=True)


class Heard(list[tuple[int, bytes]]):
    """What was written; ``answer`` is what the host says to it."""

    def __init__(self, answer: bool | BaseException = True) -> None:
        self._answer = answer

    def __call__(self, stream: int, data: bytes) -> bool:
        if isinstance(self._answer, BaseException):
            raise self._answer
        self.append((stream, data))
        return self._answer


def run(stage: Bench, body: str, heard: Heard, *, direct: bool = True) -> int:
    """The exit code of a guest that does this."""
    module = stage.load(f'(module {IMPORTS} (func (export "_start") {body}))')
    try:
        ended = module.run_command(Wasi(on_output=heard, direct=direct), LIMITS)
    except GuestExit as end:
        return end.code
    assert isinstance(ended, CommandResult)
    return ended.exit_code


def test_a_large_piece_comes_as_pieces_of_64_kib(stage: Bench) -> None:
    body = """(i32.store (i32.const 4) (i32.const 200000)) (call $check (call $say (i32.const 1)))
      (call $exit (i32.ne (i32.load (i32.const 16)) (i32.const 200000)))"""
    heard = Heard()
    assert run(stage, body, heard) == 0
    assert [len(data) for _, data in heard] == [65536, 65536, 65536, 200000 - 3 * 65536]
    assert b"".join(data for _, data in heard).rstrip(b"\0") == b"hello"


SAME = {
    "both streams": """(call $check (call $say (i32.const 1)))
      (call $check (call $say (i32.const 2)))""",
    "stdin": "(call $exit (call $say (i32.const 0)))",
    "never opened": "(call $exit (call $say (i32.const 3)))",
    "far beyond": "(call $exit (call $say (i32.const 100000)))",
    "closed": "(call $check (call $close (i32.const 1))) (call $exit (call $say (i32.const 1)))",
    "closed twice": """(call $check (call $close (i32.const 2)))
      (call $exit (call $close (i32.const 2)))""",
    "renumbered": """(call $check (call $renumber (i32.const 2) (i32.const 1)))
      (call $check (call $say (i32.const 1))) (call $exit (call $say (i32.const 2)))""",
    "renumbered to itself": """(call $check (call $renumber (i32.const 1) (i32.const 1)))
      (call $check (call $say (i32.const 1)))""",
    "stdin in its place": """(call $check (call $renumber (i32.const 0) (i32.const 1)))
      (call $exit (call $say (i32.const 1)))""",
    "nothing": """(i32.store (i32.const 4) (i32.const 0))
      (call $check (call $say (i32.const 1))) (call $exit (i32.load (i32.const 16)))""",
    "no buffers": """(call $check (call $write (i32.const 1) (i32.const 0) (i32.const 0)
      (i32.const 16)))""",
    "the first that is not empty": """(i64.store (i32.const 32) (i64.load (i32.const 0)))
      (i64.store (i32.const 40) (i64.load (i32.const 0))) (i64.store (i32.const 24) (i64.const 0))
      (call $check (call $write (i32.const 2) (i32.const 24) (i32.const 3) (i32.const 16)))
      (call $exit (i32.load (i32.const 16)))""",
}


@pytest.mark.parametrize("case", SAME)
def test_it_is_as_the_engines_own(stage: Bench, case: str) -> None:
    ours, engines = Heard(), Heard()
    code = run(stage, SAME[case], ours)
    assert (code, ours) == (run(stage, SAME[case], engines, direct=False), engines)


@pytest.mark.parametrize(
    ("answer", "code"), [(False, ENOSPC), (BrokenPipeError(), EPIPE)], ids=["no room", "no reader"]
)
def test_what_the_host_does_not_take_is_an_error_to_the_guest(
    stage: Bench, answer: bool | BaseException, code: int
) -> None:
    heard = Heard(answer)
    assert run(stage, "(call $exit (call $say (i32.const 1)))", heard) == code


def test_what_the_host_raises_ends_the_call(stage: Bench) -> None:
    trap = GuestTrap("interrupt", "stopped")
    body = "(call $check (i32.const 0)) (drop (call $say (i32.const 1))) (loop (br 0))"
    with pytest.raises(GuestTrap, match="stopped"):
        run(stage, body, Heard(trap))


@pytest.mark.parametrize("size", [20 * 65536 - 1023, 0x7FFFFFFF, 0xFFFFFFFF])
def test_bytes_outside_of_the_memory_are_not_written(stage: Bench, size: int) -> None:
    heard = Heard()
    body = f"""(i32.store (i32.const 4) (i32.const {size}))
      (call $exit (call $say (i32.const 1)))"""
    assert run(stage, body, heard) == 21
    assert heard == []


def test_a_start_function_may_write(stage: Bench) -> None:
    source = f"""(module {IMPORTS} (func $start (drop (call $say (i32.const 1)))) (start $start)
      (func (export "_start")))"""
    heard = Heard()
    stage.load(source).run_command(Wasi(on_output=heard, direct=True), LIMITS)
    assert heard == [(1, b"hello")]
