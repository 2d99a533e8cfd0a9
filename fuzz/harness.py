"""A worker without a process: the real supervisor's side of it, and an honest look at its books.

The worker is never forked, so it costs no process and no time: what it would say is given to
``hear``, what the supervisor would do is done by ``order``, and ``end`` buries it. It has no grant
of the network, so that its host calls go no further than to the policy.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from typing import Any, Literal, cast
from unittest import mock

import msgspec
import trio

from ..object_handles import object_handle
from ..protocol import arena, messages, wit
from ..protocol.capabilities import Capabilities
from ..protocol.description import FunctionType, ModuleDescription
from ..protocol.errors import ProtocolError, SandboxError, Trap
from ..protocol.framing import FrameReader
from ..protocol.host_calls import (
    IMPORT,
    MEMORY,
    NETWORK,
    Abandon,
    Begin,
    Close,
    Collect,
    ImportCall,
    LookUp,
    MemoryAnswer,
    MemoryOrder,
    NetworkRequest,
    TcpConnect,
    Wait,
    encode,
)
from ..protocol.limits import Limits
from ..protocol.profile import Profile
from ..protocol.receipts import DeathCertificate, Usage
from ..protocol.wit import World
from ..runners import TrioRunner
from ..supervisor import worker as worker_module
from ..supervisor.calls import CallRecord
from ..supervisor.certificates import Verdict
from ..supervisor.cgroups.hierarchy import NoHierarchy
from ..supervisor.ends import STREAM_SLACK
from ..supervisor.imports import BadArgument, HostImport, reaching
from ..supervisor.leftovers import Leftovers
from ..supervisor.network.access import NetworkAccess
from ..supervisor.objects import ResourceKind, held
from ..supervisor.rate import Rate
from ..supervisor.requests import (
    BatchRequest,
    CallRequest,
    CommandRequest,
    ModuleHandle,
    Outcome,
)
from ..supervisor.resources import Wires
from ..supervisor.sending import Mail
from ..supervisor.worker import Worker
from ..supervisor.zygote import Child, Zygote, ZygoteLost
from ..wit_converters import WitTypes
from ..wit_host import HostWitCodec
from ..wit_types import WitFunction

What = Literal["call", "command", "buffer", "large", "batch", "load", "recall", "interrupt", "stop"]
"""Orders: calls of several kinds, the last of them of a new module; and what is done to calls."""
Good = Literal["ready", "reply", "answer", "fail", "skip", "data", "ask", "import"]
"""What a good worker may have to say."""

HALF = 64
"""Bytes of the arena in each direction: so few that buffers take several pieces."""
BANK = arena.bank(HALF, 0)[1]
PATIENCE = 60.0
"""Seconds that a worker's life may take here."""
_BUFFER = bytes(range(80))
RECORDS = 3
_BATCHED = FunctionType(("i64",), ("i64",))
_BUFFERS: dict[str, tuple[tuple[int, bytes], ...]] = {
    "large": ((0, _BUFFER), (2, _BUFFER)),
    "batch": ((0, bytes(RECORDS * 8)),),
}
_ASKED: tuple[Callable[[int], NetworkRequest], ...] = (
    Close,
    lambda _: Begin(TcpConnect("localhost", 1)),
    lambda _: Begin(LookUp("localhost")),
    lambda ticket: Wait((ticket,), 0),
    Collect,
    Abandon,
)
"""What is asked of the network, about a number."""
_LIMITS = Limits(output=100)
_PROFILE = Profile.of(_LIMITS, Capabilities())
_KIND = messages.LentFunction("env", "f", FunctionType(("i32", "i32"), ("i64",)), (0,), "packed")
_NOTHING = messages.LentFunction("env", "f", FunctionType((), ()))
_THING = ResourceKind("thing")
_WORLD = World((wit.Own(0), wit.Option(0)), ("", ""), ("thing",))
_OPTION = WitTypes(_WORLD, lambda handle, _: object_handle(_THING, handle)).get(1)
_CODEC = HostWitCodec("docs:a/b", "f", (_OPTION,), _OPTION, WitFunction(()))
"""Of the one function that components import: it gives a thing for nothing, and takes it back."""


class _NoZygote:
    """Forks nothing: so a life is nothing but its burial."""

    async def fork(self, *_: object) -> Child:
        raise ZygoteLost("there is none")


