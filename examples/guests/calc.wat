;; The same kind of library, by hand: the smallest module, and several results at once.
(module
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))

  ;; divmod(dividend, divisor) -> (quotient, remainder); divmod(1, 0) traps with "integer divide by zero"
  (func (export "divmod") (param i32 i32) (result i32 i32)
    (i32.div_s (local.get 0) (local.get 1))
    (i32.rem_s (local.get 0) (local.get 1)))

  (func (export "swap") (param i64 f64) (result f64 i64)
    (local.get 1)
    (local.get 0)))
