"""Guests that call host functions, and functions that do not return."""

from __future__ import annotations

import asyncio
import contextlib
import threading

ALLOC = """(global $top (mut i32) (i32.const 4096))
  (func $alloc (export "alloc") (param i32) (result i32)
    (local $old i32)
    (local.set $old (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get 0)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow
        (i32.add (i32.const 1) (i32.div_u (local.get 0) (i32.const 65536))))))
    (local.get $old))"""


def forward(
    params: str = "",
    results: str = "",
    *,
    name: str = "f",
    alloc: str = ALLOC,
    more: str = "",
    memory: str = '(memory (export "memory") 1)',
) -> bytes:
    """Exports ``call``, which hands its arguments to ``env.f`` and returns what that does. In the
    memory lie ``ACME`` at 8, ``[1, 2]`` at 16, no UTF-8 at 32 and no JSON at 40."""
    given = " ".join(f"(local.get {at})" for at in range(len(params.split())))
    return f"""(module
  (import "env" "{name}" (func $f (param {params}) (result {results})))
  {more}
  {memory}
  (data (i32.const 8) "ACME")
  (data (i32.const 16) "[1, 2]")
  (data (i32.const 32) "\\ff\\fe")
  (data (i32.const 40) "{{no}}")
  {alloc}
  (func (export "call") (param {params}) (result {results}) (call $f {given}))
  (func (export "spin") (loop $l (br $l))))""".encode()


STORM = b"""(module
  (import "env" "f" (func $f (param i32) (result i32)))
  (func (export "storm") (param $n i32) (result i32) (local $sum i32)
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $n)))
      (local.set $sum (i32.add (local.get $sum) (call $f (local.get $n))))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $more)))
    (local.get $sum)))"""

COMMAND = b"""(module
  (import "env" "say" (func $say (param i32 i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "hello")
  (func (export "_start")
    (call $say (i32.const 8) (i32.const 5))
    (call $exit (call $prestat (i32.const 3) (i32.const 64)))))"""

REACTOR = b"""(module
  (import "env" "f" (func $f (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (memory (export "memory") 1)
  (global $base (mut i32) (i32.const 0))
  (func (export "_initialize") (drop (call $yield)) (global.set $base (call $f (i32.const 1))))
  (func (export "run") (param i32) (result i32)
    (i32.add (global.get $base) (call $f (local.get 0)))))"""


class Hanging:
    """Functions that do not return by themselves, and what became of them."""

    def __init__(self, release: threading.Event) -> None:
        self.begun = threading.Event()
        self.ended: list[str] = []
        self._release = release

    def thread(self) -> None:
        self.begun.set()
        self._release.wait()

    async def coroutine(self) -> None:
        try:
            self.begun.set()
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    async def defiant(self) -> None:
        self.begun.set()
        while not self._release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def blocking(self) -> None:
        self.begun.set()
        self._release.wait()


KINDS = ["thread", "coroutine", "defiant", "blocking"]
