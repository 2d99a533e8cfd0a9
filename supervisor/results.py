"""Where a call's result buffer is put together, of the pieces that its worker hands over."""

from __future__ import annotations

import io

from ..protocol.errors import ProtocolError


class ResultBuffer:
    """Pieces in order. Each is copied once, to where the caller gets it from: the worker's memory
    is looked at no more."""

    def __init__(self, into: memoryview | None) -> None:
        self._into = into
        self._size = 0
        self._grown = io.BytesIO()

    def write(self, piece: bytes | memoryview) -> None:
        """Add a piece.

        Raises:
            ProtocolError: the caller's buffer, whose size the worker was told, has no room for it.
        """
        end = self._size + len(piece)
        if self._into is None:
            self._grown.write(piece)
        elif end > len(self._into):
            raise ProtocolError("a result that is larger than the buffer for it")
        else:
            self._into[self._size : end] = piece
        self._size = end

    @property
    def filled(self) -> memoryview | None:
        """The part of the caller's buffer that they fill, where there is such a buffer."""
        return None if self._into is None else self._into[: self._size]

    @property
    def value(self) -> bytes:
        """All of them, where there is none. Does not copy."""
        return self._grown.getvalue()
