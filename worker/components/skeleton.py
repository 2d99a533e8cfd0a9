"""A component without the code of its core modules, for the engine to validate.

The engine has no way to validate a component but to compile it, and its core modules are compiled
one by one. So it is given the same component with a trap in the place of each function's body and
without data: all types, imports, exports and instantiations are as they were.

Source: component model, ``Binary.md``; WebAssembly core specification 3.0, chapter 5.5.
"""

from __future__ import annotations

from ..binary_exports import unsigned
from ..binary_reader import Reader
from .resolve import MAGIC

_UNREACHABLE = b"\3\0\0\x0b"
"""A body of three bytes: no locals, ``unreachable``, end."""
_CUSTOM, _FUNCTION, _CODE, _DATA, _DATA_COUNT = 0, 3, 10, 11, 12
_MODULE, _COMPONENT = 1, 4
MAX_DEPTH = 100
"""How deep components may be nested: far more than any tool does, and no deeper than this and
``resolve.py`` can follow."""


def skeleton(data: bytes) -> bytes:
    """The skeleton of the component ``data``.

    Raises:
        MalformedModule: its sections do not fit together.
    """
    return _skeleton(data, 0, len(data), 0)


def _skeleton(data: bytes, start: int, end: int, depth: int) -> bytes:
    reader = Reader(data, start, end)
    if depth > MAX_DEPTH:
        raise reader.fail(f"components nested more than {MAX_DEPTH} deep")
    reader.skip(len(MAGIC))
    pieces = [data[start : reader.position]]
    while reader.remaining:
        begin = reader.position
        section = reader.byte()
        body = reader.section(reader.unsigned())
        if section == _MODULE:
            pieces.append(_section(section, _hollow(data, body.position, body.end)))
        elif section == _COMPONENT:
            inner = _skeleton(data, body.position, body.end, depth + 1)
            pieces.append(_section(section, inner))
        elif section != _CUSTOM:
            pieces.append(data[begin : body.end])
    return b"".join(pieces)


def _hollow(data: bytes, start: int, end: int) -> bytes:
    reader = Reader(data, start, end)
    reader.skip(8)
    pieces = [data[start : reader.position]]
    count = 0
    while reader.remaining:
        begin = reader.position
        section = reader.byte()
        body = reader.section(reader.unsigned())
        if section == _FUNCTION:
            count = body.count()
        if section == _CODE:
            pieces.append(_section(section, unsigned(count) + _UNREACHABLE * count))
        elif section not in (_CUSTOM, _DATA, _DATA_COUNT):
            pieces.append(data[begin : body.end])
    return b"".join(pieces)


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + unsigned(len(content)) + content
