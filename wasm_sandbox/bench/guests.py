"""The modules that are measured, as small as they can be: the costs are those around them."""

from __future__ import annotations

ADD = b'(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))'
WRITES = b"""(module (memory 1) (func (export "add") (param i32 i32) (result i32)
  (i32.store (i32.const 0) (local.get 0)) (i32.add (i32.load (i32.const 0)) (local.get 1))))"""
"""Adds by way of its memory, so that it must have a fresh instance for each call."""

LOOP = b'(module (func (export "run") (loop br 0)))'
SLEEP = (
    b'(module (import "wasi_snapshot_preview1" "poll_oneoff"'
    b" (func $poll (param i32 i32 i32 i32) (result i32)))"
    b'(memory (export "memory") 1)'
    b'(data (i32.const 24) "\\00\\00\\00\\00\\00\\a0\\72\\4e\\18\\09")'
    b'(func (export "run")'
    b" (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"
)

BUFFERS = b"""(module
  (memory (export "memory") 1040)
  (func (export "alloc") (param i32) (result i32) (i32.const 65536))
  (func (export "length") (param i32 i32) (result i32) (local.get 1))
  (func (export "give") (param $size i32) (result i64)
    (i64.or (i64.shl (i64.const 65536) (i64.const 32)) (i64.extend_i32_u (local.get $size)))))"""
"""Takes and gives up to 64 MiB, always at the same place."""

ASKS = b"""(module
  (import "env" "f" (func $f (param i32) (result i32)))
  (func (export "ask") (param $n i32) (result i32)
    (loop $again
      (drop (call $f (local.get $n)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (local.get $n)))"""
COMPONENT_ASKS = b"""(component
  (import "f" (func $f (param "n" s32) (result s32)))
  (core func $lowered (canon lower (func $f)))
  (core module $m
    (import "" "f" (func $f (param i32) (result i32)))
    (func (export "ask") (param $n i32) (result i32)
      (loop $again
        (drop (call $f (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br_if $again (local.get $n)))
      (local.get $n)))
  (core instance $i (instantiate $m (with "" (instance (export "f" (func $lowered))))))
  (func (export "ask") (param "n" s32) (result s32) (canon lift (core func $i "ask"))))"""
ASKS_WITH_BYTES = b"""(module
  (import "env" "f" (func $f (param i32 i32) (result i64)))
  (memory (export "memory") 64)
  (func (export "alloc") (param i32) (result i32) (i32.const 2097152))
  (func (export "ask") (param $size i32) (param $n i32)
    (loop $again
      (drop (call $f (i32.const 0) (local.get $size)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))))"""

COMPONENT = b"""(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
    (func (export "same") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1))
      (i32.const 16))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (drop (memory.grow (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1))))
      (i32.const 65536)))
  (core instance $i (instantiate $m))
  (func (export "add") (param "a" u32) (param "b" u32) (result u32)
    (canon lift (core func $i "add")))
  (func (export "same") (param "a" (list u8)) (result (list u8))
    (canon lift (core func $i "same") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))"""
"""Typed values; ``same`` gives a list of bytes back."""

FETCHES = b"""(module
  (import "wasm_sandbox" "http_request" (func $request (param i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "http_read" (func $http_read (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "tcp_connect" (func $connect (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "tcp_read" (func $tcp_read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 80)
  (data (i32.const 16) "127.0.0.1")
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "get") (param i32 i32) (result i32)
    (if (call $request (local.get 0) (local.get 1) (i32.const 0)) (then (return (i32.const -1))))
    (drop (call $http_read (i32.load (i32.const 0)) (i32.const 65536) (i32.const 9) (i32.const 4)))
    (i32.load (i32.const 4)))
  (func (export "read") (param $port i32) (param $piece i32) (result i64) (local $sum i64)
    (if (call $connect (i32.const 16) (i32.const 9) (local.get $port) (i32.const 0))
      (then (return (i64.const -1))))
    (loop $more
      (if (call $tcp_read
          (i32.load (i32.const 0)) (i32.const 65536) (local.get $piece) (i32.const 4))
        (then (return (i64.const -2))))
      (local.set $sum (i64.add (local.get $sum) (i64.load32_u (i32.const 4))))
      (br_if $more (i32.load (i32.const 4))))
    (local.get $sum)))"""
"""An HTTP request, and all of a stream in pieces."""

COUNTER = b"""(module (global $n (mut i32) (i32.const 0))
  (func (export "increment") (result i32)
    (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))"""

PREPARED = b"""(module
  (memory (export "memory") 65)
  (func $mix (param $rounds i32) (local $at i32) (local $state i32)
    (local.set $state (i32.const 1))
    (loop $again
      (local.set $at (i32.const 64))
      (loop $next
        (local.set $state (i32.add (local.get $at)
          (i32.mul (i32.xor (local.get $state) (i32.load (local.get $at))) (i32.const 69069))))
        (i32.store (local.get $at) (local.get $state))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br_if $next (i32.lt_u (local.get $at) (i32.const 4194368))))
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $again (local.get $rounds))))
  (func (export "_initialize") (call $mix (i32.const 40)))
  (func (export "at") (param i32) (result i32) (i32.load (local.get 0))))"""
"""Fills 4 MiB with numbers, 40 times, before it is of use."""

EXTISM = b'(module (func (export "run") (result i32) i32.const 0))'


def adds(number: int) -> bytes:
    """A module of its own for each number."""
    return (
        b'(module (func (export "add") (param i32) (result i32) local.get 0'
        b" i32.const %d i32.add))" % number
    )


def large(size: int) -> bytes:
    """A valid module of about ``size`` bytes, whose code is most of it."""
    body = b"\x00" + b"\x20\x00\x41\x07\x6a\x21\x00" * 400 + b"\x20\x00\x0b"
    function = _leb(len(body)) + body
    count = size // len(function)
    return (
        b"\0asm\x01\0\0\0"
        + _section(1, b"\x01\x60\x01\x7f\x01\x7f")
        + _section(3, _leb(count) + b"\0" * count)
        + _section(7, b"\x01\x03run\x00\x00")
        + _section(10, _leb(count) + function * count)
    )


def _leb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _section(number: int, body: bytes) -> bytes:
    return bytes([number]) + _leb(len(body)) + body


COPIES = b"""(module
  (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024))
    (loop $more
      (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (if (i32.load (i32.const 8)) (then
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $more))))))"""
