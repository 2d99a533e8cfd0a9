;; A library that asks its host for prices, and tells it what was ordered.
(module
  (import "env" "price" (func $price (param i32 i32) (result f64)))
  (import "env" "audit" (func $audit (param f64)))
  (memory (export "memory") 1)

  ;; The arguments of a call have their place behind the first kilobyte; nothing is ever freed.
  (global $top (mut i32) (i32.const 1024))
  (func (export "alloc") (param $size i32) (result i32)
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get $size))))

  ;; order(symbol, how many) -> what it costs
  (func (export "order") (param $symbol i32) (param $length i32) (param $count i32) (result f64)
    (local $amount f64)
    (local.set $amount (f64.mul
      (call $price (local.get $symbol) (local.get $length))
      (f64.convert_i32_s (local.get $count))))
    (call $audit (local.get $amount))
    (local.get $amount)))
