"""Batches: one message, many records; see ``protocol.batch`` for how they lie and how they run.

Results go to the outward half of the arena as they come, and after each of them, or after a short
run of them, the worker says there how many are finished. So when it dies, the supervisor knows
which record it was at, and still has the results of those before.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

from ..protocol.batch import SIZES, offsets, width
from ..protocol.description import FunctionType
from ..protocol.messages import SLOT, Batch
from .engines.interface import (
    CallLimits,
    EngineRefusal,
    GuestExit,
    GuestTrap,
    Kept,
    LoadedModule,
    Measured,
    RecordLoop,
)
from .engines.refusals import numeric_signature
from .transfer import Transfer

STRIDE_SECONDS = 0.0001
"""How long a run of records in a kept instance takes, about, between two words of how many are
finished."""
_BITS = {"i32": "I12x", "i64": "Q8x", "f32": "I12x", "f64": "Q8x", "v128": "16s"}
_NOTHING = Measured()


class Batched:
    """How a batch ended: ``done`` records returned; what the next one raised, if anything."""

    __slots__ = ("done", "failure", "measured")

    def __init__(
        self,
        done: int,
        measured: Measured = _NOTHING,
        failure: EngineRefusal | GuestTrap | GuestExit | None = None,
    ) -> None:
        self.done = done
        self.measured = measured
        self.failure = failure


class Records:
    """The columns of a batch, as slots, record by record. Values keep their bits."""

    def __init__(self, function: FunctionType, count: int, results: memoryview) -> None:
        self.function = function
        self.count = count
        self.arguments = bytearray(count * width(function.params))
        self._argument_slots = struct.Struct("<" + "".join(_BITS[t] for t in function.params))
        self._result_slots = struct.Struct("<" + "".join(_BITS[t] for t in function.results))
        self._results = [
            _column(results, kind, at, count)
            for kind, at in zip(function.results, offsets(function.results, count), strict=True)
        ]

    def slots(self) -> Iterator[bytes]:
        """The arguments of each record, in order."""
        params, view = self.function.params, memoryview(self.arguments)
        if not params:
            return iter([b""] * self.count)
        columns = [
            _column(view, kind, at, self.count)
            for kind, at in zip(params, offsets(params, self.count), strict=True)
        ]
        return map(self._argument_slots.pack, *columns)

    def store(self, record: int, slots: bytes) -> None:
        """Keep the results of a record."""
        for column, value in zip(self._results, self._result_slots.unpack(slots), strict=True):
            column[record] = value


class _Vectors:
    """A column of vectors: an item is 16 bytes."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self._view[at : at + SLOT]) for at in range(0, len(self._view), SLOT))

    def __setitem__(self, record: int, value: bytes) -> None:
        self._view[record * SLOT : (record + 1) * SLOT] = value


def _column(view: memoryview, kind: str, at: int, count: int) -> memoryview | _Vectors:
    part = view[at : at + count * SIZES[kind]]
    return _Vectors(part) if kind == "v128" else part.cast("I" if SIZES[kind] == 4 else "Q")


def run(
    message: Batch,
    module: LoadedModule,
    trampoline: LoadedModule | None,
    limits: CallLimits,
    transfer: Transfer,
) -> Batched:
    """Run a batch, however it ends."""
    function = numeric_signature(module.description, message.export)
    loop = None
    if message.mode != "fresh" and trampoline is not None:
        loop = _loop(message, module, trampoline, limits)
    if loop is not None:
        try:
            transfer.fill(0, message.arguments, loop.arguments)
            if message.mode == "shared":
                return _shared(message.count, loop, transfer)
            return _in_strides(message.count, loop, function, transfer)
        finally:
            loop.close()
    records = Records(function, message.count, transfer.outward)
    transfer.fill(0, message.arguments, memoryview(records.arguments))
    if message.mode == "per-batch":
        return _kept(message, records, module, limits, transfer)
    return _fresh(message, records, module, limits, transfer)


def _loop(
    message: Batch, module: LoadedModule, trampoline: LoadedModule, limits: CallLimits
) -> RecordLoop | None:
    """A loop, or ``None``: whatever hinders it, the records are run without one, and tell."""
    try:
        return module.loop(message.export, trampoline, limits, message.count)
    except (EngineRefusal, GuestTrap):
        return None


def _shared(count: int, loop: RecordLoop, transfer: Transfer) -> Batched:
    """All records at once. One that traps is to be run again by itself: where it is the stack that
    was too short, the trampoline may have been in its way."""
    done, failure = count, None
    try:
        loop.run(0, count)
    except GuestTrap as trap:
        done = loop.position()
        failure = trap if trap.code == "interrupt" else None
    transfer.outward[: len(loop.results)] = loop.results
    return Batched(done, loop.measured(), failure)


def _in_strides(
    count: int, loop: RecordLoop, function: FunctionType, transfer: Transfer
) -> Batched:
    """Some records at a time: each time the results are handed over, and the number said."""
    columns = [
        (at, SIZES[kind])
        for kind, at in zip(function.results, offsets(function.results, count), strict=True)
    ]

    def hand_over(first: int, end: int) -> None:
        for at, size in columns:
            place = slice(at + first * size, at + end * size)
            transfer.outward[place] = loop.results[place]
        transfer.finished(end)

    first, stride = 0, 1
    while first < count:
        end = min(first + stride, count)
        started = time.perf_counter()
        try:
            loop.run(first, end)
        except GuestTrap as trap:
            hand_over(first, loop.position())
            return Batched(loop.position(), loop.measured(), trap)
        hand_over(first, end)
        took = time.perf_counter() - started
        stride = stride * 2 if took < STRIDE_SECONDS else max(stride // 2, 1)
        first = end
    return Batched(count, loop.measured())


def _kept(
    message: Batch,
    records: Records,
    module: LoadedModule,
    limits: CallLimits,
    transfer: Transfer,
) -> Batched:
    """One instance for all, called from here."""
    instance: Kept | None = None
    done = 0
    try:
        instance = module.keep(limits)
        for done, slots in enumerate(records.slots()):
            transfer.finished(done)
            records.store(done, instance.invoke(message.export, slots))
        return Batched(message.count, instance.measured())
    except (EngineRefusal, GuestTrap, GuestExit) as failure:
        return Batched(done, instance.measured() if instance else _NOTHING, failure)
    finally:
        if instance is not None:
            instance.close()


def _fresh(
    message: Batch,
    records: Records,
    module: LoadedModule,
    limits: CallLimits,
    transfer: Transfer,
) -> Batched:
    """A fresh instance for each."""
    export, call, store, finished = message.export, module.call, records.store, transfer.finished
    fuel, memory = 0, 0
    record = 0
    failure = None
    try:
        for record, slots in enumerate(records.slots()):
            finished(record)
            result = call(export, slots, limits)
            store(record, result.slots)
            measured = result.measured
            fuel += measured.fuel or 0
            memory = max(memory, measured.memory or 0)
        record = message.count
    except (EngineRefusal, GuestTrap, GuestExit) as raised:
        failure = raised
    return Batched(record, Measured(None if limits.fuel is None else fuel, memory), failure)
