"""``wasi:sockets/tcp``: sockets that connect. None listens, and none is bound.

Source: WIT of ``wasi:sockets@0.2``.
"""

from __future__ import annotations

from typing import Any

from ...protocol.host_calls import TcpConnect
from .network import NO_NETWORK, Event, Incoming, Link, Network, Outgoing, Ticket
from .offers import State, offer
from .pipes import StreamError
from .sockets import (
    ERROR_CODE,
    FAMILY,
    NETWORK,
    SOCKET_ADDRESS,
    Net,
    error_code_of,
    failed,
    from_wire,
    refused,
)

TCP = "wasi:sockets/tcp"
_SELF = "borrow<tcp-socket>"
_DONE = f"result<_, {ERROR_CODE}>"
_RECEIVE, _SEND = 0, 1
"""``shutdown-type``; the third is both."""
_OK: list[Any] = [0, None]
_OPTIONS: dict[str, tuple[str, Any]] = {
    "keep-alive-enabled": ("bool", False),
    "keep-alive-idle-time": ("u64", 7_200_000_000_000),
    "keep-alive-interval": ("u64", 75_000_000_000),
    "keep-alive-count": ("u32", 9),
    "hop-limit": ("u8", 64),
    "receive-buffer-size": ("u64", 1 << 16),
    "send-buffer-size": ("u64", 1 << 16),
}
"""Type and first value. They are remembered and change nothing: the connection is not here."""


