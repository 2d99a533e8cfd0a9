"""The messages. A frame's body is one MessagePack array of messages of one direction.

Frozen, tagged, array-like: new fields go at the end and have defaults. There is one typed decoder
for each direction, made once; what it does not accept is a ``ProtocolError``.

Numbers cross as *slots*: 16 bytes for each value, little-endian, the value in the low bytes (the
layout of the engine's raw values), so any bytes of the right length are valid and NaN payloads
survive.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from .batch import Mode
from .description import FunctionType, ModuleDescription
from .errors import LONGEST, ProtocolError, printable
from .framing import frame
from .host_calls import MemoryOrder
from .profile import Profile
from .receipts import Usage

PROTOCOL_VERSION = 1
SLOT = 16
"""Bytes of a value."""
INLINE = 1 << 15
"""Buffers up to this many bytes travel in the frame; larger ones through the arena, in chunks."""
ARGUMENTS = 1 << 17
"""Bytes that the arguments of a host call may have, beside its data."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a call, a load or a compilation failed.

    ``kind`` is a name out of ``wasm_sandbox.protocol.failures``; the other fields are the evidence.
    """

    kind: str
    message: str
    hint: str = ""
    code: str = ""
    backtrace: tuple[str, ...] = ()
    limit: str = ""
    used: float | None = None
    allowed: float | None = None
    exit_code: int = 0


# --- supervisor to worker ------------------------------------------------------------------------


class Configure(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message of all: who the worker is. Answered by ``Ready`` or ``StartFailed``."""

    version: int
    worker: int
    profile: Profile
    arena_size: int
    data_limit: int
    """``RLIMIT_DATA`` in bytes; 0 leaves it alone."""


