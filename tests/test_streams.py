"""Commands whose standard streams are read and written while they run: ``pool.start``."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import guest_commands
import pytest
from leftovers import descriptors, nothing_left

from wasm_sandbox import (
    ConfigurationError,
    DeadlineExceeded,
    GuestExit,
    IdleTimeExceeded,
    Limits,
    Module,
    OutputLimitExceeded,
    Pool,
    PoolError,
    Trap,
    WorkerLost,
)
from wasm_sandbox.pipes import PIECE

pytestmark = pytest.mark.usefixtures("patience")

EPIPE = 64
"""As a guest knows it (witx, "errno")."""
MIB = 1 << 20
LARGE = Limits(output=1 << 30, wall_time=60)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """A pool of one worker, so that a guest that stays is noticed."""
    with nothing_left(), Pool(1) as made:
        yield made


@pytest.fixture(scope="module")
def cat(pool: Pool) -> Module:
    """A command that copies its input to its output."""
    return pool.load(guest_commands.copies_stdin().encode())


@pytest.fixture(scope="module")
def floods(pool: Pool) -> Module:
    """A command that writes until it is refused, and exits with the errno."""
    return pool.load(guest_commands.floods().encode())


def works(pool: Pool, cat: Module) -> bool:
    return pool.run(cat, stdin=b"alive").stdout == b"alive"


def test_a_guest_answers_while_it_runs(pool: Pool, cat: Module) -> None:
    with pool.start(cat) as process:
        assert process.stdin is not None
        for text in (b"one", b"two"):
            process.stdin.write(text)
            assert process.stdout.read(timeout=30) == text
        assert process.running
        process.stdin.close()
        assert list(process.stdout) == list(process.stderr) == []
        completed = process.wait()
        assert completed.exit_code == 0
        assert completed.stdout == b""
        assert completed.receipt.bytes_out == len(b"onetwo")
        assert not process.running


def _function(content: bytes) -> Callable[[], bytes]:
    return io.BytesIO(content).read1


@pytest.mark.parametrize(
    "given",
    [
        bytes,
        bytearray,
        memoryview,
        lambda content: [content[:5], b"", content[5:]],
        lambda content: (content[at : at + 1000] for at in range(0, len(content), 1000)),
        _function,
        io.BytesIO,
        lambda content: io.BufferedReader(io.BytesIO(content)),
    ],
)
def test_input_may_be_anything_that_gives_bytes(
    pool: Pool, cat: Module, given: Callable[[bytes], Any]
) -> None:
    content = os.urandom(3 * PIECE + 1)
    with pool.start(cat, stdin=given(content)) as process:
        assert process.stdin is None
        assert b"".join(process.stdout) == content
    assert pool.run(cat, stdin=given(content)).stdout == content


def test_input_may_be_a_file_and_is_read_from_its_position(
    pool: Pool, cat: Module, tmp_path: Path
) -> None:
    path = tmp_path / "input"
    path.write_bytes(bytes(10) + b"content")
    with path.open("rb") as file:
        file.seek(10)
        with pool.start(cat, stdin=file) as process:
            assert b"".join(process.stdout) == b"content"
    packed = tmp_path / "input.gz"
    packed.write_bytes(gzip.compress(b"content"))
    with gzip.open(packed) as file:
        assert pool.run(cat, stdin=lambda: file.read(3)).stdout == b"content"


def test_more_than_memory_passes_through(pool: Pool, cat: Module) -> None:
    """Forty times what may be under way, of which nothing is kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    piece, size = bytes(MIB), 0
    with pool.start(cat, stdin=itertools.repeat(piece, 40), limits=LARGE) as process:
        for chunk in process.stdout:
            assert len(chunk) <= PIECE
            size += len(chunk)
        assert process.wait().receipt.bytes_out == 40 * MIB
    assert size == 40 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_a_guest_whose_output_nobody_reads_waits(pool: Pool, floods: Module) -> None:
    """Neither is more of it kept than a pipe holds, nor is that idleness."""
    limits = Limits(output=1 << 30, idle_time=0.05, wall_time=0.5)
    with pool.start(floods, limits=limits) as process:
        with pytest.raises(DeadlineExceeded) as caught:
            process.wait()
        # It goes to the pipe in whole pieces, and the one that the guest waits with counts.
        assert caught.value.receipt.bytes_out in (PIECE, 2 * PIECE)  # type: ignore[union-attr]
        (worker,) = pool.workers()
    assert pool.workers()[0].number == worker.number


