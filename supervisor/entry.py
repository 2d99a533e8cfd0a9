"""The one place that names the worker's side. Imported in the zygote too, so it imports nothing."""

from __future__ import annotations

import importlib

ZYGOTE = "wasm_sandbox.worker.zygote"


def enter(channel: int, parent: int, chosen: tuple[str, ...] | None = None) -> None:
    """Become the zygote of process ``parent``, on the socket ``channel``, with the walls
    ``chosen``, ``None`` for all."""
    importlib.import_module(ZYGOTE).main(channel, parent, chosen)
