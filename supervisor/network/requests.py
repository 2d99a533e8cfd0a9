"""A guest's HTTP request, checked: what of it may be said on the wire. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...protocol.host_calls import Cause, Errno, HttpRequest
from .policy import Destination, Refused, destination

_URL = re.compile(r"(https?)://([^/?]*)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([1-9]\d{0,4}))?")
_VISIBLE = re.compile(r"[!-~]*")
_METHOD = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # a token (RFC 9110, 5.6.2)
_VALUE = re.compile(r"[\t -~]*")
_NOT_IN_URLS = frozenset('#\\"<>^`{|}')
"""What must be escaped in URLs (RFC 3986), and fragments, which are not sent."""
URL_LIMIT = 8192
"""Characters of a URL."""
HEAD_LIMIT = 1 << 16
"""Bytes of the head of a request, and of a response."""
HEADERS_LIMIT = 100
OURS = frozenset(
    {"host", "content-length", "connection", "keep-alive", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "expect", "proxy-connection", "proxy-authorization", "http2-settings"}
)
"""Headers that say where a message goes and where it ends: never the guest's."""
_NO_METHODS = frozenset({"CONNECT", "TRACE"})
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be sent as it stands."""

    method: str
    where: Destination
    tls: bool
    target: str
    """Path and query."""
    headers: tuple[tuple[str, str], ...]
    """Complete, ``Host`` first."""


def prepare(request: HttpRequest, body: int) -> Prepared:
    """Check a request that has a body of ``body`` bytes.

    Raises:
        Refused: ``INVAL``; the message says what is wrong.
    """
    if not _METHOD.fullmatch(request.method) or request.method in _NO_METHODS:
        raise _bad(f"bad method {request.method[:40]!r}", Cause.METHOD)
    scheme, where, target = parse_url(request.url)
    host = str(where)
    if where.port == PORTS[scheme]:
        host = host.rpartition(":")[0]
    headers = [("Host", host), ("Connection", "close")]
    if len(request.headers) > HEADERS_LIMIT:
        raise _bad(f"more than {HEADERS_LIMIT} headers", Cause.HEADERS)
    for name, value in request.headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _bad(f"bad header {name[:40]!r}", Cause.HEADERS)
        if name.lower() in OURS:
            raise _bad(f"the header {name!r} cannot be chosen", Cause.HEADERS)
        headers.append((name, value.strip()))
    if body or request.method in ("POST", "PUT", "PATCH"):
        headers.append(("Content-Length", str(body)))
    if sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_LIMIT:
        raise _bad(f"headers of more than {HEAD_LIMIT} bytes", Cause.HEADERS)
    return Prepared(request.method, where, scheme == "https", target, tuple(headers))


def parse_url(url: str) -> tuple[str, Destination, str]:
    """(scheme, destination, path and query) of an absolute URL.

    Raises:
        Refused: ``INVAL``; it is none, or one that programs read in different ways.
    """
    if len(url) > URL_LIMIT:
        raise _bad(f"a URL of more than {URL_LIMIT} characters")
    if not _VISIBLE.fullmatch(url) or not _NOT_IN_URLS.isdisjoint(url):
        raise _bad(f"bad character in the URL {url[:80]!r}")
    found = _URL.fullmatch(url)
    authority = _AUTHORITY.fullmatch(found[2]) if found else None
    if found is None or authority is None:
        raise _bad(f"bad URL {url[:80]!r}: write http://host/path or https://host:port/path")
    scheme = found[1].lower()
    where = destination(authority[1], int(authority[2] or PORTS[scheme]))
    return scheme, where, (found[3] or "/") + (found[4] or "")


def _bad(message: str, cause: Cause = Cause.URL) -> Refused:
    return Refused(Errno.INVAL, message, cause)