class ConfigureCompiler(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """First and only message to a compiler: the module is in its input descriptor."""

    version: int
    worker: int
    metered: bool
    size: int
    data_limit: int


class LentFunction(msgspec.Struct, frozen=True, array_like=True):
    """A function of the caller's process, as a worker lends it to a module that imports it."""

    module: str
    name: str
    type: FunctionType
    buffers: tuple[int, ...] = ()
    """The parameters that are pointers to bytes; how many bytes, says the parameter after each."""
    result: Literal["", "packed", "pair"] = ""
    """Whether the result is bytes, and how their place is told: ``(ptr << 32) | len``, or both."""
    number: int = 0
    """What ``ImportCall`` names it by: unique in its worker; 0 where it runs in the worker."""
    component: bool = False
    """Whether a component imports it: its arguments and its result are wire values
    (``worker/components/abi.py``), each side one buffer of MessagePack. ``module`` is the interface
    then, and ``type`` only of one that runs in the worker, with the names of WIT's numbers."""

    @property
    def pointer(self) -> str:
        """The type of a pointer into the guest's memory."""
        if self.buffers:
            return self.type.params[self.buffers[0]]
        return "i32" if self.result == "packed" else self.type.results[0]

    def places(self, slots: bytes) -> list[tuple[int, int]]:
        """(address, size) of each buffer of a call with these arguments."""
        width = 8 if self.buffers and self.pointer == "i64" else 4
        return [
            (
                int.from_bytes(slots[SLOT * at : SLOT * at + width], "little"),
                int.from_bytes(slots[SLOT * (at + 1) : SLOT * (at + 1) + width], "little"),
            )
            for at in self.buffers
        ]


class Load(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Take a module's verified artifact, whose descriptor follows on the descriptor channel."""

    module: int
    description: ModuleDescription
    lent: tuple[LentFunction, ...] = ()
    """What the module imports that is neither WASI nor the worker's own."""
    companion: bool = False
    """Whether it is a module of ours, which only runs beside another (``trampoline``)."""


class Unload(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Forget a module. Not answered."""

    module: int


class BufferArgument(msgspec.Struct, frozen=True, array_like=True):
    """Bytes for the guest: ``slot`` and ``slot + 1`` get its pointer and length."""

    slot: int
    size: int
    data: bytes | None = None
    """The bytes, or ``None``: the worker pulls them through the arena."""


class Command(msgspec.Struct, frozen=True, array_like=True):
    """What a WASI command gets."""

    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...] = ()
    stdin: BufferArgument | None = None
    stdin_descriptor: bool = False
    """Whether a descriptor to read stdin from follows on the descriptor channel."""
    streams: bool = False
    """Whether two more follow, of pipes to write stdout and stderr to: nothing of them is said in
    ``Output`` then."""


class Call(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Run an export in a fresh instance. Answered by ``Returned`` or ``Failed``, in order of the
    calls."""

    call: int
    module: int
    export: str
    slots: bytes
    memory: int
    table_elements: int
    output: int
    fuel: int | None = None
    buffers: tuple[BufferArgument, ...] = ()
    returns_buffer: bool = False
    command: Command | None = None
    env: tuple[tuple[bytes, bytes], ...] = ()
    """Environment of a module that imports WASI and is no command."""


FROM_WASI = -1
"""As the instance of a binding: the import is satisfied by WASI."""
FROM_HOST = -2
"""Likewise: by the host function of the import's own module and name."""


class Instantiate(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """In a stateful worker: make instance ``instance``; ``bindings`` are (instance, export) for
    each import, or ``None`` for the only instance of its worker: the host gives what it imports,
    and it is initialized."""

    call: int
    module: int
    instance: int
    bindings: tuple[tuple[int, str], ...] | None = ()
    fuel: int | None = None
    output: int = 0
    env: tuple[tuple[bytes, bytes], ...] = ()
    """Environment of all instances; only the first may bring it."""


class Invoke(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """In a stateful worker: call an export of a kept instance."""

    call: int
    instance: int
    export: str
    slots: bytes
    fuel: int | None = None
    output: int = 0
    buffers: tuple[BufferArgument, ...] = ()
    returns_buffer: bool = False


class ReadGlobal(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """In a stateful worker: read an exported global. Answered by ``Returned`` with one slot."""

    call: int
    instance: int
    export: str


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Answer to ``Pull``: ``length`` bytes lie in a bank of the arena's inward half, the next piece
    of the buffer in the bank that comes next."""

    call: int
    length: int


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Answer to ``Push``: its bank is free again."""

    call: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Finish what was begun and exit with status 0."""


class HostReturned(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Answer to ``HostCall``. Its data is here, or ``length`` bytes of it lie in the inward half of
    the arena; never more than there is room for. With an ``order`` it is no answer yet: the worker
    carries that out and says so in another ``HostCall``."""

    call: int
    results: bytes
    data: bytes | None = None
    length: int = 0
    order: MemoryOrder | None = None


class HostFailed(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Answer to ``HostCall``: the guest must not go on; the call ends with ``failure``."""

    call: int
    failure: Failure


class Guard(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Take the verified artifacts of the modules that stand between guests and their directories.

    Their descriptors follow on the descriptor channel, in the order of ``Hello.guard``. Comes once,
    before the first call of a worker that is granted directories, or whose output is streamed. Not
    answered.
    """


class ReadMemory(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """In a stateful worker: read ``length`` bytes of an exported memory, or as many as there are
    from ``start`` on. Answered by ``Returned`` with the bytes as its buffer."""

    call: int
    instance: int
    export: str
    start: int
    length: int


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Run an export for ``count`` records, in order, as ``mode`` says. Answered by
    ``BatchReturned``."""

    call: int
    module: int
    export: str
    count: int
    mode: Mode
    arguments: BufferArgument
    """Columns (``batch``)."""
    memory: int
    table_elements: int
    fuel: int | None = None
    trampoline: int = 0
    """Number of the module that loops over the records; 0 where there is none."""


class Freeze(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """In a stateful worker: make a module whose instances begin as a kept instance is now, of the
    ``source`` that the instance's own module was made of. Answered by ``Returned``, after the
    module's bytes were pushed; never more than ``output`` of them."""

    call: int
    instance: int
    source: BufferArgument
    output: int


class WriteMemory(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """In a stateful worker: put ``content`` into an exported memory from ``start`` on, all of it or
    nothing. Answered by ``Returned`` or ``Failed``."""

    call: int
    instance: int
    export: str
    start: int
    content: BufferArgument


Task = Call | Instantiate | Invoke | ReadGlobal | ReadMemory | WriteMemory | Freeze
"""What is answered by ``Returned`` or ``Failed``."""

ToWorker = (
    Configure
    | ConfigureCompiler
    | Load
    | Unload
    | Call
    | Instantiate
    | Invoke
    | ReadGlobal
    | Chunk
    | Taken
    | Stop
    | HostReturned
    | HostFailed
    | Guard
    | ReadMemory
    | Batch
    | Freeze
    | WriteMemory
)


# --- worker to supervisor ------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """The jail is on, the engine is up."""

    version: int
    engine: str
    raw_path: bool
    """Whether calls go through the engine's raw C interface; if not, ``note`` says why."""
    walls: tuple[str, ...]
    """Names of the walls that stand."""
    missing: tuple[tuple[str, str], ...] = ()
    """(wall, why it could not be built)."""
    note: str = ""


class StartFailed(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """The worker could not be made; it exits."""

    wall: str
    reason: str


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """Answer to ``Load``."""

    module: int


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=36):
    """Answer to ``Load``: the calls for this module fail the same way."""

    module: int
    failure: Failure


class Returned(msgspec.Struct, frozen=True, array_like=True, tag=37):
    """The call returned. ``data`` is its buffer where that is small; a larger one was pushed
    before."""

    call: int
    slots: bytes
    usage: Usage
    data: bytes | None = None
    exit_code: int | None = None


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=38):
    """The call failed, or was interrupted before it began."""

    call: int
    failure: Failure
    usage: Usage


class Output(msgspec.Struct, frozen=True, array_like=True, tag=39):
    """The guest wrote to stdout (1) or stderr (2)."""

    call: int
    stream: int
    data: bytes


class Pull(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """The running call wants the bytes of its buffer ``buffer`` (-1: stdin) from ``offset`` on."""

    call: int
    buffer: int
    offset: int


class Push(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """``length`` bytes of the running call's result (0) or of its output (1, 2) lie in a bank of
    the arena's outward half."""

    call: int
    stream: int
    length: int
    bank: int = 0


class Recalled(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """Answer to a recall: calls after ``begun`` and up to ``until`` were not begun, and never
    will be."""

    begun: int
    until: int


class Compiled(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """The artifact of ``size`` bytes lies in the output descriptor."""

    size: int
    description: ModuleDescription
    seconds: float


class CompileFailed(msgspec.Struct, frozen=True, array_like=True, tag=44):
    """The module was refused."""

    failure: Failure


class HostCall(msgspec.Struct, frozen=True, array_like=True, tag=45):
    """The running call wants something of the supervisor's side, and waits. Answered by
    ``HostReturned`` or ``HostFailed``; until then nothing else is said of the call. Its data is
    here, or ``length`` bytes of it lie in the outward half of the arena."""

    call: int
    function: str
    arguments: bytes
    data: bytes | None = None
    length: int = 0
    room: int = 0
    """Bytes of data that may come back."""


class BatchReturned(msgspec.Struct, frozen=True, array_like=True, tag=48):
    """The first ``done`` records returned. If those are not all, the next one failed with
    ``failure``, or, where that is ``None``, has to be run again by itself; those after it were not
    begun.

    The columns of results, with room for all records, are ``data``, or were pushed before; there
    are none where nothing is done.
    """

    call: int
    done: int
    usage: Usage
    failure: Failure | None = None
    data: bytes | None = None


FromWorker = (
    Ready
    | StartFailed
    | Loaded
    | LoadFailed
    | Returned
    | Failed
    | Output
    | Pull
    | Push
    | Recalled
    | Compiled
    | CompileFailed
    | HostCall
    | BatchReturned
)

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()
_from_worker = msgspec.msgpack.Decoder(tuple[FromWorker, ...])
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)
_to_worker = msgspec.msgpack.Decoder(tuple[ToWorker, ...])


def encode(*messages: ToWorker | FromWorker) -> bytes:
    """One frame that carries ``messages``."""
    return frame(_encoder.encode(messages))


def decode_from_worker(body: bytes) -> tuple[FromWorker, ...]:
    """The messages of a frame from a worker.

    Raises:
        ProtocolError: not MessagePack, or no message of this direction.
    """
    return _decoded(_from_worker, body)


def decode_to_worker(body: bytes) -> tuple[ToWorker, ...]:
    """The messages of a frame from the supervisor.

    Raises:
        ProtocolError: not MessagePack, or no message of this direction.
    """
    return _decoded(_to_worker, body)


def _decoded(decoder: msgspec.msgpack.Decoder[tuple[M, ...]], body: bytes) -> tuple[M, ...]:
    try:
        messages = decoder.decode(body)
    except _UNDECODABLE as error:
        why = printable(str(error)[:LONGEST])
        raise ProtocolError(f"a frame does not decode: {why}") from None
    if not messages:
        raise ProtocolError("a frame without a message")
    return messages