class Harness:
    """A worker that is followed, and the office that it works for."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.mail = Mail()
        self.network = NetworkAccess(lambda _: None)
        self.leftovers = Leftovers(lambda _: None)
        self.records: list[CallRecord] = []
        self.outcomes: dict[CallRecord, list[Outcome]] = {}
        self.back: list[CallRecord] = []
        self.violated = self._buried = False
        self._numbers = itertools.count(1)
        self._modules = 0
        self._called: list[tuple[bytes, bytes]] = []
        """What the one function that modules import was called with."""
        self._read: list[tuple[MemoryOrder, MemoryAnswer, bytes]] = []
        """What another one ordered, and found."""
        self._wait = TrioRunner(1, nursery.start_soon).wait
        self._ordered: dict[int, MemoryOrder] = {}
        """What the worker is to do in the memory of each call's guest."""
        self._lent: dict[int, tuple[messages.LentFunction, ...]] = {}
        """What the worker was lent with each module."""
        self._lent_to: dict[int, tuple[messages.LentFunction, ...]] = {}
        """What each call's module imports."""
        self._functions = [
            (),
            (HostImport(shape=_KIND, timeout=1.0, rate=Rate(1e6), call=self._serve),),
            (HostImport(shape=_CODEC.shape, timeout=1.0, rate=Rate(1e6), call=self._serve_thing),),
            (
                HostImport(
                    shape=_NOTHING,
                    timeout=1.0,
                    rate=Rate(1e6),
                    memory=True,
                    call=self._serve_memory,
                ),
            ),
        ]
        """What modules import: every fourth the same."""
        self._artifact = os.memfd_create("fuzz", os.MFD_CLOEXEC)
        self._told = FrameReader()
        self._pulled: dict[int, int] = {}
        wires = Wires(arena.STATUS_SIZE + 2 * HALF)
        with mock.patch.object(worker_module, "Wires", return_value=wires):
            zygote = cast("Zygote", _NoZygote())
            self.worker = Worker(1, _PROFILE, zygote, NoHierarchy({}), self)
        self.worker.host_calls.nursery = nursery
        self._channel = socket.socket(fileno=os.dup(wires.for_worker[0]))

    # --- what the worker needs (Office) ---------------------------------------------------------

    def next_call(self) -> int:
        """A call number larger than all before."""
        return next(self._numbers)

    def adopt(self, record: CallRecord) -> None:
        """Nothing is lent here."""
        raise AssertionError(record)

    def artifact(self, record: CallRecord) -> tuple[int, ModuleDescription]:
        """An artifact that nobody reads."""
        return self._artifact, ModuleDescription()

    def guard(self, metered: bool) -> tuple[int, ...]:
        """No directory is granted here."""
        raise AssertionError(metered)

    def worker_forked(self, worker: Worker) -> None:
        """It never is."""

    def worker_gone(self, worker: Worker) -> None:
        """Nothing waits for it."""

    def worker_died(self, worker: Worker, certificate: DeathCertificate) -> None:
        """Nobody is told."""

    def worker_ready(self, worker: Worker) -> None:
        """Nothing waits for it."""

    def worker_has_room(self, worker: Worker, now: float) -> None:
        """Nothing waits for it."""

    def give_back(self, records: list[CallRecord]) -> None:
        """Keep what was not begun."""
        self.back += records

    # --- what the supervisor does ---------------------------------------------------------------

    def order(self, what: What) -> None:
        """Give an order, where it can be given."""
        worker, head = self.worker, self.worker.head
        if what == "recall":
            if head is not None:
                worker.recall()
        elif what == "interrupt":
            if head is not None and head.stop is None:
                head.stop = Trap("interrupt", "stopped")
                worker.interrupt(head)
        elif what == "stop":
            worker.stop(Verdict("stopped", "supervisor"))
        elif worker.has_room(len(self.records) + 1, float("inf"), 0.0):
            self._call(what)

    def _call(self, what: What) -> None:
        outcomes: list[Outcome] = []
        self._modules += what == "load"
        command = CommandRequest((b"run",), stdin=_BUFFER) if what == "command" else None
        request = CallRequest(
            module=ModuleHandle(
                bytes([self._modules]) * 32,
                b"",
                ModuleDescription(),
                _LIMITS,
                self._functions[self._modules % len(self._functions)],
            ),
            profile=_PROFILE,
            limits=_LIMITS,
            export="run",
            buffers=_BUFFERS.get(what, ()),
            results=0 if what in ("command", "buffer") else 1,
            returns_buffer=what == "buffer",
            command=command,
            batch=self._batch() if what == "batch" else None,
        )
        record = CallRecord(
            request, outcomes.append, trio.current_time(), lambda record, outcome: None
        )
        self.records.append(record)
        self.outcomes[record] = outcomes
        self.worker.assign(record, trio.current_time())

    async def _serve(self, slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        """What the function does: it depends on its argument's size."""
        self._called.append((slots, data))
        await trio.sleep(len(data) % 3 / 10)
        if len(data) % 5 == 3:
            raise BadArgument("no text")
        if len(data) % 5 == 4:
            raise KeyError(data)
        return b"", data * 2

    async def _serve_thing(self, slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        """A thing is what its instance has: it must come back from there and nowhere else."""
        (thing,) = _CODEC.unpack(slots, data)
        assert thing is None or thing is held.get().objects
        return _CODEC.pack(held.get().objects if thing is None else None)

    async def _serve_memory(self, slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        """It wants something of each kind, one after the other and two at once."""
        orders = MemoryOrder("read", 8, 5), MemoryOrder("write", 0, 50), MemoryOrder("allocate", 9)
        found = [reaching.get().ask(order, bytes(order.size)) for order in orders]
        for order, each in zip(orders, found, strict=True):
            self._read.append((order, *await self._wait(each)))
        return b"", b""

    def _batch(self) -> BatchRequest:
        return BatchRequest(RECORDS, "fresh" if len(self.records) % 2 else "shared", _BATCHED)

    def hear(self, data: bytes) -> None:
        """Read what arrived, as the worker's reader does; a violation ends the reading for good."""
        if self.violated:
            return
        try:
            self.worker.hear(data)
        except ProtocolError as error:
            self.violated = True
            self.worker.kill(Verdict("protocol_violation", "protocol", str(error)))

    async def end(self) -> None:
        """Bury the worker: now every call has an outcome or was given back."""
        await self.worker.live()
        self._channel.close()
        os.close(self._artifact)
        assert not self.worker.records
        self._buried = True
        self.check()

    # --- what the worker could say --------------------------------------------------------------

    def good(self, what: Good, size: int) -> messages.FromWorker | None:
        """What a good worker would say now, about ``size`` bytes; ``None`` where that is
        nothing."""
        self.check_told()
        talk, head = self.worker.conversation, self.worker.head
        if what == "ready":
            return messages.Ready(messages.PROTOCOL_VERSION, "engine", True, ())
        if what == "reply" and talk.recalls:
            until = talk.recalls[0]
            return messages.Recalled(min(talk.calls[0] if talk.calls else until, until), until)
        if what == "reply" and talk.loads:
            return messages.Loaded(talk.loads[0])
        if head is None or talk.asking:
            return None
        order = self._ordered.pop(head.number, None)
        if order is not None:
            inside = size % 4 > 0 or order.what == "allocate"
            found = bytes(order.size if inside and order.what == "read" else 0)
            answer = encode(MemoryAnswer(HALF, inside, size))
            return messages.HostCall(head.number, MEMORY, answer, found, room=HALF)
        match what:
            case "ask":
                # A number that the call was given, or not; begun, waited for, collected, stopped.
                number = size // len(_ASKED)
                arguments = encode(_ASKED[size % len(_ASKED)](number))
                return messages.HostCall(head.number, NETWORK, arguments, length=size, room=HALF)
            case "import" if self._lent_to.get(head.number):
                lent = self._lent_to[head.number][0]
                slots, data = _arguments(lent, size)
                asked = encode(ImportCall(lent.number, slots))
                return messages.HostCall(head.number, IMPORT, asked, data, room=HALF)
            case "answer":
                return _answer(head, size)
            case "fail":
                return messages.Failed(head.number, messages.Failure("trap", "a trap"), Usage())
            case "skip" if head.stop is not None:
                return messages.Failed(head.number, messages.Failure("interrupted", ""), Usage())
            case "data":
                return _data(head, size)
            case _:
                return None

    def aimed(self, message: Any) -> messages.FromWorker:
        """The message, about what is due where its number is 0."""
        talk = self.worker.conversation
        due = {"call": talk.calls, "module": talk.loads, "until": talk.recalls}
        changes = {
            name: queue[0]
            for name, queue in due.items()
            if queue and getattr(message, name, None) == 0
        }
        aimed: messages.FromWorker = msgspec.structs.replace(message, **changes)
        return aimed

    # --- the books ------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that every call is in one place, and that nothing passes its bounds."""
        held = list(self.worker.records.values())
        for record in self.records:
            places = len(self.outcomes[record]) + self.back.count(record) + held.count(record)
            assert places == 1, f"call {record.number} is in {places} places"
            kept = sum(len(piece) for pieces in record.pieces.values() for piece in pieces)
            assert kept <= _LIMITS.output + STREAM_SLACK
            for outcome in self.outcomes[record]:
                _check_outcome(record, outcome)
        for slots, data in self._called:
            assert _KIND.places(slots)[0][1] == len(data) <= messages.INLINE
        for order, answer, found in self._read:
            assert answer.inside
            assert len(found) == (order.size if order.what == "read" else 0)
        if not self.violated and not self._buried:
            assert list(self.worker.conversation.calls) == list(self.worker.records)

    def check_told(self) -> None:
        """Assert of what was told since the last look: inputs come in pieces, as they are, once."""
        chunk: messages.Chunk | None = None
        try:
            data = self._channel.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        for body in self._told.feed(data):
            for message in messages.decode_to_worker(body):
                match message:
                    case messages.Chunk(call=call, length=length):
                        chunk = message
                        assert 0 < length <= HALF
                        self._pulled[call] = self._pulled.get(call, 0) + length
                        assert self._pulled[call] <= 2 * len(_BUFFER)
                    case messages.HostReturned(call=call, order=order) if order is not None:
                        self._ordered[call] = order
                    case messages.Load(module=module, lent=lent):
                        self._lent[module] = lent
                    case messages.Call(call=call, module=module):
                        self._lent_to[call] = self._lent[module]
                    case _:
                        pass
        if chunk is not None:
            starts = (arena.STATUS_SIZE + arena.bank(HALF, n)[0] for n in range(arena.BANKS))
            view, size = self.worker.wires.view, chunk.length
            assert any(bytes(view[start : start + size]) in _BUFFER for start in starts)


def _arguments(lent: messages.LentFunction, size: int) -> tuple[bytes, bytes]:
    """The slots and the data of a call of a function."""
    if lent.component:
        return b"", msgspec.msgpack.encode([[1, size] if size % 2 else [0, None]])
    if not lent.buffers:
        return b"", b""
    return b"".join(each.to_bytes(messages.SLOT, "little") for each in (8, size)), bytes(size)


def _answer(record: CallRecord, size: int) -> messages.FromWorker:
    request, batch = record.request, record.request.batch
    if batch is not None:
        done = RECORDS if record.result is not None else size % (RECORDS + 1)
        failure = messages.Failure("trap", "a trap") if done < RECORDS else None
        results = bytes(batch.results_size) if done and record.result is None else None
        return messages.BatchReturned(record.number, done, Usage(), failure, results)
    data = bytes(size) if request.returns_buffer and record.result is None else None
    code = size if request.command is not None else None
    slots = bytes(messages.SLOT * request.results)
    return messages.Returned(record.number, slots, Usage(), data, code)


def _data(record: CallRecord, size: int) -> messages.FromWorker | None:
    """The next piece of input or output."""
    request, number = record.request, record.number
    if request.batch is not None:
        size = request.batch.results_size
        return None if record.result is not None else messages.Push(number, 0, size)
    command = request.command is not None
    if command and size % 4 == 0:
        return messages.Output(number, 1 + size // 4 % 2, bytes(size))
    if request.returns_buffer or (command and size % 4 == 1):
        return messages.Push(number, int(command), min(size, BANK))
    buffer = -1 if command else size % 2
    offset = record.pulled.get(buffer, 0)
    if (command or request.buffers) and offset < len(_BUFFER):
        return messages.Pull(number, buffer, offset)
    return None


def _check_outcome(record: CallRecord, outcome: Outcome) -> None:
    request, receipt = record.request, outcome.receipt
    assert 0.0 <= receipt.wall_time <= PATIENCE, receipt
    assert 0.0 <= receipt.cpu_time <= 64 * PATIENCE, receipt
    size = len(outcome.stdout) + len(outcome.stderr) + len(outcome.data or b"")
    assert size <= _LIMITS.output + STREAM_SLACK
    if request.batch is not None:
        assert 0 <= outcome.done <= RECORDS
        assert len(outcome.data or b"") == (request.batch.results_size if outcome.done else 0)
    elif outcome.error is None:
        assert len(outcome.slots) == messages.SLOT * request.results
        assert (outcome.data is not None) == request.returns_buffer
        assert (outcome.exit_code is not None) == (request.command is not None)
    else:
        assert isinstance(outcome.error, SandboxError)
