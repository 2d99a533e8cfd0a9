"""Folders of plug-ins, read so that no symbolic link leads out of them."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..protocol.errors import ConfigurationError
from .manifest import FILE, MAX_SIZE, Manifest, parse_manifest

MAX_FOLDERS = 1000
SETTLE = 0.2
"""Seconds for which what is read must not have changed: a copy is under way otherwise."""

Signature = tuple[object, ...]
"""Which files they are, and when they changed: equal where nothing did."""


@dataclass(frozen=True)
class Look:
    """A folder as it was at a moment."""

    signature: Signature
    changed: int
    """When something last changed in it, in nanoseconds of ``time.time_ns``."""
    found: Manifest | ConfigurationError

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has changed for ``SETTLE`` seconds."""
        return time.time_ns() - self.changed > SETTLE * 1e9


def list_folders(directory: str) -> list[str]:
    """The names of the folders in it, but for hidden ones; links are listed, and then refused.

    Raises:
        ConfigurationError: it cannot be read, or has too many.
    """
    try:
        with os.scandir(directory) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and (entry.is_symlink() or entry.is_dir())
            ]
    except OSError as error:
        raise ConfigurationError(
            "plugins", directory, f"cannot be read: {error.strerror}"
        ) from error
    if len(names) > MAX_FOLDERS:
        raise ConfigurationError("plugins", len(names), f"more than {MAX_FOLDERS} plug-ins")
    return sorted(names)


def look_at(directory: str, folder: str) -> Look:
    """The manifest of a plug-in, and which files it and its module are."""
    signature: list[object] = []
    times: list[int] = [0]

    def note(descriptor: int) -> None:
        status = os.fstat(descriptor)
        signature.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        signature.append(status.st_ctime_ns)  # which no program can set
        times.append(status.st_ctime_ns)

    found: Manifest | ConfigurationError
    try:
        root = _open_folder(directory, folder)
        try:
            note(root)
            file = _open_file(root, FILE, PurePosixPath(FILE))
            with open(file, "rb") as manifest:
                note(file)
                data = manifest.read(MAX_SIZE + 1)
            if len(data) > MAX_SIZE:
                raise ConfigurationError(FILE, len(data), f"has more than {MAX_SIZE} bytes")
            found = parse_manifest(data)
            signature.append(data)
            module = _open_file(root, "module", found.module)
            try:
                note(module)
            finally:
                os.close(module)
        finally:
            os.close(root)
    except OSError as error:
        found = _unreadable("plugin", folder, error)
    except ConfigurationError as error:
        found = error
    if isinstance(found, ConfigurationError):
        signature.append(str(found))
    return Look(tuple(signature), max(times), found)


def read_module(directory: str, folder: str, path: PurePosixPath, most: int) -> bytes:
    """The module's bytes; of one that has more than ``most``, one byte more than that.

    Raises:
        ConfigurationError: it cannot be read.
    """
    root = _open_folder(directory, folder)
    try:
        with open(_open_file(root, "module", path), "rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise _unreadable("module", str(path), error) from error
    finally:
        os.close(root)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def _open_folder(directory: str, folder: str) -> int:
    try:
        return os.open(os.path.join(directory, folder), _FOLDER)
    except OSError as error:
        raise _unreadable("plugin", folder, error) from error


def _open_file(root: int, field: str, path: PurePosixPath) -> int:
    """Open a regular file, step by step, so that no step can be a link."""
    here = os.dup(root)
    try:
        for part in path.parts[:-1]:
            below = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        file = os.open(path.parts[-1], _FILE, dir_fd=here)
    except OSError as error:
        raise _unreadable(field, str(path), error) from error
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ConfigurationError(field, str(path), "is not a regular file")
    return file


def _unreadable(field: str, path: str, error: OSError) -> ConfigurationError:
    is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
    hint = "a plug-in has no symbolic links: copy what they lead to" if is_link else ""
    return ConfigurationError(field, path, f"cannot be read: {error.strerror}", hint)
