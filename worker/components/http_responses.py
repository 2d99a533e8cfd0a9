"""What comes back for a request of ``wasi:http/outgoing-handler``.

Source: WIT of ``wasi:http@0.2``.
"""

from __future__ import annotations

from typing import Any

from ...protocol.host_calls import HttpRequest, ReadHead
from .http_errors import ERROR_CODE, TYPES, error_code_of, failed
from .http_fields import FieldSet
from .network import Event, Incoming, Link, Network, Ticket
from .offers import State, offer
from .pipes import Failed, Pollable

HEAD_ROOM = 1 << 17
"""Bytes: more than the supervisor's side lets the head of a response have."""
_REFUSED: list[Any] = [1, None]
_NOT_YET: list[Any] = [0, None]
_TAKEN: list[Any] = [1, [1, None]]
"""``some(err)``: it was given out before."""
_FUTURE, _RESPONSE, _BODY = "future-incoming-response", "incoming-response", "incoming-body"
_TRAILERS = "future-trailers"


class Future:
    """``future-incoming-response``.

    Args:
        request: but for its body, with which ``begin`` sends it.
        between: seconds that may pass between bytes of the response's body; 0 is as many as the
            supervisor's side allows.
    """

    def __init__(self, network: Network, request: HttpRequest, between: float) -> None:
        self._network = network
        self._request = request
        self._between = between
        self._ticket: Ticket | None = None
        self._failure: list[Any] | None = None
        self._given = False
        self._dropped = False

    def begin(self, body: bytes) -> None:
        """Send the request."""
        if not self._dropped:
            self._ticket = self._network.begin(self._request, body or None)

    def fail(self, code: list[Any]) -> None:
        """There will be no response, for a reason of the guest's own."""
        self._failure = code

    def find(self) -> Ticket | bool:
        """What has to end for the response, or the error, to be there."""
        if self._given or self._failure is not None:
            return True
        if self._ticket is None:
            return False
        return self._ticket.ended or self._ticket

    def get(self, state: State) -> list[Any]:
        """``option<result<result<incoming-response, error-code>>>``."""
        if self._given:
            return _TAKEN
        if self._failure is None:
            if self._ticket is None or not self._ticket.check():
                return _NOT_YET
            answer, _ = self._ticket.collect()
            if answer.errno:
                self._failure = error_code_of(answer)
            else:
                link = Link(self._network, answer.value, failed, self._between)
                answer, head = self._network.ask(ReadHead(answer.value), room=HEAD_ROOM)
                if not answer.errno:
                    self._given = True
                    response = Response(self._network, link, head)
                    return [1, [0, [0, state.objects.add(response)]]]
                self._failure = error_code_of(answer)
        self._given = True
        return [1, [0, [1, self._failure]]]

    def release(self) -> None:
        """It was dropped, and its request with it."""
        self._dropped = True
        if self._ticket is not None and not self._given:
            self._ticket.abandon()


class Response:
    """``incoming-response``."""

    def __init__(self, network: Network, link: Link, head: bytes) -> None:
        status, *lines = head.split(b"\n")
        entries = [line.partition(b": ") for line in lines if line]
        self.status = int(status[:3])
        self.headers = FieldSet(
            network,
            [(name.decode("latin-1"), value) for name, _, value in entries],
            mutable=False,
        )
        self.link = link.use()
        self.consumed = False

    def release(self) -> None:
        """It was dropped."""
        self.link.release()


class Body:
    """``incoming-body``."""

    def __init__(self, link: Link) -> None:
        self.link = link.use()
        self.streamed = False

    def release(self) -> None:
        """It was dropped, or is finished."""
        self.link.release()


class Trailers:
    """``future-trailers``. There are none: the supervisor's side does not hand them on."""

    def __init__(self) -> None:
        self.given = False


class Responses:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    @offer(TYPES, f"[method]{_FUTURE}.subscribe", f"(borrow<{_FUTURE}>) -> own<pollable>")
    def subscribe(self, future: int) -> int:
        return self._state.objects.add(Event(self._state.objects.get(future, Future).find))

    @offer(
        TYPES,
        f"[method]{_FUTURE}.get",
        f"(borrow<{_FUTURE}>) -> option<result<result<own<{_RESPONSE}>, {ERROR_CODE}>, _>>",
    )
    def get(self, future: int) -> list[Any]:
        return self._state.objects.get(future, Future).get(self._state)

    @offer(TYPES, "http-error-code", f"(borrow<error>) -> option<{ERROR_CODE}>")
    def http_error_code(self, error: int) -> list[Any]:
        return self._state.objects.get(error, Failed).code(TYPES)

    # --- responses --------------------------------------------------------------------------------

    @offer(TYPES, f"[method]{_RESPONSE}.status", f"(borrow<{_RESPONSE}>) -> u16")
    def status(self, response: int) -> int:
        return self._state.objects.get(response, Response).status

    @offer(TYPES, f"[method]{_RESPONSE}.headers", f"(borrow<{_RESPONSE}>) -> own<fields>")
    def headers(self, response: int) -> int:
        return self._state.objects.add(self._state.objects.get(response, Response).headers)

    @offer(
        TYPES, f"[method]{_RESPONSE}.consume", f"(borrow<{_RESPONSE}>) -> result<own<{_BODY}>, _>"
    )
    def consume(self, response: int) -> list[Any]:
        found = self._state.objects.get(response, Response)
        if found.consumed:
            return _REFUSED
        found.consumed = True
        return [0, self._state.objects.add(Body(found.link))]

    # --- their bodies -----------------------------------------------------------------------------

    @offer(TYPES, f"[method]{_BODY}.stream", f"(borrow<{_BODY}>) -> result<own<input-stream>, _>")
    def stream(self, body: int) -> list[Any]:
        found = self._state.objects.get(body, Body)
        if found.streamed:
            return _REFUSED
        found.streamed = True
        return [0, self._state.objects.add(Incoming(found.link))]

    @offer(TYPES, f"[static]{_BODY}.finish", f"(own<{_BODY}>) -> own<{_TRAILERS}>")
    def finish(self, body: int) -> int:
        self._state.objects.get(body, Body)
        self._state.objects.drop(body)
        return self._state.objects.add(Trailers())

    @offer(TYPES, f"[method]{_TRAILERS}.subscribe", f"(borrow<{_TRAILERS}>) -> own<pollable>")
    def subscribe_trailers(self, trailers: int) -> int:
        self._state.objects.get(trailers, Trailers)
        return self._state.objects.add(Pollable())

    @offer(
        TYPES,
        f"[method]{_TRAILERS}.get",
        f"(borrow<{_TRAILERS}>) -> option<result<result<option<own<fields>>, {ERROR_CODE}>, _>>",
    )
    def get_trailers(self, trailers: int) -> list[Any]:
        found = self._state.objects.get(trailers, Trailers)
        if found.given:
            return _TAKEN
        found.given = True
        return [1, [0, [0, [0, None]]]]
