"""Tiny guests for tests: each function returns a module in WebAssembly's text format.

WASI guests are in ``tests.guest_commands``, hostile binaries in ``tests.hostile``.
"""

from collections.abc import Callable, Sequence

PAGE = 65536
PAGES_OF_4_GIB = 65536
VALUE_TYPES = ("i32", "i64", "f32", "f64", "v128")
REFERENCE_TYPES = ("funcref", "externref")


# -- values -------------------------------------------------------------------------------------


def add() -> str:
    """``add(i32, i32) -> i32``, wrapping."""
    return """(module (func (export "add") (param i32 i32) (result i32)
      (i32.add (local.get 0) (local.get 1))))"""


def identity(value_type: str) -> str:
    """``identity(t) -> t`` for one value type, reference types included."""
    return f"""(module (func (export "identity") (param {value_type}) (result {value_type})
      (local.get 0)))"""


def all_values() -> str:
    """``all`` takes and returns one of each of ``VALUE_TYPES``; ``i32`` … take and return one."""
    single = "\n".join(
        f'(func (export "{t}") (param {t}) (result {t}) (local.get 0))' for t in VALUE_TYPES
    )
    every = " ".join(VALUE_TYPES)
    gets = " ".join(f"(local.get {i})" for i in range(len(VALUE_TYPES)))
    return f'(module {single} (func (export "all") (param {every}) (result {every}) {gets}))'


def swap(first: str = "i32", second: str = "i64") -> str:
    """``swap(a, b) -> (b, a)``: several results."""
    return f"""(module (func (export "swap") (param {first} {second}) (result {second} {first})
      (local.get 1) (local.get 0)))"""


def many_results(count: int) -> str:
    """``count() -> (0, 1, …, count - 1)``, as i32 (the validator allows 1000)."""
    values = " ".join(f"(i32.const {i})" for i in range(count))
    return f'(module (func (export "count") (result{" i32" * count}) {values}))'


def references() -> str:
    """References in and out: ``null_func``, ``null_extern``, ``is_null(externref) -> i32``."""
    return """(module
      (func (export "null_func") (result funcref) (ref.null func))
      (func (export "null_extern") (result externref) (ref.null extern))
      (func (export "is_null") (param externref) (result i32) (ref.is_null (local.get 0))))"""


# -- state --------------------------------------------------------------------------------------


def counter() -> str:
    """``increment() -> i32`` counts in a global, and at address 0 of the memory (``stored()``)."""
    return """(module
      (memory (export "memory") 1)
      (global $count (mut i32) (i32.const 0))
      (func (export "increment") (result i32)
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
        (global.get $count))
      (func (export "stored") (result i32) (i32.load (i32.const 0))))"""


def globals_() -> str:
    """Globals ``limit`` (constant, 42) and ``level`` (mutable, 7); ``set_level``, ``level_now``."""
    return """(module
      (global (export "limit") i32 (i32.const 42))
      (global $level (export "level") (mut i32) (i32.const 7))
      (func (export "set_level") (param i32) (global.set $level (local.get 0)))
      (func (export "level_now") (result i32) (global.get $level)))"""


def peek_poke(pages: int = 1) -> str:
    """``poke(address, byte)`` and ``peek(address) -> byte``: shows whether memory is fresh."""
    return f"""(module
      (memory (export "memory") {pages})
      (func (export "poke") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
      (func (export "peek") (param i32) (result i32) (i32.load8_u (local.get 0))))"""


def table_state() -> str:
    """``set()`` fills table slot 0, ``is_set() -> i32`` tells: shows whether a table is fresh."""
    return """(module
      (table 4 funcref)
      (func $here)
      (elem declare func $here)
      (func (export "set") (table.set (i32.const 0) (ref.func $here)))
      (func (export "is_set") (result i32)
        (i32.eqz (ref.is_null (table.get (i32.const 0))))))"""


# -- memory -------------------------------------------------------------------------------------


