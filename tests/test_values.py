"""Values cross the wall unharmed, or are refused with a reason."""

from __future__ import annotations

import array
import ctypes
import json
import math
import mmap
import struct
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandbox import ArgumentOutOfRange, BadResult, SignatureMismatch
from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.values import Codec, Returns, decode


def identity(*kinds: str) -> Codec:
    return Codec("f", FunctionType(kinds, kinds))


def through(codec: Codec, *args: Any) -> Any:
    slots, buffers = codec.pack(args)
    assert not buffers
    assert len(slots) == 16 * len(codec.type.params)
    return codec.unpack(slots)


def f32(value: float) -> float:
    (near,) = struct.unpack("<f", struct.pack("<f", value))
    return float(near)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i32": st.integers(-(2**31), 2**31 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "v128": st.binary(min_size=16, max_size=16),
}
SIGNATURES = st.lists(st.sampled_from(sorted(VALUES)), max_size=12)


@given(st.data())
def test_every_value_comes_back_as_it_went(data: st.DataObject) -> None:
    kinds = data.draw(SIGNATURES)
    values = tuple(data.draw(VALUES[kind]) for kind in kinds)
    expected: Any = None if not values else values[0] if len(values) == 1 else values
    assert through(identity(*kinds), *values) == expected


@given(st.integers(0, 2**128 - 1), st.sampled_from([("i32", 32), ("i64", 64)]))
def test_unsigned_integers_are_accepted_and_come_back_signed(
    number: int, kind: tuple[str, int]
) -> None:
    name, bits = kind
    number %= 1 << bits
    signed = number - (1 << bits) if number >= 1 << (bits - 1) else number
    assert through(identity(name), number) == signed
    assert through(identity(name), signed) == signed


@given(st.integers(-(2**127), 2**128 - 1))
def test_a_vector_is_an_integer_of_128_bits_too(number: int) -> None:
    assert through(identity("v128"), number) == (number % 2**128).to_bytes(16, "little")


@pytest.mark.parametrize("vector", [bytearray(range(16)), memoryview(bytes(range(16)))])
def test_a_vector_may_be_any_kind_of_16_bytes(vector: Any) -> None:
    assert through(identity("v128"), vector) == bytes(range(16))


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324, 3, -7])
def test_floats_take_their_special_values_and_exact_integers(kind: str, value: float) -> None:
    back = through(identity(kind), value)
    assert back == (f32(value) if kind == "f32" else value)
    assert isinstance(back, float)
    assert math.copysign(1, back) == math.copysign(1, value)


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_nan_stays_nan(kind: str) -> None:
    assert math.isnan(through(identity(kind), math.nan))


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_whatever_is_an_index_is_an_integer() -> None:
    assert through(identity("i32", "f64"), Index(7), Index(8)) == (7, 8.0)


OUT_OF_RANGE = [
    ("i32", 2**32),
    ("i32", -(2**31) - 1),
    ("i64", 2**64),
    ("i64", -(2**63) - 1),
    pytest.param("i64", 10**5000, id="i64-5001 digits"),
    ("v128", 2**128),
    ("f32", 1e39),
    ("f32", 2**24 + 1),
    ("f32", 10**60),
    ("f64", 2**53 + 1),
    ("f64", 10**400),
]


