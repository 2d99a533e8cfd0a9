"""The state of an instance, as a module that begins with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Snapshot:
    """What a warmed instance was like. Get it by ``instance.snapshot()``; ``pool.load(snapshot)``
    makes a module of it, in any pool."""

    name: str
    """Of the module that the instance is of."""
    wasm: bytes = field(repr=False)
    """A core module in binary form. It was made by the guest's worker, so it is as little to be
    trusted as the guest itself. It may be kept in a file and be loaded from there."""

    @cached_property
    def sha256(self) -> str:
        """Digest of ``wasm``, in hexadecimal; that of the module which it becomes."""
        return hashlib.sha256(self.wasm).hexdigest()
