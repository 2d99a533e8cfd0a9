"""``wasi:cli``, ``wasi:clocks`` and ``wasi:random``, but for the streams.

Source: WIT of the packages, version 0.2.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ..engines.clocks import MONOTONIC, REALTIME
from ..engines.interface import EngineRefusal, GuestExit
from .heap import BadValue
from .offers import State, offer
from .pipes import Pollable

RANDOM_LIMIT = 64 << 20
"""Bytes of random numbers at once, as in WASI preview 1."""
RESOLUTION = 1
"""Nanoseconds that the clocks tell apart."""
_CLOCK = "wasi:clocks/monotonic-clock"
_DATETIME = "record<seconds: u64, nanoseconds: u32>"


class System:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    # --- arguments and the end --------------------------------------------------------------------

    @offer("wasi:cli/environment", "get-environment", "() -> list<tuple<string, string>>")
    def get_environment(self) -> list[list[str]]:
        return [[name.decode(), value.decode()] for name, value in self._state.wasi.env]

    @offer("wasi:cli/environment", "get-arguments", "() -> list<string>")
    def get_arguments(self) -> list[str]:
        return [argument.decode() for argument in self._state.wasi.argv]

    @offer("wasi:cli/environment", "initial-cwd", "() -> option<string>")
    def initial_cwd(self) -> list[Any]:
        return [0, None]

    @offer("wasi:cli/exit", "exit", "(result<_, _>)")
    def exit(self, status: list[Any]) -> None:
        raise GuestExit(status[0])

    @offer("wasi:cli/exit", "exit-with-code", "(u8)")
    def exit_with_code(self, code: int) -> None:
        raise GuestExit(code)

    # --- clocks -----------------------------------------------------------------------------------

    def _now(self, clock: int) -> int:
        guest = self._state.clock
        if guest is None:
            return time.time_ns() if clock == REALTIME else time.monotonic_ns()
        now = guest.now(clock)
        assert now is not None
        return now

    @offer("wasi:clocks/wall-clock", "now", f"() -> {_DATETIME}")
    def wall_now(self) -> list[int]:
        return list(divmod(self._now(REALTIME), 1_000_000_000))

    @offer("wasi:clocks/wall-clock", "resolution", f"() -> {_DATETIME}")
    def wall_resolution(self) -> list[int]:
        return [0, RESOLUTION]

    @offer(_CLOCK, "now", "() -> u64")
    def now(self) -> int:
        return self._now(MONOTONIC)

    @offer(_CLOCK, "resolution", "() -> u64")
    def resolution(self) -> int:
        return RESOLUTION

    @offer(_CLOCK, "subscribe-instant", "(u64) -> own<pollable>")
    def subscribe_instant(self, when: int) -> int:
        # By the guest's own clock; the wait takes as long as it does.
        return self.subscribe_duration(max(0, when - self._now(MONOTONIC)))

    @offer(_CLOCK, "subscribe-duration", "(u64) -> own<pollable>")
    def subscribe_duration(self, wait: int) -> int:
        return self._state.objects.add(Pollable(time.monotonic() + wait / 1e9))

    # --- random numbers ---------------------------------------------------------------------------

    def _random(self, size: int) -> bytes:
        if size > RANDOM_LIMIT:
            raise BadValue(f"{size} random bytes at once; {RANDOM_LIMIT} are given")
        state = self._state
        if state.numbers is not None:
            return state.numbers.randbytes(size)
        if state.settings.random[0] == "none":
            raise EngineRefusal(
                "capability_denied",
                "the component asked for random numbers, and there are none",
                "grant Random.secure() or Random.seeded(...)",
            )
        return os.urandom(size)

    @offer("wasi:random/random", "get-random-bytes", "(u64) -> list<u8>")
    @offer("wasi:random/insecure", "get-insecure-random-bytes", "(u64) -> list<u8>")
    def random_bytes(self, size: int) -> bytes:
        return self._random(size)

    @offer("wasi:random/random", "get-random-u64", "() -> u64")
    @offer("wasi:random/insecure", "get-insecure-random-u64", "() -> u64")
    def random_u64(self) -> int:
        return int.from_bytes(self._random(8), "little")

    @offer("wasi:random/insecure-seed", "insecure-seed", "() -> tuple<u64, u64>")
    def insecure_seed(self) -> list[int]:
        return [self.random_u64(), self.random_u64()]
