"""A command that runs beside the program, for trio: its standard streams are trio's streams."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import trio

from .calls import CompletedRun, checked
from .chunks import Chunks, as_bytes
from .options import OnOutput
from .pipes import PIECE, End, Pipes
from .protocol.errors import OutputLimitExceeded
from .protocol.limits import check_number
from .trio_chunks import async_pieces


class _End(End):
    """An end at which a task waits."""

    async def wait(self) -> None:
        """Until something can be read or written, or the call is over.

        Raises:
            ClosedResourceError: it was closed meanwhile.
        """
        wait = trio.lowlevel.wait_writable if self._writes else trio.lowlevel.wait_readable
        try:
            await wait(self._descriptor)
        except trio.ClosedResourceError:
            if self.closed:
                raise

    def ring(self) -> None:
        """Let nobody wait any more."""
        if not self.closed:
            trio.lowlevel.notify_closing(self._descriptor)

    def shut(self) -> None:
        """Close it, and let nobody wait at it; may be called again."""
        self.ring()
        super().shut()


class TrioGuestOutput(trio.abc.ReceiveStream):
    """What a guest writes, to be received while it runs.

    The end comes when the guest has ended, whatever its exit code; where it trapped, or was
    stopped, that error is raised instead.
    """

    def __init__(self, process: TrioProcess, end: _End) -> None:
        self._process = process
        self._end = end

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, waiting for the first; ``b""`` at the end.

        Raises:
            ClosedResourceError: it is closed.
            BusyResourceError: another task is receiving.
            ConfigurationError: ``max_bytes`` is less than 1.
            SandboxError: the guest did not end by itself.
        """
        size = PIECE if max_bytes is None else max_bytes
        check_number("receive_some.max_bytes", size, 1, sys.maxsize, whole=True)
        await trio.lowlevel.checkpoint()
        try:
            while (data := self._end.take(size)) is None:
                await self._end.wait()
        except ValueError:
            raise trio.ClosedResourceError("this stream is closed") from None
        except OutputLimitExceeded:
            self._process.cancel()
            raise
        if not data:
            await self._process.wait()
        return data

    async def aclose(self) -> None:
        """Receive no more: the guest gets ``EPIPE`` where it writes more."""
        self._end.shut()
        await trio.lowlevel.checkpoint()


class TrioGuestInput(trio.abc.SendStream):
    """What a guest reads, to be sent while it runs."""

    def __init__(self, end: _End) -> None:
        self._end = end

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it, as the guest takes it.

        Raises:
            BrokenResourceError: the guest has ended; ``wait`` tells how.
            ClosedResourceError: it is closed.
            BusyResourceError: another task is sending.
        """
        await trio.lowlevel.checkpoint()
        rest = as_bytes(data)
        try:
            while rest:
                written = self._end.put(rest)
                rest = rest[written:]
                if not written:
                    await self._end.wait()
        except BrokenPipeError as error:
            raise trio.BrokenResourceError(str(error)) from error
        except ValueError:
            raise trio.ClosedResourceError("this stream is closed") from None

    async def wait_send_all_might_not_block(self) -> None:
        """Until there is room for some bytes, or the guest has ended."""
        await trio.lowlevel.checkpoint()
        if not self._end.closed:
            await self._end.wait()

    async def aclose(self) -> None:
        """Let the guest find the end of its input."""
        self._end.shut()
        await trio.lowlevel.checkpoint()


class TrioProcess:
    """A running command. Get it by ``async with pool.start(app) as process:``; the end of the block
    ends the guest, if it still runs. ``docs/streams.md`` has all of it."""

    def __init__(
        self,
        pipes: Pipes,
        chunks: Chunks | None,
        call: Callable[[], Awaitable[CompletedRun]],
    ) -> None:
        self._guest = pipes.guest
        self._call = call
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        pipes.flow.over = self._over.is_set
        self._completed: CompletedRun | None = None
        self._error: BaseException | None = None
        self._ends = [
            _End(pipes.flow, descriptor, writes=descriptor == pipes.stdin)
            for descriptor in pipes.program
        ]
        self._chunks = chunks
        self.stdout = TrioGuestOutput(self, self._ends[0])
        """Its standard output."""
        self.stderr = TrioGuestOutput(self, self._ends[1])
        """Its standard error. Who reads only the one has a guest wait that writes to the other."""
        self.stdin: TrioGuestInput | None = None
        """Its standard input; ``None`` where ``start`` was given one."""
        if pipes.stdin is not None and chunks is None:
            self.stdin = TrioGuestInput(self._ends[2])

    @property
    def running(self) -> bool:
        """Whether it is not over."""
        return not self._over.is_set()

    async def wait(self, *, check: bool = False) -> CompletedRun:
        """Wait for its end. What it writes has to be read meanwhile, or it will not come.

        Raises: as ``Process.wait``, but ``ClosedResourceError`` where it was cancelled.
        """
        await self._over.wait()
        if self._error is not None:
            raise self._error
        if self._completed is None:
            raise trio.ClosedResourceError("the guest was stopped")
        return checked(self._completed, check)

    def cancel(self) -> None:
        """Stop the guest, whatever it does."""
        self._scope.cancel()

    async def live(self) -> None:
        """Run the guest, and feed it."""
        async with trio.open_nursery() as nursery:
            if self._chunks is not None:
                nursery.start_soon(self._feed, self._chunks)
            try:
                with self._scope:
                    self._completed = await self._call()
            except Exception as error:  # to be raised to those who wait
                self._error = self._error or error
            finally:
                self._guest.close()
                self._over.set()
                for end in self._ends:
                    end.ring()
            nursery.cancel_scope.cancel()

    async def _feed(self, chunks: Chunks) -> None:
        stdin = TrioGuestInput(self._ends[2])
        try:
            async with aclosing(async_pieces(chunks)) as pieces:
                async for piece in pieces:
                    await stdin.send_all(piece)
        except trio.BrokenResourceError:
            return
        except Exception as error:  # the caller's own, whatever it is: it goes back there
            if not self._over.is_set():
                self._error = error
                self._scope.cancel()
        finally:
            self._ends[2].shut()

    def close(self) -> None:
        """Close the streams, and the guest's ends where it did not come to run."""
        self._guest.close()
        for end in self._ends:
            end.shut()


async def run_to_end(process: TrioProcess, on_output: OnOutput | None) -> CompletedRun:
    """Collect what a process writes, or hand it on."""
    written: dict[int, list[bytes]] = {1: [], 2: []}

    async def collect(number: int, stream: TrioGuestOutput) -> None:
        while piece := await stream.receive_some():
            if on_output is None:
                written[number].append(piece)
            else:
                on_output(number, piece)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, 1, process.stdout)
            nursery.start_soon(collect, 2, process.stderr)
    except BaseExceptionGroup as group:  # both streams end with the guest's error
        failure = group.exceptions[0]
        raise failure from failure.__cause__
    stdout, stderr = map(b"".join, written.values())
    return msgspec.structs.replace(await process.wait(), stdout=stdout, stderr=stderr)
