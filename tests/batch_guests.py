"""Guests for batches: functions that leave no trace, and such that do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from wasm_sandbox import CallFuture, Function, Pool
from wasm_sandbox.batching import LEAST

PURE = """(module
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func $deep (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "swap") (param i64 f64) (result f64 i64) (local.get 1) (local.get 0))
  (func (export "widen") (param f32 i64) (result f64 i32 f32)
    (f64.promote_f32 (local.get 0)) (i32.wrap_i64 (local.get 1)) (local.get 0))
  (func (export "lanes") (param v128 i32) (result v128)
    (i32x4.add (local.get 0) (i32x4.splat (local.get 1))))
  (func (export "check") (param i32)
    (if (i32.eq (local.get 0) (i32.const 13)) (then (unreachable))))
  (func (export "spin") (param i32) (result i32) (local $left i64)
    (local.set $left (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const 1000)))
    (block $done (loop $next
      (br_if $done (i64.eqz (local.get $left)))
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br $next)))
    (local.get 0)))"""
"""Pure functions. ``spin(n)`` makes ``n`` thousand turns; ``check(13)`` traps."""

STATE = """(module
  (memory (export "memory") 1)
  (global $count (mut i32) (i32.const 0))
  (func (export "count") (param i32) (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
    (if (i32.ne (i32.load (i32.const 8)) (global.get $count)) (then (unreachable)))
    (i32.add (local.get 0) (global.get $count)))
  (func (export "div") (param i32 i32) (result i32)
    (i32.store (i32.const 0) (local.get 0))
    (i32.div_s (i32.load (i32.const 0)) (local.get 1)))
  (func $deep (export "deep") (param i32) (result i32)
    (global.set $count (local.get 0))
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (global.get $count))))
  (func (export "spin") (param i32) (result i32) (local $left i64)
    (i32.store (i32.const 0) (local.get 0))
    (local.set $left (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const 1000)))
    (block $done (loop $next
      (br_if $done (i64.eqz (local.get $left)))
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br $next)))
    (i32.load (i32.const 0))))"""
"""The like, of functions that write. ``count(n)`` is ``n`` and how often it was called."""

PATIENCE = 60.0
"""Seconds after which something counts as forgotten."""
LONG = 100_000_000
"""Turns, in thousands, that nobody waits for."""
MODES = [(PURE, "fresh"), (PURE, "per-batch"), (STATE, "fresh"), (STATE, "per-batch")]
both = pytest.mark.parametrize("source", [PURE, STATE], ids=["shared", "fresh"])
each_mode = pytest.mark.parametrize(
    ("source", "instance"), MODES, ids=["shared", "kept with a loop", "fresh", "kept"]
)


def turns_in(pool: Pool, seconds: float) -> int:
    """For ``spin``: how many (thousand) turns take so long, about."""
    spin = pool.load(PURE.encode())["spin"]
    spin(1)
    turns, took = 1000, 0.0
    while took < 0.05:
        turns *= 2
        took = spin.detailed(turns)[1].cpu_time
    return max(int(turns * seconds / took), 1)


def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


@contextmanager
def busy_thread(pool: Pool) -> Iterator[None]:
    """What is submitted meanwhile, the pool's thread finds waiting together."""
    go = threading.Event()
    pool.thread.post(go.wait)
    try:
        yield
    finally:
        go.set()


def known(function: Function, *args: Any) -> Function:
    """The function, after calls with ``args`` that say how quick it is."""

    def quick() -> bool:
        function(*args)
        return function.pace.size(LEAST) == LEAST

    until(quick)
    return function


def submitted(pool: Pool, function: Function, rows: Sequence[tuple[Any, ...]]) -> list[CallFuture]:
    with busy_thread(pool):
        return [pool.submit(function, *row) for row in rows]
