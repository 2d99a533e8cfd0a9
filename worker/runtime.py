"""Messages in, engine calls out: what the loop asks of whichever engine the profile names."""

from __future__ import annotations

from collections.abc import Callable

from ..protocol.batch import width
from ..protocol.description import FunctionType, ModuleDescription
from ..protocol.messages import (
    SLOT,
    Batch,
    Call,
    Command,
    Failure,
    Freeze,
    Instantiate,
    Invoke,
    LentFunction,
    ReadGlobal,
    ReadMemory,
    Task,
    WriteMemory,
)
from ..protocol.profile import Profile
from . import batches
from .engines import wasmtime as engine_package
from .engines.interface import (
    WASI_MODULE,
    Argument,
    BufferArgument,
    CallLimits,
    Compiled,
    CompileSettings,
    Engine,
    EngineRefusal,
    FileLimits,
    GuestExit,
    GuestTrap,
    LoadedModule,
    Measured,
    RunSettings,
    Session,
    SessionLimits,
    Wasi,
)
from .helpers import FAILED, Helpers
from .imports import GuestImports
from .network import GuestNetwork
from .scratch import empty
from .stdin import Stdin
from .transfer import STDIN, Transfer

_NOTHING = Measured()
_NO_TYPE = FunctionType((), ())

SESSION_SHARES = 16
"""Equal shares of a stateful worker's memory: what one instance cannot take from the others. One
whose start trapped lives on in what it filled, unmeasured, and keeps its share."""


class Result:
    """How a call ended; ``failure`` is ``None`` where it returned."""

    __slots__ = ("exit_code", "failure", "measured", "slots")

    def __init__(
        self,
        slots: bytes = b"",
        measured: Measured = _NOTHING,
        exit_code: int | None = None,
        failure: Failure | None = None,
    ) -> None:
        self.slots = slots
        self.measured = measured
        self.exit_code = exit_code
        self.failure = failure


