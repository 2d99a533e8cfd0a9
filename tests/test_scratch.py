"""Scratch directories: private, of bounded size, empty for each call, gone with its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import guests
import pytest
import situations
from cores import run, serving
from native import attack, native_workers

import wasm_sandbox
from wasm_sandbox import (
    Capabilities,
    ConfigurationError,
    DiskLimitExceeded,
    Filesystem,
    Limits,
    Pool,
    PoolError,
)
from wasm_sandbox.protocol.capabilities import MAX_SCRATCH, Scratch
from wasm_sandbox.protocol.events import Granted
from wasm_sandbox.supervisor import temporary

KIB = 1 << 10
SIZE = 64 * KIB
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
IN_MEMORY: tuple[str, ...] = ()
ON_DISK = (*IN_MEMORY, "namespace.mount")
"""Walls that are left out for the one and the other kind."""

FILLS = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\\00\\04\\00\\00\\00\\10\\00\\00")
  (data (i32.const 16) "markd/d")
  (func (export "_start") (local $error i32) (local $pages i32)
    (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4)
      (i32.const 5) (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 8)))
    (if (local.get $error) (then (call $exit (i32.add (i32.const 100) (local.get $error)))))
    (drop (call $mkdir (i32.const 3) (i32.const 20) (i32.const 1)))
    (drop (call $mkdir (i32.const 3) (i32.const 20) (i32.const 3)))
    (block $full (loop $more
      (br_if $full (call $write (i32.load (i32.const 8)) (i32.const 0) (i32.const 1)
        (i32.const 12)))
      (local.set $pages (i32.add (local.get $pages) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $pages) (i32.const 90)))))
    (call $exit (local.get $pages))))"""
"""Makes a file, two directories and as much of the file as it can, in pages; the exit code tells
how many, or 100 and the error for a file that was there already."""
EXIST = 20
FULL = SIZE // (4 * KIB) - 3


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary directories are made. Nothing stays in it."""
    place = tmp_path / "temporary"
    place.mkdir()
    place.chmod(0o1777)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(place))
    temporary._sweep.cache_clear()
    yield place
    assert not list(place.iterdir())


def granted(size: int = SIZE, at: str = "/tmp") -> Capabilities:
    """A scratch directory."""
    return Capabilities(filesystem=Filesystem.scratch(size, at))


@pytest.mark.parametrize(
    ("without", "user"),
    [(IN_MEMORY, 0), (ON_DISK, 0), pytest.param(IN_MEMORY, 65534, marks=as_root)],
)
def test_it_is_empty_for_each_call_and_ends_at_its_size(
    folder: Path, without: tuple[str, ...], user: int
) -> None:
    async def main() -> None:
        async with serving(folder.parent / "cache", workers=1, capabilities=granted()) as driver:
            module = await driver.load(FILLS)
            seen: set[int | None] = set()
            for _ in range(3):
                outcome = await driver.call(module, "_start")
                assert outcome.exit_code == FULL, outcome
                seen.add(outcome.receipt.worker)
            assert len(seen) == 1
            (event,) = (event for event in driver.events if isinstance(event, Granted))
            assert (event.directories, event.scratch) == ((), (("/tmp", SIZE),))

    with native_workers(*without, user=user):
        run(main)


@as_root
@pytest.mark.parametrize("situation", situations.SITUATIONS)
def test_it_is_had_in_every_situation(tmp_path: Path, situation: str) -> None:
    code = f"""
import sys
from wasm_sandbox import Capabilities, Filesystem, Pool
with Pool(1, capabilities=Capabilities(filesystem=Filesystem.scratch({SIZE}))) as pool:
    fills = pool.load(sys.argv[1].encode())
    print([pool.run(fills).exit_code for _ in range(2)])
