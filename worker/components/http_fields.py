"""``fields`` of ``wasi:http/types``: the headers of requests and responses.

Source: WIT of ``wasi:http@0.2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .heap import BadValue
from .http_errors import TYPES
from .network import Network, Share
from .offers import State, offer

LIMIT = 1 << 17
"""Bytes of one ``fields`` that a guest makes."""
_COST = 64
"""Bytes that an entry is charged with besides those of its name and value."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # a token (RFC 9110, 5.6.2)
_VALUE = re.compile(rb"[\t -~]*")
"""What the supervisor's side sends; bytes beyond ASCII it does not (RFC 9110, 5.5: obsolete)."""
_FORBIDDEN = frozenset(
    {"connection", "expect", "host", "http2-settings", "keep-alive", "proxy-authenticate"}
    | {"proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Those that say where a message goes and where it ends. ``content-length`` may be given, and is
held against the body."""
_SYNTAX, _NOT_ALLOWED, _IMMUTABLE = [1, [0, None]], [1, [1, None]], [1, [2, None]]
_OK: list[Any] = [0, None]
_ERROR = "variant<invalid-syntax, forbidden, immutable>"
_BYTES = "list<u8>"
_ENTRIES = f"list<tuple<string, {_BYTES}>>"
Entry = tuple[str, bytes]


class FieldSet:
    """``fields``."""

    def __init__(
        self, network: Network | None, entries: Iterable[Entry] = (), *, mutable: bool = True
    ) -> None:
        self._share = None if network is None else Share(network)
        self.mutable = mutable
        self.entries: list[Entry] = []
        self.replace(list(entries))

    def get(self, name: str) -> list[bytes]:
        """The values under a name, in order."""
        name = name.lower()
        return [value for each, value in self.entries if each.lower() == name]

    def without(self, name: str) -> list[Entry]:
        """The entries under all other names."""
        name = name.lower()
        return [entry for entry in self.entries if entry[0].lower() != name]

    def replace(self, entries: list[Entry]) -> None:
        """Have these entries and no others.

        Raises:
            BadValue: they are too many.
        """
        size = sum(len(name) + len(value) + _COST for name, value in entries)
        if self.mutable and size > LIMIT:
            raise BadValue(f"fields of more than {LIMIT} bytes")
        if self._share is not None:
            self._share.resize(size)
        self.entries = entries


class Fields:
    """The functions."""

    def __init__(self, state: State) -> None:
        self._state = state

    def _get(self, fields: int) -> FieldSet:
        return self._state.objects.get(fields, FieldSet)

    def _new(self, entries: Iterable[Entry] = ()) -> int:
        return self._state.objects.add(FieldSet(self._state.network, entries))

    @offer(TYPES, "[constructor]fields", "() -> own<fields>")
    def fields(self) -> int:
        return self._new()

    @offer(TYPES, "[static]fields.from-list", f"({_ENTRIES}) -> result<own<fields>, {_ERROR}>")
    def from_list(self, entries: list[list[Any]]) -> list[Any]:
        for name, value in entries:
            wrong = _wrong(name, [value])
            if wrong is not None:
                return wrong
        return [0, self._new([(name, value) for name, value in entries])]

    @offer(TYPES, "[method]fields.get", f"(borrow<fields>, string) -> list<{_BYTES}>")
    def get(self, fields: int, name: str) -> list[bytes]:
        return self._get(fields).get(name)

    @offer(TYPES, "[method]fields.has", "(borrow<fields>, string) -> bool")
    def has(self, fields: int, name: str) -> bool:
        return bool(self._get(fields).get(name))

    @offer(
        TYPES,
        "[method]fields.set",
        f"(borrow<fields>, string, list<{_BYTES}>) -> result<_, {_ERROR}>",
    )
    def set(self, fields: int, name: str, values: list[bytes]) -> list[Any]:
        found = self._get(fields)
        return self._change(
            found, name, values, [*found.without(name), *((name, value) for value in values)]
        )

    @offer(TYPES, "[method]fields.delete", f"(borrow<fields>, string) -> result<_, {_ERROR}>")
    def delete(self, fields: int, name: str) -> list[Any]:
        found = self._get(fields)
        return self._change(found, name, [], found.without(name))

    @offer(
        TYPES,
        "[method]fields.append",
        f"(borrow<fields>, string, {_BYTES}) -> result<_, {_ERROR}>",
    )
    def append(self, fields: int, name: str, value: bytes) -> list[Any]:
        found = self._get(fields)
        return self._change(found, name, [value], [*found.entries, (name, value)])

    def _change(
        self, fields: FieldSet, name: str, values: list[bytes], entries: list[Entry]
    ) -> list[Any]:
        if not fields.mutable:
            return _IMMUTABLE
        wrong = _wrong(name, values)
        if wrong is not None:
            return wrong
        fields.replace(entries)
        return _OK

    @offer(TYPES, "[method]fields.entries", f"(borrow<fields>) -> {_ENTRIES}")
    def entries(self, fields: int) -> list[list[Any]]:
        return [[name, value] for name, value in self._get(fields).entries]

    @offer(TYPES, "[method]fields.clone", "(borrow<fields>) -> own<fields>")
    def clone(self, fields: int) -> int:
        return self._new(self._get(fields).entries)


def _wrong(name: str, values: Iterable[bytes]) -> list[Any] | None:
    """The error of an entry; ``None`` where there is none."""
    if not _NAME.fullmatch(name) or not all(_VALUE.fullmatch(value) for value in values):
        return _SYNTAX
    return _NOT_ALLOWED if name.lower() in _FORBIDDEN else None
