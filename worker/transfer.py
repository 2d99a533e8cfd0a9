"""Bytes between a running call and the supervisor: in frames while small, through the arena when
large."""

from __future__ import annotations

from collections.abc import Callable

from ..protocol import arena
from ..protocol.host_calls import MEMORY, MemoryOrder
from ..protocol.messages import (
    INLINE,
    BufferArgument,
    Chunk,
    Failure,
    HostCall,
    HostFailed,
    HostReturned,
    Output,
    Pull,
    Push,
    Taken,
)
from .channel import Channel
from .engines.interface import GuestTrap
from .outlets import Outlets

STDIN = -1
RESULT = 0
Obey = Callable[[MemoryOrder, memoryview], tuple[bytes, memoryview | None]]
"""Carries out an order, which has this data beside it; gives the encoded ``MemoryAnswer`` and what
was read."""


class Transfer:
    """What moves during one call. ``begin`` makes it ready for the next."""

    def __init__(self, channel: Channel, shared: memoryview) -> None:
        self._channel = channel
        self._shared = shared
        inward, outward, self._half = arena.halves(len(shared))
        self._inward = shared[inward : inward + self._half]
        self.outward = shared[outward : outward + self._half]
        """Where the worker puts what is too large for a frame."""
        self.begin(0)

    def begin(self, call: int, allowed: int = 0, outlets: Outlets | None = None) -> None:
        """Forget the last call."""
        self._call = call
        self._outlets = outlets
        self.allowed = allowed
        self.output = 0
        self.over_limit = False
        self.wanted = 0
        """What the guest had written, with what was refused first."""
        self.data: bytes | None = None
        self.allocating = False
        """Whether the guest runs only to make room for what a host function gives."""

    def fill(self, number: int, buffer: BufferArgument, target: memoryview) -> None:
        """Bring the bytes of an argument (or of stdin) into ``target``, which has its size."""
        if buffer.data is not None:
            target[:] = buffer.data
            return
        offset, piece = 0, 0
        self._channel.answer(Pull(self._call, number, offset))
        while offset < buffer.size:
            length = self._channel.expect(Chunk).length
            start, _ = arena.bank(self._half, piece)
            end, piece = offset + length, piece + 1
            if end < buffer.size:  # the next bank is filled while this one is emptied
                self._channel.say(Pull(self._call, number, end))
            target[offset:end] = self._inward[start : start + length]
            offset = end

    def drain(self, source: memoryview) -> bool:
        """Hand the result buffer over; ``False`` where it is over the limit."""
        if not self._count(len(source)):
            return False
        if len(source) <= INLINE:
            self.data = bytes(source)
        else:
            self._push(RESULT, source)
        return True

    def stream(self, piece: memoryview) -> bool:
        """Hand over one piece of a result of several; ``False`` where it is over the limit."""
        if not self._count(len(piece)):
            return False
        self._push(RESULT, piece)
        return True

    def finished(self, records: int) -> None:
        """Say how many records of the batch are finished, without a word through the channel."""
        arena.publish_finished(self._shared, records)

    def deliver(self, size: int) -> None:
        """Hand over the results of a batch, which lie in the outward half."""
        if size <= INLINE:
            self.data = bytes(self.outward[:size])
        else:
            self._push(RESULT, self.outward[:size])

    def write(self, stream: int, data: bytes) -> bool:
        """Hand on what the guest wrote to stdout (1) or stderr (2); ``False`` where it is over
        the limit.

        Raises:
            BrokenPipeError: it goes to a program that no longer reads.
            GuestTrap: the call is being stopped, and must not go on.
        """
        if not self._count(len(data)):
            return False
        if self._outlets is not None:
            self._outlets.write(stream, data)
            return True
        for start in range(0, len(data), INLINE):
            self._channel.answer(Output(self._call, stream, data[start : start + INLINE]), INLINE)
        self._channel.flush()
        return True

    @property
    def piped(self) -> bool:
        """Whether output goes to the program by pipes."""
        return self._outlets is not None

    @property
    def room(self) -> int:
        """Bytes that can cross at once."""
        return self._half

    def ask(
        self,
        function: str,
        arguments: bytes,
        data: memoryview | None = None,
        room: int = 0,
        obey: Obey | None = None,
    ) -> tuple[bytes, memoryview]:
        """Have the supervisor's side do something, and wait for it.

        Args:
            function: what. arguments: in its own encoding.
            data: at most ``self.room`` bytes. room: how many may come back.
            obey: carries out what that side orders before it answers.

        Returns:
            (results, data); the data is to be copied before anything else crosses.

        Raises:
            GuestTrap: the guest must not go on, because the call is being stopped, or because
                ``alloc`` asks, which could go on for ever, deeper and deeper.
        """
        if self.allocating:
            raise GuestTrap("bad_argument", "alloc called a host function, while it made room")
        answer, back = self._ask(function, arguments, data, room)
        while answer.order is not None:
            assert obey is not None
            arguments, data = obey(answer.order, back)
            answer, back = self._ask(MEMORY, arguments, data, room)
        return answer.results, back

    def _ask(
        self, function: str, arguments: bytes, data: memoryview | None, room: int
    ) -> tuple[HostReturned, memoryview]:
        inline, length = None, 0
        if data is not None and len(data) <= INLINE:
            inline = bytes(data)
        elif data is not None:
            length = len(data)
            self.outward[:length] = data
        room = min(room, self._half)
        self._channel.answer(HostCall(self._call, function, arguments, inline, length, room))
        answer = self._channel.expect(HostReturned, HostFailed)
        if isinstance(answer, HostFailed):
            raise GuestTrap(answer.failure.code, answer.failure.message)
        assert isinstance(answer, HostReturned)
        if answer.data is not None:
            return answer, memoryview(answer.data)
        return answer, self._inward[: answer.length]

    def limit_failure(self) -> Failure:
        """What the caller is told when the output was too much."""
        return Failure(
            "output_limit",
            "the guest wrote more than it may",
            limit="output",
            used=self.wanted,
            allowed=self.allowed,
        )

    def _count(self, size: int) -> bool:
        if self.over_limit or self.output + size > self.allowed:
            if not self.over_limit:
                self.wanted = self.output + size
            self.over_limit = True
            return False
        self.output += size
        return True

    def _push(self, stream: int, source: memoryview) -> None:
        _, size = arena.bank(self._half, 0)
        for piece, begin in enumerate(range(0, len(source), size)):
            chunk = source[begin : begin + size]
            start, _ = arena.bank(self._half, piece)
            if source.obj is not self.outward.obj:  # a batch's results lie there already
                self.outward[start : start + len(chunk)] = chunk
            if piece:  # the bank before is emptied while this one is filled
                self._channel.expect(Taken)
            self._channel.say(Push(self._call, stream, len(chunk), piece % arena.BANKS))
        self._channel.expect(Taken)
