"""The import module ``wasm_sandbox``: the network, as guests see it. docs/network.md has the rules.

A worker has no socket. Each function turns pointers into a typed request, which the supervisor's
side carries out while the guest waits. Every result is an error number of WASI, or 0; a guest that
is refused may go on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..protocol.description import FunctionType
from ..protocol.host_calls import (
    NETWORK,
    Close,
    Errno,
    HttpRequest,
    NetworkAnswer,
    NetworkRequest,
    Read,
    ReadHead,
    Shutdown,
    TcpConnect,
    Write,
    decode_answer,
    encode,
)
from .engines.interface import SLOT, GuestMemory, HostFunction
from .transfer import Transfer

MODULE = "wasm_sandbox"
HEAD_LIMIT = 80_000
"""Bytes of the head of a request, URL and all."""
HOST_LIMIT = 1024
"""Bytes of a host name, far more than any has."""


class GuestNetwork:
    """The functions, and the last error of the call that runs."""

    def __init__(self) -> None:
        self._transfer: Transfer | None = None
        self._message = b""

    def begin(self, transfer: Transfer) -> None:
        """Make ready for the next call."""
        self._transfer = transfer
        self._message = b""

    def functions(self) -> tuple[HostFunction, ...]:
        """What guests may import."""
        return (
            _function("http_request", 3, self._http_request),
            _function("http_read_head", 4, self._http_read_head),
            _function("http_read", 4, self._read),
            _function("tcp_connect", 4, self._tcp_connect),
            _function("tcp_read", 4, self._read),
            _function("tcp_write", 4, self._write),
            _function("tcp_shutdown", 1, self._shutdown),
            _function("close", 1, self._close),
            _function("error_message", 2, self._error_message),
        )

    # --- what guests call -----------------------------------------------------------------------

    def _http_request(self, memory: GuestMemory, start: int, size: int, result: int) -> int:
        request, target = memory.view(start, size), memory.view(result, 4)
        if request is None or target is None:
            return Errno.FAULT
        try:
            head, body = parse_request(request)
        except ValueError as error:
            return self._fail(Errno.INVAL, str(error))
        answer, _ = self.ask(head, request[body:])
        return _give(answer, target)

    def _http_read_head(
        self, memory: GuestMemory, handle: int, start: int, size: int, result: int
    ) -> int:
        return self._fetch(ReadHead(handle), memory, start, size, result)

    def _read(self, memory: GuestMemory, handle: int, start: int, size: int, result: int) -> int:
        return self._fetch(Read(handle), memory, start, size, result)

    def _tcp_connect(
        self, memory: GuestMemory, start: int, size: int, port: int, result: int
    ) -> int:
        host, target = memory.view(start, size), memory.view(result, 4)
        if host is None or target is None:
            return Errno.FAULT
        try:
            name = bytes(host[:HOST_LIMIT]).decode("ascii")
        except UnicodeDecodeError:
            return self._fail(Errno.INVAL, "bad host: write the name in ASCII (xn--...)")
        answer, _ = self.ask(TcpConnect(name, port))
        return _give(answer, target)

    def _write(self, memory: GuestMemory, handle: int, start: int, size: int, result: int) -> int:
        data, target = memory.view(start, size), memory.view(result, 4)
        if data is None or target is None:
            return Errno.FAULT
        assert self._transfer is not None
        answer, _ = self.ask(Write(handle), data[: self._transfer.room])
        return _give(answer, target)

    def _shutdown(self, _memory: GuestMemory, handle: int) -> int:
        return self.ask(Shutdown(handle))[0].errno

    def _close(self, _memory: GuestMemory, handle: int) -> int:
        return self.ask(Close(handle))[0].errno

    def _error_message(self, memory: GuestMemory, start: int, size: int) -> int:
        """Copies as much as there is room for; the size of all of it."""
        part = self._message[:size]
        target = memory.view(start, len(part))
        if target is not None:
            target[:] = part
        return len(self._message)

    # --- parts ----------------------------------------------------------------------------------

    def _fetch(
        self, request: NetworkRequest, memory: GuestMemory, start: int, size: int, result: int
    ) -> int:
        buffer, target = memory.view(start, size), memory.view(result, 4)
        if buffer is None or target is None:
            return Errno.FAULT
        answer, data = self.ask(request, room=size)
        buffer[: len(data)] = data
        return _give(answer, target)

    def ask(
        self, request: NetworkRequest, data: memoryview | None = None, room: int = 0
    ) -> tuple[NetworkAnswer, memoryview]:
        """See ``interface.AskNetwork``: what components are given."""
        transfer = self._transfer
        assert transfer is not None
        if data is not None and len(data) > transfer.room:
            message = f"a body of more than {transfer.room} bytes"
            self._fail(Errno.MSGSIZE, message)
            return NetworkAnswer(Errno.MSGSIZE), memoryview(b"")
        results, found = transfer.ask(NETWORK, encode(request), data, room)
        answer = decode_answer(results)
        if answer.errno:
            self._message = answer.message.encode()
        return answer, found

    def _fail(self, errno: Errno, message: str) -> int:
        self._message = message.encode()
        return errno


def parse_request(request: memoryview) -> tuple[HttpRequest, int]:
    """A request as a guest writes it, and where its body begins.

        POST https://api.example.org/items
        Content-Type: application/json

        {"the": "body"}

    Lines may end with a carriage return, too. Without an empty line there is no body.

    Raises:
        ValueError: it is none. What stands in it is for the supervisor to check.
    """
    head = bytes(request[:HEAD_LIMIT])
    lines: list[str] = []
    start = 0
    while start < len(head):
        end = head.find(b"\n", start)
        if end < 0:
            end = len(head)
        line = head[start:end].removesuffix(b"\r")
        start = end + 1
        if not line:
            break
        lines.append(line.decode("ascii", "replace"))
    else:
        if len(head) < len(request):
            raise ValueError(f"the head of the request has more than {HEAD_LIMIT} bytes")
        start = len(request)
    method, _, url = (lines[0] if lines else "").partition(" ")
    headers: list[tuple[str, str]] = []
    for header in lines[1:]:
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError(f"bad header {header[:40]!r}: write Name: value")
        headers.append((name, value.strip(" \t")))
    return HttpRequest(method, url, tuple(headers)), start


def _give(answer: NetworkAnswer, target: memoryview) -> int:
    """Put the answer's value where the guest wants it, also with ``ERANGE``; the error number."""
    target[:] = answer.value.to_bytes(4, "little")
    return answer.errno


def _function(name: str, params: int, serve: Callable[..., int]) -> HostFunction:
    layout = struct.Struct("<" + "I12x" * params)

    def call(memory: GuestMemory, slots: bytes) -> bytes:
        return serve(memory, *layout.unpack(slots)).to_bytes(SLOT, "little")

    kind = FunctionType(("i32",) * params, ("i32",))
    return HostFunction(module=MODULE, name=name, type=kind, call=call)
