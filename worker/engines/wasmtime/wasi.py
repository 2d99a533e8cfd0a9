"""WASI preview 1 for guests: the engine's, with the functions shadowed where the engine's lose
something.

- ``proc_exit``: the engine's keeps exit codes 0 to 125 only; this one keeps all 32 bits.
- ``clock_time_get`` and ``poll_oneoff``, where the settings ask for another clock than the real
  one, and ``random_get``, where they ask for other random numbers.

The callbacks are made once for an engine. What belongs to one call is in ``Host`` and reset by
``begin``: a worker runs one guest at a time.
"""

from __future__ import annotations

import ctypes
import errno
import random
from collections.abc import Callable, Sequence

from .. import gate
from ..accounts import FileAccount
from ..clocks import EVENT_SIZE, MAX_SUBSCRIPTIONS, SUBSCRIPTION_SIZE, GuestClock
from ..interface import WASI_MODULE, EngineRefusal, RunSettings, Wasi
from ..views import view_memory
from .library import (
    EXTERN_MEMORY,
    ByteVector,
    Extern,
    HostCallback,
    Library,
    OutputCallback,
)

I32, I64 = 0, 1
# WASI error numbers (witx, "errno").
SUCCESS, EFAULT, EINVAL, ENOSPC, ENOTSUP, EPIPE = 0, 21, 28, 51, 58, 64
OUTPUT_PIECE = 1 << 16
"""Bytes of output that are handed on at once: as many as a pipe holds."""
RANDOM_LIMIT = 64 << 20
"""Bytes of one ``random_get``, as in the engine's own."""


