"""Between Python values and wire values (``worker/components/codec.py``), type by type. No I/O.

Each is checked here before it crosses, against its type: also what comes in, for a worker may say
anything.
"""

from __future__ import annotations

import array
import operator
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from .protocol import wit
from .protocol.wit import INTEGERS, NUMBERS, Ref, World
from .values import show
from .wit_types import WitText
from .wit_values import Err, Ok, Some, Variant

_FLOAT = struct.Struct("<f")
_BYTES_LIKE = (bytes, bytearray, memoryview)


class Wrong(Exception):
    """A value that does not fit; ``path`` grows from the inside out."""

    def __init__(self, why: str, *, out_of_range: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.path = ""
        self.out_of_range = out_of_range

    def under(self, step: str) -> Wrong:
        """The same, one level further out."""
        self.path = step + self.path
        return self


Convert = Callable[[Any], Any]
Handle = wit.Own | wit.Borrow


class Converter:
    """Both directions of one type: ``put`` to wire, ``take`` from it. Both raise ``Wrong``."""

    def __init__(self, put: Convert, take: Convert) -> None:
        self.put = put
        self.take = take


# --- one converter for each kind of type ----------------------------------------------------------


def _integer(name: str) -> Converter:
    low, high = INTEGERS[name]

    def put(value: Any) -> int:
        if isinstance(value, bool):
            raise mismatch(name, value, "use int(value)")
        try:
            number = int.__add__(operator.index(value), 0)  # also of an IntEnum, a plain int
        except TypeError:
            raise mismatch(name, value) from None
        if not low <= number <= high:
            raise Wrong(f"must be {name}, {low} to {high}, not {show(value)}", out_of_range=True)
        return number

    def take(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise mismatch(name, value)
        return value

    return Converter(put, take)


def _floating(name: str) -> Converter:
    def put(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                hint = "use float(value)" if hasattr(value, "__float__") else ""
                raise mismatch(name, value, hint)
            value = operator.index(value)
        try:
            number = float(value)
            if name == "f32":
                number = _FLOAT.unpack(_FLOAT.pack(number))[0]
        except OverflowError:
            raise Wrong(f"must be {name}; {show(value)} is too large", out_of_range=True) from None
        if isinstance(value, int) and number != value:
            raise Wrong(f"must be {name}, which cannot hold {show(value)}", out_of_range=True)
        return number

    def take(value: Any) -> float:
        if type(value) is not float:
            raise mismatch(name, value)
        return value

    return Converter(put, take)


def _bool() -> Converter:
    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise mismatch("bool", value)
        return value

    return Converter(convert, convert)


def _string(name: str) -> Converter:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or (name == "char" and len(value) != 1):
            raise mismatch("a str of one character" if name == "char" else name, value)
        try:
            encoded = str.encode(value)
        except UnicodeEncodeError:
            raise Wrong(f"must be {name}; {show(value)} has a lone surrogate") from None
        return value if type(value) is str else encoded.decode()

    return Converter(convert, convert)


def _numbers(name: str, element: Converter) -> Converter:
    """A list of numbers, which crosses as bytes."""
    code, integer = NUMBERS[name], name in INTEGERS
    width = struct.calcsize("<" + code)

    def put(value: Any) -> bytes | memoryview:
        if name == "u8" and isinstance(value, _BYTES_LIKE):
            view = memoryview(cast(bytes, value))
            return view.cast("B") if view.c_contiguous else view.tobytes()
        items = _sequence(value, f"list<{name}>")
        if not (set(map(type, items)) <= ({int} if integer else {float})):
            items = [inner(element.put, each, f"[{at}]") for at, each in enumerate(items)]
        try:
            return struct.pack(f"<{len(items)}{code}", *items)
        except (struct.error, OverflowError):
            for at, each in enumerate(items):
                inner(element.put, each, f"[{at}]")
            raise

    def take(value: Any) -> bytes | list[Any]:
        if type(value) is not bytes or len(value) % width:
            raise mismatch(f"list<{name}>", value)
        if name == "u8":
            return value
        numbers = array.array(_ARRAY_CODES[code], value)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()

    return Converter(put, take)


_ARRAY_CODES = {code: code for code in "bBhHfdqQ"} | {"i": "i", "I": "I"}


def _list(element: Converter, text: str) -> Converter:
    def put(value: Any) -> list[Any]:
        return _each(element.put, _sequence(value, text))

    def take(value: Any) -> list[Any]:
        if type(value) is not list:
            raise mismatch(text, value)
        return _each(element.take, cast("list[object]", value))

    return Converter(put, take)


def _tuple(items: Sequence[Converter], text: str) -> Converter:
    def put(value: Any) -> list[Any]:
        given = _sequence(value, text)
        if len(given) != len(items):
            raise Wrong(f"must be {text}, {len(items)} values, not {len(given)}")
        return [
            inner(item.put, each, f"[{at}]")
            for at, (item, each) in enumerate(zip(items, given, strict=True))
        ]

    def take(value: Any) -> tuple[Any, ...]:
        given = _wire(value, len(items), text)
        return tuple([item.take(each) for item, each in zip(items, given, strict=True)])

    return Converter(put, take)


def _record(fields: Sequence[tuple[str, Converter]], text: str) -> Converter:
    names = [(name, name.replace("-", "_")) for name, _ in fields]
    known = {spelling for pair in names for spelling in pair}

    def put(value: Any) -> list[Any]:
        if isinstance(value, Mapping):
            given = cast("Mapping[object, object]", value)
            unknown = [key for key in given if key not in known]
            if unknown:
                raise Wrong(f"has no field {show(unknown[0])}; it is {text}")
            values = [_field(given, pair, text) for pair in names]
        elif value is None or isinstance(value, (str, int, float, *_BYTES_LIKE, list, tuple, set)):
            raise mismatch(text, value, "pass a dict or an object with these attributes")
        else:
            values = [_attribute(value, pair, text) for pair in names]
        return [
            inner(kind.put, each, f".{name}")
            for (name, kind), each in zip(fields, values, strict=True)
        ]

    def take(value: Any) -> dict[str, Any]:
        given = _wire(value, len(fields), text)
        return {name: kind.take(each) for (name, kind), each in zip(fields, given, strict=True)}

    return Converter(put, take)


def _variant(cases: Sequence[tuple[str, Converter | None]], text: str) -> Converter:
    places = {name: at for at, (name, _) in enumerate(cases)}

    def put(value: Any) -> list[Any]:
        if not isinstance(value, Variant):
            raise mismatch(text, value, "pass Variant(case, payload)")
        at = places.get(value.case)
        if at is None:
            raise Wrong(f"has no case {show(value.case)}; it is {text}")
        return [at, _payload(cases[at], value.payload)]

    def take(value: Any) -> Variant:
        at, payload = _case(value, len(cases), text)
        name, kind = cases[at]
        return Variant(name, _taken(kind, payload, text))

    return Converter(put, take)


def _option(some: Converter, text: str, *, nested: bool) -> Converter:
    """``None`` or the value; where the value may itself be ``None``, ``Some`` of it."""

    def put(value: Any) -> list[Any]:
        if value is None:
            return [0, None]
        if isinstance(value, Some):
            value = value.value
        elif nested:
            raise mismatch(text, value, "pass None, or Some(value), whose value may be None")
        return [1, some.put(value)]

    def take(value: Any) -> Any:
        at, payload = _case(value, 2, text)
        if at == 0:
            return _taken(None, payload, text)
        taken = some.take(payload)
        return Some(taken) if nested else taken

    return Converter(put, take)


def _result(ok: Converter | None, error: Converter | None, text: str) -> Converter:
    def put(value: Any) -> list[Any]:
        match value:
            case Ok():
                return [0, _payload(("Ok", ok), value.value)]
            case Err():
                return [1, _payload(("Err", error), value.error)]
            case _:
                raise mismatch(text, value, "pass Ok(value) or Err(error)")

    def take(value: Any) -> Ok | Err:
        at, payload = _case(value, 2, text)
        return Err(_taken(error, payload, text)) if at else Ok(_taken(ok, payload, text))

    return Converter(put, take)


def _enum(names: Sequence[str], text: str) -> Converter:
    places = {name: at for at, name in enumerate(names)}

    def put(value: Any) -> int:
        if not isinstance(value, str) or value not in places:
            raise mismatch(text, value)
        return places[value]

    def take(value: Any) -> str:
        if type(value) is not int or not 0 <= value < len(names):
            raise mismatch(text, value)
        return names[value]

    return Converter(put, take)


def _flags(names: Sequence[str], text: str) -> Converter:
    bits = {name: 1 << at for at, name in enumerate(names)}

    def put(value: Any) -> int:
        if isinstance(value, (str, *_BYTES_LIKE, Mapping)) or not isinstance(value, Collection):
            raise mismatch(text, value, "pass a set of names")
        number = 0
        for name in cast("Collection[object]", value):
            if not isinstance(name, str) or name not in bits:
                raise Wrong(f"has no flag {show(name)}; it is {text}")
            number |= bits[name]
        return number

    def take(value: Any) -> frozenset[str]:
        if type(value) is not int or not 0 <= value < 1 << len(names):
            raise mismatch(text, value)
        return frozenset([name for name, bit in bits.items() if value & bit])

    return Converter(put, take)


# --- steps that several of them take --------------------------------------------------------------


def mismatch(wanted: str, value: Any, hint: str = "") -> Wrong:
    """What is said of a value of another type."""
    return Wrong(f"must be {wanted}, not {show(value)}" + (f"; {hint}" if hint else ""))


def inner(convert: Convert, value: Any, step: str) -> Any:
    """``value`` converted; ``step`` is its place in what it is part of."""
    try:
        return convert(value)
    except Wrong as wrong:
        raise wrong.under(step) from None


def _each(convert: Convert, values: Iterable[Any]) -> list[Any]:
    converted: list[Any] = []
    try:
        for each in values:
            converted.append(convert(each))
    except Wrong as wrong:
        raise wrong.under(f"[{len(converted)}]") from None
    return converted


def _sequence(value: Any, text: str) -> Sequence[Any]:
    """A list, a tuple, an array: whatever has a length, an order and no keys."""
    if isinstance(value, (str, *_BYTES_LIKE, Mapping, set, frozenset)):
        raise mismatch(text, value)
    if isinstance(value, (list, tuple)):
        return cast("Sequence[Any]", value)
    if hasattr(value, "tolist"):  # an array of numbers
        value = value.tolist()
        return _sequence(value, text) if isinstance(value, list) else [value]
    if not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise mismatch(text, value)
    return list(value)


def _field(given: Mapping[object, object], spellings: tuple[str, str], text: str) -> Any:
    found = [given[each] for each in dict.fromkeys(spellings) if each in given]
    if len(found) != 1:
        problem = "is given twice" if found else "is missing"
        raise Wrong(f"the field {spellings[0]} {problem}; it is {text}")
    return found[0]


def _attribute(value: Any, spellings: tuple[str, str], text: str) -> Any:
    try:
        return getattr(value, spellings[1])
    except AttributeError:
        raise Wrong(
            f"must be {text}, not {show(value)}, which has no attribute {spellings[1]}"
        ) from None


def _wire(value: Any, size: int, text: str) -> list[object]:
    if type(value) is not list or len(cast("list[object]", value)) != size:
        raise mismatch(text, cast(object, value))
    return cast("list[object]", value)


def _case(value: Any, cases: int, text: str) -> tuple[int, Any]:
    at, payload = _wire(value, 2, text)
    if type(at) is not int or not 0 <= at < cases:
        raise mismatch(text, value)
    return at, payload


def _taken(kind: Converter | None, payload: Any, text: str) -> Any:
    if kind is not None:
        return kind.take(payload)
    if payload is not None:
        raise mismatch(text, payload)
    return None


def _payload(case: tuple[str, Converter | None], value: Any) -> Any:
    name, kind = case
    if kind is not None:
        return inner(kind.put, value, f".{name}")
    if value is not None:
        raise Wrong(f"the case {name} has no payload; got {show(value)}")
    return None


def take_nothing(value: Any) -> None:
    """The result of what gives none."""
    _taken(None, value, "nothing")


class WitTypes:
    """The converters of one world's types, each made once. ``handle`` makes those of resources,
    whose name it is told."""

    def __init__(self, world: World, handle: Callable[[Handle, str], Converter]) -> None:
        self._world = world
        self._handle = handle
        self._text = WitText(world)
        self._made: dict[Ref, Converter] = {}

    def get(self, ref: Ref) -> Converter:
        """The converter of a type."""
        found = self._made.get(ref)
        if found is None:
            found = self._made[ref] = self._make(ref)
        return found

    def _make(self, ref: Ref) -> Converter:
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
            case wit.Own() | wit.Borrow() as kind:
                return self._handle(kind, text)

    def _optional(self, ref: Ref | None) -> Converter | None:
        return None if ref is None else self.get(ref)
