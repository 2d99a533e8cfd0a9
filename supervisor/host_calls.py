"""What the guests of one worker ask of this side: carried out one at a time, while they wait.

A host call is checked, begun as a task of the worker's nursery, and answered when that ends. When
its call is stopped the task is cancelled and the guest is told to go no further: the worker lives.
When the worker dies the task ends with it.

A function of the caller's that fails stops the call, as a limit would: its guest goes no further,
and the caller gets the error. One that wants something of the guest's memory (``reach``) has the
worker do it, which then says so in a host call of its own, and waits again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from ..protocol import arena
from ..protocol.conversation import Conversation
from ..protocol.errors import (
    CapabilityDenied,
    HostFunctionError,
    ProtocolError,
    SandboxError,
    Trap,
    described,
)
from ..protocol.host_calls import (
    IMPORT,
    MEMORY,
    NETWORK,
    MemoryOrder,
    decode_import,
    decode_memory,
    decode_request,
    encode,
)
from ..protocol.messages import (
    ARGUMENTS,
    INLINE,
    SLOT,
    Failure,
    HostCall,
    HostFailed,
    HostReturned,
)
from ..protocol.profile import Profile
from .imports import BadArgument, HostImport, Raised, denial, reaching, serving
from .leftovers import Leftovers
from .network.access import CallNetwork, NetworkAccess
from .objects import Objects, Turn, held
from .reach import Reach
from .requests import Outcome
from .sending import Sender

if TYPE_CHECKING:
    from .calls import CallRecord

_STOPPED = Failure("interrupted", "stopped while it waited for a host call", code="interrupt")
Answer = tuple[bytes, bytes]
"""The results of a host call, and the data beside them."""


@dataclass(frozen=True, eq=False, slots=True)
class _Running:
    """The host call that is being carried out."""

    record: CallRecord
    scope: trio.CancelScope
    function: HostImport | None
    """The caller's function; ``None`` for what the supervisor does itself."""
    reach: Reach | None = None
    """Where the function wants it."""


