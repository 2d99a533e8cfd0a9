"""``wasi:io`` and the standard streams.

Source: WIT of ``wasi:io@0.2`` and ``wasi:cli@0.2``.
"""

from __future__ import annotations

import os
from typing import Any

from .heap import BadValue
from .offers import STREAM_ERROR, State, offer
from .pipes import PERMIT, Failed, Sink, Source

CLOSED = [1, [1, None]]
"""``err(closed)``."""
_OK = [0, None]
_STREAMS = "wasi:io/streams"


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

    # --- errors -----------------------------------------------------------------------------------

    @offer("wasi:io/error", "[method]error.to-debug-string", "(borrow<error>) -> string")
    def to_debug_string(self, error: int) -> str:
        return self._state.objects.get(error, Failed).message

    @offer(_STREAMS, "[method]input-stream.subscribe", "(borrow<input-stream>) -> own<pollable>")
    def subscribe_input(self, stream: int) -> int:
        return self._state.objects.add(self._state.objects.get(stream, Source).subscribe())

    @offer(_STREAMS, "[method]output-stream.subscribe", "(borrow<output-stream>) -> own<pollable>")
    def subscribe_output(self, stream: int) -> int:
        return self._state.objects.add(self._state.objects.get(stream, Sink).subscribe())

    # --- input ------------------------------------------------------------------------------------

    @offer(
        _STREAMS,
        "[method]input-stream.read",
        f"(borrow<input-stream>, u64) -> result<list<u8>, {STREAM_ERROR}>",
    )
    def read(self, stream: int, size: int) -> list[Any]:
        return self._take(stream, size, wait=False)

    @offer(
        _STREAMS,
        "[method]input-stream.blocking-read",
        f"(borrow<input-stream>, u64) -> result<list<u8>, {STREAM_ERROR}>",
    )
    def blocking_read(self, stream: int, size: int) -> list[Any]:
        return self._take(stream, size, wait=True)

    @offer(
        _STREAMS,
        "[method]input-stream.skip",
        f"(borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    def skip(self, stream: int, size: int) -> list[Any]:
        read = self.read(stream, size)
        return read if read[0] else [0, len(read[1])]

    @offer(
        _STREAMS,
        "[method]input-stream.blocking-skip",
        f"(borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    def blocking_skip(self, stream: int, size: int) -> list[Any]:
        read = self.blocking_read(stream, size)
        return read if read[0] else [0, len(read[1])]

    def _take(self, stream: int, size: int, *, wait: bool) -> list[Any]:
        source = self._state.objects.get(stream, Source)
        if size == 0:
            return [0, b""]
        size = min(size, PERMIT)
        try:
            data = source.read(size) if wait else source.try_read(size)
        except OSError as error:
            return self._failed(error)
        if data is None:
            return [0, b""]
        return [0, data] if data else CLOSED

    def _failed(self, error: OSError) -> list[Any]:
        failed = getattr(error, "failed", None)
        if not isinstance(failed, Failed):
            failed = Failed(error.strerror or "input or output failed")
        return [1, [0, self._state.objects.add(failed)]]

    # --- output -----------------------------------------------------------------------------------

    @offer(
        _STREAMS,
        "[method]output-stream.check-write",
        f"(borrow<output-stream>) -> result<u64, {STREAM_ERROR}>",
    )
    def check_write(self, stream: int) -> list[Any]:
        sink = self._state.objects.get(stream, Sink)
        try:
            return [0, sink.permit()]
        except OSError as error:
            return self._failed(error)

    @offer(
        _STREAMS,
        "[method]output-stream.write",
        f"(borrow<output-stream>, list<u8>) -> result<_, {STREAM_ERROR}>",
    )
    def write(self, stream: int, data: bytes) -> list[Any]:
        return self._give(stream, data, wait=False)

    @offer(
        _STREAMS,
        "[method]output-stream.blocking-write-and-flush",
        f"(borrow<output-stream>, list<u8>) -> result<_, {STREAM_ERROR}>",
    )
    def blocking_write_and_flush(self, stream: int, data: bytes) -> list[Any]:
        return self._give(stream, data, wait=True)

    @offer(
        _STREAMS,
        "[method]output-stream.write-zeroes",
        f"(borrow<output-stream>, u64) -> result<_, {STREAM_ERROR}>",
    )
    def write_zeroes(self, stream: int, size: int) -> list[Any]:
        return self.write(stream, bytes(min(size, PERMIT + 1)))

    @offer(
        _STREAMS,
        "[method]output-stream.blocking-write-zeroes-and-flush",
        f"(borrow<output-stream>, u64) -> result<_, {STREAM_ERROR}>",
    )
    def blocking_write_zeroes_and_flush(self, stream: int, size: int) -> list[Any]:
        return self.blocking_write_and_flush(stream, bytes(min(size, PERMIT + 1)))

    @offer(
        _STREAMS,
        "[method]output-stream.flush",
        f"(borrow<output-stream>) -> result<_, {STREAM_ERROR}>",
    )
    def flush(self, stream: int) -> list[Any]:
        self._state.objects.get(stream, Sink)
        return _OK

    @offer(
        _STREAMS,
        "[method]output-stream.blocking-flush",
        f"(borrow<output-stream>) -> result<_, {STREAM_ERROR}>",
    )
    def blocking_flush(self, stream: int) -> list[Any]:
        try:
            self._state.objects.get(stream, Sink).flush()
        except OSError as error:
            return self._failed(error)
        return _OK

    @offer(
        _STREAMS,
        "[method]output-stream.splice",
        f"(borrow<output-stream>, borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    def splice(self, sink: int, source: int, size: int) -> list[Any]:
        permitted = self.check_write(sink)
        if permitted[0]:
            return permitted
        return self._splice(sink, source, min(size, permitted[1]), wait=False)

    @offer(
        _STREAMS,
        "[method]output-stream.blocking-splice",
        f"(borrow<output-stream>, borrow<input-stream>, u64) -> result<u64, {STREAM_ERROR}>",
    )
    def blocking_splice(self, sink: int, source: int, size: int) -> list[Any]:
        return self._splice(sink, source, size, wait=True)

    def _splice(self, sink: int, source: int, size: int, *, wait: bool) -> list[Any]:
        self._state.objects.get(sink, Sink)
        read = self._take(source, size, wait=wait)
        if read[0] or not read[1]:
            return read if read[0] else [0, 0]
        given = self._give(sink, read[1], wait=wait)
        return given if given[0] else [0, len(read[1])]

    def _give(self, stream: int, data: bytes, *, wait: bool) -> list[Any]:
        if len(data) > PERMIT:
            raise BadValue(f"{len(data)} bytes are written at once, {PERMIT} are permitted")
        sink = self._state.objects.get(stream, Sink)
        try:
            taken = sink.write_through(data) if wait else sink.write(data)
        except OSError as error:
            return self._failed(error)
        return _OK if taken else CLOSED
