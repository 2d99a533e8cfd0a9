"""A call that finds an idle worker is sent by its caller's thread, and ends as any other."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from batch_guests import LONG, STATE, turns_in, until
from cores import wait_for_a_call
from leftovers import nothing_left

from wasm_sandbox import (
    CallFuture,
    CpuTimeExceeded,
    DeadlineExceeded,
    Limits,
    Pool,
    Recycle,
    Trap,
    WorkerLost,
    lone_calls,
)
from wasm_sandbox.supervisor import express
from wasm_sandbox.supervisor import worker as workers
from wasm_sandbox.supervisor.requests import Outcome

SHORT = Limits(wall_time=0.2)
ASKING = """
(module (import "env" "ask" (func $ask)) (func (export "run") (call $ask)))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def one_after_another(pool: Pool) -> None:
    """Calls in quick succession: the pool's thread looks for the next by itself."""
    spin = pool.load(STATE.encode())["spin"]
    for n in range(100):
        assert pool.submit(spin, n).result() == n


def after_a_pause(pool: Pool) -> None:
    """A call, and nothing for a while: the next one has to wake the pool's thread."""
    one_after_another(pool)
    time.sleep(0.1)


whenever = pytest.mark.parametrize("before", [one_after_another, after_a_pause])
Before = Callable[[Pool], None]


def begun(pool: Pool, limits: Limits | None = None) -> CallFuture:
    """A call that takes for ever."""
    spin = pool.load(STATE.encode())["spin"]
    return pool.submit(spin if limits is None else spin.options(limits=limits), LONG)


@whenever
def test_its_limits_are_kept(cache: Path, before: Before) -> None:
    with Pool(1, cache_dir=cache) as pool:
        before(pool)
        late = begun(pool, SHORT).exception(timeout=60)
        assert isinstance(late, DeadlineExceeded)
        assert late.limit == "wall_time"
        before(pool)
        late = begun(pool, Limits(cpu_time=0.1)).exception(timeout=60)
        assert isinstance(late, CpuTimeExceeded)


@whenever
def test_it_can_be_cancelled(cache: Path, before: Before) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        for _ in range(10):
            before(pool)
            future = begun(pool)
            assert future.cancel()
            until(lambda: "0 calls" in repr(pool))
        until(lambda: pool.workers()[0].phase == "idle")


@whenever
def test_it_dies_with_its_worker(cache: Path, before: Before) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        before(pool)
        (worker,) = pool.workers()
        future = begun(pool)
        assert wait_for_a_call(pool) == worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        lost = future.exception(timeout=60)
        assert isinstance(lost, WorkerLost)
        assert lost.certificate.pid == worker.pid
        before(pool)


@whenever
def test_calls_behind_it_go_elsewhere(cache: Path, before: Before) -> None:
    with Pool(2, cache_dir=cache) as pool:
        add = pool.load(STATE.encode())["div"]
        before(pool)
        until(lambda: len(pool.workers()) == 2)
        future = begun(pool)
        assert [each.result(60) for each in [pool.submit(add, n, 1) for n in range(20)]] == [
            *range(20)
        ]
        assert not future.done()
        future.cancel()


@whenever
@pytest.mark.parametrize("cancel", [True, False])
def test_a_pool_that_is_shut_down_ends_it(cache: Path, before: Before, cancel: bool) -> None:
    with nothing_left():
        pool = Pool(1, cache_dir=cache)
        turns = turns_in(pool, 0.1)
        spin = pool.load(STATE.encode())["spin"]
        before(pool)
        future = pool.submit(spin, LONG if cancel else turns)
        pool.shutdown(cancel_futures=cancel)
        assert future.cancelled() if cancel else future.result() == turns