def memory_grow(minimum: int = 1, maximum: int | None = None) -> str:
    """``grow(pages) -> old size or -1``, ``size() -> pages``, ``touch(pages)`` writes to each."""
    return f"""(module
      (memory (export "memory") {minimum} {"" if maximum is None else maximum})
      (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "size") (result i32) (memory.size))
      (func (export "touch") (param $pages i32)
        (loop $next
          (local.set $pages (i32.sub (local.get $pages) (i32.const 1)))
          (i32.store (i32.mul (local.get $pages) (i32.const {PAGE})) (i32.const 1))
          (br_if $next (local.get $pages)))))"""


def grow_until_refused() -> str:
    """``hog() -> pages`` grows and touches page by page until growing is refused."""
    return f"""(module
      (memory (export "memory") 0)
      (func (export "hog") (result i32) (local $page i32)
        (loop $next
          (local.set $page (memory.grow (i32.const 1)))
          (if (i32.ne (local.get $page) (i32.const -1)) (then
            (i32.store (i32.mul (local.get $page) (i32.const {PAGE})) (i32.const 1))
            (br $next))))
        (memory.size)))"""


def several_memories(count: int, pages: int = 1) -> str:
    """``count`` memories of ``pages`` each; ``grow(which, pages)`` and ``total() -> pages``."""
    memories = "\n".join(f"(memory $m{i} {pages})" for i in range(count))
    sizes = "(i32.const 0)"
    branches = ""
    for i in range(count):
        sizes = f"(i32.add {sizes} (memory.size $m{i}))"
        branches += f"""(if (i32.eq (local.get $which) (i32.const {i}))
          (then (return (memory.grow $m{i} (local.get $pages)))))"""
    return f"""(module {memories}
      (func (export "grow") (param $which i32) (param $pages i32) (result i32)
        {branches} (i32.const -2))
      (func (export "total") (result i32) {sizes}))"""


def huge_minimum_memory(pages: int = PAGES_OF_4_GIB) -> str:
    """Declares ``pages`` as its least memory: refused where the limit is smaller."""
    return f'(module (memory (export "memory") {pages}) (func (export "run")))'


def fill() -> str:
    """``fill(bytes)`` is one ``memory.fill``: an instruction that nothing can interrupt."""
    return """(module (memory (export "memory") 1)
      (func (export "fill") (param i32)
        (memory.fill (i32.const 0) (i32.const 165) (local.get 0))))"""


def fill_all() -> str:
    """``fill()`` takes all the memory that it may, up to 4 GiB, and fills it again and again."""
    return f"""(module (memory (export "memory") 1)
      (func (export "fill") (local $step i32)
        (local.set $step (i32.const 4096))
        (loop $grow
          (if (i32.eq (memory.grow (local.get $step)) (i32.const -1))
            (then (local.set $step (i32.shr_u (local.get $step) (i32.const 1)))))
          (br_if $grow (local.get $step)))
        (loop $again
          (memory.fill (i32.const 0) (i32.const 165)
            (select (i32.const -1) (i32.mul (memory.size) (i32.const {PAGE}))
              (i32.eq (memory.size) (i32.const {PAGES_OF_4_GIB}))))
          (br $again))))"""


def table_grow() -> str:
    """``grow(elements) -> old size or -1`` on a table of funcref that starts with one element."""
    return """(module (table $t 1 funcref)
      (func (export "grow") (param i32) (result i32)
        (table.grow $t (ref.null func) (local.get 0))))"""


def huge_minimum_table(elements: int = 10_000_000) -> str:
    """Declares a table of ``elements``: refused where the limit is smaller."""
    return f'(module (table {elements} funcref) (func (export "run")))'


# -- control ------------------------------------------------------------------------------------


def loop() -> str:
    """``spin()`` never returns and never leaves the guest."""
    return '(module (func (export "spin") (loop $again (br $again))))'


def work() -> str:
    """``work(n) -> n`` goes round a loop ``n`` times: a call of adjustable length."""
    return """(module (func (export "work") (param $n i32) (result i32) (local $i i32)
      (block $done
        (loop $again
          (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $again)))
      (local.get $i)))"""


