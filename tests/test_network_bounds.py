"""What a call may do on the network at most, where no server and no worker are needed to see it."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from wasm_sandbox.protocol.events import Event, NetworkAllowed, NetworkRefused
from wasm_sandbox.protocol.host_calls import (
    Abandon,
    Begin,
    Errno,
    HttpRequest,
    LookUp,
    NetworkRequest,
    TcpConnect,
)
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.network import Address, Network
from wasm_sandbox.supervisor.network.access import IN_TOTAL, CallNetwork, NetworkAccess
from wasm_sandbox.supervisor.network.audit import PATIENCE
from wasm_sandbox.supervisor.network.connections import TRANSFER_SECONDS, Connection, Traffic
from wasm_sandbox.supervisor.network.http import Exchange
from wasm_sandbox.supervisor.network.policy import Destination, Refused
from wasm_sandbox.supervisor.network.requests import Prepared

ZONE = Network.hosts("*.example.com:443")


def run(main: Any) -> None:
    """Run it in a time of its own, which passes at once."""
    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- look-ups -------------------------------------------------------------------------------------


class Lookups:
    """A call's network whose resolver writes down what it is asked, and finds ``addresses``."""

    def __init__(self, nursery: trio.Nursery, network: Network) -> None:
        self.asked: list[str] = []
        self.events: list[Event] = []
        self.addresses: list[Address] | None = None
        self.answers = True
        access = NetworkAccess(self.events.append)
        access.resolve = self._resolve
        access.connect = self._connect
        record: Any = SimpleNamespace(
            request=SimpleNamespace(
                limits=Limits(connections=1),
                profile=SimpleNamespace(network=network.grants, tenant=None),
                module=SimpleNamespace(sha256=bytes(32)),
                export="run",
            ),
            worker=None,
        )
        self._network = CallNetwork(access, record, nursery)

    async def _resolve(self, name: str) -> list[Address]:
        self.asked.append(name)
        await (trio.lowlevel.checkpoint() if self.answers else trio.sleep_forever())
        if self.addresses is None:
            raise Refused(Errno.NOENT, f"{name} was not found")
        return self.addresses

    async def _connect(self, *_: object) -> Connection:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError(111, "Connection refused")

    async def ask(self, request: NetworkRequest) -> tuple[int, int]:
        """The error number of a request, and its value."""
        answer, _ = await self._network.serve(request, b"", 1024)
        return answer.errno, answer.value

    def end(self) -> None:
        """The call ends."""
        self._network.close()

    @property
    def refused(self) -> list[tuple[str, str]]:
        return [(e.operation, e.where) for e in self.events if isinstance(e, NetworkRefused)]


@asynccontextmanager
async def lookups(network: Network = ZONE) -> AsyncGenerator[Lookups]:
    """A call's network, until the end of the block."""
    async with trio.open_nursery() as nursery:
        yield Lookups(nursery, network)
        nursery.cancel_scope.cancel()


def test_names_are_counted_whatever_they_are_looked_up_for() -> None:
    def request(number: int) -> NetworkRequest:
        name = f"secret{number}.example.com"
        match number % 3:
            case 0:
                return TcpConnect(name, 443)
            case 1:
                return HttpRequest("GET", f"https://{name}/", ())
            case _:
                return LookUp(name)

    async def main() -> None:
        async with lookups() as call:
            found = [(await call.ask(request(number)))[0] for number in range(IN_TOTAL + 20)]
            assert found == [Errno.NOENT] * IN_TOTAL + [Errno.MFILE] * 20
            assert len(call.asked) == IN_TOTAL
            assert len(call.refused) == IN_TOTAL + 20
            assert call.refused[0] == ("tcp", "secret0.example.com:443")
            assert call.refused[1] == ("http", "secret1.example.com:443")
            assert call.refused[2] == ("lookup", "secret2.example.com")

    run(main)


def test_a_look_up_that_gives_no_address_is_reported() -> None:
    async def main() -> None:
        async with lookups() as call:
            call.addresses = []
            assert (await call.ask(TcpConnect("a.example.com", 443)))[0] == Errno.NOENT
            assert call.refused == [("tcp", "a.example.com:443")]
            call.answers = False
            _, ticket = await call.ask(Begin(TcpConnect("b.example.com", 443)))
            await wait_all_tasks_blocked()
            assert call.asked == ["a.example.com", "b.example.com"]
            await call.ask(Abandon(ticket))
            await wait_all_tasks_blocked()
            assert call.refused[1:] == [("tcp", "b.example.com:443")]

    run(main)


def test_refusals_whose_turn_does_not_come_are_reported_together_at_the_end() -> None:
    """Whether the guest gave them up, or the call ended."""
    clock = MockClock()

    async def main() -> None:
        async with lookups() as call:
            tickets: list[int] = []
            for name in "abcde":
                request = Begin(TcpConnect(f"{name}.example.org", 443))
                tickets.append((await call.ask(request))[1])
                await wait_all_tasks_blocked()
            await call.ask(Abandon(tickets[1]))
            await wait_all_tasks_blocked()
            clock.jump(PATIENCE)
            await wait_all_tasks_blocked()
            told = [("tcp", f"{name}.example.org:443") for name in "acb"]
            assert call.refused == told[:2]
            for _ in range(2):
                call.end()
                await wait_all_tasks_blocked()
            assert call.refused == told
            last = call.events[-1]
            assert isinstance(last, NetworkRefused)
            assert last.others == 2

    trio.run(main, clock=clock)


