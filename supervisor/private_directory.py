"""A directory that only its owner can read or change, shared by processes that may die at any time.

Nothing here waits for a lock. Files appear whole, by ``rename`` or ``link``. A temporary file is
locked by its writer for as long as it is written, so one that can be locked was left by the dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Generator
from pathlib import Path

from .sealed import write

READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
TEMPORARY_SUFFIX = ".tmp"
SECRET_NAME = "key"
SECRET_SIZE = 32

_MODE = 0o700
_ATTEMPTS = 16  # a race is lost once or twice; more than that is a file system that plays tricks


@contextlib.contextmanager
def opened(path: Path) -> Generator[int, None, None]:
    """A descriptor of the directory, which is made (mode 0700) if missing, and checked.

    Raises:
        OSError: it cannot be made or opened (``PermissionError``: or belongs to somebody else, or
            can be written by group or others).
    """
    _make(path)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(directory)
        if status.st_uid != os.geteuid():
            reason = f"belongs to user {status.st_uid}, not to user {os.geteuid()}"
            raise PermissionError(errno.EPERM, reason, str(path))
        if status.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "can be written by group or others", str(path))
        yield directory
    finally:
        os.close(directory)


def _make(path: Path) -> None:
    """Make a directory and what is missing above it, for the owner, whatever the umask."""
    if path.is_dir():
        return
    _make(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(_MODE)
        if path.stat().st_mode & _MODE != _MODE:
            path.chmod(_MODE)


def secret(directory: int) -> bytes:
    """The directory's 32 secret bytes, made when first asked for.

    One that others could have read, or that is not whole, is replaced.

    Raises:
        OSError: they cannot be read, or not be made.
    """
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(SECRET_NAME, READ_FLAGS, dir_fd=directory)
        except FileNotFoundError:
            _make_secret(directory)
            continue
        try:
            status = os.fstat(fd)
            found = os.pread(fd, SECRET_SIZE + 1, 0)
        finally:
            os.close(fd)
        private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if private and len(found) == SECRET_SIZE:
            return found
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SECRET_NAME, dir_fd=directory)
    raise OSError(errno.EPERM, "a file for the owner alone cannot be made there")


def _make_secret(directory: int) -> None:
    with temporary(directory) as (fd, name):
        write(fd, secrets.token_bytes(SECRET_SIZE), 0)
        os.fsync(fd)
        # Unlike a rename, a link lets the first of several writers win.
        with contextlib.suppress(FileExistsError):
            os.link(name, SECRET_NAME, src_dir_fd=directory, dst_dir_fd=directory)


@contextlib.contextmanager
def temporary(directory: int) -> Generator[tuple[int, str], None, None]:
    """A new file (descriptor and name) for writing; gone afterwards unless it was renamed.

    Raises:
        OSError: it cannot be made or locked.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    for _ in range(_ATTEMPTS):
        name = secrets.token_hex(16) + TEMPORARY_SUFFIX
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            os.fchmod(fd, 0o600)  # the umask may have left less
            # Otherwise somebody who tidies up has taken it for abandoned before it was locked.
            if _lock(fd) and os.fstat(fd).st_nlink:
                yield fd, name
                return
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            os.close(fd)
    raise OSError(errno.EAGAIN, "a temporary file cannot be kept there")


def remove_if_abandoned(directory: int, name: str) -> None:
    """Remove a temporary file unless its writer lives. Says nothing if it cannot."""
    with contextlib.suppress(OSError):
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, dir_fd=directory)
        try:
            if _lock(fd):
                os.unlink(name, dir_fd=directory)
        finally:
            os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
