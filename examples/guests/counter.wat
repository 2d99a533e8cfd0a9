;; A guest with state: it lives as long as its instance.
(module
  (global $count (mut i64) (i64.const 0))

  (func $add (export "add") (param $amount i64) (result i64)
    (global.set $count (i64.add (global.get $count) (local.get $amount)))
    (global.get $count))

  (func (export "increment") (result i64)
    (call $add (i64.const 1)))

  (func (export "value") (result i64)
    (global.get $count))

  (func (export "reset")
    (global.set $count (i64.const 0)))

  ;; fails half way: the count has changed, then the guest traps
  (func (export "increment_and_trap")
    (drop (call $add (i64.const 1)))
    (unreachable)))
