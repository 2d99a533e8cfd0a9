"""Hostile modules as generated binaries: compile bombs, and input that is not a module at all.

Everything here is deterministic and needs no tool. The bombs are valid modules that cost the
compiler far more than they weigh; each takes a size, so that a test can choose how much harm it
wants to see stopped. Times and sizes were measured on one core of a small virtual machine.
"""

import random
from collections.abc import Callable

MAGIC = b"\0asm"
VERSION = b"\1\0\0\0"
EMPTY = MAGIC + VERSION
"""The smallest valid module."""

CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT = range(8)
START, ELEMENT, CODE, DATA = range(8, 12)

I32, I64, F32, F64, V128 = b"\x7f", b"\x7e", b"\x7d", b"\x7c", b"\x7b"

NOTHING = b"\x60\0\0"
"""The function type without parameters and results."""

_END = b"\x0b"
_BLOCK, _LOOP = b"\x02\x40", b"\x03\x40"


def leb(value: int) -> bytes:
    """An unsigned integer, LEB128, in the fewest bytes."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed_leb(value: int) -> bytes:
    """A signed integer, LEB128, in the fewest bytes."""
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


def section(kind: int, content: bytes) -> bytes:
    """One section: its kind, its length, its content."""
    return bytes((kind,)) + leb(len(content)) + content


def vector(*items: bytes) -> bytes:
    """A count and that many items."""
    return leb(len(items)) + b"".join(items)


def name(text: str) -> bytes:
    """A name: its length in bytes, and UTF-8."""
    return leb(len(text.encode())) + text.encode()


def body(code: bytes, *local_groups: tuple[int, bytes]) -> bytes:
    """A function in the code section: locals as (count, type), code without its last ``end``."""
    groups = vector(*(leb(count) + kind for count, kind in local_groups))
    content = groups + code + _END
    return leb(len(content)) + content


def module(*sections: bytes) -> bytes:
    """A module of these sections."""
    return EMPTY + b"".join(sections)


def functions(*bodies: bytes, extra: bytes = b"") -> bytes:
    """A module of functions of type ``NOTHING``; the first is exported as ``run``."""
    return module(
        section(TYPE, vector(NOTHING)),
        section(FUNCTION, leb(len(bodies)) + b"\0" * len(bodies)),
        extra,
        section(EXPORT, vector(name("run") + b"\0\0")),
        section(CODE, leb(len(bodies)) + b"".join(bodies)),
    )


# -- compile bombs: valid, small, and dear --------------------------------------------------------


def nested_blocks(depth: int = 1_000_000) -> bytes:
    """Blocks in blocks (c01). A million: 2.9 MiB, 3 s, 0.9 GiB."""
    return functions(body(_BLOCK * depth + _END * depth))


def long_function(length: int = 7_500_000) -> bytes:
    """One function of ``length`` bytes of arithmetic (c02). 7.5 MB is the most that is valid."""
    step = b"\x20\0\x41\x07\x6a\x21\0"  # local.get 0, i32.const 7, i32.add, local.set 0
    return functions(body(step * (length // len(step)), (1, I32)))


def wide_locals(count: int = 1000, width: int = 50_000, kind: bytes = V128) -> bytes:
    """``count`` functions of ``width`` locals each (c04, c04b): eight bytes make a frame of 800 KB.

    1000 of v128: 8 KiB, 2-5 s. 20,000 of i64: 156 KiB, two minutes.
    """
    return functions(*(body(b"", (width, kind)) for _ in range(count)))


def many_functions(count: int = 1_000_000) -> bytes:
    """Empty functions (c05). A million (the limit of the format): 3.9 MiB, 23 s, 5.3 GiB."""
    return functions(*(body(b"") for _ in range(count)))


def many_blocks(count: int = 400_000) -> bytes:
    """A row of blocks that each add one to a local (c06). 400,000: 3.9 MiB, above five minutes."""
    step = _BLOCK + b"\x41\1\x20\0\x6a\x21\0" + _END  # local.set 0 (i32.add 1 (local.get 0))
    return functions(body(step * count, (1, I32)))


def branch_ladder(rungs: int = 100_000, live: int = 1000) -> bytes:
    """Conditional branches with ``live`` values alive across all (c07): 0.4 MiB, 13 s, 0.4 GiB.

    With 200,000 rungs and 5000 values (3.7 MiB): minutes, then more than 15 GiB.
    """
    reads = b"".join(b"\x20" + leb(index) + b"\x1a" for index in range(live))
    sets = b"".join(b"\x23\0\x21" + leb(index) for index in range(live))
    rung = b"\x23\0\x0d\0"  # global.get 0, br_if 0
    variable = section(GLOBAL, vector(I32 + b"\1" + b"\x41\0" + _END))
    code = sets + _BLOCK + rung * rungs + _END + reads
    return functions(body(code, (live, I32)), extra=variable)


def loops_over_locals(loops: int = 10_000, width: int = 1000, *, copies: int = 1) -> bytes:
    """Loops in a row over a function of many locals: 100 KiB, 2 s, 1 GiB each."""
    step = _LOOP + b"\x23\0\x0d\0" + _END
    variable = section(GLOBAL, vector(I32 + b"\1" + b"\x41\0" + _END))
    touched = b"".join(b"\x20" + leb(i) + b"\x41\1\x6a\x21" + leb(i) for i in range(width))
    return functions(*[body(step * loops + touched, (width, I32))] * copies, extra=variable)


def many_calls(count: int = 600_000) -> bytes:
    """One function that calls another again and again (c15). 600,000: 1.2 MiB, 7 s, 1.4 GiB."""
    return functions(body(b"\x10\1" * count), body(b""))


def sparse_data(count: int = 60_000) -> bytes:
    """Data segments of one byte spread over 4 GiB (c09). 60,000: 584 KiB, 3 s, 0.5 GiB."""
    stride = (1 << 32) // count
    segments = [
        b"\0\x41" + signed_leb(_wrap(index * stride)) + _END + b"\1x" for index in range(count)
    ]
    return module(
        section(MEMORY, vector(b"\0" + leb(65536))),
        section(DATA, vector(*segments)),
    )


COMPILE_BOMBS: dict[str, Callable[[], bytes]] = {
    "c01 nested blocks": nested_blocks,
    "c02 one long function": long_function,
    "c04 wide v128 locals": wide_locals,
    "c04b wide i64 locals": lambda: wide_locals(20_000, kind=I64),
    "c05 a million functions": many_functions,
    "c06 many blocks": many_blocks,
    "c07 branch ladder": branch_ladder,
    "c09 sparse data": sparse_data,
    "c15 many calls": many_calls,
}


# -- harmless if handled with care: large, but cheap to refuse or to load --------------------------


def many_types(count: int = 900_000) -> bytes:
    """A long type section (c08)."""
    return module(section(TYPE, vector(*([NOTHING] * count))))


def many_imports(count: int = 100_000) -> bytes:
    """Imports that nobody gives (c13): an error message should not list them all."""
    imports = (name("env") + name(f"f{index}") + b"\0\0" for index in range(count))
    return module(section(TYPE, vector(NOTHING)), section(IMPORT, vector(*imports)))


def long_names(length: int = 99_000, what: int = IMPORT) -> bytes:
    """An import or export with the longest name allowed (c12): not to be shown in full."""
    long = name("n" * length)
    if what == IMPORT:
        return module(
            section(TYPE, vector(NOTHING)), section(IMPORT, vector(long + long + b"\0\0"))
        )
    return module(
        section(TYPE, vector(NOTHING)),
        section(FUNCTION, vector(b"\0")),
        section(EXPORT, vector(long + b"\0\0")),
        section(CODE, vector(body(b""))),
    )


def terminal_names() -> bytes:
    """Imports under names full of escape codes, line ends and text that reads backwards."""
    bad = name("\x1b[2J\x1b]0;owned\x07\r\n\u202egnp.exe")
    return module(section(TYPE, vector(NOTHING)), section(IMPORT, vector(bad + bad + b"\0\0")))


def custom_section(length: int = 64 << 20) -> bytes:
    """A custom section of ``length`` bytes (c14): weight without meaning."""
    return module(section(CUSTOM, name("ballast") + bytes(length)))


def many_custom_sections(count: int = 100_000) -> bytes:
    """``count`` empty custom sections."""
    return module(section(CUSTOM, name("")) * count)


def name_section_bomb(count: int = 100_000) -> bytes:
    """A name section with ``count`` names for functions that do not exist: debug data that lies."""
    names = vector(*(leb(index * 37) + name(f"f{index}") for index in range(count)))
    content = name("name") + section(1, names)
    return functions(body(b"")) + section(CUSTOM, content)


def wide_tables(count: int = 100, elements: int = 10_000_000) -> bytes:
    """Tables of ten million elements (c10)."""
    return module(section(TABLE, vector(*([b"\x70\0" + leb(elements)] * count))))


# -- not modules -----------------------------------------------------------------------------------


def truncated(whole: bytes, most: int = 200) -> list[bytes]:
    """Prefixes of a module that end inside of a section, so none is valid; about ``most``."""
    step = max(1, len(whole) // most)
    boundaries = {len(EMPTY)}
    position = len(EMPTY)
    while position < len(whole):
        length = shift = 0
        position += 1
        while True:
            byte = whole[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            position += 1
            if byte < 0x80:
                break
        position += length
        boundaries.add(position)
    return [whole[:end] for end in range(1, len(whole), step) if end not in boundaries]


def random_bytes(seed: int, length: int = 4096) -> bytes:
    """Noise."""
    return random.Random(seed).randbytes(length)


def random_module(seed: int, length: int = 4096) -> bytes:
    """Noise behind a good header."""
    return EMPTY + random_bytes(seed, length)


def flipped(whole: bytes, seed: int, flips: int = 3) -> bytes:
    """A module with a few bits flipped: it may even stay valid."""
    chooser = random.Random(seed)
    changed = bytearray(whole)
    for _ in range(flips):
        changed[chooser.randrange(len(EMPTY), len(changed))] ^= 1 << chooser.randrange(8)
    return bytes(changed)


_MAXIMUM = b"\xff\xff\xff\xff\x0f"  # 2**32 - 1

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\0",
    "half a magic number": b"\0as",
    "another magic number": b"\x7fELF" + VERSION,
    "no version": MAGIC,
    "version 2": MAGIC + b"\2\0\0\0",
    "text that is no module": b"(module (func (export",
    "python source": b"import os\nos.system('true')\n",
    "a section past the end": EMPTY + b"\1" + leb(1000) + b"\0",
    "a section of 4 GiB": EMPTY + b"\1" + _MAXIMUM,
    "a length that never ends": EMPTY + b"\1" + b"\x80" * 40,
    "an unknown section": EMPTY + b"\x63\0",
    "two type sections": module(section(TYPE, vector(NOTHING)), section(TYPE, vector(NOTHING))),
    "sections out of order": module(section(FUNCTION, b"\0"), section(TYPE, b"\0")),
    "4 billion types": module(section(TYPE, _MAXIMUM)),
    "4 billion functions": module(
        section(TYPE, vector(NOTHING)), section(FUNCTION, _MAXIMUM + b"\0" * 64)
    ),
    "4 billion locals": functions(body(b"", (2**32 - 1, I64), (2**32 - 1, I64))),
    "4 billion data segments": module(section(DATA, _MAXIMUM)),
    "a vector of branches past the end": functions(body(b"\x41\0\x0e" + _MAXIMUM)),
    "functions without code": module(
        section(TYPE, vector(NOTHING)), section(FUNCTION, vector(b"\0"))
    ),
    "an export of nothing": module(section(EXPORT, vector(name("run") + b"\0" + leb(7)))),
    "the same export twice": module(
        section(MEMORY, vector(b"\0\1")), section(EXPORT, vector(*([name("m") + b"\2\0"] * 2)))
    ),
    "a name that is not UTF-8": module(
        section(MEMORY, vector(b"\0\1")), section(EXPORT, vector(b"\2\xff\xfe" + b"\2\0"))
    ),
    "a memory whose least is above its most": module(section(MEMORY, vector(b"\1\2\1"))),
    "a memory above 4 GiB": module(section(MEMORY, vector(b"\0" + leb(65537)))),
    "a start function that is missing": module(section(START, leb(3))),
    "a body that takes from an empty stack": functions(body(b"\x1a")),
    "a body without an end": module(
        section(TYPE, vector(NOTHING)),
        section(FUNCTION, vector(b"\0")),
        section(CODE, vector(leb(2) + b"\0\1")),
    ),
    "an unknown instruction": functions(body(b"\xff")),
    "bytes after the last section": functions(body(b"")) + b"\1",
    "noise": random_bytes(1),
    "noise behind a header": random_module(1),
}
"""What no loader may take: each must be refused as ``InvalidModule``, in milliseconds."""


def _wrap(value: int) -> int:
    """An unsigned 32-bit number as the signed one of the same bits."""
    return value - (1 << 32) if value >> 31 else value
