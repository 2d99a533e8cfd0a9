"""The network that components import: ``wasi:http`` and ``wasi:sockets`` over the same walls as the
functions of core modules, with real servers."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from cores import run
from net_servers import (
    Server,
    Stream,
    answers,
    echo,
    endless,
    make_identity,
    read_request,
    response,
    serving_tcp,
    silent,
)
from network_guests import NETWORKER

from wasm_sandbox import (
    Capabilities,
    DeadlineExceeded,
    IdleTimeExceeded,
    Limits,
    Module,
    Network,
    TrioPool,
    open_pool,
)
from wasm_sandbox.protocol.events import Event, NetworkAllowed, NetworkRefused
from wasm_sandbox.protocol.host_calls import Errno
from wasm_sandbox.protocol.network import Address
from wasm_sandbox.supervisor import watch
from wasm_sandbox.supervisor.network.connections import Connection, Traffic, connect
from wasm_sandbox.supervisor.network.policy import Refused
from wasm_sandbox.worker.components.http_errors import error_code
from wasm_sandbox.worker.components.sockets import refused

LOOPBACK = Network.loopback()
HELLO = response(b"hello")
GET, POST, CONNECT = 0, 2, 5
HTTP, HTTPS = 0, 1
LOCAL, ELSEWHERE = ip_address("127.0.0.1"), ip_address("93.184.216.34")
CONNECTED = 256
UNHURT = 255
"""What stands at the end of a body that came whole."""


class Site:
    """A pool with the guest, and what its log says."""

    def __init__(self, pool: TrioPool, guest: Module, events: list[Event]) -> None:
        self.pool = pool
        self.guest = guest
        self.events = events

    def function(
        self, name: str, network: Network = LOOPBACK, limits: Limits | None = None, **more: Any
    ) -> Any:
        limits = limits or self.pool.configuration.limits
        capabilities = Capabilities(network=network)
        return self.guest[name].options(capabilities=capabilities, limits=limits, **more)

    async def call(self, name: str, *values: Any, **more: Any) -> Any:
        return await self.pool.call(self.function(name, **more), *values)

    async def fetch(
        self,
        authority: str,
        path: str = "/",
        body: bytes = b"",
        *,
        method: int = GET,
        scheme: int = HTTP,
        timeout: float = 0,
        **more: Any,
    ) -> bytes:
        """What ``fetch`` gives: see the guest."""
        wait = int(timeout * 1e9)
        found = await self.call("fetch", authority, path, body, method, scheme, wait, **more)
        assert isinstance(found, bytes)
        return found

    @property
    def allowed(self) -> list[NetworkAllowed]:
        return [event for event in self.events if isinstance(event, NetworkAllowed)]

    @property
    def refused(self) -> list[NetworkRefused]:
        return [event for event in self.events if isinstance(event, NetworkRefused)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guest is compiled once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a good worker, too, may answer an interrupt late. A bad one never does."""
    monkeypatch.setattr(watch, "GRACE", 15.0)


async def localhost(name: str) -> list[Address]:
    """A resolver that knows one name."""
    await trio.lowlevel.checkpoint()
    if name != "localhost":
        raise Refused(Errno.NOENT, f"{name} was not found")
    return [LOCAL]


async def never(_: str) -> list[Address]:
    """A resolver that takes too long."""
    await trio.lowlevel.checkpoint()
    raise trio.TooSlowError


@asynccontextmanager
async def site(cache: Path) -> AsyncGenerator[Site]:
    events: list[Event] = []
    async with open_pool(
        workers=1,
        cache_dir=cache,
        capabilities=Capabilities(network=LOOPBACK),
        on_event=events.append,
    ) as pool:
        pool.core.network.resolve = localhost
        yield Site(pool, await pool.load(NETWORKER.encode()), events)


def at(server: Server, host: str = "localhost") -> str:
    return f"{host}:{server.port}"


def failed(name: str) -> bytes:
    """What ``fetch`` gives for an ``error-code`` of HTTP."""
    return bytes([1, error_code(name)[0]])


def came(body: bytes, end: int = UNHURT, status: int = 200) -> bytes:
    """What ``fetch`` gives for a response."""
    return b"\0" + status.to_bytes(2, "big") + body + bytes([end])