class HostCalls:
    """The host calls of one worker."""

    def __init__(
        self,
        conversation: Conversation,
        sender: Sender,
        shared: memoryview,
        access: NetworkAccess,
        lent_to: Callable[[CallRecord, int], HostImport | None],
        leftovers: Leftovers,
        profile: Profile,
    ) -> None:
        self.nursery: trio.Nursery
        """Where they are carried out; it ends with the worker."""
        self._last_end = 0.0
        self._conversation = conversation
        self._sender = sender
        self._shared = shared
        self._access = access
        self._lent_to = lent_to
        self._leftovers = leftovers
        self._tenant = profile.tenant
        self._lasting = Objects() if profile.stateful else None
        """What the worker's instances have handles to, where they outlive a call."""
        self._ended = False
        self._running: _Running | None = None
        self._kept: CallNetwork | None = None
        """The network of the last call of an instance that lives on."""

    @property
    def serving(self) -> bool:
        """Whether a function of the caller's runs."""
        return self._running is not None and self._running.function is not None

    def last_held(self) -> float:
        """Until when the guest was held, by trio's clock: the end of the last host call, or now.

        Waiting for the network is the guest's own idleness; waiting for a function of the caller's
        is not.
        """
        return trio.current_time() if self.serving else self._last_end

    def begin(self, message: HostCall, record: CallRecord) -> None:
        """Carry out what the running call asks for.

        Raises:
            ProtocolError: there is no such thing, or it is more than can cross.
        """
        if self._ended:
            return
        data = self._data(message)
        if message.function == MEMORY:
            self._reach().answered(decode_memory(message.arguments), data)
            return
        if self._running is not None:
            raise ProtocolError("a host call instead of the answer to an order")
        function: HostImport | None = None
        reach: Reach | None = None
        if message.function == NETWORK:
            request = decode_request(message.arguments)
            network = self._network(record)

            async def work() -> Answer:
                answer, back = await network.serve(request, data, message.room)
                return encode(answer), back

        elif message.function == IMPORT:
            function, slots = self._import(message, record, data)
            called, denied = function, denial(function, record)
            if denied is None:
                record.imported[called.name] = record.imported.get(called.name, 0) + 1
            objects = self._objects(record) if called.shape.component else None
            if called.memory:
                _, _, half = arena.halves(len(self._shared))
                reach = Reach(half, partial(self._say, message.call, b""))

            async def work() -> Answer:
                if denied is not None:
                    raise denied
                if reach is not None:
                    reaching.set(reach)
                if objects is None:
                    return await _call(called, slots, data, message.room)
                turn = Turn(objects)
                held.set(turn)
                try:
                    if called.gives:
                        await self._leftovers.wait_for_room(self._tenant)
                    return await _call(called, slots, data, message.room)
                except BaseException:  # also where it was given up
                    turn.undo()
                    raise

        else:
            raise ProtocolError(f"there is no host function {message.function[:40]!r}")
        record.spoken = True
        record.host_calls += 1
        if record.stop is not None:
            self._fail(message.call)
            return
        self._running = running = _Running(record, trio.CancelScope(), function, reach)
        self.nursery.start_soon(self._serve, message.call, running, work)

    def over(self, record: CallRecord) -> None:
        """The worker has ended this call: it may be that its guest was to make room for a function.

        Raises:
            ProtocolError: while another order waits for its answer.
        """
        if self._running is not None and self._running.record is record:
            self._reach().cut()
            self._running.scope.cancel()
            self._ended_one()

    def end(self) -> None:
        """The worker is dead: begin nothing more for it."""
        self._ended = True
        if self._lasting is not None:
            self._leftovers.take(self._lasting, self._tenant)
        if self._kept is not None:
            self._kept.close()

    def answered(self, record: CallRecord, outcome: Outcome) -> None:
        """A call has ended by its worker's word: it takes back what it has lent, and what its guest
        gives."""
        luggage = record.request.luggage
        if luggage is not None:
            objects = self._objects(record)
            if outcome.error is None:
                luggage.take_back(objects, outcome.slots, outcome.data)
            objects.end_loans()

    def _reach(self) -> Reach:
        if self._running is None or self._running.reach is None:
            raise ProtocolError("an answer to no order")
        return self._running.reach

    def _objects(self, record: CallRecord) -> Objects:
        if self._lasting is not None:
            if record.objects is not None:
                self._lasting.adopt(record.objects)
            return self._lasting
        if record.objects is None:
            record.objects, record.leftovers = Objects(), self._leftovers
        return record.objects

    def interrupt(self, record: CallRecord) -> None:
        """The call is being stopped: it waits no longer."""
        if self._running is not None and self._running.record is record:
            self._running.scope.cancel()

    def _network(self, record: CallRecord) -> CallNetwork:
        if record.network is None:
            record.network = CallNetwork(self._access, record, self.nursery, self._kept)
            if record.request.profile.stateful:
                self._kept = record.network
        return record.network

    def _data(self, message: HostCall) -> bytes:
        _, outward, half = arena.halves(len(self._shared))
        size = message.length if message.data is None else len(message.data)
        most = half if message.data is None else INLINE
        if (
            len(message.arguments) > ARGUMENTS
            or not 0 <= size <= most
            or not 0 <= message.room <= half
        ):
            raise ProtocolError("a host call of more than can cross")
        if message.data is not None:
            return message.data
        return bytes(self._shared[outward : outward + size])

    def _import(
        self, message: HostCall, record: CallRecord, data: bytes
    ) -> tuple[HostImport, bytes]:
        asked = decode_import(message.arguments)
        function = self._lent_to(record, asked.number)
        if function is None:
            raise ProtocolError(f"the call's module imports no function {asked.number}")
        shape, slots = function.shape, asked.slots
        if shape.component:
            if slots:
                raise ProtocolError(f"{len(slots)} bytes of slots for {function.name}")
            return function, slots
        if len(slots) != SLOT * len(shape.type.params):
            raise ProtocolError(f"{len(slots)} bytes of arguments do not fit {function.name}")
        if sum(size for _, size in shape.places(slots)) != len(data):
            raise ProtocolError(f"{len(data)} bytes beside the arguments of {function.name}")
        return function, slots

    async def _serve(
        self, call: int, running: _Running, work: Callable[[], Awaitable[Answer]]
    ) -> None:
        record = running.record
        serving.set(record)
        answer: Answer | None = None
        failure: SandboxError | None = None
        try:
            with running.scope:
                try:
                    answer = await work()
                except (CapabilityDenied, HostFunctionError, Trap) as error:
                    failure = error
        finally:
            if running.reach is not None:
                running.reach.close()
        if running is self._running and failure is not None and record.stop is None:
            record.stop = failure
            assert record.worker is not None
            record.worker.interrupt(record)
        if running.reach is not None:
            await running.reach.settled()
        if running is not self._running:
            return
        self._ended_one()
        if answer is None:
            self._fail(call)
        else:
            self._say(call, *answer)

    def _ended_one(self) -> None:
        self._running = None
        self._last_end = trio.current_time()

    def _say(
        self, call: int, results: bytes, data: bytes, order: MemoryOrder | None = None
    ) -> None:
        large = len(data) if len(data) > INLINE else 0
        if large:
            inward, _, _ = arena.halves(len(self._shared))
            self._shared[inward : inward + large] = data
        self._conversation.sent_host_answer()
        self._sender.send(HostReturned(call, results, None if large else data, large, order))

    def _fail(self, call: int) -> None:
        self._conversation.sent_host_answer()
        self._sender.send(HostFailed(call, _STOPPED))


async def _call(function: HostImport, slots: bytes, data: bytes, room: int) -> Answer:
    """Call a function of the caller's, when its rate allows.

    Raises:
        Trap: the guest gave it what it cannot take.
        HostFunctionError: it failed, took too long, or returned what cannot cross.
    """
    now = trio.current_time()
    early = function.rate.delay(now)
    if early:
        try:
            await trio.sleep(early)
        except trio.Cancelled:
            function.rate.give_back(now + early)
            raise
    answer: Answer | None = None
    with trio.move_on_after(function.timeout):
        try:
            answer = await function.call(slots, data)
        except trio.Cancelled:
            raise
        except BadArgument as error:
            raise Trap("bad_argument", f"{function.name}: {error}") from None
        except BaseException as error:  # whatever it is, it is the function's own
            own = error.__cause__ if isinstance(error, Raised) and error.__cause__ else error
            raise _failed(function, f"raised {described(own)}") from own
    if answer is None:
        late = TimeoutError(f"not done after {function.timeout:g} s")
        raise _failed(function, f"took longer than its timeout of {function.timeout:g} s") from late
    if len(answer[1]) > room:
        raise _failed(function, f"returned {len(answer[1])} bytes; at most {room} can cross")
    return answer


def _failed(function: HostImport, what: str) -> HostFunctionError:
    return HostFunctionError(f"the host function {function.name} {what}"[:500])
