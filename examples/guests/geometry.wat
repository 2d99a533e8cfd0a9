;; A component with an interface: records, a variant, results, lists and strings.
;;
;;     package docs:geometry@0.1.0;
;;     interface shapes {
;;       record point { x: s32, y: s32 }
;;       variant shape { circle(u32), square(point), nothing }
;;       mirror: func(p: point) -> point;
;;       double: func(s: shape) -> shape;
;;       divide: func(a: s32, b: s32) -> result<s32, string>;
;;       bounds: func(points: list<point>) -> option<tuple<point, point>>;
;;     }
;;     world geometry {
;;       export shapes;
;;       export greet: func(name: string) -> string;
;;     }
(component
  (core module $module
    (memory (export "memory") 1)
    (data (i32.const 16) "division by zero")
    (data (i32.const 32) "Hello, ")
    (global $top (mut i32) (i32.const 1024))

    ;; Takes more and more memory: an instance lives for one call only.
    (func $allocate (export "allocate")
      (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (loop $more
        (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
          (then
            (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
            (br $more))))
      (local.get $at))

    ;; Results of more than one value lie at 512.
    (func (export "mirror") (param $x i32) (param $y i32) (result i32)
      (i32.store (i32.const 512) (local.get $y))
      (i32.store (i32.const 516) (local.get $x))
      (i32.const 512))

    (func (export "double") (param $case i32) (param $a i32) (param $b i32) (result i32)
      (i32.store8 (i32.const 512) (local.get $case))
      (i32.store (i32.const 516) (i32.mul (local.get $a) (i32.const 2)))
      (i32.store (i32.const 520) (i32.mul (local.get $b) (i32.const 2)))
      (i32.const 512))

    (func (export "divide") (param $a i32) (param $b i32) (result i32)
      (if (local.get $b)
        (then
          (i32.store8 (i32.const 512) (i32.const 0))
          (i32.store (i32.const 516) (i32.div_s (local.get $a) (local.get $b))))
        (else
          (i32.store8 (i32.const 512) (i32.const 1))
          (i32.store (i32.const 516) (i32.const 16))
          (i32.store (i32.const 520) (i32.const 16))))
      (i32.const 512))

    (func $least (param $at i32) (param $value i32)
      (if (i32.lt_s (local.get $value) (i32.load (local.get $at)))
        (then (i32.store (local.get $at) (local.get $value)))))
    (func $greatest (param $at i32) (param $value i32)
      (if (i32.gt_s (local.get $value) (i32.load (local.get $at)))
        (then (i32.store (local.get $at) (local.get $value)))))

    (func (export "bounds") (param $points i32) (param $count i32) (result i32)
      (i32.store8 (i32.const 512) (i32.ne (local.get $count) (i32.const 0)))
      (i32.store (i32.const 516) (i32.const 0x7fffffff))
      (i32.store (i32.const 520) (i32.const 0x7fffffff))
      (i32.store (i32.const 524) (i32.const 0x80000000))
      (i32.store (i32.const 528) (i32.const 0x80000000))
      (loop $next
        (if (local.get $count)
          (then
            (call $least (i32.const 516) (i32.load (local.get $points)))
            (call $least (i32.const 520) (i32.load offset=4 (local.get $points)))
            (call $greatest (i32.const 524) (i32.load (local.get $points)))
            (call $greatest (i32.const 528) (i32.load offset=4 (local.get $points)))
            (local.set $points (i32.add (local.get $points) (i32.const 8)))
            (local.set $count (i32.sub (local.get $count) (i32.const 1)))
            (br $next))))
      (i32.const 512))

    (func (export "greet") (param $name i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (call $allocate
          (i32.const 0) (i32.const 0) (i32.const 1) (i32.add (local.get $size) (i32.const 7))))
      (memory.copy (local.get $at) (i32.const 32) (i32.const 7))
      (memory.copy (i32.add (local.get $at) (i32.const 7)) (local.get $name) (local.get $size))
      (i32.store (i32.const 512) (local.get $at))
      (i32.store (i32.const 516) (i32.add (local.get $size) (i32.const 7)))
      (i32.const 512)))
  (core instance $code (instantiate $module))
  (alias core export $code "memory" (core memory $memory))
  (alias core export $code "allocate" (core func $allocate))

  (type $point (record (field "x" s32) (field "y" s32)))
  (type $shape (variant (case "circle" u32) (case "square" $point) (case "nothing")))
  (func $mirror (param "p" $point) (result $point)
    (canon lift (core func $code "mirror") (memory $memory)))
  (func $double (param "s" $shape) (result $shape)
    (canon lift (core func $code "double") (memory $memory)))
  (func $divide (param "a" s32) (param "b" s32) (result (result s32 (error string)))
    (canon lift (core func $code "divide") (memory $memory)))
  (func $bounds (param "points" (list $point)) (result (option (tuple $point $point)))
    (canon lift (core func $code "bounds") (memory $memory) (realloc $allocate)))

  ;; An interface has names for its types, so it is put together by a component of its own.
  (component $interface
    (import "point" (type $point' (eq $point)))
    (type $shape' (variant (case "circle" u32) (case "square" $point') (case "nothing")))
    (import "shape" (type $shape (eq $shape')))
    (import "mirror" (func $mirror (param "p" $point') (result $point')))
    (import "double" (func $double (param "s" $shape) (result $shape)))
    (import "divide"
      (func $divide (param "a" s32) (param "b" s32) (result (result s32 (error string)))))
    (import "bounds"
      (func $bounds (param "points" (list $point')) (result (option (tuple $point' $point')))))
    (export $point-export "point" (type $point'))
    (type $shape-named
      (variant (case "circle" u32) (case "square" $point-export) (case "nothing")))
    (export $shape-export "shape" (type $shape) (type (eq $shape-named)))
    (export "mirror" (func $mirror)
      (func (param "p" $point-export) (result $point-export)))
    (export "double" (func $double)
      (func (param "s" $shape-export) (result $shape-export)))
    (export "divide" (func $divide))
    (export "bounds" (func $bounds)
      (func (param "points" (list $point-export))
        (result (option (tuple $point-export $point-export))))))
  (instance $shapes
    (instantiate $interface
      (with "point" (type $point))
      (with "shape" (type $shape))
      (with "mirror" (func $mirror))
      (with "double" (func $double))
      (with "divide" (func $divide))
      (with "bounds" (func $bounds))))
  (export "docs:geometry/shapes@0.1.0" (instance $shapes))

  (func (export "greet") (param "name" string) (result string)
    (canon lift (core func $code "greet") (memory $memory) (realloc $allocate))))
