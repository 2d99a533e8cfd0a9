"""The watch over one worker: deadlines of the call at its head, whatever the guest does.

There is one alarm, for the earliest thing that can become due; nothing is armed or disarmed for a
call that ends in time. When the alarm rings, what is due is worked out from the state of that
moment.

A worker that was told to stop its call has ``GRACE`` to answer, but not where it is plain that it
will not: at two looks it was asleep, in between it had no moment on a processor, and it has said
nothing. Then it is blocked in a system call, where no interrupt reaches it. One that is only short
of processor time is not asleep.
"""

from __future__ import annotations

import math
import os
import select
import time
from typing import TYPE_CHECKING

import trio

from ..protocol import errors
from .certificates import Verdict

if TYPE_CHECKING:
    from .calls import CallRecord
    from .holder import Holder

GRACE = 0.05
"""Seconds from an interrupt to the kill of a worker that does not answer it."""
LOOK = 0.002
"""Seconds between two looks at a worker that has not answered an interrupt yet."""
RECALL_AFTER = 0.005
"""Seconds that a call may run before those behind it are called back."""
IDLE_SHARE = 0.01
"""Share of a processor below which a call counts as idle."""
PROCESSORS = os.cpu_count() or 1
"""How many processors one worker's threads can use up time on at the same time, at the most."""


class Watch:
    """Rings when something at the head of a worker is due."""

    def __init__(self, worker: Holder) -> None:
        self._worker = worker
        self._scope = trio.CancelScope()
        self.head_since = 0.0
        self._cpu_base = 0.0
        """The worker's processor clock when the head began, in seconds."""
        self._cpu_check = math.inf
        self._idle_check = math.inf
        self._idle_cpu = 0.0
        self._kill_at = math.inf
        self._look_at = math.inf
        self._slept: float | None = None
        """The worker's processor clock at the last look, if it was asleep."""
        self._end_at = math.inf
        self._end_verdict = Verdict("stopped", "supervisor")

    async def run(self) -> None:
        """Keep watch until cancelled."""
        while True:
            self._scope = trio.CancelScope(deadline=self._next())
            with self._scope:
                await trio.sleep_forever()
            self._ring(trio.current_time())

    def new_head(self, now: float) -> None:
        """Another call is at the head, since ``now``."""
        worker = self._worker
        record = worker.head
        assert record is not None
        limits = record.request.limits
        self.head_since = now
        self._cpu_base = self._idle_cpu = math.nan
        self._cpu_check = now + limits.cpu_time / PROCESSORS
        self._idle_check = now + limits.idle_time
        self._kill_at = self._look_at = math.inf
        if record.stop is not None:
            self._await_answer(now)
        self._advance(self._next())

    def company(self) -> None:
        """A call was put behind the head."""
        self._advance(self.head_since + RECALL_AFTER)

    def stopping(self, record: CallRecord) -> None:
        """The worker was told to stop ``record``."""
        if record is self._worker.head:
            self._await_answer(trio.current_time())
            self._advance(self._look_at)

    def _await_answer(self, now: float) -> None:
        self._kill_at = min(self._kill_at, now + GRACE)
        self._look_at, self._slept = now + LOOK, None

    def expect(self, when: float, verdict: Verdict) -> None:
        """Unless something else is expected before, the worker is killed at ``when``."""
        self._end_at, self._end_verdict = when, verdict
        self._advance(when)

    def _advance(self, when: float) -> None:
        if when < self._scope.deadline:
            self._scope.deadline = when

    def _next(self) -> float:
        worker = self._worker
        record = worker.head
        if record is None:
            return self._end_at
        due = min(self._kill_at, self._end_at, self._look_at)
        if record.stop is None:
            limits = record.request.limits
            due = min(due, self.head_since + limits.wall_time, self._cpu_check, self._idle_check)
        if len(worker.records) > 1 and not worker.conversation.recalls:
            due = min(due, self.head_since + RECALL_AFTER)
        return due

    def _ring(self, now: float) -> None:
        worker = self._worker
        worker.settle()
        if now >= self._end_at:
            self._end_at = math.inf
            self._end(self._end_verdict)
            return
        record = worker.head
        if record is None:
            return
        if record.stop is None:
            record.stop = self._exceeded(record, now)
            if record.stop is not None:
                worker.interrupt(record)
        if now >= self._look_at:
            if self._end_at == math.inf:  # else there is more to be known soon
                self._look(now)
            else:
                self._look_at = math.inf
        if now >= self._kill_at:
            assert record.stop is not None
            self._kill_at = self._look_at = math.inf
            self._end(_verdict(record.stop))
        elif len(worker.records) > 1 and now >= self.head_since + RECALL_AFTER:
            worker.recall()

    def _look(self, now: float) -> None:
        """Let it be killed now if it is blocked."""
        pid = self._worker.pid
        slept = processor_clock(pid) if is_asleep(pid) else None
        if (
            slept is not None
            and slept == self._slept
            and not is_readable(self._worker.wires.channel)
        ):
            self._kill_at = now
        self._slept, self._look_at = slept, now + LOOK

    def _end(self, verdict: Verdict) -> None:
        """It is too late for an end of its own, unless it has had one that is not reported yet."""
        if not self._worker.dead:
            self._worker.kill(verdict)

    def _exceeded(self, record: CallRecord, now: float) -> errors.SandboxError | None:
        limits = record.request.limits
        elapsed = now - self.head_since
        if now >= self.head_since + limits.wall_time:  # as in _next, to the last bit
            return errors.DeadlineExceeded("wall_time", elapsed, limits.wall_time)
        if now < self._cpu_check and now < self._idle_check:
            return None
        clock = processor_clock(self._worker.pid)
        if clock is None:  # it is dead, and will use no more
            self._cpu_check = self._idle_check = math.inf
            return None
        if math.isnan(self._cpu_base):
            self._cpu_base = self._idle_cpu = min(self._worker.begun_clock(), clock)
        if now >= self._cpu_check:
            used = clock - self._cpu_base
            if used >= limits.cpu_time:
                return errors.CpuTimeExceeded("cpu_time", used, limits.cpu_time)
            self._cpu_check = now + max((limits.cpu_time - used) / PROCESSORS, 0.001)
        if now >= self._idle_check:
            awake = self._worker.last_held + limits.idle_time
            if awake > now:
                self._idle_cpu, self._idle_check = clock, awake
                return None
            if clock - self._idle_cpu < IDLE_SHARE * limits.idle_time:
                return errors.IdleTimeExceeded("idle_time", elapsed, limits.idle_time)
            self._idle_cpu = clock
            self._idle_check = now + limits.idle_time
        return None


_CAUSES: dict[type[errors.SandboxError], str] = {
    errors.DeadlineExceeded: "deadline",
    errors.CpuTimeExceeded: "cpu_time",
    errors.IdleTimeExceeded: "idle_time",
}


def _verdict(stop: errors.SandboxError) -> Verdict:
    cause = _CAUSES.get(type(stop), "cancelled")
    return Verdict(cause, "supervisor", "it did not stop when interrupted")  # type: ignore[arg-type]


def processor_clock(pid: int) -> float | None:
    """Processor seconds of a process, by the kernel's clock of it (clock_getcpuclockid(3));
    ``None`` if dead."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def is_asleep(pid: int) -> bool:
    """Whether the first thread of a process, which runs the guest, waits for something
    (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2].startswith(b"S")
    except OSError:
        return False


def is_readable(descriptor: int) -> bool:
    """Whether there is something to read, or the other end is closed."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
