"""A pool is a ``concurrent.futures.Executor``: every future has one outcome, and cancelling stops
the guest.

The core is a double without processes; ``test_face`` has the real one.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    InvalidStateError,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from functools import partial
from typing import Any, Literal

import pytest
import trio
from fakes import SOURCE, FakeCore, ctrl_c_soon, until

from wasm_sandbox import (
    BadResult,
    ConfigurationError,
    DeadlineExceeded,
    Module,
    Pool,
    PoolClosed,
    PoolError,
    QueueFull,
    SignatureMismatch,
    Trap,
)
from wasm_sandbox.configuration import Configuration
from wasm_sandbox.supervisor.requests import CallRequest

pytest_plugins = ("fake_pools",)
pytestmark = pytest.mark.usefixtures("cores")


# -- calls ----------------------------------------------------------------------------------------


def test_a_call_returns_its_value(pool: Pool, module: Module) -> None:
    assert module["add"](5, 3) == 8
    assert module["trap"].options(timeout=5).name == "trap"
    value, receipt = module["add"].detailed(5, 3)
    assert (value, receipt.attempts) == (8, 1)
    assert pool.detailed(module["add"], 1, 2)[0] == 3


def test_a_future_has_its_value_and_receipt(pool: Pool, module: Module) -> None:
    future = pool.submit(module["add"], 5, 3)
    assert future.result() == 8
    assert future.exception() is None
    assert future.receipt.bytes_in == 32
    assert not future.running()
    assert not future.cancel()


def test_a_failed_call_has_its_error_and_receipt(pool: Pool, module: Module) -> None:
    future = pool.submit(module["trap"])
    error = future.exception()
    assert isinstance(error, Trap)
    assert error.receipt is future.receipt
    with pytest.raises(Trap):
        future.result()


def test_there_is_no_receipt_before_the_end(pool: Pool, module: Module) -> None:
    future = pool.submit(module["spin"])
    with pytest.raises(InvalidStateError):
        _ = future.receipt
    future.cancel()


def test_arguments_that_do_not_fit_are_the_futures_error(pool: Pool, module: Module) -> None:
    future = pool.submit(module["add"], 5)
    assert isinstance(future.exception(), SignatureMismatch)
    assert future.receipt.attempts == 0
    with pytest.raises(
        SignatureMismatch, match=r"argument 1, 'x' \(str\), takes parameters 1 and 2"
    ):
        module["add"]("x", 1)


def test_a_buffer_is_decoded_once_for_whoever_asks(pool: Pool, module: Module) -> None:
    future = pool.submit(module["echo"].options(returns="json"), {"a": [1]})
    assert future.result() == {"a": [1]}
    assert future.result() is future.result()
    assert future.exception() is None
    bad = pool.submit(module["echo"].options(returns="json"), b"{")
    assert isinstance(bad.exception(), BadResult)
    with pytest.raises(BadResult):
        bad.result()


def test_threads_may_share_a_pool(pool: Pool, module: Module) -> None:
    sums: list[int] = []

    def work() -> None:
        sums.append(sum(pool.map(module["add"], range(100), range(100))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [9900] * 4


# -- what submit refuses --------------------------------------------------------------------------


def test_a_plain_callable_is_refused_with_what_to_pass(pool: Pool, module: Module) -> None:
    for wrong in (print, lambda: None, None, module):
        with pytest.raises(TypeError, match=r"pool\.load"):
            pool.submit(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"module\.main"):
        pool.submit(module)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="map takes a Function"):
        pool.map(len, [1])


@pytest.mark.parametrize("way", ["call", "detailed", "submit", "pool.detailed"])
def test_keyword_arguments_are_refused_with_where_settings_go(
    pool: Pool, module: Module, way: str
) -> None:
    add = module["add"]
    ways: dict[str, Callable[..., object]] = {
        "call": add,
        "detailed": add.detailed,
        "submit": partial(pool.submit, add),
        "pool.detailed": partial(pool.detailed, add),
    }
    call = ways[way]
    with pytest.raises(SignatureMismatch, match=r"add: takes no keyword arguments.* b=") as refusal:
        call(1, b=2)
    assert not refusal.value.hint
    with pytest.raises(SignatureMismatch, match=r"function\.options\(timeout=…\)"):
        call(1, 2, timeout=3)


def test_a_function_of_another_pool_is_refused(pool: Pool, module: Module) -> None:
    with Pool(1) as other, pytest.raises(ConfigurationError, match="another pool"):
        other.submit(module["add"], 1, 2)


def test_a_closed_pool_says_so(pool: Pool, module: Module) -> None:
    pool.shutdown()
    pool.shutdown()
    for use in (
        lambda: pool.submit(module["add"], 1, 2),
        lambda: pool.submit(module["add"], "x"),
        lambda: module["add"](1, 2),
        lambda: pool.load(SOURCE),
        lambda: pool.map(module["add"], [1], [2]),
        pool.enforcement,
        pool.workers,
    ):
        with pytest.raises(PoolClosed):
            use()
    with pytest.raises(RuntimeError):
        pool.submit(module["add"], 1, 2)


# -- cancelling -----------------------------------------------------------------------------------


def test_cancelling_a_running_call_stops_the_guest(
    pool: Pool, module: Module, cores: list[FakeCore]
) -> None:
    future = pool.submit(module["spin"])
    until(future.running)
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert not future.running()
    with pytest.raises(CancelledError):
        future.result()
    until(lambda: cores[0].cancelled)
    assert module["add"](1, 2) == 3
    assert future.receipt.attempts == 1


def test_everyone_who_waits_learns_of_a_cancellation(pool: Pool, module: Module) -> None:
    future = pool.submit(module["spin"])
    other = pool.submit(module["spin"])
    called: list[Any] = []
    future.add_done_callback(called.append)
    threading.Timer(0.05, future.cancel).start()
    assert wait([future, other], return_when=FIRST_COMPLETED).done == {future}
    assert list(as_completed([future])) == [future]
    assert called == [future]
    other.cancel()


def test_cancelling_from_many_threads_is_one_cancellation(pool: Pool, module: Module) -> None:
    for _ in range(50):
        future = pool.submit(module["spin"])
        called: list[Any] = []
        future.add_done_callback(called.append)
        with ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(future.cancel) for _ in range(4)]
        assert [answer.result() for answer in answers] == [True] * 4
        assert called == [future]


def test_a_cancelled_call_that_waits_is_never_made(
    pool: Pool, module: Module, cores: list[FakeCore]
) -> None:
    spinning = [pool.submit(module["spin"]) for _ in range(2)]
    waiting = pool.submit(module["add"], 1, 2)
    assert waiting.cancel()
    for future in spinning:
        future.cancel()
    assert module["add"](1, 2) == 3
    assert waiting.receipt.attempts == 0
    until(lambda: "0 calls" in repr(pool))


def test_asyncio_awaits_and_cancels(pool: Pool, module: Module, cores: list[FakeCore]) -> None:
    async def main() -> None:
        assert await asyncio.wrap_future(pool.submit(module["add"], 5, 3)) == 8
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, module["add"], 5, 3) == 8
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(pool.submit(module["spin"])), 0.05)

    asyncio.run(main())
    until(lambda: cores[0].cancelled)


def test_an_interrupted_wait_cancels_that_call(
    pool: Pool, module: Module, cores: list[FakeCore]
) -> None:
    timer = ctrl_c_soon()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        module["spin"]()
    timer.join()
    until(lambda: len(cores[0].cancelled) == 1)
    assert module["add"](1, 2) == 3


def test_a_callback_may_submit_but_not_wait(pool: Pool, module: Module) -> None:
    caught: list[BaseException] = []
    more: list[Any] = []
    over = threading.Event()

    def callback(_: Any) -> None:
        for wrong in (lambda: module["add"](1, 2), lambda: pool.load(b"x"), pool.workers):
            try:
                wrong()
            except PoolError as error:
                caught.append(error)
        more.append(pool.submit(module["add"], 1, 2))
        over.set()

    pool.submit(module["after"], 100).add_done_callback(callback)
    over.wait()
    assert more[0].result() == 3
    assert len(caught) == 3


# -- map ------------------------------------------------------------------------------------------


def test_map_keeps_the_order(pool: Pool, module: Module) -> None:
    delays = [30, 1, 20, 0, 10]
    assert list(pool.map(module["after"], delays)) == delays
    assert list(pool.map(module["add"], range(5), range(3))) == [0, 2, 4]
    assert list(pool.map(module["add"], [], [])) == []


def test_map_begins_at_once_and_reads_its_input_lazily(pool: Pool, module: Module) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    values = pool.map(module["add"], endless(), endless())
    before = taken
    assert 0 < before < 10_000
    assert [next(values) for _ in range(10)][-1] == 39  # both take from one counter
    assert taken < before + 5000
    values.close()  # type: ignore[attr-defined]


def test_closing_map_cancels_the_rest(pool: Pool, module: Module) -> None:
    values = pool.map(module["after"], [0, 60_000, 60_000])
    assert next(values) == 0
    values.close()  # type: ignore[attr-defined]
    until(lambda: "0 calls" in repr(pool))


def test_a_failing_value_ends_map_and_cancels_the_rest(pool: Pool, module: Module) -> None:
    with pytest.raises(SignatureMismatch):
        list(pool.map(module["after"], [0, "x", 60_000]))
    until(lambda: "0 calls" in repr(pool))


@pytest.mark.parametrize("before", [[], [30, 0, 10], [0] * 2000], ids=len)
def test_a_failing_input_costs_no_value_before_it(
    pool: Pool, module: Module, before: list[int]
) -> None:
    def broken() -> Iterator[int]:
        yield from before
        raise ZeroDivisionError

    got: list[int] = []
    with pytest.raises(ZeroDivisionError):
        got.extend(pool.map(module["after"], broken()))
    assert got == before
    until(lambda: "0 calls" in repr(pool))


def test_an_interrupted_input_ends_map_at_once(pool: Pool, module: Module) -> None:
    def interrupted() -> Iterator[int]:
        yield 60_000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.map(module["after"], interrupted())
    until(lambda: "0 calls" in repr(pool))


def test_a_pool_that_closes_under_map_costs_no_value_that_it_had_begun() -> None:
    pool = Pool(1, max_pending=4)
    add = pool.load(SOURCE)["add"]
    values = pool.map(add, range(100), range(100))
    got = [next(values)]
    pool.shutdown()
    with pytest.raises(PoolClosed):
        got.extend(values)
    assert got == list(range(0, 2 * len(got), 2))
    assert 4 <= len(got) < 100


def test_map_has_a_timeout(pool: Pool, module: Module) -> None:
    values = pool.map(module["after"], [0, 60_000], timeout=2.0)
    assert next(values) == 0
    with pytest.raises(TimeoutError):
        next(values)
    until(lambda: "0 calls" in repr(pool))


@pytest.mark.parametrize("timeout", [0, -1, -1e9])
def test_a_timeout_that_is_over_ends_map_at_the_first_value_that_is_not_there(
    pool: Pool, module: Module, timeout: float
) -> None:
    values = pool.map(module["after"], [60_000], timeout=timeout)
    with pytest.raises(TimeoutError):
        next(values)
    until(lambda: "0 calls" in repr(pool))


def test_map_refuses_what_it_cannot_use(pool: Pool, module: Module) -> None:
    wrongs: list[dict[str, Any]] = [{"chunksize": 0}, {"timeout": "1"}, {"timeout": float("nan")}]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            pool.map(module["add"], [1], [1], **wrong)


# -- bounded queues -------------------------------------------------------------------------------


def test_a_full_queue_makes_submit_wait(cores: list[FakeCore]) -> None:
    with Pool(1, max_pending=4) as pool:
        after = pool.load(SOURCE)["after"]
        futures = [pool.submit(after, 5) for _ in range(20)]
        assert [future.result() for future in futures] == [5] * 20
        assert cores[0].most <= 4
        assert list(pool.map(after, [1] * 20)) == [1] * 20
        assert cores[0].most <= 4


def test_a_full_queue_may_raise_instead() -> None:
    with Pool(1, max_pending=2, when_full="raise") as pool:
        module = pool.load(SOURCE)
        blocking = [pool.submit(module["spin"]) for _ in range(2)]
        with pytest.raises(QueueFull):
            pool.submit(module["add"], 1, 2)
        with pytest.raises(QueueFull):
            pool.map(module["add"], [1], [2])
        for future in blocking:
            future.cancel()
        until(lambda: "0 calls" in repr(pool))
        assert list(pool.map(module["add"], range(50), range(50))) == list(range(0, 100, 2))


def test_waiting_for_room_counts_for_the_timeout() -> None:
    with Pool(1, max_pending=1) as pool:
        module = pool.load(SOURCE)
        blocking = pool.submit(module["spin"])
        late = pool.submit(module["add"].options(timeout=0.05), 1, 2)
        assert isinstance(late.exception(), DeadlineExceeded)
        assert isinstance(late.exception(), TimeoutError)
        blocking.cancel()


def test_closing_wakes_those_who_wait_for_room() -> None:
    pool = Pool(1, max_pending=1)
    module = pool.load(SOURCE)
    blocking = pool.submit(module["spin"])
    threading.Timer(0.05, pool.shutdown, [False]).start()
    with pytest.raises(PoolClosed):
        pool.submit(module["add"], 1, 2)
    blocking.cancel()
    pool.shutdown()


class StubbornCore(FakeCore):
    """Its guests do not stop before they are let go."""

    token: trio.lowlevel.TrioToken

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.token = trio.lowlevel.current_trio_token()
        await super().serve(task_status=task_status)

    def cancel(self, request: CallRequest) -> None:
        self.cancelled.append(request)

    def let_go(self) -> None:
        """They stop now; from any thread."""
        for request in list(self.cancelled):
            self.token.run_sync_soon(super().cancel, request)

    async def close(self, *, cancel: bool) -> None:
        self.let_go()
        await super().close(cancel=cancel)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> list[StubbornCore]:
    """The doubles that the test's pools made."""
    made: list[StubbornCore] = []

    def make(configuration: Configuration) -> Any:
        made.append(StubbornCore(configuration))
        return made[-1]

    monkeypatch.setattr(Configuration, "make_core", make)
    return made


