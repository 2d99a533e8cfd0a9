"""Frames: however the bytes are cut, within the bound, and an error is for ever."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandbox.protocol.errors import ProtocolError
from wasm_sandbox.protocol.framing import MAX_FRAME, FrameReader, frame

BODIES = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


@given(bodies=BODIES, data=st.data())
def test_the_same_bytes_give_the_same_frames_however_they_are_cut(
    bodies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(frame, bodies))
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    reader, read = FrameReader(), list[bytes]()
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
    assert read == bodies
    assert reader.pending == 0


@given(bodies=BODIES)
def test_whole_and_one_at_a_time_are_the_same(bodies: list[bytes]) -> None:
    stream = b"".join(map(frame, bodies))
    whole, single = FrameReader(), FrameReader()
    one_by_one = [body for at in range(len(stream)) for body in single.feed(stream[at : at + 1])]
    assert list(whole.feed(stream)) == one_by_one == bodies
    assert single.pending == whole.pending == 0


@given(body=st.binary(min_size=1, max_size=64), data=st.data())
def test_what_is_left_of_a_truncated_frame_is_counted(body: bytes, data: st.DataObject) -> None:
    stream = frame(body)
    end = data.draw(st.integers(0, len(stream) - 1))
    reader = FrameReader()
    assert list(reader.feed(stream[:end])) == []
    assert reader.pending == end


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_outside_of_the_bound_is_refused_by_its_header_alone(length: int) -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolError, match=str(length)):
        list(reader.feed(struct.pack("<I", length)))
    assert reader.pending == 0


def test_the_bound_is_checked_before_anything_of_the_frame_is_kept() -> None:
    reader = FrameReader(max_frame=10)
    assert list(reader.feed(struct.pack("<I", 11)[:3])) == []
    with pytest.raises(ProtocolError):
        list(reader.feed(struct.pack("<I", 11)[3:] + bytes(11)))
    assert reader.pending <= 4 + 11
    for _ in range(100):
        with pytest.raises(ProtocolError):
            list(reader.feed(bytes(1 << 16)))
    assert reader.pending <= 4 + 11


def test_a_frame_as_large_as_the_bound_passes() -> None:
    body = bytes(MAX_FRAME)
    assert list(FrameReader().feed(frame(body))) == [body]


def test_nothing_larger_is_made() -> None:
    with pytest.raises(ProtocolError):
        frame(bytes(MAX_FRAME + 1))


@given(later=st.binary(max_size=64))
def test_an_error_stays_an_error(later: bytes) -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolError) as first:
        list(reader.feed(bytes(4)))
    for data in (later, frame(b"valid"), b""):
        with pytest.raises(ProtocolError) as again:
            list(reader.feed(data))
        assert str(again.value) == str(first.value)


def test_what_was_complete_before_a_fault_is_given() -> None:
    """Whole and one at a time: the same frames, and then the refusal."""
    reader, read = FrameReader(), list[bytes]()
    with pytest.raises(ProtocolError):
        read.extend(reader.feed(frame(b"complete") + bytes(4)))
    assert read == [b"complete"]


@given(data=st.binary(max_size=200))
def test_any_bytes_give_frames_or_a_protocol_error(data: bytes) -> None:
    reader = FrameReader(max_frame=50)
    try:
        bodies = list(reader.feed(data))
    except ProtocolError:
        return
    assert all(0 < len(body) <= 50 for body in bodies)
    assert sum(4 + len(body) for body in bodies) + reader.pending == len(data)
