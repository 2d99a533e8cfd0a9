"""Clocks that are not the machine's: what a guest reads, and how long it waits."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_support import LIMITS, bench, number
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from file_guest import FileGuest, source, writable

from wasm_sandbox.worker.engines.clocks import (
    EVENT_SIZE,
    MAX_SUBSCRIPTIONS,
    MONOTONIC,
    REALTIME,
    SUBSCRIPTION_SIZE,
    GuestClock,
)
from wasm_sandbox.worker.engines.interface import (
    FileLimits,
    GuestTrap,
    RunSettings,
    SessionLimits,
    Wasi,
)
from wasm_sandbox.worker.engines.module import Module

FORCED = "forced by a test"
SECOND = 10**9
CLOCK, READ, WRITE = 0, 1, 2
ABSOLUTE = 1
ASKED, ANSWERS, COUNT, TIME = 1024, 40_000, 8, 16
OK, EFAULT, EINVAL = 0, 21, 28


class Waited(threading.Event):
    """Notes how long it was to be waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return False


def at(clock: int, timeout: int, flags: int = 0, userdata: int = 7) -> bytes:
    """A subscription to a clock."""
    return struct.pack("<QB7xIxxxxQQH6x", userdata, CLOCK, clock, timeout, 0, flags)


def on(kind: int, fd: int = 0, userdata: int = 8) -> bytes:
    """A subscription to a descriptor."""
    return struct.pack("<QB7xI28x", userdata, kind, fd)


def event(kind: int = CLOCK, userdata: int = 7) -> tuple[int, int, int]:
    return userdata, 0, kind


def events(data: bytes) -> list[tuple[int, int, int]]:
    """(userdata, error, kind) of each."""
    places = range(0, len(data), EVENT_SIZE)
    return [struct.unpack_from("<QHB", data, place) for place in places]


def test_the_layouts_are_those_of_wasi() -> None:
    assert len(at(0, 0)) == len(on(READ)) == SUBSCRIPTION_SIZE == 48
    assert EVENT_SIZE == 32


# --- the clock itself ----------------------------------------------------------------------------


