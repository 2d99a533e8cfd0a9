"""The worker's life: configure, jail, READY, then one call after another.

Theory of operation. The main thread reads messages and runs guests; while it is in wasm it can do
nothing else. The control thread sleeps in read(2) on the control channel and is the only other one:
it stops the running call by moving the engine's epoch, and takes back calls that were not begun.

One lock orders the two: ``_begin`` decides under it whether a call is begun, recalled or skipped,
and publishes the decision in the status page; the control thread decides under it what an interrupt
hits. So an interrupt never stops the wrong call, and what a recall gives back is never begun. An
interrupt sets a flag before it moves the epoch, and the engine looks at the flag after it has set a
store's
deadline: one that arrives before the guest's first instruction is not lost either.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import threading
import time
from collections.abc import Callable, Collection

import msgspec

from ..protocol import arena, control
from ..protocol.messages import (
    PROTOCOL_VERSION,
    Batch,
    BatchReturned,
    Call,
    Configure,
    Failed,
    Failure,
    Freeze,
    Guard,
    Instantiate,
    Invoke,
    Load,
    Loaded,
    LoadFailed,
    ReadGlobal,
    ReadMemory,
    Ready,
    Recalled,
    Returned,
    StartFailed,
    Stop,
    Task,
    Unload,
    WriteMemory,
)
from ..protocol.profile import Profile
from ..protocol.receipts import Usage
from . import helpers, jail
from .channel import Channel, SupervisorGone
from .engines.interface import EngineRefusal
from .outlets import Outlets
from .runtime import Runtime
from .transfer import Transfer

_NO_SCRATCH = "no scratch directory: no temporary directory can be written to, and in memory"
_NOT_BEGUN = Failure("interrupted", "stopped before it began")


def main(
    channel: int,
    control_descriptor: int,
    passing: socket.socket,
    arena_descriptor: int,
    raw_fault: str,
    around: jail.Around,
    make_runtime: Callable[[Profile, str], Runtime] = Runtime,
    chosen: Collection[str] | None = None,
) -> int:
    """Work until told to stop; the exit status of the process. ``chosen`` are the walls to build,
    ``None`` for all."""
    talk = Channel(channel)
    try:
        order = talk.receive()
        assert isinstance(order, Configure)
        if order.version != PROTOCOL_VERSION:
            talk.say(StartFailed("protocol", f"version {order.version} is not {PROTOCOL_VERSION}"))
            return 1
        shared = mmap.mmap(arena_descriptor, order.arena_size)
        os.close(arena_descriptor)
        try:
            functions = helpers.unpickle(order.profile.helpers)
        except helpers.Unusable as error:
            talk.say(StartFailed("worker_imports", str(error)[:500]))
            return 1
        built = jail.build(order.profile, order.data_limit, around, chosen)
        if not all(scratch.path for scratch in built.root.scratch):
            why = dict(built.missing).get("namespace.mount", "it was left out")
            talk.say(StartFailed("namespace.mount", f"{_NO_SCRATCH}: {why}"))
            return 1
        try:
            profile = msgspec.structs.replace(
                order.profile, directories=built.root.directories, scratch=built.root.scratch
            )
            serving = make_runtime(profile, raw_fault)
            serving.take_helpers(functions)
        except EngineRefusal as refusal:
            talk.say(StartFailed("engine", refusal.message))
            return 1
        loop = Loop(talk, serving, memoryview(shared), passing)
        jail.close(built, jail.work(order.profile), passing)
        threading.Thread(
            target=loop.control, args=(control_descriptor,), daemon=True, name="control"
        ).start()
        talk.say(
            Ready(
                PROTOCOL_VERSION,
                serving.engine.name,
                serving.engine.raw_path,
                tuple(built.walls),
                tuple(built.missing),
                serving.engine.note,
            )
        )
        loop.run()
    except SupervisorGone:
        pass
    return 0


class Loop:
    """The state of a worker that is up."""

    def __init__(
        self, channel: Channel, runtime: Runtime, shared: memoryview, passing: socket.socket
    ) -> None:
        self._channel = channel
        self._runtime = runtime
        self._engine = runtime.engine
        self._shared = shared
        self._passing = passing
        self._transfer = Transfer(channel, shared)
        self._lock = threading.Lock()
        self._current = 0
        """The call that runs, or 0. Guarded by ``_lock``, like the next three."""
        self._begun = 0
        self._recalled = 0
        """Calls up to this number that were not begun by then were given back."""
        self._skip: set[int] = set()
        self._cpu = 0
        """What the processor's clock showed when it was begun, in nanoseconds."""
        self._outlets: Outlets | None = None
        """Where the output of the call goes that is about to run, or runs, if not into frames."""

    # --- the main thread ------------------------------------------------------------------------

    def run(self) -> None:
        """Serve messages until ``Stop``."""
        while True:
            message = self._channel.receive()
            match message:
                case (
                    Call()
                    | Batch()
                    | Instantiate()
                    | Invoke()
                    | ReadGlobal()
                    | ReadMemory()
                    | WriteMemory()
                    | Freeze()
                ):
                    self._channel.flush()  # an answer must not die with a later call's worker
                    self._serve(message)
                case Load():
                    self._load(message)
                case Unload(module=module):
                    self._runtime.unload(module)
                case Guard():
                    self._guard()
                case Stop():
                    self._channel.flush()
                    return
                case _:
                    raise AssertionError(f"{type(message).__name__} is out of turn")

    def _load(self, message: Load) -> None:
        descriptor = self._take_descriptor()
        try:
            failure = self._runtime.load(
                message.module,
                descriptor,
                message.description,
                message.lent,
                companion=message.companion,
            )
        finally:
            os.close(descriptor)
        if failure is None:
            self._channel.answer(Loaded(message.module))
        else:
            self._channel.answer(LoadFailed(message.module, failure))

    def _guard(self) -> None:
        descriptors = self._take_descriptor(), self._take_descriptor()
        try:
            self._runtime.guard(*descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _take_descriptor(self) -> int:
        _, descriptors, flags, _ = socket.recv_fds(self._passing, 1, 1)
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if len(descriptors) != 1:
            raise SupervisorGone
        return descriptors[0]

    def _serve(self, message: Task | Batch) -> None:
        stdin = -1
        outlets: Outlets | None = None
        if isinstance(message, Call) and message.command:
            if message.command.stdin_descriptor:
                stdin = self._take_descriptor()
            if message.command.streams:
                outlets = Outlets(self._take_descriptor(), self._take_descriptor())
        self._outlets = outlets
        try:
            begun = self._begin(message.call)
            if begun:
                if isinstance(message, Batch):
                    self._channel.answer(self._run_batch(message))
                else:
                    self._channel.answer(self._run(message, stdin))
            elif begun is False:
                self._channel.answer(Failed(message.call, _NOT_BEGUN, Usage()))
        finally:
            if stdin >= 0:
                os.close(stdin)
            if outlets is not None:
                outlets.close()

    def _begin(self, call: int) -> bool | None:
        """Whether ``call`` is begun now; ``False`` is skipped, ``None`` was given back."""
        self._engine.arm()
        with self._lock:
            if call <= self._recalled:
                return None
            self._begun = call
            if call in self._skip:
                self._skip.discard(call)
                return False
            self._current = call
            self._cpu = time.process_time_ns()
            arena.publish_begun(self._shared, call, self._cpu)
            return True

    def _run(self, message: Task, stdin: int) -> Returned | Failed:
        self._transfer.begin(message.call, _allowed(message), self._outlets)
        wall = time.perf_counter_ns()
        try:
            result = self._runtime.run(message, self._transfer, stdin)
        finally:
            with self._lock:
                self._current = 0
        failure = result.failure
        if self._transfer.over_limit:
            failure = self._transfer.limit_failure()
        usage = Usage(
            (time.process_time_ns() - self._cpu) / 1e9,
            (time.perf_counter_ns() - wall) / 1e9,
            result.measured.fuel,
            result.measured.memory,
            self._transfer.output,
            result.measured.bytes_read,
            result.measured.bytes_written,
            result.measured.disk,
        )
        if failure is not None:
            return Failed(message.call, failure, usage)
        return Returned(message.call, result.slots, usage, self._transfer.data, result.exit_code)

    def _run_batch(self, message: Batch) -> BatchReturned:
        self._transfer.begin(message.call)
        wall = time.perf_counter_ns()
        try:
            done, measured, failure = self._runtime.run_batch(message, self._transfer)
        finally:
            with self._lock:
                self._current = 0
        usage = Usage(
            (time.process_time_ns() - self._cpu) / 1e9,
            (time.perf_counter_ns() - wall) / 1e9,
            measured.fuel,
            measured.memory,
        )
        return BatchReturned(message.call, done, usage, failure, self._transfer.data)

    # --- the control thread ---------------------------------------------------------------------

    def control(self, descriptor: int) -> None:
        """Carry out control records until the channel ends."""
        pending = b""
        while data := os.read(descriptor, 4096):
            pending += data
            while len(pending) >= control.RECORD_SIZE:
                what, call = control.unpack(pending[: control.RECORD_SIZE])
                pending = pending[control.RECORD_SIZE :]
                if what is control.Control.INTERRUPT:
                    self._interrupt(call)
                else:
                    self._recall(call)

    def _interrupt(self, call: int) -> None:
        with self._lock:
            if call == self._current:
                self._engine.interrupt()
                if self._outlets is not None:
                    self._outlets.stop()
            elif call > self._begun:
                self._skip.add(call)

    def _recall(self, until: int) -> None:
        with self._lock:
            begun = min(self._begun, until)
            self._recalled = max(self._recalled, until)
            # Under the lock, so that no answer to a later call can overtake it.
            self._channel.answer(Recalled(begun, until))
        self._channel.flush()


def _allowed(message: Task) -> int:
    """Bytes that may be handed back."""
    match message:
        case ReadMemory(length=length):
            return length
        case ReadGlobal() | WriteMemory():
            return 0
        case _:
            return message.output