@pytest.mark.parametrize(("kind", "value"), OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused_by_name(kind: str, value: Any) -> None:
    with pytest.raises(ArgumentOutOfRange) as refusal:
        identity("i32", kind).pack((0, value))
    assert f"f: argument 2 must be {kind}, " in str(refusal.value)
    assert f"(i32, {kind}) -> (i32, {kind})" in str(refusal.value)
    assert isinstance(refusal.value, OverflowError)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


WRONG: list[Any] = [True, None, object(), (1,), 1j, Hostile()]
BUFFERS_FOR_NUMBERS: list[Any] = ["x", b"x", {}, []]
MISMATCHES: list[tuple[str, Any]] = [
    *((kind, wrong) for kind in VALUES for wrong in WRONG),
    *((kind, 1.0) for kind in ("i32", "i64", "v128")),
    *((kind, wrong) for kind in ("i32", "f64") for wrong in BUFFERS_FOR_NUMBERS),
    ("v128", "x" * 16),
    ("v128", bytes(15)),
    ("v128", bytes(17)),
]


@pytest.mark.parametrize(("kind", "value"), MISMATCHES)
def test_wrong_types_are_refused_by_name(kind: str, value: Any) -> None:
    with pytest.raises(SignatureMismatch) as refusal:
        identity("i32", kind).pack((0, value))
    assert f"f: argument 2 must be {kind}, not " in str(refusal.value)
    assert type(value).__name__ in str(refusal.value)
    assert f"(i32, {kind})" in str(refusal.value)
    assert isinstance(refusal.value, TypeError)


PAIR, TAIL = ("i32", "i32"), ("i32", "i32", "f32")
MISFITS: list[tuple[tuple[str, ...], tuple[Any, ...], str]] = [
    (PAIR, (), "takes 2 arguments, 0 given: nothing is given for parameter 1, i32"),
    (PAIR, (1,), "takes 2 arguments, 1 given: nothing is given for parameter 2, i32"),
    (PAIR, (1, 2, 7.5), "2 arguments, 3 given: no parameter is left for argument 3, 7.5 (float)"),
    ((), (1,), "takes 0 arguments, 1 given: no parameter is left for argument 1, 1 (int)"),
    (
        PAIR,
        ("x", 1),
        "parameters 1 and 2, both i32, as a pointer and a length, so none is left for argument 2",
    ),
    (PAIR, (1, "x"), "argument 2 must be i32, not 'x' (str)"),
    (TAIL, ("x",), "takes 3 parameters, 1 given: nothing is given for parameter 3, f32"),
    (TAIL, ("x", None), "argument 2 (parameter 3) must be f32, not None (NoneType)"),
    (TAIL, (1, "x", 1.5), "argument 2 must be i32, not 'x' (str)"),
    (("v128", *PAIR), (bytes(16), b"x", 1), "argument 2, b'x' (bytes), takes parameters 2 and 3"),
]


@pytest.mark.parametrize(("params", "args", "said"), MISFITS)
def test_arguments_that_do_not_fit_are_named_with_what_was_wanted_and_given(
    params: tuple[str, ...], args: tuple[Any, ...], said: str
) -> None:
    codec = Codec("f", FunctionType(params, ()))
    with pytest.raises(SignatureMismatch) as refusal:
        codec.pack(args)
    assert said in str(refusal.value)
    assert f"the type is {codec.type}" in str(refusal.value)


HINTS = [
    ("i32", True, "int(value)"),
    ("i64", 1.0, "int(value)"),
    ("f64", True, "float(value)"),
    ("f32", Fraction(1, 2), "float(value)"),
    ("f64", None, ""),
    ("f64", "x", "a pointer and a length"),
]


@pytest.mark.parametrize(("kind", "value", "hint"), HINTS)
def test_a_wrong_type_is_met_with_the_remedy_where_there_is_one(
    kind: str, value: Any, hint: str
) -> None:
    with pytest.raises(SignatureMismatch) as refusal:
        identity(kind).pack((value,))
    assert hint in refusal.value.hint
    assert bool(hint) == bool(refusal.value.hint)


def _mapped(content: bytes) -> mmap.mmap:
    mapped = mmap.mmap(-1, len(content))
    mapped[:] = content
    return mapped


BUFFERS: list[tuple[Any, bytes]] = [
    ("Wörld", "Wörld".encode()),
    ("", b""),
    (b"\0\xff", b"\0\xff"),
    (bytearray(b"abc"), b"abc"),
    (memoryview(b"abcdef")[::2], b"ace"),
    (memoryview(struct.pack("<2i", 1, 2)).cast("i"), struct.pack("<2i", 1, 2)),
    (array.array("h", [1, 2]), struct.pack("<2h", 1, 2)),
    (array.array("d"), b""),
    ((ctypes.c_int32 * 2)(1, 2), struct.pack("<2i", 1, 2)),
    (_mapped(b"mapped"), b"mapped"),
    ({"a": [1, None]}, b'{"a":[1,null]}'),
    ([1.5, "x"], b'[1.5,"x"]'),
]


@pytest.mark.parametrize("pointer", ["i32", "i64"])
@pytest.mark.parametrize(("value", "content"), BUFFERS)
def test_a_buffer_takes_a_pointer_and_a_length(value: Any, content: bytes, pointer: str) -> None:
    codec = Codec("f", FunctionType(("f64", pointer, pointer, "v128"), ()))
    slots, buffers = codec.pack((1.0, value, bytes(range(16))))
    assert [(slot, bytes(data)) for slot, data in buffers] == [(1, content)]
    assert slots == struct.pack("<d8x32x", 1.0) + bytes(range(16))


def test_an_array_is_not_copied() -> None:
    codec = Codec("f", FunctionType(("i32", "i32"), ()))
    numbers = array.array("i", [1, 2])
    _, ((_, data),) = codec.pack((numbers,))
    numbers[0] = 7
    assert bytes(data) == struct.pack("<2i", 7, 2)


class _Record(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_double))


@pytest.mark.parametrize("value", [(ctypes.py_object * 1)(), (_Record * 2)()])
def test_an_array_of_what_is_no_number_is_refused(value: Any) -> None:
    """The addresses of objects are nobody else's business."""
    with pytest.raises(SignatureMismatch, match="not plain numbers"):
        Codec("f", FunctionType(("i32", "i32"), ())).pack((value,))


