"""Components through a pool: loaded, looked at, called, run, and kept to their limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from component_bench import Guest
from component_commands import command
from component_texts import ALLOCATOR, OPTIONS
from engine_support import LIMITS, bench, close_after_module, close_after_test

from wasm_sandbox import (
    ArgumentOutOfRange,
    BadResult,
    Capabilities,
    CapabilityDenied,
    Clock,
    ConfigurationError,
    DeadlineExceeded,
    Environment,
    Err,
    Filesystem,
    GuestExit,
    Limits,
    MissingExport,
    MissingImport,
    Module,
    Ok,
    OutOfFuel,
    OutputLimitExceeded,
    Pool,
    Random,
    SignatureMismatch,
    Some,
    Trap,
    UnsupportedModule,
    Variant,
)
from wasm_sandbox.protocol.wit import INTEGERS
from wasm_sandbox.worker.engines.interface import EngineRefusal, Wasi

__all__ = ["close_after_module", "close_after_test"]

GEOMETRY = Path(__file__).resolve().parents[1] / "examples" / "guests" / "geometry.wat"
SHAPES = "docs:geometry/shapes@0.1.0"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def geometry(pool: Pool) -> Module:
    return pool.load(GEOMETRY)


@dataclass
class Point:
    x: int
    y: int


# --- looking and calling -------------------------------------------------------------------------


def test_values_of_all_kinds_cross(geometry: Module) -> None:
    mirror, double = geometry[f"{SHAPES}#mirror"], geometry[f"{SHAPES}#double"]
    assert geometry["greet"]("Wörld") == "Hello, Wörld"
    assert mirror({"x": 1, "y": -2}) == {"x": -2, "y": 1}
    assert mirror(Point(1, -2)) == {"x": -2, "y": 1}
    assert double(Variant("circle", 4)) == Variant("circle", 8)
    assert double(Variant("square", Point(1, 2))) == Variant("square", {"x": 2, "y": 4})
    assert double(Variant("nothing")) == Variant("nothing")
    assert geometry[f"{SHAPES}#bounds"]([Point(1, 5), Point(-3, 9)]) == (
        {"x": -3, "y": 5},
        {"x": 1, "y": 9},
    )
    assert geometry[f"{SHAPES}#bounds"]([]) is None


def test_a_result_is_a_value_and_never_raised(geometry: Module) -> None:
    divide = geometry["docs:geometry/shapes#divide"]
    assert divide(7, 2) == Ok(3)
    assert divide(7, 0) == Err("division by zero")


def test_the_world_is_shown(geometry: Module) -> None:
    assert list(geometry) == [
        "greet",
        f"{SHAPES}#mirror",
        f"{SHAPES}#double",
        f"{SHAPES}#divide",
        f"{SHAPES}#bounds",
    ]
    assert "greet" in geometry
    assert "circle" not in geometry
    assert str(geometry.exports[f"{SHAPES}#double"]) == "func(s: shape) -> shape"
    assert geometry.imports == ()
    assert geometry.wit == (
        "world component {\n"
        "  export greet: func(name: string) -> string;\n"
        f"  export {SHAPES}: interface {{\n"
        "    record point { x: s32, y: s32 }\n"
        "    variant shape { circle(u32), square(point), nothing }\n"
        "    mirror: func(p: point) -> point;\n"
        "    double: func(s: shape) -> shape;\n"
        "    divide: func(a: s32, b: s32) -> result<s32, string>;\n"
        "    bounds: func(points: list<point>) -> option<tuple<point, point>>;\n"
        "  }\n"
        "}"
    )


def test_the_version_may_be_left_out_where_only_one_fits(pool: Pool, geometry: Module) -> None:
    assert geometry["docs:geometry/shapes#divide"].name == f"{SHAPES}#divide"
    with pytest.raises(MissingExport, match="divid"):
        geometry["docs:geometry/shapes#divid"]
    two = pool.load(
        b"""(component
  (core module $m (func (export "f") (result i32) (i32.const 5)))
  (core instance $i (instantiate $m))
  (func $f (result u32) (canon lift (core func $i "f")))
  (instance $one (export "f" (func $f)))
  (export "a:b/c@1.0.0" (instance $one)) (export "a:b/c@2.0.0" (instance $one)))"""
    )
    assert two["a:b/c@2.0.0#f"]() == 5
    with pytest.raises(MissingExport, match="several versions") as caught:
        two["a:b/c#f"]
    assert "a:b/c@1.0.0#f or a:b/c@2.0.0#f" in caught.value.hint


def test_large_lists_of_bytes_cross_as_they_are(pool: Pool) -> None:
    same = pool.load(
        f"""(component
  (core module $m {ALLOCATOR}
    (func (export "f") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func (export "f") (param "a" (list u8)) (result (list u8)) (canon lift
    (core func $i "f") {OPTIONS})))
""".encode()
    )["f"]
    data = bytes(range(256)) * (16 << 12)
    roomy = same.options(limits=Limits(output=len(data) + 100))
    assert roomy(data) == data
    assert roomy(memoryview(data)) == data
    assert same([1, 2, 255]) == b"\x01\x02\xff"
    with pytest.raises(OutputLimitExceeded):
        same.options(limits=Limits(output=len(data) - 1))(data)


# --- what does not fit ---------------------------------------------------------------------------


def one(pool: Pool, kind: str) -> Module:
    """A component whose ``f`` takes one value of ``kind`` and does nothing."""
    return pool.load(
        f"""(component
  (core module $m {ALLOCATOR} (func (export "f") (param i32)))
  (core instance $i (instantiate $m))
  (type $r (record (field "x-y" u8))) (export $point "point" (type $r))
  (type $v (variant (case "a" u8) (case "b"))) (export $choice "choice" (type $v))
  (type $e (enum "up" "down")) (export $way "way" (type $e))
  (type $f (flags "read" "write")) (export $mode "mode" (type $f))
  (func (export "f") (param "a" {kind}) {" ".join(f'(param "p{at}" u8)' for at in range(17))}
    (canon lift (core func $i "f") {OPTIONS})))
""".encode()
    )


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        *[(name, low - 1, f"argument 1 must be {name}") for name, (low, _) in INTEGERS.items()],
        *[(name, high + 1, f"argument 1 must be {name}") for name, (_, high) in INTEGERS.items()],
        ("u8", True, "must be u8, not True"),
        ("u8", 1.0, "must be u8, not 1.0"),
        ("u8", "1", "must be u8"),
        ("f32", 1e300, "must be f32"),
        ("f64", 2**53 + 1, "cannot hold"),
        ("f64", True, "must be f64"),
        ("bool", 1, "must be bool"),
        ("char", "ab", "a str of one character"),
        ("char", "", "a str of one character"),
        ("char", "\ud800", "lone surrogate"),
        ("string", "a\udfff", "lone surrogate"),
        ("string", b"a", "must be string"),
        ("(list u8)", [1, 256], r"argument 1\[1\] must be u8"),
        ("(list u8)", "text", "must be list<u8>"),
        ("(list s64)", [1, 2, 3.5], r"argument 1\[2\] must be s64"),
        ("(list (tuple u8 bool))", [(1, True), (2, 3)], r"argument 1\[1\]\[1\] must be bool"),
        ("(tuple u8 u8)", (1,), "2 values, not 1"),
        ("$point", {}, "the field x-y is missing"),
        ("$point", {"x-y": 1, "z": 2}, "no field 'z'"),
        ("$point", {"x-y": 1, "x_y": 2}, "is given twice"),
        ("$point", {"x_y": -1}, r"argument 1\.x-y must be u8"),
        ("$point", 5, "must be point"),
        ("(list $point)", [{"x-y": 1}, {"x-y": 1000}], r"argument 1\[1\]\.x-y must be u8"),
        ("$choice", "b", r"pass Variant\(case, payload\)"),
        ("$choice", Variant("c"), "no case 'c'"),
        ("$choice", Variant("b", 1), "has no payload"),
        ("$choice", Variant("a", 1000), r"argument 1\.a must be u8"),
        ("$way", "left", "must be way"),
        ("$way", 0, "must be way"),
        ("$mode", "read", "pass a set of names"),
        ("$mode", {"run"}, "no flag 'run'"),
        ("(option (option u8))", 5, r"Some\(value\)"),
        ("(option (option u8))", Some(Some(256)), "must be u8"),
        ("(result u8)", 5, r"Ok\(value\) or Err\(error\)"),
        ("(result u8)", Err(5), "has no payload"),
        ("(result u8)", Ok(256), r"argument 1\.Ok must be u8"),
    ],
)
def test_what_does_not_fit_is_refused_and_its_place_named(
    pool: Pool, kind: str, value: Any, message: str
) -> None:
    with pytest.raises(SignatureMismatch, match=message) as caught:
        one(pool, kind)["f"](value, *[0] * 17)
    in_range = isinstance(value, (int, float)) and not isinstance(value, bool)
    assert not isinstance(caught.value, ArgumentOutOfRange) or in_range or "must be" in message


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_arguments_is_refused(geometry: Module, count: int) -> None:
    with pytest.raises(SignatureMismatch, match=f"takes 2 arguments, {count} given"):
        geometry["docs:geometry/shapes#divide"](*[1] * count)


@pytest.mark.parametrize(
    ("function", "wire"),
    [
        ("greet", 5),
        ("greet", None),
        ("docs:geometry/shapes#mirror", [1]),
        ("docs:geometry/shapes#mirror", [1, 2**31]),
        ("docs:geometry/shapes#mirror", [1, True]),
        ("docs:geometry/shapes#mirror", {"x": 1, "y": 2}),
        ("docs:geometry/shapes#double", [3, None]),
        ("docs:geometry/shapes#double", [-1, None]),
        ("docs:geometry/shapes#double", [2, 5]),
        ("docs:geometry/shapes#divide", [2, None]),
        ("docs:geometry/shapes#divide", [1, "x", "y"]),
        ("docs:geometry/shapes#bounds", [0, 1]),
        ("docs:geometry/shapes#bounds", [1, [[1, 2]]]),
    ],
)
def test_a_worker_cannot_give_what_is_none_of_the_type(
    geometry: Module, function: str, wire: Any
) -> None:
    with pytest.raises(BadResult):
        geometry[function].codec.unpack(b"", msgspec.msgpack.encode(wire))


@pytest.mark.parametrize("data", [None, b"", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xa1\xff"])
def test_a_worker_cannot_give_what_cannot_be_read(geometry: Module, data: bytes | None) -> None:
    with pytest.raises(BadResult):
        geometry["greet"].codec.unpack(b"", data)


def test_what_is_not_for_components_is_refused(geometry: Module, tmp_path: Path) -> None:
    greet = geometry["greet"]
    with pytest.raises(SignatureMismatch, match="returns="):
        greet.options(returns=str)
    files = Capabilities(filesystem=Filesystem.read_only(tmp_path))
    assert greet.options(capabilities=files)("x") == "Hello, x"
    with pytest.raises(MissingExport, match="wasi:cli/run"):
        _ = geometry.main


def test_a_resource_is_refused_where_it_would_outlive_its_instance(pool: Pool) -> None:
    module = pool.load(
        b"""(component
  (type $r (resource (rep i32)))
  (export $res "thing" (type $r))
  (core func $new (canon resource.new $r))
  (core module $m (import "" "new" (func $new (param i32) (result i32)))
    (func (export "make") (result i32) (call $new (i32.const 1))))
  (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
  (func (export "[constructor]thing") (result (own $res)) (canon lift (core func $i "make"))))"""
    )
    assert "resource thing {\n    constructor();" in (module.wit or "").replace("      ", "    ")
    with pytest.raises(SignatureMismatch, match="thing is a resource"):
        module["[constructor]thing"]


# --- limits and ends -----------------------------------------------------------------------------


def test_limits_and_traps_are_those_of_any_module(pool: Pool) -> None:
    module = pool.load(
        f"""(component
  (core module $m {ALLOCATOR}
    (func (export "spin") (loop $l (br $l)))
    (func (export "fail") unreachable)
    (func (export "grow") (result i32) (memory.grow (i32.const 1000))))
  (core instance $i (instantiate $m))
  (func (export "spin") (canon lift (core func $i "spin")))
  (func (export "fail") (canon lift (core func $i "fail")))
  (func (export "grow") (result s32) (canon lift (core func $i "grow"))))
""".encode()
    )
    with pytest.raises(Trap) as caught:
        module["fail"]()
    assert caught.value.code == "unreachable"
    with pytest.raises(DeadlineExceeded):
        module["spin"].options(timeout=0.2)()
    with pytest.raises(OutOfFuel):
        module["spin"].options(fuel=10_000)()
    assert module["grow"]() == 1
    assert module["grow"].options(limits=Limits(memory=10 << 20))() == -1
    value, receipt = module["grow"].detailed()
    assert (value, receipt.peak_memory) == (1, 1001 * 65536)


def test_data_in_several_modules_is_there_for_each_instance(pool: Pool) -> None:
    """A jailed worker can make no file in memory, which the engine would map the data from."""
    module = pool.load(
        b"""(component
  (core module $a (memory (export "memory") 1) (data (i32.const 0) "\\05")
    (func (export "get") (result i32) (i32.load (i32.const 0)))
    (func (export "set") (i32.store (i32.const 0) (i32.const 50))))
  (core module $b (memory 1) (data (i32.const 0) "\\07")
    (func (export "get") (result i32) (i32.load (i32.const 0))))
  (core instance $x (instantiate $a))
  (core instance $y (instantiate $b))
  (core module $m
    (import "x" "get" (func $x (result i32))) (import "y" "get" (func $y (result i32)))
    (import "x" "set" (func $set))
    (func (export "f") (result i32) (i32.add (call $x) (call $y)) (call $set)))
  (core instance $i (instantiate $m (with "x" (instance $x)) (with "y" (instance $y))))
  (func (export "f") (result u32) (canon lift (core func $i "f"))))"""
    )
    assert [module["f"](), module["f"]()] == [12, 12]


def test_a_call_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"some input")
    guest = Guest(
        bench(),
        command("(call $read (call $stdin) (i64.const 4) (i32.const 128)) (i32.const 0)"),
    )
    wasi = Wasi(stdin=str(tmp_path / "input"))
    assert guest.module.run_command(wasi, LIMITS).exit_code == 0
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert guest.module.run_command(wasi, LIMITS).exit_code == 0
    assert set(os.listdir("/proc/self/fd")) == before


def test_many_calls_are_mapped_and_submitted_as_any_others(pool: Pool, geometry: Module) -> None:
    divide, greet = geometry["docs:geometry/shapes#divide"], geometry["greet"]
    assert list(pool.map(divide, range(50), [7] * 50)) == [Ok(n // 7) for n in range(50)]
    futures = [pool.submit(greet, str(n)) for n in range(20)]
    assert [future.result() for future in futures] == [f"Hello, {n}" for n in range(20)]
    with pytest.raises(SignatureMismatch):
        list(pool.map(divide, [1, 2], [3, "4"]))


def test_the_public_path_refuses_components() -> None:
    with pytest.raises(EngineRefusal, match="raw interface") as caught:
        bench(fault="forced by a test").load(GEOMETRY.read_bytes())
    assert caught.value.kind == "unsupported_module"


# --- WASI 0.2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.2.0", "0.2.3", "0.2.12"])
def test_a_command_has_its_streams_arguments_and_end(pool: Pool, version: str) -> None:
    app = pool.load(
        command(
            """
    (call $arguments (i32.const 128))
    (call $text (i32.add (i32.load (i32.const 128)) (i32.const 8)))
    (call $environment (i32.const 128))
    (call $text (i32.load (i32.const 128)))
    (call $text (i32.add (i32.load (i32.const 128)) (i32.const 8)))
    (call $read (call $stdin) (i64.const 100) (i32.const 128))
    (call $text (i32.const 132))
    (call $write (call $stderr) (i32.load (i32.const 132)) (i32.const 2) (i32.const 64))
    (call $read (call $stdin) (i64.const 100) (i32.const 128))
    (i32.eqz (i32.and
      (i32.eq (i32.load8_u (i32.const 128)) (i32.const 1))
      (i32.eq (i32.load8_u (i32.const 132)) (i32.const 1))))""",
            version,
        ).encode()
    )
    done = pool.run(app, "first", stdin=b"input", env={"NAME": "value"})
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"firstNAMEvalueinput", b"in")
    assert app.main.is_command
    assert {need.module for need in app.imports} >= {f"wasi:io/streams@{version}"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("(i32.const 0)", 0),
        ("(i32.const 1)", 1),
        ("(call $exit (i32.const 0)) unreachable", 0),
        ("(call $exit (i32.const 1)) unreachable", 1),
    ],
)
def test_a_command_says_how_it_ended(pool: Pool, body: str, code: int) -> None:
    assert pool.run(pool.load(command(body).encode())).exit_code == code


def test_a_function_of_that_name_is_no_command(pool: Pool) -> None:
    module = pool.load(
        b"""(component
  (core module $m (func (export "run") (result i32) (i32.const 7)))
  (core instance $i (instantiate $m))
  (func $run (result u32) (canon lift (core func $i "run")))
  (instance $x (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $x)))"""
    )
    assert module["wasi:cli/run#run"]() == 7
    with pytest.raises(MissingExport, match="no WASI command"):
        _ = module.main


def test_an_exit_ends_a_function_too(pool: Pool) -> None:
    source = command("(call $exit (i32.const 1)) unreachable").replace(
        "wasi:cli/run@", "my:own/run@"
    )
    with pytest.raises(GuestExit) as caught:
        pool.load(source.encode())["my:own/run#run"]()
    assert caught.value.code == 1
    assert caught.value.receipt is not None
    assert caught.value.receipt.peak_memory == 65536


def test_nothing_is_given_unasked(pool: Pool) -> None:
    app = pool.load(
        command(
            """
    (call $environment (i32.const 128))
    (call $directories (i32.const 136))
    (call $socket (i32.const 0) (i32.const 144))
    (i32.or (i32.or (i32.load (i32.const 132)) (i32.load (i32.const 140)))
      (i32.ne (i32.load8_u (i32.const 148)) (i32.const 1)))"""
        ).encode()
    )
    assert pool.run(app).exit_code == 0


def test_clocks_and_random_numbers_are_those_of_the_capabilities(pool: Pool) -> None:
    app = pool.load(
        command(
            """
    (call $wall (i32.const 128))
    (i64.store (i32.const 140) (call $monotonic))
    (call $random (i64.const 4) (i32.const 152))
    (drop (call $stdout))
    (call $write (call $stdout) (i32.const 128) (i32.const 20) (i32.const 64))
    (call $text (i32.const 152))
    (i32.const 0)"""
        ).encode()
    )
    given = Capabilities(clock=Clock.frozen(at=1.5), random=Random.seeded(1))
    first, second = (pool.run(app, capabilities=given).stdout for _ in range(2))
    assert first == second
    assert first[:12] == (1).to_bytes(8, "little") + (500_000_000).to_bytes(4, "little")
    assert pool.run(app).stdout[20:] != pool.run(app).stdout[20:]
    with pytest.raises(CapabilityDenied, match="random"):
        pool.run(app, capabilities=Capabilities(random=Random.none()))


def test_a_wait_ends_with_the_call(pool: Pool) -> None:
    app = pool.load(
        command("(call $block (call $timer (i64.const 3600000000000))) (i32.const 0)").encode()
    )
    with pytest.raises(DeadlineExceeded):
        pool.run(app, timeout=0.3)
    short = pool.load(
        command("(call $block (call $timer (i64.const 1000000))) (i32.const 0)").encode()
    )
    assert pool.run(short).exit_code == 0


def test_output_is_bounded(pool: Pool) -> None:
    app = pool.load(
        command(
            """(loop $more
      (call $write (call $stdout) (i32.const 0) (i32.const 60000) (i32.const 64)) (br $more))
      (i32.const 0)"""
        ).encode()
    )
    with pytest.raises(OutputLimitExceeded):
        pool.run(app, limits=Limits(output=1 << 20))


def test_too_much_at_once_is_a_trap(pool: Pool) -> None:
    app = pool.load(
        command(
            """(call $write (call $stdout) (i32.const 0) (i32.const 65537) (i32.const 64))
            (i32.const 0)""",
            extra='(data (i32.const 0) "")',
        ).encode()
    )
    with pytest.raises(Trap) as caught:
        pool.run(app)
    assert caught.value.code == "bad_value"


def test_an_environment_is_seen_by_every_function(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", "yes")
    module = pool.load(
        f"""(component
  (import "wasi:cli/environment@0.2.0" (instance $e
    (export "get-environment" (func (result (list (tuple string string)))))))
  (core module $heap {ALLOCATOR})
  (core instance $i (instantiate $heap))
  (core func $get (canon lower (func $e "get-environment") {OPTIONS}))
  (core module $m (import "" "get" (func $get (param i32)))
    (func (export "f") (result i32) (call $get (i32.const 16)) (i32.const 16)))
  (core instance $f (instantiate $m (with "" (instance (export "get" (func $get))))))
  (func (export "f") (result (list (tuple string string))) (canon lift
    (core func $f "f") {OPTIONS})))
""".encode()
    )
    assert module["f"]() == []
    granted = module["f"].options(capabilities=Capabilities(environment=Environment.allow("SEEN")))
    assert granted() == [("SEEN", "yes")]


@pytest.mark.parametrize(
    ("interface", "error", "words"),
    [
        ("wasi:http/incoming-handler@0.2.0", CapabilityDenied, "wasi:http"),
        ("wasi:sockets/udp@0.2.0", CapabilityDenied, "wasi:sockets"),
        ("wasi:http/outgoing-handler@0.3.0", MissingImport, "0.3.0"),
        ("wasi:nn/inference@0.2.0", MissingImport, "wasi:nn"),
        ("wasi:cli/stdin@0.1.0", MissingImport, "wasi:cli/stdin@0.1.0"),
        ("wasi:cli/exit@0.2.0", MissingImport, "wasi:cli/exit"),
        ("my:own/interface", MissingImport, "my:own/interface"),
    ],
)
def test_what_is_not_offered_is_named(
    pool: Pool, interface: str, error: type[Exception], words: str
) -> None:
    module = pool.load(
        f"""(component
  (import "{interface}" (instance $x (export "f" (func))))
  (core func $f (canon lower (func $x "f")))
  (core module $m (import "" "f" (func $f)) (func (export "g") (call $f)))
  (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
  (func (export "g") (canon lift (core func $i "g"))))""".encode()
    )
    with pytest.raises(error, match=words):
        module["g"]()


def test_an_import_of_another_type_is_told_from_a_missing_one(pool: Pool) -> None:
    module = pool.load(
        b"""(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $x (export "now" (func (result u32)))))
  (core func $f (canon lower (func $x "now")))
  (core module $m (import "" "f" (func $f (result i32))) (func (export "g") (result i32) (call $f)))
  (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
  (func (export "g") (result u32) (canon lift (core func $i "g"))))"""
    )
    with pytest.raises(SignatureMismatch, match=r"as \(\) -> u32; it is \(\) -> u64"):
        module["g"]()


@pytest.mark.parametrize("keyword", ["imports", "worker_imports"])
def test_functions_that_a_component_does_not_import_are_refused(pool: Pool, keyword: str) -> None:
    with pytest.raises(ConfigurationError, match="imports no such thing") as caught:
        pool.load(GEOMETRY, **{keyword: {"docs:geometry/log": {"write": len}}})
    assert caught.value.field == f"load.{keyword}['docs:geometry/log']['write']"


def test_asynchronous_components_are_refused(pool: Pool) -> None:
    with pytest.raises(UnsupportedModule, match=r"asynchronous|async|stream"):
        pool.load(b'(component (type $s (stream u8)) (import "f" (func (param "a" $s))))')
