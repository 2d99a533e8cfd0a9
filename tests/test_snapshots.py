"""What a warmed instance was like is what the instances of its snapshot begin with."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import actor_guests
import pytest
import trio
from leftovers import nothing_left

from wasm_sandbox import (
    Capabilities,
    CompilationLimit,
    Filesystem,
    InstanceClosed,
    InvalidModule,
    Limits,
    MemoryLimitExceeded,
    MissingImport,
    Pool,
    Snapshot,
    Trap,
    UnsupportedModule,
    WorkerLost,
    open_pool,
)
from wasm_sandbox.protocol import messages
from wasm_sandbox.supervisor.calls import CallRecord
from wasm_sandbox.supervisor.listener import Listener
from wasm_sandbox.supervisor.worker import Worker

pytestmark = pytest.mark.usefixtures("patience")

HEAP = """(module (memory (export "memory") 1 800)
  (global $next (mut i32) (i32.const 8)) (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
  (func (export "ready") (result i32) (global.get $ready))
  (func (export "push") (param i32) (result i32)
    (if (i32.gt_u (i32.add (global.get $next) (i32.const 4))
        (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.const 1)))))
    (i32.store (global.get $next) (local.get 0))
    (global.set $next (i32.add (global.get $next) (i32.const 4)))
    (global.get $next))
  (func (export "fill") (param i32)
    (loop (drop (memory.grow (i32.const 1)))
      (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536))
        (i32.const 7) (i32.const 65536))
      (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "pages") (result i32) (memory.size))
  (func (export "at") (param i32) (result i32) (i32.load (local.get 0))))"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    """A pool that the tests of this file share."""
    with nothing_left(), Pool(1, cache_dir=cache) as made:
        yield made


def warmed(pool: Pool) -> Snapshot:
    """Of a heap with two numbers in it and one more page."""
    with pool.instance(pool.load(HEAP.encode())) as instance:
        instance.call("push", 11)
        instance.call("push", 22)
        instance.call("fill", 1)
        return instance.snapshot()


def test_fresh_calls_see_the_warmed_state_and_share_nothing(pool: Pool) -> None:
    module = pool.load(warmed(pool))
    for _ in range(2):
        assert module["push"](33) == 20
        assert module["at"](12) == 22
        assert module["at"](16) == 0
        assert module["pages"]() == 2
        assert module["at"](65536) == 0x07070707
        assert module["ready"]() == 1
    assert "_initialize" not in module.exports


def test_instances_and_their_restarts_begin_there(pool: Pool) -> None:
    with pool.instance(pool.load(warmed(pool)), restart="permanent") as instance:
        assert instance.call("push", 33) == 20
        usage = instance.usage()
        assert usage.pid
        os.kill(usage.pid, signal.SIGKILL)
        assert instance.call("push", 44) == 20
        assert instance.usage().restarts == 1
        assert (instance.call("at", 12), instance.call("at", 16)) == (22, 44)


def test_the_instance_goes_on_and_can_be_caught_again(pool: Pool) -> None:
    with pool.instance(pool.load(HEAP.encode())) as instance:
        first, same = instance.snapshot(), instance.snapshot()
        instance.call("push", 5)
        second = instance.snapshot()
    assert first == same != second
    with pool.instance(pool.load(second)) as instance:
        instance.call("push", 6)
        third = instance.snapshot()
    assert [pool.load(each)["at"](12) for each in (first, second, third)] == [0, 0, 6]


def test_it_is_a_module_like_any_other(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "heap.wat").write_text(HEAP)
    with pool.instance(pool.load(tmp_path / "heap.wat")) as instance:
        snapshot = instance.snapshot()
    module = pool.load(snapshot)
    assert (snapshot.name, module.name) == ("heap.wat", "heap.wat")
    assert module.sha256 == snapshot.sha256
    assert pool.load(snapshot) is module
    assert repr(snapshot) == "Snapshot(name='heap.wat')"
    (tmp_path / "warm.wasm").write_bytes(snapshot.wasm)
    assert pool.load(tmp_path / "warm.wasm").sha256 == snapshot.sha256


def test_other_pools_take_it_too(pool: Pool, cache: Path) -> None:
    snapshot = warmed(pool)
    with Pool(1, cache_dir=cache) as other:
        assert other.load(snapshot)["at"](8) == 11


def test_wasi_and_host_functions_stay_imports(pool: Pool) -> None:
    with pool.instance(pool.load(actor_guests.COUNTER.encode())) as instance:
        instance.call("add", 40)
        snapshot = instance.snapshot()
    assert pool.load(snapshot)["increment"]() == 41

    source = b"""(module (import "env" "f" (func $f (result i32)))
      (global $n (mut i32) (i32.const 0))
      (func (export "ask") (result i32)
        (global.set $n (i32.add (global.get $n) (call $f))) (global.get $n)))"""
    lent: dict[str, dict[str, Any]] = {"env": {"f": lambda: 10}}
    with pool.instance(pool.load(source, imports=lent)) as instance:
        assert instance.call("ask") == 10
        snapshot = instance.snapshot()
    with pytest.raises(MissingImport):
        pool.load(snapshot)["ask"]()
    assert pool.load(snapshot, imports={"env": {"f": lambda: 7}})["ask"]() == 17


def test_it_waits_its_turn(pool: Pool) -> None:
    with (
        pool.instance(pool.load(actor_guests.COUNTER.encode())) as instance,
        ThreadPoolExecutor(1) as threads,
    ):
        spinning = instance.submit("spin_for", 200_000_000)
        added = instance.submit("add", 5)
        caught = threads.submit(instance.snapshot)
        snapshot = caught.result()
        assert spinning.done()
        assert added.done()
    assert pool.load(snapshot)["increment"]() == 6


def test_it_does_not_wait_longer_than_a_cancelled_scope(cache: Path) -> None:
    async def main() -> None:
        async with (
            open_pool(workers=1, cache_dir=cache) as pool,
            pool.instance(await pool.load(actor_guests.COUNTER.encode())) as instance,
        ):
            await instance.call("add", 5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(instance.call, "spin")
                while instance.usage().phase != "busy":
                    await trio.sleep(0.001)
                with trio.move_on_after(0.05) as scope:
                    await instance.snapshot()
                assert scope.cancelled_caught
                nursery.cancel_scope.cancel()
            warm = await pool.load(await instance.snapshot())
            assert await pool.call(warm["increment"]) == 201

    trio.run(main)


def at_the_first_piece(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[CallRecord], None]
) -> None:
    """Do something to the call of a snapshot when its first piece arrives."""
    push = Listener._push  # pyright: ignore[reportPrivateUsage]

    def first_push(listener: Listener, message: messages.Push) -> None:
        monkeypatch.setattr(Listener, "_push", push)
        action(listener._records[message.call])  # pyright: ignore[reportPrivateUsage]
        push(listener, message)

    monkeypatch.setattr(Listener, "_push", first_push)


def test_a_worker_that_dies_over_it_takes_the_state_along(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool.instance(pool.load(HEAP.encode()), restart="permanent") as instance:
        instance.call("fill", 200)
        pid = instance.usage().pid
        assert pid
        at_the_first_piece(monkeypatch, lambda _: os.kill(pid, signal.SIGKILL))
        with pytest.raises(WorkerLost) as lost:
            instance.snapshot()
        assert lost.value.certificate is not None
        assert instance.call("pages") == 1


def test_one_that_is_cancelled_leaves_the_instance_alive(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(record: CallRecord) -> None:
        record.stop = Trap("interrupt", "the call was cancelled")
        assert isinstance(record.worker, Worker)
        record.worker.interrupt(record)

    with pool.instance(pool.load(HEAP.encode())) as instance:
        instance.call("fill", 200)
        at_the_first_piece(monkeypatch, stop)
        with pytest.raises(Trap, match="cancelled"):
            instance.snapshot()
        assert instance.call("pages") == 201
        assert instance.usage().restarts == 0
        assert len(instance.snapshot().wasm) > 200 * 65536


def test_the_size_of_modules_is_its_limit(cache: Path) -> None:
    with (
        Pool(1, cache_dir=cache, limits=Limits(module_size=1 << 20)) as pool,
        pool.instance(pool.load(HEAP.encode())) as instance,
    ):
        instance.call("fill", 17)
        with pytest.raises(CompilationLimit, match="1,048,576 are allowed") as refused:
            instance.snapshot()
        assert refused.value.limit == "module_size"
        assert instance.call("pages") == 18
        assert instance.usage().restarts == 0
        with pytest.raises(CompilationLimit):
            pool.load(Snapshot("large", bytes(1 << 21)))


def test_a_large_memory_fits_beside_its_snapshot(cache: Path) -> None:
    with (
        Pool(1, cache_dir=cache, limits=Limits(memory=48 << 20)) as pool,
        pool.instance(pool.load(HEAP.encode())) as instance,
    ):
        instance.call("fill", 700)
        snapshot = instance.snapshot()
        module = pool.load(snapshot)
        assert (module["pages"](), module["at"](700 << 16)) == (701, 0x07070707)
        small = module["pages"].options(limits=Limits(memory=1 << 20))
        with pytest.raises(MemoryLimitExceeded):
            small()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            b"""(module (table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))
              (func (export "f")))""",
            "changes a table",
        ),
        (b"(component)", "is a component"),
        (b'(module (global (mut funcref) (ref.null func)) (func (export "f")))', "funcref"),
    ],
)
def test_what_cannot_be_caught_is_refused_and_the_instance_lives_on(
    pool: Pool, source: bytes, message: str
) -> None:
    with pool.instance(pool.load(source)) as instance:
        with pytest.raises(UnsupportedModule, match=message):
            instance.snapshot()
        if "f" in instance.module:
            assert instance.call("f") is None
        assert instance.usage().restarts == 0


def test_open_files_are_no_part_of_it(pool: Pool, tmp_path: Path) -> None:
    granted = Capabilities(filesystem=Filesystem.read_write(str(tmp_path), at="/"))
    module = pool.load(actor_guests.LOGGER.encode())
    with pool.instance(module, capabilities=granted) as instance:
        instance.snapshot()
        instance.call("open")
        with pytest.raises(UnsupportedModule, match="1 open files"):
            instance.snapshot()


def test_an_instance_that_is_over_gives_none(pool: Pool) -> None:
    instance = pool.instance(pool.load(HEAP.encode()))
    instance.close()
    with pytest.raises(InstanceClosed):
        instance.snapshot()


@pytest.mark.parametrize("wasm", [b"", b"(module", b"\0asm\1\0\0\0\xff", os.urandom(100)])
def test_what_a_hostile_worker_hands_over_is_read_by_the_compiler_alone(
    pool: Pool, wasm: bytes
) -> None:
    with pytest.raises(InvalidModule):
        pool.load(Snapshot("hostile", wasm))


def test_many_at_once_are_each_the_state_of_some_moment(pool: Pool) -> None:
    with pool.instance(pool.load(HEAP.encode())) as instance, ThreadPoolExecutor(4) as threads:
        for value in range(1, 5):
            instance.submit("push", value)
        caught = [each.result() for each in [threads.submit(instance.snapshot) for _ in range(4)]]
    modules = [pool.load(each) for each in caught]
    assert [[module["at"](8 + 4 * at) for at in range(4)] for module in modules] == [
        [1, 2, 3, 4]
    ] * 4
