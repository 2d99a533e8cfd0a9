"""Whatever a worker says or does: it is ended, every call has one outcome, and the pool goes on."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from cores import Driver, i64, run, serving
from liars import FakeZygote

from wasm_sandbox.object_handles import object_handle
from wasm_sandbox.protocol import wit
from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.protocol.errors import (
    Crashed,
    DeadlineExceeded,
    HostFunctionError,
    OutOfFuel,
    PoolError,
    ProtocolViolation,
    SandboxError,
    Trap,
    WorkerLost,
)
from wasm_sandbox.protocol.events import NetworkRefused
from wasm_sandbox.protocol.host_calls import Errno, MemoryOrder
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.protocol.messages import LentFunction
from wasm_sandbox.protocol.network import Address, Network
from wasm_sandbox.protocol.wit import World
from wasm_sandbox.runners import TrioRunner
from wasm_sandbox.supervisor import keeper
from wasm_sandbox.supervisor import queues as queues_module
from wasm_sandbox.supervisor import worker as worker_module
from wasm_sandbox.supervisor.certificates import Verdict
from wasm_sandbox.supervisor.imports import HostImport, reaching
from wasm_sandbox.supervisor.objects import ResourceKind
from wasm_sandbox.supervisor.rate import Rate
from wasm_sandbox.supervisor.requests import (
    BatchRequest,
    CommandRequest,
    ModuleHandle,
    Outcome,
)
from wasm_sandbox.wit_converters import WitTypes
from wasm_sandbox.wit_host import HostWitCodec
from wasm_sandbox.wit_types import WitFunction

BIG: dict[str, Any] = {"export": "bytes", "buffers": ((0, bytes(100_000)),), "slots": bytes(32)}
BUFFER: dict[str, Any] = {"export": "bytes", "slots": bytes(32), "returns_buffer": True}
COMMAND: dict[str, Any] = {"export": "_start", "command": CommandRequest((b"test",))}

STDIN: dict[str, Any] = {
    "export": "_start",
    "command": CommandRequest((b"test",), stdin=bytes(100_000)),
}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the next core's workers behave like this, one after the other."""

    def make(*runs: str, compiles: tuple[str, ...] = ("compile_honest",)) -> list[FakeZygote]:
        made: list[FakeZygote] = []

        def start() -> FakeZygote:
            made.append(FakeZygote(runs, compiles))
            return made[-1]

        monkeypatch.setattr(keeper, "Zygote", start)
        return made

    return make


@asynccontextmanager
async def one_worker(**options: Any) -> AsyncIterator[tuple[Driver, ModuleHandle]]:
    """A core with one worker, and a module."""
    async with serving(workers=1, **options) as driver:
        yield driver, await driver.load(b"a module")


async def call(driver: Driver, module: ModuleHandle, **request: Any) -> Outcome:
    """The call of a case: ``echo(7)`` where it names none."""
    request = {"export": "echo", **request}
    values = (7,) if request["export"] == "echo" else ()
    with trio.fail_after(60):
        return await driver.call(module, request.pop("export"), *values, **request)


async def check_service(driver: Driver, module: ModuleHandle) -> None:
    """The next call is served."""
    assert i64(await call(driver, module)) == 7


