"""Python values in, Python values out: the codec of one function of a component. No I/O.

Arguments and results cross as MessagePack of *wire* values, which ``worker/components/abi.py``
describes. Each is checked here before it crosses, against the function's type: also what comes
back, for a worker may say anything.
"""

from __future__ import annotations

import array
import operator
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from .protocol import wit
from .protocol.errors import ArgumentOutOfRange, BadResult, SignatureMismatch
from .protocol.messages import SLOT
from .protocol.wit import INTEGERS, NUMBERS, Ref, Signature, World
from .values import Buffers, Returns, show
from .wit_types import WitFunction, WitText

_FLOAT = struct.Struct("<f")
_BYTES_LIKE = (bytes, bytearray, memoryview)
_SLOTS = bytes(2 * SLOT)
"""Of the one buffer that all arguments are in: a pointer and a length."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Ok(msgspec.Struct, frozen=True):
    """A ``result`` that is no error."""

    value: Any = None


class Err(msgspec.Struct, frozen=True):
    """A ``result`` that is an error. It is a value like any other: nothing raises it."""

    error: Any = None


class Some(msgspec.Struct, frozen=True):
    """An ``option`` that is there, where its value may itself be ``None``:
    ``option<option<T>>``."""

    value: Any


class Variant(msgspec.Struct, frozen=True):
    """A case of a ``variant``, with its payload, if it has one."""

    case: str
    payload: Any = None


class Resource:
    """A resource that an instance gave away. It can be passed to functions of that instance until
    it is given back, dropped, or the instance is restarted."""

    def __init__(self, world: World, resource: int, number: int) -> None:
        self._world = world
        self._resource = resource
        self._number = number

    @property
    def type(self) -> str:
        """The name of its type."""
        return self._world.resources[self._resource]

    def wire(self, world: World, resource: int) -> int | None:
        """What it crosses as; ``None`` where it is of another type."""
        return self._number if self._world is world and self._resource == resource else None

    def __repr__(self) -> str:
        return f"<Resource {self.type}>"


class _Wrong(Exception):
    """A value that does not fit; ``path`` grows from the inside out."""

    def __init__(self, why: str, *, out_of_range: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.path = ""
        self.out_of_range = out_of_range

    def under(self, step: str) -> _Wrong:
        """The same, one level further out."""
        self.path = step + self.path
        return self


Convert = Callable[[Any], Any]


class _Type:
    """Both directions of one type: ``put`` to wire, ``take`` from it. Both raise ``_Wrong``."""

    def __init__(self, put: Convert, take: Convert) -> None:
        self.put = put
        self.take = take


# --- one converter for each kind of type ----------------------------------------------------------


def _integer(name: str) -> _Type:
    low, high = INTEGERS[name]

    def put(value: Any) -> int:
        if isinstance(value, bool):
            raise _mismatch(name, value, "use int(value)")
        try:
            number = int.__add__(operator.index(value), 0)  # also of an IntEnum, a plain int
        except TypeError:
            raise _mismatch(name, value) from None
        if not low <= number <= high:
            raise _Wrong(f"must be {name}, {low} to {high}, not {show(value)}", out_of_range=True)
        return number

    def take(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _mismatch(name, value)
        return value

    return _Type(put, take)


def _floating(name: str) -> _Type:
    def put(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                hint = "use float(value)" if hasattr(value, "__float__") else ""
                raise _mismatch(name, value, hint)
            value = operator.index(value)
        try:
            number = float(value)
            if name == "f32":
                number = _FLOAT.unpack(_FLOAT.pack(number))[0]
        except OverflowError:
            raise _Wrong(f"must be {name}; {show(value)} is too large", out_of_range=True) from None
        if isinstance(value, int) and number != value:
            raise _Wrong(f"must be {name}, which cannot hold {show(value)}", out_of_range=True)
        return number

    def take(value: Any) -> float:
        if type(value) is not float:
            raise _mismatch(name, value)
        return value

    return _Type(put, take)


def _bool() -> _Type:
    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise _mismatch("bool", value)
        return value

    return _Type(convert, convert)


def _string(name: str) -> _Type:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or (name == "char" and len(value) != 1):
            raise _mismatch("a str of one character" if name == "char" else name, value)
        try:
            encoded = str.encode(value)
        except UnicodeEncodeError:
            raise _Wrong(f"must be {name}; {show(value)} has a lone surrogate") from None
        return value if type(value) is str else encoded.decode()

    return _Type(convert, convert)


def _numbers(name: str, element: _Type) -> _Type:
    """A list of numbers, which crosses as bytes."""
    code, integer = NUMBERS[name], name in INTEGERS
    width = struct.calcsize("<" + code)

    def put(value: Any) -> bytes | memoryview:
        if name == "u8" and isinstance(value, _BYTES_LIKE):
            view = memoryview(cast(bytes, value))
            return view.cast("B") if view.c_contiguous else view.tobytes()
        items = _sequence(value, f"list<{name}>")
        if not (set(map(type, items)) <= ({int} if integer else {float})):
            items = [_inner(element.put, each, f"[{at}]") for at, each in enumerate(items)]
        try:
            return struct.pack(f"<{len(items)}{code}", *items)
        except (struct.error, OverflowError):
            for at, each in enumerate(items):
                _inner(element.put, each, f"[{at}]")
            raise

    def take(value: Any) -> bytes | list[Any]:
        if type(value) is not bytes or len(value) % width:
            raise _mismatch(f"list<{name}>", value)
        if name == "u8":
            return value
        numbers = array.array(_ARRAY_CODES[code], value)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()

    return _Type(put, take)


_ARRAY_CODES = {code: code for code in "bBhHfdqQ"} | {"i": "i", "I": "I"}


def _list(element: _Type, text: str) -> _Type:
    def put(value: Any) -> list[Any]:
        return _each(element.put, _sequence(value, text))

    def take(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _mismatch(text, value)
        return _each(element.take, cast("list[object]", value))

    return _Type(put, take)


def _tuple(items: Sequence[_Type], text: str) -> _Type:
    def put(value: Any) -> list[Any]:
        given = _sequence(value, text)
        if len(given) != len(items):
            raise _Wrong(f"must be {text}, {len(items)} values, not {len(given)}")
        return [
            _inner(item.put, each, f"[{at}]")
            for at, (item, each) in enumerate(zip(items, given, strict=True))
        ]

    def take(value: Any) -> tuple[Any, ...]:
        given = _wire(value, len(items), text)
        return tuple([item.take(each) for item, each in zip(items, given, strict=True)])

    return _Type(put, take)


def _record(fields: Sequence[tuple[str, _Type]], text: str) -> _Type:
    names = [(name, name.replace("-", "_")) for name, _ in fields]
    known = {spelling for pair in names for spelling in pair}

    def put(value: Any) -> list[Any]:
        if isinstance(value, Mapping):
            given = cast("Mapping[object, object]", value)
            unknown = [key for key in given if key not in known]
            if unknown:
                raise _Wrong(f"has no field {show(unknown[0])}; it is {text}")
            values = [_field(given, pair, text) for pair in names]
        elif value is None or isinstance(value, (str, int, float, *_BYTES_LIKE, list, tuple, set)):
            raise _mismatch(text, value, "pass a dict or an object with these attributes")
        else:
            values = [_attribute(value, pair, text) for pair in names]
        return [
            _inner(kind.put, each, f".{name}")
            for (name, kind), each in zip(fields, values, strict=True)
        ]

    def take(value: Any) -> dict[str, Any]:
        given = _wire(value, len(fields), text)
        return {name: kind.take(each) for (name, kind), each in zip(fields, given, strict=True)}

    return _Type(put, take)


def _variant(cases: Sequence[tuple[str, _Type | None]], text: str) -> _Type:
    places = {name: at for at, (name, _) in enumerate(cases)}

    def put(value: Any) -> list[Any]:
        if not isinstance(value, Variant):
            raise _mismatch(text, value, "pass Variant(case, payload)")
        at = places.get(value.case)
        if at is None:
            raise _Wrong(f"has no case {show(value.case)}; it is {text}")
        return [at, _payload(cases[at], value.payload)]

    def take(value: Any) -> Variant:
        at, payload = _case(value, len(cases), text)
        name, kind = cases[at]
        return Variant(name, _taken(kind, payload, text))

    return _Type(put, take)


def _option(some: _Type, text: str, *, nested: bool) -> _Type:
    """``None`` or the value; where the value may itself be ``None``, ``Some`` of it."""

    def put(value: Any) -> list[Any]:
        if value is None:
            return [0, None]
        if isinstance(value, Some):
            value = value.value
        elif nested:
            raise _mismatch(text, value, "pass None, or Some(value), whose value may be None")
        return [1, some.put(value)]

    def take(value: Any) -> Any:
        at, payload = _case(value, 2, text)
        if at == 0:
            return _taken(None, payload, text)
        taken = some.take(payload)
        return Some(taken) if nested else taken

    return _Type(put, take)


def _result(ok: _Type | None, error: _Type | None, text: str) -> _Type:
    def put(value: Any) -> list[Any]:
        match value:
            case Ok():
                return [0, _payload(("Ok", ok), value.value)]
            case Err():
                return [1, _payload(("Err", error), value.error)]
            case _:
                raise _mismatch(text, value, "pass Ok(value) or Err(error)")

    def take(value: Any) -> Ok | Err:
        at, payload = _case(value, 2, text)
        return Err(_taken(error, payload, text)) if at else Ok(_taken(ok, payload, text))

    return _Type(put, take)


def _enum(names: Sequence[str], text: str) -> _Type:
    places = {name: at for at, name in enumerate(names)}

    def put(value: Any) -> int:
        if not isinstance(value, str) or value not in places:
            raise _mismatch(text, value)
        return places[value]

    def take(value: Any) -> str:
        if type(value) is not int or not 0 <= value < len(names):
            raise _mismatch(text, value)
        return names[value]

    return _Type(put, take)


def _flags(names: Sequence[str], text: str) -> _Type:
    bits = {name: 1 << at for at, name in enumerate(names)}

    def put(value: Any) -> int:
        if isinstance(value, (str, *_BYTES_LIKE, Mapping)) or not isinstance(value, Collection):
            raise _mismatch(text, value, "pass a set of names")
        number = 0
        for name in cast("Collection[object]", value):
            if not isinstance(name, str) or name not in bits:
                raise _Wrong(f"has no flag {show(name)}; it is {text}")
            number |= bits[name]
        return number

    def take(value: Any) -> frozenset[str]:
        if type(value) is not int or not 0 <= value < 1 << len(names):
            raise _mismatch(text, value)
        return frozenset([name for name, bit in bits.items() if value & bit])

    return _Type(put, take)


def _handle(world: World, resource: int) -> _Type:
    name = world.resources[resource]

    def put(value: Any) -> int:
        number = value.wire(world, resource) if isinstance(value, Resource) else None
        if number is None:
            raise _mismatch(f"a resource {name} of this module's instance", value)
        return number

    def take(value: Any) -> Resource:
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise _mismatch(name, value)
        return Resource(world, resource, value)

    return _Type(put, take)


# --- steps that several of them take --------------------------------------------------------------


def _mismatch(wanted: str, value: Any, hint: str = "") -> _Wrong:
    return _Wrong(f"must be {wanted}, not {show(value)}" + (f"; {hint}" if hint else ""))


def _inner(convert: Convert, value: Any, step: str) -> Any:
    try:
        return convert(value)
    except _Wrong as wrong:
        raise wrong.under(step) from None


def _each(convert: Convert, values: Iterable[Any]) -> list[Any]:
    converted: list[Any] = []
    try:
        for each in values:
            converted.append(convert(each))
    except _Wrong as wrong:
        raise wrong.under(f"[{len(converted)}]") from None
    return converted


def _sequence(value: Any, text: str) -> Sequence[Any]:
    """A list, a tuple, an array: whatever has a length, an order and no keys."""
    if isinstance(value, (str, *_BYTES_LIKE, Mapping, set, frozenset)):
        raise _mismatch(text, value)
    if isinstance(value, (list, tuple)):
        return cast("Sequence[Any]", value)
    if hasattr(value, "tolist"):  # an array of numbers
        value = value.tolist()
        return _sequence(value, text) if isinstance(value, list) else [value]
    if not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise _mismatch(text, value)
    return list(value)


def _field(given: Mapping[object, object], spellings: tuple[str, str], text: str) -> Any:
    found = [given[each] for each in dict.fromkeys(spellings) if each in given]
    if len(found) != 1:
        problem = "is given twice" if found else "is missing"
        raise _Wrong(f"the field {spellings[0]} {problem}; it is {text}")
    return found[0]


def _attribute(value: Any, spellings: tuple[str, str], text: str) -> Any:
    try:
        return getattr(value, spellings[1])
    except AttributeError:
        raise _Wrong(
            f"must be {text}, not {show(value)}, which has no attribute {spellings[1]}"
        ) from None


def _wire(value: Any, size: int, text: str) -> list[object]:
    if type(value) is not list or len(cast("list[object]", value)) != size:
        raise _mismatch(text, cast(object, value))
    return cast("list[object]", value)


def _case(value: Any, cases: int, text: str) -> tuple[int, Any]:
    at, payload = _wire(value, 2, text)
    if type(at) is not int or not 0 <= at < cases:
        raise _mismatch(text, value)
    return at, payload


def _taken(kind: _Type | None, payload: Any, text: str) -> Any:
    if kind is not None:
        return kind.take(payload)
    if payload is not None:
        raise _mismatch(text, payload)
    return None


def _payload(case: tuple[str, _Type | None], value: Any) -> Any:
    name, kind = case
    if kind is not None:
        return _inner(kind.put, value, f".{name}")
    if value is not None:
        raise _Wrong(f"the case {name} has no payload; got {show(value)}")
    return None


def _result_of_nothing(value: Any) -> None:
    _taken(None, value, "nothing")


class _Types:
    """The converters of one world's types, each made once."""

    def __init__(self, world: World, *, kept: bool) -> None:
        self._world = world
        self._kept = kept
        self._text = WitText(world)
        self._made: dict[Ref, _Type] = {}

    def get(self, ref: Ref) -> _Type:
        found = self._made.get(ref)
        if found is None:
            found = self._made[ref] = self._make(ref)
        return found

    def _make(self, ref: Ref) -> _Type:
        if isinstance(ref, str):
            if ref in INTEGERS:
                return _integer(ref)
            if ref in NUMBERS:
                return _floating(ref)
            return _bool() if ref == "bool" else _string(ref)
        text = self._text.type(ref)
        match self._world.types[ref]:
            case wit.Record(fields):
                return _record([(name, self.get(field)) for name, field in fields], text)
            case wit.Tuple(items):
                return _tuple([self.get(item) for item in items], text)
            case wit.List(element):
                if isinstance(element, str) and element in NUMBERS:
                    return _numbers(element, self.get(element))
                return _list(self.get(element), text)
            case wit.Variant(cases):
                return _variant([(name, self._optional(case)) for name, case in cases], text)
            case wit.Option(some):
                nested = isinstance(some, int) and isinstance(self._world.types[some], wit.Option)
                return _option(self.get(some), text, nested=nested)
            case wit.Result(ok, error):
                return _result(self._optional(ok), self._optional(error), text)
            case wit.Enum(names):
                return _enum(names, text)
            case wit.Flags(names):
                return _flags(names, text)
            case wit.Own(resource) | wit.Borrow(resource):
                if self._kept:
                    return _handle(self._world, resource)
                raise SignatureMismatch(
                    f"{text} is a resource: it lives as long as its instance, and each call has "
                    "an instance of its own; pool.instance keeps one"
                )

    def _optional(self, ref: Ref | None) -> _Type | None:
        return None if ref is None else self.get(ref)