class Host:
    """What the running call may do, and what it did."""

    def __init__(self, library: Library, settings: RunSettings, stop: Callable[[], None]) -> None:
        self._library = library
        self._settings = settings
        self._stop = stop
        """Ends the running call; an output callback has no way to trap."""
        self.account = FileAccount()
        """What the call does with files."""
        self.exit_code: int | None = None
        self.error: BaseException | None = None
        """What a callback raised. It cannot pass through the guest: the call raises it
        afterwards."""
        self._on_output: Callable[[int, bytes], bool] | None = None
        self._random: random.Random | None = None
        self._stdout = OutputCallback(self._write_stdout)
        self._stderr = OutputCallback(self._write_stderr)
        self._exit = HostCallback(self._proc_exit)
        self._clock = GuestClock(*settings.clock, self.account.woken)
        self._time = HostCallback(self._clock_time_get)
        self._poll = HostCallback(self._poll_oneoff)
        self._random_get = HostCallback(self._fill_random)
        self._pace = HostCallback(self._wait_for_tokens)
        self._exceeded = HostCallback(self._end_over_limit)
        self._write_all = HostCallback(self._write_piecewise)

    def begin(self, wasi: Wasi, numbers: random.Random | None = None) -> None:
        """Make ready for the next call, which goes on with ``numbers`` or begins a stream of its
        own."""
        self.exit_code = None
        self.error = None
        self._on_output = wasi.on_output
        self._random = numbers or seeded(self._settings)

    # --- what the guest calls --------------------------------------------------------------------

    def _write_stdout(self, _: int, data: int, size: int) -> int:
        return self._write(1, data, size)

    def _write_stderr(self, _: int, data: int, size: int) -> int:
        return self._write(2, data, size)

    def _write(self, stream: int, data: int, size: int) -> int:
        try:
            if self._on_output is None:
                return size
            return size if self._on_output(stream, ctypes.string_at(data, size)) else -errno.ENOSPC
        except BrokenPipeError:
            return -errno.EPIPE
        except BaseException as error:
            self.error = error
            self._stop()
            return -errno.EIO

    def trap(self, why: bytes) -> int:
        """A new trap, for a callback to return."""
        trap: int = self._library.trap_new(why, len(why))
        return trap

    def _guarded(self, work: Callable[[], int], values: int) -> int | None:
        try:
            if self.error is None:
                ctypes.c_uint64.from_address(values).value = work()
                return None
        except BaseException as error:
            self.error = error
        return self.trap(b"a host function failed")

    def _proc_exit(self, _env: int, _caller: int, values: int, _count: int) -> int | None:
        self.exit_code = ctypes.c_uint32.from_address(values).value
        return self.trap(b"proc_exit")

    def _clock_time_get(self, _env: int, caller: int, values: int, _count: int) -> int | None:
        def work() -> int:
            now = self._clock.now(_argument(values, 0))
            if now is None:
                return EINVAL
            target = self.target(caller, _argument(values, 2), 8)
            if target is None:
                return EFAULT
            target[:] = now.to_bytes(8, "little")
            return SUCCESS

        return self._guarded(work, values)

    def _poll_oneoff(self, _env: int, caller: int, values: int, _count: int) -> int | None:
        def work() -> int:
            asked, answers, count, answered = (_argument(values, index) for index in range(4))
            if not 0 < count <= MAX_SUBSCRIPTIONS:
                return EINVAL
            subscriptions = self.target(caller, asked, SUBSCRIPTION_SIZE * count)
            events = self.target(caller, answers, EVENT_SIZE * count)
            number = self.target(caller, answered, 4)
            if subscriptions is None or events is None or number is None:
                return EFAULT
            came = self._clock.wait(bytes(subscriptions))
            if came is None:
                return EINVAL
            events[: len(came)] = came
            number[:] = (len(came) // EVENT_SIZE).to_bytes(4, "little")
            return SUCCESS

        return self._guarded(work, values)

    def _fill_random(self, _env: int, caller: int, values: int, _count: int) -> int | None:
        def work() -> int:
            if self._random is None:
                return ENOTSUP
            start, size = _argument(values, 0), _argument(values, 1)
            if size > RANDOM_LIMIT:
                return EINVAL
            target = self.target(caller, start, size)
            if target is None:
                return EFAULT
            target[:] = self._random.randbytes(size)
            return SUCCESS

        return self._guarded(work, values)

    def _wait_for_tokens(self, _env: int, _caller: int, values: int, _count: int) -> None:
        try:
            self.account.pace(_argument(values, 0))
        except BaseException as error:
            self.error = error
            self._stop()

    def _end_over_limit(self, _env: int, _caller: int, _values: int, _count: int) -> int:
        self.account.exceeded()
        return self.trap(b"over the limit")

    def _write_piecewise(self, _env: int, caller: int, values: int, _count: int) -> int | None:
        def work() -> int:
            stream, start, size = (_argument(values, index) for index in range(3))
            source = self.target(caller, start, size)
            if source is None:
                return EFAULT
            return write_piecewise(self._on_output, stream, source)

        return self._guarded(work, values)

    def target(self, caller: int, start: int, size: int) -> memoryview | None:
        """A writable view of the calling guest's memory, or ``None`` where it is not inside."""
        memory = self.memory_of(caller)
        if memory is None or start + size > memory[1]:
            return None
        return view_memory(memory[0] + start, size)

    def memory_of(self, caller: int) -> tuple[int, int] | None:
        """(address, bytes) of the calling guest's memory; ``None`` where it exports none."""
        extern = Extern()
        found = self._library.caller_export_get(caller, b"memory", 6, ctypes.addressof(extern))
        if not found or extern.kind != EXTERN_MEMORY:
            return None
        context = self._library.caller_context(caller)
        memory = ctypes.addressof(extern) + Extern.of.offset
        return (
            self._library.memory_data(context, memory),
            self._library.memory_size(context, memory),
        )

    # --- set-up ----------------------------------------------------------------------------------

    def linker(self, engine: int) -> int:
        """A linker with all of WASI preview 1."""
        library = self._library
        linker: int = library.linker_new(engine)
        error = library.linker_define_wasi(linker)
        if error:
            raise RuntimeError(library.take_error(error))
        library.linker_shadow(linker, True)
        wasi = WASI_MODULE.encode()
        self.define(linker, wasi, b"proc_exit", [I32], [], self._exit)
        if self._settings.clock[0] != "real":
            self.define(linker, wasi, b"clock_time_get", [I32, I64, I32], [I32], self._time)
            self.define(linker, wasi, b"poll_oneoff", [I32] * 4, [I32], self._poll)
        if self._settings.random[0] != "secure":
            self.define(linker, wasi, b"random_get", [I32, I32], [I32], self._random_get)
        return linker

    def gate_linker(self, engine: int) -> int:
        """The same, with what the gate needs beside it."""
        linker = self.linker(engine)
        own = gate.HOST_MODULE.encode()
        self.define(linker, own, gate.PACE.encode(), [I32], [], self._pace)
        self.define(linker, own, gate.EXCEEDED.encode(), [], [], self._exceeded)
        self.define(linker, own, gate.WRITE.encode(), [I32] * 3, [I32], self._write_all)
        return linker

    def define(
        self,
        linker: int,
        module: bytes,
        name: bytes,
        params: list[int],
        results: list[int],
        callback: object,
        env: int | None = None,
    ) -> None:
        """Put a callback under a name, and in the place of what was there; ``env`` is what it is
        called with."""
        library = self._library
        given, answered = _value_types(library, params), _value_types(library, results)
        kind = library.function_type_new(ctypes.addressof(given), ctypes.addressof(answered))
        error = library.linker_define_function(
            linker, module, len(module), name, len(name), kind, callback, env, None
        )
        library.function_type_delete(kind)
        if error:
            raise RuntimeError(library.take_error(error))

    def configuration(self, wasi: Wasi) -> int:
        """What one store's WASI is given; the store takes it over.

        Raises:
            EngineRefusal: ``signature`` as ``check_text`` says, ``capability_denied`` for a
            directory
                or an input that cannot be opened.
        """
        library = self._library
        config: int = library.wasi_new()
        try:
            self._configure(config, wasi)
        except BaseException:
            library.wasi_delete(config)
            raise
        return config

    def _configure(self, config: int, wasi: Wasi) -> None:
        library = self._library
        check_text(wasi)
        if wasi.argv:
            array = _strings(wasi.argv)
            library.wasi_argv(config, len(wasi.argv), ctypes.addressof(array))
        if wasi.env:
            names = _strings([name for name, _ in wasi.env])
            values = _strings([value for _, value in wasi.env])
            library.wasi_env(
                config, len(wasi.env), ctypes.addressof(names), ctypes.addressof(values)
            )
        if isinstance(wasi.stdin, str):
            if not library.wasi_stdin_file(config, wasi.stdin.encode()):
                raise EngineRefusal("capability_denied", f"stdin {wasi.stdin!r} cannot be opened")
        elif wasi.stdin:
            vector = ByteVector()
            library.bytes_new(ctypes.addressof(vector), len(wasi.stdin), wasi.stdin)
            library.wasi_stdin_bytes(config, ctypes.addressof(vector))
        if wasi.on_output is not None:
            library.wasi_stdout(config, self._stdout, None, None)
            library.wasi_stderr(config, self._stderr, None, None)
        for grant, _ in wasi.granted:
            if not library.wasi_preopen(
                config, grant.path.encode(), grant.at.encode(), grant.writable
            ):
                raise EngineRefusal(
                    "capability_denied",
                    f"the directory for {grant.at!r} cannot be opened for the guest",
                    "it must exist, be a directory, and be readable for the worker",
                )


def write_piecewise(
    on_output: Callable[[int, bytes], bool] | None, stream: int, source: memoryview
) -> int:
    """Hand on what a guest writes to stdout (1) or stderr (2); an error number."""
    try:
        for at in range(0, len(source), OUTPUT_PIECE):
            piece = bytes(source[at : at + OUTPUT_PIECE])
            if on_output is not None and not on_output(stream, piece):
                return ENOSPC
    except BrokenPipeError:
        return EPIPE
    return SUCCESS


def seeded(settings: RunSettings) -> random.Random | None:
    """A new stream of the numbers that the settings ask for; ``None`` where they ask for none of
    ours."""
    kind, seed = settings.random
    return random.Random(seed) if kind == "seeded" else None


def _argument(values: int, index: int) -> int:
    return ctypes.c_uint32.from_address(values + 16 * index).value


def _value_types(library: Library, kinds: list[int]) -> ByteVector:
    pointers = (ctypes.c_void_p * len(kinds))(*[library.value_type_new(kind) for kind in kinds])
    vector = ByteVector()
    library.value_types_new(ctypes.addressof(vector), len(kinds), ctypes.addressof(pointers))
    return vector


def _strings(strings: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(strings))(*strings)


def check_text(wasi: Wasi) -> None:
    """Refuse what WASI's strings cannot be.

    Raises:
        EngineRefusal: ``signature`` for a NUL byte, which the engine would cut the string at, or
        for what is
            not UTF-8.
    """
    texts = [("argument", text) for text in wasi.argv]
    texts += [("environment variable", text) for pair in wasi.env for text in pair]
    texts += [
        ("path", path.encode(errors="surrogateescape"))
        for grant, _ in wasi.granted
        for path in (grant.path, grant.at)
    ]
    for what, text in texts:
        if b"\0" in text:
            raise EngineRefusal("signature", f"the {what} {text[:40]!r} has a NUL byte in it")
        try:
            text.decode()
        except UnicodeDecodeError:
            raise EngineRefusal(
                "signature", f"the {what} {text[:40]!r} is not UTF-8", "WASI strings are UTF-8"
            ) from None
