"""What modules import of the caller's process: docs/host-functions.md has the rules.

Each function hands its arguments to the supervisor's side and waits. Bytes are taken out of the
guest's memory before, and put into it afterwards; no pointer of the guest's is believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from ..protocol.host_calls import IMPORT, ImportCall, MemoryAnswer, MemoryOrder, encode
from ..protocol.messages import SLOT, LentFunction
from .engines.interface import ComponentFunction, GuestMemory, GuestTrap, HostFunction
from .helpers import Helpers, component_helper, helper
from .transfer import Transfer


class GuestImports:
    """Makes the functions, and carries the calls of the guest that runs."""

    def __init__(self) -> None:
        self._transfer: Transfer | None = None
        self.helpers: Helpers = {}
        """What runs in this worker instead of the caller's process."""

    def begin(self, transfer: Transfer) -> None:
        """Make ready for the next call."""
        self._transfer = transfer

    def functions(self, lent: Iterable[LentFunction]) -> tuple[HostFunction, ...]:
        """What one module may import.

        Raises:
            EngineRefusal: a function is to run in this worker, which does not have it.
        """
        return tuple(
            HostFunction(
                module=each.module, name=each.name, type=each.type, call=partial(self._call, each)
            )
            if each.number
            else helper(self.helpers, each)
            for each in lent
        )

    def component_functions(self, lent: Iterable[LentFunction]) -> tuple[ComponentFunction, ...]:
        """What one component may import.

        Raises:
            EngineRefusal: a function is to run in this worker, which does not have it.
        """
        return tuple(
            ComponentFunction(
                interface=each.module,
                name=each.name,
                call=partial(self._call_component, each)
                if each.number
                else component_helper(self.helpers, each),
            )
            for each in lent
        )

    def _call_component(self, function: LentFunction, *values: Any) -> Any:
        transfer = self._transfer
        assert transfer is not None
        data = msgspec.msgpack.encode(values)
        if len(data) > transfer.room:
            raise _bad(function, f"was given {len(data)} bytes; at most {transfer.room} can cross")
        asked = encode(ImportCall(function.number, b""))
        _, answer = transfer.ask(IMPORT, asked, memoryview(data), transfer.room)
        return msgspec.msgpack.decode(answer)

    def _call(self, function: LentFunction, memory: GuestMemory, slots: bytes) -> bytes:
        transfer = self._transfer
        assert transfer is not None
        results, data = transfer.ask(
            IMPORT,
            encode(ImportCall(function.number, slots)),
            self._arguments(function, memory, slots, transfer.room),
            transfer.room if function.result else 0,
            partial(self._obey, function, memory),
        )
        return self._give(function, memory, bytes(data)) if function.result else results

    def _arguments(
        self, function: LentFunction, memory: GuestMemory, slots: bytes, room: int
    ) -> memoryview | None:
        if not function.buffers:
            return None
        places = function.places(slots)
        size = sum(size for _, size in places)
        if size > room:
            raise _bad(function, f"was given {size} bytes; at most {room} can cross")
        views: list[memoryview] = []
        for start, size in places:
            view = memory.view(start, size)
            if view is None:
                raise GuestTrap("memory_out_of_bounds", _outside(function, start, size))
            views.append(view)
        return views[0] if len(views) == 1 else memoryview(b"".join(views))

    def _obey(
        self, function: LentFunction, memory: GuestMemory, order: MemoryOrder, data: memoryview
    ) -> tuple[bytes, memoryview | None]:
        if order.what == "allocate":
            start, _ = self._allocate(function, memory, order.size, order.pointer)
            return encode(MemoryAnswer(memory.size, address=start)), None
        view = memory.view(order.start, order.size)
        if view is not None and order.what == "write":
            view[:] = data
        answer = MemoryAnswer(memory.size, view is not None)
        return encode(answer), view if order.what == "read" else None

    def _give(self, function: LentFunction, memory: GuestMemory, data: bytes) -> bytes:
        start, view = self._allocate(function, memory, len(data), function.pointer)
        view[:] = data
        if function.result == "packed":
            return (start << 32 | len(data)).to_bytes(SLOT, "little")
        return start.to_bytes(SLOT, "little") + len(data).to_bytes(SLOT, "little")

    def _allocate(
        self, function: LentFunction, memory: GuestMemory, size: int, pointer: str
    ) -> tuple[int, memoryview]:
        assert self._transfer is not None
        self._transfer.allocating = True
        start = memory.allocate(size, pointer)
        self._transfer.allocating = False
        view = memory.view(start, size)
        if view is None or (size and not start):
            raise _bad(function, f"got {start} from alloc({size})")
        return start, view


def _outside(function: LentFunction, start: int, size: int) -> str:
    where = f"{size} bytes at {start}, which are not all in the guest's memory"
    return f"{function.module}.{function.name} was given {where}"


def _bad(function: LentFunction, what: str) -> GuestTrap:
    return GuestTrap("bad_argument", f"{function.module}.{function.name} {what}")
