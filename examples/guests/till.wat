;; A library with state that calls its host: a till, which asks for prices and has receipts printed.
(module
  (import "env" "price" (func $price (param i32 i32) (result f64)))
  (import "env" "print" (func $print (param f64 i32)))
  (memory (export "memory") 1)

  (global $total (mut f64) (f64.const 0))
  (global $items (mut i32) (i32.const 0))

  ;; One argument at a time lies behind the first kilobyte: none is needed after its call.
  (func (export "alloc") (param $size i32) (result i32)
    (i32.const 1024))

  ;; scan(name, how many) -> what it comes to so far; where there is no price, nothing has changed
  (func (export "scan") (param $name i32) (param $length i32) (param $count i32) (result f64)
    (global.set $total (f64.add
      (global.get $total)
      (f64.mul
        (call $price (local.get $name) (local.get $length))
        (f64.convert_i32_s (local.get $count)))))
    (global.set $items (i32.add (global.get $items) (local.get $count)))
    (global.get $total))

  ;; the total, which is zero again
  (func (export "pay") (result f64)
    (local $paid f64)
    (local.set $paid (global.get $total))
    (call $print (local.get $paid) (global.get $items))
    (global.set $total (f64.const 0))
    (global.set $items (i32.const 0))
    (local.get $paid)))
