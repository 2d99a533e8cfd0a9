"""An empty root directory (mount_namespaces(7), pivot_root(2)): of the machine's files only the
granted directories are left.

What lies in it::

    /proc/self/fd    the worker's own descriptors: the engine opens artifacts by their paths
    /dev/fd          a link to it
    /granted/0       the first granted directory and all that is mounted below it
    /scratch/0       the first scratch directory, a tmpfs of bounded size

Nothing of it is set-uid, a device, or executable, and nothing but scratch and the directories that
were granted to be written can be written. It is gone when the worker is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import msgspec

from ...protocol.capabilities import Grant, Scratch
from .libc import call
from .namespaces import NEWNS, unshare

_STAGE = "/proc"
"""Where the new root is put together, on top of what is there; it can be no empty directory made
for the purpose, and this one is there wherever a worker is."""
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_SAFE = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
"""Also what mount_setattr(2) calls them."""
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""System calls younger than the C libraries that have to do; their numbers are the same on all
architectures."""
_ATTRIBUTES = struct.Struct("=4Q")
"""Set, clear, propagation, user namespace."""


class Root:
    """The root of one worker: where it has what its policy grants."""

    def __init__(self, directories: Sequence[Grant] = (), scratch: Sequence[Scratch] = ()) -> None:
        """As long as it is not entered, the directories are where the program sees them.

        Args:
            directories: the grants.
            scratch: the scratch directories, with their places on the machine where there are any.
        """
        self.directories = tuple(directories)
        """The grants, with their paths as the worker sees them."""
        self.scratch = tuple(scratch)
        """The scratch directories, likewise."""
        self.keeps_files = bool(directories or scratch)
        """Whether anything of the program's files is in it."""

    def enter(self) -> None:
        """Make this the root of the process, and let everything else go.

        A directory that cannot be had (any more) is left out, so that opening it fails.

        Raises:
            OSError: it cannot be made here; the root is what it was.
        """
        unshare(NEWNS)
        call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        trees = [(_tree("/proc/self/fd", read_only=True), "proc/self/fd")]
        theirs = os.umask(0o022)  # the program's is for the files of guests
        try:
            self._build(trees)
        finally:
            os.umask(theirs)
            for tree, _ in trees:
                os.close(tree)

    def _build(self, trees: list[tuple[int, str]]) -> None:
        moved: list[Grant] = []
        for number, grant in enumerate(self.directories):
            place = f"granted/{number}"
            moved.append(msgspec.structs.replace(grant, path=f"/{place}"))
            try:
                tree = _tree(grant.path, read_only=not grant.writable)
            except (FileNotFoundError, PermissionError):
                continue
            trees.append((tree, place))
        inodes = f"nr_inodes={16 + 2 * len(trees) + 2 * len(self.scratch)}"
        call("mount", b"root", _STAGE.encode(), b"tmpfs", _SAFE, f"size=4k,{inodes}".encode())
        try:
            os.chdir(_STAGE)
            for tree, place in trees:
                os.makedirs(place)
                call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, place.encode(), 4)
            os.mkdir("dev")
            os.symlink("/proc/self/fd", "dev/fd")
            scratch = [
                msgspec.structs.replace(
                    wanted, path=_make_scratch(f"scratch/{number}", wanted.size)
                )
                for number, wanted in enumerate(self.scratch)
            ]
            _set_attributes(_AT_FDCWD, b".", 0, _SAFE | _MS_RDONLY)
            call("pivot_root", b".", b".")  # puts the old one on top of the new one
        except OSError:
            os.chdir("/")
            call("umount2", _STAGE.encode(), _MNT_DETACH)
            raise
        call("umount2", b".", _MNT_DETACH)
        os.chdir("/")
        self.directories, self.scratch = tuple(moved), tuple(scratch)
        self.keeps_files = bool(moved)


def _tree(path: str, *, read_only: bool) -> int:
    """A copy of ``path`` with all that is mounted below it, mounted nowhere yet: its descriptor."""
    flags = 1 | os.O_CLOEXEC | _AT_RECURSIVE
    tree = call("syscall", _OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    try:
        attributes = _SAFE | (_MS_RDONLY if read_only else 0)
        _set_attributes(tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _set_attributes(directory: int, path: bytes, flags: int, attributes: int) -> None:
    packed = _ATTRIBUTES.pack(attributes, 0, 0, 0)
    call("syscall", _MOUNT_SETATTR, directory, path, flags, packed, len(packed))


def _make_scratch(place: str, size: int) -> str:
    os.makedirs(place)
    options = f"size={size},nr_inodes={16 + size // 4096},mode=0777"
    call("mount", b"scratch", place.encode(), b"tmpfs", _SAFE, options.encode())
    return f"/{place}"
