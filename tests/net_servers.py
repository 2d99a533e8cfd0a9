"""Servers on loopback that do what a test wants of them, in the test's own trio run."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Handler = Callable[[Stream, "Server"], Awaitable[None]]


@dataclass(eq=False)
class Server:
    """One server and what it saw."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])
    connections: int = 0
    connected: trio.Event = field(default_factory=trio.Event)
    """Set by the first connection."""
    ended: trio.Event = field(default_factory=trio.Event)
    """Set when a handler's connection was closed by the other side, as far as it looked."""

    def url(self, path: str = "/", host: str = "localhost") -> str:
        """The URL of ``path``."""
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def serving_tcp(
    handler: Handler, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[Server]:
    """A server on loopback; a connection that breaks is none of its business."""
    server = Server()

    async def serve(tcp: trio.SocketStream) -> None:
        server.connections += 1
        server.connected.set()
        stream: Stream = tcp
        try:
            async with tcp:
                if context is not None:
                    stream = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
                await handler(stream, server)
                await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            server.ended.set()

    async with trio.open_nursery() as nursery:
        try:
            listeners = await trio.open_tcp_listeners(0, host=host)
        except OSError as error:
            pytest.skip(f"this machine has no address {host}: {error}")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


async def read_request(stream: Stream, server: Server) -> bytes:
    """One request: head and, where it says so, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.partition(b":")[2]):
                body += await _some(stream)
    server.requests.append(head + b"\r\n\r\n" + body)
    return server.requests[-1]


async def _some(stream: Stream) -> bytes:
    data = await stream.receive_some(65536)
    if not data:
        raise trio.BrokenResourceError
    return bytes(data)


def answers(*responses: bytes) -> Handler:
    """Reads a request and sends a response, the next one each time and the last one for ever."""

    async def handle(stream: Stream, server: Server) -> None:
        await read_request(stream, server)
        await stream.send_all(responses[min(len(server.requests), len(responses)) - 1])

    return handle


def response(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def silent(stream: Stream, server: Server) -> None:
    """Reads and says nothing, until the other side goes."""
    while await stream.receive_some(65536):
        pass
    server.ended.set()


async def echo(stream: Stream, _: Server) -> None:
    """Sends back what came, when all of it has come."""
    whole = b""
    while data := await stream.receive_some(1 << 20):
        whole += data
    await stream.send_all(whole)


def endless(head: bytes, piece: bytes) -> Handler:
    """A beginning, and then the same piece for ever."""

    async def handle(stream: Stream, server: Server) -> None:
        await read_request(stream, server)
        await stream.send_all(head)
        while True:
            await stream.send_all(piece)

    return handle


@dataclass(frozen=True)
class Identity:
    """A certificate for ``localhost``, and its key."""

    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """How the server speaks."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def trust(self) -> ssl.SSLContext:
        """How a machine speaks that trusts this certificate, and otherwise the usual ones."""
        context = ssl.create_default_context()
        context.load_verify_locations(self.certificate)
        return context


def make_identity(folder: Path, name: str = "localhost") -> Identity:
    """A self-signed certificate, made by the ``openssl`` command."""
    made = Identity(folder / "certificate.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}"]
    command += ["-keyout", str(made.key), "-out", str(made.certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command to make a certificate with")
    return made
