"""Steps over the instructions of a function's body, and finds what changes tables or segments.

Whatever is not known here is taken for such an instruction.

Source: WebAssembly core specification 3.0, chapter 5.4 ("Instructions"), and the threads and
wide-arithmetic proposals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from .binary_reader import MalformedModule, Reader
from .purity import skip_address, skip_block_type

_CODE = 10
_PLAIN = frozenset((0x00, 0x01, 0x05, 0x0A, 0x0B, 0x0F, 0x1A, 0x1B, *range(0x45, 0xC5)))
_PLAIN_REFERENCES = frozenset((0xD1, 0xD3, 0xD4))
_ONE_INDEX = frozenset(
    (0x08, 0x0C, 0x0D, 0x10, 0x12, 0x14, 0x15, *range(0x20, 0x27), 0x3F, 0x40, 0xD2, 0xD5, 0xD6)
)
_TWO_INDEXES = frozenset((0x11, 0x13))
_BLOCKS = frozenset((0x02, 0x03, 0x04))
_ADDRESSED = range(0x28, 0x3F)
_INDEXES = {8: 2, 9: 1, 10: 2, 11: 1, 12: 2, 13: 1, 14: 2, 15: 1, 16: 1, 17: 1}
"""Of the instructions with the prefix 0xFC that have any."""
TABLE_SET, BULK, DATA_DROP = 0x26, 0xFC, 9
TABLE_CHANGES = frozenset((12, 14, 15, 17))
"""With the prefix ``BULK``: ``table.init``, ``copy``, ``grow`` and ``fill``."""


def first_change(
    data: bytes | bytearray, tables: int, *, drops: bool, check: Callable[[], object]
) -> int | None:
    """Which body in the valid module ``data``, counted from 0, is the first that changes a table
    or, with ``drops``, drops a data segment.

    Only bodies in which the bytes of such an instruction occur are read one by one.

    Args:
        data: the module. tables: how many it has. drops: see above.
        check: called again and again, so that it may end what takes too long.
    """
    wanted: list[bytes] = []
    if tables:
        wanted += [b"\x26" + _number(range(tables)), b"\xfc" + _number(TABLE_CHANGES)]
    if drops:
        wanted += [b"\xfc" + _number((DATA_DROP,))]
    if not wanted:
        return None
    likely = re.compile(b"|".join(wanted), re.DOTALL)
    for number, body in enumerate(_bodies(data)):
        if likely.search(data, body.position, body.end):
            check()
            if _changes(body, tables=tables > 0, drops=drops):
                return number
    return None


def _number(numbers: Collection[int]) -> bytes:
    """A pattern for one of them, which may be written with more bytes than it needs."""
    if max(numbers) > 0x7F:
        return b""
    low = b"".join(b"\\x%02x" % number for number in numbers)
    high = b"".join(b"\\x%02x" % (number | 0x80) for number in numbers)
    return b"(?:[%s]|[%s]\x80{0,3}\x00)" % (low, high)


def _bodies(data: bytes | bytearray) -> list[Reader]:
    reader = Reader(data, 8, len(data))
    while reader.remaining:
        section = reader.byte()
        content = reader.section(reader.unsigned())
        if section == _CODE:
            return [content.section(content.unsigned()) for _ in range(content.count())]
    return []


def _changes(body: Reader, *, tables: bool, drops: bool) -> bool:
    try:
        for _ in range(body.count()):
            body.unsigned()
            body.value_type()
        while body.remaining:
            opcode, operation = _step(body)
            if opcode == TABLE_SET and tables:
                return True
            if opcode == BULK and (
                (tables and operation in TABLE_CHANGES) or (drops and operation == DATA_DROP)
            ):
                return True
    except MalformedModule:
        return True
    return False


def _step(body: Reader) -> tuple[int, int]:
    """The instruction that was stepped over: its first byte, and what follows a prefix."""
    opcode = body.byte()
    if opcode in _PLAIN or opcode in _PLAIN_REFERENCES:
        return opcode, 0
    if opcode in _ONE_INDEX:
        body.unsigned()
    elif opcode in _TWO_INDEXES:
        body.unsigned()
        body.unsigned()
    elif opcode in _ADDRESSED:
        skip_address(body)
    elif opcode in _BLOCKS:
        skip_block_type(body)
    elif opcode == 0x41:
        body.signed(32)
    elif opcode == 0x42:
        body.signed(64)
    elif opcode in (0x43, 0x44):
        body.skip(4 if opcode == 0x43 else 8)
    elif opcode == 0x0E:
        for _ in range(body.count() + 1):
            body.unsigned()
    elif opcode == 0x1C:
        body.value_types()
    elif opcode == 0xD0:
        body.heap_type()
    elif opcode == 0x1F:
        _skip_try_table(body)
    elif opcode in (BULK, 0xFD, 0xFE):
        return opcode, _skip_prefixed(body, opcode)
    else:
        raise body.fail(f"an unknown instruction 0x{opcode:02x}")
    return opcode, 0


def _skip_try_table(body: Reader) -> None:
    skip_block_type(body)
    for _ in range(body.count()):
        if body.byte() < 2:  # catch and catch_ref name a tag
            body.unsigned()
        body.unsigned()


def _skip_prefixed(body: Reader, prefix: int) -> int:
    operation = body.unsigned()
    if prefix == BULK:
        if operation > 22:
            raise body.fail(f"an unknown instruction 0xfc {operation}")
        for _ in range(_INDEXES.get(operation, 0)):
            body.unsigned()
    elif prefix == 0xFE:
        if operation == 3:  # atomic.fence
            body.byte()
        else:
            skip_address(body)
    elif operation < 12 or operation in (92, 93):
        skip_address(body)
    elif operation in (12, 13):
        body.skip(16)
    elif 21 <= operation < 35:
        body.byte()
    elif 84 <= operation < 92:
        skip_address(body)
        body.byte()
    return operation