def test_a_frozen_clock_never_moves() -> None:
    ticks = iter(range(100, 200))
    clock = GuestClock("frozen", 1.5, threading.Event(), lambda: next(ticks))
    assert [clock.now(which) for which in range(5)] == [3 * SECOND // 2] * 4 + [None]


def test_without_a_date_time_passes_all_the_same() -> None:
    ticks = iter([5 * SECOND, 6 * SECOND, 8 * SECOND])
    clock = GuestClock("monotonic_only", 0.0, threading.Event(), lambda: next(ticks))
    assert [clock.now(REALTIME), clock.now(MONOTONIC)] == [0, SECOND]
    assert [clock.now(REALTIME), clock.now(MONOTONIC)] == [0, 3 * SECOND]
    assert [clock.now(which) for which in (2, 3, 4, 1 << 31)] == [None] * 4


@pytest.mark.parametrize(
    ("subscriptions", "seconds", "came"),
    [
        (at(MONOTONIC, 2 * SECOND), 2, [event()]),
        (at(REALTIME, 2 * SECOND), 2, [event()]),
        (at(REALTIME, 102 * SECOND, ABSOLUTE), 2, [event()]),
        (at(MONOTONIC, 102 * SECOND, ABSOLUTE), 2, [event()]),
        (at(REALTIME, 3 * SECOND, ABSOLUTE), 0, [event()]),
        (at(0, 5, userdata=1) + at(0, 3, userdata=2), 3e-9, [event(userdata=2)]),
        (at(0, 5, userdata=1) + at(1, 5), 5e-9, [event(userdata=1), event()]),
        (at(0, (1 << 64) - 1), threading.TIMEOUT_MAX, [event()]),
    ],
)
def test_a_wait_is_as_long_as_the_guests_own_clock_says(
    subscriptions: bytes, seconds: float, came: list[tuple[int, int, int]]
) -> None:
    waited = Waited()
    clock = GuestClock("frozen", 100.0, waited, lambda: 0)
    found = clock.wait(subscriptions)
    assert found is not None
    assert events(found) == came
    assert waited.seconds == [min(seconds, threading.TIMEOUT_MAX)]


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_descriptors_are_ready_at_once(kind: int) -> None:
    waited = Waited()
    clock = GuestClock("frozen", 0.0, waited, lambda: 0)
    found = clock.wait(at(0, SECOND) + on(kind))
    assert found is not None
    assert events(found) == [event(kind, userdata=8)]
    assert waited.seconds == []


@pytest.mark.parametrize("wrong", [at(4, 0), at(0xFFFFFFFF, 0), on(3), on(255)])
def test_what_there_is_not_cannot_be_waited_for(wrong: bytes) -> None:
    waited = Waited()
    clock = GuestClock("frozen", 0.0, waited, lambda: 0)
    assert clock.wait(at(0, SECOND) + wrong) is None
    assert waited.seconds == []


# --- in the engine -------------------------------------------------------------------------------


@pytest.fixture(params=["raw", "public"])
def fault(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "raw" else FORCED


def guest(kind: str, fault: str, moment: float = 0.0) -> FileGuest:
    stage = bench(RunSettings(clock=(kind, moment)), fault)
    module = stage.load(source())
    assert isinstance(module, Module)
    return FileGuest(module.open(LIMITS, module.caps(LIMITS), Wasi()))


@pytest.fixture
def dateless(fault: str) -> Iterator[FileGuest]:
    with guest("monotonic_only", fault) as it:
        yield it


def read(it: FileGuest, clock: int) -> tuple[int, int]:
    error = it.call("clock_time_get", clock, 0, TIME)
    return error, int.from_bytes(it.memory[TIME : TIME + 8], "little")


def poll(it: FileGuest, *subscriptions: bytes) -> tuple[int, list[tuple[int, int, int]]]:
    data = b"".join(subscriptions)
    it.memory[ASKED : ASKED + len(data)] = data
    error = it.call("poll_oneoff", ASKED, ANSWERS, len(subscriptions), COUNT)
    size = EVENT_SIZE * int.from_bytes(it.memory[COUNT : COUNT + 4], "little")
    return error, events(bytes(it.memory[ANSWERS : ANSWERS + size]))


def test_a_guest_without_a_date_sees_time_pass(dateless: FileGuest) -> None:
    assert read(dateless, REALTIME) == (OK, 0)
    error, first = read(dateless, MONOTONIC)
    assert error == OK
    assert poll(dateless, at(MONOTONIC, SECOND // 100)) == (OK, [event()])
    assert read(dateless, MONOTONIC)[1] >= first + SECOND // 100
    assert read(dateless, REALTIME) == (OK, 0)
    assert read(dateless, 2)[0] == EINVAL


def test_a_date_is_not_found_out_by_waiting_for_it(fault: str) -> None:
    """A time that is long past by the machine's clock is not past for the guest."""
    with guest("frozen", fault, 5.0) as it:
        assert poll(it, at(REALTIME, 5 * SECOND + SECOND // 100, ABSOLUTE)) == (OK, [event()])
        assert poll(it, at(REALTIME, 5 * SECOND, ABSOLUTE)) == (OK, [event()])
        assert read(it, REALTIME) == (OK, 5 * SECOND)


def test_a_wait_ends_when_the_call_is_stopped(fault: str) -> None:
    """Without a kill: it would take an hour."""
    stage = bench(RunSettings(clock=("frozen", 0.0)), fault)
    module = stage.load(
        """(module (import "wasi_snapshot_preview1" "poll_oneoff"
          (func $poll (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 1)
          (func (export "wait") (loop $again
            (i64.store (i32.const 24) (i64.const 3600000000000))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (br $again))))"""
    )
    timer = threading.Timer(0.05, stage.engine.interrupt)
    timer.start()
    try:
        with pytest.raises(GuestTrap) as caught:
            module.call("wait", b"", LIMITS)
    finally:
        timer.join()
        stage.engine.arm()
    assert caught.value.code == "interrupt"


def test_what_does_not_fit_is_an_error_for_the_guest(dateless: FileGuest) -> None:
    end = len(dateless.memory)

    def poll_at(asked: int, answers: int, count: int, answered: int) -> int:
        return dateless.call("poll_oneoff", asked, answers, count, answered)

    assert poll_at(ASKED, ANSWERS, 0, COUNT) == EINVAL
    assert poll_at(ASKED, ANSWERS, MAX_SUBSCRIPTIONS + 1, COUNT) == EINVAL
    assert poll_at(ASKED, ANSWERS, 0xFFFFFFFF, COUNT) == EINVAL
    assert poll_at(end - SUBSCRIPTION_SIZE + 1, ANSWERS, 1, COUNT) == EFAULT
    assert poll_at(ASKED, end - EVENT_SIZE + 1, 1, COUNT) == EFAULT
    assert poll_at(ASKED, ANSWERS, 1, end - 3) == EFAULT
    assert dateless.call("clock_time_get", 0, 0, end - 7) == EFAULT


def test_clock_and_random_numbers_hold_where_directories_are_granted(
    fault: str, tmp_path: Path
) -> None:
    """Guests get all of WASI from the gate then."""
    settings = RunSettings(clock=("frozen", 3.0), random=("none", 0))
    stage = bench(settings, fault, guarded=True)
    with FileGuest.open_in(stage, writable(tmp_path), limits=FileLimits()) as it:
        assert read(it, REALTIME) == (OK, 3 * SECOND)
        assert it.call("random_get", 0, 8) == 58  # ENOTSUP


NUMBERS = """(module
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "now") (result i64)
    (drop (call $time (i32.const 0) (i64.const 0) (i32.const 8))) (i64.load (i32.const 8)))
  (func (export "draw") (result i64)
    (drop (call $random (i32.const 8) (i32.const 8))) (i64.load (i32.const 8))))"""


@pytest.mark.parametrize("granted", [False, True])
def test_a_session_has_the_same_clock_and_goes_on_with_its_random_numbers(
    tmp_path: Path, granted: bool
) -> None:
    settings = RunSettings(clock=("frozen", 3.0), random=("seeded", 7), stateful=True)
    stage = bench(settings, guarded=True)
    module = stage.load(NUMBERS, prepare=False)
    wasi = Wasi(directories=[writable(tmp_path)] if granted else [])
    session = stage.engine.session(SessionLimits(memory=1 << 26, table_elements=1000), wasi)
    instance = session.instantiate(module, None)
    drawn = [session.invoke(instance, "draw", b"").slots[:8] for _ in range(3)]
    assert number(session.invoke(instance, "now", b"").slots, 0, 8) == 3 * SECOND
    session.close()
    stream = random.Random(7)
    assert drawn == [stream.randbytes(8) for _ in range(3)]


def test_a_reactor_has_the_same_clock_and_the_same_numbers_in_each_call(fault: str) -> None:
    stage = bench(RunSettings(clock=("frozen", 3.0), random=("seeded", 7)), fault)
    module = stage.load(NUMBERS)
    assert number(module.call("now", b"", LIMITS, Wasi()).slots, 0, 8) == 3 * SECOND
    for _ in range(2):
        drawn = module.call("draw", b"", LIMITS, Wasi()).slots[:8]
        assert drawn == random.Random(7).randbytes(8)
