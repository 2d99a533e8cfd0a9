"""A component in this process's engine, called with Python values."""

from __future__ import annotations

from typing import Any

from engine_support import LIMITS, Bench

from wasm_sandbox.protocol.wit import World
from wasm_sandbox.wit_values import WitCodec
from wasm_sandbox.worker.engines.interface import BufferArgument, CallLimits, LoadedModule, Wasi


class Guest:
    """A loaded component; each call has an instance of its own."""

    def __init__(self, stage: Bench, source: str | bytes) -> None:
        self.module: LoadedModule = stage.load(source)
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
