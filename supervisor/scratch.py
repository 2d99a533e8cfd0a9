"""Scratch directories on the machine's own file system, for workers that can have none in memory.

Each worker that needs some is given them, because it is only in the worker that it turns out which
kind it has; mostly they stay empty.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from ..protocol.capabilities import Scratch
from . import temporary


class ScratchPlaces:
    """The scratch directories of one worker. ``close`` removes them."""

    def __init__(self, wanted: Sequence[Scratch]) -> None:
        self._top = ""
        self.scratch = tuple(wanted)
        """With their places; without where there can be none."""
        if not wanted:
            return
        with suppress(OSError):  # then there has to be room in memory
            self._top = top = temporary.make("wasm-sandbox-scratch")
            places = [os.path.join(top, str(number)) for number in range(len(wanted))]
            for place in places:
                os.mkdir(place, 0o700)
            self.scratch = tuple(
                msgspec.structs.replace(scratch, path=place)
                for scratch, place in zip(wanted, places, strict=True)
            )

    @property
    def removed(self) -> bool:
        """Whether there is nothing to remove."""
        return not self._top

    def close(self) -> None:
        """Remove what there is, whatever is in it: the worker must be dead."""
        top, self._top = self._top, ""
        if top:
            temporary.remove(top)
