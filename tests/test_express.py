"""The thread that waits for a lone call reads a plain answer, and leaves everything else alone."""

from __future__ import annotations

import itertools
import math
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import pytest
from batch_guests import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.description import ModuleDescription
from wasm_sandbox.protocol.framing import frame
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.messages import Failed, Failure, Output, Returned, encode
from wasm_sandbox.protocol.profile import Profile
from wasm_sandbox.protocol.receipts import Usage
from wasm_sandbox.supervisor.calls import CallRecord
from wasm_sandbox.supervisor.express import SMALL, Ear, Loan
from wasm_sandbox.supervisor.requests import CallRequest, ModuleHandle, Outcome

LIMITS = Limits()
PROFILE = Profile.of(LIMITS, Capabilities.minimal())
MODULE = ModuleHandle(b"m" * 32, b"", ModuleDescription(), LIMITS)
SLOT = bytes(range(16))
LONG = 30.0


class Lent:
    """An idle worker, as a loan knows it; the other end of its channel is ``worker``."""

    number = 7

    def __init__(self) -> None:
        self.talk, self.worker = socket.socketpair()
        self.talk.setblocking(False)
        self.worker.setblocking(False)
        self.ear = Ear(self.talk)
        self.home: deque[Loan] = deque()
        self.office = self.wires = cast("Any", self)
        self.channel = self.talk.fileno()
        self.next_call = itertools.count(1).__next__
        self.ended: list[Outcome] = []
        self.loan = self.lend()

    def loaded(self, _: CallRequest) -> int:
        return 1

    def lend(self, answers: int = 100, until: float = math.inf) -> Loan:
        return Loan(cast("Any", self), self.home, self.ear, answers, until)

    def call(self, submitted: float = 5.0, module: ModuleHandle = MODULE) -> CallRecord:
        request = CallRequest(
            module=module, profile=PROFILE, limits=LIMITS, export="f", results=1, slots=SLOT
        )
        record = CallRecord(request, self.ended.append, submitted, lambda *_: None)
        assert self.loan.send(record)
        assert self.worker.recv(SMALL)
        return record

    def returned(self, record: CallRecord, slots: bytes = SLOT) -> bytes:
        return encode(Returned(record.number, slots, Usage()))

    def wakes_the_trio_thread(self) -> bool:
        poll = select.poll()
        poll.register(self.ear, select.POLLIN)
        return bool(poll.poll(0))

    def left(self) -> bytes:
        try:
            return self.talk.recv(1 << 16)
        except BlockingIOError:
            return b""


@pytest.fixture
def lent() -> Iterator[Lent]:
    lent = Lent()
    yield lent
    lent.ear.close()
    lent.talk.close()
    lent.worker.close()


def test_an_answer_ends_the_call_and_the_loan_is_free_again(lent: Lent) -> None:
    record: CallRecord | None = None
    for number in range(1, 4):
        record = lent.call()
        assert not lent.loan.send(record), "one at a time"
        lent.worker.send(lent.returned(record))
        outcome = lent.loan.listen(record, LONG)
        assert outcome is not None
        assert (outcome.slots, outcome.receipt.worker, outcome.receipt.attempts) == (SLOT, 7, 1)
        assert not lent.home
        lent.loan.free()
        assert lent.home.pop() is lent.loan
        assert lent.loan.answered == number
        assert not lent.left()
    assert lent.loan.end() == (None, None)
    assert record is not None
    assert not lent.loan.send(record)


def test_the_trio_thread_is_not_woken_from_the_first_that_listens_to_the_last(lent: Lent) -> None:
    record = lent.call()
    lent.worker.send(lent.returned(record))
    assert lent.wakes_the_trio_thread(), "nobody listens yet"
    for _ in range(3):
        assert lent.loan.listen(record, LONG) is not None
        lent.loan.free()
        record = lent.call()
        lent.worker.send(lent.returned(record))
        assert not lent.wakes_the_trio_thread()
    lent.loan.leave(record)
    assert lent.wakes_the_trio_thread()
    assert lent.loan.end() == (record, None)


def test_the_trio_thread_hears_again_once_the_loan_has_ended(lent: Lent) -> None:
    record = lent.call()
    lent.worker.send(lent.returned(record))
    assert lent.loan.listen(record, LONG) is not None
    lent.loan.free()
    lent.worker.send(b"something, unasked")
    assert not lent.wakes_the_trio_thread()
    lent.loan.end()
    assert lent.wakes_the_trio_thread()


def test_who_leaves_a_call_that_is_over_or_another_s_changes_nothing(lent: Lent) -> None:
    record = lent.call()
    lent.worker.send(lent.returned(record))
    assert lent.loan.listen(record, LONG) is not None
    lent.loan.free()
    other = lent.call()
    lent.loan.leave(record)
    lent.worker.send(lent.returned(other))
    assert not lent.wakes_the_trio_thread()
    lent.loan.end()
    lent.loan.leave(other)


def test_a_loan_is_left_alone_while_calls_go_by_it(lent: Lent) -> None:
    assert not lent.loan.going_on, "nothing was sent"
    record = lent.call()
    assert lent.loan.fresh
    assert not lent.loan.going_on, "nothing was answered"
    lent.worker.send(lent.returned(record))
    assert lent.loan.listen(record, LONG) is not None
    lent.loan.free()
    assert lent.loan.going_on
    assert not lent.loan.going_on, "nothing since"
    lent.call()
    until(lambda: not lent.loan.fresh)
    assert not lent.loan.going_on


