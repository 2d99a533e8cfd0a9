"""What calls do on the network: their connections, their bytes, and what their guests are told."""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import h11
import trio

from ...protocol.events import Event
from ...protocol.host_calls import (
    Close,
    Errno,
    HttpRequest,
    NetworkAnswer,
    NetworkRequest,
    Read,
    ReadHead,
    Shutdown,
    TcpConnect,
    Write,
)
from . import policy
from .audit import Audit, Operation
from .connections import (
    ADDRESSES,
    CONNECT_SECONDS,
    Connection,
    Connector,
    Resolver,
    Traffic,
    connect,
    system_resolver,
    system_trust,
)
from .http import Exchange
from .policy import Destination, Refused
from .requests import prepare

if TYPE_CHECKING:
    from ..calls import CallRecord

_log = logging.getLogger("wasm_sandbox")
IN_TOTAL = 100
"""Connections that a call may make one after the other, for each that it may have at once."""
MESSAGE_LIMIT = 500
"""Characters of an error's text: servers choose parts of some."""
Answer = tuple[NetworkAnswer, bytes]
"""An answer, and the data beside it."""

_ERRNOS = {
    errno.ECONNREFUSED: Errno.CONNREFUSED,
    errno.ECONNRESET: Errno.CONNRESET,
    errno.ECONNABORTED: Errno.CONNABORTED,
    errno.EHOSTUNREACH: Errno.HOSTUNREACH,
    errno.ENETUNREACH: Errno.NETUNREACH,
    errno.ETIMEDOUT: Errno.TIMEDOUT,
    errno.EPIPE: Errno.PIPE,
    errno.EACCES: Errno.ACCES,
    errno.EPERM: Errno.ACCES,
}