def start_loops() -> str:
    """Its start function never returns: instantiating it hangs."""
    return """(module (func $start (loop $again (br $again))) (start $start)
      (func (export "run")))"""


def start_traps() -> str:
    """Its start function traps with ``unreachable``."""
    return '(module (func $start (unreachable)) (start $start) (func (export "run")))'


def start_runs() -> str:
    """Its start function sets the global that ``value() -> 42`` returns."""
    return """(module (global $value (mut i32) (i32.const 0))
      (func $start (global.set $value (i32.const 42))) (start $start)
      (func (export "value") (result i32) (global.get $value)))"""


def recursion() -> str:
    """``descend()`` calls itself without end; ``depth(n) -> n`` calls itself ``n`` times."""
    return """(module
      (func $descend (export "descend") (result i32) (i32.add (call $descend) (i32.const 1)))
      (func $depth (export "depth") (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (i32.const 1)
            (call $depth (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0)))))"""


def traps() -> str:
    """One export for each kind of trap; ``TRAPS`` maps them to the specification's words."""
    return """(module
      (type $nothing (func))
      (memory 1)
      (table 2 funcref)
      (func $number (result i32) (i32.const 1))
      (elem (i32.const 1) $number)
      (func (export "unreachable") (unreachable))
      (func (export "divide_by_zero") (result i32) (i32.div_s (i32.const 1) (i32.const 0)))
      (func (export "overflow") (result i32)
        (i32.div_s (i32.const 0x80000000) (i32.const -1)))
      (func (export "bad_conversion") (result i32) (i32.trunc_f32_s (f32.const nan)))
      (func (export "memory_out_of_bounds") (result i32) (i32.load (i32.const 65536)))
      (func (export "table_out_of_bounds") (call_indirect (type $nothing) (i32.const 2)))
      (func (export "indirect_call_to_null") (call_indirect (type $nothing) (i32.const 0)))
      (func (export "bad_signature") (call_indirect (type $nothing) (i32.const 1)))
      (func $down (export "stack_overflow") (call $down)))"""


TRAPS = {
    "unreachable": "unreachable",
    "divide_by_zero": "integer divide by zero",
    "overflow": "integer overflow",
    "bad_conversion": "invalid conversion to integer",
    "memory_out_of_bounds": "out of bounds memory access",
    "table_out_of_bounds": "undefined element",
    "indirect_call_to_null": "uninitialized element",
    "bad_signature": "indirect call type mismatch",
    "stack_overflow": "call stack exhausted",
}


# -- imports and exports --------------------------------------------------------------------------


def missing_import(module: str = "env", name: str = "price") -> str:
    """Needs a function that nobody gives: ``module.name(i32) -> i32``."""
    return f"""(module (import "{module}" "{name}" (func $f (param i32) (result i32)))
      (func (export "run") (result i32) (call $f (i32.const 1))))"""


def unknown_wasi_import() -> str:
    """Imports a WASI function that does not exist."""
    return missing_import("wasi_snapshot_preview1", "launch_missiles")


def imported_memory() -> str:
    """Needs a memory from outside, which no call can give it."""
    return '(module (import "env" "memory" (memory 1)) (func (export "run")))'


def many_exports(count: int) -> str:
    """``f0 … f(count-1)``, each returning its own number."""
    return (
        "(module "
        + " ".join(f'(func (export "f{i}") (result i32) (i32.const {i}))' for i in range(count))
        + ")"
    )


def strange_exports(names: Sequence[str] = ("", " ", "a b", "naïve", "☃", "__proto__")) -> str:
    """A function under each name, returning its place in ``names``: any UTF-8 text is a name."""
    functions = " ".join(
        f'(func (export "{escape(name)}") (result i32) (i32.const {i}))'
        for i, name in enumerate(names)
    )
    return f"(module {functions})"


def no_functions() -> str:
    """Valid, with nothing to call: a memory and a global."""
    return '(module (memory (export "memory") 1) (global (export "g") i32 (i32.const 1)))'


# -- the buffer convention ------------------------------------------------------------------------

