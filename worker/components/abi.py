"""The Canonical ABI: how values of each type lie in a guest's memory, and pass as core values.

Source: component model, ``CanonicalABI.md``. A wire value (``codec.py``) that is given to the guest
was checked before; what comes from the guest is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...protocol import wit
from ...protocol.wit import NUMBERS, Ref, Signature
from .aggregates import List, Numbers, Record, String, Variant
from .codec import MAX_FLAT_PARAMETERS, Codec
from .heap import Heap
from .scalars import Bool, Char, Enum, Flags, Handle, Number

MAX_FLAT_RESULTS = 1


class Codecs:
    """The codecs of a component's types, each made once."""

    def __init__(self, types: Sequence[wit.Type]) -> None:
        self._types = types
        self._made: dict[Ref, Codec] = {}

    def get(self, ref: Ref) -> Codec:
        """The codec of a type."""
        found = self._made.get(ref)
        if found is None:
            found = self._made[ref] = self._make(ref)
        return found

    def _make(self, ref: Ref) -> Codec:
        if isinstance(ref, str):
            special: dict[str, type[Bool | Char | String]] = {
                "bool": Bool,
                "char": Char,
                "string": String,
            }
            return special[ref]() if ref in special else Number(ref)
        match self._types[ref]:
            case wit.Record(fields):
                return Record([self.get(field) for _, field in fields])
            case wit.Tuple(items):
                return Record([self.get(item) for item in items])
            case wit.List(element):
                if isinstance(element, str) and element in NUMBERS:
                    return Numbers(element)
                return List(self.get(element))
            case wit.Variant(cases):
                return Variant([self._optional(case) for _, case in cases])
            case wit.Option(some):
                return Variant([None, self.get(some)])
            case wit.Result(ok, error):
                return Variant([self._optional(ok), self._optional(error)])
            case wit.Enum(names):
                return Enum(len(names))
            case wit.Flags(names):
                return Flags(len(names))
            case wit.Own(resource):
                return Handle(resource, owned=True)
            case wit.Borrow(resource):
                return Handle(resource, owned=False)

    def _optional(self, ref: Ref | None) -> Codec | None:
        return None if ref is None else self.get(ref)


class FunctionCodec:
    """Parameters and result of one function, on both sides of a call."""

    def __init__(self, codecs: Codecs, signature: Signature) -> None:
        self._params = Record([codecs.get(ref) for _, ref in signature.params])
        self._result = None if signature.result is None else codecs.get(signature.result)
        self._spilled = len(self._params.flat) > MAX_FLAT_PARAMETERS
        flat = () if self._result is None else self._result.flat
        self._pointed = len(flat) > MAX_FLAT_RESULTS
        params = ("i32",) if self._spilled else self._params.flat
        self.lifted = params, ("i32",) if self._pointed else flat
        """Core parameters and results of a function that is lifted."""
        self.lowered = (*params, "i32") if self._pointed else params, () if self._pointed else flat
        """The same of one that is lowered."""

    def put_params(self, heap: Heap, values: Sequence[Any]) -> list[Any]:
        """The core arguments for a lifted function."""
        if self._spilled:
            at = heap.allocate(self._params.align, self._params.size)
            self._params.store(heap, values, at)
            return [at]
        flats: list[Any] = []
        self._params.lower(heap, values, flats)
        return flats

    def take_result(self, heap: Heap, flats: Sequence[Any]) -> Any:
        """The result of a lifted function, from its core results; ``None`` where it has none."""
        result = self._result
        if result is None:
            return None
        if self._pointed:
            at: int = flats[0]
            heap.check(at, result.size, result.align)
            return result.load(heap, at)
        return result.lift(heap, iter(flats))

    def take_params(self, heap: Heap, flats: Sequence[Any]) -> list[Any]:
        """The arguments of a lowered function, from the core ones."""
        if self._spilled:
            at: int = flats[0]
            heap.check(at, self._params.size, self._params.align)
            return self._params.load(heap, at)
        return self._params.lift(heap, iter(flats))

    def put_result(self, heap: Heap, value: Any, flats: Sequence[Any]) -> list[Any]:
        """The core results of a lowered function; ``flats`` are its core arguments."""
        result = self._result
        if result is None:
            return []
        if self._pointed:
            at: int = flats[-1]
            heap.check(at, result.size, result.align)
            result.store(heap, value, at)
            return []
        made: list[Any] = []
        result.lower(heap, value, made)
        return made
