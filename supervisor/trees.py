"""Directories that somebody hostile may have filled: read and removed without trusting their shape.

What a guest does is bounded by the warden; what code does that broke out of its guest is not. There
may be links to anywhere, pipes that never end, trees deeper than any path can say, directories that
nobody may read. Nothing here follows a link, opens anything but directories and regular files, or
uses a path of more than one name; so nothing is gained by changing the tree meanwhile, either.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 512
"""Directories below each other that are read: as deep as the warden lets a guest go."""
_BATCH = 1000
"""Entries that are listed at a time where they are removed."""


def files(path: str | os.PathLike[str]) -> Iterator[tuple[str, int]]:
    """Every regular file below a directory: its path from there, and a descriptor to read it, which
    is closed when the iteration goes on. A directory's own files come first, then those below it,
    by name.

    Left out is whatever else there is, what has a second name (it may be anybody's file), and what
    lies deeper than ``MAX_DEPTH``.

    Raises:
        OSError: the directory, or one below it, or a file in it, cannot be opened.
    """
    top = os.open(path, _DIRECTORY)
    try:
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            place = waiting.pop()
            directory = _below(top, place)
            try:
                deeper: list[tuple[str, ...]] = []
                for name in sorted(os.listdir(directory)):
                    status = _status(name, directory)
                    if status is None:
                        continue
                    if stat.S_ISDIR(status.st_mode) and len(place) < MAX_DEPTH:
                        deeper.append((*place, name))
                    elif _plain(status):
                        descriptor = os.open(name, _FILE, dir_fd=directory)
                        try:
                            if _plain(os.fstat(descriptor)):
                                yield "/".join((*place, name)), descriptor
                        finally:
                            os.close(descriptor)
                waiting += reversed(deeper)
            finally:
                os.close(directory)
    finally:
        os.close(top)


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:  # somebody was quicker
        return None


def _plain(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _below(top: int, place: tuple[str, ...]) -> int:
    directory = os.dup(top)
    for name in place:
        try:
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
        finally:
            os.close(directory)
        directory = inner
    return directory


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a directory with all that is in it; a symbolic link is refused.

    Theory of operation: subdirectories of subdirectories are moved to the top before their parents
    are removed, so that nothing is ever deeper than two, each is moved once, and two descriptors
    are enough.

    Raises:
        OSError: something cannot be removed: it belongs to another user, or is mounted.
    """
    top = _reach(os.fspath(path), None)
    try:
        mark, numbers = secrets.token_hex(8), count()
        for entry in _entries(top):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=top)
                continue
            directory = _reach(entry.name, top)
            try:
                for inner in _entries(directory):
                    if not inner.is_dir(follow_symlinks=False):
                        os.unlink(inner.name, dir_fd=directory)
                        continue
                    os.close(_reach(inner.name, directory))  # its parent can only change so
                    new = f"{mark}.{next(numbers)}"
                    os.rename(inner.name, new, src_dir_fd=directory, dst_dir_fd=top)
            finally:
                os.close(directory)
            os.rmdir(entry.name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _entries(directory: int) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory until there are none; each must be gone before the next is asked
    for."""
    while True:
        with os.scandir(directory) as found:
            some = list(islice(found, _BATCH))
        if not some:
            return
        yield from some


def _reach(name: str, directory: int | None) -> int:
    """A descriptor of a directory, whose owner may read and change it from now on."""
    handle = os.open(name, _HANDLE, dir_fd=directory)
    try:
        with suppress(OSError):  # it belongs to another: then this may be root, who needs no mode
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", _DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)
