"""The fuzz campaigns run, name what they promise, and find what breaks it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import wasm_sandbox
from wasm_sandbox.fuzz import conversation, frames, pool
from wasm_sandbox.fuzz.__main__ import TARGETS, attack, main
from wasm_sandbox.fuzz.conversation import Due, Order, Said, Step
from wasm_sandbox.fuzz.harness import Harness
from wasm_sandbox.fuzz.plays import Act
from wasm_sandbox.protocol import arena
from wasm_sandbox.protocol.conversation import Conversation
from wasm_sandbox.protocol.errors import ProtocolError
from wasm_sandbox.protocol.framing import FrameReader
from wasm_sandbox.protocol.host_calls import ImportCall, MemoryAnswer, decode_import
from wasm_sandbox.protocol.host_calls import encode as encode_call
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.messages import (
    PROTOCOL_VERSION,
    HostCall,
    Loaded,
    Output,
    Pull,
    Push,
    Ready,
    Returned,
    encode,
)
from wasm_sandbox.supervisor import burial, calls
from wasm_sandbox.supervisor.calls import CallRecord
from wasm_sandbox.supervisor.dispatcher import Dispatcher
from wasm_sandbox.supervisor.host_calls import HostCalls
from wasm_sandbox.supervisor.imports import HostImport
from wasm_sandbox.supervisor.listener import Listener
from wasm_sandbox.supervisor.office import Office
from wasm_sandbox.supervisor.reach import Reach
from wasm_sandbox.supervisor.seats import Seat, Seats


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_keeps_its_invariant(name: str) -> None:
    assert attack(TARGETS[name], 0.5) > 0


@pytest.mark.parametrize("name", TARGETS)
def test_every_invariant_is_one_sentence(name: str) -> None:
    invariant = TARGETS[name].invariant
    assert invariant.endswith(".")
    assert invariant.count(". ") == 0


def test_the_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert [line.partition(":")[0] for line in listed.splitlines()] == list(TARGETS)


def test_an_unknown_target_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2
    assert "nothing" in capsys.readouterr().err


def test_it_runs_as_a_program_and_leaves_nothing_where_it_ran(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(wasm_sandbox.__path__[0]).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "wasm_sandbox.fuzz", "frames", "--seconds", "0.1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("frames: ")
    assert not list(tmp_path.iterdir())


# --- what breaks an invariant is found ------------------------------------------------------------


def test_whatever_is_no_protocol_error_breaks_the_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def returned(self: CallRecord, message: Returned, now: float) -> object:
        raise KeyError(message.call)

    monkeypatch.setattr(CallRecord, "returned", returned)
    with pytest.raises(KeyError):
        conversation.check([Due("ready"), Order("call"), Due("answer")])


def _pull_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pull = Listener._pull

    def forgetful(self: Listener, message: Pull) -> None:
        pull(self, message)
        self._records[message.call].pulled.clear()

    monkeypatch.setattr(Listener, "_pull", forgetful)


def _push_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(self: Listener, message: Push) -> None:
        bytes(self._worker.wires.view[message.length])

    monkeypatch.setattr(Listener, "_push", trusting)


def _keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STREAM_SLACK", 1 << 40)


def _keep_the_recalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conversation, "take_back", lambda self, message: list(self.calls))


def _bury_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burial, "settle_calls", lambda *_: [])


def _call_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(
        self: HostCalls, message: HostCall, record: CallRecord, data: bytes
    ) -> tuple[HostImport, bytes]:
        asked = decode_import(message.arguments)
        function = self._lent_to(record, asked.number)
        assert function is not None, "a function of another's"
        return function, asked.slots

    monkeypatch.setattr(HostCalls, "_import", trusting)


def _believe_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(self: Reach, answer: MemoryAnswer, data: bytes) -> None:
        asked, self._sent = self._sent, None
        assert asked is not None
        asked.found.set_result((answer, data))
        self._next()

    monkeypatch.setattr(Reach, "answered", trusting)


_SLOTS = b"".join(number.to_bytes(16, "little") for number in (8, 5))

BUGS: dict[Callable[[pytest.MonkeyPatch], None], list[Step]] = {
    _pull_twice: [Order("large"), *[Due("data", 2)] * 12],
    _push_anything: [Order("buffer"), Said(Push(0, 0, 1 << 20))],
    _keep_everything: [Order("command"), Said(Output(0, 1, bytes(100_000)))],
    _keep_the_recalled: [Order("call"), Order("call"), Order("recall"), Due("reply")],
    _bury_nobody: [Order("call")],
    _call_anything: [
        Order("load"),
        Said(HostCall(0, "import", encode_call(ImportCall(1, _SLOTS)), b"four")),
        *[Order("call")] * 2,
    ],
    _believe_what_was_read: [
        *(Order("load"), Due("answer"), Order("load"), Due("answer")),
        *(Order("load"), Due("import"), Order("recall"), Order("recall")),
        Said(HostCall(0, "memory", encode_call(MemoryAnswer(64)), b"four")),
        *[Order("recall")] * 4,
    ],
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_what_follows_a_worker_is_found(
    monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    script: list[Step] = [Due("ready"), *BUGS[bug]]
    conversation.check(script)
    bug(monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        conversation.check(script)


def _one_by_one(self: FrameReader, data: bytes) -> Iterator[bytes]:
    try:
        yield from _feed(self, data)
    except ProtocolError as error:
        raise ValueError("another error") from error


def _all_or_nothing(self: FrameReader, data: bytes) -> Iterator[bytes]:
    return iter(list(_feed(self, data)))


def _recovers(self: FrameReader, data: bytes) -> Iterator[bytes]:
    self._broken = None
    return _feed(self, data)


_feed = FrameReader.feed
_BROKEN_BEHIND = [encode(Loaded(1)) + bytes(4)]


@pytest.mark.parametrize("feed", [_one_by_one, _all_or_nothing, _recovers])
def test_a_reader_that_errs_about_a_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, feed: Callable[[FrameReader, bytes], Iterator[bytes]]
) -> None:
    frames.check(_BROKEN_BEHIND)
    monkeypatch.setattr(FrameReader, "feed", feed)
    with pytest.raises((AssertionError, ValueError)):
        frames.check(_BROKEN_BEHIND)


def test_a_broken_invariant_is_told_with_its_smallest_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FrameReader, "feed", _one_by_one)
    broken = {"frames": TARGETS["frames"]}
    monkeypatch.setattr("wasm_sandbox.fuzz.__main__.TARGETS", broken)
    assert main(["--seconds", "1"]) == 1
    assert "BROKEN" in capsys.readouterr().out


DEATHS = pool.Life(
    liars=((Act("hear"), Act("die", 9)),),
    deeds=(pool.Submit("call"), pool.Submit("slow"), pool.Pause(60), pool.Kill()),
)


def _lose_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "give_back", lambda *_: None)


def _lose_seats(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Seats.keep

    async def once(self: Seats, seat: Seat, office: Office) -> None:
        with trio.move_on_after(0.01):
            await keep(self, seat, office)

    monkeypatch.setattr(Seats, "keep", once)


def _begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "read_begun", lambda _: (0, 0))


@pytest.mark.parametrize("bug", [_lose_calls, _lose_seats, _begin_again])
def test_a_bug_in_a_pool_is_found(
    monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    pool.check(DEATHS)
    bug(monkeypatch)
    with pytest.raises((AssertionError, trio.TooSlowError)):
        pool.check(DEATHS)


# --- what it found --------------------------------------------------------------------------------


def test_what_is_due_at_a_moment_is_done_at_that_very_moment() -> None:
    """Otherwise the watch rings again and again, until its clock has moved by one more bit."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            harness = Harness(nursery)
            harness.hear(encode(Ready(PROTOCOL_VERSION, "engine", True, ())))
            harness.order("call")
            watch, record = harness.worker.watch, harness.worker.head
            assert record is not None
            record.request.limits = Limits(wall_time=60.0, cpu_time=1e6, idle_time=1e6)
            for tenths in range(1000):
                watch.new_head(tenths / 10)
                assert watch._exceeded(record, watch._next()) is not None
        await harness.end()

    trio.run(main)