# --- what is granted, and what is not -------------------------------------------------------------


def test_a_request_arrives_as_it_was_made_and_so_does_its_response(cache: Path) -> None:
    async def main() -> None:
        answer = response(b"made\0it", status=b"201 Created")
        async with serving_tcp(answers(answer)) as server, site(cache) as here:
            fetch = here.function("fetch", network=Network.loopback(server.port))
            value, receipt = await here.pool.detailed(
                fetch, at(server), "/path?query=1", b"a body", POST, HTTP, 0
            )
            assert value == came(b"made\0it", status=201)
            (request,) = server.requests
            assert request.split(b"\r\n") == [
                b"POST /path?query=1 HTTP/1.1",
                b"Host: localhost:%d" % server.port,
                b"Connection: close",
                b"Content-Length: 6",
                b"",
                b"a body",
            ]
            assert receipt.connections == 1
            assert (receipt.network_sent, receipt.network_received) == (len(request), len(answer))
            (event,) = here.allowed
            assert (event.operation, event.where) == ("http", at(server))
            assert (event.address, event.grant) == ("127.0.0.1", f"loopback:{server.port}")

    run(main)


def test_nothing_is_reachable_unless_granted(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            none = Network.none()
            denied = refused("access-denied")[1]
            for host in ("localhost", "127.0.0.1", "[::1]"):
                found = await here.fetch(at(server, host), network=none)
                assert found == failed("HTTP-request-denied")
            tcp = await here.call("connect", 127, 0, 0, 1, server.port, network=none)
            assert tcp == denied
            assert await here.call("lookup", "localhost", network=none) == bytes([1, denied])
            assert server.connections == 0
            assert not here.allowed
            operations = [event.operation for event in here.refused]
            assert operations == ["http", "http", "http", "tcp", "lookup"]
            assert here.refused[0].where == at(server)

    run(main)


def test_listening_and_udp_are_never_offered(cache: Path) -> None:
    async def main() -> None:
        async with site(cache) as here:
            error = refused("not-supported")[1]
            assert await here.call("refusals", network=Network.full()) == 101 * error

    run(main)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authority", "network", "name"),
    [
        ("localhost:1", LOOPBACK, "connection-refused"),
        ("example.org:80", LOOPBACK, "HTTP-request-denied"),
        ("10.0.0.1:80", LOOPBACK, "destination-IP-prohibited"),
        ("localhost:1", Network.hosts("10.0.0.1:*"), "HTTP-request-denied"),
        ("nowhere.test:80", Network.hosts("nowhere.test:80"), "DNS-error"),
        ("with space:80", LOOPBACK, "HTTP-request-URI-invalid"),
        ("user@localhost:80", LOOPBACK, "HTTP-request-URI-invalid"),
        ("0177.0.0.1:80", LOOPBACK, "HTTP-request-URI-invalid"),
        ("localhost:0", LOOPBACK, "HTTP-request-URI-invalid"),
    ],
)
def test_what_cannot_be_asked_is_told_with_its_error_code(
    cache: Path, authority: str, network: Network, name: str
) -> None:
    async def main() -> None:
        async with site(cache) as here:
            assert await here.fetch(authority, network=network) == failed(name)

    run(main)


async def _closes(stream: Stream, server: Server) -> None:
    await read_request(stream, server)


