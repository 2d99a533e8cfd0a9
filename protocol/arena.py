"""The arena's layout: one sealed shared memory per worker, for what is too large for a frame.

    0 .. 4096           status page: what the worker publishes of itself while it may not talk
    4096 .. +half       inward: the supervisor writes, the worker reads
    +half .. end        outward: the worker writes, the supervisor copies out before it looks

Each half has two banks. A buffer that is larger than one crosses in pieces, by turns in the one and
in the other, so that one side fills a bank while the other side empties its neighbour.

A worker in the guest's hands can write all of it at any time: the status page is evidence about
that worker's own calls, and never more.
"""

from __future__ import annotations

import struct

STATUS_SIZE = 4096
DEFAULT_SIZE = STATUS_SIZE + (8 << 20)

BANKS = 2

_STATUS = struct.Struct("<QQQ")
_FINISHED = struct.Struct("<Q")
_FINISHED_AT = 16


def halves(size: int) -> tuple[int, int, int]:
    """(offset of the inward half, offset of the outward half, bytes of each)."""
    half = (size - STATUS_SIZE) // 2
    return STATUS_SIZE, STATUS_SIZE + half, half


def bank(half: int, number: int) -> tuple[int, int]:
    """(offset within a half of ``half`` bytes, size) of the bank for a buffer's piece
    ``number``."""
    size = half // BANKS
    return number % BANKS * size, size


def publish_begun(view: memoryview, call: int, cpu_nanoseconds: int) -> None:
    """Say that ``call`` is begun, and what the processor clock of the worker showed then."""
    _STATUS.pack_into(view, 0, call, cpu_nanoseconds, 0)


def publish_finished(view: memoryview, records: int) -> None:
    """Say that so many records of the batch that was begun are finished, with their results in the
    outward half, and that the next one is begun."""
    _FINISHED.pack_into(view, _FINISHED_AT, records)


def read_begun(view: memoryview) -> tuple[int, int]:
    """(the last call that was begun, the worker's processor time then, in nanoseconds)."""
    call, cpu, _ = _STATUS.unpack_from(view, 0)
    return call, cpu


def read_finished(view: memoryview, call: int, count: int) -> int:
    """How many records of the batch ``call`` are finished, of ``count``."""
    begun, _, finished = _STATUS.unpack_from(view, 0)
    return min(finished, count) if begun == call else 0
