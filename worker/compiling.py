"""A compiler: one process, one module, then it ends. Compiling is as dangerous as running."""

from __future__ import annotations

import mmap
import os
import socket
import time

from ..protocol.errors import ProtocolError
from ..protocol.messages import (
    PROTOCOL_VERSION,
    Compiled,
    CompileFailed,
    ConfigureCompiler,
    Failure,
    StartFailed,
)
from . import jail, runtime
from .channel import Channel, SupervisorGone
from .engines.interface import EngineRefusal


def main(
    channel_descriptor: int,
    module: int,
    artifact: int,
    passing: socket.socket,
    around: jail.Around,
) -> int:
    """Compile what lies in the descriptor ``module`` into ``artifact``; the exit status of the
    process."""
    channel = Channel(channel_descriptor)
    try:
        order = channel.receive()
        assert isinstance(order, ConfigureCompiler)
        if order.version != PROTOCOL_VERSION:
            channel.say(
                StartFailed("protocol", f"version {order.version} is not {PROTOCOL_VERSION}")
            )
            return 1
        built = jail.build_for_compiler(order.data_limit, around)
        jail.close(built, "compile", passing)
        channel.say(_compile(order, module, artifact))
    except SupervisorGone:
        pass
    except ProtocolError:
        channel = Channel(channel_descriptor)
        message = "the module has too many imports and exports to describe"
        channel.say(CompileFailed(Failure("unsupported_module", message)))
    return 0


def _compile(order: ConfigureCompiler, module: int, artifact: int) -> Compiled | CompileFailed:
    started = time.perf_counter()
    source = b""
    if order.size:
        with mmap.mmap(module, order.size, mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
            source = bytes(view)
    try:
        compiled = runtime.compile_module(source, metered=order.metered)
    except EngineRefusal as refusal:
        return CompileFailed(runtime.refusal_failure(refusal))
    rest = memoryview(compiled.artifact)
    while rest:
        rest = rest[os.write(artifact, rest) :]
    size = os.fstat(artifact).st_size
    return Compiled(size, compiled.description, time.perf_counter() - started)
