"""A command that runs beside the program, which reads and writes its standard streams meanwhile."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from .calls import CompletedRun, checked
from .chunks import Bytes, Chunks, as_bytes, pieces
from .function import Function
from .future import CallFuture
from .options import OnOutput, Stdin
from .pipes import PIECE, End, Flow, Pipes
from .protocol.errors import OutputLimitExceeded
from .protocol.limits import check_number
from .streaming import stream
from .supervisor.ends import GuestEnds
from .supervisor.shortages import pool_error

if TYPE_CHECKING:
    from .thread import CoreThread

FEEDER_SECONDS = 0.1
"""How long the thread that feeds a guest may take to end after it. It takes longer where the chunks
are long in coming; then it ends with the next of them."""


class _End(End):
    """An end at which threads wait."""

    def __init__(self, flow: Flow, descriptor: int, bell: int, *, writes: bool) -> None:
        self._bell = bell
        super().__init__(flow, descriptor, writes=writes)

    def watch(self, poll: select.poll, stack: ExitStack) -> None:
        """Have ``poll`` wait for it, until ``stack`` ends."""
        descriptor = stack.enter_context(self.held_open())
        poll.register(descriptor, select.POLLOUT if self._writes else select.POLLIN)
        poll.register(self._bell, select.POLLIN)

    def ring(self) -> None:
        """Let nobody wait any more."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._bell, 1)

    def shut(self) -> None:
        """Close it, and let nobody wait at it; may be called again."""
        self.ring()
        super().shut()

    def _let_go(self) -> None:
        if not self._users:
            os.close(self._bell)
        super()._let_go()


def _wait(ends: list[_End], deadline: float | None) -> None:
    """Until one of them may have something, or room for something, or the call is over.

    Raises:
        TimeoutError: not before ``deadline``.
    """
    with ExitStack() as stack:
        poll = select.poll()
        for end in ends:
            end.watch(poll, stack)
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        if not poll.poll(None if remaining is None else remaining * 1000):
            raise TimeoutError("the guest was not ready in time")


class GuestOutput:
    """What a guest writes, to be read while it runs. Iterated it gives its pieces as they come.

    The end comes when the guest has ended, whatever its exit code; where it trapped, or was
    stopped, that error is raised instead.
    """

    def __init__(self, call: _Call, end: _End) -> None:
        self._call = call
        self._end = end

    def read(self, size: int = PIECE, *, timeout: float | None = None) -> bytes:
        """Some bytes, at most ``size``, waiting for the first; ``b""`` at the end.

        Raises:
            TimeoutError: there were none for ``timeout`` seconds.
            ConfigurationError: a size of less than 1.
            ValueError: it is closed.
            SandboxError: the guest did not end by itself.
        """
        check_number("read.size", size, 1, sys.maxsize, whole=True)
        return next(self._call.pieces({1: self._end}, size, timeout), (1, b""))[1]

    def close(self) -> None:
        """Read no more: the guest gets ``EPIPE`` where it writes more."""
        self._end.shut()

    def __iter__(self) -> Iterator[bytes]:
        return (data for _, data in self._call.pieces({1: self._end}))


