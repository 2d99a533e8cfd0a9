"""What a guest may ask of the supervisor's side through ``HostCall``: the network's requests, the
errors that answer them, and the caller's own functions, which may want something of the guest's
memory first. No I/O.

The worker turns what the guest wrote into one of these structs; the supervisor decodes it by type.
Bulk data (a body, bytes to write, the bytes that arguments point to) travels beside it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal, TypeVar

import msgspec

from .errors import LONGEST, ProtocolError, printable

T = TypeVar("T")
NETWORK = "network"
"""The function that a ``HostCall`` names for these requests."""
IMPORT = "import"
"""The function that a ``HostCall`` names where the guest calls one of the caller's process: its
arguments are an ``ImportCall``, its results the slots that the function returned."""
MEMORY = "memory"
"""The function that a ``HostCall`` names where the worker has carried out a ``MemoryOrder``: its
arguments are a ``MemoryAnswer``. What answers it is the next order, or the answer of the function
that waited."""


class Errno(IntEnum):
    """What a guest is told; the numbers are those of WASI preview 1 (witx, "errno"), so that a C
    library's ``errno`` and ``strerror`` know them."""

    SUCCESS = 0
    ACCES = 2
    """The policy does not grant it."""
    BADF = 8
    CONNABORTED = 13
    CONNREFUSED = 14
    CONNRESET = 15
    DQUOT = 19
    """The call has received, or sent, all that it may."""
    FAULT = 21
    HOSTUNREACH = 23
    INVAL = 28
    """What was asked is malformed."""
    IO = 29
    MFILE = 33
    """The call has as many connections as it may."""
    MSGSIZE = 35
    NETUNREACH = 40
    NOENT = 44
    """There is no host of that name."""
    PIPE = 64
    PROTO = 65
    """The server does not keep to the protocol, or has no certificate that holds."""
    RANGE = 68
    """The buffer is too small; how large it must be is said."""
    TIMEDOUT = 73


class Cause(IntEnum):
    """What failed, where the error number does not say it."""

    NONE = 0
    METHOD = 1
    """Of ``INVAL``, as the next two: what is wrong with the request."""
    URL = 2
    HEADERS = 3
    LOOKUP = 4
    ADDRESS = 5
    """Of ``ACCES``: the host is granted, but not with the address that it has."""
    CONNECT = 6
    TLS = 7
    CERTIFICATE = 8
    ALERT = 9
    """TLS ended with an alert of the server's."""
    SEND = 10
    RECEIVE = 11
    HEAD_SIZE = 12
    """Of ``PROTO``: the head of the response is too large."""
    INCOMPLETE = 13
    """Of ``PROTO``: the connection ended before the response did."""


Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""How long something may take; 0 is as long as the supervisor's side allows, which is never
exceeded."""


class HttpRequest(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Send a request, whose body travels beside it, and wait for the head of the response; the
    answer's value is a handle."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    connect: Seconds = 0
    respond: Seconds = 0
    """Until the head of the response is there."""


class ReadHead(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The head of a response, as text; the value is its size."""

    handle: int


class TcpConnect(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Connect; the value is a handle."""

    host: str
    port: int


class Read(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Some bytes of a body or of a stream; none at its end."""

    handle: int
    within: Seconds = 0


class Write(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Send the bytes beside it."""

    handle: int


class Shutdown(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Say that nothing more will be written."""

    handle: int


class Close(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Close a handle."""

    handle: int


WAITED = 4096
"""Requests that can be waited for at once."""


class LookUp(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The addresses of a name, one in each line, that the call may have."""

    name: str


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Begin a request, and do not wait for it; the value is a ticket. Of what is read, at most
    ``protocol.host_calls.BEGUN`` bytes come."""

    request: HttpRequest | TcpConnect | Read | Write | LookUp


class Wait(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Wait until a request that was begun has ended, at most so many seconds, and without end
    where they are ``None``. The data are the places of those that have, two bytes each."""

    tickets: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=WAITED)]
    seconds: Seconds | None = None


class Collect(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The answer of a request that has ended; its ticket is used up."""

    ticket: int


class Abandon(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Stop a request that was begun, and close what it opened."""

    ticket: int


NetworkRequest = (
    HttpRequest
    | ReadHead
    | TcpConnect
    | Read
    | Write
    | Shutdown
    | Close
    | LookUp
    | Begin
    | Wait
    | Collect
    | Abandon
)
BEGUN = 1 << 16
"""Bytes that a read which was begun keeps for the guest."""


class NetworkAnswer(msgspec.Struct, frozen=True, array_like=True):
    """How a request ended. Data travels beside it."""

    errno: int = Errno.SUCCESS
    value: int = 0
    message: str = ""
    """Why not, in words, for ``error_message``."""
    cause: int = Cause.NONE


class ImportCall(msgspec.Struct, frozen=True, array_like=True):
    """A call of a function that the module imports. The bytes that its arguments point to travel
    beside it, one after the other."""

    number: int
    """Of the ``LentFunction``."""
    slots: bytes


class MemoryOrder(msgspec.Struct, frozen=True, array_like=True):
    """What a function of the caller's wants of the memory of the guest that waits for it."""

    what: Literal["read", "write", "allocate"]
    start: int = 0
    size: int = 0
    """In bytes; of what is written they come beside the order."""
    pointer: Literal["i32", "i64"] = "i32"
    """What the guest's ``alloc`` takes and gives."""


class MemoryAnswer(msgspec.Struct, frozen=True, array_like=True):
    """How an order was carried out. What was read travels beside it."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    """Of the memory, in bytes, as it is now."""
    inside: bool = True
    """Whether the place is in it; nothing was read or written where not."""
    address: Annotated[int, msgspec.Meta(ge=0)] = 0
    """What was allocated."""


_encoder = msgspec.msgpack.Encoder()
_imports = msgspec.msgpack.Decoder(ImportCall)
_requests: msgspec.msgpack.Decoder[NetworkRequest] = msgspec.msgpack.Decoder(NetworkRequest)
_answers = msgspec.msgpack.Decoder(NetworkAnswer)
_memory = msgspec.msgpack.Decoder(MemoryAnswer)


def encode(item: NetworkRequest | NetworkAnswer | ImportCall | MemoryAnswer) -> bytes:
    """As the arguments or the results of a host call."""
    return _encoder.encode(item)


def decode_request(data: bytes) -> NetworkRequest:
    """A request out of a host call.

    Raises:
        ProtocolError: none of them.
    """
    return _decoded(_requests, data)


def decode_import(data: bytes) -> ImportCall:
    """A call of a function of the caller's process.

    Raises:
        ProtocolError: it is none.
    """
    return _decoded(_imports, data)


def decode_memory(data: bytes) -> MemoryAnswer:
    """How an order was carried out.

    Raises:
        ProtocolError: that is not said.
    """
    return _decoded(_memory, data)


def decode_answer(data: bytes) -> NetworkAnswer:
    """The supervisor's answer."""
    return _answers.decode(data)


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        why = printable(str(error)[:LONGEST])
        raise ProtocolError(f"a host call's arguments do not decode: {why}") from None
