"""A guest has no processes: none to start, none to signal, whatever the policy says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wasm_sandbox import Limits, MissingImport, Pool
from wasm_sandbox.worker.engines.preview1 import FUNCTIONS

ENOTSUP = 58
"""As WASI counts its errors."""
MAKERS = [
    ("wasi_snapshot_preview1", "proc_spawn"),
    ("wasi_snapshot_preview1", "proc_fork"),
    ("wasi_snapshot_preview1", "proc_exec"),
    ("wasi_snapshot_preview1", "thread-spawn"),
    ("wasi", "thread-spawn"),
    ("wasix_32v1", "proc_fork"),
    ("wasix_32v1", "proc_spawn"),
    ("wasix_32v1", "thread_spawn_v2"),
    ("env", "fork"),
    ("env", "system"),
]
"""What other systems offer guests for it: WASIX, wasi-threads, Emscripten."""


@pytest.fixture(scope="module", params=[0, 8], ids=lambda processes: f"processes={processes}")
def pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    limits = Limits(processes=request.param)
    with Pool(1, limits=limits, cache_dir=tmp_path_factory.mktemp("cache")) as pool:
        yield pool


@pytest.mark.parametrize(("module", "name"), MAKERS)
def test_there_is_no_import_that_starts_a_process_or_thread(
    pool: Pool, module: str, name: str
) -> None:
    source = f"""(module (import "{module}" "{name}" (func $make (param i32) (result i32)))
      (func (export "run") (result i32) (call $make (i32.const 0))))"""
    with pytest.raises(MissingImport, match=name):
        pool.load(source.encode())["run"]()


def test_of_all_that_there_is_to_import_nothing_is_about_other_processes() -> None:
    assert {name for name in FUNCTIONS if name.startswith(("proc", "thread"))} == {
        "proc_exit",
        "proc_raise",
    }
    assert not {word for name in FUNCTIONS for word in name.split("_")} & {
        *("exec", "fork", "kill", "spawn", "system", "thread", "wait"),
    }


def test_no_signal_that_a_guest_raises_reaches_a_process(pool: Pool) -> None:
    source = b"""(module
      (import "wasi_snapshot_preview1" "proc_raise" (func $raise (param i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "run") (param i32) (result i32) (call $raise (local.get 0))))"""
    guest = pool.load(source)["run"]
    before = [worker.pid for worker in pool.workers()]
    assert {guest(signal) for signal in range(31)} == {ENOTSUP}
    assert [worker.pid for worker in pool.workers()] == before
