"""An instance keeps its state from call to call, behind the walls and limits of any call."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import actor_guests
import guest_commands
import guests
import pytest
from actor_guests import wait_for_spin
from leftovers import nothing_left

from wasm_sandbox import (
    BadResult,
    CallFuture,
    Capabilities,
    ConfigurationError,
    DeadlineExceeded,
    DiskLimitExceeded,
    Environment,
    Filesystem,
    HostFunctionError,
    Instance,
    InstanceClosed,
    Limits,
    MissingExport,
    MissingImport,
    Module,
    OutOfFuel,
    OutputLimitExceeded,
    Pool,
    PoolClosed,
    PoolError,
    QueueFull,
    SignatureMismatch,
    Trap,
)

pytestmark = pytest.mark.usefixtures("patience")

PAGE = 65536


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    """A pool that the tests of this file share, each with instances of its own."""
    with nothing_left(), Pool(1, cache_dir=cache) as made:
        yield made


@pytest.fixture(scope="module")
def counter(pool: Pool) -> Module:
    return pool.load(actor_guests.COUNTER.encode())


def test_state_lives_on_from_call_to_call(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance, pool.instance(counter) as other:
        assert [instance.call("increment") for _ in range(3)] == [1, 2, 3]
        assert other.call("increment") == 1
        assert instance.module is counter
        assert instance.number != other.number
        value, receipt = instance.detailed("add", 10)
        assert (value, receipt.attempts, receipt.bytes_in) == (13, 1, 16)
        future = instance.submit("increment")
        assert future.result() == 14
        assert future.receipt.worker == instance.usage().worker
    assert counter["increment"]() == 1  # a fresh instance, as ever


def test_all_types_of_values_cross(pool: Pool) -> None:
    with pool.instance(pool.load(guests.all_values().encode())) as instance:
        given = (1, -2, 0.5, 0.25, bytes(range(16)))
        assert instance.call("all", *given) == given


@pytest.mark.parametrize("size", [3, 100_000, 3_000_000])
def test_buffers_cross_and_are_freed(pool: Pool, size: int) -> None:
    with pool.instance(pool.load(guests.buffers().encode())) as instance:
        data = os.urandom(size)
        for _ in range(2):
            assert instance.call("echo", data, returns=bytes) == data
            assert instance.call("pair", data, returns=bytes) == data
            assert instance.call("length", data) == size
        assert instance.call("echo", "grüße", returns=str) == "grüße"
        assert instance.call("echo", {"a": [1, None]}, returns="json") == {"a": [1, None]}
        assert instance.call("live") == 0


def test_bad_results_leave_the_instance_alive(pool: Pool) -> None:
    with pool.instance(pool.load(guests.lying_buffers().encode())) as instance:
        for _ in range(2):
            for lie in guests.LIES:
                with pytest.raises(BadResult):
                    instance.call(lie, returns="json" if lie == "not_json" else str)
            with pytest.raises(BadResult):
                instance.call("takes", b"data")
        assert instance.usage().restarts == 0


def test_a_trap_leaves_the_state_as_the_guest_left_it(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        with pytest.raises(Trap, match="unreachable") as trap:
            instance.call("fail")
        assert trap.value.backtrace
        assert instance.call("increment") == 101
        assert instance.usage().restarts == 0


@pytest.mark.parametrize(
    ("which", "limits"),
    [
        ("timeout", Limits()),
        ("wall_time", Limits(wall_time=0.3)),
        ("cpu_time", Limits(cpu_time=0.1)),
    ],
)
def test_a_stopped_call_leaves_the_state_as_the_guest_left_it(
    pool: Pool, counter: Module, which: str, limits: Limits
) -> None:
    with pool.instance(counter, limits=limits) as instance:
        for _ in range(2):
            with pytest.raises(Exception, match=f"the limit {which}"):
                instance.call("spin", timeout=0.3 if which == "timeout" else None)
            assert instance.call("increment") == 201
        assert instance.usage().restarts == 0


def test_fuel_is_given_anew_for_each_call(pool: Pool, counter: Module) -> None:
    with pool.instance(counter, limits=Limits(fuel=10_000)) as instance:
        for _ in range(2):
            instance.call("spin_for", 1000)
            with pytest.raises(OutOfFuel):
                instance.call("spin")
        assert 20_000 < instance.usage().fuel < 40_000


def test_the_memory_of_the_limit_is_the_instances_own(pool: Pool, counter: Module) -> None:
    with pool.instance(counter, limits=Limits(memory=10 * PAGE)) as instance:
        assert instance.call("grow", 9) == 1
        assert instance.call("grow", 1) == -1
        usage = instance.usage()
        assert usage.memory_used == usage.memory_peak == 10 * PAGE


def test_several_memories_share_the_limit(pool: Pool) -> None:
    module = pool.load(guests.several_memories(10).encode())
    with pool.instance(module, limits=Limits(memory=10 * PAGE)) as instance:
        assert instance.usage().memory_used == 10 * PAGE
    with pytest.raises(Exception, match="memory"):
        pool.instance(module, limits=Limits(memory=9 * PAGE))


# --- what the host gives --------------------------------------------------------------------------


def test_a_reactor_is_initialized_once_and_its_output_is_heard(pool: Pool) -> None:
    heard: list[tuple[int, bytes]] = []

    def on_output(stream: int, data: bytes) -> None:
        heard.append((stream, data))

    with pool.instance(pool.load(actor_guests.REACTOR.encode()), on_output=on_output) as instance:
        assert [instance.call("ready") for _ in range(2)] == [1, 1]
        assert heard == [(1, b"hi\n")]
        assert instance.call("say", 2) == 0
        assert heard == [(1, b"hi\n"), (2, b"hi\n")]
        assert instance.usage().output == 6


def test_what_on_output_raises_is_the_calls_error(pool: Pool) -> None:
    class Enough(Exception):
        pass

    def on_output(stream: int, _: bytes) -> None:
        if stream == 2:
            raise Enough

    with pool.instance(pool.load(actor_guests.REACTOR.encode()), on_output=on_output) as instance:
        with pytest.raises(Enough):
            instance.call("say", 2)
        assert instance.call("say", 1) == 0


def test_the_output_of_each_call_is_limited(pool: Pool) -> None:
    module = pool.load(actor_guests.REACTOR.encode())
    with pool.instance(module, limits=Limits(output=5)) as instance:
        for _ in range(4):
            assert instance.call("say", 1) == 0
    with pytest.raises(OutputLimitExceeded):
        pool.instance(module, limits=Limits(output=2))


def test_an_open_file_stays_open_from_call_to_call(pool: Pool, tmp_path: Path) -> None:
    module = pool.load(actor_guests.LOGGER.encode())
    capabilities = Capabilities(filesystem=Filesystem.read_write(str(tmp_path), at="/"))
    with pool.instance(module, capabilities=capabilities, limits=Limits(disk=8192)) as instance:
        opened = instance.call("open")
        for _ in range(3):
            assert instance.call("write", opened, 7) == 0
        assert (tmp_path / "log").read_bytes() == b"a line\n" * 3
        usage = instance.usage()
        assert (usage.bytes_written, usage.disk) == (21, 4096 + 21)
        with pytest.raises(DiskLimitExceeded):
            instance.call("write", opened, 9000)
        assert instance.call("write", opened, 7) == 0


def test_the_environment_is_the_capabilitys(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "hello")
    module = pool.load(
        b"""(module
        (import "wasi_snapshot_preview1" "environ_sizes_get"
          (func $sizes (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "count") (result i32)
          (drop (call $sizes (i32.const 0) (i32.const 4))) (i32.load (i32.const 0))))"""
    )
    capabilities = Capabilities(environment=Environment.allow("GREETING"))
    with pool.instance(module, capabilities=capabilities) as instance:
        assert instance.call("count") == 1
    with pool.instance(module) as instance:
        assert instance.call("count") == 0


def test_host_functions_are_called_from_instances(pool: Pool) -> None:
    source = b"""(module
      (import "env" "f" (func $f (param i32) (result i32)))
      (global $sum (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $sum (call $f (i32.const 100))))
      (func (export "add") (param i32) (result i32)
        (global.set $sum (i32.add (global.get $sum) (call $f (local.get 0)))) (global.get $sum)))"""
    made: list[Instance] = []

    def f(value: int) -> int:
        if value == 13:
            raise KeyError(value)
        if value == 14:
            return int(made[0].call("add", 1))  # it waits for this very function
        if value == 15:
            return int(made[1].call("add", 1))
        return 2 * value

    module = pool.load(source, imports={"env": {"f": f}})
    with pool.instance(module) as instance, pool.instance(module) as other:
        made += [instance, other]
        assert [instance.call("add", 1) for _ in range(2)] == [202, 204]
        with pytest.raises(HostFunctionError) as error:
            instance.call("add", 13)
        assert isinstance(error.value.__cause__, KeyError)
        with pytest.raises(HostFunctionError) as error:
            instance.call("add", 14)
        assert isinstance(error.value.__cause__, PoolError)
        assert instance.call("add", 15) == 204 + 202
        assert instance.usage().host_calls == 6


def test_every_worker_of_an_instance_has_the_functions_that_run_in_it(pool: Pool) -> None:
    source = b"""(module
      (import "env" "f" (func $f (param i32) (result i32)))
      (global $sum (mut i32) (i32.const 0))
      (func (export "add") (param i32) (result i32)
        (global.set $sum (i32.add (global.get $sum) (call $f (local.get 0)))) (global.get $sum)))"""
    here = os.getpid()

    def double(value: int) -> int:
        return 0 if os.getpid() == here else 2 * value

    module = pool.load(source, worker_imports={"env": {"f": double}})
    with pool.instance(module) as instance:
        assert [instance.call("add", 3) for _ in range(2)] == [6, 12]
        pid = instance.usage().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while instance.usage().restarts == 0:
            time.sleep(0.002)
        assert instance.call("add", 5) == 10
        assert instance.usage().host_calls == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (guests.missing_import(), MissingImport),
        (guests.start_traps(), Trap),
        ('(module (func (export "_initialize") unreachable))', Trap),
    ],
)
def test_an_instance_that_does_not_come_to_be_leaves_nothing(
    pool: Pool, text: str, error: type[Exception]
) -> None:
    module = pool.load(text.encode())
    with pytest.raises(error):
        pool.instance(module)


# --- reading --------------------------------------------------------------------------------------


def test_memory_is_read_by_range(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        instance.call("poke", 70, 0x01020304)
        assert instance.memory(70, 4) == b"\4\3\2\1"
        assert instance.memory(PAGE - 2, 10) == b"\0\0"
        assert instance.memory(PAGE, 10) == instance.memory(1 << 40, 10) == b""
        assert len(instance.memory()) == PAGE
        instance.call("grow", 19)
        assert len(instance.memory()) == 20 * PAGE
        for start, length in ((-1, 1), (0, -1), (1 << 63, 1), (0.5, 1)):
            with pytest.raises(ConfigurationError):
                instance.memory(start, length)  # type: ignore[arg-type]
        with pytest.raises(MissingExport):
            instance.memory(name="count")


@pytest.mark.parametrize("size", [0, 1, 40_000, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_memory_is_written(pool: Pool, counter: Module, kind: Any, size: int) -> None:
    data = os.urandom(size)
    with pool.instance(counter) as instance:
        instance.call("grow", 19 if size > PAGE else 0)
        before = instance.memory()
        instance.write_memory(7, kind(data))
        assert instance.memory() == before[:7] + data + before[7 + size :]


def test_memory_is_written_in_turn_with_the_calls(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        futures = [instance.submit("spin_for", 2_000_000) for _ in range(3)]
        futures.append(instance.submit("poke", 8, 1))
        instance.write_memory(8, b"\2\0\0\0")
        assert all(future.done() for future in futures)
        assert instance.memory(8, 4) == b"\2\0\0\0"


def test_bytes_that_lie_outside_of_the_memory_are_not_written(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        instance.call("poke", PAGE - 4, 0x01020304)
        for start in (PAGE - 3, PAGE, (1 << 63) - 1):
            with pytest.raises(Trap, match=f"4 bytes at {start} do not lie in") as error:
                instance.write_memory(start, b"1234")
            assert error.value.code == "memory_out_of_bounds"
        with pytest.raises(Trap):
            instance.write_memory(0, bytes(PAGE + 1))
        assert instance.memory(PAGE - 4) == b"\4\3\2\1"
        assert instance.memory(0, PAGE - 4) == bytes(PAGE - 4)
        instance.write_memory(PAGE, b"")
        unusable: list[Any] = [(-1, b""), (1 << 63, b""), (0.5, b""), (0, "a"), (0, 3), (0, [1])]
        for start, data in unusable:
            with pytest.raises(ConfigurationError):
                instance.write_memory(start, data)
        with pytest.raises(MissingExport):
            instance.write_memory(0, b"", name="count")
    with pytest.raises(InstanceClosed):
        instance.write_memory(0, b"")


def test_globals_are_read(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        instance.call("add", 0xFFFFFFFE)
        assert instance.read_global("count") == -2
        assert instance.read_global("ratio") == 0.5
        with pytest.raises(SignatureMismatch):
            instance.read_global("reference")
        with pytest.raises(MissingExport):
            instance.read_global("memory")


def test_usage_tells_what_was_used(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        assert instance.usage().calls == 0
        instance.call("spin_for", 10_000_000)
        with pytest.raises(Trap):
            instance.call("fail")
        usage = instance.usage()
        assert (usage.phase, usage.calls, usage.failures, usage.waiting) == ("idle", 2, 1, 0)
        assert usage.cpu_time > 0
        assert usage.wall_time > 0
        assert usage.resident
        assert usage.resident > 1 << 20
        assert [sample.calls for sample in usage.timeline][-1] == 2
        assert usage.timeline[-1].memory_used == PAGE
        future = instance.submit("spin")
        wait_for_spin(instance)
        assert instance.usage().phase == "busy"
        future.cancel()
        with pytest.raises(AttributeError):
            usage.calls = 3  # type: ignore[misc]
    assert instance.usage().phase == "ended"


# --- the mailbox ----------------------------------------------------------------------------------


def test_calls_of_two_threads_are_served_one_at_a_time_in_order(
    pool: Pool, counter: Module
) -> None:
    with pool.instance(counter) as instance:
        results: list[list[int]] = [[], []]

        def submit(mine: list[int]) -> None:
            futures = [instance.submit("increment") for _ in range(200)]
            mine += [future.result() for future in futures]

        threads = [threading.Thread(target=submit, args=(mine,)) for mine in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results[0] + results[1]) == list(range(1, 401))
        assert all(mine == sorted(mine) for mine in results)


def test_calls_behind_a_slow_one_wait_for_it(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        slow = instance.submit("spin_for", 200_000_000)
        behind = [instance.submit("increment") for _ in range(3)]
        assert instance.usage().waiting in (2, 3)
        assert [future.result() for future in behind] == [1, 2, 3]
        assert slow.done()
        assert slow.result() is None


def test_a_cancelled_call_is_over_wherever_it_is(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        running, waiting, last = (instance.submit(n) for n in ("spin", "increment", "increment"))
        wait_for_spin(instance)
        assert waiting.cancel()
        assert running.cancel()
        for future in (running, waiting):
            with pytest.raises(CancelledError):
                future.result()
        assert last.result() == 201
        assert instance.usage().restarts == 0


def test_a_timeout_counts_while_a_call_waits(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        running = instance.submit("spin")
        waiting = instance.submit("increment", timeout=0.05)
        with pytest.raises(DeadlineExceeded, match="timeout"):
            waiting.result()
        assert not running.done()
        wait_for_spin(instance)
        running.cancel()
        assert instance.call("increment") == 201


def test_a_full_mailbox_makes_submitters_wait(pool: Pool, counter: Module) -> None:
    with pool.instance(counter, mailbox=2) as instance:
        running, waiting = instance.submit("spin"), instance.submit("increment")
        late = instance.submit("increment", timeout=0.05)
        with pytest.raises(DeadlineExceeded):
            late.result()
        wait_for_spin(instance)
        timer = threading.Timer(0.1, running.cancel)
        timer.start()
        assert instance.submit("increment").result() == 202
        assert waiting.result() == 201
        timer.join()


def test_a_full_mailbox_raises_where_the_pool_does(cache: Path) -> None:
    with Pool(1, cache_dir=cache, when_full="raise") as pool:
        counter = pool.load(actor_guests.COUNTER.encode())
        with pool.instance(counter, mailbox=1) as instance:
            for expected in range(1, 20):
                assert instance.call("increment") == expected
            running = instance.submit("spin")
            with pytest.raises(QueueFull, match="mailbox"):
                instance.submit("increment")
            with pool.instance(counter, mailbox=1) as other:
                assert other.call("increment") == 1
            wait_for_spin(instance)
            running.cancel()
            assert instance.submit("increment").result() == 201


# --- its end --------------------------------------------------------------------------------------


def test_the_end_of_the_block_finishes_the_calls(pool: Pool, counter: Module) -> None:
    with pool.instance(counter) as instance:
        futures = [instance.submit("increment") for _ in range(20)]
    assert [future.result(0) for future in futures] == list(range(1, 21))
    instance.close()
    with pytest.raises(InstanceClosed, match="closed"):
        instance.call("increment")
    with pytest.raises(InstanceClosed):
        instance.memory()
    with pytest.raises(InstanceClosed):
        instance.monitor(print)


def test_the_calls_of_a_block_that_failed_are_cancelled(pool: Pool, counter: Module) -> None:
    futures: list[CallFuture] = []

    def block() -> None:
        with pool.instance(counter) as instance:
            futures.extend(instance.submit(name) for name in ("spin", "increment"))
            raise KeyError

    with pytest.raises(KeyError):
        block()
    for future in futures:
        assert isinstance(future.exception(0), Trap)


def test_submitters_that_wait_for_room_learn_of_the_end(pool: Pool, counter: Module) -> None:
    instance = pool.instance(counter, mailbox=1)
    instance.submit("spin")
    caught: list[BaseException] = []

    def submit() -> None:
        caught.append(instance.submit("increment").exception() or KeyError())

    thread = threading.Thread(target=submit)
    thread.start()
    time.sleep(0.05)
    instance.close(cancel=True)
    thread.join()
    assert isinstance(caught[0], InstanceClosed | Trap)


def test_an_instance_that_nobody_holds_ends(pool: Pool, counter: Module) -> None:
    instance = pool.instance(counter)
    pid = instance.usage().pid
    assert pid
    del instance
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.002)


def test_the_end_of_the_pool_finishes_the_calls_of_its_instances(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        instance = pool.instance(pool.load(actor_guests.COUNTER.encode()))
        futures = [instance.submit("increment") for _ in range(20)]
    assert [future.result(0) for future in futures] == list(range(1, 21))
    with pytest.raises(PoolClosed):
        instance.call("increment")
    instance.close()


def test_a_pool_that_is_shut_down_at_once_ends_its_instances(cache: Path) -> None:
    pool = Pool(1, cache_dir=cache)
    instance = pool.instance(pool.load(actor_guests.COUNTER.encode()))
    running, waiting = instance.submit("spin"), instance.submit("increment")
    pool.shutdown(cancel_futures=True)
    assert running.cancelled()
    assert waiting.cancelled()


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"restart": "always"}, "instance.restart"),
        ({"policy": 3}, "instance.policy"),
        ({"mailbox": 0}, "instance.mailbox"),
        ({"limits": 3}, "options.limits"),
        ({"capabilities": 3}, "options.capabilities"),
        ({"tenant": ""}, "options.tenant"),
        ({"on_restart": 3}, "instance.on_restart"),
        ({"on_output": 3}, "instance.on_output"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    pool: Pool, counter: Module, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        pool.instance(counter, **settings)
    assert error.value.field == field


def test_an_asynchronous_on_restart_is_refused(pool: Pool, counter: Module) -> None:
    async def rebuild(_: object) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="async"):
        pool.instance(counter, on_restart=rebuild)


def test_calls_that_do_not_fit_are_refused(pool: Pool, counter: Module, cache: Path) -> None:
    with pool.instance(counter) as instance:
        with pytest.raises(MissingExport, match="increment"):
            instance.call("incremet")
        with pytest.raises(SignatureMismatch):
            instance.call("add", "text")
        assert isinstance(instance.submit("add").exception(), SignatureMismatch)
        with pytest.raises(ConfigurationError, match="timeout"):
            instance.call("increment", timeout=-1)
        with pytest.raises(ConfigurationError, match="returns"):
            instance.call("increment", returns=[])  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no instance"):
            instance.link(3)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no instance"):
            instance.unlink(3)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="callable"):
            instance.monitor(3)  # type: ignore[arg-type]
        assert instance.call("increment") == 1
    with pytest.raises(TypeError, match=r"pool\.load"):
        pool.instance(counter["increment"])  # type: ignore[arg-type]
    command = pool.load(guest_commands.exits(0).encode())
    with pool.instance(command) as instance, pytest.raises(ConfigurationError, match=r"pool\.run"):
        instance.call("_start")
    with Pool(1, cache_dir=cache) as other, pytest.raises(ConfigurationError, match="another pool"):
        other.instance(counter)


def test_there_are_as_many_instances_as_the_pool_may_have(cache: Path) -> None:
    with Pool(1, cache_dir=cache, max_instances=2) as pool:
        counter = pool.load(actor_guests.COUNTER.encode())
        instances = [pool.instance(counter) for _ in range(2)]
        with pytest.raises(PoolError, match="max_instances"):
            pool.instance(counter)
        instances[0].close()
        with pool.instance(counter) as third:
            assert third.call("increment") == 1
