"""A core without processes: the supervisor's interface, and guests of a few lines of Python."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import msgspec
import trio

from wasm_sandbox.columns import cut
from wasm_sandbox.configuration import Configuration
from wasm_sandbox.protocol.batch import SIZES, offsets, width
from wasm_sandbox.protocol.description import (
    Export,
    ExternFunction,
    ExternMemory,
    FunctionType,
    MemoryType,
    ModuleDescription,
)
from wasm_sandbox.protocol.errors import InvalidModule, PoolClosed, SandboxError, Trap
from wasm_sandbox.protocol.isolation import EnforcementRow
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.receipts import Receipt
from wasm_sandbox.supervisor.requests import CallRequest, ModuleHandle, Outcome
from wasm_sandbox.values import Codec

SOURCE = b"(module)"
FUNCTIONS = {
    "add": FunctionType(("i32", "i32"), ("i32",)),
    "spin": FunctionType((), ()),
    "trap": FunctionType((), ()),
    "after": FunctionType(("i32",), ("i32",)),
    "echo": FunctionType(("i32", "i32"), ("i64",)),
    "alloc": FunctionType(("i32",), ("i32",)),
    "is_null": FunctionType(("(ref null func)",), ("i32",)),
    "_start": FunctionType((), ()),
}
DESCRIPTION = ModuleDescription(
    exports=(
        *(
            Export(name, ExternFunction(kind), at)
            for at, (name, kind) in enumerate(FUNCTIONS.items())
        ),
        Export("memory", ExternMemory(MemoryType(1)), 0),
    )
)


class FakeCore:
    """Guests: ``add``; ``spin`` for ever; ``trap``; ``after(ms)``, which returns its argument then;
    ``echo`` of a buffer; ``_start``, which writes its arguments and input, and exits with their
    number."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.failure: SandboxError | None = None
        self.mail = nullcontext()
        self.submitted: list[CallRequest] = []
        self.cancelled: list[CallRequest] = []
        self.loads = 0
        self.most = 0
        """Most calls that were here at a time."""
        self._waiting: deque[tuple[CallRequest, Callable[[Outcome], None]]] = deque()
        self._running: dict[CallRequest, trio.CancelScope] = {}
        self._closing = trio.Event()
        self._empty = trio.Event()
        self._nursery: trio.Nursery

    def discard(self) -> None:
        """It has no zygote."""

    def is_waited_for(self) -> bool:
        return False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._closing.wait()
            self._nursery.cancel_scope.cancel()

    async def load(self, source: bytes, limits: Limits, *, metered: bool = False) -> ModuleHandle:
        await trio.lowlevel.checkpoint()
        self.loads += 1
        if not source:
            raise InvalidModule("the module is empty")
        if source == b"for ever":
            await trio.sleep_forever()
        return ModuleHandle(hashlib.sha256(source).digest(), source, DESCRIPTION, limits)

    def submit(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        self.submitted.append(request)
        if self._closing.is_set() or self.failure is not None:
            error = self.failure or PoolClosed("closed")
            done(Outcome(receipt=Receipt(), error=error))
            return
        self._waiting.append((request, done))
        self._next()

    def submit_express(self, _request: CallRequest, _done: Callable[[Outcome], None]) -> None:
        """No call goes the short way here."""

    def forgo(self, request: CallRequest) -> None:
        """Calls bring nothing here."""

    def _next(self) -> None:
        self.most = max(self.most, len(self._waiting) + len(self._running))
        while self._waiting and len(self._running) < (self.configuration.workers or 1):
            request, done = self._waiting.popleft()
            self._running[request] = trio.CancelScope()
            self._nursery.start_soon(self._call, request, done)

    async def _call(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        receipt = Receipt(attempts=1, worker=1, bytes_in=len(request.slots))
        outcome = Outcome(receipt=receipt, error=Trap("interrupt", "the call was cancelled"))
        run = self._guest if request.batch is None else self._batch
        with self._running[request]:
            outcome = await run(request, receipt)
        del self._running[request]
        done(outcome)
        self._next()
        self._check_empty()

    def _check_empty(self) -> None:
        if not self._running and not self._waiting:
            self._empty.set()
            self._empty = trio.Event()

    async def _batch(self, request: CallRequest, receipt: Receipt) -> Outcome:
        """Record after record, as calls of their own."""
        batch = request.batch
        assert batch is not None
        count, kinds, columns = batch.count, batch.function.params, bytes(request.buffers[0][1])
        results: list[bytes] = []
        for record in range(count):
            slots = b"".join(
                cut((kind,), columns[at : at + count * SIZES[kind]], count, record, 1).ljust(
                    16, b"\0"
                )
                for kind, at in zip(kinds, offsets(kinds, count), strict=True)
            )
            one = await self._guest(
                msgspec.structs.replace(request, slots=slots, batch=None), receipt
            )
            if one.error is not None:
                data = b"".join(results).ljust(batch.results_size, b"\0")
                return Outcome(receipt=receipt, error=one.error, data=data, done=record)
            assert len(batch.function.results) <= 1
            results.append(one.slots[: width(batch.function.results)])
        return Outcome(receipt=receipt, data=b"".join(results), done=count)

    async def _guest(self, request: CallRequest, receipt: Receipt) -> Outcome:
        match request.export:
            case "add":
                codec = Codec("add", FunctionType(("i32",), ("i32", "i32")))
                slots, _ = codec.pack((sum(codec.unpack(request.slots)) & 0xFFFFFFFF,))
                return Outcome(receipt=receipt, slots=slots)
            case "spin":
                await trio.sleep_forever()
                raise AssertionError
            case "trap":
                return Outcome(receipt=receipt, error=Trap("unreachable", "unreachable executed"))
            case "after":
                await trio.sleep(int.from_bytes(request.slots[:4], "little") / 1000)
                return Outcome(receipt=receipt, slots=request.slots)
            case "echo":
                return Outcome(receipt=receipt, slots=bytes(16), data=bytes(request.buffers[0][1]))
            case "_start":
                return self._command(request, receipt)
            case other:
                raise AssertionError(other)

    def _command(self, request: CallRequest, receipt: Receipt) -> Outcome:
        command = request.command
        assert command is not None
        stdout = b"|".join(command.argv)
        if request.on_output is not None:
            request.on_output(1, stdout)
            request.on_output(2, command.stdin)
        return Outcome(
            receipt=receipt, exit_code=len(command.argv) - 1, stdout=stdout, stderr=command.stdin
        )

    def cancel(self, request: CallRequest) -> None:
        self.cancelled.append(request)
        for waiting in list(self._waiting):
            if waiting[0] is request:
                self._waiting.remove(waiting)
                error = Trap("interrupt", "the call was cancelled")
                waiting[1](Outcome(receipt=Receipt(), error=error))
                self._check_empty()
        if request in self._running:
            self._running[request].cancel()

    async def close(self, *, cancel: bool) -> None:
        if cancel:
            for request in [*(waiting[0] for waiting in self._waiting), *self._running]:
                self.cancel(request)
        while self._running or self._waiting:
            await self._empty.wait()
        self._closing.set()

    def enforcement(self) -> tuple[EnforcementRow, ...]:
        return (EnforcementRow(field="limits.memory", in_force=True, walls=("engine",)),)

    def workers(self) -> tuple[Any, ...]:
        return ()

    def break_down(self) -> None:
        """Fail as a bug in the supervisor would."""
        self._nursery.start_soon(partial(self._raise, RuntimeError("a bug")))

    async def _raise(self, error: Exception) -> None:
        raise error


class NoCore(FakeCore):
    """It cannot start."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        from wasm_sandbox.protocol.errors import IsolationError

        async with trio.open_nursery() as nursery:
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            raise IsolationError("cgroup.memory", "there is no cgroup here", "mount one")


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)


def ctrl_c_soon() -> threading.Timer:
    thread = threading.main_thread().ident
    return threading.Timer(0.1, signal.pthread_kill, [thread, signal.SIGINT])
