"""The gate: what stands between a guest and WASI where directories are granted.

Theory of operation. The engine's WASI confines paths to the directories that were granted; it
counts nothing and tells creating from writing nowhere. Two small modules of ours do, without a step
through Python for each operation:

- The *gate* is instantiated first. It exports every function of WASI. Those that touch files
  (``GUARDED``) only jump through a table; the others are the engine's own.
- The *guest* gets the gate's exports as its imports.
- The *warden* (``warden.py``) comes last. It imports the guest's memory and exports it again as
  ``memory``, because that is how the engine's WASI finds the memory to work on: by that export of
  whoever calls. It fills the first half of the table with its own functions, which check and count,
  and call the engine's through the second half.

Output may pass the warden, too (``Wasi.direct``). The engine gives what its guest writes to stdout
and stderr to the host in pieces of 4 KiB, each by way of another thread; the warden gives it whole.

So every operation on files passes the warden, whatever the guest does with the functions it was
given. Until the warden is there the table's first half is empty: a start function that uses files
traps. The gate also owns ``state``, a memory that the warden and the host share and no guest can
reach; its layout is below.

Both modules are text that does not depend on any guest. Workers do not compile: the zygote hands
the text to the supervisor, which has it compiled as any module is, and cached.
"""

from __future__ import annotations

from ...protocol.description import FunctionType
from .interface import WASI_MODULE
from .preview1 import FUNCTIONS

# fmt: off
ANSWERED = (
    "fd_advise", "fd_allocate", "fd_close", "fd_fdstat_set_flags", "fd_filestat_set_size",
    "fd_pread", "fd_pwrite", "fd_read", "fd_readdir", "fd_renumber", "fd_write",
    "path_create_directory", "path_link", "path_open", "path_remove_directory", "path_rename",
    "path_symlink", "path_unlink_file",
)
# fmt: on
"""The functions that the warden answers, in the order of the table."""
GUARDED = frozenset(ANSWERED)
ASKED = ("fd_filestat_get", "fd_tell", "path_filestat_get")
"""Functions that the warden uses beside those."""

HOST_MODULE = "sandbox"
"""The module name under which the gate imports what the host does for the warden."""
PACE, EXCEEDED, WRITE = "pace", "exceeded", "write"
"""``pace(which)`` returns when there are bytes to read (0) or to write (1); ``exceeded()`` does not
return; ``write(stream, start, size)`` writes to stdout (1) or stderr (2), and returns an error
number."""

_SLOTS = (*ANSWERED, *(f"engine {name}" for name in (*ANSWERED, *ASKED)), PACE, EXCEEDED, WRITE)
TABLE_SIZE = len(_SLOTS)

PAGE = 65536
STATE_PAGES = 34
"""Pages that the state may have; it begins with one, because each that a call has costs it time."""
DISK, READ_TOKENS, WRITE_TOKENS, READ, WRITTEN = 0, 8, 16, 24, 32
"""The head, in numbers of 64 bits: bytes that may still be added, tokens to read and to write,
bytes read and written."""
OPEN, READ_SIZE, WRITE_SIZE, WANTED = 40, 44, 48, 56
"""Descriptors that may still be opened, bytes of one reading and of one writing at most (32 bits),
and how many bytes were to be added when that was too much (64 bits)."""
SAVED, SAVED_SIZE = 64, 64
"""Where the warden keeps the guest's bytes while the engine answers into their place."""
NO_RECORD = 128
"""A record that is always empty, for descriptors beyond the last record."""
GRANTS = 160
GRANT_SIZE = 32
"""A grant: rights (32 bits, padded), bytes of a file at most, bytes that may still be added (64
each)."""
MAY_CREATE, MAY_DELETE = 1, 2
"""Rights."""
MAX_GRANTS = 128
RECORDS = GRANTS + MAX_GRANTS * GRANT_SIZE
RECORD_SIZE = 32
"""A descriptor: address of its grant (0: no file), bytes of its path below the grant (32 bits
each), size of the file as far as it is known (64; -1: not yet), whether it appends (32), and which
stream it is (32; 1 or 2, 0: none that the host writes)."""
STREAM = 20
"""Where in a record that is."""

_HOST = {
    PACE: FunctionType(("i32",), ()),
    EXCEEDED: FunctionType((), ()),
    WRITE: FunctionType(("i32", "i32", "i32"), ("i32",)),
}


def function_type(name: str) -> str:
    """The type of a function of WASI or of the host in text form: ``(param …) (result …)``."""
    found = FUNCTIONS.get(name) or _HOST[name]
    kinds = (("param", found.params), ("result", found.results))
    return " ".join(f"({what} {' '.join(types)})" for what, types in kinds if types)


def parameters(name: str) -> tuple[str, ...]:
    """The types of the parameters of a function of WASI."""
    return FUNCTIONS[name].params


def jump(name: str, to: str) -> str:
    """The body of a function that does nothing but call what is in the table as ``to``."""
    count = len((FUNCTIONS.get(name) or _HOST[name]).params)
    arguments = " ".join(f"(local.get {index})" for index in range(count))
    at = _SLOTS.index(to)
    return f"(call_indirect $table {function_type(name)} {arguments} (i32.const {at}))"


def gate() -> str:
    """The gate's source."""
    names = sorted(FUNCTIONS)
    imports = [(WASI_MODULE, name) for name in names] + [(HOST_MODULE, name) for name in _HOST]
    behind = " ".join(f"${name.removeprefix('engine ')}" for name in _SLOTS[len(ANSWERED) :])
    return "\n".join(
        (
            "(module",
            *(
                f'(import "{module}" "{name}" (func ${name} {function_type(name)}))'
                for module, name in imports
            ),
            f'(table $table (export "table") {TABLE_SIZE} {TABLE_SIZE} funcref)',
            f'(memory (export "state") 1 {STATE_PAGES})',
            f"(elem (table $table) (i32.const {len(ANSWERED)}) func {behind})",
            *(
                f'(func (export "{name}") {function_type(name)} {jump(name, name)})'
                if name in GUARDED
                else f'(export "{name}" (func ${name}))'
                for name in names
            ),
            ")",
        )
    )
