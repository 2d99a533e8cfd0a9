"""A worker that lies: one process, one scripted behaviour, named on the command line.

Only the standard library and ``wasm_sandbox.protocol`` are used: the package's own beginning is
left out, so that the process is up in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import socket
import struct
import sys
import time
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

if __name__ == "__main__":
    package = types.ModuleType("wasm_sandbox")
    package.__path__ = [sys.argv[1]]
    sys.modules["wasm_sandbox"] = package

from wasm_sandbox.protocol import arena, control
from wasm_sandbox.protocol.description import (
    Export,
    ExternFunction,
    FunctionType,
    ModuleDescription,
)
from wasm_sandbox.protocol.framing import FrameReader
from wasm_sandbox.protocol.host_calls import ImportCall, MemoryAnswer, MemoryOrder
from wasm_sandbox.protocol.host_calls import encode as encode_call
from wasm_sandbox.protocol.messages import (
    PROTOCOL_VERSION,
    Batch,
    BatchReturned,
    Call,
    Compiled,
    CompileFailed,
    Failed,
    Failure,
    FromWorker,
    HostCall,
    HostFailed,
    HostReturned,
    LentFunction,
    Load,
    Loaded,
    Output,
    Pull,
    Push,
    Ready,
    Recalled,
    Returned,
    StartFailed,
    Stop,
    ToWorker,
    decode_to_worker,
    encode,
)
from wasm_sandbox.protocol.receipts import Usage

ARTIFACT = b"an artifact"
NEVER_SENT = 1 << 40
DESCRIPTION = ModuleDescription(
    exports=(
        Export("echo", ExternFunction(FunctionType(("i64",), ("i64",))), 0),
        Export("bytes", ExternFunction(FunctionType(("i32", "i32"), ())), 1),
        Export("_start", ExternFunction(FunctionType((), ())), 2),
    )
)


class Gone(Exception):
    """The supervisor closed the channel."""


class Wire:
    """The worker's ends of everything."""

    def __init__(self, descriptors: list[int]) -> None:
        self.descriptors = descriptors
        self.channel = descriptors[0]
        self.reader = FrameReader()
        self.inbox: deque[ToWorker] = deque()
        self.first = Call(0, 0, "", b"", 0, 0, 0)
        self.lent: dict[int, tuple[LentFunction, ...]] = {}

    # For "run" the order is: channel, control, descriptor channel, arena, stderr.

    def receive(self) -> ToWorker:
        while not self.inbox:
            data = os.read(self.channel, 1 << 16)
            if not data:
                raise Gone
            for body in self.reader.feed(data):
                self.inbox.extend(decode_to_worker(body))
        return self.inbox.popleft()

    def raw(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.channel, view) :]
        except ConnectionError:
            raise Gone from None

    def say(self, *messages: FromWorker) -> None:
        self.raw(encode(*messages))

    def ready(self) -> None:
        self.receive()
        self.say(Ready(PROTOCOL_VERSION, "hostile", True, ()))

    def call(self) -> Call:
        """The next call; loads are answered on the way, and a stop is obeyed."""
        call = self.order()
        assert isinstance(call, Call)
        return call

    def order(self) -> Call | Batch:
        """The next call or batch."""
        while True:
            message = self.receive()
            match message:
                case Call() | Batch():
                    return message
                case Load(module=module, lent=lent):
                    self.lent[module] = lent
                    passing = socket.socket(fileno=os.dup(self.descriptors[2]))
                    os.close(socket.recv_fds(passing, 1, 1)[1][0])
                    passing.close()
                    self.say(Loaded(module))
                case Stop():
                    raise Gone
                case _:
                    pass

    def begin(self, call: int) -> None:
        with mmap.mmap(self.descriptors[3], arena.DEFAULT_SIZE) as shared:
            view = memoryview(shared)
            arena.publish_begun(view, call, time.process_time_ns())
            view.release()

    def write(self, at: int, data: bytes) -> None:
        """Put something into the arena."""
        os.pwrite(self.descriptors[3], data, at)

    def control(self) -> tuple[control.Control, int]:
        return control.unpack(os.read(self.descriptors[1], control.RECORD_SIZE))

    def answer(self, call: Call) -> Returned:
        results = call.slots[:16] if call.export == "echo" else b""
        data = b"buffer" if call.returns_buffer else None
        return Returned(call.call, results, Usage(), data, 0 if call.command else None)

    def linger(self) -> None:
        """Stay until the supervisor is done with us."""
        while os.read(self.channel, 1 << 16):
            pass


