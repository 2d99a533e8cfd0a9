"""``wasi:io/poll``.

Source: WIT of ``wasi:io@0.2``.
"""

from __future__ import annotations

import math
import threading
import time
from struct import pack

from ..engines.interface import GuestTrap
from .heap import BadValue
from .network import Event, Ticket
from .offers import State, offer
from .pipes import Pollable

_POLL = "wasi:io/poll"


class Polls:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    @offer(_POLL, "[method]pollable.ready", "(borrow<pollable>) -> bool")
    def ready(self, pollable: int) -> bool:
        match self._state.objects.get(pollable, Pollable):
            case Event(find=find):
                found = find()
                return found.check() if isinstance(found, Ticket) else found
            case timer:
                return timer.at <= time.monotonic()

    @offer(_POLL, "[method]pollable.block", "(borrow<pollable>)")
    def block(self, pollable: int) -> None:
        self._wait([self._state.objects.get(pollable, Pollable)])

    @offer(_POLL, "poll", "(list<borrow<pollable>>) -> list<u32>")
    def poll(self, pollables: list[int]) -> bytes:
        if not pollables:
            raise BadValue("poll waits for nothing")
        places = self._wait([self._state.objects.get(each, Pollable) for each in pollables])
        return pack(f"<{len(places)}I", *places)

    def _wait(self, things: list[Pollable]) -> list[int]:
        """Wait until one is ready; the places of those that are."""
        first = min(thing.at for thing in things)
        while True:
            found = [thing.find() if isinstance(thing, Event) else False for thing in things]
            left = 0.0 if True in found else first - time.monotonic()
            self._sleep([each for each in found if isinstance(each, Ticket)], left)
            now = time.monotonic()
            places = [
                place
                for place, (thing, each) in enumerate(zip(things, found, strict=True))
                if (each.ended if isinstance(each, Ticket) else each) or thing.at <= now
            ]
            if places:
                return places

    def _sleep(self, tickets: list[Ticket], seconds: float) -> None:
        if tickets:
            assert self._state.network is not None
            self._state.network.wait(tickets, seconds)
        elif seconds == math.inf:
            raise BadValue("it waits for a response to a request whose body it has not finished")
        # The engine looks for an interrupt only where code loops or calls.
        elif seconds > 0 and self._state.woken.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise GuestTrap("interrupt", "interrupted while it waited")
