"""What a worker is given by the kernel: channels, shared memory, a place for its last words."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import stat
from typing import TYPE_CHECKING

from ..protocol import arena

if TYPE_CHECKING:
    from .express import Ear

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PSEUDOTERMINALS = os.makedev(5, 2)
"""To open it is to make a new one (pts(4))."""
LAST_WORDS = 4096
"""Bytes of a dead worker's standard error that are kept as evidence."""


def sealed_arena(size: int) -> tuple[int, mmap.mmap]:
    """(descriptor, mapping) of shared memory that nobody can resize: a truncated mapping would
    kill us."""
    descriptor = os.memfd_create("wasm-sandbox-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor, mmap.mmap(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def for_reading(descriptor: int) -> int:
    """Another descriptor of the same thing, to be closed by the caller. A file or a terminal is
    opened anew where that can be done: then a worker that has it can neither write to it nor move
    the position, or change the flags, that its other users see.

    Raises:
        OSError: it is closed, or no descriptor is left.
    """
    found = os.fstat(descriptor)
    terminal = stat.S_ISCHR(found.st_mode) and found.st_rdev != _PSEUDOTERMINALS
    regular = stat.S_ISREG(found.st_mode)
    if regular or (terminal and os.isatty(descriptor)):
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
        with contextlib.suppress(OSError):
            position = os.lseek(descriptor, 0, os.SEEK_CUR) if regular else 0
            anew = os.open(f"/proc/self/fd/{descriptor}", flags)
            if regular:
                os.lseek(anew, position, os.SEEK_SET)
            return anew
    return os.dup(descriptor)


class Wires:
    """Both ends of all that connects the supervisor and one worker; ``close`` is idempotent."""

    def __init__(self, arena_size: int = arena.DEFAULT_SIZE) -> None:
        self._open: list[int] = []
        self._sockets: list[socket.socket] = []
        self._theirs: list[int] = []
        self.ear: Ear | None = None
        try:
            self._talk, their_channel = self._pair(socket.SOCK_STREAM)
            self.passing, their_passing = self._pair(socket.SOCK_SEQPACKET)
            self.channel = self._talk.fileno()
            control, their_end = os.pipe()[::-1]
            self.control = self._keep(control)
            self._keep(their_end)
            read, write = os.pipe()
            self._words = self._keep(read)
            self._keep(write)
            os.set_blocking(self._words, False)
            os.set_blocking(write, False)
            os.set_blocking(self.control, False)
            self.passing.setblocking(False)
            self._talk.setblocking(False)
            arena_descriptor, self.arena = sealed_arena(arena_size)
            self._keep(arena_descriptor)
        except BaseException:
            self.close()
            raise
        self.view = memoryview(self.arena)
        self.for_worker = (
            their_channel.fileno(),
            their_end,
            their_passing.fileno(),
            arena_descriptor,
            write,
        )
        """What the zygote is given, in the order of ``Fork``."""
        self._theirs = [their_end, arena_descriptor, write]
        self._their_sockets = [their_channel, their_passing]

    def _pair(self, kind: int) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair(socket.AF_UNIX, kind)
        self._sockets += pair
        return pair

    def _keep(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def handed_over(self) -> None:
        """The worker has its ends: close ours of them, so that its death is the end of the
        stream."""
        for end in self._their_sockets:
            end.close()
        for descriptor in self._theirs:
            self._open.remove(descriptor)
            os.close(descriptor)
        self._theirs = []

    def prick_ear(self) -> None:
        """Have an ear from now on, if there are descriptors for it."""
        from .express import Ear  # which needs trio, and a pool's own imports must not

        if self.ear is None:
            with contextlib.suppress(OSError):
                self.ear = Ear(self._talk)

    def last_words(self) -> str:
        """What the worker wrote to its standard error, at most ``LAST_WORDS`` bytes of its end."""
        with contextlib.suppress(OSError):
            return os.read(self._words, 1 << 16)[-LAST_WORDS:].decode("utf-8", "replace").strip()
        return ""

    def close(self) -> None:
        """Give everything back."""
        if self.ear is not None:
            self.ear.close()
            self.ear = None
        for end in self._sockets:
            end.close()
        while self._open:
            os.close(self._open.pop())
        if hasattr(self, "view"):
            self.view.release()
            self.arena.close()