BEHAVIOURS: dict[str, Callable[[Wire], None]] = {}


def behaviour(function: Callable[[Wire], None]) -> Callable[[Wire], None]:
    BEHAVIOURS[function.__name__] = function
    return function


def at_call(lie: Callable[[Wire, Call], None]) -> Callable[[Wire, Call], None]:
    """A lie in the first call that the worker gets and says that it began."""

    def play(wire: Wire) -> None:
        wire.ready()
        call = wire.call()
        wire.begin(call.call)
        lie(wire, call)
        wire.linger()

    BEHAVIOURS[lie.__name__] = play
    return lie


@behaviour
def honest(wire: Wire) -> None:
    wire.ready()
    serve(wire)


def serve(wire: Wire) -> None:
    """Answer what comes."""
    while True:
        call = wire.call()
        wire.begin(call.call)
        wire.say(wire.answer(call))


# --- bytes ---------------------------------------------------------------------------------------


@at_call
def noise(wire: Wire, call: Call) -> None:
    wire.raw(struct.pack("<I", 8) + b"\xc1" * 8)


@at_call
def wrong_direction(wire: Wire, call: Call) -> None:
    wire.raw(encode(call))


@at_call
def oversized(wire: Wire, call: Call) -> None:
    wire.raw(b"\xff\xff\xff\xff")


@at_call
def zero_length(wire: Wire, call: Call) -> None:
    wire.raw(bytes(4))


@at_call
def truncated(wire: Wire, call: Call) -> None:
    wire.raw(encode(wire.answer(call))[:-1])
    os._exit(0)


@at_call
def promised_array(wire: Wire, call: Call) -> None:
    wire.raw(struct.pack("<I", 5) + b"\xdd\xff\xff\xff\xff")


@at_call
def deep_nesting(wire: Wire, call: Call) -> None:
    body = b"\x91" * 100_000 + b"\xc0"
    wire.raw(struct.pack("<I", len(body)) + body)


# --- calls ---------------------------------------------------------------------------------------


@at_call
def replayed(wire: Wire, call: Call) -> None:
    wire.say(wire.answer(call), wire.answer(call))


@at_call
def another_call(wire: Wire, call: Call) -> None:
    wire.say(Returned(NEVER_SENT, bytes(16), Usage()))


@at_call
def next_number(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call + 1, bytes(16), Usage()))


@at_call
def negative_number(wire: Wire, call: Call) -> None:
    wire.say(Returned(-1, bytes(16), Usage()))


@at_call
def wrong_size(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call, bytes(32), Usage()))


@at_call
def exit_code(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call, call.slots[:16], Usage(), None, 0))


@at_call
def no_exit_code(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call, b"", Usage()))


@at_call
def unasked_buffer(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call, call.slots[:16], Usage(), b"x"))


@at_call
def unasked_empty_buffer(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call, call.slots[:16], Usage(), b""))


@at_call
def unknown_kind(wire: Wire, call: Call) -> None:
    wire.say(Failed(call.call, Failure("no_such_kind", ""), Usage()))


@at_call
def interrupted(wire: Wire, call: Call) -> None:
    wire.say(Failed(call.call, Failure("interrupted", ""), Usage()))


@at_call
def ready_twice(wire: Wire, call: Call) -> None:
    wire.say(Ready(PROTOCOL_VERSION, "hostile", True, ()))


@at_call
def start_failed_late(wire: Wire, call: Call) -> None:
    wire.say(StartFailed("engine", "too late"))


@at_call
def loaded_unasked(wire: Wire, call: Call) -> None:
    wire.say(Loaded(7))


@at_call
def compiled(wire: Wire, call: Call) -> None:
    wire.say(Compiled(1, DESCRIPTION, 0.0))