_BUMP = f"""
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 1024))
  (global $live (mut i32) (i32.const 0))
  (func $alloc (export "alloc") (param $size i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 15))
      (i32.const -16)))
    (block $fits
      (loop $more
        (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const {PAGE}))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (return (i32.const 0))))
        (br $more)))
    (global.set $live (i32.add (global.get $live) (i32.const 1)))
    (local.get $at))
"""
_FREE = """
  (func (export "free") (param i32 i32)
    (global.set $live (i32.sub (global.get $live) (i32.const 1))))
"""


def buffers(*, with_free: bool = True) -> str:
    """The buffer convention by hand: ``echo`` (packed i64), ``pair`` (two results), ``length``.

    They take ``(ptr, len)``; ``live() -> i32`` counts the allocations that were not freed.
    """
    return f"""(module {_BUMP} {_FREE if with_free else ""}
      (func $copy (param $at i32) (param $size i32) (result i32) (local $to i32)
        (local.set $to (call $alloc (local.get $size)))
        (memory.copy (local.get $to) (local.get $at) (local.get $size))
        (local.get $to))
      (func (export "echo") (param $at i32) (param $size i32) (result i64)
        (i64.or
          (i64.shl (i64.extend_i32_u (call $copy (local.get $at) (local.get $size))) (i64.const 32))
          (i64.extend_i32_u (local.get $size))))
      (func (export "pair") (param $at i32) (param $size i32) (result i32 i32)
        (call $copy (local.get $at) (local.get $size)) (local.get $size))
      (func (export "length") (param i32 i32) (result i32) (local.get 1))
      (func (export "live") (result i32) (global.get $live)))"""


def lying_buffers() -> str:
    """Breaks the buffer convention in each result; ``LIES`` lists its exports.

    ``outside`` and ``wraps`` point past the memory, ``huge`` claims 4 GiB, ``not_utf8`` and
    ``not_json`` hold the wrong bytes; ``takes(ptr, len)`` meets an ``alloc`` that points outside.
    """
    return """(module
      (memory (export "memory") 1)
      (data (i32.const 16) "\\ff\\fe{,")
      (func (export "alloc") (param i32) (result i32) (i32.const 0xffffff00))
      (func (export "takes") (param i32 i32) (result i32) (local.get 1))
      (func (export "outside") (result i64) (i64.const 0x0001000000000001))
      (func (export "wraps") (result i64) (i64.const 0xffffffff00000002))
      (func (export "huge") (result i64) (i64.const 0x00000000ffffffff))
      (func (export "not_utf8") (result i64) (i64.const 0x0000001000000002))
      (func (export "not_json") (result i64) (i64.const 0x0000001200000002)))"""


LIES = ("outside", "wraps", "huge", "not_utf8", "not_json")


def refusing_alloc() -> str:
    """Its ``alloc`` returns 0, which means "no memory"."""
    return """(module (memory (export "memory") 1)
      (func (export "alloc") (param i32) (result i32) (i32.const 0))
      (func (export "takes") (param i32 i32) (result i32) (local.get 1)))"""


VALID: dict[str, Callable[[], str]] = {
    function.__name__.strip("_"): function
    for function in (
        *(add, all_values, swap, references, counter, globals_, peek_poke, table_state),
        *(memory_grow, grow_until_refused, huge_minimum_memory, fill, fill_all, table_grow),
        *(huge_minimum_table, loop, work, start_loops, start_traps, start_runs, recursion),
        *(traps, missing_import, unknown_wasi_import, imported_memory, strange_exports),
        *(no_functions, buffers, lying_buffers, refusing_alloc),
    )
} | {
    "identity": lambda: identity("i32"),
    "many_results": lambda: many_results(1000),
    "several_memories": lambda: several_memories(10),
    "many_exports": lambda: many_exports(1000),
}
"""All of the above by name: valid modules, whatever else is wrong with them."""


def escape(text: str) -> str:
    """Text as the inside of a string in WebAssembly's text format."""
    return "".join(f"\\{byte:02x}" for byte in text.encode())
