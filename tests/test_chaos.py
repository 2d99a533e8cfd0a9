"""Workers are killed and frozen under load: every call has one outcome, and none runs twice."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import guests
import pytest
from leftovers import descendants, nothing_left

from wasm_sandbox import (
    Capabilities,
    DeadlineExceeded,
    Filesystem,
    Limits,
    Pool,
    RestartPolicy,
    SandboxError,
    WorkerLost,
)
from wasm_sandbox.future import CallFuture

LIMITS = Limits(wall_time=2.0)
FORGIVING = RestartPolicy(intensity=1_000_000)
"""Most of these deaths have no call to blame; how many are forgiven is not the matter here."""
PATIENCE = 60.0
"""Seconds after which a call counts as forgotten."""
BURST = 128
"""Calls that are submitted at a time."""

APPEND = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "log")
  (data (i32.const 24) "\\20\\00\\00\\00\\04\\00\\00\\00")
  (func (export "append") (param $number i32) (result i32) (local $errno i32)
    (local.set $errno (call $path_open
      (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 1)
      (i64.const 64) (i64.const 64) (i32.const 1) (i32.const 16)))
    (if (local.get $errno) (then (return (i32.sub (i32.const 0) (local.get $errno)))))
    (i32.store (i32.const 32) (local.get $number))
    (local.set $errno
      (call $fd_write (i32.load (i32.const 16)) (i32.const 24) (i32.const 1) (i32.const 40)))
    (if (local.get $errno) (then (return (i32.sub (i32.const 0) (local.get $errno)))))
    (local.get $number)))"""
"""``append(number) -> number`` adds four bytes to ``log`` in its directory, in one write at the
file's end; a negative result is an errno of WASI's."""


def written(log: Path) -> Counter[int]:
    """How often each number was appended."""
    content = log.read_bytes() if log.exists() else b""
    assert len(content) % 4 == 0, "a torn write"
    return Counter(number for (number,) in struct.iter_unpack("<i", content))


class Faults:
    """What was done to a pool's processes."""

    def __init__(self, pool: Pool, seed: int, *, zygotes: bool, over: Callable[[], int]) -> None:
        self.done: Counter[str] = Counter()
        self._pool = pool
        self._random = random.Random(seed)
        self._zygotes = zygotes
        self._calls_over = over
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def during(self) -> Iterator[None]:
        """Do harm while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            turn = 0
            while not self._over.wait(self._random.uniform(0.08, 0.12)):
                if self._calls_over() < 20 * turn:
                    continue  # on a slow machine workers that are killed come to no call
                turn += 1
                if turn % 15 == 7:
                    self._freeze(for_good=turn % 2 == 0)
                elif self._zygotes and turn % 20 == 4:
                    self._kill_zygote()
                else:
                    self._strike(signal.SIGKILL, starting=turn % 10 == 0)
        except BaseException as error:
            self._failure = error

    def _strike(self, number: signal.Signals, *, starting: bool = False) -> int:
        """``starting``: whether it may be one that is not up yet. A call is given up whose workers
        die three times in a row while they start, and on a slow machine they start for long."""
        workers = [worker for worker in self._pool.workers() if worker.pid]
        pids = [worker.pid for worker in workers if starting or worker.phase != "starting"]
        if not pids:
            return 0
        pid = self._random.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            self.done[number.name] += 1
        return pid

    def _freeze(self, *, for_good: bool) -> None:
        pid = self._strike(signal.SIGSTOP)
        if pid and not for_good:
            self._over.wait(self._random.uniform(0.02, 0.4))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _kill_zygote(self) -> None:
        for pid, name in descendants().items():
            if name == "wasm-zygote":
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.done["zygote"] += 1


def chaos(calls: int, folder: Path, *, zygotes: bool = False, seed: int = 1) -> dict[str, int]:
    """Make ``calls`` calls under faults, check every promise, and tell what happened."""
    (folder / "shared").mkdir()
    log = folder / "shared" / "log"
    outcomes: Counter[int] = Counter()
    futures: list[tuple[str, CallFuture]] = []

    def submit(kind: str, function: object, *args: int) -> None:
        future = pool.submit(function, *args)  # type: ignore[arg-type]
        index = len(futures)
        future.add_done_callback(lambda _: outcomes.update((index,)))
        futures.append((kind, future))

    with (
        nothing_left(),
        Pool(
            2, limits=LIMITS, restart=FORGIVING, cache_dir=folder / "cache", max_pending=4 * BURST
        ) as pool,
    ):
        filesystem = Filesystem.read_write(log.parent, at="/shared")
        append = pool.load(APPEND.encode())["append"].options(
            capabilities=Capabilities(filesystem=filesystem)
        )
        add = pool.load(guests.add().encode())["add"]
        work = pool.load(guests.work().encode())["work"]
        faults = Faults(pool, seed, zygotes=zygotes, over=lambda: len(outcomes))
        with faults.during():
            for index in range(calls):
                if index % BURST == 0:
                    time.sleep(0.02)
                if index % 7 == 3:
                    submit("append", append, index)
                elif index % 50 == 0:
                    submit("work", work, 30_000_000)
                else:
                    submit("add", add, index, 1)
            for _, future in futures:
                with suppress(SandboxError):
                    future.result(PATIENCE)
    counts: Counter[str] = Counter()
    appended = written(log)
    for index, (kind, future) in enumerate(futures):
        error = future.exception(0)
        if error is None:
            expected = {"append": index, "add": index + 1, "work": 30_000_000}[kind]
            assert future.result(0) == expected
            counts["returned"] += 1
            assert future.receipt.attempts == 1
        else:
            assert isinstance(error, WorkerLost | DeadlineExceeded), repr(error)
            counts["lost" if isinstance(error, WorkerLost) else "late"] += 1
            assert future.receipt.attempts <= 1
        if kind == "append" and error is None:
            assert appended[index] == 1, f"call {index} returned and wrote {appended[index]} times"
    assert sum(counts.values()) == calls
    assert len(outcomes) == calls
    assert set(outcomes.values()) == {1}
    assert set(appended.values()) <= {1}, "a call ran twice"
    assert {futures[index][0] for index in appended} == {"append"}
    assert faults.done["SIGKILL"] > 0
    return {**counts, **faults.done}


@pytest.mark.chaos
def test_calls_under_fire_have_one_outcome_each(tmp_path: Path) -> None:
    told = chaos(10_000, tmp_path)
    assert told["lost"] > 0
    assert told["returned"] > 9_000


@pytest.mark.chaos
def test_a_zygote_under_fire_costs_no_call_its_outcome(tmp_path: Path) -> None:
    told = chaos(5_000, tmp_path, zygotes=True, seed=2)
    assert told["zygote"] > 0
    assert told["returned"] > 4_000


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_hundred_thousand_calls_under_fire(tmp_path: Path) -> None:
    told = chaos(100_000, tmp_path, seed=3)
    assert told["returned"] > 90_000