def test_a_look_up_that_gives_addresses_is_reported_by_them_alone() -> None:
    async def main() -> None:
        async with lookups() as call:
            call.addresses = [ip_address("93.184.216.34")]
            assert (await call.ask(TcpConnect("a.example.com", 443)))[0] == Errno.CONNREFUSED
            assert (await call.ask(LookUp("a.example.com")))[0] == 0
            assert [type(event) for event in call.events] == [NetworkAllowed] * 2

    run(main)


def test_addresses_are_no_names_to_connect_to() -> None:
    async def main() -> None:
        async with lookups(Network.hosts("93.184.216.34:443", "*.example.com:443")) as call:
            for _ in range(3):
                found = await call.ask(TcpConnect("93.184.216.34", 443))
                assert found[0] == Errno.CONNREFUSED
            for _ in range(IN_TOTAL):
                assert (await call.ask(LookUp("93.184.216.34")))[0] == 0
            assert (await call.ask(LookUp("93.184.216.34")))[0] == Errno.MFILE
            assert not call.asked

    run(main)


# --- times ----------------------------------------------------------------------------------------


class Dripping:
    """A connection to a server that always says something just in time, and never all."""

    def __init__(self, *said: bytes) -> None:
        self._said = list(said)

    async def send(self, data: bytes) -> None:
        """Take it."""

    async def receive(self, most: int, within: float = 0) -> bytes:
        """The next piece; the last one again and again."""
        await trio.sleep(TRANSFER_SECONDS - 1)
        return self._said.pop(0) if len(self._said) > 1 else self._said[0]


async def begun(connection: Any, within: float = 0) -> Exchange:
    """A request that was sent over the connection."""
    exchange = Exchange(connection)
    request = Prepared("GET", Destination("a", 80), False, "/", (("Host", "a"),))
    await exchange.begin(request, b"", within)
    return exchange


@pytest.mark.parametrize(("within", "waits"), [(0, 30), (10, 10), (1000, 30)])
def test_a_dripping_head_is_waited_for_no_longer_than_a_silent_one(
    within: float, waits: float
) -> None:
    async def main() -> None:
        start = trio.current_time()
        with pytest.raises(Refused) as refused:
            await begun(Dripping(b"HTTP/1.1 200 OK\r\nx: ", b"a"), within)
        assert refused.value.errno is Errno.TIMEDOUT
        assert trio.current_time() - start == pytest.approx(waits)

    run(main)


def test_a_dripping_chunk_is_waited_for_no_longer_than_a_silent_one() -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        exchange = await begun(Dripping(head, b"1;x=", b"x"))
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await exchange.read(100)
        assert trio.current_time() - start == pytest.approx(TRANSFER_SECONDS)

    run(main)


# --- bytes ----------------------------------------------------------------------------------------


class Secured(Connection):
    """A connection as with TLS: whether a read will wait, nobody knows before."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM), traffic)
        self.asked: list[int] = []
        self.says, self._said = trio.open_memory_channel[bytes](10)
        stream: Any = self
        self._stream = stream

    async def receive_some(self, most: int) -> bytes:
        """What the server says next."""
        self.asked.append(most)
        said = await self._said.receive()
        assert len(said) <= most
        return said


def test_a_read_that_waits_takes_no_room_from_others() -> None:
    async def main() -> None:
        traffic = Traffic(100, 0)
        waiting, other = Secured(traffic), Secured(traffic)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.receive, 1000)
            await wait_all_tasks_blocked()
            assert (waiting.asked, traffic.received) == ([100], 0)
            other.says.send_nowait(b"0123456789")
            assert await other.receive(1000) == b"0123456789"
            assert traffic.received == 10
            nursery.cancel_scope.cancel()
        assert traffic.received == 10
        waiting.close()
        other.close()

    run(main)


def test_reads_that_wait_together_get_no_more_than_there_is_room_for() -> None:
    async def main() -> None:
        traffic = Traffic(100, 0)
        first, second, third = (Secured(traffic) for _ in range(3))
        read: dict[Secured, bytes | Errno] = {}

        async def receive(connection: Secured) -> None:
            try:
                read[connection] = await connection.receive(1000)
            except Refused as refused:
                read[connection] = refused.errno

        async with trio.open_nursery() as nursery:
            for connection in (first, second, third):
                nursery.start_soon(receive, connection)
            for connection in (first, second, third):
                await wait_all_tasks_blocked()
                connection.says.send_nowait(b"0123456789" * 6)
        assert read == {first: b"0123456789" * 6, second: b"0123456789" * 4, third: Errno.DQUOT}
        assert traffic.received == 100
        # The next call of the instance has room, and gets what the last one had none for.
        second.traffic = third.traffic = Traffic(1000, 0)
        assert await second.receive(15) == b"012345678901234"
        assert await second.receive(15) == b"56789"
        assert await third.receive(1000) == b"0123456789" * 6
        assert second.traffic.received == 80
        for connection in (first, second, third):
            connection.close()

    run(main)
