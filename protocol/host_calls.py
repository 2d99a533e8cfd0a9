"""What a guest may ask of the supervisor's side through ``HostCall``: the network's requests, the
errors that answer them, and the caller's own functions. No I/O.

The worker turns what the guest wrote into one of these structs; the supervisor decodes it by type.
Bulk data (a body, bytes to write, the bytes that arguments point to) travels beside it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import msgspec

from .errors import LONGEST, ProtocolError, printable

T = TypeVar("T")
NETWORK = "network"
"""The function that a ``HostCall`` names for these requests."""
IMPORT = "import"
"""The function that a ``HostCall`` names where the guest calls one of the caller's process: its
arguments are an ``ImportCall``, its results the slots that the function returned."""


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


class HttpRequest(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Send a request, whose body travels beside it, and wait for the head of the response; the
    answer's value is a handle."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()


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


class Write(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Send the bytes beside it."""

    handle: int


class Shutdown(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Say that nothing more will be written."""

    handle: int


class Close(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Close a handle."""

    handle: int


NetworkRequest = HttpRequest | ReadHead | TcpConnect | Read | Write | Shutdown | Close


class NetworkAnswer(msgspec.Struct, frozen=True, array_like=True):
    """How a request ended. Data travels beside it."""

    errno: int = Errno.SUCCESS
    value: int = 0
    message: str = ""
    """Why not, in words, for ``error_message``."""


class ImportCall(msgspec.Struct, frozen=True, array_like=True):
    """A call of a function that the module imports. The bytes that its arguments point to travel
    beside it, one after the other."""

    number: int
    """Of the ``LentFunction``."""
    slots: bytes


_encoder = msgspec.msgpack.Encoder()
_imports = msgspec.msgpack.Decoder(ImportCall)
_requests: msgspec.msgpack.Decoder[NetworkRequest] = msgspec.msgpack.Decoder(NetworkRequest)
_answers = msgspec.msgpack.Decoder(NetworkAnswer)


def encode(item: NetworkRequest | NetworkAnswer | ImportCall) -> bytes:
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


def decode_answer(data: bytes) -> NetworkAnswer:
    """The supervisor's answer."""
    return _answers.decode(data)


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        why = printable(str(error)[:LONGEST])
        raise ProtocolError(f"a host call's arguments do not decode: {why}") from None
