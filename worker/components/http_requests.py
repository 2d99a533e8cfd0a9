"""``wasi:http/outgoing-handler``, and what requests are made of.

A request's body is gathered here and sent with it, when it is finished.

Source: WIT of ``wasi:http@0.2``.
"""

from __future__ import annotations

import re
from typing import Any

from ...protocol.host_calls import HttpRequest
from .http_errors import ERROR_CODE, TYPES, error_code, error_code_of
from .http_fields import FieldSet
from .http_responses import Future
from .network import NO_NETWORK, Network, Share, seconds
from .offers import State, offer
from .pipes import Failed, Sink, StreamError

BODY_LIMIT = 4 << 20
"""Bytes of a request's body."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_METHOD = f"variant<{', '.join(name.lower() for name in _METHODS)}, other(string)>"
_SCHEMES = ("http", "https")
_SCHEME = "variant<HTTP, HTTPS, other(string)>"
_HTTPS: list[Any] = [1, None]
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_TARGET = re.compile(r"(?:[/?][!-~]*)?")
_AUTHORITY = re.compile(r"[!-.0-~]{1,512}")
_SCHEME_NAME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")
_OK: list[Any] = [0, None]
_REFUSED: list[Any] = [1, None]
_NONE: list[Any] = [0, None]
_ON = "outgoing-request"
_TIMES = "request-options"


class Body:
    """``outgoing-body``.

    Args:
        declared: the length that the headers give it.
    """

    def __init__(self, network: Network | None, declared: int | None) -> None:
        self._share = None if network is None else Share(network)
        self._data = bytearray()
        self._declared = declared
        self.streamed = False
        """Whether its stream was taken."""
        self.finished = False
        self.future: Future | None = None
        """The response to its request, once that was handed over."""

    def write(self, data: bytes) -> bool:
        """Add to it."""
        if self.finished:
            return False
        if len(self._data) + len(data) > BODY_LIMIT:
            code = error_code("HTTP-request-body-size", [1, BODY_LIMIT])
            message = f"a request's body can have {BODY_LIMIT} bytes"
            raise StreamError(Failed(message, TYPES, code))
        if self._share is not None:
            self._share.resize(len(self._data) + len(data))
        self._data += data
        return True

    def finish(self) -> list[Any]:
        """It is all there: ``result<_, error-code>``."""
        self.finished = True
        if self._declared is not None and self._declared != len(self._data):
            code = error_code("HTTP-request-body-size", [1, len(self._data)])
            if self.future is not None:
                self.future.fail(code)
            return [1, code]
        if self.future is not None:
            self.send(self.future)
        return _OK

    def send(self, future: Future) -> None:
        """Send the request of ``future`` with it, or when it is finished."""
        self.future = future
        if self.finished:
            future.begin(bytes(self._data))
            self._data.clear()
            if self._share is not None:
                self._share.resize(0)

    def release(self) -> None:
        """It was dropped. A body that is not finished is none."""
        if not self.finished:
            self.finished = True
            if self.future is not None:
                self.future.fail(error_code("HTTP-protocol-error"))


class BodyStream(Sink):
    """The ``output-stream`` of a body."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def write(self, data: bytes) -> bool:
        """Add to the body."""
        return self._body.write(data)


class Outgoing:
    """``outgoing-request``."""

    def __init__(self, headers: FieldSet) -> None:
        self.headers = headers
        self.method: list[Any] = [0, None]
        self.target: str | None = None
        self.scheme: list[Any] | None = None
        self.authority: str | None = None
        self.body: Body | None = None

    def request(self, options: Options) -> HttpRequest:
        """What is sent but for the body, over a scheme that can be spoken."""
        case: int = self.method[0]
        chosen: int = (self.scheme or _HTTPS)[0]
        return HttpRequest(
            self.method[1] if case == len(_METHODS) else _METHODS[case],
            f"{_SCHEMES[chosen]}://{self.authority or ''}{self.target or '/'}",
            tuple((name, value.decode()) for name, value in self.headers.without("content-length")),
            seconds(options.times[0]),
            seconds(options.times[1]),
        )

    def declared(self) -> int | None:
        """The length that its headers give the body.

        Raises:
            ValueError: it is none.
        """
        given = {value.strip() for value in self.headers.get("content-length")}
        if not given:
            return None
        (value,) = given
        if not value.isdigit() or len(value) > 15:
            raise ValueError
        return int(value)