@at_call
def huge_strings(wire: Wire, call: Call) -> None:
    wire.say(Failed(call.call, Failure("trap", "m" * 900_000, code="c" * 100_000), Usage()))


@at_call
def strange_figures(wire: Wire, call: Call) -> None:
    usage = Usage(float("nan"), float("inf"), (1 << 64) - 1, -(1 << 63), -1)
    wire.say(Returned(call.call, call.slots[:16], usage))


@at_call
def negative_figures(wire: Wire, call: Call) -> None:
    wire.say(Returned(call.call, call.slots[:16], Usage(-1.0, float("-inf"), -1, -1, -1)))


@at_call
def strange_failure(wire: Wire, call: Call) -> None:
    failure = Failure("out_of_fuel", "", used=float("nan"), allowed=float("-inf"))
    wire.say(Failed(call.call, failure, Usage(float("nan"), float("nan"))))


# --- batches -------------------------------------------------------------------------------------


def at_batch(lie: Callable[[Wire, Batch], None]) -> Callable[[Wire, Batch], None]:
    """A lie in the first batch that the worker gets and says that it began: of one column of
    i64."""

    def play(wire: Wire) -> None:
        wire.ready()
        batch = wire.order()
        assert isinstance(batch, Batch)
        wire.begin(batch.call)
        lie(wire, batch)
        wire.linger()

    BEHAVIOURS[lie.__name__] = play
    return lie


TRAP = Failure("trap", "a trap", code="unreachable")


def ended(
    batch: Batch, done: int, failure: Failure | None = None, data: bytes | None = None
) -> BatchReturned:
    return BatchReturned(batch.call, done, Usage(), failure, data)


@at_batch
def batch_like_a_call(wire: Wire, batch: Batch) -> None:
    wire.say(Returned(batch.call, bytes(16), Usage()))


@at_call
def call_like_a_batch(wire: Wire, call: Call) -> None:
    wire.say(BatchReturned(call.call, 0, Usage(), TRAP))


@at_batch
def batch_done_beyond(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, batch.count + 1, None, bytes(8 * batch.count + 8)))


@at_batch
def batch_done_negative(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, -1, TRAP, bytes(8 * batch.count)))


@at_batch
def batch_done_and_failed(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, batch.count, TRAP, bytes(8 * batch.count)))


@at_batch
def batch_undone_for_no_reason(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, 1, None, bytes(8 * batch.count)))


@at_batch
def batch_results_short(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, batch.count, None, bytes(8 * batch.count - 1)))


@at_batch
def batch_results_long(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, batch.count, None, bytes(8 * batch.count + 1)))


@at_batch
def batch_results_missing(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, batch.count))


@at_batch
def batch_results_of_nothing(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, 0, TRAP, bytes(8 * batch.count)))


@at_batch
def batch_pushes_too_much(wire: Wire, batch: Batch) -> None:
    while True:
        wire.say(Push(batch.call, 0, 8 * batch.count))
        wire.receive()


@at_batch
def batch_pushes_and_has_more(wire: Wire, batch: Batch) -> None:
    wire.say(Push(batch.call, 0, 8 * batch.count))
    wire.receive()
    wire.say(ended(batch, batch.count, None, bytes(8 * batch.count)))


@at_batch
def batch_output(wire: Wire, batch: Batch) -> None:
    wire.say(Output(batch.call, 1, b"x"))


@at_batch
def batch_interrupted(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, 1, Failure("interrupted", ""), bytes(8 * batch.count)))


@at_batch
def batch_unknown_kind(wire: Wire, batch: Batch) -> None:
    wire.say(ended(batch, 0, Failure("no_such_kind", "")))


@at_batch
def batch_finished_two(wire: Wire, batch: Batch) -> None:
    """No lie: it dies in the third record."""
    _, outward, _ = arena.halves(arena.DEFAULT_SIZE)
    wire.write(outward, struct.pack("<qq", 10, 11))
    wire.write(16, struct.pack("<Q", 2))
    os._exit(0)


@at_batch
def batch_finished_far_more(wire: Wire, batch: Batch) -> None:
    wire.write(16, b"\xff" * 8)
    os._exit(0)


# --- transfer ------------------------------------------------------------------------------------