# --- whoever waits reads the answer ---------------------------------------------------------------


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of which a thread waited for the answer, whether it read it itself."""
    found: list[bool] = []
    listen = express.Loan.listen

    def listening(self: express.Loan, *args: Any) -> Outcome | None:
        outcome = listen(self, *args)
        found.append(outcome is not None)
        return outcome

    monkeypatch.setattr(express.Loan, "listen", listening)
    return found


def until_heard(heard: list[bool], call: Callable[[], object]) -> None:
    """Call until an answer was read by this thread, which a busy machine may delay."""
    heard.clear()

    def found() -> bool:
        call()
        return any(heard)

    until(found)


def test_who_waits_reads_the_answer(cache: Path, heard: list[bool]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        until_heard(heard, lambda: spin(3))
        until_heard(heard, lambda: pool.submit(spin, 3).exception())
        future = pool.submit(spin, 3)
        assert future.result(timeout=30) == 3
        assert future.receipt.worker == pool.workers()[0].number
        assert (future.receipt.attempts, future.receipt.bytes_in) == (1, 16)
        assert future.receipt.cpu_time > 0
        assert 0 < future.receipt.wall_time < 30


def test_every_call_is_counted_however_it_was_answered(cache: Path, heard: list[bool]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        until_heard(heard, lambda: [spin(n) for n in range(100)])
        before = pool.workers()[0].calls
        for n in range(200):
            assert spin(n) == n
        assert pool.workers()[0].calls == before + 200
        assert "0 calls" in repr(pool)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_worker_serves_as_many_calls_as_it_may(cache: Path, heard: list[bool], most: int) -> None:
    with Pool(1, cache_dir=cache, recycle=Recycle(max_calls=most)) as pool:
        spin = pool.load(STATE.encode())["spin"]
        workers = [spin.detailed(n)[1].worker for n in range(20)]
    assert {workers.count(worker) for worker in workers} == {most}


def test_threads_that_wait_at_once_get_their_own_answers(cache: Path, heard: list[bool]) -> None:
    with Pool(2, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]

        def ask(thread: int) -> list[int]:
            return [spin(thread * 1000 + n) for n in range(100)]

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(ask, range(4)))
        assert answers == [[thread * 1000 + n for n in range(100)] for thread in range(4)]
        until(lambda: "0 calls" in repr(pool))
        until_heard(heard, lambda: spin(3))


def test_what_is_no_plain_answer_comes_the_usual_way(cache: Path, heard: list[bool]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        module = pool.load(STATE.encode())
        for _ in range(20):
            until_heard(heard, lambda: module["spin"](3))
            with pytest.raises(Trap):
                module["div"](1, 0)
            assert module["div"](6, 3) == 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_no_callback_ends_the_pool(
    cache: Path, heard: list[bool], error: type[BaseException]
) -> None:
    def fail(_: object) -> None:
        raise error

    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        until_heard(heard, lambda: spin(3))
        future = pool.submit(spin, 1000)
        future.add_done_callback(fail)
        until(future.done)
        assert spin(3) == 3


def test_callbacks_run_in_the_thread_of_the_pool(cache: Path, heard: list[bool]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        until_heard(heard, lambda: spin(3))
        names: list[str] = []
        for _ in range(20):
            future = pool.submit(spin, 3)
            future.add_done_callback(lambda _: names.append(threading.current_thread().name))
            assert future.result() == 3
        until(lambda: len(names) == 20)
        assert set(names) <= {"wasm-sandbox", threading.current_thread().name}


def polled(future: CallFuture) -> None:
    until(future.done)


def running(future: CallFuture) -> None:
    until(lambda: not future.running())


def waited_for(future: CallFuture) -> None:
    assert wait([future], timeout=30).done == {future}


def completed(future: CallFuture) -> None:
    assert next(as_completed([future], timeout=30)) is future


def called_back(future: CallFuture) -> None:
    over = threading.Event()
    future.add_done_callback(lambda _: over.set())
    assert over.wait(30)


def awaited(future: CallFuture) -> None:
    async def main() -> None:
        await asyncio.wait_for(asyncio.wrap_future(future), 30)

    asyncio.run(main())


def asked_at_once(future: CallFuture) -> None:
    with suppress(TimeoutError):
        future.result(timeout=0)
    until(lambda: future._state == "FINISHED")


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's thread never looks by itself."""
    monkeypatch.setattr(lone_calls, "PULSE", 3600.0)
    monkeypatch.setattr(lone_calls, "SLOW_PULSE", 3600.0)


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize(
    "how", [polled, running, waited_for, completed, called_back, awaited, asked_at_once]
)
def test_the_pool_s_thread_hears_of_calls_for_which_nobody_listens(
    cache: Path,
    heard: list[bool],
    how: Callable[[CallFuture], None],
) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        for _ in range(10):
            until_heard(heard, lambda: spin(3))
            future = pool.submit(spin, 100)
            how(future)
            assert future.result() == 100


