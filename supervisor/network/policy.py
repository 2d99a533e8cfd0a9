"""Whether a guest may go where it wants to go. Pure: names and addresses in, decisions out.

There are two questions. *May this name be looked up?* Only where a grant names it: a look-up is
itself a message to somebody. Then, of each address that was found: *may this one be connected to?*
The connection is made to exactly the address that was asked about. A grant answers both questions
or neither, so that the name of one and the reach of another never add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from ...protocol.host_calls import Cause, Errno
from ...protocol.network import Address, NetworkGrant, parse_host


class Reach(Enum):
    """Where an address leads."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    RESERVED = "reserved"
    """No host's address, or one that stands for another address (IPv4 inside of IPv6)."""


_SPECIAL: tuple[tuple[str, Reach], ...] = (
    # IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its successors), and the
    # services of clouds that answer every program of the machine. The first that fits counts.
    ("0.0.0.0/8", Reach.RESERVED),
    ("10.0.0.0/8", Reach.PRIVATE),
    ("100.100.100.200/32", Reach.LINK_LOCAL),  # Alibaba's metadata service
    ("100.64.0.0/10", Reach.PRIVATE),  # carrier-grade NAT
    ("127.0.0.0/8", Reach.LOOPBACK),
    ("169.254.0.0/16", Reach.LINK_LOCAL),  # the metadata services of clouds, among others
    ("168.63.129.16/32", Reach.LINK_LOCAL),  # Azure's; the registries call it public
    ("172.16.0.0/12", Reach.PRIVATE),
    ("192.0.0.0/24", Reach.RESERVED),
    ("192.0.2.0/24", Reach.RESERVED),  # documentation, as the next but two, and the one after it
    ("192.88.99.0/24", Reach.RESERVED),  # 6to4 relays
    ("192.168.0.0/16", Reach.PRIVATE),
    ("198.18.0.0/15", Reach.RESERVED),  # benchmarks
    ("198.51.100.0/24", Reach.RESERVED),
    ("203.0.113.0/24", Reach.RESERVED),
    ("224.0.0.0/4", Reach.RESERVED),  # multicast
    ("240.0.0.0/4", Reach.RESERVED),  # and broadcast
    ("::1/128", Reach.LOOPBACK),
    ("fd00:ec2::/32", Reach.LINK_LOCAL),  # Amazon's metadata service and its like
    ("fd20:ce::254/128", Reach.LINK_LOCAL),  # Google's
    ("fc00::/7", Reach.PRIVATE),
    ("fe80::/10", Reach.LINK_LOCAL),
    ("2001::/23", Reach.RESERVED),  # Teredo, ORCHID, benchmarks
    ("2001:db8::/32", Reach.RESERVED),
    ("2002::/16", Reach.RESERVED),  # 6to4: an IPv4 address inside
    ("3fff::/20", Reach.RESERVED),
)
_NETWORKS = tuple((ip_network(text), reach) for text, reach in _SPECIAL)
_V4 = tuple((n, reach) for n, reach in _NETWORKS if isinstance(n, IPv4Network))
_V6 = tuple((n, reach) for n, reach in _NETWORKS if isinstance(n, IPv6Network))
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All of IPv6 that is given to hosts. Mapped, compatible and NAT64 addresses lie outside of it."""

_FULL = frozenset((Reach.PUBLIC, Reach.PRIVATE, Reach.LOOPBACK))


class Refused(Exception):
    """A guest does not get what it asked for; it is told ``errno`` and why."""

    def __init__(self, errno: Errno, message: str, cause: Cause = Cause.NONE) -> None:
        super().__init__(message)
        self.errno = errno
        self.message = message
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a guest wants to go."""

    host: str | Address
    """A name in lower case, or an address."""
    port: int
    """0 where it is only to be looked up."""

    def __str__(self) -> str:
        if not self.port:
            return str(self.host)
        return f"[{self.host}]:{self.port}" if self.literal6 else f"{self.host}:{self.port}"

    @property
    def literal6(self) -> bool:
        """Whether the host is an IPv6 address."""
        return isinstance(self.host, IPv6Address)


def destination(host: str, port: int) -> Destination:
    """What a guest wrote, in its one spelling.

    Raises:
        Refused: ``INVAL``: no host, or no port.
    """
    found = name(host)
    if not 1 <= port <= 65535:
        raise Refused(Errno.INVAL, f"bad port {port}: ports are 1 to 65535")
    return Destination(found, port)


def name(host: str) -> str | Address:
    """A host that a guest wrote, in its one spelling.

    Raises:
        Refused: ``INVAL``: it is none.
    """
    try:
        return parse_host(host)
    except ValueError as error:
        raise Refused(Errno.INVAL, f"bad host {host[:80]!r}: {error}", Cause.URL) from None


def reach_of(address: Address) -> Reach:
    """Where an address leads."""
    if isinstance(address, IPv4Address):
        return next((reach for network, reach in _V4 if address in network), Reach.PUBLIC)
    special = next((reach for network, reach in _V6 if address in network), None)
    return special or (Reach.PUBLIC if address in _GLOBAL_UNICAST else Reach.RESERVED)


def grants_for(granted: tuple[NetworkGrant, ...], where: Destination) -> tuple[NetworkGrant, ...]:
    """Those that name this destination, on any port where it has none. Without one it is not even
    looked up.

    Raises:
        Refused: ``ACCES``: there is none.
    """
    found = tuple(
        g for g in granted if (not where.port or g.has_port(where.port)) and _names(g, where.host)
    )
    if not found:
        raise Refused(Errno.ACCES, f"no grant of capabilities.network names {where}")
    return found


def _names(grant: NetworkGrant, host: str | Address) -> bool:
    if grant.kind == "host":
        if grant.host.startswith("*."):
            return isinstance(host, str) and host.endswith(grant.host[1:])
        return str(host) == grant.host
    if grant.kind == "loopback" and isinstance(host, str):
        return host == "localhost"
    return True


def check_address(
    grants: tuple[NetworkGrant, ...], where: Destination, address: Address
) -> NetworkGrant:
    """The first of a destination's grants that lets it have this address.

    Raises:
        Refused: ``ACCES``: none does.
    """
    reach = reach_of(address)
    for grant in grants:
        if _admits(grant, where, reach):
            return grant
    # Not the address itself: what names inside of your network lead to is no guest's business.
    message = f"no grant that names {where} lets it have a {reach.value} address"
    raise Refused(Errno.ACCES, message, Cause.ADDRESS)


def admits(granted: tuple[NetworkGrant, ...], where: Destination, address: Address) -> bool:
    """Whether the destination is granted with that address."""
    try:
        check_address(grants_for(granted, where), where, address)
    except Refused:
        return False
    return True


def _admits(grant: NetworkGrant, where: Destination, reach: Reach) -> bool:
    match grant.kind:
        case "loopback":
            return reach is Reach.LOOPBACK
        case "public":
            return reach is Reach.PUBLIC
        case "full":
            return reach in _FULL
        case "host":
            if not isinstance(where.host, str):
                return True  # the grant is for this very address
            return reach is Reach.PUBLIC or (grant.private and reach is Reach.PRIVATE)