@at_call
def pull_outside(wire: Wire, call: Call) -> None:
    wire.say(Pull(call.call, 0, call.buffers[0].size))


@at_call
def pull_negative(wire: Wire, call: Call) -> None:
    wire.say(Pull(call.call, 0, -1))


@at_call
def pull_missing(wire: Wire, call: Call) -> None:
    wire.say(Pull(call.call, 1, 0))


@at_call
def pull_stdin(wire: Wire, call: Call) -> None:
    wire.say(Pull(call.call, -1, 0))


@at_call
def pull_again(wire: Wire, call: Call) -> None:
    wire.say(Pull(call.call, 0, 0), Pull(call.call, 0, 0))


@at_call
def pull_other_negative(wire: Wire, call: Call) -> None:
    """Stdin has one number; others must not be other ways to it."""
    wire.say(Pull(call.call, -2, 0))


@at_call
def push_nothing(wire: Wire, call: Call) -> None:
    wire.say(Push(call.call, 0, 0))


@at_call
def push_negative(wire: Wire, call: Call) -> None:
    wire.say(Push(call.call, 0, -1))


@at_call
def push_beyond(wire: Wire, call: Call) -> None:
    wire.say(Push(call.call, 0, arena.halves(arena.DEFAULT_SIZE)[2] + 1))


@at_call
def push_over_its_bank(wire: Wire, call: Call) -> None:
    half = arena.halves(arena.DEFAULT_SIZE)[2]
    wire.say(Push(call.call, 0, arena.bank(half, 0)[1] + 1))


@at_call
def push_from_no_bank(wire: Wire, call: Call) -> None:
    wire.say(Push(call.call, 0, 1, arena.BANKS))


@at_call
def push_from_before_all_banks(wire: Wire, call: Call) -> None:
    wire.say(Push(call.call, 0, 1, -1))


@at_call
def push_nowhere(wire: Wire, call: Call) -> None:
    wire.say(Push(call.call, 3, 1))


@at_call
def push_for_ever(wire: Wire, call: Call) -> None:
    while True:
        wire.say(Push(call.call, 0, 1 << 20))


@at_call
def output_for_ever(wire: Wire, call: Call) -> None:
    while True:
        wire.say(Output(call.call, 1, bytes(1 << 15)))


@at_call
def output_nowhere(wire: Wire, call: Call) -> None:
    wire.say(Output(call.call, 0, b"x"))


@at_call
def empty_output(wire: Wire, call: Call) -> None:
    wire.say(*[Output(call.call, 1, b"")] * 1000)


@at_call
def changes_after_push(wire: Wire, call: Call) -> None:
    """The supervisor copies what is pushed before it looks: what comes later changes nothing."""
    outward = arena.halves(arena.DEFAULT_SIZE)[1]
    with mmap.mmap(wire.descriptors[3], arena.DEFAULT_SIZE) as shared:
        shared[outward : outward + 5] = b"first"
        wire.say(Push(call.call, 0, 5))
        wire.receive()
        shared[outward : outward + 5] = b"later"
    wire.say(Returned(call.call, b"", Usage()))


@at_call
def resizes_arena(wire: Wire, call: Call) -> None:
    """A truncated mapping would end the supervisor by SIGBUS; the answer says what succeeded."""
    done = 0
    for size in (0, 4096, 1 << 30):
        try:
            os.ftruncate(wire.descriptors[3], size)
            done += 1
        except PermissionError:
            pass
    try:
        fcntl.fcntl(wire.descriptors[3], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        done += 1
    except OSError:
        pass
    wire.say(Returned(call.call, struct.pack("<qq", done, 0), Usage()))


# --- host calls ----------------------------------------------------------------------------------

CLOSE = b"\x92\x07\x01"
"""The arguments of a host call that closes the handle 1."""


@at_call
def host_call_of_another(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call + 1, "network", CLOSE))


@at_call
def host_call_unknown(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "os.system", CLOSE))


@at_call
def host_call_garbage(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", b"\xc1"))


@at_call
def host_call_nested(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", b"\x91" * 100_000))


@at_call
def host_call_oversize_arguments(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE + bytes(1 << 17)))


@at_call
def host_call_oversize_data(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE, bytes((1 << 15) + 1)))


