"""What guests leave in a granted directory, taken from there without being led astray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from .protocol.errors import ConfigurationError
from .supervisor import trees


def collect_files(directory: str | os.PathLike[str]) -> Iterator[tuple[str, BinaryIO]]:
    """The regular files below a directory that a guest could write to.

    Gives the path of each from there, with slashes, and the file, open for reading until the
    iteration goes on. Links are not followed, and nothing else is opened: no devices, pipes or
    sockets. A file that has a second name is left out, too: it may have been somebody else's. The
    names are the guest's choice: treat them as you would its output, and do not join them to paths
    of your own unless you mean to.

    Args:
        directory: where to look; no symbolic link.

    Raises:
        ConfigurationError: it is no directory.
        OSError: something in it cannot be opened.
    """
    with_place = trees.files(directory)
    try:
        first = next(with_place, None)
    except NotADirectoryError:
        raise ConfigurationError("directory", directory, "is not a directory") from None
    while first is not None:
        name, descriptor = first
        with open(descriptor, "rb", closefd=False) as file:
            yield name, file
        first = next(with_place, None)


def remove_directory(directory: str | os.PathLike[str]) -> None:
    """Remove a directory that a guest could write to, with all that is in it.

    Works for trees that are too deep for ``shutil.rmtree`` and for directories without permissions.
    Links are removed, not followed.

    Args:
        directory: what to remove; no symbolic link. Nobody may write to it meanwhile.

    Raises:
        ConfigurationError: it is no directory.
        OSError: something in it cannot be removed: it belongs to another user, or is mounted.
    """
    try:
        trees.remove(directory)
    except NotADirectoryError:
        raise ConfigurationError("directory", directory, "is not a directory") from None
