"""Reads the primitive values and the types of the WebAssembly binary format.

Source of every rule: WebAssembly core specification 3.0, chapter 5 ("Binary Format"), and the
threads, memory64 and custom-page-sizes proposals for the flags of a memory.
"""

from __future__ import annotations

from ..protocol.description import (
    PAGE_SIZE,
    FunctionType,
    GlobalType,
    MemoryType,
    TableType,
)


class MalformedModule(ValueError):
    """The bytes are not a core module that this parser understands; the text says where and why."""


class InterfaceTooLarge(MalformedModule):
    """The imports and exports are more than a description may carry."""


_NUMBERS = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
# Heap types by their byte: (name in "(ref …)", shorthand for the nullable reference).
_HEAPS = {
    0x74: ("noexn", "nullexnref"),
    0x73: ("nofunc", "nullfuncref"),
    0x72: ("noextern", "nullexternref"),
    0x71: ("none", "nullref"),
    0x70: ("func", "funcref"),
    0x6F: ("extern", "externref"),
    0x6E: ("any", "anyref"),
    0x6D: ("eq", "eqref"),
    0x6C: ("i31", "i31ref"),
    0x6B: ("struct", "structref"),
    0x6A: ("array", "arrayref"),
    0x69: ("exn", "exnref"),
}
_PACKED = frozenset((0x78, 0x77))


class Reader:
    """A position in ``data[start:end]``; every method moves it on or raises ``MalformedModule``."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes | bytearray, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.end = end

    def fail(self, why: str) -> MalformedModule:
        return MalformedModule(f"{why} at offset {self.position}")

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def byte(self) -> int:
        position = self.position
        if position >= self.end:
            raise self.fail("unexpected end")
        self.position = position + 1
        return self.data[position]

    def skip(self, size: int) -> None:
        if size > self.remaining:
            raise self.fail(f"{size} bytes wanted, {self.remaining} left")
        self.position += size

    def unsigned(self, bits: int = 32) -> int:
        """An unsigned LEB128 of at most ``bits`` bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    raise self.fail(f"a number larger than {bits} bits")
                return value
            shift += 7
            if shift >= bits:
                raise self.fail(f"a number longer than {bits} bits")

    def signed(self, bits: int) -> int:
        """A signed LEB128 of at most ``bits`` bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= bits:
                raise self.fail(f"a number longer than {bits} bits")
        if byte & 0x40:
            value -= 1 << shift
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise self.fail(f"a number larger than {bits} bits")
        return value

    def count(self) -> int:
        """The length of a vector, each of whose elements takes at least a byte."""
        count = self.unsigned()
        if count > self.remaining:
            raise self.fail(f"a vector of {count} elements in {self.remaining} bytes")
        return count

    def name(self) -> str:
        size = self.count()
        start = self.position
        self.position = start + size
        try:
            return self.data[start : start + size].decode()
        except UnicodeDecodeError:
            raise self.fail("a name that is not UTF-8") from None

    def section(self, size: int) -> Reader:
        """A reader of the next ``size`` bytes, which this one skips."""
        start = self.position
        self.skip(size)
        return Reader(self.data, start, self.position)

    def finish(self) -> None:
        if self.position != self.end:
            raise self.fail(f"{self.remaining} bytes too many")

    # --- types ---------------------------------------------------------------------------------

    def heap_type(self) -> str:
        """The name of a heap type: ``func``, ``extern``, …, or the index of a defined one."""
        if self.position < self.end:
            known = _HEAPS.get(self.data[self.position])
            if known is not None:
                self.position += 1
                return known[0]
        index = self.signed(33)
        if index < 0:
            raise self.fail("an unknown heap type")
        return str(index)

    def value_type(self) -> str:
        byte = self.byte()
        number = _NUMBERS.get(byte)
        if number is not None:
            return number
        heap = _HEAPS.get(byte)
        if heap is not None:
            return heap[1]
        if byte == 0x63:
            name = self.heap_type()
            return next(
                (short for long, short in _HEAPS.values() if long == name), f"(ref null {name})"
            )
        if byte == 0x64:
            return f"(ref {self.heap_type()})"
        raise self.fail(f"an unknown value type 0x{byte:02x}")

    def value_types(self) -> tuple[str, ...]:
        value_type = self.value_type
        return tuple([value_type() for _ in range(self.count())])

    def reference_type(self) -> str:
        name = self.value_type()
        if name in _NUMBERS.values():
            raise self.fail(f"{name} is no reference type")
        return name

    def function_type(self) -> FunctionType:
        return FunctionType(self.value_types(), self.value_types())

    def field_type(self) -> None:
        if self.position < self.end and self.data[self.position] in _PACKED:
            self.position += 1
        else:
            self.value_type()
        self.mutability()

    def mutability(self) -> bool:
        byte = self.byte()
        if byte > 1:
            raise self.fail(f"mutability 0x{byte:02x}")
        return byte == 1

    def limits(self) -> tuple[int, int, int | None]:
        """(flags, minimum, maximum)."""
        flags = self.byte()
        bits = 64 if flags & 4 else 32
        minimum = self.unsigned(bits)
        maximum = self.unsigned(bits) if flags & 1 else None
        return flags, minimum, maximum

    def memory_type(self) -> MemoryType:
        flags, minimum, maximum = self.limits()
        if flags > 15:
            raise self.fail(f"memory flags 0x{flags:02x}")
        page_size = PAGE_SIZE
        if flags & 8:
            exponent = self.unsigned()
            if exponent not in (0, 16):
                raise self.fail(f"a page size of 2^{exponent} bytes")
            page_size = 1 << exponent
        return MemoryType(minimum, maximum, bool(flags & 2), bool(flags & 4), page_size)

    def table_type(self) -> TableType:
        element = self.reference_type()
        flags, minimum, maximum = self.limits()
        if flags & ~5:
            raise self.fail(f"table flags 0x{flags:02x}")
        return TableType(element, minimum, maximum, bool(flags & 4))

    def global_type(self) -> GlobalType:
        return GlobalType(self.value_type(), self.mutability())

    # --- constant expressions ------------------------------------------------------------------

    def skip_expression(self) -> None:
        """Step over a constant expression, as it initialises a global or a table."""
        while True:
            opcode = self.byte()
            if opcode == 0x0B:
                return
            if opcode == 0x41:
                self.signed(32)
            elif opcode == 0x42:
                self.signed(64)
            elif opcode == 0x43:
                self.skip(4)
            elif opcode == 0x44:
                self.skip(8)
            elif opcode in (0x23, 0xD2):
                self.unsigned()
            elif opcode == 0xD0:
                self.heap_type()
            elif opcode == 0xFD:
                if self.unsigned() != 12:
                    raise self.fail("a vector instruction that is not constant")
                self.skip(16)
            elif opcode == 0xFB:
                self._skip_aggregate()
            elif opcode not in (0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E):
                raise self.fail(f"instruction 0x{opcode:02x} in a constant expression")

    def _skip_aggregate(self) -> None:
        operation = self.unsigned()
        if operation in (0, 1, 6, 7, 8):  # struct.new(_default), array.new(_default, _fixed)
            self.unsigned()
            if operation == 8:
                self.unsigned()
        elif operation not in (0x1A, 0x1B, 0x1C):  # any.convert_extern, extern.convert_any, ref.i31
            raise self.fail(f"aggregate instruction {operation} in a constant expression")