class NetworkAccess:
    """The network of one pool: the system's, in which tests put in their own parts."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self.resolve: Resolver = system_resolver()
        self.connect: Connector = connect
        self.trust: Callable[[], ssl.SSLContext] = system_trust
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """The pool's one TLS context: reading the system's certificates takes long."""
        if self._context is None:
            self._context = await trio.to_thread.run_sync(self.trust, abandon_on_cancel=True)
        return self._context


class CallNetwork:
    """What one call does on the network. Its host calls come one at a time."""

    def __init__(self, access: NetworkAccess, record: CallRecord) -> None:
        limits = record.request.limits
        self.traffic = Traffic(limits.network_received, limits.network_sent)
        self.connections = 0
        """How many were made."""
        self._access = access
        self._audit = Audit(access.emit, record)
        self._granted = record.request.profile.network
        self._allowed = limits.connections
        self._open: dict[int, Connection | Exchange] = {}
        self._aims: dict[int, tuple[Operation, Destination]] = {}
        """Where the handles lead."""

    def close(self) -> None:
        """Close all connections."""
        while self._open:
            _close(self._open.popitem()[1])

    async def serve(self, request: NetworkRequest, data: bytes, room: int) -> Answer:
        """Carry out a request; the answer and the data beside it. Cancelled, it leaves nothing."""
        try:
            return await self._serve(request, data, room)
        except Refused as refusal:
            if refusal.errno is Errno.DQUOT:
                await self._audit.refused(*self._aim(request), refusal)
            return _error(refusal.errno, refusal.message)
        except trio.ClosedResourceError:
            return _error(Errno.CONNABORTED, "it was closed: a write took too long")
        except trio.TooSlowError:
            return _error(Errno.TIMEDOUT, "the server took too long")
        except h11.ProtocolError as error:
            return _error(Errno.PROTO, f"the server does not speak HTTP: {error}")
        except (OSError, trio.BrokenResourceError) as error:
            return _failed(error)
        except Exception as error:  # whatever a server may do, the pool goes on
            _log.exception("a network request failed")
            return _error(Errno.IO, f"unexpected: {error!r}")

    async def _serve(self, request: NetworkRequest, data: bytes, room: int) -> Answer:
        match request:
            case HttpRequest():
                return NetworkAnswer(value=await self._http(request, data)), b""
            case TcpConnect(host=host, port=port):
                return NetworkAnswer(value=await self._tcp(host, port)), b""
            case ReadHead(handle=handle):
                head = self._exchange(handle).head
                if len(head) > room:
                    message = f"the head has {len(head)} bytes"
                    return NetworkAnswer(Errno.RANGE, len(head), message), b""
                return NetworkAnswer(value=len(head)), head
            case Read(handle=handle):
                source = self._handle(handle)
                if not room:
                    return NetworkAnswer(), b""
                if isinstance(source, Exchange):
                    read = await source.read(room)
                else:
                    read = await source.receive(room)
                return NetworkAnswer(value=len(read)), read
            case Write(handle=handle):
                await self._stream(handle).send(data)
                return NetworkAnswer(value=len(data)), b""
            case Shutdown(handle=handle):
                await self._stream(handle).send_eof()
            case Close(handle=handle):
                _close(self._handle(handle))
                del self._open[handle], self._aims[handle]
        return NetworkAnswer(), b""

    # --- connecting -----------------------------------------------------------------------------

    async def _http(self, request: HttpRequest, body: bytes) -> int:
        async with self._audit.refusals("http", request.url):
            prepared = prepare(request, len(body))
            self._check_room()
        connection = await self._connect("http", prepared.where)
        try:
            if prepared.tls:
                await connection.secure(await self._access.context(), str(prepared.where.host))
            exchange = Exchange(connection)
            await exchange.begin(prepared, body)
        except BaseException:
            connection.close()
            raise
        return self._keep(exchange, "http", prepared.where)

    async def _tcp(self, host: str, port: int) -> int:
        async with self._audit.refusals("tcp", f"{host}:{port}"):
            where = policy.destination(host, port)
            self._check_room()
        return self._keep(await self._connect("tcp", where), "tcp", where)

    async def _connect(self, operation: Operation, where: Destination) -> Connection:
        async with self._audit.refusals(operation, where):
            grants = policy.grants_for(self._granted, where)
        host = where.host
        addresses = await self._access.resolve(host) if isinstance(host, str) else [host]
        failure: BaseException = Refused(Errno.NOENT, f"{host} has no address")
        with trio.fail_after(CONNECT_SECONDS):
            for address in addresses[:ADDRESSES]:
                try:
                    async with self._audit.refusals(operation, where, address):
                        grant = policy.check_address(grants, where, address)
                    self._audit.allowed(operation, where, address, grant)
                    self.connections += 1
                    return await self._access.connect(address, where.port, self.traffic)
                except (Refused, OSError) as error:
                    failure = error
        raise failure

    def _check_room(self) -> None:
        if len(self._open) >= self._allowed:
            raise Refused(Errno.MFILE, f"limits.connections of {self._allowed} are open")
        if self.connections >= self._allowed * IN_TOTAL:
            raise Refused(
                Errno.MFILE,
                f"{self.connections} connections were made: {IN_TOTAL} for each of "
                f"limits.connections",
            )

    # --- handles --------------------------------------------------------------------------------

    def _keep(self, thing: Connection | Exchange, operation: Operation, where: Destination) -> int:
        self._open[self.connections] = thing
        self._aims[self.connections] = operation, where
        return self.connections

    def _aim(self, request: NetworkRequest) -> tuple[Operation, object]:
        if isinstance(request, HttpRequest):
            return "http", request.url
        assert not isinstance(request, TcpConnect), "connecting counts no bytes"
        return self._aims[request.handle]

    def _handle(self, handle: int) -> Connection | Exchange:
        if handle not in self._open:
            raise Refused(Errno.BADF, f"there is no handle {handle}")
        return self._open[handle]

    def _exchange(self, handle: int) -> Exchange:
        found = self._handle(handle)
        if not isinstance(found, Exchange):
            raise Refused(Errno.BADF, f"the handle {handle} is a TCP connection's")
        return found

    def _stream(self, handle: int) -> Connection:
        found = self._handle(handle)
        if isinstance(found, Exchange):
            raise Refused(Errno.BADF, f"the handle {handle} is a response's")
        return found


def _close(thing: Connection | Exchange) -> None:
    (thing.connection if isinstance(thing, Exchange) else thing).close()


def _error(number: Errno, message: str) -> Answer:
    return NetworkAnswer(number, 0, message[:MESSAGE_LIMIT]), b""


def _failed(error: BaseException) -> Answer:
    """What the guest is told of an error of the operating system or of TLS."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    if isinstance(cause, ssl.SSLError):
        return _error(Errno.PROTO, f"TLS: {cause}")
    if isinstance(cause, OSError):
        return _error(_ERRNOS.get(cause.errno or 0, Errno.IO), cause.strerror or str(cause))
    return _error(Errno.CONNRESET, "the connection was lost")
