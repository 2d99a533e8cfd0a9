"""A component that does on the network what its caller tells it."""

from __future__ import annotations

from wasi_imports import imports

TYPES, TCP, STREAMS = "wasi:http/types", "wasi:sockets/tcp", "wasi:io/streams"
LOOKUP = "wasi:sockets/ip-name-lookup"
_FUNCTIONS = {
    "fields": (TYPES, "[constructor]fields", "(result i32)"),
    "append": (TYPES, "[method]fields.append", "(param i32 i32 i32 i32 i32 i32)"),
    "request": (TYPES, "[constructor]outgoing-request", "(param i32) (result i32)"),
    "set-method": (
        TYPES,
        "[method]outgoing-request.set-method",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    "set-scheme": (
        TYPES,
        "[method]outgoing-request.set-scheme",
        "(param i32 i32 i32 i32 i32) (result i32)",
    ),
    "set-authority": (
        TYPES,
        "[method]outgoing-request.set-authority",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    "set-path": (
        TYPES,
        "[method]outgoing-request.set-path-with-query",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    "body": (TYPES, "[method]outgoing-request.body", "(param i32 i32)"),
    "body-write": (TYPES, "[method]outgoing-body.write", "(param i32 i32)"),
    "body-finish": (TYPES, "[static]outgoing-body.finish", "(param i32 i32 i32 i32)"),
    "options": (TYPES, "[constructor]request-options", "(result i32)"),
    "first-byte": (
        TYPES,
        "[method]request-options.set-first-byte-timeout",
        "(param i32 i32 i64) (result i32)",
    ),
    "handle": ("wasi:http/outgoing-handler", "handle", "(param i32 i32 i32 i32)"),
    "future-subscribe": (
        TYPES,
        "[method]future-incoming-response.subscribe",
        "(param i32) (result i32)",
    ),
    "future-get": (TYPES, "[method]future-incoming-response.get", "(param i32 i32)"),
    "status": (TYPES, "[method]incoming-response.status", "(param i32) (result i32)"),
    "consume": (TYPES, "[method]incoming-response.consume", "(param i32 i32)"),
    "stream": (TYPES, "[method]incoming-body.stream", "(param i32 i32)"),
    "http-error-code": (TYPES, "http-error-code", "(param i32 i32)"),
    "read": (STREAMS, "[method]input-stream.read", "(param i32 i64 i32)"),
    "blocking-read": (STREAMS, "[method]input-stream.blocking-read", "(param i32 i64 i32)"),
    "in-subscribe": (STREAMS, "[method]input-stream.subscribe", "(param i32) (result i32)"),
    "check-write": (STREAMS, "[method]output-stream.check-write", "(param i32 i32)"),
    "write": (STREAMS, "[method]output-stream.write", "(param i32 i32 i32 i32)"),
    "write-flush": (
        STREAMS,
        "[method]output-stream.blocking-write-and-flush",
        "(param i32 i32 i32 i32)",
    ),
    "out-subscribe": (STREAMS, "[method]output-stream.subscribe", "(param i32) (result i32)"),
    "block": ("wasi:io/poll", "[method]pollable.block", "(param i32)"),
    "poll": ("wasi:io/poll", "poll", "(param i32 i32 i32)"),
    "timer": ("wasi:clocks/monotonic-clock", "subscribe-duration", "(param i64) (result i32)"),
    "network": ("wasi:sockets/instance-network", "instance-network", "(result i32)"),
    "socket": ("wasi:sockets/tcp-create-socket", "create-tcp-socket", "(param i32 i32)"),
    "udp": ("wasi:sockets/udp-create-socket", "create-udp-socket", "(param i32 i32)"),
    "start-connect": (
        TCP,
        "[method]tcp-socket.start-connect",
        f"(param {'i32 ' * 15})",
    ),
    "finish-connect": (TCP, "[method]tcp-socket.finish-connect", "(param i32 i32)"),
    "start-listen": (TCP, "[method]tcp-socket.start-listen", "(param i32 i32)"),
    "tcp-subscribe": (TCP, "[method]tcp-socket.subscribe", "(param i32) (result i32)"),
    "shutdown": (TCP, "[method]tcp-socket.shutdown", "(param i32 i32 i32)"),
    "resolve": (LOOKUP, "resolve-addresses", "(param i32 i32 i32 i32)"),
    "resolve-next": (
        LOOKUP,
        "[method]resolve-address-stream.resolve-next-address",
        "(param i32 i32)",
    ),
    "resolve-subscribe": (
        LOOKUP,
        "[method]resolve-address-stream.subscribe",
        "(param i32) (result i32)",
    ),
}
_DROPS = ("input-stream", "output-stream", "tcp-socket", "incoming-body", "incoming-response")
_GIVEN = "\n    ".join(
    [f'(export "{name}" (func $f{at}))' for at, name in enumerate(_FUNCTIONS)]
    + [f'(export "drop-{name}" (func $drop-{name}))' for name in _DROPS]
)
_TAKEN = "\n    ".join(
    [f'(import "" "{name}" (func ${name} {kind}))' for name, (_, _, kind) in _FUNCTIONS.items()]
    + [f'(import "" "drop-{name}" (func $drop-{name} (param i32)))' for name in _DROPS]
)

NETWORKER = f"""
(component
  (core module $allocator
    (memory (export "memory") 200)
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $top) (i32.const 6000000))
        (then (global.set $top (i32.const 65536))))
      (local.get $at)))
  (core instance $heap (instantiate $allocator))
  {imports([(interface, name) for interface, name, _ in _FUNCTIONS.values()])}
  (core module $m
    {_TAKEN}
    (import "heap" "memory" (memory 0))
    (global $kept-in (mut i32) (i32.const 0))
    (global $kept-out (mut i32) (i32.const 0))
    ;; The answer lies from 8 MiB on, and grows.
    (global $size (mut i32) (i32.const 0))
    (func $begin (global.set $size (i32.const 0)))
    (func $byte (param i32)
      (i32.store8 (i32.add (i32.const 8388608) (global.get $size)) (local.get 0))
      (global.set $size (i32.add (global.get $size) (i32.const 1))))
    (func $bytes (param $at i32) (param $length i32)
      (memory.copy (i32.add (i32.const 8388608) (global.get $size)) (local.get $at)
        (local.get $length))
      (global.set $size (i32.add (global.get $size) (local.get $length))))
    (func $end (result i32)
      (i32.store (i32.const 0) (i32.const 8388608))
      (i32.store (i32.const 4) (global.get $size))
      (i32.const 0))

    ;; All that comes over a stream, by polling; ends with the error of http-error-code, or 255.
    (func $drain (param $in i32) (param $http i32)
      (loop $more
        (call $block (call $in-subscribe (local.get $in)))
        (call $read (local.get $in) (i64.const 65536) (i32.const 64))
        (if (i32.eqz (i32.load8_u (i32.const 64))) (then
          (call $bytes (i32.load (i32.const 68)) (i32.load (i32.const 72)))
          (br $more))))
      (if (i32.load8_u (i32.const 68))
        (then (call $byte (i32.const 255)))
        (else
          (if (local.get $http)
            (then
              (call $http-error-code (i32.load (i32.const 72)) (i32.const 128))
              (call $byte (i32.load8_u (i32.const 136))))
            (else (call $byte (i32.const 254)))))))

    (func $start (param $authority i32) (param $a-size i32) (param $path i32) (param $p-size i32)
      (param $data i32) (param $d-size i32) (param $method i32) (param $scheme i32)
      (param $timeout i64) (result i32)
      (local $request i32) (local $body i32) (local $out i32) (local $options i32)
      (local $future i32)
      (local.set $request (call $request (call $fields)))
      (drop (call $set-method (local.get $request) (local.get $method) (i32.const 0) (i32.const 0)))
      (drop (call $set-scheme (local.get $request) (i32.const 1) (local.get $scheme) (i32.const 0)
        (i32.const 0)))
      (drop (call $set-authority (local.get $request) (i32.const 1) (local.get $authority)
        (local.get $a-size)))
      (drop (call $set-path (local.get $request) (i32.const 1) (local.get $path)
        (local.get $p-size)))
      (local.set $options (call $options))
      (drop (call $first-byte (local.get $options)
        (i64.ne (local.get $timeout) (i64.const 0)) (local.get $timeout)))
      (if (local.get $d-size) (then
        (call $body (local.get $request) (i32.const 64))
        (local.set $body (i32.load (i32.const 68)))
        (call $body-write (local.get $body) (i32.const 64))
        (local.set $out (i32.load (i32.const 68)))))
      (call $handle (local.get $request) (i32.const 1) (local.get $options) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (call $byte (i32.const 1)) (call $byte (i32.load8_u (i32.const 72)))
        (return (i32.const 0))))
      (local.set $future (i32.load (i32.const 72)))
      (if (local.get $d-size) (then
        (call $write-flush (local.get $out) (local.get $data) (local.get $d-size) (i32.const 64))
        (call $drop-output-stream (local.get $out))
        (call $body-finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 64))))
      (local.get $future))

    ;; 0, the status in two bytes, the body, 255 or the error of the body; or 1 and the error.
    (func $finish (param $future i32)
      (local $response i32) (local $body i32)
      (call $future-get (local.get $future) (i32.const 64))
      ;; some(ok(ok(response))): three discriminants, the inner ones aligned to 8
      (if (i32.load8_u (i32.const 80)) (then
        (call $byte (i32.const 1)) (call $byte (i32.load8_u (i32.const 88))) (return)))
      (local.set $response (i32.load (i32.const 88)))
      (call $byte (i32.const 0))
      (call $byte (i32.shr_u (call $status (local.get $response)) (i32.const 8)))
      (call $byte (call $status (local.get $response)))
      (call $consume (local.get $response) (i32.const 64))
      (local.set $body (i32.load (i32.const 68)))
      (call $stream (local.get $body) (i32.const 64))
      (local.set $future (i32.load (i32.const 68)))
      (call $drain (local.get $future) (i32.const 1))
      (call $drop-input-stream (local.get $future))
      (call $drop-incoming-body (local.get $body))
      (call $drop-incoming-response (local.get $response)))

    (func (export "fetch") (param i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
      (local $future i32)
      (call $begin)
      (local.set $future (call $start (local.get 0) (local.get 1) (local.get 2) (local.get 3)
        (local.get 4) (local.get 5) (local.get 6) (local.get 7) (local.get 8)))
      (if (local.get $future) (then
        (call $block (call $future-subscribe (local.get $future)))
        (call $finish (local.get $future))))
      (call $end))

    ;; Two requests and a timer: which are ready first, as bits, and the answer of the second.
    (func (export "race") (param i32 i32 i32 i32 i64) (result i32)
      (local $first i32) (local $second i32)
      (call $begin)
      (local.set $first (call $start (local.get 0) (local.get 1) (i32.const 48) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0)))
      (local.set $second (call $start (local.get 2) (local.get 3) (i32.const 48) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0)))
      (i32.store (i32.const 256) (call $future-subscribe (local.get $first)))
      (i32.store (i32.const 260) (call $future-subscribe (local.get $second)))
      (i32.store (i32.const 264) (call $timer (local.get 4)))
      (call $poll (i32.const 256) (i32.const 3) (i32.const 64))
      (call $byte (i32.load (i32.load (i32.const 64))))
      (if (i32.eq (i32.load (i32.load (i32.const 64))) (i32.const 1))
        (then (call $finish (local.get $second))))
      (call $end))

    (func $connected (param $a i32) (param $b i32) (param $c i32) (param $d i32) (param $port i32)
      (result i32)
      (local $socket i32)
      (call $socket (i32.const 0) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.load8_u (i32.const 68)))))
      (local.set $socket (i32.load (i32.const 68)))
      (call $start-connect (local.get $socket) (call $network) (i32.const 0) (local.get $port)
        (local.get $a) (local.get $b) (local.get $c) (local.get $d)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.load8_u (i32.const 65)))))
      (call $block (call $tcp-subscribe (local.get $socket)))
      (call $finish-connect (local.get $socket) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.load8_u (i32.const 68)))))
      (global.set $kept-in (i32.load (i32.const 68)))
      (global.set $kept-out (i32.load (i32.const 72)))
      (i32.store (i32.const 300) (local.get $socket))
      (i32.const 256))

    ;; 256, or the error.
    (func (export "connect") (param i32 i32 i32 i32 i32) (result i32)
      (call $connected (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))

    ;; Connects to 127.0.0.1, writes as fast as it may while it reads, and gives what it read.
    (func (export "echo") (param $port i32) (param $data i32) (param $size i32) (result i32)
      (local $piece i32)
      (call $begin)
      (if (i32.ne (call $connected (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
          (local.get $port)) (i32.const 256))
        (then (return (call $end))))
      (loop $more
        (if (local.get $size) (then
          (call $block (call $out-subscribe (global.get $kept-out)))
          (call $check-write (global.get $kept-out) (i32.const 64))
          (local.set $piece (i32.load (i32.const 72)))
          (if (i32.gt_u (local.get $piece) (local.get $size))
            (then (local.set $piece (local.get $size))))
          (call $write (global.get $kept-out) (local.get $data) (local.get $piece) (i32.const 64))
          (local.set $data (i32.add (local.get $data) (local.get $piece)))
          (local.set $size (i32.sub (local.get $size) (local.get $piece)))
          (br $more))))
      (call $shutdown (i32.load (i32.const 300)) (i32.const 1) (i32.const 64))
      (call $drain (global.get $kept-in) (i32.const 0))
      (call $drop-input-stream (global.get $kept-in))
      (call $drop-output-stream (global.get $kept-out))
      (call $drop-tcp-socket (i32.load (i32.const 300)))
      (call $end))

    ;; Over the connection that an earlier call left open: what comes for what is written; 1 and an
    ;; error byte where that fails.
    (func (export "talk") (param $data i32) (param $size i32) (result i32)
      (call $begin)
      (call $write-flush (global.get $kept-out) (local.get $data) (local.get $size) (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (call $byte (i32.const 1)) (return (call $end))))
      (call $blocking-read (global.get $kept-in) (i64.const 65536) (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (call $byte (i32.const 1)) (return (call $end))))
      (call $bytes (i32.load (i32.const 68)) (i32.load (i32.const 72)))
      (call $end))

    ;; 1 and the error, or 0 and each address: its family and its first bytes.
    (func (export "lookup") (param $name i32) (param $size i32) (result i32)
      (local $stream i32)
      (call $begin)
      (call $resolve (call $network) (local.get $name) (local.get $size) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (call $byte (i32.const 1)) (call $byte (i32.load8_u (i32.const 68))) (return (call $end))))
      (local.set $stream (i32.load (i32.const 68)))
      (call $block (call $resolve-subscribe (local.get $stream)))
      (call $resolve-next (local.get $stream) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (call $byte (i32.const 1)) (call $byte (i32.load8_u (i32.const 66))) (return (call $end))))
      (call $byte (i32.const 0))
      (loop $more
        (if (i32.load8_u (i32.const 66)) (then
          (call $byte (i32.load8_u (i32.const 68)))
          (call $bytes (i32.const 70) (i32.const 4))
          (call $resolve-next (local.get $stream) (i32.const 64))
          (br $more))))
      (call $end))

    ;; The errors of listening and of UDP, the first times 100.
    (func (export "refusals") (result i32)
      (local $error i32)
      (call $socket (i32.const 0) (i32.const 64))
      (call $start-listen (i32.load (i32.const 68)) (i32.const 64))
      (local.set $error (i32.mul (i32.load8_u (i32.const 65)) (i32.const 100)))
      (call $udp (i32.const 0) (i32.const 64))
      (i32.add (local.get $error) (i32.load8_u (i32.const 68)))))
  (core instance $i (instantiate $m
    (with "heap" (instance $heap))
    (with "" (instance {_GIVEN}))))
  (func (export "fetch") (param "authority" string) (param "path" string) (param "body" (list u8))
    (param "method" u32) (param "scheme" u32) (param "timeout" u64) (result (list u8))
    (canon lift (core func $i "fetch")
      (memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))))
  (func (export "race") (param "first" string) (param "second" string) (param "timeout" u64)
    (result (list u8))
    (canon lift (core func $i "race")
      (memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))))
  (func (export "connect") (param "a" u32) (param "b" u32) (param "c" u32) (param "d" u32)
    (param "port" u32) (result u32) (canon lift (core func $i "connect")))
  (func (export "echo") (param "port" u32) (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "echo")
      (memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))))
  (func (export "talk") (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "talk")
      (memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))))
  (func (export "lookup") (param "name" string) (result (list u8))
    (canon lift (core func $i "lookup")
      (memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))))
  (func (export "refusals") (result u32) (canon lift (core func $i "refusals"))))
"""
