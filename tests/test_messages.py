"""Messages: every one comes through unchanged, and whatever is none is exactly a ProtocolError."""

from __future__ import annotations

import struct
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_sandbox.fuzz.strategies import mutated, of_type
from wasm_sandbox.protocol import messages
from wasm_sandbox.protocol.errors import ProtocolError, SandboxError
from wasm_sandbox.protocol.failures import KINDS, to_error
from wasm_sandbox.protocol.framing import MAX_FRAME, FrameReader

Decoder = Callable[[bytes], tuple[Any, ...]]

DIRECTIONS: dict[str, tuple[Decoder, Any]] = {
    "from the worker": (messages.decode_from_worker, messages.FromWorker),
    "to the worker": (messages.decode_to_worker, messages.ToWorker),
}
TYPES = [
    pytest.param(decode, kind, id=kind.__name__)
    for decode, union in DIRECTIONS.values()
    for kind in typing.get_args(union)
]
DECODERS = pytest.mark.parametrize(
    "decode", [decode for decode, _ in DIRECTIONS.values()], ids=list(DIRECTIONS)
)
few = settings(
    max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def body(frame: bytes) -> bytes:
    (one,) = FrameReader().feed(frame)
    return one


@pytest.mark.parametrize(("decode", "kind"), TYPES)
@few
@given(data=st.data())
def test_every_message_comes_through_unchanged(
    decode: Decoder, kind: type[Any], data: st.DataObject
) -> None:
    message = data.draw(of_type(kind))
    (read,) = decode(body(messages.encode(message)))
    assert type(read) is kind
    # As bytes, because a NaN is not equal to itself.
    assert messages.encode(read) == messages.encode(message)


def test_the_directions_share_no_message_and_no_tag() -> None:
    tags = [
        kind.__struct_config__.tag
        for _, union in DIRECTIONS.values()
        for kind in typing.get_args(union)
    ]
    assert len(tags) == len(set(tags))


@pytest.mark.parametrize(("decode", "kind"), TYPES)
@few
@given(data=st.data())
def test_a_message_of_the_other_direction_is_refused(
    decode: Decoder, kind: type[Any], data: st.DataObject
) -> None:
    (other,) = (d for d, _ in DIRECTIONS.values() if d is not decode)
    frame = messages.encode(data.draw(of_type(kind)))
    with pytest.raises(ProtocolError):
        other(body(frame))


@DECODERS
@given(data=st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_protocol_error(decode: Decoder, data: bytes) -> None:
    with suppress(ProtocolError):
        decode(data)


@DECODERS
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_mutilated_message_is_a_message_or_a_protocol_error(
    decode: Decoder, data: st.DataObject
) -> None:
    (union,) = (u for d, u in DIRECTIONS.values() if d is decode)
    valid = of_type(union).map(lambda message: body(messages.encode(message)))
    hostile = data.draw(mutated(valid))
    with suppress(ProtocolError):
        decode(hostile)


HOSTILE = {
    "nothing": b"",
    "a number": b"\x01",
    "a map": b"\x80",
    "a frame without a message": b"\x90",
    "a never used byte": b"\xc1",
    "four thousand million messages": b"\xdd\xff\xff\xff\xff",
    "a message that is a map": b"\x91\x80",
    "a message without a tag": b"\x91\x90",
    "an unknown tag": b"\x91\x92\x63\x01",
    "a tag that is a string": b"\x91\x92\xa1x\x01",
    "a deep nest": b"\x91" * 100_000 + b"\xc0",
    "a deep nest in a field nobody knows": b"\x91\x93\x23\x01" + b"\x91" * 100_000 + b"\xc0",
    "a deep nest of maps": b"\x91\x93\x23\x01" + b"\x81\x01" * 100_000 + b"\xc0",
    "a number over 64 bits": b"\x91\x92\x23\xcb" + struct.pack(">d", 1e300),
    "text that is no UTF-8": b"\x91\x93\x22\xa2\xff\xfe\xa0",
    "a surrogate": b"\x91\x93\x22\xa3\xed\xa0\x80\xa0",
    "an extension": b"\x91\x92\x23\xd4\x01\x00",
    "a time that is none": b"\x91\x92\x23\xd7\xff" + b"\xff" * 8,
    "something behind it": b"\x91\x92\x23\x01\x00",
}


@DECODERS
@pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_bytes_are_refused(decode: Decoder, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_a_frame_over_the_bound_is_not_made() -> None:
    with pytest.raises(ProtocolError):
        messages.encode(messages.Output(1, 1, bytes(MAX_FRAME)))


def test_messages_are_frozen_and_hashable_data() -> None:
    message = messages.Pull(1, 0, 0)
    with pytest.raises(AttributeError):
        message.call = 2  # type: ignore[misc]
    assert hash(message) == hash(messages.Pull(1, 0, 0))


def test_what_does_not_decode_is_not_quoted_at_length() -> None:
    kind = "\x1b[2J" * 10_000
    imports = [["env", "f", [kind]]]
    body = msgspec.msgpack.encode([[43, 5, [imports], 0.1]])
    with pytest.raises(ProtocolError, match="Invalid value") as caught:
        messages.decode_from_worker(body)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_fields_that_come_later_are_ignored_by_those_who_do_not_know_them() -> None:
    longer = msgspec.msgpack.encode([[35, 7, "a field of a later version"]])
    assert messages.decode_from_worker(longer) == (messages.Loaded(7),)


@pytest.mark.parametrize("kind", sorted(KINDS))
@few
@given(data=st.data())
def test_every_kind_of_failure_becomes_an_error_whatever_its_evidence(
    kind: str, data: st.DataObject
) -> None:
    failure = msgspec.structs.replace(data.draw(of_type(messages.Failure)), kind=kind)
    error = to_error(failure)
    assert isinstance(error, SandboxError)
    assert all(character.isprintable() or character == "\n" for character in str(error))


@given(kind=st.text().filter(lambda kind: kind not in KINDS))
def test_an_unknown_kind_of_failure_is_a_protocol_error(kind: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        to_error(messages.Failure(kind, ""))
    assert len(str(caught.value)) < 500
