"""Where on the network guests may go: the grants, and the host names and ports in them. No I/O.

Hosts are written in one way only: what has a second spelling (octal or short IPv4 addresses,
IPv4 addresses inside of IPv6 ones, zones, letters beyond ASCII) is refused, so that what is checked
is what is connected to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, cast

import msgspec

from .errors import ConfigurationError
from .fields import check_kind

Address = IPv4Address | IPv6Address
Ports = tuple[tuple[int, int], ...]
"""Ranges of ports, both ends included, in order."""
PortSpec = int | str | range
"""``443``, ``"443"``, ``"8000-8100"`` or ``range(8000, 8101)``."""

ANY_PORT: Ports = ((1, 65535),)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that makes resolvers take the whole for an address, in many spellings (inet_aton(3),
WHATWG URL, "ends in a number")."""
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class NetworkGrant(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a guest may connect to. Made by the functions of ``Network``."""

    kind: Literal["loopback", "host", "public", "full"]
    ports: Ports = ANY_PORT
    host: str = ""
    """Of a host: a name in lower case, ``*.`` and a name, or an address."""
    private: bool = False
    """Of a host: whether its name may lead to a private address."""

    def has_port(self, port: int) -> bool:
        """Whether the grant is for this port."""
        return any(low <= port <= high for low, high in self.ports)

    def __str__(self) -> str:
        ports = ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in self.ports)
        return f"{self.host or self.kind}:{'*' if self.ports == ANY_PORT else ports}"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which servers a guest may connect to, by HTTP or by TCP; join several with ``|``.

    Guests have no sockets. They ask through the functions of the import module ``wasm_sandbox``,
    and the supervisor's side connects, after it has checked the very address that it connects to.
    Listening is never offered. docs/network.md has the rules in full.
    """

    grants: tuple[NetworkGrant, ...] = ()

    def __post_init__(self) -> None:
        check_kind("capabilities.network", self.grants, tuple)
        for grant in self.grants:
            _check_grant(grant)

    def __or__(self, other: Network) -> Network:
        check_kind("capabilities.network", other, Network)
        return Network((*self.grants, *(g for g in other.grants if g not in self.grants)))

    @staticmethod
    def none() -> Network:
        """No network."""
        return Network()

    @staticmethod
    def loopback(ports: PortSpec | Iterable[PortSpec] | None = None) -> Network:
        """Servers on this machine's own loopback addresses, by address or as ``localhost``.

        Args:
            ports: which; ``None`` is all.

        Raises:
            ConfigurationError: no ports.
        """
        field = "capabilities.network.loopback"
        return _network(kind="loopback", ports=ANY_PORT if ports is None else _ports(field, ports))

    @staticmethod
    def hosts(*hosts: str, private: bool = False) -> Network:
        """These servers, each with its ports.

        Args:
            hosts: ``"api.example.org:443"``, ``"*.example.org:443"`` (every name below, not the
                name itself), ``"10.1.2.3:8000-8100"``, ``"[fd00::1]:*"``. An address is granted as
                it stands, wherever it is. A name must lead to public addresses.
            private: names may lead to private addresses, too; never to loopback or link-local ones.

        Raises:
            ConfigurationError: not a host and ports.
        """
        if not hosts:
            raise ConfigurationError("capabilities.network.hosts", hosts, "names no host")
        return Network(tuple(dict.fromkeys(_host_grant(host, private) for host in hosts)))

    @staticmethod
    def ports(*ports: PortSpec) -> Network:
        """Every server on these ports that has a public address.

        Raises:
            ConfigurationError: no ports.
        """
        return _network(kind="public", ports=_ports("capabilities.network.ports", ports))

    @staticmethod
    def full() -> Network:
        """Every server on every port, on private and loopback addresses too: what your program
        can reach. Only addresses that are no host's, and link-local ones (a cloud's metadata), are
        left out; ``hosts`` grants the latter."""
        return _network(kind="full")


def _network(*, kind: Literal["loopback", "public", "full"], ports: Ports = ANY_PORT) -> Network:
    return Network((NetworkGrant(kind=kind, ports=ports),))


def parse_host(text: str) -> str | Address:
    """A host as it is checked, looked up and connected to: a name in lower case, or an address.

    An IPv6 address may be in brackets. A single dot at the end of a name is dropped.

    Raises:
        ValueError: none, or a spelling that programs take for different things.
    """
    if ":" in text or text.startswith("["):
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if "%" in inner:
            raise ValueError("an address with a zone cannot be used")
        address = IPv6Address(inner)
        if address.ipv4_mapped is not None:
            raise ValueError(f"write the IPv4 address itself: {address.ipv4_mapped}")
        return address
    name = text.removesuffix(".").lower()
    if not name.isascii():
        raise ValueError("write the name in ASCII (xn--...)")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return IPv4Address(name)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("this is no host name")
    return name


def _host_grant(text: object, private: bool) -> NetworkGrant:
    field = "capabilities.network.hosts"
    hint = 'write "name:port", "name:low-high" or "name:*"; an IPv6 address in brackets'
    if not isinstance(text, str):
        raise ConfigurationError(field, text, "must be text", hint)
    name, colon, ports = text.rpartition(":")
    bare, wildcard = name.removeprefix("*."), name.startswith("*.")
    try:
        if not colon or (":" in name and not name.startswith("[")):
            raise ValueError("has no port")
        host = parse_host(bare)
        allowed = ANY_PORT if ports == "*" else (_range(ports),)
        if isinstance(host, str):
            if host.rpartition(".")[2] == "localhost":
                raise ValueError("is granted by Network.loopback(ports=...)")
            host = f"*.{host}" if wildcard else host
        elif wildcard or private:
            raise ValueError("an address needs neither * nor private=")
        else:
            _check_address(host)
    except ValueError as error:
        raise ConfigurationError(field, text, str(error), hint) from None
    return NetworkGrant(kind="host", host=str(host), ports=allowed, private=private)


def _check_grant(grant: NetworkGrant) -> None:
    """Refuse a grant made by hand that the functions would not make."""
    field = "capabilities.network"
    check_kind(field, grant, NetworkGrant)
    of_host = grant.kind == "host"
    for low, high in grant.ports:
        if not 1 <= low <= high <= 65535:
            raise ConfigurationError(field, grant, "ports are 1 to 65535, the lower first")
    if of_host:
        name = f"[{grant.host}]" if ":" in grant.host else grant.host
        of_host = _host_grant(f"{name}:*", grant.private).host == grant.host
    if of_host != bool(grant.host or grant.private):
        raise ConfigurationError(field, grant, "is no grant", "use the functions of Network")


def _check_address(address: Address) -> None:
    zoned = isinstance(address, IPv6Address) and address.is_link_local
    broadcast = address == IPv4Address("255.255.255.255")
    if address.is_unspecified or address.is_multicast or zoned or broadcast:
        raise ValueError("is not the address of one host that can be connected to")


def _ports(field: str, given: PortSpec | Iterable[PortSpec]) -> Ports:
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | range)
    specs: list[object] = [*cast("Iterable[object]", given)] if several else [given]
    found: list[tuple[int, int]] = []
    for spec in specs:
        try:
            found.append(_range(spec))
        except ValueError as error:
            hint = 'write 443, "8000-8100" or range(8000, 8101)'
            raise ConfigurationError(field, spec, str(error), hint) from None
    if not found:
        raise ConfigurationError(field, given, "names no port")
    return tuple(sorted(set(found)))


def _range(spec: object) -> tuple[int, int]:
    match spec:
        case bool():
            raise ValueError("is no port")
        case int():
            low = high = spec
        case range() if spec.step == 1:
            low, high = spec.start, spec.stop - 1
        case str() if found := _RANGE.fullmatch(spec):
            low, high = int(found[1]), int(found[2] or found[1])
        case _:
            raise ValueError("is no port and no range of ports")
    if not 1 <= low <= high <= 65535:
        raise ValueError("ports are 1 to 65535, the lower first")
    return low, high