def test_numpy_arrays_are_bytes_and_its_scalars_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    codec = Codec("f", FunctionType(("i32", "i32"), ()))
    numbers = numpy.arange(6, dtype="<i4").reshape(2, 3)
    for array_, content in ((numbers, numbers.tobytes()), (numbers[:0], b"")):
        _, ((_, data),) = codec.pack((array_,))
        assert bytes(data) == content
    with pytest.raises(SignatureMismatch, match="not in one piece") as refusal:
        codec.pack((numbers[:, ::2],))
    assert "ascontiguousarray" in refusal.value.hint
    for wrong in (numpy.array([object()]), numpy.zeros(2, dtype="i4,f8")):
        with pytest.raises(SignatureMismatch, match="not plain numbers"):
            codec.pack((wrong,))
    slots, buffers = codec.pack((numpy.int32(1), numpy.int64(2)))
    assert (slots, buffers) == (codec.pack((1, 2))[0], ())


def test_bytes_are_the_vector_where_one_is_expected() -> None:
    codec = Codec("f", FunctionType(("v128", "i32", "i32"), ()))
    slots, buffers = codec.pack((bytes(range(16)), bytes(16)))
    assert slots[:16] == bytes(range(16))
    assert buffers == ((1, bytes(16)),)


@pytest.mark.parametrize(
    ("params", "args"),
    [
        (("i32", "i64"), ("x",)),
        (("i32",), ("x",)),
    ],
)
def test_what_cannot_be_a_buffer_is_refused(params: tuple[str, ...], args: tuple[Any, ...]) -> None:
    with pytest.raises(SignatureMismatch, match="argument 1 must be i"):
        Codec("f", FunctionType(params, ())).pack(args)


@pytest.mark.parametrize(
    ("arg", "why"),
    [("\ud800", "lone surrogates"), ([object()], "not JSON"), ({"a": 1j}, "not JSON")],
)
def test_what_cannot_be_encoded_is_named_with_the_reason(arg: Any, why: str) -> None:
    with pytest.raises(SignatureMismatch, match=rf"argument 2, .* cannot be passed: .*{why}"):
        Codec("f", FunctionType(("f64", "i32", "i32"), ())).pack((1.5, arg))


def test_a_structure_without_end_is_no_json() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SignatureMismatch, match="not JSON"):
        Codec("f", FunctionType(("i32", "i32"), ())).pack((endless,))


@pytest.mark.parametrize(
    "references", [FunctionType(("externref",), ()), FunctionType((), ("(ref null 3)",))]
)
def test_references_are_refused_clearly(references: FunctionType) -> None:
    with pytest.raises(SignatureMismatch, match="references cannot cross"):
        Codec("f", references)


@pytest.mark.parametrize("results", [("i64",), ("i32", "i32"), ("i64", "i64")])
def test_a_result_is_read_as_a_buffer_when_asked(results: tuple[str, ...]) -> None:
    codec = Codec("f", FunctionType((), results))
    slots = bytes(16 * len(results))
    kinds: list[Returns] = [str, bytes, "json"]
    for returns in kinds:
        codec.check_returns(returns)
    assert codec.unpack(slots, "ö".encode(), str) == "ö"
    assert codec.unpack(slots, b"\xff", bytes) == b"\xff"
    assert codec.unpack(slots, b'{"n": 1}', "json") == {"n": 1}


@pytest.mark.parametrize("results", [(), ("i32",), ("f64",), ("i32", "i64"), ("i64", "i64", "i64")])
def test_a_buffer_is_not_read_from_results_that_are_none(results: tuple[str, ...]) -> None:
    with pytest.raises(SignatureMismatch, match="returns=str"):
        Codec("f", FunctionType((), results)).check_returns(str)


@pytest.mark.parametrize(
    ("data", "returns"),
    [
        (b"\xff", str),
        (b"{", "json"),
        (b"[" * 200_000, "json"),
        (b'"\xff"', "json"),
        (b"9" * 6000, "json"),
        (b"", "json"),
        (None, bytes),
    ],
)
def test_a_bad_buffer_is_the_guests_fault(data: bytes | None, returns: Any) -> None:
    with pytest.raises(BadResult, match="f: "):
        decode("f", data, returns)


def test_results_of_the_wrong_size_are_the_guests_fault() -> None:
    with pytest.raises(BadResult):
        identity("i32").unpack(bytes(15))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_comes_back_as_it_went(value: Any) -> None:
    codec = Codec("f", FunctionType(("i32", "i32"), ("i64",)))
    _, ((_, content),) = codec.pack(([value],))
    assert json.loads(bytes(content)) == [value]
    assert decode("f", bytes(content), "json") == [value]
