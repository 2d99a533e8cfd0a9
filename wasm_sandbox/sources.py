"""Where a module's bytes come from, and which modules a pool knows already."""

from __future__ import annotations

import copy
import os
import stat
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

from .module import Module
from .protocol.errors import CompilationLimit, ConfigurationError, ModuleError
from .snapshot import Snapshot

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Snapshot

_LANGUAGES = {
    ".c": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".cxx": "C++",
    ".go": "Go",
    ".js": "JavaScript",
    ".py": "Python",
    ".rs": "Rust",
    ".ts": "TypeScript",
    ".zig": "Zig",
}
_QUIET_NANOSECONDS = 50_000_000
"""A file that changed this shortly before it was read may change again without a new time stamp."""

NAMELESS = "module"
"""The name of what was given as bytes."""

Key = tuple[object, ...]


class Content(NamedTuple):
    """A module's bytes: binary, or text in UTF-8."""

    data: bytes
    name: str
    key: Key | None
    """What the same content is known by unread; ``None`` where nothing is sure enough."""


class Memory:
    """The modules of one pool that were loaded before, found without hashing their content.

    It holds the last few; the others are known for as long as somebody else holds them.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Key, Module] = WeakValueDictionary()
        self._recent: deque[Module] = deque(maxlen=4)

    def find(self, source: Source) -> Module | None:
        """The module that ``source`` was loaded as, if nothing changed."""
        key = _key_of(source)
        return None if key is None else self._known.get(key)

    def remember(self, content: Content, module: Module) -> None:
        """``content`` was loaded as ``module``."""
        # Bytes are known by their identity, which stays theirs while the module holds them.
        if content.key is not None and module.handle.source is content.data:
            self._known[content.key] = module
            self._recent.append(module)


def _key_of(source: Source) -> Key | None:
    if isinstance(source, bytes):
        return ("bytes", id(source))
    if isinstance(source, Snapshot):
        return _snapshot_key(source)
    if isinstance(source, bytearray | memoryview):
        return None
    try:
        return _file_key(os.fspath(source), os.stat(source))
    except (OSError, ValueError, TypeError):
        return None


def _snapshot_key(snapshot: Snapshot) -> Key:
    return ("snapshot", snapshot.name, id(snapshot.wasm))


def _file_key(path: str, status: os.stat_result) -> Key:
    return (
        path,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def read(source: Source, module_size: int) -> Content:
    """The content of ``source``: a path, or the bytes themselves.

    Raises:
        ConfigurationError: no file that can be read, or source code of another language.
        CompilationLimit: more than ``module_size`` bytes; they are not read.
    """
    if isinstance(source, Snapshot):
        _check_size(len(source.wasm), "the snapshot", module_size)
        return Content(source.wasm, source.name, _snapshot_key(source))
    if isinstance(source, bytes | bytearray | memoryview):
        _check_size(memoryview(source).nbytes, "the module", module_size)
        if isinstance(source, bytes):
            return Content(source, NAMELESS, ("bytes", id(source)))
        return Content(bytes(source), NAMELESS, None)
    if not isinstance(source, str) and not hasattr(source, "__fspath__"):
        raise ConfigurationError(
            "source", source, f"must be a path or bytes, not {type(source).__name__}"
        )
    path = os.fspath(source)
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _LANGUAGES:
        raise ConfigurationError(
            "source",
            path,
            f"is {_LANGUAGES[suffix]} source code, and this version does not compile it",
            "compile it to .wasm first; docs/guests.md shows how",
        )
    try:
        return _read_file(path, module_size)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "WebAssembly text is given as bytes: text.encode()" if "(module" in path else ""
        raise ConfigurationError("source", path, f"cannot be read: {reason}", hint) from error


@contextmanager
def naming(content: Content) -> Generator[None]:
    """Errors about the module, raised in the block, begin with the name of its file."""
    try:
        yield
    except ModuleError as error:
        if content.name == NAMELESS:
            raise
        named = copy.copy(error)  # several may wait for one compilation, each under its own name
        named.args = (f"{content.name}: {error.args[0]}", *error.args[1:])
        raise named from None


def _read_file(path: str, module_size: int) -> Content:
    # Non-blocking: opening a named pipe that nobody writes to would wait for ever.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise ConfigurationError("source", path, "is not a regular file")
        _check_size(before.st_size, path, module_size)
        now = time.time_ns()
        data = file.read(module_size + 1)
        after = os.fstat(file.fileno())
    _check_size(len(data), path, module_size)
    key = _file_key(path, before)
    quiet = now - max(before.st_mtime_ns, before.st_ctime_ns) > _QUIET_NANOSECONDS
    name = os.path.basename(path)
    return Content(data, name, key if quiet and key == _file_key(path, after) else None)


def _check_size(size: int, what: str, module_size: int) -> None:
    if size > module_size:
        raise CompilationLimit(
            f"{what} has {size} bytes, and Limits.module_size allows {module_size}",
            "raise Limits(module_size=)",
            limit="module_size",
        )