async def _greets(stream: Stream, server: Server) -> None:
    await stream.send_all(b"220 this is no TLS\r\n")
    await silent(stream, server)


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("handler", "more", "expected"),
    [
        (_closes, {}, failed("HTTP-response-incomplete")),
        (answers(b"SSH-2.0-OpenSSH\r\n\r\n"), {}, failed("HTTP-protocol-error")),
        (endless(HEAD, b"a: b\r\n"), {}, failed("HTTP-response-header-section-size")),
        (silent, {"timeout": 0.1}, failed("connection-read-timeout")),
        (silent, {"method": CONNECT}, failed("HTTP-request-method-invalid")),
        (silent, {"limits": Limits(connections=0)}, failed("connection-limit-reached")),
        (silent, {"limits": Limits(network_sent=10)}, failed("HTTP-request-body-size")),
        (answers(HELLO), {"limits": Limits(network_received=9)}, failed("HTTP-response-body-size")),
        (_greets, {"scheme": HTTPS}, failed("TLS-protocol-error")),
        (
            answers(HEAD + b"Content-Length: 9\r\n\r\nhalf"),
            {},
            came(b"half", error_code("HTTP-response-incomplete")[0]),
        ),
        (
            answers(HEAD + b"Content-Length: 99\r\n\r\n" + b"." * 99),
            {"limits": Limits(network_received=59)},
            came(b"." * 20, error_code("HTTP-response-body-size")[0]),
        ),
    ],
)
def test_what_a_server_does_wrong_is_told_with_its_error_code(
    cache: Path,
    handler: Callable[[Stream, Server], Awaitable[None]],
    more: dict[str, Any],
    expected: bytes,
) -> None:
    async def main() -> None:
        async with serving_tcp(handler) as server, site(cache) as here:
            assert await here.fetch(at(server), **more) == expected

    run(main)


def test_a_certificate_that_does_not_hold_is_told_from_one_that_does(
    cache: Path, tmp_path: Path
) -> None:
    identity = make_identity(tmp_path)

    async def main() -> None:
        async with serving_tcp(answers(HELLO), identity.server()) as server:
            async with site(cache) as here:
                found = await here.fetch(at(server), scheme=HTTPS)
                assert found == failed("TLS-certificate-error")
            async with site(cache) as here:
                here.pool.core.network.trust = identity.trust
                assert await here.fetch(at(server), scheme=HTTPS) == came(b"hello")

    run(main)


def test_a_look_up_that_takes_too_long_has_its_own_error(cache: Path) -> None:
    async def main() -> None:
        async with site(cache) as here:
            here.pool.core.network.resolve = never
            assert await here.fetch("localhost:80") == failed("DNS-timeout")
            code = refused("temporary-resolver-failure")[1]
            assert await here.call("lookup", "localhost") == bytes([1, code])

    run(main)


# --- waiting for several things -------------------------------------------------------------------


def test_the_one_that_answers_is_not_kept_waiting_by_the_one_that_does_not(cache: Path) -> None:
    async def main() -> None:
        async with (
            serving_tcp(silent) as dead,
            serving_tcp(answers(HELLO)) as alive,
            site(cache) as here,
        ):
            found = await here.call("race", at(dead), at(alive), 60_000_000_000)
            assert found == b"\1" + came(b"hello")
            assert await here.call("race", at(dead), at(dead), 50_000_000) == b"\2"
            await dead.ended.wait()

    run(main)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("limits", "error"),
    [(Limits(wall_time=0.3), DeadlineExceeded), (Limits(idle_time=0.3), IdleTimeExceeded)],
)
def test_a_limit_ends_the_waiting_and_the_worker_lives(
    cache: Path, limits: Limits, error: type[Exception]
) -> None:
    async def main() -> None:
        async with serving_tcp(silent) as server, site(cache) as here:
            fetch = here.function("fetch", limits=limits)
            with pytest.raises(error) as ended:
                await here.pool.call(fetch, at(server), "/", b"", GET, HTTP, 0)
            await server.ended.wait()
            _, receipt = await here.pool.detailed(here.function("lookup"), "localhost")
            assert receipt.worker == ended.value.receipt.worker  # type: ignore[attr-defined]

    run(main)


# --- sockets --------------------------------------------------------------------------------------


def test_a_stream_carries_what_is_written_both_ways(cache: Path) -> None:
    async def main() -> None:
        data = os.urandom(1 << 20)
        async with serving_tcp(echo) as server, site(cache) as here:
            assert await here.call("echo", server.port, data) == data + b"\xff"

    run(main)