def test_a_worker_that_dies_wakes_the_trio_thread_even_so(lent: Lent) -> None:
    record = lent.call()
    lent.ear.shut()
    lent.worker.close()
    assert lent.wakes_the_trio_thread()
    assert lent.loan.listen(record, LONG) is None


FORGED = {
    "nothing": b"",
    "a failure": encode(Failed(1, Failure("trap", "unreachable"), Usage())),
    "output before it": encode(Output(1, 1, b"x"), Returned(1, SLOT, Usage())),
    "two answers": encode(Returned(1, SLOT, Usage()), Returned(2, SLOT, Usage())),
    "two frames": encode(Returned(1, SLOT, Usage())) * 2,
    "half a frame": encode(Returned(1, SLOT, Usage()))[:-1],
    "another call's": encode(Returned(2, SLOT, Usage())),
    "a result of another size": encode(Returned(1, SLOT * 2, Usage())),
    "an exit code": encode(Returned(1, SLOT, Usage(), None, 0)),
    "a buffer": encode(Returned(1, SLOT, Usage(), b"x")),
    "a large answer": encode(Returned(1, bytes(SMALL), Usage())),
    "no message": frame(b"\x90"),
    "no MessagePack": frame(b"\xc1"),
    "a frame without end": b"\xff" * 64,
}


@pytest.mark.parametrize("said", FORGED.values(), ids=FORGED.keys())
def test_what_is_no_plain_answer_is_left_as_it_is(lent: Lent, said: bytes) -> None:
    record = lent.call()
    assert record.number == 1
    lent.worker.send(said)
    assert lent.loan.listen(record, 0.01) is None
    assert lent.wakes_the_trio_thread() == bool(said)
    assert lent.loan.end() == (record, None)
    assert record.attempts == 0
    assert lent.left() == said


@given(said=st.binary(min_size=1, max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_bytes_are_left_as_they_are(said: bytes) -> None:
    lent = Lent()
    try:
        record = lent.call()
        lent.worker.send(said)
        assert lent.loan.listen(record, LONG) is None
        assert lent.left() == said
    finally:
        lent.ear.close()
        lent.talk.close()
        lent.worker.close()


def test_only_so_many_answers_are_read_this_way(lent: Lent) -> None:
    lent.loan = lent.lend(answers=1)
    for expected in (True, False):
        record = lent.call()
        lent.worker.send(lent.returned(record))
        assert (lent.loan.listen(record, LONG) is not None) is expected
        lent.loan.free() if expected else None
    assert lent.left(), "the last is for the trio thread"


def test_what_was_sent_when_its_worker_is_too_old_is_for_the_trio_thread(lent: Lent) -> None:
    lent.loan = lent.lend(until=7.0)
    for submitted in (6.9, 7.0):
        record = lent.call(submitted)
        lent.worker.send(lent.returned(record))
        assert (lent.loan.listen(record, LONG) is not None) is (submitted < 7.0)
        lent.loan.free()
    assert lent.wakes_the_trio_thread()
    assert lent.left()


def test_what_was_taken_and_not_told_ends_with_the_same_outcome(lent: Lent) -> None:
    record = lent.call()
    lent.worker.send(lent.returned(record))
    outcome = lent.loan.listen(record, LONG)
    assert outcome is not None
    assert lent.loan.end() == (record, outcome)
    assert lent.loan.answered == 1
    lent.loan.free()
    assert not lent.home, "it has ended"


def test_who_listens_looks_up_when_the_call_is_taken_over(lent: Lent) -> None:
    record = lent.call()
    heard: list[Outcome | None] = []
    thread = threading.Thread(target=lambda: heard.append(lent.loan.listen(record, LONG)))
    thread.start()
    until(lambda: lent.loan._listening)
    assert lent.loan.listen(record, LONG) is None, "one at a time"
    assert lent.loan.end()[0] is record
    thread.join(LONG)
    assert heard == [None]
    lent.worker.send(b"x")
    assert lent.wakes_the_trio_thread()
    assert lent.left() == b"x"


def test_who_listened_touches_no_descriptor_once_they_may_be_somebody_elses(lent: Lent) -> None:
    record = lent.call()
    thread = threading.Thread(target=lent.loan.listen, args=(record, LONG))
    thread.start()
    until(lambda: lent.loan._listening)
    with lent.loan._lock:  # the thread that listens comes no further
        lent.ear.nudge()
        lent.loan._open = False
        number = lent.ear._nudge
        reading, writing = os.pipe()
        os.write(writing, b"somebody's data")
        os.dup2(reading, number)
    thread.join(LONG)
    assert os.read(number, 64) == b"somebody's data"
    os.close(reading)
    os.close(writing)


def test_an_ear_without_descriptors_leaves_none(
    lent: Lent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, os.strerror(24))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "eventfd", refuse)
    with pytest.raises(OSError, match="24"):
        Ear(lent.talk)
    assert len(os.listdir("/proc/self/fd")) == len(before)
