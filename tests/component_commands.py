"""Commands of WASI 0.2 in text form: ``wasi:cli/run`` around a body in core code."""

from __future__ import annotations

from component_texts import ALLOCATOR

_RESULT = "(result (result {ok} (error $stream-error)))"


def command(body: str, version: str = "0.2.0", extra: str = "") -> str:
    """A command whose ``run`` is ``body``, which leaves an ``i32``: 0 is ``ok``.

    It may call, by these names: ``$stdin``, ``$stdout`` and ``$stderr`` () -> handle; ``$write``
    and ``$read`` (handle, …, place of the result); ``$arguments`` and ``$environment`` (place);
    ``$exit`` (0 or 1); ``$wall`` (place); ``$monotonic`` () -> i64; ``$random`` (i64, place);
    ``$timer`` (i64) -> handle; ``$block`` (handle); ``$directories`` (place); ``$socket`` (0,
    place). A result lies at its place; ``$text`` (place) writes the list there to stdout.
    """
    at = f"@{version}"
    names = {
        "stdin": ("", "i32"),
        "stdout": ("", "i32"),
        "stderr": ("", "i32"),
        "write": ("i32 i32 i32 i32", ""),
        "read": ("i32 i64 i32", ""),
        "arguments": ("i32", ""),
        "environment": ("i32", ""),
        "exit": ("i32", ""),
        "wall": ("i32", ""),
        "monotonic": ("", "i64"),
        "random": ("i64 i32", ""),
        "timer": ("i64", "i32"),
        "block": ("i32", ""),
        "directories": ("i32", ""),
        "socket": ("i32 i32", ""),
    }
    imports = "".join(
        f'(import "" "{name}" (func ${name} (param {params}) (result {results})))'.replace(
            "(param )", ""
        ).replace("(result )", "")
        for name, (params, results) in names.items()
    )
    given = "".join(f'(export "{name}" (func ${name}))' for name in names)
    options = '(memory (core memory $h "memory")) (realloc (core func $h "realloc"))'

    def lower(name: str, instance: str, function: str) -> str:
        return f'(core func ${name} (canon lower (func ${instance} "{function}") {options}))'

    lowered = "\n".join(
        [
            lower("stdin", "stdin", "get-stdin"),
            lower("stdout", "stdout", "get-stdout"),
            lower("stderr", "stderr", "get-stderr"),
            lower("write", "streams", "[method]output-stream.blocking-write-and-flush"),
            lower("read", "streams", "[method]input-stream.blocking-read"),
            lower("arguments", "environment", "get-arguments"),
            lower("environment", "environment", "get-environment"),
            lower("exit", "exit", "exit"),
            lower("wall", "wall", "now"),
            lower("monotonic", "clock", "now"),
            lower("random", "random", "get-random-bytes"),
            lower("timer", "clock", "subscribe-duration"),
            lower("block", "poll", "[method]pollable.block"),
            lower("directories", "preopens", "get-directories"),
            lower("socket", "sockets", "create-tcp-socket"),
        ]
    )
    return f"""
(component
  (import "wasi:io/error{at}" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/poll{at}" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams{at}" (instance $streams
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (alias outer 1 $error-type (type $e))
    (export "error" (type $err (eq $e)))
    (type $se (variant (case "last-operation-failed" (own $err)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $se)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) {_RESULT.format(ok="")}))
    (export "[method]input-stream.blocking-read"
      (func (param "self" (borrow $in)) (param "len" u64) {_RESULT.format(ok="(list u8)")}))))
  (alias export $streams "input-stream" (type $input))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdin{at}" (instance $stdin
    (alias outer 1 $input (type $i)) (export "input-stream" (type $in (eq $i)))
    (export "get-stdin" (func (result (own $in))))))
  (import "wasi:cli/stdout{at}" (instance $stdout
    (alias outer 1 $output (type $o)) (export "output-stream" (type $out (eq $o)))
    (export "get-stdout" (func (result (own $out))))))
  (import "wasi:cli/stderr{at}" (instance $stderr
    (alias outer 1 $output (type $o)) (export "output-stream" (type $out (eq $o)))
    (export "get-stderr" (func (result (own $out))))))
  (import "wasi:cli/environment{at}" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:cli/exit{at}" (instance $exit
    (export "exit" (func (param "status" (result))))))
  (import "wasi:clocks/wall-clock{at}" (instance $wall
    (type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $d)))
    (export "now" (func (result $datetime)))))
  (import "wasi:clocks/monotonic-clock{at}" (instance $clock
    (alias outer 1 $pollable (type $q)) (export "pollable" (type $p (eq $q)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:random/random{at}" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (import "wasi:filesystem/types{at}" (instance $files
    (export "descriptor" (type (sub resource)))))
  (alias export $files "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens{at}" (instance $preopens
    (alias outer 1 $descriptor (type $q)) (export "descriptor" (type $d (eq $q)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (import "wasi:sockets/tcp-create-socket{at}" (instance $sockets
    (export "tcp-socket" (type $s (sub resource)))
    (type $c (enum "unknown" "access-denied" "not-supported" "invalid-argument"
      "out-of-memory" "timeout" "concurrency-conflict" "not-in-progress" "would-block"
      "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
      "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
      "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
      "permanent-resolver-failure"))
    (export "error-code" (type $code (eq $c)))
    (type $f (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type $family (eq $f)))
    (export "create-tcp-socket"
      (func (param "family" $family) (result (result (own $s) (error $code)))))))
  (core module $heap {ALLOCATOR})
  (core instance $h (instantiate $heap))
  {lowered}
  (core module $m
    {imports}
    (import "heap" "memory" (memory 1))
    (func $text (param $at i32)
      (call $write (call $stdout) (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))
        (i32.const 64)))
    {extra}
    (func (export "run") (result i32) {body}))
  (core instance $i (instantiate $m (with "heap" (instance $h)) (with "" (instance {given}))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run{at}" (instance $exported)))
"""