class TcpSocket:
    """``tcp-socket``."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.options = {name: value for name, (_, value) in _OPTIONS.items()}
        self.remote: list[Any] | None = None
        """Where it is connected to, or is being."""
        self._ticket: Ticket | None = None
        self._link: Link | None = None
        self._streams: tuple[Incoming, Outgoing] | None = None
        self.over = False
        """Whether connecting failed: then it can do nothing more."""

    @property
    def connected(self) -> bool:
        """Whether it is."""
        return self._link is not None

    @property
    def connecting(self) -> bool:
        """Whether ``finish-connect`` has to be called."""
        return self._ticket is not None

    def connect(self, network: Network, remote: list[Any]) -> None:
        """Begin to connect.

        Raises:
            ValueError: to such an address nothing can be connected.
        """
        address, port = from_wire(remote)
        if not port or address.is_unspecified or address.is_multicast or remote[0] != self.family:
            raise ValueError
        self.remote = remote
        self._ticket = network.begin(TcpConnect(str(address), port))

    def finish(self, network: Network) -> tuple[Incoming, Outgoing] | list[Any]:
        """The streams, or ``err``."""
        if self._ticket is None:
            return refused("not-in-progress")
        if not self._ticket.check():
            return refused("would-block")
        ticket, self._ticket = self._ticket, None
        answer, _ = ticket.collect()
        if answer.errno:
            self.over, self.remote = True, None
            return [1, error_code_of(answer)]
        self._link = Link(network, answer.value, failed).use()
        self._streams = Incoming(self._link), Outgoing(self._link)
        return self._streams

    def shut_down(self, what: int) -> list[Any]:
        """``result<_, error-code>``."""
        if self._streams is None:
            return refused("invalid-state")
        incoming, outgoing = self._streams
        if what != _SEND:
            incoming.end()
        if what != _RECEIVE and not outgoing.over:
            try:
                answer = outgoing.end()
            except StreamError as error:
                return [1, error.failed.code(NETWORK)[1]]
            if answer.errno:
                return [1, error_code_of(answer)]
        return _OK

    def find(self) -> Ticket | bool:
        """What has to end for ``finish-connect`` not to block."""
        return self._ticket is None or self._ticket.ended or self._ticket

    def release(self) -> None:
        """It was dropped."""
        if self._ticket is not None:
            self._ticket.abandon()
        if self._link is not None:
            self._link.release()


class TcpSockets:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    def of(self, socket: int) -> TcpSocket:
        """The socket of a handle."""
        return self._state.objects.get(socket, TcpSocket)

    @offer(
        "wasi:sockets/tcp-create-socket",
        "create-tcp-socket",
        f"({FAMILY}) -> result<own<tcp-socket>, {ERROR_CODE}>",
    )
    def create_tcp_socket(self, family: int) -> list[Any]:
        if self._state.network is None:
            return [1, error_code_of(NO_NETWORK)]
        return [0, self._state.objects.add(TcpSocket(family))]

    # --- connecting -------------------------------------------------------------------------------

    @offer(
        TCP,
        "[method]tcp-socket.start-connect",
        f"({_SELF}, borrow<network>, {SOCKET_ADDRESS}) -> {_DONE}",
    )
    def start_connect(self, socket: int, net: int, remote: list[Any]) -> list[Any]:
        found, network = self.of(socket), self._state.network
        self._state.objects.get(net, Net)
        assert network is not None
        if found.connecting:
            return refused("concurrency-conflict")
        if found.connected or found.over:
            return refused("invalid-state")
        try:
            found.connect(network, remote)
        except ValueError:
            return refused("invalid-argument")
        return _OK

    @offer(
        TCP,
        "[method]tcp-socket.finish-connect",
        f"({_SELF}) -> result<tuple<own<input-stream>, own<output-stream>>, {ERROR_CODE}>",
    )
    def finish_connect(self, socket: int) -> list[Any]:
        network = self._state.network
        assert network is not None
        streams = self.of(socket).finish(network)
        if isinstance(streams, list):
            return streams
        return [0, [self._state.objects.add(stream) for stream in streams]]

    @offer(TCP, "[method]tcp-socket.subscribe", f"({_SELF}) -> own<pollable>")
    def subscribe(self, socket: int) -> int:
        return self._state.objects.add(Event(self.of(socket).find))

    @offer(
        TCP,
        "[method]tcp-socket.shutdown",
        f"({_SELF}, enum<receive, send, both>) -> {_DONE}",
    )
    def shutdown(self, socket: int, what: int) -> list[Any]:
        return self.of(socket).shut_down(what)

    # --- what it is -------------------------------------------------------------------------------

    @offer(
        TCP,
        "[method]tcp-socket.remote-address",
        f"({_SELF}) -> result<{SOCKET_ADDRESS}, {ERROR_CODE}>",
    )
    def remote_address(self, socket: int) -> list[Any]:
        found = self.of(socket)
        return [0, found.remote] if found.connected else refused("invalid-state")

    @offer(
        TCP,
        "[method]tcp-socket.local-address",
        f"({_SELF}) -> result<{SOCKET_ADDRESS}, {ERROR_CODE}>",
    )
    def local_address(self, socket: int) -> list[Any]:
        # Of this machine, which is none of the guest's business.
        return refused("not-supported" if self.of(socket).connected else "invalid-state")

    @offer(TCP, "[method]tcp-socket.address-family", f"({_SELF}) -> {FAMILY}")
    def address_family(self, socket: int) -> int:
        return self.of(socket).family

    @offer(TCP, "[method]tcp-socket.is-listening", f"({_SELF}) -> bool")
    def is_listening(self, socket: int) -> bool:
        self.of(socket)
        return False

    # --- listening, which is never offered --------------------------------------------------------

    @offer(
        TCP,
        "[method]tcp-socket.start-bind",
        f"({_SELF}, borrow<network>, {SOCKET_ADDRESS}) -> {_DONE}",
    )
    @offer(TCP, "[method]tcp-socket.start-listen", f"({_SELF}) -> {_DONE}")
    @offer(TCP, "[method]tcp-socket.set-listen-backlog-size", f"({_SELF}, u64) -> {_DONE}")
    def not_supported(self, socket: int, *_: Any) -> list[Any]:
        self.of(socket)
        return refused("not-supported")

    @offer(TCP, "[method]tcp-socket.finish-bind", f"({_SELF}) -> {_DONE}")
    @offer(TCP, "[method]tcp-socket.finish-listen", f"({_SELF}) -> {_DONE}")
    def not_in_progress(self, socket: int) -> list[Any]:
        self.of(socket)
        return refused("not-in-progress")

    @offer(
        TCP,
        "[method]tcp-socket.accept",
        f"({_SELF}) -> result<tuple<own<tcp-socket>, own<input-stream>, own<output-stream>>, "
        f"{ERROR_CODE}>",
    )
    def accept(self, socket: int) -> list[Any]:
        self.of(socket)
        return refused("invalid-state")


def _add_options() -> None:
    """A function to read and one to set for each of ``_OPTIONS``."""
    for name, (kind, _) in _OPTIONS.items():

        @offer(TCP, f"[method]tcp-socket.{name}", f"({_SELF}) -> result<{kind}, {ERROR_CODE}>")
        def read(self: TcpSockets, socket: int, name: str = name) -> list[Any]:
            return [0, self.of(socket).options[name]]

        @offer(TCP, f"[method]tcp-socket.set-{name}", f"({_SELF}, {kind}) -> {_DONE}")
        def write(self: TcpSockets, socket: int, value: Any, name: str = name) -> list[Any]:
            if not value and value is not False:
                return refused("invalid-argument")
            self.of(socket).options[name] = value
            return _OK

        setattr(TcpSockets, read_name := name.replace("-", "_"), read)
        setattr(TcpSockets, f"set_{read_name}", write)


_add_options()
