"""What guests may reach: every decision of the policy, without a network."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandbox.protocol.errors import ConfigurationError
from wasm_sandbox.protocol.host_calls import Errno, HttpRequest
from wasm_sandbox.protocol.network import ANY_PORT, Address, Network, NetworkGrant, parse_host
from wasm_sandbox.supervisor.network.policy import (
    Reach,
    Refused,
    check_address,
    destination,
    grants_for,
    reach_of,
)
from wasm_sandbox.supervisor.network.requests import HEAD_LIMIT, OURS, parse_url, prepare

# --- addresses -----------------------------------------------------------------------------------

REACHES = {
    Reach.PUBLIC: (
        "8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 "
        "128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 "
        "192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 "
        "2606:4700::1111 2a00::1 2001:4860:4860::8888 3ffe::1"
    ),
    Reach.PRIVATE: (
        "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 "
        "100.64.0.0 100.127.255.255 fc00:: fd12:3456::1 fdff:ffff::1"
    ),
    Reach.LOOPBACK: "127.0.0.0 127.0.0.1 127.255.255.255 ::1",
    Reach.LINK_LOCAL: (
        "169.254.0.0 169.254.169.254 169.254.255.255 fe80::1 febf::1 "
        "168.63.129.16 100.100.100.200 fd00:ec2::254 fd20:ce::254"
    ),
    Reach.RESERVED: (
        "0.0.0.0 0.0.0.1 0.255.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 "
        "198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 "
        "255.255.255.255 :: ::2 ::127.0.0.1 ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::ffff:0:1.2.3.4 "
        "64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1::1 2001:10::1 "
        "2001:20::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 4000::1 5f00::1 fec0::1 "
        "ff02::1 ff0e::1"
    ),
}


@pytest.mark.parametrize(
    ("address", "reach"),
    [(address, reach) for reach, texts in REACHES.items() for address in texts.split()],
)
def test_where_an_address_leads(address: str, reach: Reach) -> None:
    assert reach_of(ipaddress.ip_address(address)) is reach


ADDRESSES = st.ip_addresses()
NEAR = st.sampled_from([ipaddress.ip_address(a) for t in REACHES.values() for a in t.split()])


@given(ADDRESSES | NEAR)
def test_what_is_public_here_is_global_for_python_too(address: Address) -> None:
    if reach_of(address) is Reach.PUBLIC:
        assert address.is_global
        assert not address.is_multicast
        if isinstance(address, ipaddress.IPv6Address):
            assert (address.ipv4_mapped, address.sixtofour, address.teredo) == (None, None, None)


# --- host names ----------------------------------------------------------------------------------

SPELLINGS: list[tuple[str, str | None]] = [
    ("example.org", "example.org"),
    ("EXAMPLE.Org", "example.org"),
    ("example.org.", "example.org"),
    ("_dmarc.example.org", "_dmarc.example.org"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("localhost", "localhost"),
    ("1e100.net", "1e100.net"),
    ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.1.", "127.0.0.1"),
    ("::1", "::1"),
    ("[::1]", "::1"),
    ("[2001:DB8:0::0001]", "2001:db8::1"),
    ("0:0:0:0:0:0:0:1", "::1"),
    ("", None),
    (".", None),
    ("..", None),
    ("example.org..", None),
    (".example.org", None),
    ("exa mple.org", None),
    ("example.org\n", None),
    ("example.org\r\nHost: x", None),
    ("example.org\0.example.com", None),
    ("user@example.org", None),
    ("example.org/", None),
    ("example.org#", None),
    ("example.org\\", None),
    ("%6c%6fcalhost", None),
    ("-example.org", None),
    ("example-.org", None),
    ("a" * 64 + ".org", None),
    (".".join(["abc"] * 64), None),
    ("bücher.example", None),
    ("ｌｏｃａｌｈｏｓｔ", None),
    ("ⓔxample.org", None),
    ("١٢٧.0.0.1", None),
    ("127。0。0。1", None),
    ("127.1", None),
    ("127.0.1", None),
    ("2130706433", None),
    ("0x7f000001", None),
    ("0x7f.0.0.1", None),
    ("0X7F.1", None),
    ("0177.0.0.1", None),
    ("017700000001", None),
    ("127.0.0.01", None),
    ("127.0.0.256", None),
    ("127.0.0.1.5", None),
    ("1.2.3.0x", None),
    ("example.0x10", None),
    ("example.99", None),
    ("[127.0.0.1]", None),
    ("[::1", None),
    ("::1]", None),
    ("[[::1]]", None),
    ("[fe80::1%eth0]", None),
    ("fe80::1%1", None),
    ("::ffff:127.0.0.1", None),
    ("[::ffff:7f00:1]", None),
    ("1::2::3", None),
]


@pytest.mark.parametrize(("text", "host"), SPELLINGS)
def test_a_host_has_one_spelling(text: str, host: str | None) -> None:
    if host is None:
        with pytest.raises(ValueError, match=r"."):
            parse_host(text)
    else:
        assert str(parse_host(text)) == host


@given(st.text(max_size=30) | st.from_regex(r"[0-9a-fx:.\[\]%]{1,24}", fullmatch=True))
def test_no_name_is_an_address_in_disguise(text: str) -> None:
    with suppress(ValueError):
        host = parse_host(text)
        assert parse_host(str(host)) == host
        if isinstance(host, str):
            assert re.fullmatch(r"[a-z0-9_.-]+", host)
            with pytest.raises(OSError, match=r"."):
                socket.inet_aton(host)


# --- grants --------------------------------------------------------------------------------------

PUBLIC, PRIVATE, LOOPBACK = "93.184.216.34", "10.1.2.3", "127.0.0.1"
METADATA = "169.254.169.254"
API = Network.hosts("api.example.org:443")
BELOW = Network.hosts("*.example.org:443")
INSIDE = Network.hosts("db.internal:5432", private=True)
LITERAL = Network.hosts("10.1.2.3:8000-8100", "[fd00::1]:*")
WEB = Network.ports(80, "443", range(8000, 8101))
LOCAL = Network.loopback(ports=[8000, "9000-9001"])
FULL = Network.full()

DECISIONS: list[tuple[Network, str, int, str, bool]] = [
    # network, host, port, the address that it has, whether it may be connected to
    (Network.none(), "api.example.org", 443, PUBLIC, False),
    (Network.none(), LOOPBACK, 80, LOOPBACK, False),
    (API, "api.example.org", 443, PUBLIC, True),
    (API, "API.example.org.", 443, PUBLIC, True),
    (API, "api.example.org", 80, PUBLIC, False),
    (API, "example.org", 443, PUBLIC, False),
    (API, "x.api.example.org", 443, PUBLIC, False),
    (API, "api.example.org.evil.example", 443, PUBLIC, False),
    (API, PUBLIC, 443, PUBLIC, False),
    *(
        (API, "api.example.org", 443, bad, False)
        for bad in (PRIVATE, LOOPBACK, METADATA, "fd00::1")
    ),
    (API, "api.example.org", 443, "::ffff:93.184.216.34", False),
    (API, "api.example.org", 443, "64:ff9b::1", False),
    (BELOW, "api.example.org", 443, PUBLIC, True),
    (BELOW, "a.b.example.org", 443, PUBLIC, True),
    (BELOW, "example.org", 443, PUBLIC, False),
    (BELOW, "badexample.org", 443, PUBLIC, False),
    (BELOW, "api.example.org", 443, LOOPBACK, False),
    (INSIDE, "db.internal", 5432, PRIVATE, True),
    (INSIDE, "db.internal", 5432, "100.64.1.1", True),
    (INSIDE, "db.internal", 5432, "fd00::1", True),
    (INSIDE, "db.internal", 5432, PUBLIC, True),
    (INSIDE, "db.internal", 5432, LOOPBACK, False),
    (INSIDE, "db.internal", 5432, METADATA, False),
    (INSIDE, "db.internal", 5432, "0.0.0.0", False),
    (INSIDE, PRIVATE, 5432, PRIVATE, False),
    (LITERAL, "10.1.2.3", 8000, "10.1.2.3", True),
    (LITERAL, "10.1.2.3", 8100, "10.1.2.3", True),
    (LITERAL, "10.1.2.3", 8101, "10.1.2.3", False),
    (LITERAL, "10.1.2.4", 8000, "10.1.2.4", False),
    (LITERAL, "[fd00:0::1]", 1, "fd00::1", True),
    (LITERAL, "intranet", 8000, "10.1.2.3", False),
    (Network.hosts("169.254.169.254:80"), METADATA, 80, METADATA, True),
    (WEB, "any.example.com", 80, PUBLIC, True),
    (WEB, PUBLIC, 443, PUBLIC, True),
    (WEB, PUBLIC, 8050, PUBLIC, True),
    (WEB, PUBLIC, 22, PUBLIC, False),
    *((WEB, "any.example.com", 80, bad, False) for bad in (PRIVATE, LOOPBACK, METADATA, "0.0.0.0")),
    (WEB, LOOPBACK, 80, LOOPBACK, False),
    (WEB, "localhost", 80, LOOPBACK, False),
    (LOCAL, "localhost", 8000, LOOPBACK, True),
    (LOCAL, "localhost", 8000, "::1", True),
    (LOCAL, "LOCALHOST.", 9001, LOOPBACK, True),
    (LOCAL, "127.8.9.1", 9000, "127.8.9.1", True),
    (LOCAL, "::1", 8000, "::1", True),
    (LOCAL, "localhost", 8001, LOOPBACK, False),
    (LOCAL, "localhost", 8000, PUBLIC, False),
    (LOCAL, "localhost", 8000, PRIVATE, False),
    (LOCAL, "rebind.example", 8000, LOOPBACK, False),
    (LOCAL, PUBLIC, 8000, PUBLIC, False),
    (LOCAL, "0.0.0.0", 8000, "0.0.0.0", False),
    (Network.loopback(), "localhost", 1, LOOPBACK, True),
    (Network.loopback(8000), "localhost", 8000, LOOPBACK, True),
    (Network.loopback("8000-8001"), "localhost", 8001, LOOPBACK, True),
    *((FULL, "x.example", 1, good, True) for good in (PUBLIC, PRIVATE, LOOPBACK, "fd00::1", "::1")),
    (FULL, PRIVATE, 22, PRIVATE, True),
    (FULL, METADATA, 80, METADATA, False),
    (FULL, "metadata.example", 80, METADATA, False),
    (FULL, "0.0.0.0", 80, "0.0.0.0", False),
    (FULL, "255.255.255.255", 80, "255.255.255.255", False),
    (FULL | Network.hosts("169.254.169.254:80"), METADATA, 80, METADATA, True),
    (API | LOCAL, "api.example.org", 443, PUBLIC, True),
    (API | LOCAL, "localhost", 8000, LOOPBACK, True),
    # The name of one grant and the reach of another do not add up.
    (API | Network.loopback(), "api.example.org", 443, LOOPBACK, False),
    (API | INSIDE, "api.example.org", 443, PRIVATE, False),
    (WEB | LITERAL, "any.example.com", 8000, "10.1.2.3", False),
]


def admitted(network: Network, host: str, port: int, address: str) -> bool:
    where = destination(host, port)
    try:
        grants = grants_for(network.grants, where)
        check_address(grants, where, ipaddress.ip_address(address))
    except Refused as refusal:
        return refusal.errno is not Errno.ACCES
    return True


@pytest.mark.parametrize(("network", "host", "port", "address", "may"), DECISIONS)
def test_a_grant_admits_what_it_says(
    network: Network, host: str, port: int, address: str, may: bool
) -> None:
    assert admitted(network, host, port, address) is may


@pytest.mark.parametrize(
    ("network", "host", "port"),
    [
        (Network.none(), "x.example", 443),
        (API, "secret.evil.example", 443),
        (API, "api.example.org", 53),
        (LITERAL, "x.example", 8000),
        (Network.loopback(), "secret.evil.example", 80),
    ],
)
def test_a_name_that_no_grant_names_is_not_even_looked_up(
    network: Network, host: str, port: int
) -> None:
    with pytest.raises(Refused, match=host):
        grants_for(network.grants, destination(host, port))


@given(ADDRESSES | NEAR, st.integers(1, 65535))
def test_link_local_and_reserved_addresses_need_a_grant_of_their_own(
    address: Address, port: int
) -> None:
    everything = FULL | WEB | LOCAL | INSIDE | BELOW | Network.loopback()
    if reach_of(address) in (Reach.LINK_LOCAL, Reach.RESERVED):
        for host in ("db.internal", "api.example.org", "localhost", "x.example"):
            assert not admitted(everything, host, port, str(address))


@pytest.mark.parametrize("port", [0, -1, 65536, 1 << 32])
def test_ports_are_ports(port: int) -> None:
    with pytest.raises(Refused) as caught:
        destination("example.org", port)
    assert caught.value.errno is Errno.INVAL


NO_PORTS: tuple[Any, ...] = (0, 65536, -1, True, 1.5, "", "0", "x", "1-", "2-1", "1-65536", "٣", [])


@pytest.mark.parametrize(
    ("make", "given"),
    [
        *(
            (Network.hosts, (bad,))
            for bad in (
                *("", "example.org", "example.org:", ":443", "example.org:0", "example.org:65536"),
                *("example.org:9-8", "example.org:443x", "example.org:-1", "*:443", "*.:443"),
                *("a.*.org:443", "http://example.org:443", "example.org:443/", "user@e.org:443"),
                *("bücher.example:443", "127.1:80", "0x7f.1:80", "0177.0.0.1:80", "::1:80"),
                *("2001:db8::1", "[fe80::1]:80", "[fe80::1%eth0]:80", "[::ffff:1.2.3.4]:80"),
                *("0.0.0.0:80", "[::]:80", "224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80"),
                *("localhost:80", "x.localhost:80", "*.localhost:80", "*.10.0.0.1:80", 7, None),
                b"example.org:443",
            )
        ),
        (Network.hosts, ()),
        *((make, (bad,)) for make in (Network.ports, Network.loopback) for bad in NO_PORTS),
        (Network.ports, ()),
        (Network.ports, (range(8, 1),)),
        (Network.ports, (range(1, 9, 2),)),
        (Network.ports, (None,)),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(make: Any, given: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(*given)
    assert caught.value.field.startswith("capabilities.network.")


@pytest.mark.parametrize(
    "grant",
    [
        *(None, "full", NetworkGrant("host"), NetworkGrant("full", host="a.example")),
        *(NetworkGrant("loopback", private=True), NetworkGrant("host", ((0, 1),), "a.example")),
        *(NetworkGrant("host", ANY_PORT, host) for host in ("A.example", "127.1", "[::1]", "*")),
        NetworkGrant("public", ((2, 1),)),
    ],
)
def test_a_grant_made_by_hand_is_held_to_the_same_rules(grant: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Network((grant,))
    assert caught.value.field.startswith("capabilities.network")
    with pytest.raises(ConfigurationError):
        Network(grant)
    with pytest.raises(ConfigurationError):
        _ = Network.none() | grant


def test_an_address_is_never_a_name_that_may_be_private() -> None:
    with pytest.raises(ConfigurationError):
        Network.hosts("10.0.0.1:80", private=True)


def test_grants_are_joined_once_each_and_say_what_they_are() -> None:
    joined = API | LOCAL | API | WEB | FULL | Network.none()
    assert [str(grant) for grant in joined.grants] == [
        "api.example.org:443",
        "loopback:8000,9000-9001",
        "public:80,443,8000-8100",
        "full:*",
    ]
    assert hash(joined) == hash(API | LOCAL | WEB | FULL)


# --- HTTP requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "scheme", "where", "target"),
    [
        ("http://example.org", "http", "example.org:80", "/"),
        ("https://example.org", "https", "example.org:443", "/"),
        ("HTTPS://Example.ORG:8443/A/b?c=d", "https", "example.org:8443", "/A/b?c=d"),
        ("http://example.org?q", "http", "example.org:80", "/?q"),
        ("http://example.org/@user/%2e%2e/;x=1", "http", "example.org:80", "/@user/%2e%2e/;x=1"),
        ("http://[::1]:8080/", "http", "[::1]:8080", "/"),
        ("http://127.0.0.1:1/", "http", "127.0.0.1:1", "/"),
        ("http://example.org//evil.example/", "http", "example.org:80", "//evil.example/"),
    ],
)
def test_urls(url: str, scheme: str, where: str, target: str) -> None:
    found, place, rest = parse_url(url)
    assert (found, str(place), rest) == (scheme, where, target)


@pytest.mark.parametrize(
    "url",
    [
        *("", "/", "example.org", "//example.org/", "ftp://example.org/", "file:///etc/passwd"),
        *("unix:///run/x.sock", "http+unix://x/", "http:example.org", "http:/example.org"),
        *("http://", "http:///x", "http://:80/", "http://user@example.org/", "http://u:p@e.org/"),
        *("http://example.org:0/", "http://example.org:65536/", "http://example.org:080/"),
        *("http://example.org:/", "http://example.org:8x/", "http://example.org:+80/"),
        *("http://example.org/#x", "http://example.org\\@evil.example/", "http://a b/"),
        *("http://example.org/a b", "http://example.org/\r\nHost: x", "http://example.org/\t"),
        *("http://example.org/\0", "http://example.org/ü", "http://bücher.example/"),
        *("http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/"),
        *("http://[::ffff:127.0.0.1]/", "http://[fe80::1%25eth0]/", "http://::1/", "http://[::1"),
        *("http://%31%32%37.0.0.1/", "http://example.org%00/", "http://example.org:80:80/"),
        "http://example.org/" + "x" * 9000,
    ],
)
def test_urls_that_programs_read_in_different_ways_are_refused(url: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_url(url)
    assert caught.value.errno is Errno.INVAL
    assert len(caught.value.message) < 500


@given(st.text(max_size=60) | st.from_regex(r"https?://[ -~]{0,40}", fullmatch=True))
def test_any_url_is_refused_or_says_where_it_goes(url: str) -> None:
    with suppress(Refused):
        _, where, target = parse_url(url)
        assert re.fullmatch(r"[!-~]+", target)
        assert target.startswith("/")
        assert 1 <= where.port <= 65535
        assert parse_host(str(where.host)) == where.host


def test_a_request_says_its_host_and_its_length_itself() -> None:
    request = HttpRequest("PUT", "http://Example.org:8080/x", (("Accept", "*/*"),))
    prepared = prepare(request, 3)
    assert dict(prepared.headers) == {
        "Host": "example.org:8080",
        "Connection": "close",
        "Accept": "*/*",
        "Content-Length": "3",
    }
    assert dict(prepare(HttpRequest("GET", "https://[::1]/"), 0).headers)["Host"] == "[::1]"
    assert "Content-Length" not in dict(prepare(HttpRequest("GET", "http://e.org"), 0).headers)
    assert dict(prepare(HttpRequest("POST", "http://e.org"), 0).headers)["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        *((bad, ()) for bad in ("", "get", "G ET", "GET\r\n", "CONNECT", "TRACE", "G" * 40, "ÄT")),
        *(("GET", ((name.title(), "x"),)) for name in sorted(OURS)),
        *(
            ("GET", ((name, "x"),))
            for name in ("", " ", "a b", "a:b", "a\r\nb", "a\0", "ä", ":path", "x" * 300)
        ),
        *(("GET", (("a", value),)) for value in ("\r\nHost: x", "\n", "\r", "\0", "\x7f", "ü")),
        ("GET", (("a", "x" * HEAD_LIMIT),)),
        ("GET", (("a", "x"),) * 101),
    ],
)
def test_no_header_can_be_smuggled(method: str, headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Refused) as caught:
        prepare(HttpRequest(method, "http://example.org/", headers), 0)
    assert caught.value.errno is Errno.INVAL