@at_call
def host_call_beyond_the_arena(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE, None, arena.halves(arena.DEFAULT_SIZE)[2] + 1))


@at_call
def host_call_negative_length(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE, None, -1))


@at_call
def host_call_too_much_room(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE, None, 0, 1 << 62))


@at_call
def host_call_negative_room(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE, None, 0, -1))


@at_call
def host_call_twice(wire: Wire, call: Call) -> None:
    wire.say(*[HostCall(call.call, "network", CLOSE)] * 2)


@at_call
def host_call_begun_in_a_begun_one(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", b"\x92\x09\x92\x09\x92\x05\x01"))


@at_call
def host_call_waits_for_nothing(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", b"\x93\x0a\x90\xc0"))


@at_call
def host_call_waits_for_a_negative_time(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", b"\x93\x0a\x91\x01\xff"))


@at_call
def host_call_flood(wire: Wire, call: Call) -> None:
    while True:
        wire.say(*[HostCall(call.call, "network", CLOSE)] * 100)


@at_call
def import_that_is_not_there(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "import", encode_call(ImportCall(99, b""))))


@behaviour
def import_of_another_module(wire: Wire) -> None:
    """The first call's function, in a call of another module."""
    wire.ready()
    first = wire.call()
    wire.say(wire.answer(first))
    second = wire.call()
    wire.begin(second.call)
    number = wire.lent[first.module][0].number
    wire.say(HostCall(second.call, "import", encode_call(ImportCall(number, bytes(32))), b""))
    wire.linger()


def _import(wire: Wire, call: Call, slots: bytes, data: bytes = b"", room: int = 0) -> HostCall:
    number = wire.lent[call.module][0].number
    return HostCall(call.call, "import", encode_call(ImportCall(number, slots)), data, 0, room)


def returned_thing(wire: Wire) -> object:
    """The number of a thing that the function gave, if it gave one."""
    answer = wire.receive()
    assert isinstance(answer, HostReturned)
    assert answer.data is not None
    return msgspec.msgpack.decode(answer.data)[1]


def fail_as_told(wire: Wire, call: Call) -> None:
    """End the call as the supervisor says, and go on."""
    answer = wire.receive()
    assert isinstance(answer, HostFailed)
    wire.say(Failed(call.call, answer.failure, Usage()))
    serve(wire)


def _component_import(wire: Wire, call: Call, *values: object) -> HostCall:
    return _import(wire, call, b"", msgspec.msgpack.encode(values), 1000)


@at_call
def component_import_with_slots(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, bytes(16)))


@at_call
def component_import_of_garbage(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, b"", b"\xc1"))
    fail_as_told(wire, call)


@at_call
def component_import_of_many_values(wire: Wire, call: Call) -> None:
    wire.say(_component_import(wire, call, [0, None], [0, None]))
    fail_as_told(wire, call)


@at_call
def component_import_of_no_value(wire: Wire, call: Call) -> None:
    wire.say(_component_import(wire, call, [1, "text"]))
    fail_as_told(wire, call)


@at_call
def component_import_of_a_thing_of_nobodys(wire: Wire, call: Call) -> None:
    wire.say(_component_import(wire, call, [1, 1]))
    fail_as_told(wire, call)


@behaviour
def component_import_of_a_thing_of_anothers(wire: Wire) -> None:
    """The first call's instance gets a thing, and the second's names it."""
    wire.ready()
    first = wire.call()
    wire.begin(first.call)
    wire.say(_component_import(wire, first, [0, None]))
    number = returned_thing(wire)
    wire.say(wire.answer(first))
    second = wire.call()
    wire.begin(second.call)
    wire.say(_component_import(wire, second, [1, number]))
    fail_as_told(wire, second)


@at_call
def component_import_of_a_thing_given_twice(wire: Wire, call: Call) -> None:
    wire.say(_component_import(wire, call, [0, None]))
    number = returned_thing(wire)
    wire.say(_component_import(wire, call, [1, number]))
    returned_thing(wire)
    wire.say(_component_import(wire, call, [1, number]))
    fail_as_told(wire, call)


