"""The memory of the guest that waits for a host function, as that function sees it."""

from __future__ import annotations

import inspect
import operator
import threading
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .protocol.errors import (
    ConfigurationError,
    MissingExport,
    PoolError,
    SignatureMismatch,
    Trap,
)
from .protocol.host_calls import MemoryAnswer, MemoryOrder
from .protocol.limits import check_number

if TYPE_CHECKING:
    from .supervisor.reach import Found, Reach

Pointer = Literal["i32", "i64"]
Answered = tuple[MemoryAnswer, bytes]
_BITS: dict[Pointer, int] = {"i32": 32, "i64": 64}


@dataclass(frozen=True, slots=True)
class _Orders:
    """Makes orders of what a function asks for, where they can be."""

    reach: Reach
    pointer: Pointer
    allocates: bool

    def read(self, pointer: int, size: int) -> Found:
        check_number("memory.read.size", size, 0, self.reach.room, whole=True)
        return self.reach.ask(MemoryOrder("read", self._place(pointer), size))

    def write(self, pointer: int, data: Any) -> Found:
        view = memoryview(data)
        check_number("memory.write.data", view.nbytes, 0, self.reach.room, whole=True)
        return self.reach.ask(MemoryOrder("write", self._place(pointer), view.nbytes), bytes(view))

    def allocate(self, size: int) -> Found:
        check_number("memory.allocate.size", size, 0, (1 << _BITS[self.pointer]) - 1, whole=True)
        if not self.allocates:
            raise MissingExport(
                f"the module exports no function alloc ({self.pointer}) -> ({self.pointer})"
            )
        return self.reach.ask(MemoryOrder("allocate", 0, size, self.pointer))

    def size(self) -> Found:
        return self.reach.ask(MemoryOrder("read"))

    def _place(self, pointer: int) -> int:
        number, bits = operator.index(pointer), _BITS[self.pointer]
        start = number + (1 << bits) if -(1 << (bits - 1)) <= number < 0 else number
        if not 0 <= start < 1 << bits:
            raise Trap("memory_out_of_bounds", f"{number} is no address of {bits} bits")
        return start


class GuestMemory:
    """The export ``memory`` of the guest that waits for a plain host function, which asks for it by
    ``*, memory: GuestMemory``.

    Addresses are in bytes, and unsigned; a negative one, as a pointer of the guest's may come, is
    taken for the unsigned one of the same bits. At most 4 MiB cross at once. Accesses from several
    threads take turns.

    Raises:
        Trap: ``memory_out_of_bounds``: not all of the place is in the memory. Nothing is read or
            written, and the function may go on.
        ConfigurationError: a size that is negative, or more than can cross.
        PoolError: the function's call is over: it returned, or its call ended.
    """

    def __init__(self, orders: _Orders) -> None:
        self._orders = orders

    def read(self, pointer: int, size: int) -> bytes:
        """A copy of ``size`` bytes, 0 to 4 MiB."""
        return self._now(self._orders.read, pointer, size)[1]

    def write(self, pointer: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes there, at most 4 MiB: all of them or none."""
        self._now(self._orders.write, pointer, data)

    def allocate(self, size: int) -> int:
        """Have the guest's export ``alloc(size) -> pointer`` make room; where, unsigned. The room
        is the guest's from then on.

        Where that traps, calls a host function or answers what it may not, the call ends.

        Raises:
            MissingExport: the module has none.
        """
        return self._now(self._orders.allocate, size)[0].address

    @property
    def size(self) -> int:
        """Bytes that the memory has now."""
        return self._now(self._orders.size)[0].size

    def _now(self, order: Callable[..., Found], *values: Any) -> Answered:
        if threading.get_ident() == self._orders.reach.thread:
            raise PoolError(
                "the pool's own thread cannot wait for the guest's memory",
                "use it in the thread that the function was called in",
            )
        return order(*values).result()


class AsyncGuestMemory:
    """The same for a coroutine function, which asks for it by ``*, memory: AsyncGuestMemory``: what
    ``GuestMemory`` does, awaited."""

    def __init__(self, orders: _Orders, wait: Callable[[Found], Awaitable[Answered]]) -> None:
        self._orders = orders
        self._wait = wait

    async def read(self, pointer: int, size: int) -> bytes:
        """A copy of ``size`` bytes, 0 to 4 MiB."""
        return (await self._wait(self._orders.read(pointer, size)))[1]

    async def write(self, pointer: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes there, at most 4 MiB: all of them or none."""
        await self._wait(self._orders.write(pointer, data))

    async def allocate(self, size: int) -> int:
        """Have the guest's ``alloc`` make room; where, unsigned."""
        return (await self._wait(self._orders.allocate(size)))[0].address

    async def size(self) -> int:
        """Bytes that the memory has now."""
        return (await self._wait(self._orders.size()))[0].size


@dataclass(frozen=True)
class WantsMemory:
    """That a function asks for the memory of its guest, and what is known of that."""

    kind: type[GuestMemory | AsyncGuestMemory]
    pointer: Pointer
    allocates: bool

    def check(self, name: str, *, is_async: bool, direct: bool) -> None:
        """Refuse a function for ``name`` that could not use what it asks for.

        Raises:
            ConfigurationError: it is called in the pool's thread.
            SignatureMismatch: it asks for what functions of the other kind get.
        """
        if direct:
            raise ConfigurationError(
                "HostFunction.direct",
                direct,
                f"the function for {name} would wait for its guest's memory in the pool's thread",
                "leave it out",
            )
        kind, fits = ("coroutine", AsyncGuestMemory) if is_async else ("plain", GuestMemory)
        if self.kind is not fits:
            raise SignatureMismatch(
                f"the host function for {name} is a {kind} function, and asks for "
                f"{self.kind.__name__}",
                f"declare it as `*, memory: {fits.__name__}`",
            )

    def make(
        self, reach: Reach, wait: Callable[[Found], Awaitable[Answered]]
    ) -> GuestMemory | AsyncGuestMemory:
        """What one call of the function gets."""
        orders = _Orders(reach, self.pointer, self.allocates)
        return GuestMemory(orders) if self.kind is GuestMemory else AsyncGuestMemory(orders, wait)


def memory_asked(signature: inspect.Signature) -> type[GuestMemory | AsyncGuestMemory] | None:
    """What a function with this signature asks for, if anything.

    Raises:
        SignatureMismatch: it asks in another way than the one that there is.
    """
    for parameter in signature.parameters.values():
        for each in (parameter.annotation, *typing.get_args(parameter.annotation)):
            if each is GuestMemory or each is AsyncGuestMemory:
                if parameter.name == "memory" and parameter.kind is parameter.KEYWORD_ONLY:
                    return each
                raise SignatureMismatch(
                    f"the guest's memory cannot be given as the parameter {parameter.name}",
                    f"declare it as `*, memory: {each.__name__}`",
                )
    return None
