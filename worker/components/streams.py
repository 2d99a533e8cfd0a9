"""``wasi:io`` and the standard streams.

Source: WIT of ``wasi:io@0.2`` and ``wasi:cli@0.2``.
"""

from __future__ import annotations

import math
import os
import threading
import time
from struct import pack
from typing import Any

from ..engines.interface import GuestTrap
from .heap import BadValue
from .offers import STREAM_ERROR, State, offer

PERMIT = 1 << 16
"""Bytes that a guest may write at once, and gets at once."""
CLOSED = [1, [1, None]]
"""``err(closed)``."""
_OK = [0, None]
_POLL = "wasi:io/poll"
_STREAMS = "wasi:io/streams"


class Pollable:
    """Something to wait for: ready at a time of the machine's monotonic clock, in seconds."""

    def __init__(self, at: float = -math.inf) -> None:
        self.at = at


class Failed:
    """``error``: why an operation failed; ``code`` is its ``error-code``, where it was one on
    files."""

    def __init__(self, message: str, code: int | None = None) -> None:
        self.message = message
        self.code = code


class Source:
    """``input-stream``."""

    def read(self, size: int) -> bytes:
        """At most so many bytes, and at least one; nothing at the end."""
        raise NotImplementedError


class Sink:
    """``output-stream``."""

    def write(self, data: bytes) -> bool:
        """Whether it was taken."""
        raise NotImplementedError


class Stdin(Source):
    """The standard input of a call, which all handles to it share."""

    def __init__(self, state: State) -> None:
        self._state = state

    def read(self, size: int) -> bytes:
        """What is there, waiting for it."""
        state = self._state
        if state.stdin is None:
            given = state.wasi.stdin
            state.stdin = os.open(given, os.O_RDONLY) if isinstance(given, str) else given or b""
        if isinstance(state.stdin, int):
            return os.read(state.stdin, size)
        data, state.stdin = state.stdin[:size], state.stdin[size:]
        return data


class Output(Sink):
    """Standard output (1) or standard error (2)."""

    def __init__(self, state: State, stream: int) -> None:
        self._state = state
        self._stream = stream

    def write(self, data: bytes) -> bool:
        """Hand it on, unless it is more than the call may write."""
        on_output = self._state.wasi.on_output
        return on_output is None or not data or on_output(self._stream, data)