def test_a_guest_that_waits_for_input_is_not_idle_but_its_time_ends(
    pool: Pool, cat: Module
) -> None:
    with (
        pool.start(cat, limits=Limits(idle_time=0.05, wall_time=0.5)) as process,
        pytest.raises(DeadlineExceeded),
    ):
        process.stdout.read()
    assert works(pool, cat)


def test_a_guest_that_sleeps_with_input_to_read_is_idle(pool: Pool) -> None:
    sleeps = pool.load(guest_commands.sleeps().encode())
    endless = itertools.repeat(bytes(PIECE))
    with (
        pool.start(sleeps, stdin=endless, limits=Limits(idle_time=0.1)) as process,
        pytest.raises(IdleTimeExceeded),
    ):
        process.wait()


@pytest.mark.parametrize("reads", [0, 1])
def test_a_reader_that_goes_away_is_a_broken_pipe_to_the_guest(
    pool: Pool, floods: Module, reads: int
) -> None:
    with pool.start(floods) as process:
        for _ in range(reads):
            assert process.stdout.read()
        process.stdout.close()
        assert process.wait().exit_code == EPIPE
        with pytest.raises(ValueError, match="closed"):
            process.stdout.read()


@pytest.mark.parametrize("size", [1, 10 * PIECE])
def test_a_guest_that_exits_early_is_a_broken_pipe_to_the_writer(pool: Pool, size: int) -> None:
    exits = pool.load(guest_commands.exits(3).encode())
    with pool.start(exits) as process:
        assert process.stdin is not None
        assert process.wait().exit_code == 3
        with pytest.raises(BrokenPipeError, match="ended"):
            process.stdin.write(bytes(size))
        with pytest.raises(GuestExit):
            process.wait(check=True)
    assert pool.run(exits, stdin=itertools.repeat(bytes(size))).exit_code == 3


def test_a_writer_that_waits_learns_of_the_guests_end(pool: Pool, cat: Module) -> None:
    with pool.start(cat, limits=Limits(wall_time=0.3)) as process:
        assert process.stdin is not None
        with pytest.raises(BrokenPipeError):
            process.stdin.write(bytes(10 * PIECE))
        with pytest.raises(DeadlineExceeded):
            process.wait()


class Mine(Exception):
    """A program's own."""


@pytest.mark.parametrize("after", [0, 1, 20])
def test_what_the_chunks_raise_ends_the_guest_and_comes_out(
    pool: Pool, cat: Module, after: int
) -> None:
    def chunks() -> Iterator[bytes]:
        yield from itertools.repeat(bytes(PIECE), after)
        raise Mine

    with pytest.raises(Mine):
        pool.run(cat, stdin=chunks())
    with pool.start(cat, stdin=chunks()) as process, pytest.raises(Mine):
        list(process.stdout)
    assert works(pool, cat)


def test_a_function_that_runs_out_is_no_end_of_the_input(pool: Pool, cat: Module) -> None:
    given = iter([b"half of it"])
    with pytest.raises(RuntimeError) as caught:
        pool.run(cat, stdin=lambda: next(given))
    assert isinstance(caught.value.__cause__, StopIteration)
    assert works(pool, cat)


async def _asynchronous() -> bytes:
    return b""


@pytest.mark.parametrize("stdin", ["text", ["text"], [7], 3.5, io.StringIO("text"), _asynchronous])
def test_input_that_gives_no_bytes_is_refused(pool: Pool, cat: Module, stdin: Any) -> None:
    with pytest.raises(ConfigurationError):
        pool.run(cat, stdin=stdin)


def test_a_trap_is_raised_after_what_was_written_before(pool: Pool) -> None:
    traps = pool.load(guest_commands.command_traps().encode())
    with pool.start(traps) as process:
        pieces = iter(process.stdout)
        assert next(pieces) == b"before the trap\n"
        with pytest.raises(Trap):
            next(pieces)
        with pytest.raises(Trap):
            process.wait()
        with pytest.raises(Trap):
            list(process.output())


def test_both_outputs_can_be_read_together(pool: Pool) -> None:
    hello = [pool.load(guest_commands.hello(descriptor=each).encode()) for each in (1, 2)]
    for number, module in enumerate(hello, 1):
        with pool.start(module) as process:
            assert list(process.output()) == [(number, b"hello\n")]
    errors = pool.load(guest_commands.floods(2).encode())
    with pool.start(errors) as process, pytest.raises(OutputLimitExceeded):
        assert {number for number, _ in process.output()} == {2}


