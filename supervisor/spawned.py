"""What spawn starts. It is unpickled in the zygote, so this module imports only what is there
already."""

from __future__ import annotations

import os
from collections.abc import Mapping

from multiprocess import process

from . import entry


class ZygoteProcess(process.BaseProcess):
    """A spawned process whose only work is ``entry.enter``."""

    _start_method = "spawn"

    def __init__(
        self, channel: int, inherited: Mapping[str, str], chosen: tuple[str, ...] | None
    ) -> None:
        super().__init__(
            target=entry.enter,
            args=(channel, os.getpid(), chosen),
            name="wasm-sandbox-zygote",
            daemon=True,
        )
        self.channel = channel
        self.inherited = dict(inherited)
        self.title = "wasm-sandbox-zygote"
        self.authkey = b""
