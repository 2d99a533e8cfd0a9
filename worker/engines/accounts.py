"""The host's side of the warden: what a call may do with files goes into the state, what it did
comes out."""

from __future__ import annotations

import math
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from . import gate
from .interface import EngineRefusal, FileLimits, GuestTrap, Measured, Wasi

PREOPENED = 3
"""The descriptor of the first directory, behind stdin, stdout and stderr."""
AT_ONCE = 16 << 20
"""Bytes that one reading or writing moves at most: the engine copies them."""
BURST = 0.1
"""Seconds' worth of bytes that may be moved at once after a pause."""
UNBOUNDED = 1 << 62

_NUMBER = struct.Struct("<q")
_SMALL = struct.Struct("<i")
_GRANT = struct.Struct("<i4xqq")
_RECORD = struct.Struct("<iiqi")


class FileUse(NamedTuple):
    """What a call did with files, in bytes."""

    disk: int = 0
    read: int = 0
    written: int = 0


NO_USE = FileUse()


def over_disk(measured: Measured) -> GuestTrap:
    """What ends a call that was about to add more than it may."""
    return GuestTrap("disk_limit", "more was to be added than may be", measured=measured)


class Bucket:
    """Tokens for one direction: so many a second, and at most ``BURST`` seconds' worth of them."""

    def __init__(self) -> None:
        self.tokens = math.inf
        self._rate = 0
        self._filled = 0.0
        self._given = 0

    def fill(self, rate: int, now: float) -> int:
        """The tokens that there are now, of which ``rate`` come each second from now on."""
        gained = (now - self._filled) * self._rate
        self.tokens = min(self.tokens + gained, max(rate * BURST, 1))
        self._rate, self._filled = rate, now
        self._given = math.floor(self.tokens)
        return self._given

    def left(self, tokens: int) -> None:
        """That many of those that there were at the last filling are left, or owed."""
        self.tokens += tokens - self._given
        self._given = tokens


class FileAccount:
    """The account of the running call; rates hold from one call to the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.woken = threading.Event()
        """Ends a wait for tokens: the call is to be stopped."""
        self.wanted = 0
        """Bytes that the call wanted to add when it passed its limit; 0 where it did not."""
        self._clock = clock
        self.buckets = Bucket(), Bucket()
        self._limits = FileLimits()
        self._state: memoryview | None = None

    def attach(self, state: memoryview, wasi: Wasi) -> None:
        """Write the grants into a new state, which is all zero.

        Raises:
            EngineRefusal: ``capability_denied`` for more directories than there is room for.
        """
        if len(wasi.granted) > gate.MAX_GRANTS:
            raise EngineRefusal(
                "capability_denied", f"more than {gate.MAX_GRANTS} directories are granted"
            )
        for number, (grant, room) in enumerate(wasi.granted):
            rights = gate.MAY_CREATE * grant.create | gate.MAY_DELETE * grant.delete
            most = wasi.files.file_size
            if grant.max_file_size is not None:
                most = min(most, grant.max_file_size)
            at = gate.GRANTS + number * gate.GRANT_SIZE
            _GRANT.pack_into(state, at, rights, most, UNBOUNDED if room is None else room)
            record = gate.RECORDS + (PREOPENED + number) * gate.RECORD_SIZE
            _RECORD.pack_into(state, record, at, 0, -1, 0)
        for stream in (1, 2) if wasi.direct else ():
            record = gate.RECORDS + stream * gate.RECORD_SIZE
            _SMALL.pack_into(state, record + gate.STREAM, stream)
        _SMALL.pack_into(state, gate.OPEN, wasi.files.open_files)
        self._state, self._limits = state, wasi.files
        self._fill()

    def begin(self) -> None:
        """Make ready for the next call, on a state that is attached already."""
        if self._state is not None:
            self._collect()
            self._fill()

    def _fill(self) -> None:
        state, limits = self._state, self._limits
        assert state is not None
        self.wanted = 0
        rates = limits.io_read, limits.io_write
        for which, rate in enumerate(rates):
            tokens = self.buckets[which].fill(rate, self._clock())
            _NUMBER.pack_into(state, gate.READ_TOKENS + 8 * which, tokens)
            _NUMBER.pack_into(state, gate.READ + 8 * which, 0)
            at_once = min(max(int(rate * BURST), 1), AT_ONCE)
            _SMALL.pack_into(state, gate.READ_SIZE + 4 * which, at_once)
        _NUMBER.pack_into(state, gate.DISK, limits.disk)

    @property
    def open_files(self) -> int:
        """How many descriptors the guest has opened and not closed."""
        if self._state is None:
            return 0
        left: int = _SMALL.unpack_from(self._state, gate.OPEN)[0]
        return self._limits.open_files - left

    def use(self) -> FileUse:
        """What the call has done so far."""
        state = self._state
        if state is None:
            return NO_USE
        left, read, written = (
            _NUMBER.unpack_from(state, at)[0] for at in (gate.DISK, gate.READ, gate.WRITTEN)
        )
        return FileUse(self._limits.disk - left + self.wanted, read, written)

    def detach(self) -> None:
        """The state is about to be freed: keep nothing of it but debts."""
        self._collect()
        self._state = None
        self.wanted = 0

    # --- what the warden calls -------------------------------------------------------------------

    def pace(self, which: int) -> None:
        """Wait until there are bytes to read (0) or to write (1), or until woken."""
        state = self._state
        assert state is not None
        bucket = self.buckets[which]
        self._collect()
        rate = (self._limits.io_read, self._limits.io_write)[which]
        while (tokens := bucket.fill(rate, self._clock())) <= 0:
            if self.woken.wait(min((1 - bucket.tokens) / rate, threading.TIMEOUT_MAX)):
                break
        _NUMBER.pack_into(state, gate.READ_TOKENS + 8 * which, tokens)

    def exceeded(self) -> None:
        """Note by how much the call passes its limit."""
        state = self._state
        assert state is not None
        self.wanted = _NUMBER.unpack_from(state, gate.WANTED)[0]

    def _collect(self) -> None:
        if self._state is not None:
            for which, bucket in enumerate(self.buckets):
                at = gate.READ_TOKENS + 8 * which
                bucket.left(_NUMBER.unpack_from(self._state, at)[0])
