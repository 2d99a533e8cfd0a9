"""Versions of plug-ins: ``1.4.0``, ``2.0.0-rc.1``, compared as Semantic Versioning has it."""

from __future__ import annotations

import re
from functools import total_ordering

from ..protocol.errors import ConfigurationError

_FORM = re.compile(
    r"(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,3})"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)


@total_ordering
class Version:
    """One version. ``1``, ``1.0`` and ``1.0.0+build.7`` are equal, ``1.0.0-rc.1`` is before."""

    def __init__(self, text: str, numbers: tuple[int, ...], before: tuple[str, ...]) -> None:
        self._text = text
        # A number comes before a word, and a version without any after all that have some.
        marks = tuple((0, int(m), "") if m.isdigit() else (1, 0, m) for m in before)
        self._key = (numbers, not before, marks)

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version that a manifest writes.

        Raises:
            ConfigurationError: it is none.
        """
        match = _FORM.fullmatch(text) if len(text) <= 100 else None
        if match is None:
            raise ConfigurationError("version", text, "is no version", 'write "1.2.3"')
        numbers = [int(number) for number in match["numbers"].split(".")]
        padded = tuple(numbers + [0] * (4 - len(numbers)))
        return cls(text, padded, tuple((match["pre"] or "").split(".")) if match["pre"] else ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self._text
