"""Workers without processes: a real pool is made to believe in them, under a clock that jumps.

Theory of operation. A puppet holds the worker's ends of the real wires inside the supervisor's own
trio run, and does with them what a worker in the guest's hands could. It costs no process, and no
time passes that nobody waits for, so that thousands of lives of a pool take seconds.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from ..protocol import arena
from ..protocol import zygote as wire
from ..protocol.control import RECORD_SIZE, Control, unpack
from ..protocol.description import ModuleDescription
from ..protocol.framing import READ_SIZE, FrameReader
from ..protocol.messages import (
    PROTOCOL_VERSION,
    Batch,
    BatchReturned,
    Call,
    Chunk,
    Compiled,
    Configure,
    ConfigureCompiler,
    Failed,
    Failure,
    FromWorker,
    Load,
    Loaded,
    Pull,
    Ready,
    Recalled,
    Returned,
    Stop,
    ToWorker,
    decode_to_worker,
    encode,
)
from ..protocol.receipts import Usage
from ..supervisor.zygote import Child

Heard = ToWorker | tuple[Control, int] | None
"""A message, an order, or that nothing came in time."""
ARTIFACT = b"an artifact that no engine reads"
SLOW = "slow"
"""Calls whose export begins like this take a quarter of a second."""
_TOP = (1 << 64) - 1


class Over(Exception):
    """The puppet's process would have ended: by ``signal`` where that is not 0, or with
    ``status``."""

    def __init__(self, status: int = 0, signal: int = 0) -> None:
        super().__init__(status, signal)
        self.status, self.signal = status, signal


class Puppet(Child):
    """A worker or a compiler: it keeps the rules where it is asked to ``serve``."""

    def __init__(
        self, worker: int, role: wire.Role, descriptors: Sequence[int], begun: Counter[str]
    ) -> None:
        super().__init__(worker, pid=os.getpid())
        own = [os.dup(descriptor) for descriptor in descriptors]
        self._open = set(own)
        self._channel = own[0]
        if role == "compile":
            self._control, self._passing, self._memory = -1, own[3], own[2]
        else:
            self._control, self._passing, self._memory = own[1:4]
        os.set_blocking(self._channel, False)
        self._scope = trio.CancelScope()
        self._hearing = trio.CancelScope()
        self._put, self._heard = trio.open_memory_channel[Heard](math.inf)
        self.calls: deque[Call | Batch] = deque()
        """Calls that are here and not answered, oldest first."""
        self.asked: int | None = None
        """Up to which call a recall asks, while it is not answered."""
        self.begun = begun
        """How often each export was begun by workers that keep the rules."""
        self._last = self._recalled = 0
        self._skip: set[int] = set()
        self._stopping = False

    # --- life -----------------------------------------------------------------------------------

    async def live(self, play: Callable[[Puppet], Awaitable[None]]) -> None:
        """Play, and be seen to die."""
        end = Over(signal=9)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear_all)
                    try:
                        await play(self)
                        end = Over()
                    except Over as over:
                        end = over
                    nursery.cancel_scope.cancel()
        finally:
            for descriptor in self._open:
                os.close(descriptor)
            self._open.clear()
            self._put.close()
            self._heard.close()
            code = None if end.signal else end.status
            self.exited = wire.Exited(self.worker, end.signal or None, code, 0.0, 0)
            self.gone.set()

    def kill(self) -> None:
        """End it."""
        self._scope.cancel()

    def hang_up(self) -> None:
        """Close the channel and live on."""
        self._hearing.cancel()
        if self._channel in self._open:
            self._open.remove(self._channel)
            os.close(self._channel)

    def deaf(self) -> None:
        """Read nothing more."""
        self._hearing.cancel()

    async def _hear_all(self) -> None:
        with self._hearing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_messages)
                if self._control >= 0:
                    nursery.start_soon(self._hear_orders)

    async def _hear_messages(self) -> None:
        reader = FrameReader()
        while True:
            await trio.lowlevel.wait_readable(self._channel)
            data = os.read(self._channel, READ_SIZE)
            if not data:
                self.kill()
                return
            for body in reader.feed(data):
                for message in decode_to_worker(body):
                    self._put.send_nowait(message)

    async def _hear_orders(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._control)
            data = os.read(self._control, RECORD_SIZE)
            if not data:
                return
            self._put.send_nowait(unpack(data))

    # --- what can be done -----------------------------------------------------------------------

    async def hear(self, seconds: float = math.inf) -> Heard:
        """The next message or order; ``None`` where none came within ``seconds``."""
        with trio.move_on_after(seconds):
            return await self._heard.receive()
        return None

    async def write(self, data: bytes) -> None:
        """Write to the channel, if it is there, all of ``data``."""
        while data and self._channel in self._open:
            await trio.lowlevel.wait_writable(self._channel)
            try:
                data = data[os.write(self._channel, data) :]
            except ConnectionError:
                raise Over from None

    async def say(self, *messages: FromWorker) -> None:
        """Write one frame."""
        await self.write(encode(*messages))

    def publish(self, call: int, cpu_nanoseconds: int = 0) -> None:
        """Write the status page."""
        view = memoryview(bytearray(24))
        arena.publish_begun(view, call & _TOP, cpu_nanoseconds & _TOP)
        os.pwrite(self._memory, view, 0)

    # --- keeping the rules ----------------------------------------------------------------------

    async def serve(self, calls: float = math.inf) -> None:
        """Answer as many calls as a good worker would."""
        while calls > 0:
            await self.wait_for_call()
            await self._run(self.calls[0])
            calls -= 1

    async def wait_for_call(self) -> None:
        """Do all that comes before a call, until one is here; it is not begun."""
        while not self.calls:
            await self.follow(await self.hear())

    async def follow(self, heard: Heard, *, obey: bool = True) -> None:
        """Do what was said, short of running calls; without ``obey``, no recall is answered."""
        match heard:
            case Configure():
                await self.say(Ready(PROTOCOL_VERSION, "puppet", True, ()))
            case ConfigureCompiler():
                os.pwrite(self._memory, ARTIFACT, 0)
                await self.say(Compiled(len(ARTIFACT), ModuleDescription(), 0.0))
                raise Over
            case Load(module=module):
                os.read(self._passing, 1)  # the descriptor beside it is closed
                await self.say(Loaded(module))
            case Call() | Batch() if heard.call > self._recalled:
                self.calls.append(heard)
            case Stop():
                self._stopping = True
                self._leave_if_done()
            case (Control.RECALL, until):
                self.asked = until
                if obey:
                    await self.answer_recall()
            case (Control.INTERRUPT, call) if call > self._last:
                self._skip.add(call)
            case _:
                pass

    async def answer_recall(self) -> None:
        """Give back what was not begun, if that was asked for."""
        if self.asked is None:
            return
        until, self.asked = self.asked, None
        begun = min(self._last, until)
        self._recalled = max(self._recalled, until)
        self.calls = deque(call for call in self.calls if not begun < call.call <= until)
        await self.say(Recalled(begun, until))

    def answer(self) -> Returned | BatchReturned:
        """What is right to say of the oldest call; 0 where there is none."""
        if not self.calls:
            return Returned(0, b"", Usage())
        call = self.calls[0]
        if isinstance(call, Batch):  # of one column in, and the same out
            return BatchReturned(call.call, call.count, Usage(), None, call.arguments.data)
        data = call.slots if call.returns_buffer else None
        code = None if call.command is None else 0
        slots = b"" if call.returns_buffer or call.command else call.slots
        return Returned(call.call, slots, Usage(), data, code)

    async def _run(self, call: Call | Batch) -> None:
        answer: Returned | BatchReturned | Failed = self.answer()
        if call.call in self._skip:
            answer = _interrupted(call)
        else:
            self._last = call.call
            self.publish(call.call)
            self.begun[call.export] += 1
            buffers = call.buffers if isinstance(call, Call) else ()
            for number, buffer in enumerate(buffers):
                await self._pull(call.call, number, buffer.size if buffer.data is None else 0)
            if call.export.startswith(SLOW) and await self._interrupted(call, 0.25):
                answer = _interrupted(call)
        self.calls.popleft()
        await self.say(answer)
        self._leave_if_done()

    async def _pull(self, call: int, number: int, size: int) -> None:
        offset = 0
        while offset < size:
            await self.say(Pull(call, number, offset))
            while not isinstance(heard := await self.hear(), Chunk):
                await self.follow(heard)
            offset += heard.length

    async def _interrupted(self, call: Call | Batch, seconds: float) -> bool:
        end = trio.current_time() + seconds
        while (left := end - trio.current_time()) > 0:
            heard = await self.hear(left)
            if heard == (Control.INTERRUPT, call.call):
                return True
            await self.follow(heard)
        return False

    def _leave_if_done(self) -> None:
        if self._stopping and not self.calls:
            raise Over


def _interrupted(call: Call | Batch) -> Failed:
    return Failed(call.call, Failure("interrupted", "stopped"), Usage())
