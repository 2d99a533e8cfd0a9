"""Python values in, Python values out: the codec of one function's type. No I/O.

A number crosses as a slot of 16 bytes, little-endian, in its low bytes. ``str``, ``bytes``-likes,
``dict`` and ``list`` (as UTF-8 JSON) cross as buffers: each takes two parameters, a pointer and a
length, both ``i32`` or, with a 64-bit memory, both ``i64``; their slots stay zero until the worker
has placed the bytes.
"""

from __future__ import annotations

import json
import operator
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec

from .protocol.description import FunctionType
from .protocol.errors import ArgumentOutOfRange, BadResult, SignatureMismatch
from .protocol.messages import SLOT

Returns = type[str] | type[bytes] | Literal["json"] | memoryview | None
"""How a result is read: not as a buffer, as one of these, or into a buffer of the caller's."""

Buffers = tuple[tuple[int, bytes | memoryview], ...]
"""(slot of the pointer, content) for each buffer argument."""
NO_BUFFERS: Buffers = ()

_FORMATS = {"i32": "i12x", "i64": "q8x", "f32": "f12x", "f64": "d8x", "v128": "16s"}
_BITS = {"i32": 32, "i64": 64, "v128": 128}
_EXACT = {"i32": int, "i64": int, "f32": float, "f64": float, "v128": bytes}
_POINTERS = (("i32", "i32"), ("i64", "i64"))
_BUFFER_RESULTS = (("i64",), ("i32", "i32"), ("i64", "i64"))
_FLOAT = struct.Struct("<f")
BYTES_LIKE = (bytes, bytearray, memoryview)
_BUFFER = (str, *BYTES_LIKE, dict, list)
_NEEDS_TWO = "str, bytes, dict and list each take two parameters: a pointer and a length"
_NUMBER_FORMATS = frozenset("?bBcefdhHiIlLqQnN")
"""What arrays may consist of, as the struct module has it."""
_AS_BYTES = "pass its bytes, where they mean something to the guest: numpy's array.view('u1')"
_IN_ONE_PIECE = "pass a copy that is: numpy.ascontiguousarray(array)"


class _Place(NamedTuple):
    """Where an argument, or a result of a host function, goes: numbers from 1."""

    argument: int
    parameter: int
    kind: str
    what: str = "argument"

    def __str__(self) -> str:
        where = f"{self.what} {self.argument}"
        return where if self.argument == self.parameter else f"{where} (parameter {self.parameter})"