class WitCodec:
    """Checks and packs the arguments of a component's function, unpacks and checks its results.

    ``kept``: its calls are made in an instance that lives on.

    Raises:
        SignatureMismatch: the type has resources, which cannot outlive a fresh instance.
    """

    def __init__(
        self, name: str, world: World, signature: Signature, *, kept: bool = False
    ) -> None:
        self.name = name
        self.world = world
        self.signature = signature
        types = _Types(world, kept=kept)
        self.type: WitFunction = WitText(world).function(signature)
        try:
            self._params = [types.get(ref) for _, ref in signature.params]
            self._result = None if signature.result is None else types.get(signature.result)
        except SignatureMismatch as error:
            raise SignatureMismatch(f"{name}: {error.args[0]}; the type is {self.type}") from None

    @classmethod
    def dropping(cls, name: str, world: World, resource: int) -> WitCodec:
        """The codec of the function that drops a resource of an instance that lives on."""
        codec = cls(name, world, Signature(), kept=True)
        codec.type = WitFunction((("self", world.resources[resource]),))
        codec._params = [_handle(world, resource)]
        return codec

    def converters(self) -> tuple[list[Convert], Convert]:
        """Of each argument to its wire value, and of the result's wire value."""
        result = _result_of_nothing if self._result is None else self._result.take
        return [kind.put for kind in self._params], result

    def pack(self, args: tuple[Any, ...]) -> tuple[bytes, Buffers]:
        """The slots and the one buffer of a call with ``args``.

        Raises:
            SignatureMismatch: wrong number or types of arguments; names the place in them.
            ArgumentOutOfRange: a number that its type cannot hold.
        """
        if len(args) != len(self._params):
            raise SignatureMismatch(
                f"{self.name}: takes {len(self._params)} argument"
                f"{'s' * (len(self._params) != 1)}, {len(args)} given; the type is {self.type}"
            )
        values: list[Any] = []
        for number, (kind, arg) in enumerate(zip(self._params, args, strict=True), 1):
            try:
                values.append(kind.put(arg))
            except _Wrong as wrong:
                error = ArgumentOutOfRange if wrong.out_of_range else SignatureMismatch
                raise error(
                    f"{self.name}: argument {number}{wrong.path} {wrong.why}; "
                    f"the type is {self.type}"
                ) from None
            except RecursionError:
                raise SignatureMismatch(
                    f"{self.name}: argument {number} is nested too deeply"
                ) from None
        return _SLOTS, ((0, _encode(values)),)

    def check_returns(self, returns: Returns) -> None:
        """Refuse ``returns``: a component's function says itself what it returns.

        Raises:
            SignatureMismatch: it was asked for.
        """
        if returns is not None:
            raise SignatureMismatch(
                f"{self.name}: returns= is for core modules; the type is {self.type}",
                "list<u8> comes back as bytes, string as str",
            )

    def unpack(
        self, slots: bytes, data: bytes | memoryview | None = None, returns: Returns = None
    ) -> Any:
        """The value of a call.

        Raises:
            BadResult: what came back is no value of the function's type.
        """
        try:
            return self.converters()[1](_decode(data or b""))
        except _Wrong as wrong:
            raise BadResult(f"{self.name}: the result{wrong.path} {wrong.why}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadResult(f"{self.name}: the result cannot be read: {error}") from None
