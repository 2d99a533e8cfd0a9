"""The functions of WASI preview 1 and their types (witx, ``wasi_snapshot_preview1``)."""

from __future__ import annotations

from collections.abc import Mapping

from ...protocol.description import FunctionType

_LETTERS = {"i": "i32", "I": "i64"}

# fmt: off
_BY_PARAMETERS = {
    "": "sched_yield",
    "i": "fd_close fd_datasync fd_sync proc_raise",
    "ii": "args_get args_sizes_get clock_res_get environ_get environ_sizes_get fd_fdstat_get "
          "fd_fdstat_set_flags fd_filestat_get fd_prestat_get fd_renumber fd_tell random_get "
          "sock_shutdown",
    "iii": "fd_prestat_dir_name path_create_directory path_remove_directory path_unlink_file "
           "sock_accept",
    "iiii": "fd_read fd_write poll_oneoff",
    "iiiii": "path_filestat_get path_symlink sock_send",
    "iiiiii": "path_readlink path_rename sock_recv",
    "iiiiiii": "path_link",
    "iI": "fd_filestat_set_size",
    "iII": "fd_allocate fd_fdstat_set_rights",
    "iIi": "clock_time_get",
    "iIIi": "fd_advise fd_filestat_set_times",
    "iIii": "fd_seek",
    "iiiIi": "fd_pread fd_pwrite fd_readdir",
    "iiiiIIi": "path_filestat_set_times",
    "iiiiiIIii": "path_open",
}
# fmt: on
"""Those that return an error number, which is all of them but ``proc_exit``."""

FUNCTIONS: Mapping[str, FunctionType] = {
    name: FunctionType(tuple(_LETTERS[letter] for letter in letters), ("i32",))
    for letters, names in _BY_PARAMETERS.items()
    for name in names.split()
} | {"proc_exit": FunctionType(("i32",), ())}
