"""The engine through its public Python binding alone: for when the C interface is not what we know.

Ten times slower, and it does less: no pool, no sessions, no vectors. The binding aborts the process
when it is asked for a signature with a v128 or some references, so those are refused before it sees
them. NaN payloads of f32 may be lost on the way through Python's float.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import struct
import threading
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar, cast

import wasmtime
from wasmtime import Caller, FuncType, Trap, ValType, WasmtimeError

from ....protocol.description import FunctionType, ModuleDescription
from .. import module as common
from ..accounts import FileAccount, over_disk
from ..clocks import EVENT_SIZE, MAX_SUBSCRIPTIONS, SUBSCRIPTION_SIZE, GuestClock
from ..interface import (
    NO_WASI,
    SLOT,
    WASI_MODULE,
    CallLimits,
    ComponentFunction,
    EngineRefusal,
    Frame,
    GuestExit,
    GuestTrap,
    HostFunction,
    Measured,
    RunSettings,
    SessionLimits,
    Wasi,
)
from ..limits import Caps
from ..refusals import alloc_pointer, missing_export, unguarded, unlike_imports, unmetered
from ..views import view_memory
from .config import ASYNC_STACK_DEFAULT, check_stack, engine_text, public_config
from .public_guard import OverDisk, PublicGuard
from .store import refusal
from .traps import NAME_LIMIT, clean_message, interrupted, place, trap_name
from .wasi import (
    EFAULT,
    EINVAL,
    ENOTSUP,
    RANDOM_LIMIT,
    SUCCESS,
    check_text,
    seeded,
    write_piecewise,
)

T = TypeVar("T")
_CODES = {"i32": "<i", "i64": "<q", "f32": "<f", "f64": "<d"}
UNMETERED = (1 << 63) - 1
_ALL_32 = 0xFFFFFFFF
_ALL_64 = (1 << 64) - 1


class _Exit(Exception):
    """``proc_exit``, on its way through the guest."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code & 0xFFFFFFFF


