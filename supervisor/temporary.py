"""Temporary directories whose names tell whose they are: what a killed program leaves is swept by
the next one."""

from __future__ import annotations

import functools
import logging
import os
import tempfile

from . import trees
from .cgroups.discovery import PROC
from .cgroups.owners import is_orphan, pool_name

_log = logging.getLogger("wasm_sandbox")


def make(prefix: str) -> str:
    """A new, private directory, after what dead programs left of the same ``prefix`` is removed.

    Raises:
        OSError: there is no place for it.
    """
    folder = tempfile.gettempdir()
    _sweep(folder, prefix)
    path = os.path.join(folder, pool_name(PROC, prefix))
    os.mkdir(path, 0o700)
    return path


def remove(path: str) -> None:
    """Remove a directory, whatever somebody hostile has left in it. What cannot be removed is only
    told of."""
    try:
        trees.remove(path)
    except OSError as error:
        _log.warning("a temporary directory is left behind: %s: %s", path, error)


@functools.cache
def _sweep(folder: str, prefix: str) -> None:
    """Once in each program."""
    for name in os.listdir(folder):
        if is_orphan(name, PROC, prefix):
            remove(os.path.join(folder, name))
