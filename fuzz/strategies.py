"""Hypothesis strategies for what goes over the wire: messages, streams of frames, and their
mutilations.

All are made from the message types themselves, so a new message or field is attacked as soon as it
exists.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..protocol import host_calls, wit
from ..protocol.failures import KINDS
from ..protocol.host_calls import ImportCall, MemoryAnswer
from ..protocol.messages import (
    SLOT,
    BatchReturned,
    Failed,
    Failure,
    FromWorker,
    HostCall,
    Loaded,
    LoadFailed,
    Output,
    Pull,
    Push,
    Recalled,
    Returned,
    ToWorker,
    encode,
)
from ..protocol.receipts import Usage
from ..protocol.wit import PRIMITIVES, Interface, Ref, Signature, World

T = TypeVar("T")

_INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-2, 9)
"""What MessagePack can carry; small numbers often, because they mean something."""

_SCALARS: dict[object, SearchStrategy[Any]] = {
    int: _INTEGERS,
    float: st.floats() | st.floats(0.0, 100.0),
    bool: st.booleans(),
    str: st.text(max_size=8),
    bytes: st.binary(max_size=2 * SLOT),
    type(None): st.none(),
}


def made(kind: Callable[..., T], *fields: SearchStrategy[Any]) -> SearchStrategy[T]:
    """``kind`` of these fields; much quicker than ``builds``, which looks at the type each time."""
    return st.tuples(*fields).map(lambda values: kind(*values))


def of_type(hint: Any) -> SearchStrategy[Any]:
    """Values of a message type or of a field's type, every field filled at random.

    Raises:
        TypeError: a type that no message has.
    """
    return _of_type(hint)


@functools.cache
def _of_type(hint: Hashable) -> SearchStrategy[Any]:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is World:
        return worlds()
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([of_type(argument) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(of_type(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of_type, arguments))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        hints = typing.get_type_hints(hint)
        return made(hint, *(of_type(hints[name]) for name in hint.__struct_fields__))
    raise TypeError(f"no strategy for {hint!r}")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Worlds of components: their types refer to earlier ones, because others cannot be made."""
    kinds: list[wit.Type] = []
    refs: list[Ref] = list(PRIMITIVES)
    for place in range(draw(st.integers(0, 4))):
        some = st.sampled_from(refs)
        names = st.text(max_size=4)
        kinds.append(
            draw(
                st.one_of(
                    st.lists(st.tuples(names, some), max_size=2).map(
                        lambda fields: wit.Record(tuple(fields))
                    ),
                    st.lists(st.tuples(names, st.none() | some), max_size=2).map(
                        lambda cases: wit.Variant(tuple(cases))
                    ),
                    st.lists(some, max_size=2).map(lambda items: wit.Tuple(tuple(items))),
                    st.lists(names, max_size=2).map(lambda flags: wit.Flags(tuple(flags))),
                    st.lists(names, max_size=2).map(lambda cases: wit.Enum(tuple(cases))),
                    st.builds(wit.List, some),
                    st.builds(wit.Option, some),
                    st.builds(wit.Result, st.none() | some, st.none() | some),
                    st.sampled_from([wit.Own(0), wit.Borrow(0)]),
                )
            )
        )
        refs.append(place)
    some = st.sampled_from(refs)
    signatures = st.builds(
        Signature,
        st.lists(st.tuples(st.text(max_size=4), some), max_size=2).map(tuple),
        st.none() | some,
    )
    interfaces = st.builds(
        Interface,
        st.text(max_size=8),
        st.lists(st.tuples(st.text(max_size=4), signatures), max_size=2).map(tuple),
        st.lists(st.tuples(st.text(max_size=4), some), max_size=2).map(tuple),
        st.lists(st.tuples(st.text(max_size=4), st.just(0)), max_size=1).map(tuple),
    )
    several = st.lists(interfaces, max_size=2).map(tuple)
    named = tuple(draw(st.text(max_size=4)) for _ in kinds)
    return World(tuple(kinds), named, ("thing",), draw(several), draw(several))


def from_worker() -> SearchStrategy[FromWorker]:
    """Any message that a worker can encode, sensible or not."""
    return of_type(FromWorker)


def to_worker() -> SearchStrategy[ToWorker]:
    """Any message that a supervisor can encode, sensible or not."""
    return of_type(ToWorker)


def plausible(calls: int = 6) -> SearchStrategy[FromWorker]:
    """Messages of a worker that knows the protocol and lies: small numbers, sizes that may fit."""
    number = st.integers(0, calls)
    failure = st.builds(Failure, kind=st.sampled_from(sorted(KINDS)), message=st.text(max_size=8))
    slots = st.sampled_from([b"", bytes(SLOT), bytes(2 * SLOT), b"short"])
    data = st.none() | st.binary(max_size=64)
    columns = st.sampled_from([None, b"", bytes(24), bytes(25)])
    usage: SearchStrategy[Usage] = of_type(Usage)
    size = st.integers(-1, 65)
    imported = made(ImportCall, st.integers(0, 3), st.binary(max_size=3 * SLOT)).map(
        host_calls.encode
    ) | st.binary(max_size=8)
    accessed = made(MemoryAnswer, size, st.booleans(), size).map(host_calls.encode)
    return st.one_of(
        made(Returned, number, slots, usage, data, st.none() | st.integers(0, 3)),
        made(Failed, number, failure, usage),
        made(BatchReturned, number, st.integers(-1, 4), usage, st.none() | failure, columns),
        made(Output, number, st.integers(0, 3), st.binary(max_size=64)),
        made(Pull, number, st.integers(-1, 2), st.integers(-1, 65)),
        made(Push, number, st.integers(0, 3), st.integers(-1, 65)),
        made(Recalled, number, number),
        made(HostCall, number, st.just("network"), st.binary(max_size=8), data),
        made(HostCall, number, st.just("import"), imported, data, size, size),
        made(HostCall, number, st.just("memory"), accessed, data, size, size),
        made(Loaded, number),
        made(LoadFailed, number, failure),
    )


def frames(messages: SearchStrategy[FromWorker] | None = None) -> SearchStrategy[bytes]:
    """A frame of one to three messages."""
    chosen = plausible() | from_worker() if messages is None else messages
    return st.lists(chosen, min_size=1, max_size=3).map(lambda several: encode(*several))


def streams() -> SearchStrategy[bytes]:
    """Several valid frames, one behind the other."""
    return st.lists(frames(), max_size=4).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn, source: SearchStrategy[bytes] | None = None) -> bytes:
    """A valid stream with some bytes changed, cut out, repeated or put in."""
    data = bytearray(draw(streams() if source is None else source))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 8)))
        match draw(st.sampled_from(("change", "cut", "repeat", "put"))):
            case "change":
                data[at:to] = draw(st.binary(min_size=to - at, max_size=to - at))
            case "cut":
                del data[at:to]
            case "repeat":
                data[at:at] = data[at:to]
            case _:
                data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


def hostile_bytes() -> SearchStrategy[bytes]:
    """What a worker in the guest's hands may write: plausible, valid, mutilated, or noise."""
    return frames(plausible()) | streams() | mutated() | st.binary(max_size=64)


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` in pieces, as read(2) may deliver it."""
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