class Options:
    """``request-options``: nanoseconds to connect, to the first byte, and between bytes."""

    def __init__(self) -> None:
        self.times: list[int | None] = [None, None, None]


class Requests:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    def _get(self, request: int) -> Outgoing:
        return self._state.objects.get(request, Outgoing)

    @offer(
        "wasi:http/outgoing-handler",
        "handle",
        "(own<outgoing-request>, option<own<request-options>>) -> "
        f"result<own<future-incoming-response>, {ERROR_CODE}>",
    )
    def handle(self, number: int, given: list[Any]) -> list[Any]:
        objects, network = self._state.objects, self._state.network
        outgoing = objects.take(number, Outgoing)
        options = objects.take(given[1], Options) if given[0] else Options()
        if network is None:
            return [1, error_code_of(NO_NETWORK)]
        if outgoing.scheme is not None and outgoing.scheme[0] >= len(_SCHEMES):
            return [1, error_code("HTTP-request-URI-invalid")]
        future = Future(network, outgoing.request(options), seconds(options.times[2]))
        if outgoing.body is None:
            future.begin(b"")
        else:
            outgoing.body.send(future)
        return [0, objects.add(future)]

    # --- requests ---------------------------------------------------------------------------------

    @offer(TYPES, f"[constructor]{_ON}", f"(own<fields>) -> own<{_ON}>")
    def outgoing_request(self, headers: int) -> int:
        fields = self._state.objects.take(headers, FieldSet)
        fields.mutable = False
        return self._state.objects.add(Outgoing(fields))

    @offer(TYPES, f"[method]{_ON}.body", f"(borrow<{_ON}>) -> result<own<outgoing-body>, _>")
    def body(self, request: int) -> list[Any]:
        outgoing = self._get(request)
        try:
            declared = outgoing.declared()
        except ValueError:
            return _REFUSED
        if outgoing.body is not None:
            return _REFUSED
        outgoing.body = Body(self._state.network, declared)
        return [0, self._state.objects.add(outgoing.body)]

    @offer(TYPES, f"[method]{_ON}.method", f"(borrow<{_ON}>) -> {_METHOD}")
    def method(self, request: int) -> list[Any]:
        return self._get(request).method

    @offer(TYPES, f"[method]{_ON}.set-method", f"(borrow<{_ON}>, {_METHOD}) -> result<_, _>")
    def set_method(self, request: int, method: list[Any]) -> list[Any]:
        if method[0] == len(_METHODS) and not _TOKEN.fullmatch(method[1]):
            return _REFUSED
        self._get(request).method = method
        return _OK

    @offer(TYPES, f"[method]{_ON}.path-with-query", f"(borrow<{_ON}>) -> option<string>")
    def path_with_query(self, request: int) -> list[Any]:
        return _option(self._get(request).target)

    @offer(
        TYPES,
        f"[method]{_ON}.set-path-with-query",
        f"(borrow<{_ON}>, option<string>) -> result<_, _>",
    )
    def set_path_with_query(self, request: int, target: list[Any]) -> list[Any]:
        if target[0] and not _TARGET.fullmatch(target[1]):
            return _REFUSED
        self._get(request).target = target[1]
        return _OK

    @offer(TYPES, f"[method]{_ON}.scheme", f"(borrow<{_ON}>) -> option<{_SCHEME}>")
    def scheme(self, request: int) -> list[Any]:
        return _option(self._get(request).scheme)

    @offer(
        TYPES, f"[method]{_ON}.set-scheme", f"(borrow<{_ON}>, option<{_SCHEME}>) -> result<_, _>"
    )
    def set_scheme(self, request: int, scheme: list[Any]) -> list[Any]:
        given = scheme[1]
        if scheme[0] and given[0] == len(_SCHEMES) and not _SCHEME_NAME.fullmatch(given[1]):
            return _REFUSED
        self._get(request).scheme = given
        return _OK

    @offer(TYPES, f"[method]{_ON}.authority", f"(borrow<{_ON}>) -> option<string>")
    def authority(self, request: int) -> list[Any]:
        return _option(self._get(request).authority)

    @offer(
        TYPES, f"[method]{_ON}.set-authority", f"(borrow<{_ON}>, option<string>) -> result<_, _>"
    )
    def set_authority(self, request: int, authority: list[Any]) -> list[Any]:
        if authority[0] and not _AUTHORITY.fullmatch(authority[1]):
            return _REFUSED
        self._get(request).authority = authority[1]
        return _OK

    @offer(TYPES, f"[method]{_ON}.headers", f"(borrow<{_ON}>) -> own<fields>")
    def headers(self, request: int) -> int:
        return self._state.objects.add(self._get(request).headers)

    # --- their bodies -----------------------------------------------------------------------------

    @offer(
        TYPES,
        "[method]outgoing-body.write",
        "(borrow<outgoing-body>) -> result<own<output-stream>, _>",
    )
    def write(self, body: int) -> list[Any]:
        found = self._state.objects.get(body, Body)
        if found.streamed:
            return _REFUSED
        found.streamed = True
        return [0, self._state.objects.add(BodyStream(found))]

    @offer(
        TYPES,
        "[static]outgoing-body.finish",
        f"(own<outgoing-body>, option<own<fields>>) -> result<_, {ERROR_CODE}>",
    )
    def finish(self, body: int, trailers: list[Any]) -> list[Any]:
        if trailers[0] and self._state.objects.take(trailers[1], FieldSet).entries:
            self._state.objects.drop(body)
            return [1, error_code("HTTP-request-trailer-section-size", [1, 0])]
        return self._state.objects.take(body, Body).finish()

    # --- how long they may take -------------------------------------------------------------------

    @offer(TYPES, f"[constructor]{_TIMES}", f"() -> own<{_TIMES}>")
    def request_options(self) -> int:
        return self._state.objects.add(Options())

    def _time(self, options: int, place: int) -> list[Any]:
        return _option(self._state.objects.get(options, Options).times[place])

    def _set_time(self, options: int, place: int, duration: list[Any]) -> list[Any]:
        self._state.objects.get(options, Options).times[place] = duration[1]
        return _OK

    @offer(TYPES, f"[method]{_TIMES}.connect-timeout", f"(borrow<{_TIMES}>) -> option<u64>")
    def connect_timeout(self, options: int) -> list[Any]:
        return self._time(options, 0)

    @offer(TYPES, f"[method]{_TIMES}.first-byte-timeout", f"(borrow<{_TIMES}>) -> option<u64>")
    def first_byte_timeout(self, options: int) -> list[Any]:
        return self._time(options, 1)

    @offer(TYPES, f"[method]{_TIMES}.between-bytes-timeout", f"(borrow<{_TIMES}>) -> option<u64>")
    def between_bytes_timeout(self, options: int) -> list[Any]:
        return self._time(options, 2)

    @offer(
        TYPES,
        f"[method]{_TIMES}.set-connect-timeout",
        f"(borrow<{_TIMES}>, option<u64>) -> result<_, _>",
    )
    def set_connect_timeout(self, options: int, duration: list[Any]) -> list[Any]:
        return self._set_time(options, 0, duration)

    @offer(
        TYPES,
        f"[method]{_TIMES}.set-first-byte-timeout",
        f"(borrow<{_TIMES}>, option<u64>) -> result<_, _>",
    )
    def set_first_byte_timeout(self, options: int, duration: list[Any]) -> list[Any]:
        return self._set_time(options, 1, duration)

    @offer(
        TYPES,
        f"[method]{_TIMES}.set-between-bytes-timeout",
        f"(borrow<{_TIMES}>, option<u64>) -> result<_, _>",
    )
    def set_between_bytes_timeout(self, options: int, duration: list[Any]) -> list[Any]:
        return self._set_time(options, 2, duration)


def _option(value: Any) -> list[Any]:
    return _NONE if value is None else [1, value]