class PublicEngine:
    """See ``interface.Engine``."""

    raw_path = False

    def __init__(
        self, settings: RunSettings, note: str, functions: tuple[HostFunction, ...] = ()
    ) -> None:
        if check_stack(settings.stack) > ASYNC_STACK_DEFAULT:
            raise EngineRefusal(
                "unsupported_module",
                f"a stack of {settings.stack} bytes needs the engine's raw interface: {note}",
                used=settings.stack,
                allowed=ASYNC_STACK_DEFAULT,
            )
        self.name = engine_text()
        self.note = note
        self.settings = settings
        self.interrupted = False
        config = public_config(settings.fuel, parallel=False)
        config.max_wasm_stack = settings.stack
        self.engine = wasmtime.Engine(config)
        self.account = FileAccount()
        self.random: random.Random | None = None
        self.output_error: BaseException | None = None
        self._on_output: Callable[[int, bytes], bool] | None = None
        self._functions = functions
        self.linker = self.make_linker()
        self._guard: PublicGuard | None = None

    def offered(self, more: tuple[HostFunction, ...]) -> dict[tuple[str, str], FunctionType]:
        """What guests may import beside WASI."""
        return {(f.module, f.name): f.type for f in self._functions + more}

    def make_linker(
        self, more: tuple[HostFunction, ...] = (), alloc: str | None = None
    ) -> wasmtime.Linker:
        """A linker with WASI, the host functions of the engine, and ``more``, for a module whose
        ``alloc`` has such pointers."""
        linker = self._linker()
        for function in self._functions + more:
            _lend(linker, function, alloc)
        return linker

    def load(
        self,
        path: str,
        description: ModuleDescription,
        functions: tuple[HostFunction, ...] = (),
        component_functions: tuple[ComponentFunction, ...] = (),
    ) -> PublicModule:
        """Take the artifact at ``path``."""
        if description.component is not None:
            raise EngineRefusal(
                "unsupported_module",
                f"components need the engine's raw interface, which is not used: {self.note}",
            )
        return PublicModule(self, path, description, functions)

    def guard(self, gate: str, warden: str) -> None:
        """Take the artifacts of the gate and of the warden."""
        linker, account = self._linker(), self.account
        self._guard = PublicGuard(linker, self.engine, account, self._write_all, gate, warden)

    def require_guard(self) -> PublicGuard:
        """The gate and the warden.

        Raises:
            EngineRefusal: ``capability_denied`` where they were not taken: nothing would count.
        """
        if self._guard is None:
            raise unguarded()
        return self._guard

    def session(self, limits: SessionLimits, wasi: Wasi = NO_WASI) -> NoReturn:
        """Refused."""
        raise EngineRefusal(
            "unsupported_module",
            f"kept instances need the engine's raw interface, which is not used: {self.note}",
        )

    def arm(self) -> None:
        """Forget an interrupt that hit nothing."""
        self.interrupted = False
        if self.account.woken.is_set():
            self.account.woken.clear()

    def interrupt(self) -> None:
        """Stop the running call, or the next one if it has not begun to run."""
        self.interrupted = True
        self.engine.increment_epoch()
        self.account.woken.set()

    def increment_epoch(self) -> None:
        """Stop whatever runs now."""
        self.engine.increment_epoch()

    def close(self) -> None:
        """Free it."""
        if self._guard is not None:
            self._guard.close()
        self.linker.close()
        self.engine.close()

    # --- WASI ----------------------------------------------------------------------------------

    def _linker(self) -> wasmtime.Linker:
        linker = wasmtime.Linker(self.engine)
        linker.define_wasi()
        linker.allow_shadowing = True
        i32, i64 = ValType.i32(), ValType.i64()

        def proc_exit(code: int) -> None:
            raise _Exit(code)

        clock = GuestClock(*self.settings.clock, self.account.woken)

        def clock_time_get(caller: Caller, which: int, _precision: int, result: int) -> int:
            now = clock.now(which & _ALL_32)
            return EINVAL if now is None else _write(caller, result, now.to_bytes(8, "little"))

        def poll_oneoff(caller: Caller, asked: int, answers: int, count: int, answered: int) -> int:
            if not 0 < count <= MAX_SUBSCRIPTIONS:
                return EINVAL
            subscriptions = _read(caller, asked, SUBSCRIPTION_SIZE * count)
            if subscriptions is None or _read(caller, answers, EVENT_SIZE * count) is None:
                return EFAULT
            came = clock.wait(subscriptions)
            if came is None:
                return EINVAL
            _write(caller, answers, came)
            return _write(caller, answered, (len(came) // EVENT_SIZE).to_bytes(4, "little"))

        def random_get(caller: Caller, start: int, size: int) -> int:
            if self.random is None:
                return ENOTSUP
            size &= _ALL_32
            return (
                EINVAL
                if size > RANDOM_LIMIT
                else _write(caller, start, self.random.randbytes(size))
            )

        linker.define_func(WASI_MODULE, "proc_exit", FuncType([i32], []), proc_exit)
        if self.settings.clock[0] != "real":
            kind = FuncType([i32, i64, i32], [i32])
            linker.define_func(WASI_MODULE, "clock_time_get", kind, clock_time_get, True)
            kind = FuncType([i32] * 4, [i32])
            linker.define_func(WASI_MODULE, "poll_oneoff", kind, poll_oneoff, True)
        if self.settings.random[0] != "secure":
            linker.define_func(
                WASI_MODULE, "random_get", FuncType([i32, i32], [i32]), random_get, True
            )
        return linker

    def configuration(self, wasi: Wasi) -> wasmtime.WasiConfig:
        """What one store's WASI is given."""
        check_text(wasi)
        config = wasmtime.WasiConfig()
        config.argv = [argument.decode() for argument in wasi.argv]
        config.env = [(name.decode(), value.decode()) for name, value in wasi.env]
        try:
            if isinstance(wasi.stdin, str):
                config.stdin_file = wasi.stdin
            elif wasi.stdin:
                _give_bytes(config, wasi.stdin)
            for grant, _ in wasi.granted:
                config.preopen_dir(grant.path, grant.at, grant.writable)
        except WasmtimeError as error:
            raise EngineRefusal("capability_denied", str(error)) from None
        self._on_output = wasi.on_output
        if wasi.on_output is not None:
            config.stdout_custom = self._writer(1, wasi.on_output)
            config.stderr_custom = self._writer(2, wasi.on_output)
        return config

    def _write_all(self, caller: Caller, stream: int, start: int, size: int) -> int:
        source = _read(caller, start, size & _ALL_32)
        if source is None:
            return EFAULT
        try:
            return write_piecewise(self._on_output, stream, memoryview(source))
        except BaseException as error:
            self.output_error = error
            self.engine.increment_epoch()
            return EFAULT  # whatever it is: the call ends

    def _writer(
        self, stream: int, on_output: Callable[[int, bytes], bool]
    ) -> Callable[[bytes], int | None]:
        def write(data: bytes) -> int:
            try:
                return len(data) if on_output(stream, data) else -errno.ENOSPC
            except BaseException as error:
                self.output_error = error
                self.engine.increment_epoch()
                return -errno.EIO

        return write


class PublicModule(common.Module):
    """See ``interface.LoadedModule``."""

    def __init__(
        self,
        engine: PublicEngine,
        path: str,
        description: ModuleDescription,
        functions: tuple[HostFunction, ...] = (),
    ) -> None:
        super().__init__(description, engine.offered(functions))
        self.engine = engine
        self.linker = engine.linker
        if functions:
            self.linker = engine.make_linker(functions, alloc_pointer(description))
        self._pre: wasmtime.InstancePre | None = None
        try:
            self.module = wasmtime.Module.deserialize_file(engine.engine, path)
        except WasmtimeError as error:
            raise EngineRefusal("invalid_module", str(error)) from None

    @property
    def pre(self) -> wasmtime.InstancePre:
        """The module with its imports linked."""
        self.prepare()
        assert self._pre is not None
        return self._pre

    def prepare(self) -> None:
        """Link the imports."""
        if self._pre is not None:
            return
        self.check_imports()
        try:
            self._pre = self.linker.instantiate_pre(self.module)
        except WasmtimeError as error:
            raise unlike_imports(str(error)) from None

    def open(self, limits: CallLimits, caps: Caps, wasi: Wasi | None) -> common.FreshInstance:
        """A fresh instance."""
        return PublicInstance(self, limits, caps, wasi or NO_WASI)

    def close(self) -> None:
        """Free it."""
        if self._pre is not None:
            self._pre.close()
        if self.linker is not self.engine.linker:
            self.linker.close()
        self.module.close()


class PublicInstance(common.FreshInstance):
    """An instance in a store of its own."""

    def __init__(self, module: PublicModule, limits: CallLimits, caps: Caps, wasi: Wasi) -> None:
        self._module = module
        self._engine = engine = module.engine
        self._store = store = wasmtime.Store(engine.engine)
        self._instance: wasmtime.Instance | None = None
        self._fuel = UNMETERED if limits.fuel is None else limits.fuel
        engine.random = seeded(engine.settings)
        engine.output_error = None
        try:
            store.set_limits(memory_size=caps.first_memory, table_elements=caps.first_tables)
            if engine.settings.fuel:
                store.set_fuel(self._fuel)
            elif limits.fuel is not None:
                raise unmetered()
            store.set_epoch_deadline(1)
            if engine.interrupted:
                raise interrupted()
            if module.description.imports:
                store.set_wasi(engine.configuration(wasi))
            self._instance = self._guest(lambda: self._make(caps, wasi))
            store.set_limits(memory_size=caps.memory, table_elements=caps.tables)
        except BaseException:
            self.close()
            raise

    def _make(self, caps: Caps, wasi: Wasi) -> wasmtime.Instance:
        module, engine, store = self._module, self._engine, self._store
        imports = module.description.imports
        if not module.needs_gate([i.name for i in imports if i.module == WASI_MODULE], wasi):
            return module.pre.instantiate(store)
        gate = engine.require_guard().open(store, wasi)
        store.set_limits(memory_size=caps.first_memory, table_elements=caps.first_tables)
        return gate.instantiate(
            module.module,
            [
                gate.exports[needed.name]
                if needed.module == WASI_MODULE
                else module.linker.get(store, needed.module, needed.name)
                for needed in imports
            ],
        )

    def invoke(self, export: str, slots: bytes) -> bytes:
        """Call an exported function."""
        function = self._module.check_slots(export, slots)
        if "v128" in function.params + function.results:
            raise EngineRefusal(
                "signature",
                f"{export[:60]!r} has v128 in its signature {function}",
                f"vectors need the engine's raw interface, which is not used: {self._engine.note}",
            )
        found = self._exports()[export]
        assert isinstance(found, wasmtime.Func)
        answer = self._guest(lambda: found(self._store, *_decode(function, slots)))
        return _encode(function, answer)

    def memory(self) -> tuple[int, int]:
        """Address and size of the export ``memory``."""
        found = self._exports().get("memory")
        if not isinstance(found, wasmtime.Memory):
            raise missing_export(self._module.description, "memory")
        address = ctypes.cast(found.data_ptr(self._store), ctypes.c_void_p).value
        return address or 0, found.data_len(self._store)

    def measured(self) -> Measured:
        """What it has cost so far."""
        fuel = self._fuel - self._store.get_fuel() if self._engine.settings.fuel else None
        used = self._engine.account.use()
        if self._instance is None:
            return Measured(fuel, None, *used)
        memory = sum(
            m.minimum * m.page_size
            for m in self._module.description.memories
            if m.minimum == m.maximum
        )
        exports = self._exports()
        for thing in self._module.growing:
            found = exports[thing.name]
            if isinstance(found, wasmtime.Memory):
                memory += found.data_len(self._store)
        return Measured(fuel, memory, *used)

    def close(self) -> None:
        """Free it."""
        self._engine.account.detach()
        self._store.close()

    def _exports(self) -> Mapping[str, object]:
        assert self._instance is not None
        return self._instance.exports(self._store)

    def _guest(self, run: Callable[[], T]) -> T:
        """Let the guest run; what it or a callback raises becomes ours."""
        engine = self._engine
        try:
            answer = run()
        except _Exit as end:
            raise GuestExit(end.code, self.measured()) from None
        except GuestTrap as trap:  # of a host function
            trap.measured = self.measured()
            raise
        except OverDisk:
            raise over_disk(self.measured()) from None
        except Trap as trap:
            if engine.output_error is None:
                raise _plain(trap, self.measured(), self._module.description.moved) from None
        except WasmtimeError as error:
            if engine.output_error is None:
                raise refusal(str(error)) from None
        else:
            if engine.output_error is None:
                return answer
        raised, engine.output_error = engine.output_error, None
        assert raised is not None
        raise raised


def _plain(trap: Trap, measured: Measured, moved: int) -> GuestTrap:
    """The same trap without the engine's objects, which would keep the store alive."""
    message = clean_message(trap.message)
    code = trap.trap_code
    frames = tuple(
        Frame(
            frame.func_index,
            frame.func_name[:NAME_LIMIT] if frame.func_name is not None else None,
            place(frame.module_offset, moved),
        )
        for frame in trap.frames
    )
    return GuestTrap(
        trap_name(None if code is None else code.value, message), message, frames, measured
    )


def _decode(function: FunctionType, slots: bytes) -> list[int | float]:
    return [
        struct.unpack_from(_CODES[kind], slots, SLOT * at)[0]
        for at, kind in enumerate(function.params)
    ]


def _encode(function: FunctionType, answer: object) -> bytes:
    # The binding answers None, one value, or a list of several.
    values: list[object] = [answer]
    if isinstance(answer, list):
        values = cast("list[object]", answer)
    return b"".join(
        struct.pack(_CODES[kind], value).ljust(SLOT, b"\0")
        for kind, value in zip(function.results, values, strict=False)
    )


class _CallerMemory:
    """See ``interface.GuestMemory``."""

    def __init__(self, caller: Caller, alloc: str | None = None) -> None:
        self._caller = caller
        self._alloc = alloc

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        memory = self._caller.get("memory")
        return memory.data_len(self._caller) if isinstance(memory, wasmtime.Memory) else 0

    def view(self, start: int, size: int) -> memoryview | None:
        """A writable view, or ``None`` where it is not inside."""
        memory = self._caller.get("memory")
        if not isinstance(memory, wasmtime.Memory):
            return None
        if start + size > memory.data_len(self._caller):
            return None
        base = ctypes.cast(memory.data_ptr(self._caller), ctypes.c_void_p).value
        return view_memory((base or 0) + start, size)

    def allocate(self, size: int, pointer: str) -> int:
        """The address that the guest's ``alloc`` answers."""
        # Its instance is alone in its store, and its type was looked at when it was loaded.
        alloc = self._caller.get("alloc")
        if not isinstance(alloc, wasmtime.Func) or self._alloc != pointer:
            raise GuestTrap(
                "bad_argument", f"the guest exports no alloc ({pointer}) -> ({pointer})"
            )
        return int(alloc(self._caller, size)) & (_ALL_32 if pointer == "i32" else _ALL_64)


def _read(caller: Caller, start: int, size: int) -> bytes | None:
    memory = caller.get("memory")
    start &= _ALL_32
    if not isinstance(memory, wasmtime.Memory) or start + size > memory.data_len(caller):
        return None
    return bytes(memory.read(caller, start, start + size))


def _write(caller: Caller, start: int, data: bytes) -> int:
    target = _CallerMemory(caller).view(start & 0xFFFFFFFF, len(data))
    if target is None:
        return EFAULT
    target[:] = data
    return SUCCESS


def _lend(linker: wasmtime.Linker, function: HostFunction, alloc: str | None) -> None:
    """Define a host function; values become slots, and slots values."""
    params, results = function.type.params, function.type.results
    answer = FunctionType(results, ())

    def call(caller: Caller, *values: int | float) -> int | float | list[int | float] | None:
        slots = b"".join(
            struct.pack(_CODES[kind], value).ljust(SLOT, b"\0")
            for kind, value in zip(params, values, strict=True)
        )
        answers = _decode(answer, function.call(_CallerMemory(caller, alloc), slots))
        return answers if len(answers) > 1 else answers[0] if answers else None

    kind = FuncType(
        [getattr(ValType, name)() for name in params],
        [getattr(ValType, name)() for name in results],
    )
    linker.define_func(function.module, function.name, kind, call, True)


def _give_bytes(config: wasmtime.WasiConfig, data: bytes) -> None:
    read, write = os.pipe()
    try:
        config.stdin_file = f"/dev/fd/{read}"
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    # It ends when the store is gone, if not before.
    threading.Thread(target=_feed, args=(write, data), name="stdin", daemon=True).start()


def _feed(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb", buffering=0) as sink:
        rest = memoryview(data)
        while rest:
            rest = rest[sink.write(rest) :]
