"""Host functions, as the engine's C interface calls them."""

from __future__ import annotations

import ctypes
import itertools
from typing import TYPE_CHECKING

from ..interface import SLOT, GuestTrap, HostFunction
from .library import EXTERN_FUNCTION, Extern, HostCallback

if TYPE_CHECKING:
    from .store import Shared

_KINDS = {"i32": 0, "i64": 1, "f32": 2, "f64": 3}


class _Trapped(Exception):
    """The guest trapped while a host function let it run; the engine's trap is the argument."""


class CallerMemory:
    """See ``interface.GuestMemory``."""

    def __init__(self, shared: Shared, caller: int, alloc: str) -> None:
        self._shared = shared
        self._caller = caller
        self._alloc = alloc

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        memory = self._shared.host.memory_of(self._caller)
        return 0 if memory is None else memory[1]

    def view(self, start: int, size: int) -> memoryview | None:
        """A writable view, or ``None`` where it is not inside."""
        return self._shared.host.target(self._caller, start, size)

    def allocate(self, size: int, pointer: str) -> int:
        """The address that the guest's ``alloc`` answers."""
        library, extern = self._shared.library, Extern()
        place = ctypes.addressof(extern)
        found = library.caller_export_get(self._caller, b"alloc", 5, place)
        if not found or extern.kind != EXTERN_FUNCTION or self._kind(extern) != pointer:
            raise GuestTrap(
                "bad_argument",
                f"the guest exports no function alloc ({pointer}) -> ({pointer}), "
                "or is not made yet",
            )
        values = ctypes.create_string_buffer(size.to_bytes(SLOT, "little"), SLOT)
        trap = (ctypes.c_void_p * 1)()
        error = library.call_unchecked(
            library.caller_context(self._caller),
            place + Extern.of.offset,
            ctypes.addressof(values),
            1,
            ctypes.addressof(trap),
        )
        if error:  # a callback of ours ended it, and left word of why
            raise _Trapped(self._shared.host.trap(library.take_error(error).encode()))
        if trap[0]:
            raise _Trapped(trap[0])
        return int.from_bytes(values.raw[: 8 if pointer == "i64" else 4], "little")

    def _kind(self, extern: Extern) -> str | None:
        """The pointers of a function ``alloc``. Called with another type it would break the
        engine: so it has to be one whose type is known."""
        known = self._shared.allocators
        return self._alloc if known is None else known.get(extern.of[1])


class Lent:
    """Host functions that a linker can be given: the engine's callback for all of them is one.

    A callback of its own for each would be code that is made while guests run, which the jail does
    not allow.
    """

    def __init__(self, lender: Lender, functions: tuple[HostFunction, ...], alloc: str) -> None:
        self._lender = lender
        self._functions = {lender.add(function, alloc): function for function in functions}
        self.offered = {(f.module, f.name): f.type for f in functions}

    def define(self, linker: int) -> None:
        """Put them all in a linker."""
        for number, function in self._functions.items():
            self._lender.define(linker, number, function)

    def close(self) -> None:
        """Forget them: nothing may call them any more."""
        for number in self._functions:
            self._lender.remove(number)


class Lender:
    """The host functions of one worker, and the callback that the engine knows them by."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._callback = HostCallback(self._call)
        self._functions: dict[int, tuple[HostFunction, str]] = {}
        self._numbers = itertools.count(1)

    def lend(self, functions: tuple[HostFunction, ...], alloc: str = "") -> Lent:
        """``functions``, for guests whose ``alloc``, if it has one, has pointers of this type."""
        return Lent(self, functions, alloc)

    def add(self, function: HostFunction, alloc: str) -> int:
        """Take a function; its number."""
        number = next(self._numbers)
        self._functions[number] = function, alloc
        return number

    def remove(self, number: int) -> None:
        """Forget a function."""
        del self._functions[number]

    def define(self, linker: int, number: int, function: HostFunction) -> None:
        """Put a function in a linker."""
        self._shared.host.define(
            linker,
            function.module.encode(),
            function.name.encode(),
            [_KINDS[kind] for kind in function.type.params],
            [_KINDS[kind] for kind in function.type.results],
            self._callback,
            number,
        )

    def _call(self, number: int, caller: int, values: int, _count: int) -> int | None:
        host = self._shared.host
        try:
            if host.error is None:
                function, alloc = self._functions[number]
                memory = CallerMemory(self._shared, caller, alloc)
                given = ctypes.string_at(values, SLOT * len(function.type.params))
                results = function.call(memory, given)
                ctypes.memmove(values, results, SLOT * len(function.type.results))
                return None
        except _Trapped as trapped:
            trap: int = trapped.args[0]
            return trap
        except BaseException as error:  # it cannot pass through the guest: the call raises it
            host.error = error
        return host.trap(b"a host function failed")
