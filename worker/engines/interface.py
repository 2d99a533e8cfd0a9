"""What a worker asks of an engine, and what an engine answers.

Values cross as *slots*: 16 bytes for each value, little-endian, the value in the low bytes. The
bytes of a result's slot above its type are unspecified. NaN payloads survive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ...protocol.capabilities import Grant
from ...protocol.description import FunctionType, ModuleDescription
from ...protocol.host_calls import NetworkAnswer, NetworkRequest
from ...protocol.messages import FROM_HOST as FROM_HOST
from ...protocol.messages import FROM_WASI as FROM_WASI

SLOT = 16
"""Bytes of a value."""

MESSAGE_LIMIT = 500
"""Characters of an engine's message that are passed on: guests choose parts of them."""

WASI_MODULE = "wasi_snapshot_preview1"
"""The module name under which core modules import WASI preview 1."""


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Measured(msgspec.Struct, frozen=True):
    """What an engine knows of a call's cost, however it ended."""

    fuel: int | None = None
    """Units burnt; ``None`` where the engine does not meter."""
    memory: int | None = None
    """Bytes of linear memory at the end, which is the peak, for memories never shrink. ``None``
    where there is no instance yet."""
    disk: int = 0
    """Bytes added to writable directories."""
    bytes_read: int = 0
    """Bytes read from files."""
    bytes_written: int = 0
    """Bytes written to files."""


class EngineRefusal(Exception):
    """The engine, or we before it, will not do this. ``kind`` is one of
    ``protocol.failures.KINDS``."""

    def __init__(
        self,
        kind: str,
        message: str,
        hint: str = "",
        *,
        used: int | None = None,
        allowed: int | None = None,
    ) -> None:
        super().__init__(kind, message, hint)
        self.kind = kind
        self.message = shorten(message)
        self.hint = hint
        self.used = used
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class Frame(msgspec.Struct, frozen=True):
    """One call on the guest's stack, innermost first."""

    function: int
    """Index in the module's function index space."""
    name: str | None
    """From the module's name section, at most 200 characters; ``None`` where it says nothing."""
    offset: int | None
    """Byte offset in the module's binary."""


