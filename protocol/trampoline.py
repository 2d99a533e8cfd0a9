"""The trampoline: a small module of ours that calls a function for one record after another.

Theory of operation. A step from Python into a guest takes half a microsecond, a step from one
module into another a nanosecond. So the loop over records is a module itself: it imports the
function, owns a memory in which the columns of arguments and results lie (``batch``), and exports

- ``memory``;
- ``run(first, end, count, results)``: call the function for the records from ``first`` to before
  ``end`` (at least one), of ``count`` that lie in the columns from address 0 on; results go to the
  columns from the address ``results`` on;
- ``at``, a global: the record in progress, which is how the host learns which one trapped.

It depends on the function's type alone. Workers do not compile: it is compiled as any guest is, in
a jailed process, and cached.

Source of the encoding: WebAssembly core specification, chapter 5 ("Binary Format").
"""

from __future__ import annotations

from collections.abc import Sequence

from .batch import MOST_RECORDS, SIZES, most_records, width
from .description import PAGE_SIZE, FunctionType

IMPORT = "batch", "function"
"""Under which it imports the function."""
RUN, MEMORY, AT = "run", "memory", "at"
"""Its exports."""
NAME = "\0trampoline"
"""The name of ``run`` in a backtrace: such a frame is not the guest's."""
ALIGNMENT = 16

_TYPES = {"i32": 0x7F, "i64": 0x7E, "f32": 0x7D, "f64": 0x7C, "v128": 0x7B}
_NO_ALIGNMENT = b"\0\0"
_LOADS = {"i32": b"\x28", "i64": b"\x29", "f32": b"\x2a", "f64": b"\x2b", "v128": b"\xfd\x00"}
_STORES = {"i32": b"\x36", "i64": b"\x37", "f32": b"\x38", "f64": b"\x39", "v128": b"\xfd\x0b"}
_FIRST, _END, _COUNT, _RESULTS = range(4)
_GET, _SET, _SET_GLOBAL, _CONST = 0x20, 0x21, 0x24, 0x41
_ADD, _MULTIPLY, _LESS = b"\x6a", b"\x6c", b"\x49"


def source(function: FunctionType) -> bytes:
    """The trampoline for functions of this type: a binary module."""
    assert most_records(function), function
    text = [_string(part) for part in IMPORT]
    exports = ((MEMORY, 2, 0), (RUN, 0, 1), (AT, 3, 0))
    names = _vector([_number(1) + _string(NAME)])
    return b"\0asm\1\0\0\0" + b"".join(
        (
            _section(1, [_type(function.params, function.results), _type(("i32",) * 4, ())]),
            _section(2, [b"".join(text) + b"\0" + _number(0)]),
            _section(3, [_number(1)]),
            _section(5, [b"\1" + _number(_pages(function)) * 2]),
            _section(6, [bytes((_TYPES["i32"], 1)) + _constant(0) + b"\x0b"]),
            _section(7, [_string(name) + bytes((kind, index)) for name, kind, index in exports]),
            _section(10, [_sized(_body(function))]),
            b"\0" + _sized(_string("name") + b"\1" + _sized(names)),
        )
    )


def results_at(function: FunctionType, count: int) -> int:
    """Where the host puts the columns of results of ``count`` records: behind the arguments."""
    return -(-count * width(function.params) // ALIGNMENT) * ALIGNMENT


def _pages(function: FunctionType) -> int:
    most = most_records(function)
    return -(-(results_at(function, most) + most * width(function.results)) // PAGE_SIZE)


def _body(function: FunctionType) -> bytes:
    """Locals: the parameters of ``run``, the addresses of the next argument and result of each
    column, and the results where there are several."""
    params, results = function.params, function.results
    arguments = range(4, 4 + len(params))
    targets = range(arguments.stop, arguments.stop + len(results))
    kept = range(targets.stop, targets.stop + len(results)) if len(results) > 1 else range(0)
    code: list[bytes] = []

    def column(address: int, types: Sequence[str], at: int, base: bytes) -> None:
        """address = base + count * (bytes of the columns before) + first * (bytes of a value)"""
        code.extend(
            (
                base,
                *(_of(_GET, _COUNT), _constant(width(types[:at])), _MULTIPLY, _ADD),
                *(_of(_GET, _FIRST), _constant(SIZES[types[at]]), _MULTIPLY, _ADD),
                _of(_SET, address),
            )
        )

    for at, address in enumerate(arguments):
        column(address, params, at, _constant(0))
    for at, address in enumerate(targets):
        column(address, results, at, _of(_GET, _RESULTS))
    code += b"\x03\x40", _of(_GET, _FIRST), bytes((_SET_GLOBAL, 0))
    if len(results) == 1:
        code.append(_of(_GET, targets[0]))
    for kind, address in zip(params, arguments, strict=True):
        code += _of(_GET, address), _LOADS[kind], _NO_ALIGNMENT
    code.append(b"\x10\0")
    code.extend(_of(_SET, place) for place in reversed(kept))
    for at, kind in enumerate(results):
        if kept:
            code += _of(_GET, targets[at]), _of(_GET, kept[at])
        code += _STORES[kind], _NO_ALIGNMENT
    for kind, address in zip(params + results, (*arguments, *targets), strict=True):
        code += _of(_GET, address), _constant(SIZES[kind]), _ADD, _of(_SET, address)
    code += _of(_GET, _FIRST), _constant(1), _ADD, bytes((0x22,)) + _number(_FIRST)
    code += _of(_GET, _END), _LESS, b"\x0d\0\x0b\x0b"
    groups = [_number(len(params) + len(results)) + bytes((_TYPES["i32"],))]
    groups += [_number(1) + bytes((_TYPES[kind],)) for kind in results if kept]
    return _vector(groups) + b"".join(code)


def _type(params: Sequence[str], results: Sequence[str]) -> bytes:
    return b"\x60" + b"".join(
        _vector([bytes((_TYPES[t],)) for t in ts]) for ts in (params, results)
    )


def _of(instruction: int, index: int) -> bytes:
    return bytes((instruction,)) + _number(index)


def _constant(value: int) -> bytes:
    """i32.const of a small number."""
    assert 0 <= value < 1 << 13, value
    low, high = value & 0x7F, value >> 7
    return bytes((_CONST, low | 0x80, high)) if high or low > 0x3F else bytes((_CONST, low))


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _string(text: str) -> bytes:
    return _sized(text.encode())


def _sized(content: bytes) -> bytes:
    return _number(len(content)) + content


def _vector(entries: Sequence[bytes]) -> bytes:
    return _number(len(entries)) + b"".join(entries)


def _section(number: int, entries: Sequence[bytes]) -> bytes:
    return bytes((number,)) + _sized(_vector(entries))


assert MOST_RECORDS * max(SIZES.values()) < 1 << 31
