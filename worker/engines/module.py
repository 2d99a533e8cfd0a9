"""What is the same for every engine once it can make a fresh instance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from ...protocol.description import ExternMemory, FunctionType, ModuleDescription
from ..binary_exports import growing
from .buffers import Convention
from .gate import GUARDED
from .interface import (
    SLOT,
    Argument,
    CallLimits,
    CallResult,
    CommandResult,
    EngineRefusal,
    GuestExit,
    LoadedModule,
    Measured,
    RecordLoop,
    ReturnMode,
    Wasi,
)
from .limits import Caps, caps
from .refusals import Offered, find_export, numeric_signature, refused_imports, wrong_slots

_PLAIN = FunctionType((), ())


class FreshInstance(ABC):
    """An instance in a store of its own, started and under its limits."""

    @abstractmethod
    def invoke(self, export: str, slots: bytes) -> bytes:
        """Call an exported function of a numeric type that was checked before."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Address and size of the export ``memory``, valid until the guest runs again."""

    @abstractmethod
    def measured(self) -> Measured:
        """What it has cost so far."""

    @abstractmethod
    def close(self) -> None:
        """Free it."""


class Module(ABC):
    """A loaded module; see ``interface.LoadedModule`` for the contract of each method."""

    def __init__(self, description: ModuleDescription, offered: Offered) -> None:
        self.description = description
        self.offered = offered
        self.growing = growing(description)
        """The memories and tables whose size can change, each with an export to ask it by."""
        self.initializes = description.function("_initialize") == _PLAIN
        """Whether it is a reactor that wants ``_initialize`` called first (WASI application
        ABI)."""
        self._caps: dict[tuple[int, int], Caps] = {}
        self._signatures: dict[str, FunctionType] = {}

    @abstractmethod
    def open(self, limits: CallLimits, caps: Caps, wasi: Wasi | None) -> FreshInstance:
        """A fresh instance.

        Raises:
            EngineRefusal, GuestTrap, GuestExit: and then nothing is left of it.
        """

    @abstractmethod
    def close(self) -> None:
        """Free it."""

    @abstractmethod
    def prepare(self) -> None:
        """Link the imports."""

    def needs_gate(self, functions: Iterable[str], wasi: Wasi) -> bool:
        """Whether an instance that gets these functions of WASI needs the gate before it, and the
        warden behind it.

        Raises:
            EngineRefusal: ``unsupported_module`` where the warden could not share its memory.
        """
        given = GUARDED.intersection(functions)
        direct = wasi.direct and "fd_write" in given and not self.description.start
        if not given or not (wasi.granted or direct):
            return False
        memory = find_export(self.description, "memory")
        if memory is not None and isinstance(memory.type, ExternMemory) and memory.type.type.is_64:
            if not wasi.granted:
                return False
            raise EngineRefusal(
                "unsupported_module",
                "a module with a 64-bit memory cannot be granted directories",
                "build it for wasm32-wasip1",
            )
        return True

    def caps(self, limits: CallLimits) -> Caps:
        """What the store limiter is told for ``limits``; worked out once for each pair of them."""
        key = (limits.memory, limits.table_elements)
        found = self._caps.get(key)
        if found is None:
            found = self._caps[key] = caps(self.description, *key)
        return found

    def signature(self, export: str) -> FunctionType:
        """The type of an exported function, all of whose values can cross the wall.

        Raises:
            EngineRefusal: ``missing_export`` or ``signature``.
        """
        found = self._signatures.get(export)
        if found is None:
            found = self._signatures[export] = numeric_signature(self.description, export)
        return found

    def check_slots(self, export: str, slots: bytes) -> FunctionType:
        """The same, once ``slots`` has one for each parameter.

        Raises:
            EngineRefusal: ``missing_export`` or ``signature``.
        """
        function = self.signature(export)
        if len(slots) != SLOT * len(function.params):
            raise wrong_slots(export, function, len(slots))
        return function

    def check_imports(self) -> None:
        """Refuse imports that nothing here offers, or not with that type.

        Raises:
            EngineRefusal: ``missing_import`` or ``signature``.
        """
        refusal = refused_imports(self.description, self.offered)
        if refusal is not None:
            raise refusal

    def call(
        self, export: str, slots: bytes, limits: CallLimits, wasi: Wasi | None = None
    ) -> CallResult:
        """Call ``export`` in a fresh instance."""
        self.check_slots(export, slots)
        return self._within(
            limits, wasi, lambda instance: instance.invoke(export, slots), first=export
        )

    def call_buffers(
        self,
        export: str,
        arguments: Sequence[Argument],
        limits: CallLimits,
        *,
        returns: ReturnMode = "none",
        drain: Callable[[memoryview], object] | None = None,
        wasi: Wasi | None = None,
    ) -> CallResult:
        """Call ``export`` in a fresh instance, with buffers in its memory."""
        convention = Convention(self.description, export, arguments, returns)
        return self._within(
            limits, wasi, lambda instance: convention.run(instance, drain), first=export
        )

    def run_command(self, wasi: Wasi, limits: CallLimits) -> CommandResult:
        """Run ``_start`` in a fresh instance."""
        if self.description.function("_start") != _PLAIN:
            raise EngineRefusal(
                "missing_export",
                "the module is no command: it exports no function '_start' without parameters",
                "call one of its exports instead",
            )
        try:
            done = self._within(
                limits, wasi, lambda instance: instance.invoke("_start", b""), first="_start"
            )
        except GuestExit as end:
            return CommandResult(end.code, end.measured)
        return CommandResult(0, done.measured)

    def keep(self, limits: CallLimits) -> FreshInstance:
        """An instance of a module that imports nothing."""
        instance = self.open(limits, self.caps(limits), None)
        try:
            if self.initializes:
                instance.invoke("_initialize", b"")
        except BaseException:
            instance.close()
            raise
        return instance

    def loop(
        self, export: str, trampoline: LoadedModule, limits: CallLimits, count: int
    ) -> RecordLoop:
        """An instance with a trampoline before it, where the engine can have one."""
        raise EngineRefusal("unsupported_module", "this engine runs no trampolines")

    def _within(
        self,
        limits: CallLimits,
        wasi: Wasi | None,
        work: Callable[[FreshInstance], bytes],
        *,
        first: str,
    ) -> CallResult:
        instance = self.open(limits, self.caps(limits), wasi)
        try:
            if self.initializes and first not in ("_initialize", "_start"):
                instance.invoke("_initialize", b"")
            slots = work(instance)
            return CallResult(slots, instance.measured())
        finally:
            instance.close()
