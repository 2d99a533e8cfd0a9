"""Framing and decoding alone.

Invariant: whether a stream arrives whole, in pieces, or one byte at a time, all the messages before
its first fault are understood, and nothing after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..protocol.errors import ProtocolError
from ..protocol.framing import HEADER_SIZE, MAX_FRAME, FrameReader
from ..protocol.messages import Loaded, decode_from_worker, encode
from .strategies import cuts, hostile_bytes

_MORE = encode(Loaded(1))
"""A good frame, which comes too late behind a fault."""


def heard(pieces: Iterable[bytes]) -> tuple[list[bytes], bool]:
    """What is understood of ``pieces``, each message encoded again; and whether that ended in a
    fault."""
    reader, understood = FrameReader(), list[bytes]()
    try:
        for piece in pieces:
            for body in reader.feed(piece):
                understood += [encode(message) for message in decode_from_worker(body)]
    except ProtocolError:
        return understood, True
    return understood, False


def expected(stream: bytes) -> tuple[list[bytes], bool]:
    """The same, read frame by frame from a stream that is there as a whole."""
    understood: list[bytes] = []
    while len(stream) >= HEADER_SIZE:
        length = int.from_bytes(stream[:HEADER_SIZE], "little")
        if not 0 < length <= MAX_FRAME:
            return understood, True
        body, stream = stream[HEADER_SIZE : HEADER_SIZE + length], stream[HEADER_SIZE + length :]
        if len(body) < length:
            break
        try:
            understood += [encode(message) for message in decode_from_worker(body)]
        except ProtocolError:
            return understood, True
    return understood, False


def deliveries() -> SearchStrategy[list[bytes]]:
    """A stream in pieces."""
    return st.lists(hostile_bytes(), max_size=3).map(b"".join).flatmap(cuts)


def check(pieces: list[bytes]) -> None:
    """Assert the invariant of one delivery."""
    whole = b"".join(pieces)
    right = expected(whole)
    for delivery in (pieces, [whole], [whole[at : at + 1] for at in range(len(whole))]):
        assert heard(delivery) == right
    check_deaf(pieces)


def check_deaf(pieces: list[bytes]) -> None:
    """Assert that a reader gives nothing more once it has refused a frame's length."""
    reader = FrameReader()
    try:
        for piece in pieces:
            list(reader.feed(piece))
    except ProtocolError:
        refused = False
        try:
            assert not list(reader.feed(_MORE))
        except ProtocolError:
            refused = True
        assert refused, "a broken stream goes on"