class GuestInput:
    """What a guest reads, to be written while it runs; ``with`` closes it."""

    def __init__(self, call: _Call, end: _End) -> None:
        self._call = call
        self._end = end

    def write(self, data: Bytes, *, timeout: float | None = None) -> None:
        """Write all of it, as the guest takes it.

        Raises:
            BrokenPipeError: the guest has ended; ``wait`` tells how.
            TimeoutError: some of it was not taken in ``timeout`` seconds.
            ValueError: it is closed.
        """
        self._call.check_may_wait()
        _write(self._end, as_bytes(data), timeout)

    def close(self) -> None:
        """Let the guest find the end of its input."""
        self._end.shut()

    def __enter__(self) -> GuestInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(end: _End, data: memoryview, timeout: float | None = None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    while data:
        written = end.put(data)
        data = data[written:]
        if not written:
            _wait([end], deadline)


class _Call:
    """The call behind a process. Its streams hold it, and it none of them: when nobody holds it any
    more, the guest ends."""

    def __init__(self, thread: CoreThread, future: CallFuture, ends: list[_End]) -> None:
        self._thread = thread
        self._future = future
        self._feeder: _Feeder | None = None
        self.end = weakref.finalize(self, _end, future, ends)
        """Ends the guest and closes the streams."""
        self.end.atexit = False

    def begin(self, feeder: _Feeder | None) -> None:
        """Submit it, and begin to feed the guest."""
        self._feeder = feeder
        self._thread.submit(self._future)
        if feeder is not None:
            feeder.start()

    def check_may_wait(self) -> None:
        """Refuse to wait in a callback of the pool.

        Raises:
            PoolError: the caller is one.
        """
        self._thread.check_may_wait()

    def wait(self, timeout: float | None = None) -> CompletedRun:
        """Wait for the end: as ``Process.wait``."""
        self.check_may_wait()
        try:
            completed: CompletedRun = self._future.result(timeout)
        except CancelledError:
            failure = None if self._feeder is None else self._feeder.error
            if failure is not None:
                raise failure from failure.__cause__
            raise
        return completed

    def pieces(
        self, ends: dict[int, _End], size: int = PIECE, timeout: float | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """What comes from some of the outputs, each with its number, until the guest has ended."""
        self.check_may_wait()
        left = dict(ends)
        while left:
            deadline = None if timeout is None else time.monotonic() + timeout
            came = False
            for number, end in ends.items():
                data = self._take(end, size) if number in left else b""
                if data:
                    came = True
                    yield number, data
                elif data is not None:
                    left.pop(number, None)
            if left and not came:
                _wait(list(left.values()), deadline)
        self.wait()

    def _take(self, end: _End, size: int) -> bytes | None:
        try:
            return end.take(size)
        except OutputLimitExceeded:
            self._future.cancel()
            raise


class Process:
    """A running command. Get it by ``with pool.start(app) as process:``; the end of the block ends
    the guest, if it still runs. ``docs/streams.md`` has all of it."""

    def __init__(
        self, thread: CoreThread, future: CallFuture, pipes: Pipes, chunks: Chunks | None
    ) -> None:
        flow = pipes.flow
        ends = [
            _End(flow, descriptor, bell, writes=descriptor == pipes.stdin)
            for descriptor, bell in zip(pipes.program, pipes.bells, strict=True)
        ]
        flow.over = future.done
        future.add_done_callback(lambda _: _over(pipes.guest, ends))
        self._future = future
        self._call = _Call(thread, future, ends)
        self._outputs = {1: ends[0], 2: ends[1]}
        self._feeder = None if chunks is None else _Feeder(ends[2], chunks, future)
        self.stdin: GuestInput | None = None
        """Its standard input; ``None`` where ``start`` was given one."""
        if pipes.stdin is not None and chunks is None:
            self.stdin = GuestInput(self._call, ends[2])
        self.stdout = GuestOutput(self._call, ends[0])
        """Its standard output."""
        self.stderr = GuestOutput(self._call, ends[1])
        """Its standard error. Who reads only the one has a guest wait that writes to the other."""

    def begin(self) -> None:
        """Submit the call and begin to feed it."""
        self._call.begin(self._feeder)

    @property
    def running(self) -> bool:
        """Whether it is not over."""
        return not self._future.done()

    def wait(self, timeout: float | None = None, *, check: bool = False) -> CompletedRun:
        """Wait for its end. What it writes has to be read meanwhile, or it will not come.

        The ``stdout`` and ``stderr`` of the result are empty: they were read from the streams.

        Raises:
            TimeoutError: it is not over in ``timeout`` seconds; it goes on.
            GuestExit: with ``check``, where the exit code is not 0.
            CancelledError: it was closed, or cancelled.
            SandboxError: it trapped, was stopped by a limit, or lost its worker. What the chunks
                raised that it was fed with is raised as it is.
        """
        return checked(self._call.wait(timeout), check)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Both outputs as they come: 1 for stdout or 2 for stderr, and a piece. Ends as a stream
        does."""
        return self._call.pieces(self._outputs)

    def cancel(self) -> bool:
        """Stop the guest, whatever it does; False where it is over."""
        return self._future.cancel()

    def close(self) -> None:
        """Stop the guest if it still runs, and close the streams."""
        self._call.end()
        if self._feeder is not None:
            self._feeder.join()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def start(
    thread: CoreThread, main: Function, argv: tuple[Any, ...], stdin: Stdin | Chunks | None
) -> Process:
    """Start a command.

    Raises:
        SandboxError: it cannot be, as ``Pool.start`` says.
    """
    request, pipes, chunks = stream(main, argv, stdin, bells=True)
    process = Process(thread, CallFuture(main, request, thread), pipes, chunks)
    try:
        process.begin()
    except BaseException:
        process.close()
        raise
    return process


def run_to_end(process: Process, on_output: OnOutput | None) -> CompletedRun:
    """Collect what a process writes, or hand it on."""
    written: dict[int, list[bytes]] = {1: [], 2: []}
    with process:
        for number, piece in process.output():
            if on_output is None:
                written[number].append(piece)
            else:
                on_output(number, piece)
        stdout, stderr = map(b"".join, written.values())
        return msgspec.structs.replace(process.wait(), stdout=stdout, stderr=stderr)


class _Feeder:
    """A thread that writes chunks to a guest, for as long as it takes them."""

    def __init__(self, end: _End, chunks: Chunks, future: CallFuture) -> None:
        self._end = end
        self._pieces = pieces(chunks)
        self._future = future
        self._thread = threading.Thread(target=self._feed, name="wasm-sandbox-stdin", daemon=True)
        self.error: BaseException | None = None
        """What the chunks raised."""

    def start(self) -> None:
        """Begin.

        Raises:
            PoolError: there is no thread for it.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise pool_error("a command cannot be fed", error) from error

    def join(self) -> None:
        """Wait for its end, but not for chunks that are long in coming."""
        if self._thread.ident is not None:
            self._thread.join(FEEDER_SECONDS)

    def _feed(self) -> None:
        try:
            for piece in self._pieces:
                _write(self._end, piece)
        except BaseException as error:  # the caller's own, whatever it is: it goes back there
            if not (self._end.closed or self._future.done()):
                self.error = error
                self._future.cancel()
        finally:
            del self._pieces
            self._end.shut()


def _over(guest: GuestEnds, ends: list[_End]) -> None:
    guest.close()
    for end in ends:
        end.ring()


def _end(future: CallFuture, ends: list[_End]) -> None:
    future.cancel()
    for end in ends:
        end.shut()
