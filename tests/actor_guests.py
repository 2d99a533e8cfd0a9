"""Guests with state, for instances."""

from __future__ import annotations

import time

from wasm_sandbox import Instance

COUNTER = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1 20)
  (global $count (export "count") (mut i32) (i32.const 0))
  (global (export "ratio") f64 (f64.const 0.5))
  (global (export "reference") funcref (ref.null func))
  (func (export "increment") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1))) (global.get $count))
  (func (export "add") (param i32) (result i32)
    (global.set $count (i32.add (global.get $count) (local.get 0))) (global.get $count))
  (func (export "fail") (global.set $count (i32.const 100)) unreachable)
  (func (export "spin") (global.set $count (i32.const 200)) (loop (br 0)))
  (func (export "spin_for") (param i32)
    (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "poke") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
  (func (export "leave") (param i32) (call $exit (local.get 0))))"""
"""``count`` is its state; ``leave`` ends it with an exit code."""

REACTOR = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\03\\00\\00\\00hi\\n")
  (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))))
  (func (export "ready") (result i32) (global.get $ready))
  (func (export "say") (param i32) (result i32)
    (call $write (local.get 0) (i32.const 0) (i32.const 1) (i32.const 32))))"""
"""Counts how often it was initialized, which it says on stdout."""

LOGGER = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "log")
  (data (i32.const 1024) "a line\\0a")
  (func (export "open") (result i32)
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 3) (i32.const 1)
      (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 32)))
    (i32.load (i32.const 32)))
  (func (export "write") (param i32 i32) (result i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (local.get 1))
    (call $write (local.get 0) (i32.const 0) (i32.const 1) (i32.const 32))))"""
"""``open`` gives the descriptor of the file ``log``; ``write`` puts so many bytes into it."""


def wait_for_spin(instance: Instance) -> None:
    """Wait until ``spin`` is on its way."""
    before = instance.usage().cpu_time
    while instance.usage().cpu_time < before + 0.02:
        time.sleep(0.002)
