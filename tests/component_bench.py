"""A component in this process's engine, called with Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from engine_support import LIMITS, Bench

from wasm_sandbox import HostFunction, Limits
from wasm_sandbox.imports import read_imports
from wasm_sandbox.linking import link
from wasm_sandbox.protocol.wit import World
from wasm_sandbox.runners import AsyncioRunner
from wasm_sandbox.supervisor.imports import HostImport
from wasm_sandbox.supervisor.objects import Objects, Turn, held
from wasm_sandbox.supervisor.requests import ModuleHandle
from wasm_sandbox.wit_codec import WitCodec
from wasm_sandbox.worker.engines.interface import (
    BufferArgument,
    CallLimits,
    ComponentFunction,
    LoadedModule,
    Wasi,
)


class Guest:
    """A loaded component; each call has an instance of its own."""

    def __init__(self, stage: Bench, source: str | bytes, *functions: ComponentFunction) -> None:
        self.module: LoadedModule = stage.load(source, component_functions=functions)
        assert self.module.description.component is not None
        self.world: World = self.module.description.component.world
        self.codecs = {
            name: WitCodec(name, self.world, signature)
            for name, signature in self.world.functions()
            if "[" not in name
        }

    def call(
        self, name: str, *args: Any, limits: CallLimits = LIMITS, wasi: Wasi | None = None
    ) -> Any:
        """Call a function as the face and a worker do together."""
        codec = self.codecs[name]
        _, ((_, data),) = codec.pack(args)
        results: list[bytes] = []

        def fill(target: memoryview) -> None:
            target[:] = data

        self.module.call_buffers(
            name,
            [BufferArgument(size=len(data), fill=fill)],
            limits,
            returns="buffer",
            drain=lambda source: results.append(bytes(source)),
            wasi=wasi,
        )
        (result,) = results
        return codec.unpack(b"", result)


def importing(
    stage: Bench, source: str, interface: str, name: str, function: Callable[..., Any]
) -> Guest:
    """A component with a function of the program's, between which nothing lies but their codecs."""
    bound: list[HostImport] = []

    def call(*values: Any) -> Any:
        held.set(Turn(Objects()))
        work = bound[0].call(b"", msgspec.msgpack.encode(values)).__await__()
        try:
            next(work)
        except StopIteration as returned:
            return msgspec.msgpack.decode(returned.value[1])
        raise AssertionError("a direct function waits for nothing")

    guest = Guest(stage, source, ComponentFunction(interface=interface, name=name, call=call))
    handle = ModuleHandle(bytes(32), source.encode(), guest.module.description, Limits())
    given = read_imports({interface: {name: HostFunction(function, direct=True)}})
    bound += link(given, handle, AsyncioRunner(1)).imports
    return guest
