"""The conversation: who may say what, when. No I/O.

    STARTING ──Ready──▶ RUNNING ──Stop──▶ STOPPING
        │StartFailed        (both take Loaded, LoadFailed, Returned, Failed, Output, Pull, Push,
        ▼                    Recalled, HostCall, BatchReturned)
      CLOSED            COMPILING ──Compiled | CompileFailed──▶ CLOSED

Beyond the table, a worker answers calls in the order in which it got them, speaks only of the call
at the head, and answers loads and recalls only when asked. So a replayed, forged or early message
never fits. While a host call waits for its answer, the worker says nothing of that call, so there
is never more than one of them.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from .errors import ProtocolError
from .messages import (
    BatchReturned,
    Compiled,
    CompileFailed,
    Failed,
    FromWorker,
    HostCall,
    Loaded,
    LoadFailed,
    Output,
    Pull,
    Push,
    Ready,
    Recalled,
    Returned,
    StartFailed,
)


class State(Enum):
    """Where a worker is in its life, as far as messages go."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPILING = "compiling"
    CLOSED = "closed"


_WORKING = (
    *(Loaded, LoadFailed, Returned, Failed, Output, Pull, Push, Recalled, HostCall),
    BatchReturned,
)

TABLE: dict[State, dict[type[FromWorker], State]] = {
    State.STARTING: {Ready: State.RUNNING, StartFailed: State.CLOSED},
    State.RUNNING: dict.fromkeys(_WORKING, State.RUNNING),
    State.STOPPING: dict.fromkeys(_WORKING, State.STOPPING),
    State.COMPILING: {
        Compiled: State.CLOSED,
        CompileFailed: State.CLOSED,
        StartFailed: State.CLOSED,
    },
    State.CLOSED: {},
}


class Conversation:
    """One worker's side of the conversation, as the supervisor follows it."""

    def __init__(self, state: State = State.STARTING) -> None:
        self.state = state
        self.calls: deque[int] = deque()
        """Calls that were sent and not answered, oldest first; numbers only grow."""
        self.loads: deque[int] = deque()
        self.recalls: deque[int] = deque()
        self.asking = False
        """Whether the call at the head waits for the answer to a host call."""

    def sent_call(self, call: int) -> None:
        """A call was sent."""
        assert self.state is State.RUNNING, self.state
        assert not self.calls or call > self.calls[-1], "call numbers only grow"
        self.calls.append(call)

    def sent_load(self, module: int) -> None:
        """A load was sent."""
        self.loads.append(module)

    def sent_recall(self, until: int) -> None:
        """A recall was sent."""
        self.recalls.append(until)

    def sent_host_answer(self) -> None:
        """The host call was answered."""
        assert self.asking
        self.asking = False

    def sent_stop(self) -> None:
        """A stop was sent: nothing more will be."""
        self.state = State.STOPPING

    def received(self, message: FromWorker) -> None:
        """Check a message and follow it.

        Raises:
            ProtocolError: it may not be said here.
        """
        following = TABLE[self.state].get(type(message))
        if following is None:
            raise ProtocolError(f"{type(message).__name__} is not allowed while {self.state.value}")
        match message:
            case Returned(call=call) | Failed(call=call) | BatchReturned(call=call):
                self._at_head(call, message)
                self.calls.popleft()
            case Output(call=call) | Pull(call=call) | Push(call=call):
                self._at_head(call, message)
            case HostCall(call=call):
                self._at_head(call, message)
                self.asking = True
            case Loaded(module=module) | LoadFailed(module=module):
                if not self.loads or self.loads[0] != module:
                    raise ProtocolError(f"module {module} was not the next to load")
                self.loads.popleft()
            case Recalled():
                self._recalled(message)
            case _:
                pass
        self.state = following

    def _at_head(self, call: int, message: FromWorker) -> None:
        if not self.calls or self.calls[0] != call:
            raise ProtocolError(
                f"{type(message).__name__} speaks of call {call}, which is not running"
            )
        if self.asking:
            raise ProtocolError(f"{type(message).__name__} while a host call waits for its answer")

    def _recalled(self, message: Recalled) -> None:
        if not self.recalls or self.recalls[0] != message.until:
            raise ProtocolError("a recall was answered that was not asked for")
        if message.begun > message.until:
            raise ProtocolError("a recall gives back calls that were never sent")
        self.recalls.popleft()

    def take_back(self, message: Recalled) -> list[int]:
        """The calls that ``message`` gives back, oldest first; they are no longer this worker's."""
        kept = deque(c for c in self.calls if not message.begun < c <= message.until)
        back = [c for c in self.calls if message.begun < c <= message.until]
        self.calls = kept
        return back
