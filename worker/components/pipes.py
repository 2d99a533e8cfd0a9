"""What stands behind the resources of ``wasi:io``."""

from __future__ import annotations

import math
from typing import Any

PERMIT = 1 << 16
"""Bytes that a guest may write at once, and gets at once."""


class Pollable:
    """Something to wait for: ready at a time of the machine's monotonic clock, in seconds."""

    def __init__(self, at: float = -math.inf) -> None:
        self.at = at


class Failed:
    """``error``: why an operation failed.

    Args:
        message: in words.
        code: its ``error-code``, as the function that asks for one in ``interface`` gives it.
    """

    def __init__(self, message: str, interface: str = "", code: Any = None) -> None:
        self.message = message
        self._interface = interface
        self._code = code

    def code(self, interface: str) -> list[Any]:
        """``option<error-code>``: that of ``interface``, where the operation was one of its."""
        return [1, self._code] if self._interface == interface else [0, None]


class StreamError(OSError):
    """A stream failed, and the guest is told ``failed``."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Source:
    """``input-stream``."""

    def read(self, size: int) -> bytes:
        """At most so many bytes, and at least one; nothing at the end."""
        raise NotImplementedError

    def try_read(self, size: int) -> bytes | None:
        """The same; ``None`` where it would have to wait."""
        return self.read(size)

    def subscribe(self) -> Pollable:
        """What tells that there is something to read."""
        return Pollable()


class Sink:
    """``output-stream``."""

    def write(self, data: bytes) -> bool:
        """Whether it was taken. It may still be on its way."""
        raise NotImplementedError

    def write_through(self, data: bytes) -> bool:
        """The same, and it has arrived."""
        return self.write(data)

    def permit(self) -> int:
        """Bytes that can be written without waiting."""
        return PERMIT

    def flush(self) -> None:
        """Wait for what is on its way."""

    def subscribe(self) -> Pollable:
        """What tells that something can be written."""
        return Pollable()