def _memory(call: Call, data: bytes | None = None, **answer: Any) -> HostCall:
    return HostCall(call.call, "memory", encode_call(MemoryAnswer(65536, **answer)), data)


def instead(lie: Callable[[Wire, Call], None]) -> Callable[[Wire, Call], None]:
    """A lie where an order, to read 8 bytes, is to be answered."""

    def play(wire: Wire, call: Call) -> None:
        wire.say(_import(wire, call, bytes(32)))
        answer = wire.receive()
        assert isinstance(answer, HostReturned)
        assert answer.order == MemoryOrder("read", 16, 8)
        lie(wire, call)

    play.__name__ = lie.__name__
    return at_call(play)


@at_call
def memory_of_nobody(wire: Wire, call: Call) -> None:
    wire.say(_memory(call))


@at_call
def memory_before_an_order(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, bytes(32)), _memory(call, bytes(8)))


@instead
def memory_short(wire: Wire, call: Call) -> None:
    wire.say(_memory(call, bytes(7)))


@instead
def memory_long(wire: Wire, call: Call) -> None:
    wire.say(_memory(call, bytes(9)))


@instead
def memory_from_outside(wire: Wire, call: Call) -> None:
    wire.say(_memory(call, bytes(8), inside=False))


@instead
def memory_garbage(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "memory", b"\x93\xff\xc3\x00", bytes(8)))


@instead
def memory_twice(wire: Wire, call: Call) -> None:
    wire.say(*[_memory(call, bytes(8))] * 2)


@instead
def memory_and_a_call_in_it(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, bytes(32)))


@instead
def memory_and_the_network(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE))


@instead
def memory_and_the_end(wire: Wire, call: Call) -> None:
    wire.say(wire.answer(call))


@instead
def memory_silence(wire: Wire, call: Call) -> None:
    while True:
        wire.receive()


@instead
def memory_honest(wire: Wire, call: Call) -> None:
    wire.say(_memory(call, b"eight of"))
    answer = wire.receive()
    assert isinstance(answer, HostReturned)
    wire.say(Returned(call.call, answer.results, Usage()))
    serve(wire)


@at_call
def import_with_too_few_slots(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, bytes(16)))


@at_call
def import_with_too_many_slots(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, bytes(48)))


@at_call
def import_with_fewer_bytes(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, struct.pack("<QQQQ", 0, 0, 5, 0), b"four"))


@at_call
def import_with_more_bytes(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, struct.pack("<QQQQ", 0, 0, 3, 0), b"four"))


@at_call
def import_garbage(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "import", b"\xc1"))


@at_call
def import_twice(wire: Wire, call: Call) -> None:
    wire.say(*[_import(wire, call, bytes(32))] * 2)


@at_call
def import_without_room(wire: Wire, call: Call) -> None:
    """As a guest's call would, but for the room: what comes back does not fit."""
    wire.say(_import(wire, call, struct.pack("<QQQQ", 0, 0, 4, 0), b"ACME"))
    assert isinstance(wire.receive(), HostFailed)
    wire.say(Failed(call.call, Failure("interrupted", "", code="interrupt"), Usage()))


@at_call
def import_honest(wire: Wire, call: Call) -> None:
    wire.say(_import(wire, call, struct.pack("<QQQQ", 0, 0, 4, 0), b"ACME", 100))
    answer = wire.receive()
    assert isinstance(answer, HostReturned)
    assert answer.data is not None
    wire.say(Returned(call.call, struct.pack("<qq", len(answer.data), 0), Usage()))


@at_call
def returns_while_asking(wire: Wire, call: Call) -> None:
    wire.say(HostCall(call.call, "network", CLOSE), wire.answer(call))


@behaviour
def host_call_between_calls(wire: Wire) -> None:
    """After its call has ended."""
    wire.ready()
    call = wire.call()
    wire.begin(call.call)
    wire.say(wire.answer(call), HostCall(call.call, "network", CLOSE))
    wire.linger()


@at_call
def asks_and_stays(wire: Wire, call: Call) -> None:
    """Hears that its call is over, and goes on."""
    wire.say(HostCall(call.call, "network", b"\x93\x03\xa9localhost\x01"))
    assert isinstance(wire.receive(), HostFailed)
    time.sleep(60)