class Streams:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    # --- the standard streams ---------------------------------------------------------------------

    @offer("wasi:cli/stdin", "get-stdin", "() -> own<input-stream>")
    def get_stdin(self) -> int:
        return self._state.objects.add(Stdin(self._state))

    @offer("wasi:cli/stdout", "get-stdout", "() -> own<output-stream>")
    def get_stdout(self) -> int:
        return self._state.objects.add(Output(self._state, 1))

    @offer("wasi:cli/stderr", "get-stderr", "() -> own<output-stream>")
    def get_stderr(self) -> int:
        return self._state.objects.add(Output(self._state, 2))

    @offer("wasi:cli/terminal-stdin", "get-terminal-stdin", "() -> option<own<terminal-input>>")
    @offer("wasi:cli/terminal-stdout", "get-terminal-stdout", "() -> option<own<terminal-output>>")
    @offer("wasi:cli/terminal-stderr", "get-terminal-stderr", "() -> option<own<terminal-output>>")
    def no_terminal(self) -> list[Any]:
        return [0, None]

    # --- errors and waiting -----------------------------------------------------------------------

    @offer("wasi:io/error", "[method]error.to-debug-string", "(borrow<error>) -> string")
    def to_debug_string(self, error: int) -> str:
        return self._state.objects.get(error, Failed).message

    @offer(_POLL, "[method]pollable.ready", "(borrow<pollable>) -> bool")
    def ready(self, pollable: int) -> bool:
        return self._state.objects.get(pollable, Pollable).at <= time.monotonic()

    @offer(_POLL, "[method]pollable.block", "(borrow<pollable>)")
    def block(self, pollable: int) -> None:
        self._wait(self._state.objects.get(pollable, Pollable).at)

    @offer(_POLL, "poll", "(list<borrow<pollable>>) -> list<u32>")
    def poll(self, pollables: list[int]) -> bytes:
        if not pollables:
            raise BadValue("poll waits for nothing")
        ends = [self._state.objects.get(each, Pollable).at for each in pollables]
        first = min(ends)
        self._wait(first)
        now = max(time.monotonic(), first)
        places = [place for place, end in enumerate(ends) if end <= now]
        return pack(f"<{len(places)}I", *places)

    def _wait(self, until: float) -> None:
        left = until - time.monotonic()
        # The engine looks for an interrupt only where code loops or calls.
        if left > 0 and self._state.woken.wait(min(left, threading.TIMEOUT_MAX)):
            raise GuestTrap("interrupt", "interrupted while it waited")

    @offer(_STREAMS, "[method]input-stream.subscribe", "(borrow<input-stream>) -> own<pollable>")
    def subscribe_input(self, stream: int) -> int:
        self._state.objects.get(stream, Source)
        return self._state.objects.add(Pollable())

    @offer(_STREAMS, "[method]output-stream.subscribe", "(borrow<output-stream>) -> own<pollable>")
    def subscribe_output(self, stream: int) -> int:
        self._state.objects.get(stream, Sink)
        return self._state.objects.add(Pollable())

    # --- input ------------------------------------------------------------------------------------

    @offer(
        _STREAMS,
        "[method]input-stream.read",
        f"(borrow<input-stream>, u64) -> result<list<u8>, {STREAM_ERROR}>",
    )
    @offer(
        _STREAMS,
        "[method]input-stream.blocking-read",
        f"(borrow<input-stream>, u64) -> result<list<u8>, {STREAM_ERROR}>",
    )
    def read(self, stream: int, size: int) -> list[Any]:
        source = self._state.objects.get(stream, Source)
        if size == 0:
            return [0, b""]
        data = self._take(source, size)
        return data if isinstance(data, list) else [0, data]

    @offer(
        _STREAMS,
        "[method]input-stream.skip",
        f"(borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    @offer(
        _STREAMS,
        "[method]input-stream.blocking-skip",
        f"(borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    def skip(self, stream: int, size: int) -> list[Any]:
        read = self.read(stream, size)
        return read if read[0] else [0, len(read[1])]

    def _take(self, source: Source, size: int) -> bytes | list[Any]:
        try:
            return source.read(min(size, PERMIT)) or CLOSED
        except OSError as error:
            return self._failed(error)

    def _failed(self, error: OSError) -> list[Any]:
        message = error.strerror or "input or output failed"
        failed = Failed(message, getattr(error, "code", None))
        return [1, [0, self._state.objects.add(failed)]]

    # --- output -----------------------------------------------------------------------------------

    @offer(
        _STREAMS,
        "[method]output-stream.check-write",
        f"(borrow<output-stream>) -> result<u64, {STREAM_ERROR}>",
    )
    def check_write(self, stream: int) -> list[Any]:
        self._state.objects.get(stream, Sink)
        return [0, PERMIT]

    @offer(
        _STREAMS,
        "[method]output-stream.write",
        f"(borrow<output-stream>, list<u8>) -> result<_, {STREAM_ERROR}>",
    )
    @offer(
        _STREAMS,
        "[method]output-stream.blocking-write-and-flush",
        f"(borrow<output-stream>, list<u8>) -> result<_, {STREAM_ERROR}>",
    )
    def write(self, stream: int, data: bytes) -> list[Any]:
        if len(data) > PERMIT:
            raise BadValue(f"{len(data)} bytes are written at once, {PERMIT} are permitted")
        return self._give(self._state.objects.get(stream, Sink), data)

    @offer(
        _STREAMS,
        "[method]output-stream.write-zeroes",
        f"(borrow<output-stream>, u64) -> result<_, {STREAM_ERROR}>",
    )
    @offer(
        _STREAMS,
        "[method]output-stream.blocking-write-zeroes-and-flush",
        f"(borrow<output-stream>, u64) -> result<_, {STREAM_ERROR}>",
    )
    def write_zeroes(self, stream: int, size: int) -> list[Any]:
        return self.write(stream, bytes(min(size, PERMIT + 1)))

    @offer(
        _STREAMS,
        "[method]output-stream.flush",
        f"(borrow<output-stream>) -> result<_, {STREAM_ERROR}>",
    )
    @offer(
        _STREAMS,
        "[method]output-stream.blocking-flush",
        f"(borrow<output-stream>) -> result<_, {STREAM_ERROR}>",
    )
    def flush(self, stream: int) -> list[Any]:
        self._state.objects.get(stream, Sink)
        return _OK

    @offer(
        _STREAMS,
        "[method]output-stream.splice",
        f"(borrow<output-stream>, borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    @offer(
        _STREAMS,
        "[method]output-stream.blocking-splice",
        f"(borrow<output-stream>, borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    def splice(self, sink: int, source: int, size: int) -> list[Any]:
        into = self._state.objects.get(sink, Sink)
        read = self.read(source, size)
        if read[0]:
            return read
        given = self._give(into, read[1])
        return given if given[0] else [0, len(read[1])]

    def _give(self, sink: Sink, data: bytes) -> list[Any]:
        try:
            return _OK if sink.write(data) else CLOSED
        except OSError as error:
            return self._failed(error)
