"""The bridge: how ``wasi:filesystem`` reaches the functions of WASI preview 1.

Directories are granted through the gate and the warden (``engines/gate.py``), which know rights,
sizes, rates and open descriptors, and stand between WASI preview 1 and a guest. The bridge is that
guest: a small core module of ours, with a memory that only the host reads and writes, whose exports
call the functions of the same name. So every limit holds for components as it does for others, and
is enforced in one place.

It is compiled with each component that imports ``wasi:filesystem``.
"""

from __future__ import annotations

from ..engines import gate
from ..engines.interface import WASI_MODULE

FUNCTIONS = (
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_pwrite",
    "fd_readdir",
    "fd_sync",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
)
BUFFER = 1 << 16
"""Where what is read or written lies, and how much of it there may be at once."""
PAGES = 2


def bridge() -> str:
    """The bridge's source."""
    return "\n".join(
        (
            "(module",
            *(
                f'(import "{WASI_MODULE}" "{name}" (func ${name} {gate.function_type(name)}))'
                for name in FUNCTIONS
            ),
            f'(memory (export "memory") {PAGES} {PAGES})',
            *(
                f'(func (export "{name}") {gate.function_type(name)} (call ${name} '
                f"{' '.join(f'(local.get {at})' for at in range(len(gate.parameters(name))))}))"
                for name in FUNCTIONS
            ),
            ")",
        )
    )