class Codec:
    """Packs arguments and unpacks results of functions of one type.

    Raises:
        SignatureMismatch: the type has references, which cannot cross the wall.
    """

    def __init__(self, name: str, function_type: FunctionType) -> None:
        if function_type.references:
            raise SignatureMismatch(
                f"{name}: references cannot cross the wall; its type is {function_type}",
                f"wrap it in an export whose parameters and results are {', '.join(_FORMATS)}",
            )
        self.name = name
        self.type = function_type
        params, results = function_type.params, function_type.results
        self._slots = struct.Struct("<" + "".join(_FORMATS[kind] for kind in params))
        self._exact = tuple(_EXACT[kind] for kind in params)
        self._fast = "v128" not in params
        self._results = struct.Struct("<" + "".join(_FORMATS[kind] for kind in results))

    def pack(self, args: tuple[Any, ...]) -> tuple[bytes, Buffers]:
        """The slots and buffers of a call with ``args``.

        Integers may be in the signed or the unsigned range of their type; ``bool`` and ``float``
        are refused for them. Floats take ``float``, and ``int`` where it is exact. ``v128`` takes
        16 bytes, or an integer of 128 bits. A ``memoryview``, and an array (``array.array``,
        NumPy's, ``mmap.mmap``), crosses as the bytes that it has and is not copied: it must not
        change until the call is over.

        Raises:
            SignatureMismatch: wrong number or types of arguments.
            ArgumentOutOfRange: a number that its parameter cannot hold.
        """
        if self._fast and tuple(map(type, args)) == self._exact:
            try:
                return self._slots.pack(*args), NO_BUFFERS
            except (struct.error, OverflowError):
                pass  # an unsigned or oversized number: the long way knows which
        return self._pack(args)

    def _pack(self, args: tuple[Any, ...]) -> tuple[bytes, Buffers]:
        params = self.type.params
        values: list[int | float | bytes] = []
        buffers: list[tuple[int, bytes | memoryview]] = []
        for number, arg in enumerate(args, 1):
            at = len(values)
            if at >= len(params):
                raise self._too_many(args, number, buffers)
            place = _Place(number, at + 1, params[at])
            given = _array(arg)
            if isinstance(given, _BUFFER) and not (
                place.kind == "v128" and isinstance(given, BYTES_LIKE)
            ):
                if params[at : at + 2] not in _POINTERS:
                    raise self._mismatch(place, arg, _NEEDS_TWO)
                buffers.append((at, self._buffer(place, given)))
                values += (0, 0)
            else:
                values.append(_CONVERTERS[place.kind](self, place, given))
        if len(values) != len(params):
            raise self._too_few(args, len(values))
        return self._slots.pack(*values), tuple(buffers)

    def _buffer(self, place: _Place, arg: Any) -> bytes | memoryview:
        match arg:
            case bytes():
                return arg
            case memoryview():
                return self._bytes(place, cast("memoryview[int]", arg))
            case bytearray():
                return bytes(arg)
            case str():
                try:
                    return arg.encode()
                except UnicodeEncodeError:
                    raise self._unencodable(place, arg, "lone surrogates are no UTF-8") from None
            case _:
                try:
                    encoded = msgspec.json.encode(arg)
                    if b"null" in encoded:  # which is what NaN and infinity become
                        json.dumps(msgspec.to_builtins(arg), allow_nan=False)
                    return encoded
                except (TypeError, ValueError, RecursionError) as error:
                    raise self._unencodable(place, arg, f"it is not JSON: {error}") from error

    def _bytes(self, place: _Place, view: memoryview) -> bytes | memoryview:
        """All of a view, as it lies there, without a copy where it is in one piece."""
        if not view.nbytes:
            return b""
        if not view.c_contiguous:
            if isinstance(view.obj, BYTES_LIKE):
                return view.tobytes()
            raise self._unencodable(place, view.obj, "it is not in one piece", _IN_ONE_PIECE)
        if view.format.lstrip("@=<>!") not in _NUMBER_FORMATS:
            # Objects, for one: their addresses are nobody else's business.
            why = f"its items are {view.format!r}, not plain numbers"
            raise self._unencodable(place, view.obj, why, _AS_BYTES)
        return view.cast("B")

    # --- the other way round, for host functions ------------------------------------------------

    def unpack_arguments(self, slots: bytes) -> tuple[Any, ...]:
        """The numbers that a guest gave."""
        return self._slots.unpack(slots)

    def pack_results(self, value: Any) -> bytes:
        """The slots of what a host function returned.

        Raises:
            SignatureMismatch: not as many values as it has results, or of other types.
            ArgumentOutOfRange: a number that does not fit.
        """
        results = self.type.results
        values: tuple[object, ...] = (value,)
        if len(results) != 1:
            values = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
            if len(values) != len(results) or not (results or value is None):
                wanted = f"a tuple of {len(results)} values" if results else "None"
                raise SignatureMismatch(
                    f"{self.name}: returned {show(value)}, not {wanted}; the type is {self.type}"
                )
        return self._results.pack(
            *(
                _CONVERTERS[kind](self, _Place(at, at, kind, "result"), each)
                for at, (kind, each) in enumerate(zip(results, values, strict=True), 1)
            )
        )

    def encode_result(self, value: Any) -> bytes:
        """The bytes of what a host function returned as text, bytes or JSON.

        Raises:
            SignatureMismatch: it has no such bytes.
        """
        return bytes(self._buffer(_Place(1, 1, "bytes", "result"), value))

    # --- one value ------------------------------------------------------------------------------

    def _integer(self, place: _Place, arg: Any) -> int:
        """Any integer, signed as the guest's type holds it."""
        if isinstance(arg, bool):
            raise self._mismatch(place, arg, "use int(value)")
        try:
            number = operator.index(arg)
        except TypeError:
            hint = "use int(value)" if isinstance(arg, float) else ""
            raise self._mismatch(place, arg, hint) from None
        bits = _BITS[place.kind]
        if not -(1 << (bits - 1)) <= number < 1 << bits:
            raise self._out_of_range(place, arg, f"between -2**{bits - 1} and 2**{bits} - 1")
        return number - (1 << bits) if number >> (bits - 1) > 0 else number

    def _floating(self, place: _Place, arg: Any) -> float:
        if isinstance(arg, float):
            number = float(arg)
        else:
            if isinstance(arg, bool) or not hasattr(arg, "__index__"):
                hint = "use float(value)" if hasattr(arg, "__float__") else ""
                raise self._mismatch(place, arg, hint)
            number = self._exact_float(place, operator.index(arg))
        if place.kind == "f32":
            try:
                _FLOAT.pack(number)
            except OverflowError:
                raise self._out_of_range(place, arg, "within the range of a 32-bit float") from None
        return number

    def _exact_float(self, place: _Place, number: int) -> float:
        try:
            near = float(number)
            if place.kind == "f32":
                near = _FLOAT.unpack(_FLOAT.pack(near))[0]
        except OverflowError:
            near = 0.0
        if near != number:
            raise self._out_of_range(place, number, "exact as a float, or given as float(value)")
        return near

    def _vector(self, place: _Place, arg: Any) -> bytes:
        if not isinstance(arg, BYTES_LIKE):
            return self._integer(place, arg).to_bytes(SLOT, "little", signed=True)
        content = bytes(cast(bytes, arg))
        if len(content) != SLOT:
            raise self._mismatch(place, arg, f"a v128 is {SLOT} bytes, not {len(content)}")
        return content

    def _mismatch(self, place: _Place, arg: Any, hint: str) -> SignatureMismatch:
        return SignatureMismatch(
            f"{self.name}: {place} must be {place.kind}, not {show(arg)}; the type is {self.type}",
            hint,
        )

    def _unencodable(self, place: _Place, arg: Any, why: str, hint: str = "") -> SignatureMismatch:
        return SignatureMismatch(
            f"{self.name}: {place}, {show(arg)}, cannot be passed: {why}", hint
        )

    def _out_of_range(self, place: _Place, arg: Any, wanted: str) -> ArgumentOutOfRange:
        return ArgumentOutOfRange(
            f"{self.name}: {place} must be {place.kind}, {wanted}, not {show(arg)}; "
            f"the type is {self.type}"
        )

    def _too_many(
        self, args: tuple[Any, ...], number: int, buffers: Sequence[tuple[int, Any]]
    ) -> SignatureMismatch:
        rest = f"argument {number}, {show(args[number - 1])}"
        if not buffers:
            return self._wrong_count(args, f"no parameter is left for {rest}")
        first = buffers[0][0]  # those before it took one parameter each, so it is that argument too
        return SignatureMismatch(
            f"{self.name}: argument {first + 1}, {show(args[first])}, takes parameters {first + 1} "
            f"and {first + 2}, both {self.type.params[first]}, as a pointer and a length, so none "
            f"is left for {rest}; the type is {self.type}",
            "where a number is meant, pass int or float",
        )

    def _too_few(self, args: tuple[Any, ...], used: int) -> SignatureMismatch:
        return self._wrong_count(
            args, f"nothing is given for parameter {used + 1}, {self.type.params[used]}"
        )

    def _wrong_count(self, args: tuple[Any, ...], consequence: str) -> SignatureMismatch:
        wanted, buffers = len(self.type.params), any(isinstance(arg, _BUFFER) for arg in args)
        return SignatureMismatch(
            f"{self.name}: takes {wanted} {'parameter' if buffers else 'argument'}"
            f"{'s' * (wanted != 1)}, {len(args)} given: {consequence}; the type is {self.type}",
            _NEEDS_TWO if buffers else "",
        )

    def check_returns(self, returns: Returns) -> None:
        """Refuse ``returns`` where the results cannot be a buffer.

        Raises:
            SignatureMismatch: they are neither one ``i64`` nor a pointer and a length.
        """
        if returns is not None and self.type.results not in _BUFFER_RESULTS:
            raise SignatureMismatch(
                f"{self.name}: returns={_name_of(returns)} needs results that are one i64, "
                f"(pointer << 32) | length, or else a pointer and a length; the type is {self.type}"
            )

    def unpack(self, slots: bytes, data: bytes | None = None, returns: Returns = None) -> Any:
        """The value of a call: ``None``, a number, a tuple, or the buffer ``data`` as ``returns``
        asks.

        Raises:
            BadResult: the guest's bytes are not what was asked for.
        """
        if returns is not None:
            return decode(self.name, data, returns)
        if len(slots) != self._results.size:
            raise BadResult(f"{self.name}: {len(slots)} bytes of results do not fit {self.type}")
        values = self._results.unpack(slots)
        match len(values):
            case 0:
                return None
            case 1:
                return values[0]
            case _:
                return values