class Runtime:
    """An engine, its modules by number, and the profile's grants."""

    def __init__(self, profile: Profile, raw_path_fault: str) -> None:
        self._network = GuestNetwork()
        self._imports = GuestImports()
        self.engine: Engine = engine_package.open_engine(
            RunSettings(
                fuel=profile.metered,
                memory=profile.memory,
                table_elements=profile.table_elements,
                stack=profile.stack,
                clock=profile.clock,
                random=profile.random,
                stateful=profile.stateful,
            ),
            raw_path_fault,
            self._network.functions(),
        )
        self._profile = profile
        self._files = FileLimits(
            disk=profile.disk,
            file_size=profile.file_size,
            open_files=profile.open_files,
            io_read=profile.io_read,
            io_write=profile.io_write,
        )
        self._scratch = [(each.grant, each.size) for each in profile.scratch]
        self._modules: dict[int, LoadedModule | EngineRefusal] = {}
        self._needs_wasi: set[int] = set()
        self._guarded = False
        self._limits: dict[tuple[int, int, int | None, int], CallLimits] = {}
        self._session: Session | None = None
        """Of a stateful worker, from its first instance on."""
        self._instances: dict[int, int] = {}

    def take_helpers(self, helpers: Helpers) -> None:
        """Have functions of the program's run in this worker, for the modules that import them."""
        self._imports.helpers = helpers

    def load(
        self,
        number: int,
        descriptor: int,
        description: ModuleDescription,
        lent: tuple[LentFunction, ...] = (),
        *,
        companion: bool = False,
    ) -> Failure | None:
        """Map an artifact. What is refused here is refused again to each call that names it.

        A ``companion`` is linked to what it is run with, each time.
        """
        try:
            path, imports = f"/proc/self/fd/{descriptor}", self._imports
            if description.component is None:
                module = self.engine.load(path, description, imports.functions(lent))
            else:
                module = self.engine.load(path, description, (), imports.component_functions(lent))
            if not self._profile.stateful and not companion:
                module.prepare()
        except EngineRefusal as refusal:
            self._modules[number] = refusal
            return _refused(refusal)
        self._modules[number] = module
        if description.component is not None or any(
            needed.module == WASI_MODULE for needed in description.imports
        ):
            self._needs_wasi.add(number)
        return None

    def guard(self, gate: int, warden: int) -> None:
        """Map what stands between guests and their directories.

        Raises:
            EngineRefusal: it is not that; the worker must not go on.
        """
        self.engine.guard(f"/proc/self/fd/{gate}", f"/proc/self/fd/{warden}")
        self._guarded = True

    def unload(self, number: int) -> None:
        """Forget a module."""
        module = self._modules.pop(number)
        self._needs_wasi.discard(number)
        if not isinstance(module, EngineRefusal):
            module.close()

    def run(self, message: Task, transfer: Transfer, stdin: int) -> Result:
        """Carry out a call, however it ends."""
        try:
            return self._carry_out(message, transfer, stdin)
        finally:
            if not self._profile.stateful:
                for scratch, _ in self._scratch:
                    empty(scratch.path)

    def _carry_out(self, message: Task, transfer: Transfer, stdin: int) -> Result:
        self._network.begin(transfer)
        self._imports.begin(transfer)
        try:
            match message:
                case Call(command=None):
                    return self._call(message, transfer)
                case Call():
                    return self._command(message, transfer, stdin)
                case _:
                    return self._in_session(message, transfer)
        except EngineRefusal as refusal:
            return Result(failure=_refused(refusal))
        except GuestTrap as trap:
            return Result(measured=trap.measured, failure=self._trapped(trap, message))
        except GuestExit as end:
            failure = Failure("exit", f"exit code {end.code}", exit_code=end.code)
            return Result(measured=end.measured, failure=failure)

    def run_batch(self, message: Batch, transfer: Transfer) -> tuple[int, Measured, Failure | None]:
        """Carry out a batch: how many records returned, and why the next one failed."""
        try:
            module = self._module(message.module)
            trampoline = self._modules.get(message.trampoline)
            ended = batches.run(
                message,
                module,
                None if isinstance(trampoline, EngineRefusal) else trampoline,
                self._call_limits(message),
                transfer,
            )
        except EngineRefusal as refusal:
            return 0, _NOTHING, _refused(refusal)
        if ended.done:
            function = module.description.function(message.export) or _NO_TYPE
            transfer.deliver(message.count * width(function.results))
        match ended.failure:
            case None:
                failure = None
            case EngineRefusal() as refused:
                failure = _refused(refused)
            case GuestTrap() as trap:
                failure = self._trapped(trap, message)
            case GuestExit() as end:
                failure = Failure("exit", f"exit code {end.code}", exit_code=end.code)
        return ended.done, ended.measured, failure

    def _trapped(self, trap: GuestTrap, message: Task | Batch) -> Failure:
        if trap.code == "disk_limit":
            return Failure(
                trap.code,
                trap.message,
                "raise Limits(disk=); what is deleted again counts, too",
                limit="disk",
                used=trap.measured.disk,
                allowed=self._files.disk,
            )
        return _trapped(trap, message)

    def _module(self, number: int) -> LoadedModule:
        module = self._modules[number]
        if isinstance(module, EngineRefusal):
            raise module
        return module

    def _call(self, message: Call, transfer: Transfer) -> Result:
        module = self._module(message.module)
        limits = self._call_limits(message)
        wasi = None
        if message.module in self._needs_wasi:
            wasi = self._wasi((), message.env, None, transfer)
        if not message.buffers and not message.returns_buffer:
            called = module.call(message.export, message.slots, limits, wasi)
        else:
            called = module.call_buffers(
                message.export,
                _arguments(message, transfer),
                limits,
                returns="buffer" if message.returns_buffer else "none",
                drain=transfer.drain,
                wasi=wasi,
            )
        return Result(called.slots, called.measured)

    def _command(self, message: Call, transfer: Transfer, descriptor: int) -> Result:
        module = self._module(message.module)
        command = message.command
        assert command is not None
        if command.stdin_descriptor:
            with Stdin(descriptor) as streamed:
                result = self._run_command(module, message, command, streamed.path, transfer)
            if streamed.error is not None:
                why = streamed.error.strerror
                raise EngineRefusal("capability_denied", f"stdin cannot be read: {why}")
            return result
        stdin: bytes | None = None
        if command.stdin is not None and command.stdin.size:
            content = bytearray(command.stdin.size)
            transfer.fill(STDIN, command.stdin, memoryview(content))
            stdin = bytes(content)
        return self._run_command(module, message, command, stdin, transfer)

    def _run_command(
        self,
        module: LoadedModule,
        message: Call,
        command: Command,
        stdin: bytes | str | None,
        transfer: Transfer,
    ) -> Result:
        wasi = self._wasi(command.argv, command.env, stdin, transfer)
        ended = module.run_command(wasi, self._call_limits(message))
        return Result(b"", ended.measured, ended.exit_code)

    def _wasi(
        self,
        argv: tuple[bytes, ...],
        env: tuple[tuple[bytes, bytes], ...],
        stdin: bytes | str | None,
        transfer: Transfer,
    ) -> Wasi:
        stdio = self._profile.stdio
        return Wasi(
            argv=argv,
            env=env,
            stdin=stdin if stdio else None,
            directories=self._profile.directories,
            scratch=self._scratch,
            files=self._files,
            on_output=self._writer(transfer) if stdio else None,
            direct=stdio and transfer.piped and self._guarded,
            network=self._network.ask,
        )

    def _writer(self, transfer: Transfer) -> Callable[[int, bytes], bool]:
        def write(stream: int, data: bytes) -> bool:
            if transfer.write(stream, data):
                return True
            self.engine.increment_epoch()
            return False

        return write

    def _in_session(self, message: Task, transfer: Transfer) -> Result:
        match message:
            case Instantiate():
                return self._instantiate(message, transfer)
            case Invoke():
                return self._invoke(message, transfer)
            case ReadGlobal():
                session, instance = self._kept(message.instance)
                return Result(session.read_global(instance, message.export))
            case ReadMemory():
                session, instance = self._kept(message.instance)
                session.read_memory(
                    instance, message.export, message.start, message.length, transfer.drain
                )
                return Result()
            case WriteMemory(content=content):
                session, instance = self._kept(message.instance)
                argument = BufferArgument(
                    size=content.size, fill=lambda target: transfer.fill(0, content, target)
                )
                session.write_memory(instance, message.export, message.start, argument)
                return Result()
            case Freeze(source=source):
                session, instance = self._kept(message.instance)
                module = bytearray(source.size)
                transfer.fill(0, source, memoryview(module))
                session.freeze(instance, module, message.output, transfer.stream)
                return Result()
            case Call():
                raise EngineRefusal("unsupported_module", "this worker keeps instances")

    def _instantiate(self, message: Instantiate, transfer: Transfer) -> Result:
        alone = message.bindings is None
        session = self._session
        if session is None:
            limits = SessionLimits(
                memory=self._profile.memory,
                table_elements=self._profile.table_elements,
                shares=1 if alone else SESSION_SHARES,
            )
            wasi = self._wasi((), message.env, None, transfer)
            session = self._session = self.engine.session(limits, wasi)
        bindings = message.bindings
        if bindings is not None:
            bindings = tuple((i if i < 0 else self._kept(i)[1], name) for i, name in bindings)
        made = session.instantiate(self._module(message.module), bindings, fuel=message.fuel)
        self._instances[message.instance] = made
        return Result(measured=session.measured(made))

    def _invoke(self, message: Invoke, transfer: Transfer) -> Result:
        session, instance = self._kept(message.instance)
        if not message.buffers and not message.returns_buffer:
            called = session.invoke(instance, message.export, message.slots, fuel=message.fuel)
        else:
            called = session.invoke_buffers(
                instance,
                message.export,
                _arguments(message, transfer),
                returns="buffer" if message.returns_buffer else "none",
                drain=transfer.drain,
                fuel=message.fuel,
            )
        return Result(called.slots, called.measured)

    def _kept(self, number: int) -> tuple[Session, int]:
        try:
            instance = self._instances[number]
        except KeyError:
            raise EngineRefusal("missing_export", f"there is no instance {number}") from None
        assert self._session is not None
        return self._session, instance

    def _call_limits(self, message: Call | Batch) -> CallLimits:
        output = message.output if isinstance(message, Call) else 0
        key = message.memory, message.table_elements, message.fuel, output
        limits = self._limits.get(key)
        if limits is None:
            if len(self._limits) > 1000:
                self._limits.clear()
            limits = self._limits[key] = CallLimits(
                memory=key[0], table_elements=key[1], fuel=key[2], output=key[3]
            )
        return limits