def test_all_that_a_stream_carries_is_bounded_by_the_limit(pool: Pool, floods: Module) -> None:
    sizes: list[int] = []
    with (
        pool.start(floods, limits=Limits(output=3 * PIECE)) as process,
        pytest.raises(OutputLimitExceeded),
    ):
        sizes.extend(map(len, process.stdout))
    assert 2 * PIECE < sum(sizes) <= 3 * PIECE


@pytest.mark.parametrize("end", ["block", "cancel", "close", "drop", "raise"])
def test_the_program_ends_the_guest_early(
    pool: Pool, cat: Module, floods: Module, end: str
) -> None:
    if end == "drop":
        assert pool.start(floods).stdout.read()
    elif end == "raise":
        with pytest.raises(Mine), pool.start(cat):
            raise Mine
    else:
        with pool.start(cat, stdin=itertools.repeat(bytes(PIECE))) as process:
            assert process.stdout.read()
            if end == "cancel":
                assert process.cancel()
                with pytest.raises(CancelledError):
                    list(process.stdout)
            elif end == "close":
                process.close()
        with pytest.raises(CancelledError):
            process.wait()
    assert works(pool, cat)


def test_closing_lets_another_thread_wait_no_more(pool: Pool, cat: Module) -> None:
    with pool.start(cat) as process:
        errors: list[BaseException] = []

        def read() -> None:
            try:
                process.stdout.read()
            except (ValueError, CancelledError) as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_a_reader_may_wait_no_longer_than_it_says(pool: Pool, cat: Module) -> None:
    with pool.start(cat) as process:
        assert process.stdin is not None
        with pytest.raises(TimeoutError):
            process.stdout.read(timeout=0.01)
        with pytest.raises(TimeoutError):
            process.wait(0.01)
        with pytest.raises(TimeoutError):
            process.stdin.write(bytes(10 * PIECE), timeout=0.01)
        assert process.stdout.read() == bytes(PIECE)


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_a_reader_asks_for_something(pool: Pool, cat: Module, size: int) -> None:
    with pool.start(cat) as process:
        with pytest.raises(ConfigurationError, match=r"read\.size"):
            process.stdout.read(size)
        assert process.stdin is not None
        process.stdin.write(b"more")
        assert process.stdout.read(1 << 62) == b"more"


def test_a_worker_that_is_killed_ends_the_streams_with_its_certificate(
    pool: Pool, cat: Module
) -> None:
    with pool.start(cat, stdin=itertools.repeat(bytes(PIECE)), limits=LARGE) as process:
        assert process.stdout.read()
        (worker,) = (each for each in pool.workers() if each.phase == "busy")
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            list(process.stdout)
    assert works(pool, cat)


def test_streams_wait_their_turn_and_do_not_mix(pool: Pool, cat: Module) -> None:
    """More than there are workers: the second is begun when the first is over."""
    with pool.start(cat) as first, pool.start(cat, stdin=b"second") as second:
        assert first.stdin is not None
        first.stdin.write(b"first")
        assert first.stdout.read() == b"first"
        first.stdin.close()
        assert b"".join(first.stdout) == b""
        assert b"".join(second.stdout) == b"second"


@pytest.mark.parametrize("setting", [{"retries": 1}, {"on_output": print}, {"stdin": b"1"}])
def test_settings_that_streams_cannot_keep_are_refused(
    pool: Pool, cat: Module, setting: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        pool.start(cat.main.options(**setting))


def test_output_of_a_run_that_is_fed_is_handed_on(pool: Pool, cat: Module) -> None:
    seen: list[tuple[int, bytes]] = []
    completed = pool.run(
        cat, stdin=iter([b"one"]), on_output=lambda stream, data: seen.append((stream, data))
    )
    assert (seen, completed.stdout) == ([(1, b"one")], b"")

    def refuse(_: int, __: bytes) -> None:
        raise Mine

    with pytest.raises(Mine):
        pool.run(cat, stdin=iter([b"one"]), on_output=refuse)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_where_no_descriptor_is_left_it_says_so_and_leaves_none_open(
    pool: Pool, cat: Module, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    bells = [os.eventfd(0) for _ in range(left)]

    def eventfd(*_: object) -> int:
        if not bells:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return bells.pop()

    before = set(descriptors()) - set(bells)
    with monkeypatch.context() as patch:
        patch.setattr("wasm_sandbox.pipes.os.eventfd", eventfd)
        with pytest.raises(PoolError, match="cannot have its streams"):
            pool.start(cat)
    assert set(descriptors()) == before
    assert works(pool, cat)
