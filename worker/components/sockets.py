"""``wasi:sockets`` but for TCP: the network, its errors, names; and UDP, which there is not.

Source: WIT of ``wasi:sockets@0.2``.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import unpack
from typing import Any

from ...protocol.host_calls import Cause, Errno, LookUp, NetworkAnswer
from ...protocol.network import Address, parse_host
from .network import NO_NETWORK, Event, Ticket
from .offers import State, offer
from .pipes import Failed

NETWORK = "wasi:sockets/network"
LOOKUP = "wasi:sockets/ip-name-lookup"
ERROR_CODE = (
    "enum<unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout, "
    "concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit, "
    "address-not-bindable, address-in-use, remote-unreachable, connection-refused, "
    "connection-reset, connection-aborted, datagram-too-large, name-unresolvable, "
    "temporary-resolver-failure, permanent-resolver-failure>"
)
_PLACES = {name: place for place, name in enumerate(ERROR_CODE[len("enum<") : -1].split(", "))}
_V4, _V6 = "tuple<u8, u8, u8, u8>", "tuple<u16, u16, u16, u16, u16, u16, u16, u16>"
IP_ADDRESS = f"variant<ipv4({_V4}), ipv6({_V6})>"
SOCKET_ADDRESS = (
    f"variant<ipv4(record<port: u16, address: {_V4}>), "
    f"ipv6(record<port: u16, flow-info: u32, address: {_V6}, scope-id: u32>)>"
)
FAMILY = "enum<ipv4, ipv6>"
_STREAM = "resolve-address-stream"

_BY_ERRNO: dict[int, str] = {
    Errno.ACCES: "access-denied",
    Errno.CONNREFUSED: "connection-refused",
    Errno.CONNRESET: "connection-reset",
    Errno.PIPE: "connection-reset",
    Errno.CONNABORTED: "connection-aborted",
    Errno.HOSTUNREACH: "remote-unreachable",
    Errno.NETUNREACH: "remote-unreachable",
    Errno.INVAL: "invalid-argument",
    Errno.MFILE: "new-socket-limit",
    Errno.NOENT: "name-unresolvable",
    Errno.TIMEDOUT: "timeout",
    Errno.BADF: "invalid-state",
}


class Net:
    """``network``: all that was granted."""


def refused(name: str) -> list[Any]:
    """The wire value of ``err`` with that ``error-code``."""
    return [1, _PLACES[name]]


def error_code_of(answer: NetworkAnswer) -> int:
    """The ``error-code`` of an answer that is an error."""
    if answer.errno == Errno.TIMEDOUT and answer.cause == Cause.LOOKUP:
        return _PLACES["temporary-resolver-failure"]
    return _PLACES[_BY_ERRNO.get(answer.errno, "unknown")]


def failed(answer: NetworkAnswer) -> Failed:
    """What a guest gets whose stream fails."""
    return Failed(answer.message, NETWORK, error_code_of(answer))


def from_wire(given: list[Any]) -> tuple[Address, int]:
    """Address and port of an ``ip-socket-address``.

    Raises:
        ValueError: one with a zone, or which stands for an IPv4 address.
    """
    family, fields = given
    if family == 0:
        port, parts = fields
        return IPv4Address(bytes(parts)), port
    port, _, parts, scope = fields
    address = IPv6Address(b"".join(part.to_bytes(2, "big") for part in parts))
    if scope or address.ipv4_mapped is not None:
        raise ValueError
    return address, port


def to_wire(address: Address) -> list[Any]:
    """An ``ip-address``."""
    if isinstance(address, IPv4Address):
        return [0, list(address.packed)]
    return [1, list(unpack(">8H", address.packed))]


class Lookup:
    """``resolve-address-stream``."""

    def __init__(self, ticket: Ticket | None, addresses: list[Address]) -> None:
        self._ticket = ticket
        self._addresses = addresses
        self._failure: list[Any] | None = None

    def find(self) -> Ticket | bool:
        """What has to end for an address, or the error, to be there."""
        return self._ticket is None or self._ticket.ended or self._ticket

    def next(self) -> list[Any]:
        """``result<option<ip-address>, error-code>``."""
        if self._ticket is not None:
            if not self._ticket.check():
                return refused("would-block")
            answer, data = self._ticket.collect()
            self._ticket = None
            if answer.errno:
                self._failure = [1, error_code_of(answer)]
            self._addresses = [ip_address(line) for line in data.decode().split()]
        if self._failure is not None:
            return self._failure
        if not self._addresses:
            return [0, [0, None]]
        return [0, [1, to_wire(self._addresses.pop(0))]]

    def release(self) -> None:
        """It was dropped."""
        if self._ticket is not None:
            self._ticket.abandon()


class Sockets:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    @offer("wasi:sockets/instance-network", "instance-network", "() -> own<network>")
    def instance_network(self) -> int:
        return self._state.objects.add(Net())

    @offer(NETWORK, "network-error-code", f"(borrow<error>) -> option<{ERROR_CODE}>")
    def network_error_code(self, error: int) -> list[Any]:
        return self._state.objects.get(error, Failed).code(NETWORK)

    @offer(
        LOOKUP,
        "resolve-addresses",
        f"(borrow<network>, string) -> result<own<{_STREAM}>, {ERROR_CODE}>",
    )
    def resolve_addresses(self, net: int, name: str) -> list[Any]:
        objects, network = self._state.objects, self._state.network
        objects.get(net, Net)
        try:
            host = parse_host(name)
        except ValueError:
            return refused("invalid-argument")
        if not isinstance(host, str):
            return [0, objects.add(Lookup(None, [host]))]
        if network is None:
            return [1, error_code_of(NO_NETWORK)]
        return [0, objects.add(Lookup(network.begin(LookUp(host)), []))]

    @offer(
        LOOKUP,
        f"[method]{_STREAM}.resolve-next-address",
        f"(borrow<{_STREAM}>) -> result<option<{IP_ADDRESS}>, {ERROR_CODE}>",
    )
    def resolve_next_address(self, stream: int) -> list[Any]:
        return self._state.objects.get(stream, Lookup).next()

    @offer(LOOKUP, f"[method]{_STREAM}.subscribe", f"(borrow<{_STREAM}>) -> own<pollable>")
    def subscribe(self, stream: int) -> int:
        return self._state.objects.add(Event(self._state.objects.get(stream, Lookup).find))

    @offer(
        "wasi:sockets/udp-create-socket",
        "create-udp-socket",
        f"({FAMILY}) -> result<own<udp-socket>, {ERROR_CODE}>",
    )
    def create_udp_socket(self, _family: int) -> list[Any]:
        return refused("not-supported")
