"""What the supervisor makes of a worker's listener, and of what is none."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from leftovers import nothing_left

from wasm_sandbox.protocol.syscalls import NUMBERS
from wasm_sandbox.supervisor.certificates import Verdict
from wasm_sandbox.supervisor.denials import watch
from wasm_sandbox.worker.jail import no_new_privs, seccomp

filtered = pytest.mark.skipif(
    os.uname().machine not in NUMBERS, reason="no filter is known for this machine"
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end of the channel for descriptors, and the worker's."""
    with nothing_left():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs:
            yield ours, theirs


def watched(passing: socket.socket, kill: Callable[[], object] = lambda: None) -> list[Verdict]:
    """The verdicts of a watch that is over."""
    verdicts: list[Verdict] = []

    def take(verdict: Verdict) -> None:
        verdicts.append(verdict)
        kill()

    async def main() -> None:
        with trio.fail_after(60):
            await watch(passing, take)

    trio.run(main)
    return verdicts


class Jailed:
    """A child that does some work under the filter; ``said`` is what it wrote after that."""

    def __init__(
        self, ends: tuple[socket.socket, socket.socket], work: Callable[[], object]
    ) -> None:
        ours, theirs = ends
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            self._live(theirs, work, write)
        os.close(write)
        theirs.close()

    @staticmethod
    def _live(passing: socket.socket, work: Callable[[], object], write: int) -> NoReturn:
        def hand_over(listener: int) -> None:
            socket.send_fds(passing, [b"+"], [listener])

        try:
            no_new_privs.apply()
            seccomp.apply(work="run", hand_over=hand_over)
            work()
            os.write(write, b"went on")
        finally:
            os._exit(0)

    def kill(self) -> None:
        """End it as the supervisor does."""
        os.kill(self.pid, 9)

    def end(self) -> bytes:
        """What it wrote; it is reaped."""
        with open(self._read, "rb") as said:
            answer = said.read()
        os.waitpid(self.pid, 0)
        return answer


@filtered
def test_a_denied_call_ends_the_worker_before_it_can_go_on(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    child = Jailed(ends, os.getpgrp)
    name = "getpgrp" if "getpgrp" in NUMBERS[os.uname().machine] else "getpgid"
    assert watched(ends[0], child.kill) == [Verdict("syscall_denied", "jail", name)]
    assert child.end() == b""


@filtered
def test_a_worker_that_ends_by_itself_is_left_alone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    child = Jailed(ends, os.getpid)
    assert watched(ends[0]) == []
    assert child.end() == b"went on"


@filtered
def test_without_a_supervisor_no_denied_call_is_made(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """The end of the listener lets the thread go on, with an error."""

    def work() -> None:
        with pytest.raises(OSError, match="not implemented"):
            os.mkdir(tmp_path / "made")

    child = Jailed(ends, work)
    ends[0].close()
    assert child.end() == b"went on"
    assert not (tmp_path / "made").exists()


def test_a_worker_that_ends_before_it_is_jailed_is_left_alone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    theirs.close()
    assert watched(ours) == []


def test_a_table_without_room_for_a_listener_is_no_fault_of_the_worker(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    socket.send_fds(theirs, [b"+"], [theirs.fileno()])
    verdicts: list[Verdict] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            await watch(ours, verdicts.append)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    trio.run(main)
    assert [verdict.cause for verdict in verdicts] == ["start_failed"]
    assert os.strerror(errno.EMFILE) in verdicts[0].evidence


@pytest.mark.parametrize("what", ["a pipe", "nothing", "two things"])
def test_what_is_no_listener_breaks_the_protocol(
    ends: tuple[socket.socket, socket.socket], what: str
) -> None:
    ours, theirs = ends
    pipe = os.pipe()
    given = {"a pipe": pipe[:1], "nothing": (), "two things": pipe}[what]
    socket.send_fds(theirs, [b"+"], given)
    (verdict,) = watched(ours)
    assert (verdict.cause, verdict.wall) == ("protocol_violation", "protocol")
    for end in pipe:
        os.close(end)


def test_nothing_else_can_be_sent_once_something_was(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    with open(os.devnull) as null:
        socket.send_fds(theirs, [b"+"], [null.fileno()])
        watched(ours)
        with pytest.raises(BrokenPipeError):
            socket.send_fds(theirs, [b"+"], [null.fileno()])
