"""What the network costs a guest: an HTTP request, a stream of bytes."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from ..pool import Pool
from ..protocol.capabilities import Capabilities
from ..protocol.limits import Limits
from ..protocol.network import Network
from .guests import FETCHES
from .measure import timed
from .model import OURS, Figure
from .pools import MIB, new_pool
from .registry import Effort, Subjects, Turn, benchmark

_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
_PIECE = 256 << 10


@contextmanager
def _server(serve: Callable[[socket.socket], object]) -> Generator[int]:
    """A server on loopback that serves one connection after the other; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _respond(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(_RESPONSE)


def _stream(connection: socket.socket, size: int) -> None:
    piece = bytes(MIB)
    for _ in range(size // len(piece)):
        connection.sendall(piece)


@contextmanager
def _guest() -> Generator[Pool]:
    granted = Capabilities(network=Network.loopback())
    with new_pool(1, limits=Limits(network_received=1 << 40), capabilities=granted) as pool:
        yield pool


@benchmark(Figure(name="http-request", title="an HTTP request on loopback", unit="µs"))
def http_request(effort: Effort) -> Subjects:
    """A connection for each."""
    count = effort.count(100, 5)

    @contextmanager
    def ours() -> Generator[Turn]:
        with _server(_respond) as port, _guest() as pool:
            get, url = pool.load(FETCHES)["get"], f"GET http://127.0.0.1:{port}/"
            get(url)
            yield lambda: timed(lambda: get(url), count)

    def plain(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()

    @contextmanager
    def theirs() -> Generator[Turn]:
        with _server(_respond) as port:
            yield lambda: timed(partial(plain, port), count)

    return {OURS: ours(), "http.client": theirs()}


@benchmark(
    Figure(
        name="network-stream",
        title="a stream of 64 MiB on loopback, to a guest",
        unit="GB/s",
        note="Read 256 KiB at a time.",
        better="higher",
    )
)
def network_stream(effort: Effort) -> Subjects:
    """``tcp_read`` until the end, beside ``recv_into``."""
    size = effort.size(64 * MIB, MIB)
    serve = partial(_stream, size=size)

    def rate(run: Callable[[], int]) -> float:
        begun = time.perf_counter()
        if run() != size:
            raise RuntimeError("the stream ended early")
        return size / (time.perf_counter() - begun) / 1e9

    @contextmanager
    def ours() -> Generator[Turn]:
        with _server(serve) as port, _guest() as pool:
            read = pool.load(FETCHES)["read"]
            yield lambda: rate(lambda: read(port, _PIECE))

    def receive(port: int) -> int:
        buffer, received = bytearray(_PIECE), 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            while count := connection.recv_into(buffer):
                received += count
        return received

    @contextmanager
    def theirs() -> Generator[Turn]:
        with _server(serve) as port:
            yield lambda: rate(lambda: receive(port))

    return {OURS: ours(), "recv_into": theirs()}
