"""Frames: a little-endian u32 length, then that many bytes of MessagePack. Bytes in, bodies out; no
I/O.

The length is checked against ``MAX_FRAME`` before anything of that size is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .errors import ProtocolError

MAX_FRAME = 1 << 20
"""Bytes that a frame's body may have. Anything larger travels through the arena."""

READ_SIZE = 1 << 16
"""Bytes to ask of one read(2): larger buffers cost more in page faults than they save in calls."""

_HEADER = struct.Struct("<I")
HEADER_SIZE = _HEADER.size


def frame(body: bytes) -> bytes:
    """One frame.

    Raises:
        ProtocolError: the body is larger than ``MAX_FRAME``.
    """
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(body)} bytes is over the bound of {MAX_FRAME}")
    return _HEADER.pack(len(body)) + body


def only_body(data: bytes) -> bytes | None:
    """The body, where ``data`` is one frame and nothing else."""
    if len(data) <= HEADER_SIZE or _HEADER.unpack_from(data)[0] != len(data) - HEADER_SIZE:
        return None
    return data[HEADER_SIZE:]


class FrameReader:
    """Cuts a stream into frames, however the bytes are cut. After an error it stays in error."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._pending = bytearray()
        self._broken: str | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was read; give the bodies that are complete, one by one.

        Raises:
            ProtocolError: a frame announces more than the bound, or nothing at all. What was
                complete before it has been given.
        """
        if self._broken is not None:
            raise ProtocolError(self._broken)
        source: bytes | bytearray = data
        if self._pending:
            source = self._pending + data
            self._pending = bytearray()
        start, available = 0, len(source)
        while available - start >= HEADER_SIZE:
            (length,) = _HEADER.unpack_from(source, start)
            if not 0 < length <= self._max_frame:
                self._broken = (
                    f"a frame announces {length} bytes; 1 to {self._max_frame} are allowed"
                )
                raise ProtocolError(self._broken)
            end = start + HEADER_SIZE + length
            if end > available:
                break
            yield bytes(source[start + HEADER_SIZE : end])
            start = end
        self._pending += source[start:]

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame: at the end of the stream, more than 0 is a truncated
        frame."""
        return len(self._pending)
