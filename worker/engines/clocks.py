"""Clocks that are not the machine's: one that stands still, one that has no date.

A guest can learn the time in two ways: it can ask, and it can wait until a time and see how long
that took. So waiting is answered here, too, where the clock is not the real one. A time to wait
until is taken by the guest's own clock, and the wait itself takes as long as it does.

Source of the layouts: WASI preview 1 (witx, ``subscription`` and ``event``).
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable

REALTIME, MONOTONIC = 0, 1
CLOCKS = 4
"""Realtime, monotonic, and the processor time of the process and of the thread; the engine has none
of the last two."""
SUBSCRIPTION_SIZE, EVENT_SIZE = 48, 32
MAX_SUBSCRIPTIONS = 4096
"""Of one waiting: many more than a guest can have descriptors."""

_SUBSCRIPTION = struct.Struct("<QB7x")
_TIMEOUT = struct.Struct("<IxxxxQQH")
_EVENT = struct.Struct("<QHB5xQH6x")
_ABSOLUTE = 1
_CLOCK = 0


class GuestClock:
    """What one worker's guests see of time, where it is not the machine's clocks.

    Args:
        kind: ``frozen``, all clocks stand at ``at``; or ``monotonic_only``, only the realtime one
            does, and the monotonic one counts from the beginning of the worker.
        at: seconds since 1970.
        woken: ends a wait: the call is to be stopped.
        clock: nanoseconds, from anywhere, that never go back.
    """

    def __init__(
        self,
        kind: str,
        at: float,
        woken: threading.Event,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._frozen = kind == "frozen"
        self._at = int(at * 1e9)
        self._woken = woken
        self._clock = clock
        self._began = clock()

    def now(self, clock: int) -> int | None:
        """Nanoseconds by one of the ``CLOCKS``, if there is such here."""
        if self._frozen or clock == REALTIME:
            return self._at if clock < CLOCKS else None
        return self._clock() - self._began if clock == MONOTONIC else None

    def wait(self, subscriptions: bytes) -> bytes | None:
        """Wait for the first of the subscriptions; the events that came. ``None`` where one of them
        is not as it must be.

        Files and standard streams are ready at once, as far as anybody can tell.
        """
        ready: list[bytes] = []
        timeouts: list[tuple[int, int]] = []
        for at in range(0, len(subscriptions), SUBSCRIPTION_SIZE):
            userdata, kind = _SUBSCRIPTION.unpack_from(subscriptions, at)
            if kind != _CLOCK:
                if kind > 2:
                    return None
                ready.append(_EVENT.pack(userdata, 0, kind, 1, 0))
                continue
            clock, timeout, _, flags = _TIMEOUT.unpack_from(subscriptions, at + 16)
            now = self.now(clock)
            if now is None:
                return None
            if flags & _ABSOLUTE:
                timeout = max(0, timeout - now)
            timeouts.append((timeout, userdata))
        if not ready:
            first = min(timeouts, default=(0, 0))[0]
            self._woken.wait(min(first / 1e9, threading.TIMEOUT_MAX))
            ready = [_EVENT.pack(user, 0, _CLOCK, 0, 0) for wait, user in timeouts if wait <= first]
        return b"".join(ready)