BATCH: dict[str, Any] = {
    "buffers": ((0, bytes(24)),),
    "batch": BatchRequest(3, "fresh", FunctionType(("i64",), ("i64",))),
}
VIOLATIONS: dict[str, dict[str, Any]] = {
    "noise": {},
    "wrong_direction": {},
    "oversized": {},
    "zero_length": {},
    "promised_array": {},
    "deep_nesting": {},
    "another_call": {},
    "next_number": {},
    "negative_number": {},
    "wrong_size": {},
    "exit_code": {},
    "no_exit_code": COMMAND,
    "unasked_buffer": {},
    "unasked_empty_buffer": {},
    "unknown_kind": {},
    "interrupted": {},
    "ready_twice": {},
    "start_failed_late": {},
    "loaded_unasked": {},
    "compiled": {},
    "pull_outside": BIG,
    "pull_negative": BIG,
    "pull_missing": BIG,
    "pull_stdin": BIG,
    "pull_again": BIG,
    "pull_other_negative": STDIN,
    "push_nothing": BUFFER,
    "push_negative": BUFFER,
    "push_beyond": BUFFER,
    "push_over_its_bank": BUFFER,
    "push_from_no_bank": BUFFER,
    "push_from_before_all_banks": BUFFER,
    "push_nowhere": BUFFER,
    "push_for_ever": BUFFER,
    "output_for_ever": COMMAND,
    "output_nowhere": COMMAND,
    "empty_output": COMMAND,
    "recall_unasked": {},
    "call_like_a_batch": {},
    "batch_like_a_call": BATCH,
    "batch_done_beyond": BATCH,
    "batch_done_negative": BATCH,
    "batch_done_and_failed": BATCH,
    "batch_undone_for_no_reason": BATCH,
    "batch_results_short": BATCH,
    "batch_results_long": BATCH,
    "batch_results_missing": BATCH,
    "batch_results_of_nothing": BATCH,
    "batch_pushes_too_much": BATCH,
    "batch_pushes_and_has_more": BATCH,
    "batch_output": BATCH,
    "batch_interrupted": BATCH,
    "batch_unknown_kind": BATCH,
    "host_call_of_another": {},
    "host_call_unknown": {},
    "host_call_garbage": {},
    "host_call_nested": {},
    "host_call_oversize_arguments": {},
    "host_call_oversize_data": {},
    "host_call_beyond_the_arena": {},
    "host_call_negative_length": {},
    "host_call_too_much_room": {},
    "host_call_negative_room": {},
    "host_call_twice": {},
    "host_call_begun_in_a_begun_one": {},
    "host_call_waits_for_nothing": {},
    "host_call_waits_for_a_negative_time": {},
    "host_call_flood": {},
    "returns_while_asking": {},
}


@pytest.mark.parametrize("lie", VIOLATIONS)
def test_a_worker_that_breaks_the_protocol_is_ended_and_its_call_told(plan: Any, lie: str) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker(limits=Limits(output=1 << 20)) as (driver, module):
            outcomes: list[Outcome] = []

            async def other() -> None:
                outcomes.append(await call(driver, module))

            async with trio.open_nursery() as nursery:
                outcome = await call(driver, module, **VIOLATIONS[lie])
                nursery.start_soon(other)
            assert isinstance(outcome.error, ProtocolViolation)
            assert outcome.error.certificate == driver.deaths[0]
            assert i64(outcomes[0]) == 7
            await check_service(driver, module)
            assert [death.cause for death in driver.deaths] == ["protocol_violation"]

    run(main)


@pytest.mark.parametrize(
    "lie", ["replayed", "idle_garbage", "idle_flood", "host_call_between_calls"]
)
def test_a_worker_that_speaks_out_of_turn_is_ended_and_no_call_suffers(plan: Any, lie: str) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker() as (driver, module):
            await check_service(driver, module)
            with trio.fail_after(60):
                death = await driver.wait_for_death()
            assert death.cause == "protocol_violation"
            await check_service(driver, module)

    run(main)


