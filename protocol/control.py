"""The control channel: fixed records from the supervisor to a thread of the worker that is never in
wasm.

It stops a running guest (the thread moves the engine's epoch) and takes calls back that were not
begun.
"""

from __future__ import annotations

import struct
from enum import IntEnum

_RECORD = struct.Struct("<BQ")
RECORD_SIZE = _RECORD.size


class Control(IntEnum):
    """What a record asks for."""

    INTERRUPT = 1
    """Stop call N: trap it if it runs, skip it if it has not begun; it is answered by
    ``Failed``."""
    RECALL = 2
    """Send what is finished, and give back the calls up to N that were not begun, by
    ``Recalled``."""


def pack(control: Control, call: int) -> bytes:
    """One record."""
    return _RECORD.pack(control, call)


def unpack(record: bytes) -> tuple[Control, int]:
    """What ``pack`` packed."""
    control, call = _RECORD.unpack(record)
    return Control(control), call