@at_call
def asks_for_the_network(wire: Wire, call: Call) -> None:
    """As a guest that has taken its worker over may, whatever it was granted."""
    url = b"http://127.0.0.1:1/"
    request = b"\x94\x01\xa3GET" + bytes([0xA0 + len(url)]) + url + b"\x90"
    wire.say(HostCall(call.call, "network", request))
    answer = wire.receive()
    assert isinstance(answer, HostReturned)
    errno = answer.results[1]
    wire.say(Returned(call.call, struct.pack("<qq", errno, 0), Usage()))


# --- ends ----------------------------------------------------------------------------------------


@at_call
def exits(wire: Wire, call: Call) -> None:
    os._exit(0)


@at_call
def exits_badly(wire: Wire, call: Call) -> None:
    os.write(2, b"\xff last words")
    os._exit(1)


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(60)


@at_call
def segfaults(wire: Wire, call: Call) -> None:
    _die(signal.SIGSEGV)


@at_call
def dies_by_nameless_signal(wire: Wire, call: Call) -> None:
    _die(signal.SIGRTMIN + 1)


@at_call
def killed(wire: Wire, call: Call) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@at_call
def closes_and_lives(wire: Wire, call: Call) -> None:
    os.close(wire.channel)
    time.sleep(60)


@at_call
def closes_its_ears(wire: Wire, call: Call) -> None:
    """Takes no more orders, and goes on."""
    os.close(wire.descriptors[1])
    wire.say(Output(call.call, 1, b"x"))


@behaviour
def takes_no_modules(wire: Wire) -> None:
    os.close(wire.descriptors[2])
    wire.ready()
    wire.linger()


@at_call
def stops_reading(wire: Wire, call: Call) -> None:
    time.sleep(60)


@at_call
def begun_everything(wire: Wire, call: Call) -> None:
    wire.begin((1 << 64) - 1)
    os._exit(1)


@behaviour
def begun_nothing(wire: Wire) -> None:
    """It takes a call, denies it, and dies: as a guest that has taken its worker over may do."""
    wire.ready()
    wire.call()
    wire.begin(0)
    os._exit(1)


@behaviour
def idle_flood(wire: Wire) -> None:
    """Frames that say nothing, from a worker that has nothing to do."""
    wire.ready()
    call = wire.call()
    wire.begin(call.call)
    wire.say(wire.answer(call))
    while True:
        wire.raw(encode() * 1000)


@behaviour
def idle_garbage(wire: Wire) -> None:
    wire.ready()
    call = wire.call()
    wire.begin(call.call)
    wire.say(wire.answer(call))
    wire.raw(bytes(4))
    wire.linger()


# --- starts --------------------------------------------------------------------------------------


@behaviour
def never_ready(wire: Wire) -> None:
    wire.linger()


@behaviour
def start_failed(wire: Wire) -> None:
    wire.receive()
    wire.say(StartFailed("w" * 1000, "r" * 10_000))
    wire.linger()


@behaviour
def early_output(wire: Wire) -> None:
    wire.say(Output(1, 1, b"x"))
    wire.linger()


@behaviour
def dead_at_once(wire: Wire) -> None:
    os._exit(3)


# --- recalls -------------------------------------------------------------------------------------


@at_call
def recall_unasked(wire: Wire, call: Call) -> None:
    wire.say(Recalled(0, call.call))


def recalling(lie: Callable[[Wire, list[Call]], None]) -> Callable[[Wire, list[Call]], None]:
    """A lie about three calls that the worker holds, once those behind the first are recalled."""

    def play(wire: Wire) -> None:
        wire.ready()
        calls = [wire.call()]
        wire.begin(calls[0].call)
        calls += [wire.call(), wire.call()]
        assert wire.control()[0] is control.Control.RECALL
        lie(wire, calls)
        wire.linger()

    BEHAVIOURS[lie.__name__] = play
    return lie


@recalling
def recall_beyond(wire: Wire, calls: list[Call]) -> None:
    wire.say(Recalled(NEVER_SENT, calls[-1].call))