@pytest.mark.parametrize("when_full", ["raise", "wait"])
def test_a_cancelled_call_makes_room_before_its_guest_has_stopped(
    stubborn: list[StubbornCore], when_full: Literal["raise", "wait"]
) -> None:
    with Pool(1, max_pending=1, when_full=when_full) as pool:
        module = pool.load(SOURCE)
        spinning = pool.submit(module["spin"])
        until(spinning.running)
        assert spinning.cancel()
        added = pool.submit(module["add"], 1, 2)
        assert not added.done()
        stubborn[0].let_go()
        assert added.result() == 3


def test_who_cancels_faster_than_guests_stop_is_held_up_in_the_end(
    stubborn: list[StubbornCore],
) -> None:
    with Pool(1, max_pending=3, when_full="raise") as pool:
        spin = pool.load(SOURCE)["spin"]

        def flood() -> None:
            while True:
                pool.submit(spin).cancel()

        with pytest.raises(QueueFull):
            flood()
        assert 3 < len(stubborn[0].submitted) <= 6
        stubborn[0].let_go()
        until(lambda: "0 calls" in repr(pool))
        pool.submit(spin).cancel()


def test_a_call_whose_output_is_refused_counts_until_it_is_over(cores: list[FakeCore]) -> None:
    """It was stopped, not cancelled: its caller still waits for it."""

    def refuse(_stream: int, _data: bytes) -> None:
        raise ValueError("no")

    with Pool(1, max_pending=1) as pool:
        main = pool.load(SOURCE).main.options(on_output=refuse)
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                pool.run(main)
        assert "0 calls" in repr(pool)


def test_what_belongs_to_one_process_says_so_when_it_is_pickled() -> None:
    with Pool(1) as pool:
        module = pool.load(SOURCE)
        for mine in (pool, module, module["add"]):
            with pytest.raises(TypeError, match="make a Pool in the other one"):
                pickle.dumps(mine)