_CONVERTERS: dict[str, Callable[[Codec, _Place, Any], int | float | bytes]] = {
    "i32": Codec._integer,  # pyright: ignore[reportPrivateUsage]
    "i64": Codec._integer,  # pyright: ignore[reportPrivateUsage]
    "f32": Codec._floating,  # pyright: ignore[reportPrivateUsage]
    "f64": Codec._floating,  # pyright: ignore[reportPrivateUsage]
    "v128": Codec._vector,  # pyright: ignore[reportPrivateUsage]
}


def _array(arg: Any) -> Any:
    """A view of ``arg`` where it is an array, such as ``array.array``, one of NumPy's or
    ``mmap.mmap``; else itself. NumPy's scalars have bytes, too, and are numbers."""
    if isinstance(arg, (int, float, *_BUFFER)):
        return cast(Any, arg)
    try:
        view = memoryview(arg)
    except (TypeError, ValueError):
        return arg
    return view if view.ndim else arg


def decode(name: str, data: bytes | None, returns: Returns) -> Any:
    """A buffer of the guest's as ``str``, ``bytes`` or the value of its JSON.

    Raises:
        BadResult: there is none, or it is not UTF-8 or not JSON.
    """
    if data is None:
        raise BadResult(f"{name}: returned no buffer")
    if returns is bytes:
        return data
    try:
        return data.decode() if returns is str else msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise BadResult(f"{name}: the result is not {_name_of(returns)}: {error}") from None


def _name_of(returns: Returns) -> str:
    if isinstance(returns, memoryview):
        return "buffer"
    return returns.__name__ if isinstance(returns, type) else repr(returns)


def content_of(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Bytes that can be sent later: a ``memoryview`` is not copied, and must not change until
    then."""
    if isinstance(data, memoryview):
        return data.cast("B") if data.c_contiguous else data.tobytes()
    return bytes(data)


def show(arg: Any) -> str:
    """``arg`` and its type, for an error."""
    try:
        # A large buffer's text would be many times as large.
        text = repr(arg[:60] if isinstance(arg, str | bytes | bytearray) else arg)
    except Exception:  # a foreign object's, or an integer of thousands of digits
        text = "a value that cannot be shown"
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(arg).__name__})"
