"""The program's ends of a command's standard streams: pipes, and what is known of their traffic.

A pipe holds 64 KiB: that is all that is under way of a stream, whoever is slow. Nothing of it
passes the supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import threading
from collections.abc import Callable, Generator

from .protocol.errors import OutputLimitExceeded
from .supervisor.ends import STREAM_SLACK, GuestEnds

PIECE = 1 << 16
"""Bytes that are read at a time, where nobody says how many."""


class Flow:
    """What the streams of one command have in common."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._output = 0
        self._moved = self._seen = 0
        self.ends: list[End] = []
        self.over: Callable[[], bool] = lambda: False
        """Whether the call is: then what is in the pipes is all that will be."""

    def wrote(self, size: int) -> None:
        """So much went to the guest."""
        self._moved += size

    def read(self, size: int) -> None:
        """So much came from the guest.

        Raises:
            OutputLimitExceeded: it is more than its worker lets pass, so it has no longer a say.
        """
        self._moved += size
        self._output += size
        if self._output > self._allowed + STREAM_SLACK:
            raise OutputLimitExceeded("output", self._output, self._allowed)

    def held(self) -> bool:
        """Whether the guest has waited for the program since this was asked last."""
        moved, self._seen = self._moved != self._seen, self._moved
        return moved or any(end.awaited for end in self.ends)


class End:
    """One end of a pipe. Used from any thread; waiting is for those that build on it."""

    def __init__(self, flow: Flow, descriptor: int, *, writes: bool) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._flow = flow
        self._writes = writes
        self._lock = threading.Lock()
        self._closed = False
        self._users = 0
        flow.ends.append(self)

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._closed

    @property
    def awaited(self) -> bool:
        """Whether the guest may be waiting for the program here: there is nothing to read for it,
        or hardly any room to write."""
        with self._lock:
            if self._closed:
                return False
            waiting = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
            size: int = struct.unpack("i", waiting)[0]
            # A pipe of pages that are partly filled is full at half its size or more.
            most: int = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
            return size == 0 if self._writes else size > most // 2

    def take(self, size: int) -> bytes | None:
        """What there is to read, ``b""`` at the end; ``None`` where it has to be waited for."""
        with self._lock:
            self._check_open()
            over = self._flow.over()  # before looking: what comes with the end is read
            try:
                data = os.read(self._descriptor, min(size, PIECE))  # it allocates that
            except BlockingIOError:
                return b"" if over else None
        self._flow.read(len(data))
        return data

    def put(self, data: memoryview) -> int:
        """Write what there is room for; 0 where that has to be waited for.

        Raises:
            BrokenPipeError: the guest has ended.
        """
        with self._lock:
            self._check_open()
            try:
                if self._flow.over():
                    raise BrokenPipeError
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                return 0
            except BrokenPipeError:
                raise BrokenPipeError("the guest has ended") from None
        self._flow.wrote(written)
        return written

    def shut(self) -> None:
        """Close it, once nobody waits at it; may be called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._let_go()

    @contextlib.contextmanager
    def held_open(self) -> Generator[int]:
        """The descriptor, which stays what it is meanwhile."""
        with self._lock:
            self._check_open()
            self._users += 1
        try:
            yield self._descriptor
        finally:
            with self._lock:
                self._users -= 1
                if self._closed:
                    self._let_go()

    def _let_go(self) -> None:
        if not self._users:
            os.close(self._descriptor)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this stream is closed")


class Pipes:
    """The pipes of one command, each with the guest's end and, but for an input that is given, the
    program's.

    Args:
        allowed: bytes that the guest may write.
        given: a descriptor to read its input from, which is closed with the guest's ends.
        bells: whether threads are to wait at them.

    Raises:
        OSError: no descriptor is left.
    """

    def __init__(self, allowed: int, given: int | None, *, bells: bool) -> None:
        self.flow = Flow(allowed)
        with contextlib.ExitStack() as opened:

            def pipe() -> tuple[int, int]:
                ends = os.pipe()
                for end in ends:
                    opened.callback(os.close, end)
                return ends

            self.stdin: int | None = None
            """The program's end of the input, where it has one."""
            if given is None:
                given, self.stdin = pipe()
            else:
                opened.callback(os.close, given)
            ours, stdout = pipe()
            self.program = [ours]
            """The program's ends: of stdout, of stderr, and that of stdin if there is one."""
            ours, stderr = pipe()
            self.program.append(ours)
            if self.stdin is not None:
                self.program.append(self.stdin)
            self.bells: list[int] = []
            """Event descriptors to wake them by, one for each end of the program's."""
            for _ in self.program if bells else ():
                self.bells.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
                opened.callback(os.close, self.bells[-1])
            self.guest = GuestEnds(given, stdout, stderr, self.flow.held)
            opened.pop_all()