class GuestTrap(Exception):
    """The guest trapped; its store is gone (in a session: its state stands as it was left)."""

    def __init__(
        self,
        code: str,
        message: str,
        backtrace: tuple[Frame, ...] = (),
        measured: Measured = Measured(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(code, message)
        self.code = code
        """``unreachable``, ``integer_division_by_zero``, ``out_of_fuel``, ``interrupt``, …"""
        self.message = shorten(message)
        self.backtrace = backtrace
        self.measured = measured

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class GuestExit(Exception):
    """The guest called ``proc_exit``."""

    def __init__(self, code: int, measured: Measured = Measured()) -> None:  # noqa: B008 - frozen
        super().__init__(code)
        self.code = code
        """Any unsigned 32-bit number."""
        self.measured = measured


class CompileSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact is compiled for; a worker runs artifacts of its own settings only."""

    fuel: bool = False
    """Whether the code counts fuel."""


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker's engine is made for."""

    fuel: bool = False
    """Whether artifacts count fuel; as in ``CompileSettings``."""
    memory: int = 256 << 20
    """Bytes of linear memory that any call may ask for."""
    table_elements: int = 1_000_000
    """Table elements that any call may ask for."""
    stack: int = 512 << 10
    """Bytes of stack for guests; bounded by the thread's own stack."""
    stateful: bool = False
    """Whether it is for a session: many instances for as long as it lives, so nothing is pooled."""
    clock: tuple[str, float] = ("real", 0.0)
    """``("real", _)``, ``("frozen", seconds since 1970)`` or ``("monotonic_only", seconds)``: see
    ``clocks.py``."""
    random: tuple[str, int] = ("secure", 0)
    """``("secure", _)``, ``("seeded", seed)`` or ``("none", _)``."""


class CallLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may use."""

    memory: int
    """Bytes, summed over all memories and the GC heap of the instance."""
    table_elements: int
    """Elements, summed over all tables of the instance."""
    fuel: int | None = None
    """Units; needs an engine that meters. ``None`` is unmetered."""
    output: int = 16 << 20
    """Bytes that a component's result may take, as it crosses."""


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What all instances of one session may use together."""

    memory: int
    table_elements: int
    shares: int = 1
    """Into how many equal shares the sums are divided at the least: no memory and no table gets
    more than one, so that the first instance leaves something for later ones. Without shares it is
    first come, first served."""


class Compiled(msgspec.Struct, frozen=True):
    """A module that passed the compiler."""

    description: ModuleDescription
    artifact: bytes | bytearray
    seconds: float
    """Wall time of validation and compilation."""


class CallResult(msgspec.Struct, frozen=True):
    """A call that returned."""

    slots: bytes
    measured: Measured


class CommandResult(msgspec.Struct, frozen=True):
    """A command that ended by itself, by returning (0) or through ``proc_exit``."""

    exit_code: int
    measured: Measured


class BufferArgument(msgspec.Struct, frozen=True, kw_only=True):
    """An argument that goes into the guest's memory, as a pointer and a length."""

    size: int
    fill: Callable[[memoryview], object]
    """Called once with a writable view of ``size`` bytes; must not keep it."""


Argument = bytes | BufferArgument
"""One slot of 16 bytes, or a buffer, which takes two parameters."""

ReturnMode = Literal["none", "packed", "pair", "buffer"]
"""How a call hands back a buffer: not at all; ``(ptr << 32) | len`` as one i64; as two results; or
whichever of the two the function's type says."""


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a call may do in the directories that it is granted; see ``protocol.limits``."""

    disk: int = 256 << 20
    file_size: int = 64 << 20
    open_files: int = 64
    io_read: int = 1 << 30
    io_write: int = 256 << 20


class AskNetwork(Protocol):
    """Has the supervisor's side carry out a request, and waits for it."""

    def __call__(
        self, request: NetworkRequest, data: memoryview | None = None, room: int = 0
    ) -> tuple[NetworkAnswer, memoryview]:
        """The answer and the bytes beside it, at most ``room``, which are to be copied at once.

        Raises:
            GuestTrap: the guest must not go on, because the call is being stopped.
        """
        ...


class Wasi(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest that imports WASI gets. Default: nothing."""

    argv: Sequence[bytes] = ()
    env: Sequence[tuple[bytes, bytes]] = ()
    stdin: bytes | str | None = None
    """The bytes, or a path to open (``/dev/fd/7``); ``None`` is at its end at once."""
    directories: Sequence[Grant] = ()
    scratch: Sequence[tuple[Grant, int]] = ()
    """Further directories, and the bytes that may be added to each of them."""
    files: FileLimits = FileLimits()
    on_output: Callable[[int, bytes], bool] | None = None
    """Called with 1 (stdout) or 2 (stderr) and at most a few KiB. Where it returns false, the
    guest's write fails with ``ENOSPC``. What it raises ends the call. ``None`` swallows all
    output."""
    network: AskNetwork | None = None
    """How a component reaches the network; ``None``: not at all."""

    direct: bool = False
    """Whether the guest's output is taken as it writes it, in pieces of 64 KiB. It needs the gate
    (``gate.py``), and is of use for commands only."""

    @property
    def granted(self) -> list[tuple[Grant, int | None]]:
        """All directories in the order of their descriptors; a scratch directory with its size."""
        return [*((grant, None) for grant in self.directories), *self.scratch]


NO_WASI = Wasi()


class GuestMemory(Protocol):
    """The memory of the guest that called a host function: its export ``memory``."""

    @property
    def size(self) -> int:
        """Bytes that it has now; 0 where there is none."""
        ...

    def view(self, start: int, size: int) -> memoryview | None:
        """A writable view, valid until the guest runs again; ``None`` where it is not inside."""
        ...

    def allocate(self, size: int, pointer: str) -> int:
        """Have the guest's export ``alloc``, of type ``(pointer) -> (pointer)``, make room; the
        address that it answers, unsigned and not checked.

        Raises:
            GuestTrap: it exports none of that type. Where it traps, that trap ends the call.
        """
        ...


class HostFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function that guests may import, and that is not the engine's."""

    module: str
    name: str
    type: FunctionType
    """Of numbers only, and no vectors."""
    call: Callable[[GuestMemory, bytes], bytes]
    """Gets the slots of the arguments, and gives those of the results. What it raises ends the
    call: a ``GuestTrap`` as the guest's own."""


class ComponentFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function that components may import, and that is not the engine's."""

    interface: str
    """``""`` where the world itself imports it."""
    name: str
    call: Callable[..., Any]
    """Takes wire values (``components/codec.py``), one for each parameter, and gives one. What it
    raises ends the call: a ``GuestTrap`` as the guest's own."""


class Kept(Protocol):
    """One instance of a module that imports nothing, to be called again and again."""

    def invoke(self, export: str, slots: bytes) -> bytes:
        """Call an exported function.

        Raises:
            GuestTrap: what the function did to the instance stands.
        """
        ...

    def measured(self) -> Measured:
        """What it has cost so far."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class RecordLoop(Protocol):
    """One instance, and the trampoline that calls a function of it for one record after another.

    The views are of the trampoline's memory: columns of arguments to be filled, columns of results
    to be read. They must not be used once it is closed.
    """

    arguments: memoryview
    results: memoryview

    def run(self, first: int, end: int) -> None:
        """Call the function for the records from ``first`` to before ``end``.

        Raises:
            GuestTrap: in the record ``position()``; those before it are done. The trampoline is not
                in its backtrace.
        """
        ...

    def position(self) -> int:
        """The record that was begun last."""
        ...

    def measured(self) -> Measured:
        """What it has cost so far."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class LoadedModule(Protocol):
    """A module that is ready to run, again and again, each time in a fresh instance."""

    description: ModuleDescription

    def prepare(self) -> None:
        """Link the imports.

        Raises:
            EngineRefusal: ``missing_import``, naming every import that nothing here offers, or
                ``signature``, naming the first that is of another type here.
        """
        ...

    def call(
        self, export: str, slots: bytes, limits: CallLimits, wasi: Wasi | None = None
    ) -> CallResult:
        """Call ``export`` in a fresh instance, after ``_initialize`` where that is exported.

        Raises:
            EngineRefusal: ``missing_export``, ``signature``, ``memory_limit``, ``table_limit``.
            GuestTrap: also where the start function trapped.
            GuestExit: the guest called ``proc_exit``.
        """
        ...

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
        """Like ``call``, with buffers in the guest's memory; see docs/engine.md for the convention.

        ``drain`` is called once with a view of the result's bytes, which it must not keep.

        Raises:
            EngineRefusal: as ``call``, and ``bad_result`` for a pointer outside the guest's memory.
        """
        ...

    def run_command(self, wasi: Wasi, limits: CallLimits) -> CommandResult:
        """Run ``_start`` in a fresh instance.

        Raises:
            EngineRefusal: as ``call``; a directory or an argument that cannot be given.
            GuestTrap: it trapped.
        """
        ...

    def keep(self, limits: CallLimits) -> Kept:
        """An instance of a module that imports nothing, after ``_initialize`` where that is
        exported.

        Raises:
            EngineRefusal, GuestTrap: as ``call``.
        """
        ...

    def loop(
        self, export: str, trampoline: LoadedModule, limits: CallLimits, count: int
    ) -> RecordLoop:
        """An instance with a trampoline (``protocol.trampoline``) of its export's type before it.

        Raises:
            EngineRefusal: the instance cannot be made, or not with a trampoline.
            GuestTrap: as ``call``.
        """
        ...

    def close(self) -> None:
        """Free it. Must not be used afterwards."""
        ...


class Session(Protocol):
    """Instances that live on in one store and may import from each other."""

    def instantiate(
        self,
        module: LoadedModule,
        bindings: Sequence[tuple[int, str]] | None,
        *,
        fuel: int | None = None,
    ) -> int:
        """A new instance's number. ``bindings``: (instance, export) for each import, in order;
        ``None``: the host gives what it offers to fresh instances, too, and ``_initialize`` is
        called where that is exported.

        Raises:
            EngineRefusal: ``unlinkable`` where a binding does not fit; ``missing_import`` or
                ``signature`` where the host's offer does not; limits.
            GuestTrap: the start function or a segment trapped. What it did to others stands.
        """
        ...

    def measured(self, instance: int) -> Measured:
        """What the last call has cost; the memory is that of ``instance``."""
        ...

    def invoke(
        self, instance: int, export: str, slots: bytes, *, fuel: int | None = None
    ) -> CallResult:
        """Call an exported function. A trap leaves the session alive."""
        ...

    def invoke_buffers(
        self,
        instance: int,
        export: str,
        arguments: Sequence[Argument],
        *,
        returns: ReturnMode = "none",
        drain: Callable[[memoryview], object] | None = None,
        fuel: int | None = None,
    ) -> CallResult:
        """Like ``invoke``, with buffers, as ``LoadedModule.call_buffers``. Where it fails, what was
        allocated for the arguments is not freed."""
        ...

    def read_memory(
        self,
        instance: int,
        export: str,
        start: int,
        length: int,
        drain: Callable[[memoryview], object],
    ) -> None:
        """Call ``drain`` once with a view of ``length`` bytes of an exported memory, or of as many
        as there are from ``start`` on. It must not keep it."""
        ...

    def write_memory(self, instance: int, export: str, start: int, content: BufferArgument) -> None:
        """Put bytes into an exported memory from ``start`` on.

        Raises:
            GuestTrap: ``memory_out_of_bounds``: they would not all lie in it. Nothing is written.
        """
        ...

    def read_global(self, instance: int, export: str) -> bytes:
        """The slot of an exported numeric global."""
        ...

    def freeze(
        self,
        instance: int,
        source: bytes | bytearray,
        most: int,
        drain: Callable[[memoryview], object],
    ) -> None:
        """Hand a module whose instances begin as ``instance`` is now to ``drain``, piece by piece.
        ``source`` is what its own module was made of.

        Raises:
            EngineRefusal: ``module_limit`` where it has more than ``most`` bytes;
                ``unsupported_module`` where not all of the state can be carried over.
            GuestTrap: it was interrupted.
        """
        ...

    def close(self) -> None:
        """Free all instances."""
        ...


class Engine(Protocol):
    """One worker's engine. All but ``interrupt`` and ``increment_epoch`` belong to one thread."""

    name: str
    """Engine and version."""
    raw_path: bool
    """Whether calls go through the engine's raw C interface."""
    note: str
    """Why not; empty where they do."""

    def load(
        self,
        path: str,
        description: ModuleDescription,
        functions: tuple[HostFunction, ...] = (),
        component_functions: tuple[ComponentFunction, ...] = (),
    ) -> LoadedModule:
        """Take the artifact at ``path``; maps the file, so all who load it share its pages.
        ``functions`` are what this module alone may import; a component has the others.

        The artifact must be one that ``compile_module`` made with the same settings: an engine runs
        whatever a forged one says. The file must never be changed in place.

        Raises:
            EngineRefusal: ``invalid_module``: it is no artifact of this engine and these settings.
        """
        ...

    def guard(self, gate: str, warden: str) -> None:
        """Take the artifacts of the gate and of the warden (``gate.py``), before any guest that is
        granted directories runs; without them it is refused.

        Raises:
            EngineRefusal: ``invalid_module``, as for ``load``.
        """
        ...

    def session(self, limits: SessionLimits, wasi: Wasi = NO_WASI) -> Session:
        """A new store for instances that live on."""
        ...

    def arm(self) -> None:
        """Forget an interrupt that hit nothing. Call it before the next call may be interrupted."""
        ...

    def interrupt(self) -> None:
        """From any thread: stop the running call, or the next one if it has not yet begun to
        run."""
        ...

    def increment_epoch(self) -> None:
        """From any thread: stop whatever runs now (trap ``interrupt``)."""
        ...

    def close(self) -> None:
        """Free it, after everything that was made from it."""
        ...
