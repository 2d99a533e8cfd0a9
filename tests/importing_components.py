"""Components that import functions and resources of the program's."""

from __future__ import annotations

from component_texts import ALLOCATOR, OPTIONS, Definitions, Kind, flat, load_instruction

ECHO = "docs:test/echo@0.2.1"


def imported_echo(kind: Kind) -> str:
    """A component whose ``echo`` hands its first argument to the one that it imports, and gives
    back what that gives.

    Both have so many parameters that they cross in memory: the place of the arguments is handed on.
    """
    definitions = Definitions()
    name = definitions.reference(kind)
    aliases = [
        f'(alias export $host "t{number}" (type $e{number}))'
        for number in range(len(definitions.known))
    ]
    padding = " ".join(f'(param "p{number}" u8)' for number in range(17))
    if flat(kind) > 1:
        core, given = "(param i32 i32)", "i32"
        body = """(local $to i32)
          (local.set $to
            (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 4096)))
          (call $echo (local.get 0) (local.get $to))
          (local.get $to)"""
    else:
        given = load_instruction(kind)[:3]
        core, body = f"(param i32) (result {given})", "(call $echo (local.get 0))"
    return f"""
(component
  (import "{ECHO}" (instance $host
    {" ".join(_in_interface(line) for line in definitions.lines)}
    (export "echo" (func (param "a" {name}) {padding} (result {name})))))
  {" ".join(aliases)}
  (core module $memory {ALLOCATOR})
  (core instance $i (instantiate $memory))
  (core func $echo (canon lower (func $host "echo") {OPTIONS}))
  (core module $m
    (import "i" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
    (import "i" "echo" (func $echo {core}))
    (func (export "echo") (param i32) (result {given}) {body}))
  (core instance $j (instantiate $m (with "i" (instance
    (export "realloc" (func $i "realloc")) (export "echo" (func $echo))))))
  (func (export "echo") (param "a" {name}) {padding} (result {name})
    (canon lift (core func $j "echo") {OPTIONS})))
"""


def _in_interface(line: str) -> str:
    """A definition with its export, as the type of an interface has them."""
    head, _, tail = line.rpartition(" (export ")
    local, quoted, _ = tail.split(" ", 2)
    number = local.removeprefix("$e")
    return f"{head} (export {quoted} (type {local} (eq $t{number})))"


SHOP = b"""(component
  (import "docs:shop/prices@0.1.0" (instance $prices
    (export "unit-price" (func (param "item" u32) (result f64)))))
  (import "log" (func $log (param "item" u32)))
  (core func $price (canon lower (func $prices "unit-price")))
  (core func $say (canon lower (func $log)))
  (core module $m
    (import "h" "price" (func $price (param i32) (result f64)))
    (import "h" "log" (func $log (param i32)))
    (func (export "order") (param i32 i32) (result f64)
      (call $log (local.get 0))
      (f64.mul (call $price (local.get 0)) (f64.convert_i32_u (local.get 1))))
    (func (export "storm") (param $n i32) (result f64) (local $sum f64)
      (block $done (loop $more
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $sum (f64.add (local.get $sum) (call $price (local.get $n))))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $more)))
      (local.get $sum)))
  (core instance $i (instantiate $m (with "h" (instance
    (export "price" (func $price)) (export "log" (func $say))))))
  (func (export "order") (param "item" u32) (param "count" u32) (result f64)
    (canon lift (core func $i "order")))
  (func (export "storm") (param "n" u32) (result f64) (canon lift (core func $i "storm"))))"""
PRICES = "docs:shop/prices@0.1.0"


COMMAND = b"""(component
  (import "tell" (func $tell (param "n" u32)))
  (core func $t (canon lower (func $tell)))
  (core module $m
    (import "h" "tell" (func $tell (param i32)))
    (func (export "run") (result i32) (call $tell (i32.const 7)) (i32.const 0)))
  (core instance $i (instantiate $m (with "h" (instance (export "tell" (func $t))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $exported)))"""


def dividing(host: str = "docs:math/ops") -> bytes:
    """``divide`` of the program's, whose type is ``result<s32, string>``; handed on as it is."""
    return f"""(component
  (import "{host}" (instance $ops
    (export "divide" (func (param "a" s32) (param "b" s32) (result (result s32 (error string)))))))
  (core module $memory {ALLOCATOR})
  (core instance $i (instantiate $memory))
  (core func $divide (canon lower (func $ops "divide") {OPTIONS}))
  (core module $m
    (import "h" "divide" (func $divide (param i32 i32 i32)))
    (func (export "divide") (param i32 i32) (result i32)
      (call $divide (local.get 0) (local.get 1) (i32.const 64)) (i32.const 64)))
  (core instance $j (instantiate $m (with "h" (instance (export "divide" (func $divide))))))
  (func (export "divide") (param "a" s32) (param "b" s32) (result (result s32 (error string)))
    (canon lift (core func $j "divide") {OPTIONS})))""".encode()