"""
    words = sys.executable, "-c", code, FILLS
    needs = str(Path(wasm_sandbox.__file__).resolve().parents[1])
    command = situations.command(situation, words, (needs, str(tmp_path)))
    environment = {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": needs}
    tmp_path.chmod(0o777)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert said.stdout.strip() == str([FULL, FULL]), said.stderr
    assert not list(tmp_path.glob("wasm-sandbox-scratch*"))


def test_it_stands_beside_other_directories(folder: Path) -> None:
    data = folder.parent / "data"
    data.mkdir()
    both = Filesystem.read_write(data, at="/data") | Filesystem.scratch(SIZE, "/data/tmp")
    with Pool(1, capabilities=Capabilities(filesystem=both)) as pool:
        # Directories of the machine come first: this one keeps its file, and has no size.
        codes = [pool.run(pool.load(FILLS.encode())).exit_code for _ in range(2)]
    assert codes == [90, 100 + EXIST]
    assert sorted(path.name for path in data.iterdir()) == ["d", "mark"]


def test_the_limits_of_disk_and_file_size_hold_in_it() -> None:
    with Pool(1, capabilities=granted(1 << 20)) as pool:
        fills = pool.load(FILLS.encode())
        limits = Limits(file_size=8 * KIB)
        assert pool.run(fills, limits=limits).exit_code == 2
        with pytest.raises(DiskLimitExceeded):
            pool.run(fills, limits=Limits(disk=32 * KIB))


@pytest.fixture(scope="module")
def mount_namespaces() -> None:
    """Skips a test where there are none."""
    with Pool(1) as pool:
        rows = {row.field: row for row in pool.enforcement()}
    if "namespace.mount" not in rows["capabilities.filesystem"].walls:
        pytest.skip("no mount namespace can be made here")


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.parametrize(
    ("without", "at", "most"), [(IN_MEMORY, "/scratch/0", SIZE), (ON_DISK, "", 2 * SIZE)]
)
def test_native_code_fills_it_no_further_where_it_is_in_memory(
    folder: Path, without: tuple[str, ...], at: str, most: int
) -> None:
    async def main() -> int:
        async with serving(folder.parent / "cache", workers=1, capabilities=granted()) as driver:
            module = await driver.load(guests.add())
            assert (await driver.call(module, "add", 1, 2)).error is None
            place = at or str(next(folder.iterdir()) / "0")
            many = {"folder": place, "count": 8, "size": SIZE // 4}
            written: int = await attack(driver, module, "write_files", **many)
            return written

    with native_workers(*without):
        assert run(main) == most


def test_what_a_program_leaves_that_is_killed_is_swept_by_the_next(folder: Path) -> None:
    program = f"""
import os, signal, tempfile
from wasm_sandbox import Capabilities, Filesystem, Pool
tempfile.tempdir = {str(folder)!r}
with Pool(1, capabilities=Capabilities(filesystem=Filesystem.scratch())):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(folder.glob("wasm-sandbox-scratch.*"))
    other = folder / "wasm-sandbox-scratch.1.2.3"
    other.mkdir()
    with Pool(1, capabilities=granted()) as pool:
        assert pool.run(pool.load(FILLS.encode()), limits=Limits(disk=1 << 20)).exit_code == FULL
    other.rmdir()


@pytest.mark.usefixtures("mount_namespaces")
def test_without_any_place_for_it_a_worker_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder / "none"))

    async def main(expected: str) -> None:
        async with serving(folder.parent / "cache", workers=1, capabilities=granted()) as driver:
            module = await driver.load(FILLS)
            outcome = await driver.call(module, "_start")
            assert outcome.exit_code == FULL if not expected else expected in str(outcome.error)

    with native_workers(*IN_MEMORY):
        run(partial(main, ""))
    with native_workers(*ON_DISK), pytest.raises(PoolError, match="no scratch directory"):
        run(partial(main, "no scratch directory"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Filesystem.scratch(0),
        lambda: Filesystem.scratch(MAX_SCRATCH + 1),
        lambda: Filesystem.scratch(cast("int", 1e6)),
        lambda: Filesystem.scratch(at=""),
        lambda: Filesystem.scratch(at="a\0b"),
        lambda: Filesystem(scratches=(Scratch("/tmp", SIZE, "/etc"),)),
        lambda: Filesystem.scratch() | Filesystem.scratch(),
        lambda: Filesystem.scratch(at="/x") | Filesystem.read_only("/", at="/x/"),
    ],
)
def test_one_that_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        make()
    assert refusal.value.field.startswith("capabilities.filesystem")


def test_its_limits_are_in_force(folder: Path) -> None:
    with Pool(1, capabilities=granted()) as pool:
        rows = {row.field: row for row in pool.enforcement()}
    for limit in ("disk", "open_files", "file_size", "io_read", "io_write"):
        assert rows[f"limits.{limit}"].in_force
