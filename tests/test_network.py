"""The network that guests are lent, with real servers: what is granted works, what is not does not,
and nothing that a server or a guest does harms anybody else."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from cores import Driver, i64, run, serving
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

from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.errors import (
    DeadlineExceeded,
    IdleTimeExceeded,
    OutputLimitExceeded,
    Trap,
    WorkerLost,
)
from wasm_sandbox.protocol.events import Granted, NetworkAllowed, NetworkRefused
from wasm_sandbox.protocol.host_calls import Errno
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.network import Address, Network
from wasm_sandbox.supervisor.network import access
from wasm_sandbox.supervisor.network.connections import (
    Connection,
    Traffic,
    connect,
    system_resolver,
)
from wasm_sandbox.supervisor.network.policy import Reach, Refused, reach_of
from wasm_sandbox.supervisor.requests import CommandRequest, ModuleHandle, Outcome

FETCH = (Path(__file__).resolve().parents[1] / "examples" / "guests" / "fetch.wasm").read_bytes()
LOOPBACK = Network.loopback()
HELLO = response(b"hello")

PROBE = """(module
  (import "wasm_sandbox" "http_request" (func $http_request (param i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "http_read_head"
    (func $http_read_head (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "http_read" (func $http_read (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "tcp_connect" (func $tcp_connect (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "tcp_read" (func $tcp_read (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "tcp_write" (func $tcp_write (param i32 i32 i32 i32) (result i32)))
  (import "wasm_sandbox" "tcp_shutdown" (func $tcp_shutdown (param i32) (result i32)))
  (import "wasm_sandbox" "close" (func $close (param i32) (result i32)))
  (import "wasm_sandbox" "error_message" (func $error_message (param i32 i32) (result i32)))
  (memory (export "memory") 80)
  (data (i32.const 16) "127.0.0.1")
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "http_request") (param i32 i32 i32) (result i32)
    (call $http_request (local.get 0) (local.get 1) (local.get 2)))
  (func (export "http_read_head") (param i32 i32 i32 i32) (result i32)
    (call $http_read_head (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "http_read") (param i32 i32 i32 i32) (result i32)
    (call $http_read (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "tcp_connect") (param i32 i32 i32 i32) (result i32)
    (call $tcp_connect (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "tcp_read") (param i32 i32 i32 i32) (result i32)
    (call $tcp_read (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "tcp_write") (param i32 i32 i32 i32) (result i32)
    (call $tcp_write (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "tcp_shutdown") (param i32) (result i32) (call $tcp_shutdown (local.get 0)))
  (func (export "close") (param i32) (result i32) (call $close (local.get 0)))
  (func (export "error_message") (param i32 i32) (result i32)
    (call $error_message (local.get 0) (local.get 1)))

  ;; Connects to 127.0.0.1 again and again, at most $n times, and closes what it got where $churn is
  ;; not 0. Gives (errno << 32) | connections made.
  (func (export "connect_many") (param $port i32) (param $n i32) (param $churn i32) (result i64)
    (local $made i32) (local $error i32)
    (loop $again
      (local.set $error
        (call $tcp_connect (i32.const 16) (i32.const 9) (local.get $port) (i32.const 0)))
      (if (i32.eqz (local.get $error)) (then
        (local.set $made (i32.add (local.get $made) (i32.const 1)))
        (if (local.get $churn) (then (drop (call $close (i32.load (i32.const 0))))))
        (br_if $again (i32.lt_u (local.get $made) (local.get $n))))))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $error)) (i64.const 32))
      (i64.extend_i32_u (local.get $made))))

  ;; Asks for what it is not granted, $n times.
  (func (export "insist") (param $port i32) (param $n i32) (result i32)
    (local $error i32)
    (loop $again
      (local.set $error
        (call $tcp_connect (i32.const 16) (i32.const 9) (local.get $port) (i32.const 0)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (local.get $error))

  ;; Sends 4 MiB and one byte at once, and reads all that comes back: the sum of bytes of both.
  (func (export "round_trip") (param $port i32) (result i64)
    (local $sent i64) (local $read i64) (local $handle i32)
    (if (call $tcp_connect (i32.const 16) (i32.const 9) (local.get $port) (i32.const 0))
      (then (return (i64.const -1))))
    (local.set $handle (i32.load (i32.const 0)))
    (if (call $tcp_write
        (local.get $handle) (i32.const 65536) (i32.const 4194305) (i32.const 4))
      (then (return (i64.const -2))))
    (local.set $sent (i64.load32_u (i32.const 4)))
    (if (call $tcp_shutdown (local.get $handle)) (then (return (i64.const -3))))
    (loop $more
      (if (call $tcp_read (local.get $handle) (i32.const 65536) (i32.const 4194304) (i32.const 4))
        (then (return (i64.const -4))))
      (local.set $read (i64.add (local.get $read) (i64.load32_u (i32.const 4))))
      (br_if $more (i32.load (i32.const 4))))
    (i64.add (local.get $read) (i64.shl (local.get $sent) (i64.const 32))))

  ;; The errors of using a connection as a response, one digit of 100 each.
  (func (export "mix_up") (param $port i32) (result i64)
    (drop (call $tcp_connect (i32.const 16) (i32.const 9) (local.get $port) (i32.const 0)))
    (i64.extend_i32_u (i32.add
      (call $http_read_head (i32.load (i32.const 0)) (i32.const 64) (i32.const 9) (i32.const 4))
      (i32.mul (i32.const 100) (i32.add
        (call $close (i32.load (i32.const 0)))
        (i32.mul (i32.const 100)
          (call $tcp_write (i32.load (i32.const 0)) (i32.const 0) (i32.const 1) (i32.const 4))))))))

  ;; Requests, and wants the head in less room than it needs: (errno << 32) | the size it is told.
  (func (export "small_head") (param i32 i32) (result i64)
    (drop (call $http_request (local.get 0) (local.get 1) (i32.const 0)))
    (i64.or (i64.shl (i64.extend_i32_u (call $http_read_head
        (i32.load (i32.const 0)) (i32.const 65536) (i32.const 3) (i32.const 4))) (i64.const 32))
      (i64.load32_u (i32.const 4)))))"""


class Site:
    """A core with its two guests."""

    def __init__(self, driver: Driver, fetcher: ModuleHandle, probe: ModuleHandle) -> None:
        self.driver = driver
        self.fetcher = fetcher
        self.probe = probe

    def request(self, *argv: str, network: Network = LOOPBACK, **more: Any) -> Any:
        """A request that runs ``fetch`` with these arguments."""
        stdin = more.pop("stdin", b"")
        command = CommandRequest(tuple(a.encode() for a in ("fetch", *argv)), stdin=stdin)
        capabilities = Capabilities(network=network)
        return self.driver.request(
            self.fetcher, "_start", command=command, capabilities=capabilities, **more
        )

    async def fetch(self, *argv: str, network: Network = LOOPBACK, **more: Any) -> Outcome:
        """Run ``fetch``."""
        return await self.driver.outcome(self.request(*argv, network=network, **more))

    async def ask(
        self, export: str, *values: int, network: Network = LOOPBACK, **more: Any
    ) -> Outcome:
        """Call the probe."""
        capabilities = Capabilities(network=network)
        return await self.driver.call(
            self.probe, export, *values, capabilities=capabilities, **more
        )

    @property
    def allowed(self) -> list[NetworkAllowed]:
        return [event for event in self.driver.events if isinstance(event, NetworkAllowed)]

    @property
    def refused(self) -> list[NetworkRefused]:
        return [event for event in self.driver.events if isinstance(event, NetworkRefused)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guests are compiled once for all tests."""
    return tmp_path_factory.mktemp("cache")


@asynccontextmanager
async def site(cache: Path, workers: int = 1, **options: Any) -> AsyncGenerator[Site]:
    """A core with one worker for guests on loopback."""
    options.setdefault("capabilities", Capabilities(network=LOOPBACK))
    async with serving(cache, workers=workers, **options) as driver:
        driver.core.network.resolve = localhost
        yield Site(driver, await driver.load(FETCH), await driver.load(PROBE))


async def localhost(name: str) -> list[Address]:
    """A resolver that knows one name. Machines differ in whether they have another address for
    it."""
    await trio.lowlevel.checkpoint()
    if name != "localhost":
        raise Refused(Errno.NOENT, f"{name} was not found")
    return [LOCAL]


def exits(outcome: Outcome) -> int:
    """The exit code of ``fetch``, which is the error number that it met."""
    if outcome.error is not None:
        raise outcome.error
    assert outcome.exit_code is not None
    return outcome.exit_code


# --- what is granted, and what is not -------------------------------------------------------------


def test_nothing_is_reachable_unless_granted(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            for host in ("localhost", "127.0.0.1", "[::1]"):
                outcome = await here.fetch(server.url(host=host), network=Network.none())
                assert exits(outcome) == Errno.ACCES
                assert outcome.stdout == b""
            outcome = await here.fetch("-t", "127.0.0.1", str(server.port), network=Network.none())
            assert exits(outcome) == Errno.ACCES
            assert b"capabilities.network" in outcome.stderr
            assert server.connections == 0
            assert not here.allowed
            assert [event.operation for event in here.refused] == ["http", "http", "http", "tcp"]
            assert here.refused[0].where == f"localhost:{server.port}"
            assert here.refused[0].sha256 == here.fetcher.sha256.hex()

    run(main)


def test_a_request_arrives_as_it_was_written_and_so_does_its_response(cache: Path) -> None:
    async def main() -> None:
        answer = response(b"made\0it", b"X-Served: yes", status=b"201 Created")
        async with serving_tcp(answers(answer)) as server, site(cache) as here:
            outcome = await here.fetch(
                *("-X", "PUT", "-H", "X-One: 1", "-H", "x-two:  two words ", "-d", "a body"),
                server.url("/path?query=1"),
                network=Network.loopback(server.port),
                tenant="somebody",
            )
            assert exits(outcome) == 0
            assert (outcome.stdout, outcome.stderr) == (b"made\0it", b"201 Created\n")
            (request,) = server.requests
            assert request.split(b"\r\n") == [
                b"PUT /path?query=1 HTTP/1.1",
                b"Host: localhost:%d" % server.port,
                b"Connection: close",
                b"X-One: 1",
                b"x-two: two words",
                b"Content-Length: 6",
                b"",
                b"a body",
            ]
            (event,) = here.allowed
            assert (event.where, event.address) == (f"localhost:{server.port}", "127.0.0.1")
            assert (event.tenant, event.grant) == ("somebody", f"loopback:{server.port}")
            granted = [e.network for e in here.driver.events if isinstance(e, Granted)]
            assert granted[-1] == (f"loopback:{server.port}",)
            receipt = outcome.receipt
            assert receipt.connections == 1
            assert receipt.host_calls >= 4
            assert receipt.network_sent == len(request)
            assert receipt.network_received == len(answer)

    run(main)


def test_ipv6_is_reached_by_its_own_grant(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO), host="::1") as server, site(cache) as here:
            url = server.url(host="[::1]")
            granted = Network.hosts(f"[0:0::1]:{server.port}")
            for network, code in ((LOOPBACK, 0), (granted, 0), (Network.hosts("[::2]:*"), 2)):
                assert exits(await here.fetch(url, network=network)) == code
            assert server.requests[0].startswith(b"GET / HTTP/1.1\r\nHost: [::1]:")
            assert {event.address for event in here.allowed} == {"::1"}

    run(main)


def test_another_port_is_another_grant(cache: Path) -> None:
    async def main() -> None:
        async with (
            serving_tcp(answers(HELLO)) as granted,
            serving_tcp(answers(HELLO)) as other,
            site(cache) as here,
        ):
            network = Network.loopback(granted.port)
            assert exits(await here.fetch(granted.url(), network=network)) == 0
            assert exits(await here.fetch(other.url(), network=network)) == Errno.ACCES
            assert (granted.connections, other.connections) == (1, 0)

    run(main)


def test_a_stream_carries_what_is_written_both_ways(cache: Path) -> None:
    async def main() -> None:
        data = os.urandom(1 << 20)
        async with serving_tcp(echo) as server, site(cache) as here:
            outcome = await here.fetch("-t", "localhost", str(server.port), stdin=data)
            assert exits(outcome) == 0
            assert outcome.stdout == data
            assert outcome.receipt.network_sent == outcome.receipt.network_received == len(data)

    run(main)


def test_what_is_too_large_for_one_call_is_sent_in_part(cache: Path) -> None:
    async def main() -> None:
        async def swallow(stream: Stream, _: Server) -> None:
            size = 0
            while data := await stream.receive_some(65536):
                size += len(data)
            await stream.send_all(bytes(size))

        async with serving_tcp(swallow) as server, site(cache) as here:
            found = i64(await here.ask("round_trip", server.port))
            assert found == 4194304 << 32 | 4194304

    run(main)


# --- names and addresses --------------------------------------------------------------------------

PUBLIC = ip_address("93.184.216.34")
OTHER = ip_address("2606:2800:220:1::1")
LOCAL = ip_address("127.0.0.1")


class Names:
    """A resolver that answers from a list, and a connector that leads public addresses to a
    server here; both write down what they were asked."""

    def __init__(self, here: Site, server: Server, *answers: list[Address]) -> None:
        self.asked: list[str] = []
        self.connected: list[str] = []
        self._answers = list(answers)
        self._server = server
        here.driver.core.network.resolve = self.resolve
        here.driver.core.network.connect = self.connect

    async def resolve(self, name: str) -> list[Address]:
        self.asked.append(name)
        await trio.lowlevel.checkpoint()
        return self._answers.pop(0)

    async def connect(self, address: Address, port: int, traffic: Traffic) -> Connection:
        self.connected.append(f"{address} {port}")
        return await connect(LOCAL, self._server.port, traffic)


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(cache: Path) -> None:
    """DNS rebinding: the second answer would lead inside."""

    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            names = Names(here, server, [PUBLIC], [LOCAL])
            network = Network.hosts("*.example.org:80")
            outcome = await here.fetch("http://api.example.org/", network=network)
            assert exits(outcome) == 0
            assert names.asked == ["api.example.org"]
            assert names.connected == ["93.184.216.34 80"]
            assert b"Host: api.example.org\r\n" in server.requests[0]
            outcome = await here.fetch("http://api.example.org/", network=network)
            assert exits(outcome) == Errno.ACCES
            assert b"loopback" in outcome.stderr
            assert b"127.0.0.1" not in outcome.stderr
            assert len(names.connected) == server.connections == 1
            assert here.refused[-1].address == "127.0.0.1"

    run(main)


def test_of_several_addresses_only_those_that_are_granted_are_tried(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            inside = [LOCAL, ip_address("10.0.0.1"), ip_address("169.254.169.254")]
            names = Names(here, server, [*inside, OTHER])
            outcome = await here.fetch("http://a.example:8000/", network=Network.ports(8000))
            assert exits(outcome) == 0
            assert names.connected == [f"{OTHER} 8000"]
            assert [event.address for event in here.refused] == [str(a) for a in inside]
            assert [event.address for event in here.allowed] == [str(OTHER)]

    run(main)


def test_the_next_address_is_tried_where_one_does_not_answer(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            names = Names(here, server, [PUBLIC, OTHER])

            async def connect_second(address: Address, port: int, traffic: Traffic) -> Connection:
                if address == PUBLIC:
                    raise ConnectionRefusedError(111, "Connection refused")
                return await names.connect(address, port, traffic)

            here.driver.core.network.connect = connect_second
            outcome = await here.fetch("http://a.example/", network=Network.ports(80))
            assert exits(outcome) == 0
            assert names.connected == [f"{OTHER} 80"]
            assert outcome.receipt.connections == 2

    run(main)


def test_a_name_that_no_grant_names_is_not_looked_up(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            names = Names(here, server)
            for network in (Network.none(), LOOPBACK, Network.hosts("b.example:80", "10.0.0.1:80")):
                outcome = await here.fetch("http://secret.a.example/", network=network)
                assert exits(outcome) == Errno.ACCES
            assert names.asked == []

    run(main)


def test_a_name_that_is_not_found_is_an_error_for_the_guest(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            outcome = await here.fetch("http://a.example/", network=Network.full())
            assert exits(outcome) == Errno.NOENT
            Names(here, server, [])
            outcome = await here.fetch("http://a.example/", network=Network.full())
            assert exits(outcome) == Errno.NOENT

    run(main)


def test_the_system_resolves_localhost_to_loopback_addresses() -> None:
    async def main() -> None:
        resolve = system_resolver()
        found = await resolve("localhost")
        assert found
        assert {reach_of(address) for address in found} == {Reach.LOOPBACK}
        with pytest.raises(Refused):
            await resolve("a" * 64 + ".invalid")

    trio.run(main)


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/", "http://localhost:{other}/"]
)
def test_a_redirect_is_checked_like_any_request(cache: Path, location: str) -> None:
    async def main() -> None:
        async def move(stream: Stream, server: Server) -> None:
            await read_request(stream, server)
            target = location.format(other=other.port).encode()
            await stream.send_all(response(b"", b"Location: " + target, status=b"302 Found"))

        async with (
            serving_tcp(answers(HELLO)) as other,
            serving_tcp(move) as server,
            site(cache) as here,
        ):
            network = Network.loopback(server.port)
            outcome = await here.fetch("-L", server.url(), network=network)
            assert exits(outcome) == Errno.ACCES
            assert outcome.stderr.startswith(b"302 Found\n")
            assert other.connections == 0
            assert len(here.refused) == 1
            outcome = await here.fetch(server.url(), network=network)
            assert (exits(outcome), outcome.stdout) == (0, b"")

    run(main)


def test_a_redirect_within_the_grant_is_followed_by_the_guest(cache: Path) -> None:
    async def main() -> None:
        moved = response(b"", b"Location: http://127.0.0.1:{port}/there", status=b"301 Moved")

        async def move(stream: Stream, server: Server) -> None:
            await read_request(stream, server)
            target = moved.replace(b"{port}", b"%d" % server.port)
            await stream.send_all(HELLO if len(server.requests) > 1 else target)

        async with serving_tcp(move) as server, site(cache) as here:
            outcome = await here.fetch("-L", server.url())
            assert (exits(outcome), outcome.stdout) == (0, b"hello")
            assert server.requests[1].startswith(b"GET /there HTTP/1.1\r\n")

    run(main)


def test_a_guest_that_insists_is_refused_each_time_and_each_time_reported(cache: Path) -> None:
    async def main() -> None:
        async with site(cache) as here:
            outcome = await here.ask("insist", 9, 30, network=Network.loopback(8))
            assert outcome.slots[0] == Errno.ACCES
            assert len(here.refused) == outcome.receipt.host_calls == 30
            assert outcome.receipt.connections == 0

    run(main)


# --- TLS ------------------------------------------------------------------------------------------


def test_tls_is_spoken_with_a_server_that_is_who_it_says(cache: Path, tmp_path: Path) -> None:
    identity = make_identity(tmp_path)

    async def main() -> None:
        async with (
            serving_tcp(answers(HELLO), identity.server()) as server,
            site(cache) as here,
        ):
            here.driver.core.network.trust = identity.trust
            outcome = await here.fetch(f"https://localhost:{server.port}/")
            assert (exits(outcome), outcome.stdout) == (0, b"hello")
            outcome = await here.fetch(f"https://127.0.0.1:{server.port}/")
            assert exits(outcome) == Errno.PROTO
            assert b"certificate" in outcome.stderr.lower()
            assert len(server.requests) == 1

    run(main)


def test_a_certificate_that_nobody_vouches_for_is_refused(cache: Path, tmp_path: Path) -> None:
    identity = make_identity(tmp_path)

    async def main() -> None:
        async with (
            serving_tcp(answers(HELLO), identity.server()) as server,
            site(cache) as here,
        ):
            outcome = await here.fetch(f"https://localhost:{server.port}/")
            assert exits(outcome) == Errno.PROTO
            assert server.requests == []

    run(main)


def test_a_server_that_speaks_no_tls_is_refused(cache: Path) -> None:
    async def main() -> None:
        async def plain(stream: Stream, _: Server) -> None:
            await stream.send_all(HELLO)

        async with serving_tcp(plain) as server, site(cache) as here:
            outcome = await here.fetch(f"https://localhost:{server.port}/")
            assert exits(outcome) == Errno.PROTO

    run(main)


# --- servers that misbehave -----------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS: dict[str, tuple[bytes, int, bytes]] = {
    # what the server says, the error number, the body
    "chunks": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 0, b"abcde"),
    "a body that ends with the connection": (b"HTTP/1.0 200 OK\r\n\r\nbody", 0, b"body"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 0, b""),
    "interim responses": (b"HTTP/1.1 103 Early\r\n\r\n" * 3 + HELLO, 0, b"hello"),
    "more than it said": (HELLO + b"more", 0, b"hello"),
    "nothing": (b"", Errno.PROTO, b""),
    "no HTTP": (b"220 smtp ready\r\n", Errno.PROTO, b""),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", Errno.PROTO, b""),
    "less than it said": (HELLO[:-1], Errno.PROTO, b"hell"),
    "a broken chunk": (CHUNKED + b"3\r\nabc\r\nzz\r\n", Errno.PROTO, b"abc"),
    "a negative length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        Errno.PROTO,
        b"",
    ),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        Errno.PROTO,
        b"",
    ),
    "a huge header": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20), Errno.PROTO, b""),
    "too many interim responses": (b"HTTP/1.1 103 Early\r\n\r\n" * 50 + HELLO, Errno.PROTO, b""),
    "another protocol": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
        Errno.PROTO,
        b"",
    ),
}


def test_whatever_a_server_says_is_a_response_or_an_error(cache: Path) -> None:
    async def main() -> None:
        async with site(cache) as here:
            for said, (answer, errno, body) in ANSWERS.items():
                async with serving_tcp(answers(answer)) as server:
                    outcome = await here.fetch(server.url())
                    assert (exits(outcome), outcome.stdout) == (errno, body), said
            assert not here.driver.deaths

    run(main)


ENDLESS_HEADS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 100),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the head of a chunk": (CHUNKED + b"1;x=", b"x" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"X-Trailer: value\r\n" * 100),
    "empty lines": (b"", b"\r\n" * 1000),
}


def test_no_head_is_endless(cache: Path) -> None:
    async def main() -> None:
        async with site(cache) as here:
            for said, (head, piece) in ENDLESS_HEADS.items():
                async with serving_tcp(endless(head, piece)) as server:
                    outcome = await here.fetch(server.url())
                    assert exits(outcome) == Errno.PROTO, said
                    await server.ended.wait()
                    assert outcome.receipt.network_received < 1 << 20, said

    run(main)


def test_a_server_that_hangs_up_is_an_error(cache: Path) -> None:
    async def main() -> None:
        async def reset(stream: Stream, server: Server) -> None:
            await read_request(stream, server)
            assert isinstance(stream, trio.SocketStream)
            stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of 0 s: close(2) resets
            stream.socket.close()

        async with serving_tcp(reset) as server, site(cache) as here:
            assert exits(await here.fetch(server.url())) == Errno.CONNRESET
            closed = server.port
        async with site(cache) as here:
            assert exits(await here.fetch(f"http://127.0.0.1:{closed}/")) == Errno.CONNREFUSED

    run(main)


# --- limits ---------------------------------------------------------------------------------------

ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


def test_an_endless_body_ends_at_the_limit_of_what_may_be_received(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(endless(ENDLESS, bytes(65536))) as server, site(cache) as here:
            limits = Limits(network_received=1_000_000)
            outcome = await here.fetch(server.url(), limits=limits)
            assert exits(outcome) == Errno.DQUOT
            assert len(outcome.stdout) == 1_000_000 - len(ENDLESS)
            assert outcome.receipt.network_received == 1_000_000
            (event,) = here.refused
            assert (event.operation, event.where) == ("http", f"localhost:{server.port}")
            assert "network_received" in event.reason
            await server.ended.wait()

    run(main)


def test_an_endless_body_ends_at_the_limit_of_output(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(endless(ENDLESS, bytes(65536))) as server, site(cache) as here:
            outcome = await here.fetch(server.url(), limits=Limits(output=100_000))
            assert isinstance(outcome.error, OutputLimitExceeded)
            await server.ended.wait()

    run(main)


def test_no_more_is_sent_than_may_be(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(echo) as server, site(cache) as here:
            limits = Limits(network_sent=100_000)
            outcome = await here.fetch(
                "-t", "localhost", str(server.port), stdin=bytes(200_000), limits=limits
            )
            assert exits(outcome) == Errno.DQUOT
            assert outcome.receipt.network_sent <= 100_000
            (event,) = here.refused
            assert (event.operation, event.where) == ("tcp", f"localhost:{server.port}")
            assert "network_sent" in event.reason

    run(main)


def test_a_call_has_no_more_connections_than_its_limit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "IN_TOTAL", 4)

    async def main() -> None:
        async with serving_tcp(silent) as server, site(cache) as here:
            limits = Limits(connections=3)
            at_once = await here.ask("connect_many", server.port, 100, 0, limits=limits)
            assert i64(at_once) == Errno.MFILE << 32 | 3
            in_total = await here.ask("connect_many", server.port, 100, 1, limits=limits)
            assert i64(in_total) == Errno.MFILE << 32 | 12
            none = await here.ask("connect_many", server.port, 1, 0, limits=Limits(connections=0))
            assert i64(none) == Errno.MFILE << 32
            assert server.connections == 15
            assert ["limits.connections" in event.reason for event in here.refused] == [True] * 3

    run(main)


# --- deadlines, cancellation, death ---------------------------------------------------------------


async def never(_: str) -> list[Address]:
    """A resolver that does not answer."""
    await trio.sleep_forever()
    raise AssertionError


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("stage", ["the look-up", "the connection", "TLS", "the head", "the body"])
def test_a_deadline_ends_every_kind_of_waiting_and_the_worker_lives(
    cache: Path, stage: str
) -> None:
    async def connects_never(*_: object) -> Connection:
        await trio.sleep_forever()
        raise AssertionError

    async def half(stream: Stream, server: Server) -> None:
        await read_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await silent(stream, server)

    async def main() -> None:
        handler = half if stage == "the body" else silent
        async with serving_tcp(handler) as server, site(cache) as here:
            network = here.driver.core.network
            usual = network.resolve, network.connect
            url = server.url()
            if stage == "the look-up":
                network.resolve = never
            elif stage == "the connection":
                network.connect = connects_never
            elif stage == "TLS":
                url = url.replace("http:", "https:")
            outcome = await here.fetch(url, limits=Limits(wall_time=0.3))
            assert isinstance(outcome.error, DeadlineExceeded)
            if stage not in ("the look-up", "the connection"):
                await server.ended.wait()
            network.resolve, network.connect = usual
            after = await here.fetch("http://localhost:1/")
            assert exits(after) == Errno.CONNREFUSED
            assert after.receipt.worker == outcome.receipt.worker
            assert not here.driver.deaths

    run(main)


@pytest.mark.usefixtures("patience")
def test_a_cancelled_call_leaves_no_connection_and_a_living_worker(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(endless(ENDLESS, bytes(65536))) as server, site(cache) as here:
            request = here.request(server.url(), limits=Limits(network_received=1 << 40))
            received = trio.Event()
            request.on_output = lambda *_: received.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.driver.outcome, request)
                await received.wait()
                nursery.cancel_scope.cancel()
            await server.ended.wait()
            assert not here.driver.deaths

    run(main)


@pytest.mark.usefixtures("patience")
def test_a_cancelled_wait_ends_the_connection(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(silent) as server, site(cache) as here:
            request = here.request(server.url())
            outcomes: list[Outcome] = []
            here.driver.core.submit(request, outcomes.append)
            await server.connected.wait()
            here.driver.core.cancel(request)
            await server.ended.wait()
            with trio.fail_after(60):
                while not outcomes:
                    await trio.sleep(0.002)
            assert isinstance(outcomes[0].error, Trap)
            assert not here.driver.deaths

    run(main)


def test_a_worker_that_dies_takes_its_connections_along(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(silent) as server, site(cache) as here:
            outcomes: list[Outcome] = []
            here.driver.core.submit(here.request(server.url()), outcomes.append)
            await server.connected.wait()
            os.kill((await here.driver.wait_for_worker("busy")).pid, 9)
            await server.ended.wait()
            with trio.fail_after(60):
                while not outcomes:
                    await trio.sleep(0.002)
            assert isinstance(outcomes[0].error, WorkerLost)
            assert outcomes[0].receipt.connections == 1

    run(main)


def test_a_call_that_is_begun_again_connects_again(cache: Path) -> None:
    async def main() -> None:
        async def second_time(stream: Stream, server: Server) -> None:
            await read_request(stream, server)
            if len(server.requests) == 1:
                await silent(stream, server)
            else:
                await server.ended.wait()
                await stream.send_all(HELLO)

        async with serving_tcp(second_time) as server, site(cache) as here:
            outcomes: list[Outcome] = []
            here.driver.core.submit(here.request(server.url(), retries=1), outcomes.append)
            await server.connected.wait()
            os.kill((await here.driver.wait_for_worker("busy")).pid, 9)
            with trio.fail_after(60):
                while not outcomes:
                    await trio.sleep(0.002)
            assert (exits(outcomes[0]), outcomes[0].stdout) == (0, b"hello")
            assert outcomes[0].receipt.attempts == 2

    run(main)


@pytest.mark.usefixtures("patience")
def test_waiting_is_idle_and_every_answer_begins_it_anew(cache: Path) -> None:
    async def main() -> None:
        async def drip(stream: Stream, server: Server) -> None:
            await read_request(stream, server)
            await stream.send_all(ENDLESS)
            for _ in range(12):
                await trio.sleep(0.25)
                await stream.send_all(b".")

        limits = Limits(idle_time=2.0)
        async with serving_tcp(drip) as slow, serving_tcp(silent) as dead, site(cache) as here:
            outcome = await here.fetch(slow.url(), limits=limits)
            assert (exits(outcome), outcome.stdout) == (0, b"." * 12)
            outcome = await here.fetch(dead.url(), limits=Limits(idle_time=0.3))
            assert isinstance(outcome.error, IdleTimeExceeded)
            assert not here.driver.deaths

    run(main)


# --- many, and together ---------------------------------------------------------------------------


def test_many_calls_at_once_get_each_its_own(cache: Path) -> None:
    async def main() -> None:
        async def say(stream: Stream, server: Server) -> None:
            request = await read_request(stream, server)
            await stream.send_all(response(request.split(b" ")[1] * 1000))

        async with serving_tcp(say) as server, site(cache, workers=3) as here:
            outcomes: dict[int, Outcome] = {}

            async def one(number: int) -> None:
                outcomes[number] = await here.fetch(server.url(f"/{number}"))

            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(one, number)
            for number, outcome in outcomes.items():
                assert outcome.stdout == b"/%d" % number * 1000
                assert outcome.receipt.connections == 1
            assert len(here.allowed) == 60

    run(main)


def test_a_worker_never_has_a_socket_of_the_network(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(silent) as server, site(cache) as here:
            outcomes: list[Outcome] = []
            request = here.request(server.url())
            here.driver.core.submit(request, outcomes.append)
            await server.connected.wait()
            worker = await here.driver.wait_for_worker("busy")
            folder = Path("/proc", str(worker.pid), "fd")
            try:
                links = {os.readlink(entry) for entry in folder.iterdir()}
            except PermissionError:
                pytest.skip("the descriptors of other processes may not be read here")
            of_the_network = {
                f"socket:[{line.split()[9]}]"
                for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
                for line in Path("/proc/net", table).read_text().splitlines()[1:]
            }
            assert any(link.startswith("socket:") for link in links)
            assert not links & of_the_network
            here.driver.core.cancel(request)
            await server.ended.wait()

    run(main)


# --- what guests do wrong -------------------------------------------------------------------------

END = 80 << 16
BAD_POINTERS = [
    ("http_request", (END - 1, 2, 0)),
    ("http_request", (-1, 1, 0)),
    ("http_request", (0, -1, 0)),
    ("http_request", (0, 1, END - 3)),
    ("http_read_head", (1, END, 1, 0)),
    ("http_read_head", (1, 0, 1, -1)),
    ("http_read", (1, 1 << 31, 1 << 31, 0)),
    ("http_read", (1, 0, 1, END)),
    ("tcp_connect", (END, 1, 80, 0)),
    ("tcp_connect", (16, 9, 80, -4)),
    ("tcp_read", (1, 0, END + 1, 0)),
    ("tcp_write", (1, END - 1, 2, 0)),
    ("tcp_write", (1, 0, 1, END - 1)),
]


def test_pointers_outside_of_the_guests_memory_are_an_error_and_ask_for_nothing(
    cache: Path,
) -> None:
    async def main() -> None:
        async with site(cache) as here:
            for export, values in BAD_POINTERS:
                outcome = await here.ask(export, *values)
                assert outcome.slots[0] == Errno.FAULT, (export, values)
                assert outcome.receipt.host_calls == 0
            for values in ((END, 1), (-1, -1), (0, -1)):
                assert (await here.ask("error_message", *values)).slots[0] == 0

    run(main)


NONSENSE: list[tuple[str, tuple[int, ...], int]] = [
    *((name, (7, 0, 1, 8), Errno.BADF) for name in ("http_read", "http_read_head", "tcp_read")),
    ("tcp_write", (0, 0, 1, 8), Errno.BADF),
    ("tcp_shutdown", (-1,), Errno.BADF),
    ("close", (1,), Errno.BADF),
    ("tcp_connect", (16, 9, 0, 0), Errno.INVAL),
    ("tcp_connect", (16, 9, 65536, 0), Errno.INVAL),
    ("tcp_connect", (16, 9, -1, 0), Errno.INVAL),
    ("tcp_connect", (16, 0, 80, 0), Errno.INVAL),
    ("tcp_connect", (16, 10, 80, 0), Errno.INVAL),
    ("tcp_connect", (0, 1 << 20, 80, 0), Errno.INVAL),
    ("http_request", (0, 0, 0), Errno.INVAL),
    ("http_request", (16, 9, 0), Errno.INVAL),
    ("http_request", (0, 1 << 20, 0), Errno.INVAL),
]


def test_what_makes_no_sense_is_an_error_for_the_guest(cache: Path) -> None:
    async def main() -> None:
        async with site(cache) as here:
            for export, values, errno in NONSENSE:
                assert (await here.ask(export, *values)).slots[0] == errno, (export, values)
            assert not here.driver.deaths

    run(main)


def text(here: Site, export: str, request: bytes, params: int = 2) -> Any:
    """A call of the probe with a buffer, and zeros as its other arguments."""
    return here.driver.call(
        here.probe,
        export,
        slots=bytes(16 * params),
        buffers=((0, request),),
        capabilities=Capabilities(network=LOOPBACK),
    )


def test_handles_are_of_one_kind_and_heads_need_room(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            mixed = i64(await here.ask("mix_up", server.port))
            assert mixed == Errno.BADF + 100 * (0 + 100 * Errno.BADF)
            short = i64(await text(here, "small_head", f"GET {server.url()}".encode()))
            assert short == Errno.RANGE << 32 | len(b"200 OK\ncontent-length: 5\n")

    run(main)


BAD_REQUESTS: list[tuple[bytes, int, bool]] = [
    # the request, the error number, whether the supervisor's side sees it
    (b"GET http://localhost:PORT/\nHost: evil.example\n\n", Errno.INVAL, True),
    (b"GET http://localhost:PORT/\nContent-Length: 7\n\n", Errno.INVAL, True),
    (b"GET http://localhost:PORT/\nA: b\rC: d\n\n", Errno.INVAL, True),
    (b"GET http://localhost:PORT/ HTTP/1.1\r\nA: b\r\n\r\n", Errno.INVAL, True),
    (b"GET http://localhost:PORT/\nA: \xff\n\n", Errno.INVAL, True),
    (b"GET\n\n", Errno.INVAL, True),
    (b"\n\nGET http://localhost:PORT/", Errno.INVAL, True),
    (b"GET http://user:secret@localhost:PORT/", Errno.INVAL, True),
    (b"GET http://0x7f.1:PORT/", Errno.INVAL, True),
    (b"GET http://localhost:PORT/\nno colon\n\n", Errno.INVAL, False),
    (b"GET http://localhost:PORT/\n" + b"A: b\n" * 20_000 + b"\n", Errno.INVAL, False),
    (b"POST http://localhost:PORT/\n\n" + bytes((4 << 20) + 1), Errno.MSGSIZE, False),
]


def test_a_request_that_could_be_read_in_two_ways_is_not_sent(cache: Path) -> None:
    async def main() -> None:
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            for request, errno, seen in BAD_REQUESTS:
                written = request.replace(b"PORT", b"%d" % server.port)
                outcome = await text(here, "http_request", written, params=3)
                assert outcome.slots[0] == errno, request[:80]
                assert outcome.receipt.host_calls == seen, request[:80]
            assert server.connections == 0
            assert len(here.refused) == sum(seen for *_, seen in BAD_REQUESTS)

    run(main)


def test_lines_may_end_as_http_has_them_and_large_bodies_arrive(cache: Path) -> None:
    async def main() -> None:
        body = os.urandom(4 << 20)
        async with serving_tcp(answers(HELLO)) as server, site(cache) as here:
            head = f"POST {server.url('/up')}\r\nX-A: b\r\n\r\n".encode()
            assert i64(await text(here, "small_head", head + body)) >> 32 == Errno.RANGE
            assert server.requests[0].partition(b"\r\n\r\n")[2] == body
            assert b"\r\nX-A: b\r\n" in server.requests[0]

    run(main)
