"""``talk.wit`` in Python, for componentize-py.

``get`` goes through ``wasi:http`` by way of asyncio, ``talk`` through ``wasi:sockets``.
"""

import asyncio

import poll_loop
import wit_world
from componentize_py_types import Err
from poll_loop import PollLoop, Stream
from wit_world.imports import instance_network, ip_name_lookup, tcp_create_socket
from wit_world.imports.network import (
    IpAddress_Ipv4,
    IpAddressFamily,
    IpSocketAddress_Ipv4,
    Ipv4SocketAddress,
)
from wit_world.imports.types import Fields, OutgoingRequest, Scheme_Http


async def fetch(authority: str, path: str) -> tuple[int, str]:
    request = OutgoingRequest(Fields.from_list([("accept", b"*/*")]))
    request.set_scheme(Scheme_Http())
    request.set_authority(authority)
    request.set_path_with_query(path)
    response = await poll_loop.send(request)
    status, body = response.status(), Stream(response.consume())
    pieces = []
    while (piece := await body.next()) is not None:
        pieces.append(piece)
    return status, b"".join(pieces).decode()


class WitWorld(wit_world.WitWorld):
    def get(self, authority: str, path: str) -> tuple[int, str]:
        loop = PollLoop()
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(fetch(authority, path))
        except Err as error:
            raise Err(type(error.value).__name__) from None

    def talk(self, host: str, port: int, message: str) -> str:
        try:
            return talk(host, port, message)
        except Err as error:
            raise Err(str(error.value)) from None


def talk(host: str, port: int, message: str) -> str:
    network = instance_network.instance_network()
    found = ip_name_lookup.resolve_addresses(network, host)
    found.subscribe().block()
    address = found.resolve_next_address()
    while address is not None and not isinstance(address, IpAddress_Ipv4):
        address = found.resolve_next_address()
    if address is None:
        raise Err("there is no IPv4 address")
    socket = tcp_create_socket.create_tcp_socket(IpAddressFamily.IPV4)
    socket.start_connect(network, IpSocketAddress_Ipv4(Ipv4SocketAddress(port, address.value)))
    socket.subscribe().block()
    incoming, outgoing = socket.finish_connect()
    outgoing.blocking_write_and_flush(message.encode())
    return incoming.blocking_read(1 << 16).decode()
