"""What calls do on the network: their connections, their bytes, and what their guests are told."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

import trio

from ...protocol.events import Event
from ...protocol.host_calls import (
    BEGUN,
    Abandon,
    Begin,
    Cause,
    Close,
    Collect,
    Errno,
    HttpRequest,
    LookUp,
    NetworkAnswer,
    NetworkRequest,
    Read,
    ReadHead,
    Shutdown,
    TcpConnect,
    Wait,
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
    shorter,
    system_resolver,
    system_trust,
)
from .failures import during, refusal
from .http import Exchange
from .names import Names
from .policy import Destination, Refused
from .requests import prepare
from .tickets import Answer, Tickets

if TYPE_CHECKING:
    from ...protocol.network import Address
    from ..calls import CallRecord

IN_TOTAL = 100
"""Connections that a call may make one after the other, and names that it may have looked up, for
each connection that it may have at once."""
FOR_EACH, SPARE = 4, 16
"""Requests that a call may have begun: for each connection that it may have, and besides."""
MESSAGE_LIMIT = 500
"""Characters of an error's text: servers choose parts of some."""


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
    """What one call does on the network. Its host calls come one at a time; what they begin is
    carried out beside them.

    Args:
        access: of its pool.
        record: the call.
        nursery: of its worker.
        before: the network of the call before, where the instance lives on: what that left open is
            this one's.
    """

    def __init__(
        self,
        access: NetworkAccess,
        record: CallRecord,
        nursery: trio.Nursery,
        before: CallNetwork | None = None,
    ) -> None:
        limits = record.request.limits
        self.traffic = Traffic(limits.network_received, limits.network_sent)
        self.connections = 0
        """How many were made."""
        self._access = access
        self._audit = Audit(access.emit, record)
        self._granted = record.request.profile.network
        self._allowed = limits.connections
        self._opening = 0
        """Connections that are being made."""
        self._lookups = 0
        self._last = 0
        """The newest handle."""
        self._open: dict[int, Connection | Exchange] = {}
        self._aims: dict[int, tuple[Operation, Destination]] = {}
        """Where the handles lead."""
        self._busy: set[tuple[int, str]] = set()
        """Handles that something is read from or written to, and which of them."""
        self._names = Names()
        self._tickets = Tickets(nursery, FOR_EACH * self._allowed + SPARE)
        if before is not None:
            self._last, self._open, self._aims = before._last, before._open, before._aims
            self._names, self._tickets = before._names, before._tickets
            for thing in self._open.values():
                _connection(thing).traffic = self.traffic

    def pause(self) -> None:
        """The call has ended: stop what is under way, and keep what is open for the next."""
        self._audit.end()
        self._tickets.stop()

    def close(self) -> None:
        """Stop what is under way, and close all connections."""
        self._audit.end()
        self._tickets.stop()
        while self._open:
            _connection(self._open.popitem()[1]).close()

    async def serve(self, request: NetworkRequest, data: bytes, room: int) -> Answer:
        """Carry out a request; the answer and the data beside it. Cancelled, it leaves nothing."""
        try:
            return await self._serve(request, data, room)
        except Exception as error:  # whatever a server may do, the pool goes on
            refused = refusal(error)
            if refused.errno is Errno.DQUOT:
                await self._audit.refused(*self._aim(request), refused)
            message = refused.message[:MESSAGE_LIMIT]
            return NetworkAnswer(refused.errno, 0, message, refused.cause), b""

    async def _serve(self, request: NetworkRequest, data: bytes, room: int) -> Answer:
        match request:
            case HttpRequest():
                return NetworkAnswer(value=await self._http(request, data)), b""
            case TcpConnect(host=host, port=port):
                return NetworkAnswer(value=await self._tcp(host, port)), b""
            case LookUp(name=name):
                return NetworkAnswer(), "\n".join(map(str, await self._look_up(name))).encode()
            case ReadHead(handle=handle):
                head = self._exchange(handle).head
                if len(head) > room:
                    message = f"the head has {len(head)} bytes"
                    return NetworkAnswer(Errno.RANGE, len(head), message), b""
                return NetworkAnswer(value=len(head)), head
            case Read(handle=handle, within=within):
                source = self._handle(handle)
                if not room:
                    return NetworkAnswer(), b""
                with self._alone(handle, "read"), during(Cause.RECEIVE):
                    if isinstance(source, Exchange):
                        read = await source.read(room, within)
                    else:
                        read = await source.receive(room, within)
                return NetworkAnswer(value=len(read)), read
            case Write(handle=handle):
                with self._alone(handle, "write"), during(Cause.SEND):
                    await self._stream(handle).send(data)
                return NetworkAnswer(value=len(data)), b""
            case Shutdown(handle=handle):
                with self._alone(handle, "write"):
                    await self._stream(handle).send_eof()
            case Close(handle=handle):
                self._close(handle)
            case Begin(request=begun):
                work = partial(self.serve, begun, data, BEGUN)
                undo = partial(self._undo, begun)
                return NetworkAnswer(value=self._tickets.begin(len(data), work, undo)), b""
            case Wait(tickets=tickets, seconds=seconds):
                ended = await self._tickets.wait(tickets, seconds)
                if len(ended) > room:
                    raise Refused(Errno.RANGE, f"the answer has {len(ended)} bytes")
                return NetworkAnswer(), ended
            case Collect(ticket=ticket):
                return self._tickets.collect(ticket, room)
            case Abandon(ticket=ticket):
                self._tickets.abandon(ticket)
        return NetworkAnswer(), b""

    def _undo(self, request: NetworkRequest, answer: NetworkAnswer) -> None:
        if isinstance(request, HttpRequest | TcpConnect) and not answer.errno:
            with suppress(Refused):  # a worker may have guessed the handle, and closed it
                self._close(answer.value)

    def _close(self, handle: int) -> None:
        _connection(self._handle(handle)).close()
        del self._open[handle], self._aims[handle]

    # --- connecting -----------------------------------------------------------------------------

    async def _http(self, request: HttpRequest, body: bytes) -> int:
        async with self._audit.refusals("http", request.url):
            prepared = prepare(request, len(body))
            self._check_room()
        with self._making():
            connection = await self._connect("http", prepared.where, within=request.connect)
            try:
                if prepared.tls:
                    with during(Cause.TLS):
                        context = await self._access.context()
                        await connection.secure(context, str(prepared.where.host))
                exchange = Exchange(connection)
                await exchange.begin(prepared, body, request.respond)
            except BaseException:
                connection.close()
                raise
            return self._keep(exchange, "http", prepared.where)

    async def _tcp(self, host: str, port: int) -> int:
        async with self._audit.refusals("tcp", f"{host}:{port}"):
            where = policy.destination(host, port)
            self._check_room()
        addresses = None
        if not isinstance(where.host, str):
            addresses = [where.host]
            where = self._names.of(where, self._granted)
        with self._making():
            return self._keep(await self._connect("tcp", where, addresses), "tcp", where)

    async def _connect(
        self,
        operation: Operation,
        where: Destination,
        addresses: Iterable[Address] | None = None,
        within: float = 0,
    ) -> Connection:
        async with self._audit.refusals(operation, where):
            grants = policy.grants_for(self._granted, where)
        if addresses is None:
            addresses = await self._addresses(operation, where)
        failure = Refused(Errno.NOENT, f"{where.host} has no address")
        with during(Cause.CONNECT), trio.fail_after(shorter(CONNECT_SECONDS, within)):
            for address in addresses:
                try:
                    async with self._audit.refusals(operation, where, address):
                        grant = policy.check_address(grants, where, address)
                    self._audit.allowed(operation, where, address, grant)
                    self.connections += 1
                    with during(Cause.CONNECT):
                        return await self._access.connect(address, where.port, self.traffic)
                except Refused as error:
                    failure = error
        raise failure

    async def _addresses(self, operation: Operation, where: Destination) -> list[Address]:
        """All addresses of a host that a grant names. A look-up is itself a message to somebody:
        whatever it is for, it counts, and is reported where it gives no address to decide about."""
        host = where.host
        if isinstance(host, str) or operation == "lookup":
            async with self._audit.refusals(operation, where):
                self._lookups += 1
                if self._lookups > self._allowed * IN_TOTAL:
                    raise Refused(Errno.MFILE, f"more than {self._allowed * IN_TOTAL} names")
        if not isinstance(host, str):
            return [host]
        nothing = "the look-up was given up"
        try:
            with during(Cause.LOOKUP):
                found = list(await self._access.resolve(host))[:ADDRESSES]
            nothing = "" if found else f"{host} has no address"
        except Refused as refused:
            nothing = refused.message
            raise
        finally:
            if nothing:
                self._audit.found_nothing(operation, where, nothing)
        return found

    async def _look_up(self, name: str) -> list[Address]:
        """The addresses of a name with which the call may have it."""
        async with self._audit.refusals("lookup", name):
            where = Destination(policy.name(name), 0)
            grants = policy.grants_for(self._granted, where)
        allowed: list[Address] = []
        failure = Refused(Errno.NOENT, f"{where.host} has no address")
        for address in await self._addresses("lookup", where):
            try:
                async with self._audit.refusals("lookup", where, address):
                    grant = policy.check_address(grants, where, address)
            except Refused as refused:
                failure = refused
            else:
                self._audit.allowed("lookup", where, address, grant)
                self._names.found(where.host, address)
                allowed.append(address)
        if not allowed:
            raise failure
        return allowed

    def _check_room(self) -> None:
        if len(self._open) + self._opening >= self._allowed:
            raise Refused(Errno.MFILE, f"limits.connections of {self._allowed} are open")
        if self.connections >= self._allowed * IN_TOTAL:
            raise Refused(
                Errno.MFILE,
                f"{self.connections} connections were made: {IN_TOTAL} for each of "
                f"limits.connections",
            )

    @contextmanager
    def _making(self) -> Generator[None]:
        """Counts a connection while it is being made."""
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    # --- handles --------------------------------------------------------------------------------

    def _keep(self, thing: Connection | Exchange, operation: Operation, where: Destination) -> int:
        self._last += 1
        self._open[self._last] = thing
        self._aims[self._last] = operation, where
        return self._last

    def _aim(self, request: NetworkRequest) -> tuple[Operation, object]:
        match request:
            case HttpRequest(url=url):
                return "http", url
            case Read(handle=handle) | Write(handle=handle):
                return self._aims.get(handle, ("tcp", "a closed connection"))
            case _:
                raise AssertionError("nothing else counts bytes")

    @contextmanager
    def _alone(self, handle: int, way: Literal["read", "write"]) -> Generator[None]:
        """Keep others from doing the same to a handle.

        Raises:
            Refused: ``INVAL``: another does.
        """
        if (handle, way) in self._busy:
            raise Refused(Errno.INVAL, f"another {way} of the handle {handle} is under way")
        self._busy.add((handle, way))
        try:
            yield
        finally:
            self._busy.discard((handle, way))

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


def _connection(thing: Connection | Exchange) -> Connection:
    return thing.connection if isinstance(thing, Exchange) else thing