DATABASE = b"""(component
  (import "docs:db/api@0.1.0" (instance $db
    (export "connection" (type $c (sub resource)))
    (export "[constructor]connection" (func (param "size" u32) (result (own $c))))
    (export "[method]connection.add-up"
      (func (param "self" (borrow $c)) (param "n" u32) (result u32)))
    (export "[static]connection.how-many" (func (result u32)))
    (export "merge" (func (param "a" (own $c)) (param "b" (borrow $c)) (result (own $c))))))
  (alias export $db "connection" (type $c))
  (core func $new (canon lower (func $db "[constructor]connection")))
  (core func $add (canon lower (func $db "[method]connection.add-up")))
  (core func $many (canon lower (func $db "[static]connection.how-many")))
  (core func $merge (canon lower (func $db "merge")))
  (core func $drop (canon resource.drop $c))
  (core module $m
    (import "h" "new" (func $new (param i32) (result i32)))
    (import "h" "add" (func $add (param i32 i32) (result i32)))
    (import "h" "many" (func $many (result i32)))
    (import "h" "merge" (func $merge (param i32 i32) (result i32)))
    (import "h" "drop" (func $drop (param i32)))
    (global $kept (mut i32) (i32.const 0))
    (func (export "use") (param i32 i32) (result i32) (local $c i32) (local $sum i32)
      (local.set $c (call $new (local.get 0)))
      (local.set $sum (call $add (local.get $c) (local.get 1)))
      (call $drop (local.get $c))
      (local.get $sum))
    (func (export "leave") (param i32) (result i32)
      (global.set $kept (call $new (local.get 0)))
      (global.get $kept))
    (func (export "add-kept") (param i32) (result i32)
      (call $add (global.get $kept) (local.get 0)))
    (func (export "add-to") (param i32) (result i32) (call $add (local.get 0) (i32.const 0)))
    (func (export "release") (call $drop (global.get $kept)))
    (func (export "many") (result i32) (call $many))
    (func (export "merge") (param i32 i32) (result i32) (local $a i32)
      (local.set $a (call $new (local.get 0)))
      (global.set $kept (call $new (local.get 1)))
      (call $add (call $merge (local.get $a) (global.get $kept)) (i32.const 0)))
    (func (export "merge-itself") (result i32) (local $a i32)
      (local.set $a (call $new (i32.const 1)))
      (call $merge (local.get $a) (local.get $a)))
    (func (export "hoard") (param $n i32)
      (loop $more
        (drop (call $new (local.get $n)))
        (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
  (core instance $i (instantiate $m (with "h" (instance
    (export "new" (func $new)) (export "add" (func $add)) (export "many" (func $many))
    (export "merge" (func $merge)) (export "drop" (func $drop))))))
  (func (export "use") (param "size" u32) (param "n" u32) (result u32)
    (canon lift (core func $i "use")))
  (func (export "leave") (param "size" u32) (result u32) (canon lift (core func $i "leave")))
  (func (export "add-kept") (param "n" u32) (result u32) (canon lift (core func $i "add-kept")))
  (func (export "add-to") (param "handle" u32) (result u32) (canon lift (core func $i "add-to")))
  (func (export "release") (canon lift (core func $i "release")))
  (func (export "many") (result u32) (canon lift (core func $i "many")))
  (func (export "merge") (param "a" u32) (param "b" u32) (result u32)
    (canon lift (core func $i "merge")))
  (func (export "merge-itself") (result u32) (canon lift (core func $i "merge-itself")))
  (func (export "hoard") (param "n" u32) (canon lift (core func $i "hoard"))))"""
DB = "docs:db/api@0.1.0"
CARRIER = b"""(component
  (import "docs:db/api@0.1.0" (instance $db
    (export "connection" (type $c (sub resource)))
    (export "[method]connection.add-up"
      (func (param "self" (borrow $c)) (param "n" u32) (result u32)))))
  (alias export $db "connection" (type $c))
  (core func $add (canon lower (func $db "[method]connection.add-up")))
  (core func $drop (canon resource.drop $c))
  (core module $m
    (import "h" "add" (func $add (param i32 i32) (result i32)))
    (import "h" "drop" (func $drop (param i32)))
    (global $kept (mut i32) (i32.const 0))
    (func (export "look") (param $c i32) (param $n i32) (result i32) (local $sum i32)
      (local.set $sum (call $add (local.get $c) (local.get $n)))
      (call $drop (local.get $c))
      (local.get $sum))
    (func (export "leave") (param i32))
    (func (export "give-back") (param i32) (result i32) (local.get 0))
    (func (export "keep") (param i32) (global.set $kept (local.get 0)))
    (func (export "add-kept") (param i32) (result i32)
      (call $add (global.get $kept) (local.get 0)))
    (func (export "release") (result i32) (global.get $kept))
    (func (export "trap") (param i32) unreachable))
  (core instance $i (instantiate $m (with "h" (instance
    (export "add" (func $add)) (export "drop" (func $drop))))))
  (export $e "connection" (type $c))
  (func (export "look") (param "c" (borrow $e)) (param "n" u32) (result u32)
    (canon lift (core func $i "look")))
  (func (export "finish") (param "c" (own $e)) (param "n" u32) (result u32)
    (canon lift (core func $i "look")))
  (func (export "leave") (param "c" (own $e)) (canon lift (core func $i "leave")))
  (func (export "leave-lent") (param "c" (borrow $e)) (canon lift (core func $i "leave")))
  (func (export "give-back") (param "c" (own $e)) (result (own $e))
    (canon lift (core func $i "give-back")))
  (func (export "give-lent") (param "c" (borrow $e)) (result (own $e))
    (canon lift (core func $i "give-back")))
  (func (export "keep") (param "c" (own $e)) (canon lift (core func $i "keep")))
  (func (export "add-kept") (param "n" u32) (result u32) (canon lift (core func $i "add-kept")))
  (func (export "release") (result (own $e)) (canon lift (core func $i "release")))
  (func (export "trap") (param "c" (own $e)) (canon lift (core func $i "trap"))))"""
"""Its exports take and give a resource of the program's."""