ENDS: dict[str, tuple[type[SandboxError], str]] = {
    "truncated": (Crashed, "exited"),
    "exits": (Crashed, "exited"),
    "exits_badly": (Crashed, "exited"),
    "segfaults": (Crashed, "crashed"),
    "dies_by_nameless_signal": (Crashed, "crashed"),
    "killed": (WorkerLost, "killed"),
    "closes_and_lives": (WorkerLost, "exited"),
    "begun_everything": (Crashed, "exited"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_worker_that_ends_takes_one_call_along(plan: Any, end: str) -> None:
    async def main() -> None:
        error, cause = ENDS[end]
        plan(end, "honest")
        async with one_worker() as (driver, module):
            outcome = await call(driver, module)
            assert isinstance(outcome.error, error)
            assert driver.deaths[0].cause == cause
            await check_service(driver, module)

    run(main)


def test_what_a_dead_worker_had_finished_of_a_batch_stands(plan: Any) -> None:
    async def main() -> None:
        plan("batch_finished_two", "batch_finished_far_more", "honest")
        async with one_worker() as (driver, module):
            outcome = await call(driver, module, **BATCH)
            assert isinstance(outcome.error, Crashed)
            assert outcome.done == 2
            assert outcome.data == struct.pack("<qqq", 10, 11, 0)
            outcome = await call(driver, module, **BATCH)
            assert outcome.done == 3  # it says so, and it would be believed if it lived
            assert outcome.error is None
            assert outcome.data == bytes(24)
            await check_service(driver, module)

    run(main)


@pytest.mark.parametrize("retries", [0, 10])
def test_a_call_that_every_worker_denies_and_dies_of_has_an_outcome(
    plan: Any, retries: int
) -> None:
    async def main() -> None:
        made = plan("begun_nothing")
        async with one_worker() as (driver, module):
            outcome = await call(driver, module, retries=retries)
            assert isinstance(outcome.error, WorkerLost)
            assert retries < made[0].forks < retries + 20

    run(main)


def test_a_worker_that_takes_no_modules_is_ended_and_its_call_goes_to_another(plan: Any) -> None:
    async def main() -> None:
        plan("takes_no_modules", "honest")
        async with one_worker() as (driver, module):
            await check_service(driver, module)
            assert [death.cause for death in driver.deaths] == ["protocol_violation"]

    run(main)


def test_a_call_is_stopped_at_a_worker_that_takes_no_orders(plan: Any) -> None:
    async def main() -> None:
        plan("closes_its_ears", "honest")
        deaf = trio.Event()
        outcomes: list[Outcome] = []
        async with one_worker() as (driver, module):
            request = driver.request(
                module,
                "_start",
                command=CommandRequest((b"test",)),
                on_output=lambda *_: deaf.set(),
            )
            driver.core.submit(request, outcomes.append)
            with trio.fail_after(60):
                await deaf.wait()
                driver.core.cancel(request)
                await driver.wait_for_death()
            assert isinstance(outcomes[0].error, Trap)
            assert driver.deaths[0].cause == "protocol_violation"
            await check_service(driver, module)

    run(main)


def test_a_worker_that_stops_reading_is_stopped_by_the_deadline(plan: Any) -> None:
    async def main() -> None:
        plan("stops_reading", "honest")
        async with one_worker(limits=Limits(wall_time=0.2)) as (driver, module):
            outcome = await call(driver, module)
            assert isinstance(outcome.error, DeadlineExceeded)
            await check_service(driver, module)

    run(main)


@pytest.mark.parametrize("lie", ["strange_figures", "negative_figures"])
def test_a_workers_figures_are_bounded_by_what_was_seen(plan: Any, lie: str) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker() as (driver, module):
            outcome = await call(driver, module)
            assert i64(outcome) == 7
            receipt = outcome.receipt
            assert 0 <= receipt.wall_time < 100
            assert 0 <= receipt.cpu_time < 640
            assert (receipt.fuel or 0) >= 0
            assert (receipt.peak_memory or 0) >= 0
            assert math.isfinite(receipt.queue_time)

    run(main)


def test_a_failure_with_strange_figures_is_still_told(plan: Any) -> None:
    async def main() -> None:
        plan("strange_failure", "honest")
        async with one_worker() as (driver, module):
            outcome = await call(driver, module)
            assert isinstance(outcome.error, OutOfFuel)
            assert str(outcome.error)

    run(main)


def test_a_worker_that_ends_no_call_when_its_host_call_was_given_up_is_killed(plan: Any) -> None:
    async def never(_: str) -> list[Address]:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        plan("asks_and_stays", "honest")
        granted = Capabilities(network=Network.loopback())
        async with one_worker(limits=Limits(wall_time=0.2), capabilities=granted) as (
            driver,
            module,
        ):
            driver.core.network.resolve = never
            outcome = await call(driver, module)
            assert isinstance(outcome.error, DeadlineExceeded)
            assert outcome.error.certificate == driver.deaths[0]
            assert outcome.receipt.host_calls == 1
            await check_service(driver, module)

    run(main)


def test_a_worker_that_asks_for_what_its_call_was_not_granted_is_refused(plan: Any) -> None:
    async def main() -> None:
        plan("asks_for_the_network")
        async with one_worker() as (driver, module):
            assert i64(await call(driver, module)) == Errno.ACCES
            (refused,) = [e for e in driver.events if isinstance(e, NetworkRefused)]
            assert refused.where == "127.0.0.1:1"

    run(main)


# -- functions of this program --------------------------------------------------------------------


def lending(module: ModuleHandle, called: list[bytes]) -> ModuleHandle:
    """The same module, as if it imported a function that takes and gives bytes."""

    async def call(_slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        called.append(data)
        return b"", data * 2

    shape = LentFunction("env", "f", FunctionType(("i32", "i32"), ("i64",)), (0,), "packed")
    function = HostImport(shape=shape, timeout=1.0, rate=Rate(1000), call=call)
    return replace(module, imports=(function,))


@pytest.mark.parametrize(
    "lie",
    [
        "import_that_is_not_there",
        "import_of_another_module",
        "import_with_too_few_slots",
        "import_with_too_many_slots",
        "import_with_fewer_bytes",
        "import_with_more_bytes",
        "import_garbage",
        "import_twice",
    ],
)
def test_a_worker_calls_no_function_but_those_of_its_call_as_they_are_declared(
    plan: Any, lie: str
) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker() as (driver, module):
            called: list[bytes] = []
            lends = lending(module, called)
            if lie == "import_of_another_module":
                await check_service(driver, lends)
                lends = module
            outcome = await call(driver, lends)
            assert isinstance(outcome.error, ProtocolViolation)
            assert called in ([], [b""])  # the first of two may have been begun
            assert not called or lie == "import_twice"
            await check_service(driver, lends)

    run(main)


def lending_to_component(module: ModuleHandle, called: list[object]) -> ModuleHandle:
    """The same, as if it imported a function that gives a thing for nothing, and takes it back."""
    kind = ResourceKind("thing")
    world = World((wit.Own(0), wit.Option(0)), ("", ""), ("thing",))
    option = WitTypes(world, lambda handle, _: object_handle(kind, handle)).get(1)
    codec = HostWitCodec("docs:a/b", "f", [option], option, WitFunction(()))

    async def call(slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        (thing,) = codec.unpack(slots, data)
        called.append(thing)
        return codec.pack(object() if thing is None else None)

    function = HostImport(shape=codec.shape, timeout=1.0, rate=Rate(1000), call=call)
    return replace(module, imports=(function,))


@pytest.mark.parametrize(
    ("lie", "calls"),
    [
        ("component_import_with_slots", 0),
        ("component_import_of_garbage", 0),
        ("component_import_of_many_values", 0),
        ("component_import_of_no_value", 0),
        ("component_import_of_a_thing_of_nobodys", 0),
        ("component_import_of_a_thing_of_anothers", 1),
        ("component_import_of_a_thing_given_twice", 2),
    ],
)
def test_a_worker_names_no_thing_but_those_of_its_guest(plan: Any, lie: str, calls: int) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker() as (driver, module):
            called: list[object] = []
            lends = lending_to_component(module, called)
            if lie == "component_import_of_a_thing_of_anothers":
                await check_service(driver, lends)
            outcome = await call(driver, lends)
            if lie == "component_import_with_slots":
                assert isinstance(outcome.error, ProtocolViolation)
            else:
                assert isinstance(outcome.error, Trap)
                assert outcome.error.code == "bad_argument"
            assert len(called) == calls
            await check_service(driver, lends)

    run(main)


def test_a_worker_that_keeps_the_rules_calls_the_function(plan: Any) -> None:
    async def main() -> None:
        plan("import_honest")
        async with one_worker() as (driver, module):
            called: list[bytes] = []
            outcome = await call(driver, lending(module, called))
            assert i64(outcome) == 8
            assert called == [b"ACME"]
            assert outcome.receipt.host_calls == 1

    run(main)


def lending_memory(module: ModuleHandle, found: list[object], timeout: float = 9.0) -> ModuleHandle:
    """The same, as if it imported a function that reads 8 bytes of its guest's memory."""

    async def call(_slots: bytes, _data: bytes) -> tuple[bytes, bytes]:
        wait = TrioRunner(1, lambda _: None).wait
        try:
            answer, data = await wait(reaching.get().ask(MemoryOrder("read", 16, 8)))
        except BaseException as error:
            found.append(error)
            raise
        found.append(data)
        return answer.size.to_bytes(16, "little"), b""

    shape = LentFunction("env", "f", FunctionType(("i32", "i32"), ("i64",)))
    function = HostImport(shape=shape, timeout=timeout, rate=Rate(1000), memory=True, call=call)
    return replace(module, imports=(function,))


@pytest.mark.parametrize(
    "lie",
    [
        "memory_of_nobody",
        "memory_before_an_order",
        "memory_short",
        "memory_long",
        "memory_from_outside",
        "memory_garbage",
        "memory_twice",
        "memory_and_a_call_in_it",
        "memory_and_the_network",
        "memory_and_the_end",
    ],
)
def test_a_worker_answers_no_order_but_its_own_and_as_it_is_to_be_answered(
    plan: Any, lie: str
) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker() as (driver, module):
            found: list[object] = []
            lends = lending_memory(module, found)
            outcome = await call(driver, lends)
            assert isinstance(outcome.error, ProtocolViolation)
            assert [each for each in found if isinstance(each, bytes)] in ([], [bytes(8)])
            assert lie == "memory_twice" or bytes(8) not in found
            await check_service(driver, lends)

    run(main)


@pytest.mark.parametrize(
    ("timeout", "wall_time", "error"),
    [(0.2, 30.0, HostFunctionError), (9.0, 0.2, DeadlineExceeded)],
)
def test_a_worker_that_carries_out_nothing_is_killed_in_time(
    plan: Any, timeout: float, wall_time: float, error: type[Exception]
) -> None:
    async def main() -> None:
        plan("memory_silence", "honest")
        async with one_worker(limits=Limits(wall_time=wall_time)) as (driver, module):
            found: list[object] = []
            lends = lending_memory(module, found, timeout)
            outcome = await call(driver, lends)
            assert isinstance(outcome.error, error)
            assert len(driver.deaths) == len(found) == 1
            assert isinstance(found[0], trio.Cancelled)
            await check_service(driver, lends)

    run(main)


def test_a_worker_that_keeps_the_rules_carries_out_an_order(plan: Any) -> None:
    async def main() -> None:
        plan("memory_honest")
        async with one_worker() as (driver, module):
            found: list[object] = []
            outcome = await call(driver, lending_memory(module, found))
            assert (i64(outcome), found) == (65536, [b"eight of"])
            assert outcome.receipt.host_calls == 1

    run(main)


def test_a_worker_without_room_for_the_result_gets_none(plan: Any) -> None:
    async def main() -> None:
        plan("import_without_room")
        async with one_worker() as (driver, module):
            outcome = await call(driver, lending(module, []))
            assert isinstance(outcome.error, HostFunctionError)

    run(main)


def test_huge_strings_are_told(plan: Any) -> None:
    async def main() -> None:
        plan("huge_strings")
        async with one_worker() as (driver, module):
            outcome = await call(driver, module)
            assert isinstance(outcome.error, Trap)
            assert outcome.error.message == "m" * 900_000

    run(main)


def test_what_was_pushed_stays_as_it_was(plan: Any) -> None:
    async def main() -> None:
        plan("changes_after_push")
        async with one_worker() as (driver, module):
            assert (await call(driver, module, **BUFFER)).data == b"first"

    run(main)


def test_the_arena_cannot_be_resized_or_sealed(plan: Any) -> None:
    async def main() -> None:
        plan("resizes_arena")
        async with one_worker() as (driver, module):
            assert i64(await call(driver, module)) == 0

    run(main)


@pytest.mark.parametrize(
    ("start", "cause"),
    [
        ("never_ready", "start_failed"),
        ("start_failed", "start_failed"),
        ("early_output", "protocol_violation"),
        ("dead_at_once", "exited"),
    ],
)
def test_a_worker_that_does_not_start_is_replaced(
    plan: Any, monkeypatch: pytest.MonkeyPatch, start: str, cause: str
) -> None:
    monkeypatch.setattr(worker_module, "START_SECONDS", 1.0)

    async def main() -> None:
        plan(start, "honest")
        async with one_worker() as (driver, module):
            await check_service(driver, module)
            assert driver.deaths[0].cause == cause
            assert driver.deaths[0].phase == "starting"
            assert len(driver.deaths[0].evidence) <= 4096

    run(main)


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker gets several calls at a time, however long they take."""
    monkeypatch.setattr(queues_module, "QUICK", 1000.0)


async def several(driver: Driver, module: ModuleHandle, count: int) -> list[Outcome]:
    """Calls that are submitted at once."""
    outcomes: dict[int, Outcome] = {}

    async def one(at: int) -> None:
        outcomes[at] = await call(driver, module)

    async with trio.open_nursery() as nursery:
        for at in range(count):
            nursery.start_soon(one, at)
    return [outcomes[at] for at in range(count)]


@pytest.mark.usefixtures("generous")
@pytest.mark.parametrize(
    "lie", ["recall_beyond", "recall_other", "recall_twice", "answer_recalled", "recall_spoken"]
)
def test_a_worker_that_lies_about_a_recall_is_ended(plan: Any, lie: str) -> None:
    async def main() -> None:
        plan(lie, "honest")
        async with one_worker() as (driver, module):
            outcomes = await several(driver, module, 3)
            errors = [outcome.error for outcome in outcomes if outcome.error is not None]
            assert [type(error) for error in errors] == [ProtocolViolation]
            assert [death.cause for death in driver.deaths] == ["protocol_violation"]
            await check_service(driver, module)

    run(main)


@pytest.mark.usefixtures("generous")
def test_a_worker_that_gave_all_back_and_does_not_end_is_killed(plan: Any) -> None:
    async def main() -> None:
        plan("recall_all_and_stay", "honest")
        async with one_worker() as (driver, module):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(several, driver, module, 3)
                await driver.wait_for_worker("busy")
                await trio.sleep(0.1)
                # As a pool does that recycles a worker or hands its seat on.
                (worker,) = driver.core._seats.workers
                driver.core._queues.gone(worker)
                worker.stop(Verdict("recycled", "supervisor"))
            assert driver.deaths[0].cause == "stopped"

    run(main)


@pytest.mark.usefixtures("generous")
def test_a_call_that_comes_to_the_head_by_a_recall_has_deadlines_of_its_own(plan: Any) -> None:
    async def main() -> None:
        plan("recall_the_interrupted", "honest")
        async with one_worker() as (driver, module):
            requests = [driver.request(module, "echo", 7) for _ in range(4)]
            outcomes: list[Outcome] = []
            for request in requests[:3]:
                driver.core.submit(request, outcomes.append)
            with trio.fail_after(60):
                while not outcomes:
                    await trio.sleep(0.001)
                driver.core.submit(requests[3], outcomes.append)
                driver.core.cancel(requests[1])
                while len(outcomes) < 4:
                    await trio.sleep(0.01)
            assert sum(outcome.error is not None for outcome in outcomes) == 1
            assert not driver.deaths

    run(main)


COMPILERS: dict[str, type[SandboxError]] = {
    "compile_lies_about_size": ProtocolViolation,
    "compile_empty": ProtocolViolation,
    "compile_hole": ProtocolViolation,
    "compile_mapped": ProtocolViolation,
    "compile_returned": ProtocolViolation,
    "compile_unknown_kind": ProtocolViolation,
    "compile_dead": WorkerLost,
    "compile_nameless_signal": Crashed,
    "compile_start_failed": PoolError,
}


@pytest.mark.parametrize("lie", COMPILERS)
def test_a_compiler_that_lies_is_refused_and_the_next_one_serves(plan: Any, lie: str) -> None:
    async def main() -> None:
        plan("honest", compiles=(lie, "compile_honest"))
        async with serving(workers=1) as driver:
            with pytest.raises(COMPILERS[lie]):
                await driver.load(b"a module")
            await check_service(driver, await driver.load(b"a module"))

    run(main)


def test_a_compilers_second_answer_is_not_heard(plan: Any) -> None:
    async def main() -> None:
        plan("honest", compiles=("compile_twice",))
        async with one_worker() as (driver, module):
            await check_service(driver, module)

    run(main)
