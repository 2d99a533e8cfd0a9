"""The buffer convention: strings and bytes in the memory of a core module (docs/engine.md).

The guest exports ``memory`` and ``alloc(size) -> ptr``, and optionally ``free(ptr, size)``. Every
pointer that it answers is checked against its memory before a byte moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...protocol.description import ExternMemory, FunctionType, ModuleDescription
from .interface import SLOT, Argument, EngineRefusal, ReturnMode, shorten
from .refusals import find_export, numeric_signature
from .views import view_memory, will_be_filled


class GuestInstance(Protocol):
    """What the convention asks of an instance."""

    def invoke(self, export: str, slots: bytes) -> bytes:
        """Call an exported function of a numeric type."""
        ...

    def memory(self) -> tuple[int, int]:
        """Address and size of the export ``memory``, valid until the guest runs again."""
        ...


class Convention:
    """How one module follows the convention for one export; checked before anything runs.

    Raises:
        EngineRefusal: ``missing_export`` or ``signature``.
    """

    def __init__(
        self,
        description: ModuleDescription,
        export: str,
        arguments: Sequence[Argument],
        returns: ReturnMode,
    ) -> None:
        self.export = export
        self.arguments = arguments
        self.function = numeric_signature(description, export)
        memory = find_export(description, "memory")
        if memory is None or not isinstance(memory.type, ExternMemory):
            raise _missing("a memory called 'memory'")
        self.pointer = "i64" if memory.type.type.is_64 else "i32"
        self.most = (1 << (64 if self.pointer == "i64" else 32)) - 1
        self._check_alloc(description)
        pointers = (self.pointer, self.pointer)
        self.frees = description.function("free") == FunctionType(pointers, ())
        self.returns = self._check_result(returns)
        self._check_arguments()

    def _check_alloc(self, description: ModuleDescription) -> None:
        if not any(not isinstance(argument, bytes) for argument in self.arguments):
            return
        alloc = description.function("alloc")
        if alloc is None:
            raise _missing("a function 'alloc'")
        wanted = FunctionType((self.pointer,), (self.pointer,))
        if alloc != wanted:
            raise EngineRefusal(
                "signature", f"'alloc' has the type {alloc}", f"it must be {wanted}"
            )

    def _check_result(self, returns: ReturnMode) -> ReturnMode:
        results = self.function.results
        fits: dict[ReturnMode, bool] = {
            "packed": results == ("i64",) and self.pointer == "i32",
            "pair": results == (self.pointer, self.pointer),
        }
        if returns == "none":
            return returns
        if returns == "buffer":
            returns = "packed" if fits["packed"] else "pair"
        if not fits[returns]:
            raise EngineRefusal(
                "signature",
                f"{shorten(self.export, 60)!r} returns ({', '.join(results)}), which is no buffer",
                f"(ptr << 32) | len as an i64, or ({self.pointer}, {self.pointer}), is one",
            )
        return returns

    def _check_arguments(self) -> None:
        given: list[str | None] = []
        for argument in self.arguments:
            given += [None] if isinstance(argument, bytes) else [self.pointer, self.pointer]
        params = self.function.params
        fits = len(given) == len(params) and all(
            have in (None, want) for have, want in zip(given, params, strict=True)
        )
        if not fits:
            shown = ", ".join(have or "number" for have in given)
            raise EngineRefusal(
                "signature",
                f"{shorten(self.export, 60)!r} takes ({', '.join(params)}), ({shown}) was given",
                "a buffer takes two parameters, its pointer and its length",
            )

    # --- at work -------------------------------------------------------------------------------

    def run(self, instance: GuestInstance, drain: Callable[[memoryview], object] | None) -> bytes:
        """Copy the arguments in, call, hand the result to ``drain``; the slots of the results.

        Raises:
            EngineRefusal: ``bad_result`` for a pointer that is outside the guest's memory.
        """
        slots: list[bytes] = []
        owned: list[tuple[int, int]] = []
        for argument in self.arguments:
            if isinstance(argument, bytes):
                slots.append(argument)
                continue
            if argument.size > self.most:
                raise EngineRefusal(
                    "memory_limit",
                    f"a buffer of {argument.size} bytes is more than the guest can address",
                    used=argument.size,
                    allowed=self.most,
                )
            start = self._number(instance.invoke("alloc", _slot(argument.size)))
            if not start and argument.size:
                raise _bad(f"alloc({argument.size}) answered 0: the guest has no memory for it")
            self._use(instance, start, argument.size, "alloc", argument.fill, fills=True)
            slots += [_slot(start), _slot(argument.size)]
            owned.append((start, argument.size))
        answer = instance.invoke(self.export, b"".join(slots))
        if self.returns != "none":
            start, size = self._buffer(answer)
            self._use(instance, start, size, self.export, drain or _ignore)
            owned.append((start, size))
        if self.frees:
            for start, size in owned:
                instance.invoke("free", _slot(start) + _slot(size))
        return answer

    def _number(self, slot: bytes) -> int:
        return int.from_bytes(slot[: 8 if self.pointer == "i64" else 4], "little")

    def _buffer(self, answer: bytes) -> tuple[int, int]:
        if self.returns == "packed":
            packed = int.from_bytes(answer[:8], "little")
            return packed >> 32, packed & 0xFFFFFFFF
        return self._number(answer[:SLOT]), self._number(answer[SLOT:])

    def _use(
        self,
        instance: GuestInstance,
        start: int,
        size: int,
        who: str,
        work: Callable[[memoryview], object],
        *,
        fills: bool = False,
    ) -> None:
        # The memory may have moved or grown: it is looked up after every call of the guest.
        address, length = instance.memory()
        if start > length or size > length - start:
            raise _bad(
                f"{shorten(who, 60)!r} answered {size} bytes at {start}, the memory has {length}"
            )
        if fills:
            will_be_filled(address + start, size)
        # Released at once: the memory may move as soon as the guest runs again.
        with view_memory(address + start, size) as view:
            work(view)


def _ignore(_: memoryview) -> None:
    pass


def _slot(value: int) -> bytes:
    return value.to_bytes(SLOT, "little")


def _bad(message: str) -> EngineRefusal:
    return EngineRefusal("bad_result", message)


def _missing(what: str) -> EngineRefusal:
    return EngineRefusal(
        "missing_export",
        f"buffers need {what} among the module's exports",
        "see the buffer convention in docs/engine.md",
    )
