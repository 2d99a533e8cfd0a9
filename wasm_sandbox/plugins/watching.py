"""A directory and those below it, watched through inotify(7): nothing wakes up while nothing
changes. What changed is not read from the kernel's events, only that something did."""

from __future__ import annotations

import ctypes
import errno
import os

from ..protocol.errors import ConfigurationError

_MODIFY, _ATTRIBUTES, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED, _CREATE, _DELETE = 0xC0, 0x100, 0x200
_ONLY_DIRECTORIES, _NO_LINKS = 0x0100_0000, 0x0200_0000
_MASK = (
    _MODIFY
    | _ATTRIBUTES
    | _CLOSE_WRITE
    | _MOVED
    | _CREATE
    | _DELETE
    | _ONLY_DIRECTORIES
    | _NO_LINKS
)
_GONE = (errno.ENOENT, errno.ENOTDIR)
_MAX_DIRECTORIES = 4000


class Watch:
    """Tells that something changed in a directory or below it; ``descriptor`` is then readable.

    Raises:
        ConfigurationError: it cannot be watched.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        # IN_NONBLOCK and IN_CLOEXEC are these.
        self.descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise self._failed(ctypes.get_errno(), directory)
        try:
            self.look()
        except BaseException:
            self.close()
            raise

    def look(self) -> None:
        """Forget what changed until now, and watch directories that are new. Before what is in
        them is read, so that nothing is missed.

        Raises:
            ConfigurationError: some cannot be watched.
        """
        try:
            while os.read(self.descriptor, 65536):
                pass
        except BlockingIOError:
            pass
        self._add(self._directory, _MASK & ~_NO_LINKS, optional=False)
        watched = 0
        for place, below, _ in os.walk(self._directory):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in below:
                watched += 1
                if watched > _MAX_DIRECTORIES:
                    raise ConfigurationError(
                        "plugins.watch", place, f"more than {_MAX_DIRECTORIES} directories"
                    )
                self._add(os.path.join(place, name), _MASK, optional=True)

    def _add(self, place: str, mask: int, *, optional: bool) -> None:
        added = self._libc.inotify_add_watch(self.descriptor, os.fsencode(place), mask)
        reason = ctypes.get_errno()
        if added < 0 and not (optional and reason in _GONE):
            raise self._failed(reason, place)

    def _failed(self, reason: int, place: str) -> ConfigurationError:
        return ConfigurationError(
            "plugins.watch",
            place,
            f"cannot be watched: {os.strerror(reason)}",
            "sysctl fs.inotify has the machine's bounds; or call refresh() yourself",
        )

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)
