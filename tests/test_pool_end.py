"""However a pool ends, every future has its outcome, and the interpreter can end too."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import pytest
import trio
from fakes import SOURCE, FakeCore, NoCore, ctrl_c_soon, until

from wasm_sandbox import (
    CallFuture,
    IsolationError,
    Module,
    Pool,
    PoolError,
)
from wasm_sandbox.configuration import Configuration
from wasm_sandbox.supervisor.life import Life

pytest_plugins = ("fake_pools",)
pytestmark = pytest.mark.usefixtures("cores")


# -- the end --------------------------------------------------------------------------------------


def test_shutdown_finishes_what_was_submitted() -> None:
    pool = Pool(1)
    after = pool.load(SOURCE)["after"]
    futures = [pool.submit(after, 10) for _ in range(5)]
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [10] * 5


def test_a_task_of_a_pool_can_be_ended_before_it_has_begun() -> None:
    life = Life(None, None, lambda error: None)

    async def main() -> None:
        async with trio.open_nursery() as life.nursery:
            life.start(trio.sleep_forever)
            life.cancel()

    trio.run(main)


def test_shutdown_need_not_wait() -> None:
    pool = Pool(1)
    future = pool.submit(pool.load(SOURCE)["after"], 100)
    pool.shutdown(wait=False)
    assert not future.done()
    assert future.result() == 100
    pool.shutdown()


def test_shutdown_can_cancel() -> None:
    pool = Pool(1)
    module = pool.load(SOURCE)
    futures = [pool.submit(module["spin"]) for _ in range(5)]
    pool.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_a_slow_shutdown_can_be_hurried() -> None:
    pool = Pool(1)
    future = pool.submit(pool.load(SOURCE)["spin"])
    pool.shutdown(wait=False)
    pool.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_a_block_that_fails_cancels_its_calls() -> None:
    futures: list[CallFuture] = []

    def block() -> None:
        with Pool(1) as pool:
            futures.append(pool.submit(pool.load(SOURCE)["spin"]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert futures[0].cancelled()


def test_an_interrupted_shutdown_cancels_everything() -> None:
    pool = Pool(1)
    future = pool.submit(pool.load(SOURCE)["spin"])
    timer = ctrl_c_soon()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown()
    timer.join()
    assert future.cancelled()


def test_an_interrupted_load_is_cancelled(pool: Pool) -> None:
    timer = ctrl_c_soon()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.load(b"for ever")
    timer.join()


def test_a_pool_that_nobody_holds_ends(cores: list[FakeCore]) -> None:
    before = threading.active_count()
    pool = Pool(1)
    gone = weakref.ref(pool)
    pool.load(SOURCE)["add"](1, 2)
    del pool
    gc.collect()
    assert gone() is None
    until(lambda: threading.active_count() == before)


def test_two_pools_are_two(cores: list[FakeCore]) -> None:
    with Pool(1) as one, Pool(1) as two:
        assert one.load(SOURCE)["add"](1, 2) == two.load(SOURCE)["add"](2, 1) == 3
    assert len(cores) == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_pool_is_not_for_forked_children(pool: Pool, module: Module) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            pool.submit(module["add"], 1, 2)
        except PoolError as error:
            pool.shutdown()
            status = 0 if "child" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert module["add"](1, 2) == 3


def test_a_pool_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Configuration, "make_core", lambda configuration: NoCore(configuration))
    before = threading.active_count()
    with pytest.raises(IsolationError) as refusal:
        Pool(1)
    assert refusal.value.hint == "mount one"
    assert threading.active_count() == before


def test_a_supervisor_that_breaks_down_fails_every_future(cores: list[FakeCore]) -> None:
    pool = Pool(1)
    module = pool.load(SOURCE)
    futures = [pool.submit(module["spin"]) for _ in range(3)]
    until(futures[2].running)
    asking = threading.Thread(target=lambda: pool.submit(module["add"], 1, 2))
    pool._thread.post(cores[0].break_down)
    for future in futures:
        error = future.exception()
        assert isinstance(error, PoolError)
        assert isinstance(error.__cause__, RuntimeError) or "a bug" in str(error)
    with pytest.raises(PoolError):
        until(lambda: pool.submit(module["add"], 1, 2).exception() and None)
    pool.shutdown()
    assert not asking.is_alive()


PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from fakes import FakeCore
from wasm_sandbox import Pool
from wasm_sandbox.configuration import Configuration
from wasm_sandbox.supervisor.life import Life
Configuration.make_core = lambda self: FakeCore(self)
pool = Pool(1)
module = pool.load(b"(module)")
"""


def program(text: str, tests: Path = Path(__file__).parent) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(tests=str(tests)) + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_an_interpreter_that_ends_finishes_what_was_submitted() -> None:
    running = program(
        """
        future = pool.submit(module["after"], 200)
        future.add_done_callback(lambda f: print(f.result(), flush=True))
        """
    )
    assert running.communicate() == (b"200\n", b"")
    assert running.returncode == 0


def test_an_interpreter_that_fails_does_not_wait_for_guests() -> None:
    running = program("future = pool.submit(module['spin'])\n1 / 0")
    _, errors = running.communicate()
    assert errors.endswith(b"ZeroDivisionError: division by zero\n")
    assert running.returncode == 1


def test_ctrl_c_ends_a_program_that_waits() -> None:
    running = program("print(flush=True)\nmodule['spin']()")
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate()
    assert b"KeyboardInterrupt" in errors
    assert running.returncode == -signal.SIGINT


def test_threads_that_outlive_the_main_one_keep_their_pool() -> None:
    running = program(
        """
        import threading
        def late():
            time.sleep(0.2)
            print(module["add"](1, 2), flush=True)
        threading.Thread(target=late).start()
        """
    )
    assert running.communicate() == (b"3\n", b"")
    assert running.returncode == 0