def test_an_address_that_was_found_for_a_name_is_granted_as_that_name(cache: Path) -> None:
    async def main() -> None:
        async def elsewhere(_: str) -> list[Address]:
            await trio.lowlevel.checkpoint()
            return [ip_address("10.1.2.3"), ELSEWHERE]

        async def to_server(address: Address, _: int, traffic: Traffic) -> Connection:
            assert address == ELSEWHERE
            return await connect(LOCAL, server.port, traffic)

        denied = refused("access-denied")[1]
        network = Network.hosts("api.example.org:80")
        async with serving_tcp(silent) as server, site(cache) as here:
            access = here.pool.core.network
            access.resolve, access.connect = elsewhere, to_server
            where = (93, 184, 216, 34, 80)
            assert await here.call("connect", *where, network=network) == denied
            granted = Capabilities(network=network)
            async with here.pool.instance(here.guest, capabilities=granted) as instance:
                # A private address that the name has, too, is not even told.
                found = await instance.call("lookup", "api.example.org")
                assert found == bytes([0, 0, *where[:4]])
                assert await instance.call("lookup", "other.example.org") == bytes([1, denied])
                # Where the name is pointed from now on makes no difference.
                access.resolve = localhost
                assert await instance.call("connect", *where) == CONNECTED
                assert await instance.call("connect", *where[:4], 443) == denied
                assert await instance.call("connect", 93, 184, 216, 35, 80) == denied
            event = here.allowed[-1]
            assert (event.operation, event.where) == ("tcp", "api.example.org:80")
            assert event.address == str(ELSEWHERE)

    run(main)


def test_a_name_that_leads_inside_is_refused(cache: Path) -> None:
    async def main() -> None:
        async def inside(_: str) -> list[Address]:
            await trio.lowlevel.checkpoint()
            return [LOCAL]

        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            here.pool.core.network.resolve = inside
            network = Network.hosts("api.example.org:*", private=True)
            name = f"api.example.org:{server.port}"
            found = await here.fetch(name, network=network)
            assert found == failed("destination-IP-prohibited")
            denied = bytes([1, refused("access-denied")[1]])
            assert await here.call("lookup", "api.example.org", network=network) == denied
            assert server.connections == 0

    run(main)


def test_connections_of_a_call_are_no_more_than_its_limit(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(silent) as server, site(cache) as here:
            limits = Limits(connections=1)
            found = await here.call("race", at(server), at(server), 60_000_000_000, limits=limits)
            assert found == b"\1" + failed("connection-limit-reached")
            await server.ended.wait()

    run(main)


# --- instances that live on -----------------------------------------------------------------------


def test_connections_of_an_instance_live_on_from_call_to_call(cache: Path) -> None:
    async def main() -> None:
        async def mirror(stream: Stream, server: Server) -> None:
            while data := await stream.receive_some(65536):
                await stream.send_all(data[::-1])
            server.ended.set()

        async with serving_tcp(mirror) as server, site(cache) as here:
            granted = Capabilities(network=LOOPBACK)
            limits = Limits(network_sent=8)
            async with here.pool.instance(
                here.guest, capabilities=granted, limits=limits
            ) as instance:
                assert await instance.call("connect", 127, 0, 0, 1, server.port) == CONNECTED
                for word in (b"first", b"second"):
                    value, receipt = await instance.detailed("talk", word)
                    assert value == word[::-1]
                    assert (receipt.connections, receipt.network_sent) == (0, len(word))
                assert await instance.call("talk", b"too long a word") == b"\1"
                assert server.connections == 1
                assert not server.ended.is_set()
            await server.ended.wait()

    run(main)


@pytest.mark.usefixtures("patience")
def test_a_call_that_is_stopped_does_not_harm_the_connections_of_its_instance(
    cache: Path,
) -> None:
    async def main() -> None:
        told = trio.Event()

        async def slow(stream: Stream, server: Server) -> None:
            await stream.receive_some(65536)
            await told.wait()
            await stream.send_all(b"late")
            await silent(stream, server)

        async with serving_tcp(slow) as server, site(cache) as here:
            granted = Capabilities(network=LOOPBACK)
            async with here.pool.instance(here.guest, capabilities=granted) as instance:
                assert await instance.call("connect", 127, 0, 0, 1, server.port) == CONNECTED
                with trio.move_on_after(0.3) as scope:
                    await instance.call("talk", b"question")
                assert scope.cancelled_caught
                told.set()
                assert await instance.call("talk", b"again") == b"late"
            await server.ended.wait()

    run(main)