def test_a_call_that_nobody_waits_for_is_made_and_counted(cache: Path, heard: list[bool]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        until_heard(heard, lambda: [spin(n) for n in range(100)])
        before = pool.workers()[0].calls
        pool.submit(spin, 100)
        until(lambda: "0 calls" in repr(pool))
        assert pool.workers()[0].calls == before + 1


def test_short_limits_are_kept_while_the_pool_s_thread_looks_seldom(
    cache: Path, heard: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pool(1, cache_dir=cache) as pool:
        module = pool.load(STATE.encode())
        monkeypatch.setattr(lone_calls, "SLOW_PULSE", 3600.0)
        for _ in range(5):
            until_heard(heard, lambda: [module["spin"](n) for n in range(100)])
            pool.thread._lone.pulse = 3600.0  # as it would be after so long a time
            until_heard(heard, lambda: module["spin"](3))
            future = pool.submit(module["spin"].options(limits=SHORT), LONG)
            assert wait([future], timeout=30).done
            assert isinstance(future.exception(), DeadlineExceeded)


@pytest.mark.usefixtures("seldom")
def test_a_guest_that_asks_for_something_is_answered_though_nobody_waits_for_it(
    cache: Path, heard: list[bool]
) -> None:
    asked = threading.Event()
    imports: dict[str, dict[str, Callable[[], None]]] = {"env": {"ask": asked.set}}
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        run = pool.load(ASKING.encode(), imports=imports)["run"]
        run()
        for _ in range(5):
            until_heard(heard, lambda: spin(3))
            asked.clear()
            future = pool.submit(run)
            assert asked.wait(30)
            assert future.result() is None


@pytest.mark.usefixtures("seldom")
def test_who_waits_for_room_does_not_wait_for_an_answer_that_is_there(
    cache: Path, heard: list[bool]
) -> None:
    with Pool(1, cache_dir=cache, max_pending=1) as pool:
        spin = pool.load(STATE.encode())["spin"]
        for _ in range(5):
            until_heard(heard, lambda: spin(3))
            first, second = pool.submit(spin, 1), pool.submit(spin, 2)
            assert (first.result(), second.result()) == (1, 2)


@pytest.mark.usefixtures("seldom")
def test_a_worker_is_not_too_old_because_lone_calls_follow_one_another(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lone_calls, "MOMENT", 30.0)
    monkeypatch.setattr(workers, "ANSWERS", 1 << 30)
    with Pool(1, cache_dir=cache, recycle=Recycle(max_age=0.1)) as pool:
        spin = pool.load(STATE.encode())["spin"]
        _, first = spin.detailed(3)
        until(lambda: spin.detailed(3)[1].worker != first.worker)


@pytest.mark.usefixtures("seldom")
def test_a_worker_s_memory_is_looked_at_while_lone_calls_follow_one_another(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lone_calls, "MOMENT", 30.0)
    with Pool(1, cache_dir=cache, recycle=Recycle(max_memory_growth=0)) as pool:
        spin = pool.load(STATE.encode())["spin"]
        assert len({spin.detailed(3)[1].worker for _ in range(4 * workers.MEMORY_CHECK)}) > 1


@pytest.mark.parametrize("how", ["cancelled", "killed", "late"])
def test_who_waits_learns_of_any_end(cache: Path, heard: list[bool], how: str) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool, ThreadPoolExecutor(1) as threads:
        for _ in range(5):
            one_after_another(pool)
            (worker,) = pool.workers()
            future = begun(pool, SHORT if how == "late" else None)
            waiting = threads.submit(future.exception)
            if how == "killed":
                assert wait_for_a_call(pool) == worker.pid
                os.kill(worker.pid, signal.SIGKILL)
                assert isinstance(waiting.result(30), WorkerLost)
            elif how == "cancelled":
                future.cancel()
                with pytest.raises(CancelledError):
                    waiting.result(30)
            else:
                assert isinstance(waiting.result(30), DeadlineExceeded)
            until(lambda: "0 calls" in repr(pool))


class Interruption(BaseException):
    """As KeyboardInterrupt, which may come anywhere."""


@pytest.mark.parametrize("method", ["listen", "take", "free"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wait_that_is_interrupted_loses_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, method: str, when: str
) -> None:
    original = getattr(express.Loan, method)
    armed: list[bool] = []

    def interrupted(self: express.Loan, *args: Any) -> Any:
        if when == "before" and armed and armed.pop():
            raise Interruption
        result = original(self, *args)
        if when == "after" and armed and armed.pop():
            raise Interruption
        return result

    monkeypatch.setattr(express.Loan, method, interrupted)
    found = 0
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]

        def interrupt_one() -> bool:
            nonlocal found
            armed[:] = [True]
            future = pool.submit(spin, found)
            try:
                future.result()
            except Interruption:
                assert future.result(timeout=30) == found
                found += 1
            armed.clear()
            return found >= 3

        until(interrupt_one)
        until(lambda: "0 calls" in repr(pool))
        assert spin(3) == 3


@pytest.mark.parametrize("asks", [False, True])
def test_a_submission_that_is_interrupted_leaves_nothing_half_done(cache: Path, asks: bool) -> None:
    left = 0

    def interrupt(_: FrameType, event: str, __: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):  # where a signal's handler may run
            left -= 1
            if not left:
                sys.setprofile(None)
                raise Interruption

    imports: dict[str, dict[str, Callable[[], None]]] = {"env": {"ask": lambda: None}}
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        run = pool.load(ASKING.encode(), imports=imports)["run"]
        call = partial(pool.submit, run) if asks else partial(pool.submit, spin, 3)
        point = 0
        for point in itertools.count(1):
            for _ in range(3):
                call().result(timeout=30)
            left = point
            sys.setprofile(interrupt)
            try:
                call()
                break
            except Interruption:
                pass
            finally:
                sys.setprofile(None)
            until(lambda: "0 calls" in repr(pool))
        assert point > 30


def test_a_forked_child_takes_no_answer_away(cache: Path, heard: list[bool]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        spin = pool.load(STATE.encode())["spin"]
        until_heard(heard, lambda: spin(3))
        turns = turns_in(pool, 0.2)
        future = pool.submit(spin, turns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
            child = os.fork()
        if not child:
            try:
                future.result(timeout=0.5)
            except TimeoutError:
                os._exit(0)
            os._exit(1)
        assert future.result(timeout=30) == turns
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