def _arguments(message: Call | Invoke, transfer: Transfer) -> list[Argument]:
    by_slot = {buffer.slot: (at, buffer) for at, buffer in enumerate(message.buffers)}
    arguments: list[Argument] = []
    slot, end = 0, len(message.slots) // SLOT
    while slot < end:
        if slot not in by_slot:
            arguments.append(message.slots[slot * SLOT : (slot + 1) * SLOT])
            slot += 1
            continue
        at, buffer = by_slot[slot]

        def fill(target: memoryview, at: int = at, buffer: object = buffer) -> None:
            transfer.fill(at, buffer, target)  # type: ignore[arg-type]

        arguments.append(BufferArgument(size=buffer.size, fill=fill))
        slot += 2
    return arguments


def _refused(refusal: EngineRefusal) -> Failure:
    limits = {"memory_limit": "memory", "table_limit": "table_elements", "output_limit": "output"}
    return Failure(
        refusal.kind,
        refusal.message,
        refusal.hint,
        limit=limits.get(refusal.kind, ""),
        used=refusal.used,
        allowed=refusal.allowed,
    )


def _trapped(trap: GuestTrap, message: Task | Batch) -> Failure:
    if trap.code == "interrupt":
        return Failure("interrupted", trap.message)
    if trap.code == FAILED:
        return Failure("host_function", trap.message)
    if trap.code == "out_of_fuel":
        fuel = (
            None
            if isinstance(message, ReadGlobal | ReadMemory | WriteMemory | Freeze)
            else message.fuel
        )
        return Failure(
            "out_of_fuel", trap.message, limit="fuel", used=trap.measured.fuel, allowed=fuel
        )
    frames = tuple(
        f"{frame.name or f'<function {frame.function}>'}"
        + (f" at byte {frame.offset:#x}" if frame.offset is not None else "")
        for frame in trap.backtrace
    )
    return Failure("trap", trap.message, code=trap.code, backtrace=frames)


def identity() -> tuple[str, str, tuple[tuple[bool, str], ...]]:
    """(engine, processor, compile settings of each variant), all part of an artifact's key."""
    settings = tuple(
        (metered, engine_package.settings_text(CompileSettings(fuel=metered)))
        for metered in (False, True)
    )
    return engine_package.engine_text(), engine_package.cpu_text(), settings


def warm_up() -> None:
    """Load what is loaded lazily, without running or compiling anything."""
    engine_package.warm_up()


def raw_path_fault() -> str:
    """Why the engine's raw path cannot be used; empty where it can. Runs the engine."""
    return engine_package.raw_path_fault()


def compile_module(source: bytes, *, metered: bool) -> Compiled:
    """Compile, in this process.

    Raises:
        EngineRefusal: the module is refused.
    """
    return engine_package.compile_module(source, CompileSettings(fuel=metered))


def refusal_failure(refusal: EngineRefusal) -> Failure:
    """A refusal as data."""
    return _refused(refusal)