@recalling
def recall_other(wire: Wire, calls: list[Call]) -> None:
    wire.say(Recalled(calls[0].call, calls[1].call))


@recalling
def recall_twice(wire: Wire, calls: list[Call]) -> None:
    wire.say(*[Recalled(calls[0].call, calls[-1].call)] * 2)


@recalling
def answer_recalled(wire: Wire, calls: list[Call]) -> None:
    wire.say(Recalled(calls[0].call, calls[-1].call), wire.answer(calls[1]))


@recalling
def recall_spoken(wire: Wire, calls: list[Call]) -> None:
    """The first call has written output, and is then said not to have begun."""
    wire.say(Output(calls[0].call, 1, b"x"), Recalled(0, calls[-1].call))


@recalling
def recall_all_and_stay(wire: Wire, calls: list[Call]) -> None:
    """Gives everything back and does not end when it is asked to."""
    while not isinstance(wire.receive(), Stop):
        pass
    wire.say(Recalled(0, calls[-1].call))


@recalling
def recall_the_interrupted(wire: Wire, calls: list[Call]) -> None:
    """Another call comes to the head while the deadline of the one that was stopped still runs."""
    wire.say(wire.answer(calls[0]))
    late = wire.call()
    assert wire.control() == (control.Control.INTERRUPT, calls[1].call)
    wire.say(Recalled(calls[0].call, calls[-1].call))
    wire.begin(late.call)
    time.sleep(0.2)
    wire.say(wire.answer(late))
    serve(wire)


# --- compilers: channel, module, artifact, stderr -----------------------------------------------


def _write(wire: Wire) -> None:
    os.write(wire.descriptors[2], ARTIFACT)


@behaviour
def compile_honest(wire: Wire) -> None:
    wire.receive()
    _write(wire)
    wire.say(Compiled(len(ARTIFACT), DESCRIPTION, 0.0))


@behaviour
def compile_lies_about_size(wire: Wire) -> None:
    wire.receive()
    _write(wire)
    wire.say(Compiled(len(ARTIFACT) + 1, DESCRIPTION, 0.0))


@behaviour
def compile_hole(wire: Wire) -> None:
    """An artifact of a terabyte, all but the last byte of it a hole."""
    wire.receive()
    os.truncate(wire.descriptors[2], 1 << 40)
    wire.say(Compiled(1 << 40, DESCRIPTION, 0.0))


@behaviour
def compile_empty(wire: Wire) -> None:
    wire.receive()
    wire.say(Compiled(0, DESCRIPTION, 0.0))


@behaviour
def compile_returned(wire: Wire) -> None:
    wire.receive()
    wire.say(Returned(1, b"", Usage()))
    wire.linger()


@behaviour
def compile_twice(wire: Wire) -> None:
    """The first answer counts; nobody listens to a second."""
    wire.receive()
    _write(wire)
    wire.say(*[Compiled(len(ARTIFACT), DESCRIPTION, 0.0)] * 2)


@behaviour
def compile_unknown_kind(wire: Wire) -> None:
    wire.receive()
    wire.say(CompileFailed(Failure("no_such_kind", "")))


@behaviour
def compile_mapped(wire: Wire) -> None:
    """A process of the compiler's own keeps the artifact mapped, writable, after its death."""
    wire.receive()
    _write(wire)
    mapping = mmap.mmap(wire.descriptors[2], len(ARTIFACT))
    if os.fork() == 0:
        wire.linger()
        mapping.close()
        os._exit(0)
    wire.say(Compiled(len(ARTIFACT), DESCRIPTION, 0.0))


@behaviour
def compile_dead(wire: Wire) -> None:
    os._exit(0)


@behaviour
def compile_nameless_signal(wire: Wire) -> None:
    wire.receive()
    _die(signal.SIGRTMIN + 1)


@behaviour
def compile_start_failed(wire: Wire) -> None:
    wire.receive()
    wire.say(StartFailed("seccomp", "refused"))


def main(name: str, descriptors: list[int]) -> None:
    with contextlib.suppress(Gone, ConnectionError):
        BEHAVIOURS[name](Wire(descriptors))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[2], [int(number) for number in sys.argv[3:]])
