"""Exports that take and give objects of the program's: resources that it provides."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from fakes import until
from importing_components import CARRIER, DATABASE, DB

from wasm_sandbox import (
    BadResult,
    DeadlineExceeded,
    Module,
    Pool,
    PoolClosed,
    SignatureMismatch,
    Trap,
    WorkerLost,
    open_pool,
)
from wasm_sandbox.protocol import wit
from wasm_sandbox.protocol.wit import Signature, World
from wasm_sandbox.supervisor import leftovers, objects
from wasm_sandbox.supervisor.imports import BadArgument
from wasm_sandbox.supervisor.objects import Luggage, Objects, ResourceKind
from wasm_sandbox.wit_codec import WitCodec


class Connection:
    """A resource as a class."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = 0

    def add_up(self, n: int) -> int:
        self.size += n
        return self.size

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache) as pool:
        yield pool


def load(pool: Any) -> Any:
    return pool.load(CARRIER, imports={DB: {"connection": Connection}})


@pytest.fixture(scope="module")
def carrier(pool: Pool) -> Module:
    module = load(pool)
    assert isinstance(module, Module)
    return module


def pid_of(instance: Any) -> int:
    pid = instance.usage().pid
    assert isinstance(pid, int)
    return pid


@pytest.fixture
def thing() -> Connection:
    return Connection(40)


def test_what_is_lent_is_used_and_stays_the_programs(carrier: Module, thing: Connection) -> None:
    value, receipt = carrier["look"].detailed(thing, 2)
    assert (value, thing.size, receipt.host_calls) == (42, 42, 1)
    assert carrier["finish"](thing, 1) == 43  # the one that follows would see a ``close``
    assert thing.closed == 1


def test_what_is_given_is_closed_when_the_guest_drops_it(
    carrier: Module, thing: Connection
) -> None:
    assert carrier["finish"](thing, 2) == 42
    assert thing.closed == 1


@pytest.mark.parametrize("name", ["leave", "trap"])
def test_what_is_given_and_left_is_closed_once_after_the_call(
    carrier: Module, thing: Connection, name: str
) -> None:
    if name == "trap":
        with pytest.raises(Trap):
            carrier[name](thing)
    else:
        carrier[name](thing)
    until(lambda: thing.closed == 1)


def test_what_the_guest_gives_back_is_the_same_object(carrier: Module, thing: Connection) -> None:
    assert carrier["give-back"](thing) is thing
    assert carrier["give-back"].detailed(thing)[0] is thing
    assert carrier["look"](thing, 1) == 41
    assert thing.closed == 0


def test_a_result_without_objects_is_read_by_who_waits_for_it(
    carrier: Module, thing: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[int] = []
    unpack = WitCodec.unpack

    def reads(self: WitCodec, *values: Any) -> Any:
        readers.append(threading.get_ident())
        return unpack(self, *values)

    monkeypatch.setattr(WitCodec, "unpack", reads)
    assert carrier["look"](thing, 1) == 41
    assert carrier["finish"](thing, 1) == 42
    assert readers == [threading.get_ident()] * 2  # it may be large, and others wait for the pool


def test_futures_and_maps_pass_objects(pool: Pool, carrier: Module) -> None:
    things = [Connection(size) for size in range(20)]
    futures = [pool.submit(carrier["give-back"], each) for each in things]
    assert [future.result() for future in futures] == things
    assert list(pool.map(carrier["look"], things, [1] * 20)) == list(range(1, 21))
    assert [each.closed for each in things] == [0] * 20


@pytest.mark.parametrize("name", ["give-lent", "leave-lent"])
def test_what_is_only_lent_cannot_be_kept_or_given_away(
    pool: Pool, carrier: Module, thing: Connection, name: str
) -> None:
    with pytest.raises(Trap) as caught:
        carrier[name](thing)
    assert caught.value.code == "bad_value"
    with pool.instance(carrier) as instance:
        with pytest.raises(Trap):
            instance.call(name, thing)
        assert instance.call("look", thing, 2) == 42
    assert thing.closed == 0


@pytest.mark.parametrize("wrong", [None, 7, "connection", object()])
def test_what_is_no_such_object_is_refused(carrier: Module, wrong: Any) -> None:
    with pytest.raises(SignatureMismatch, match="argument 1 must be a Connection"):
        carrier["look"](wrong, 1)


def test_an_instance_keeps_what_it_is_given(pool: Pool, carrier: Module, thing: Connection) -> None:
    other = Connection(7)
    with pool.instance(carrier) as instance:
        instance.call("keep", thing)
        assert instance.call("look", other, 1) == 8
        assert instance.call("add-kept", 2) == 42
        assert instance.call("release") is thing
        instance.call("keep", other)
        assert (thing.closed, other.closed) == (0, 0)
    until(lambda: other.closed == 1)
    assert thing.closed == 0


def test_an_instance_that_dies_leaves_what_it_was_given_closed(
    pool: Pool, carrier: Module, thing: Connection
) -> None:
    with pool.instance(carrier, restart="temporary") as instance:
        instance.call("keep", thing)
        os.kill(pid_of(instance), signal.SIGKILL)
        until(lambda: thing.closed == 1)


def test_a_call_that_never_begins_closes_what_it_was_given(
    pool: Pool, carrier: Module, thing: Connection
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Connection):
        def add_up(self, n: int) -> int:
            begun.set()
            go_on.wait(60)
            return n

    with pool.instance(carrier) as instance:
        first = instance.submit("look", Slow(1), 5)
        begun.wait(60)
        assert instance.submit("leave", thing).cancel()
        until(lambda: thing.closed == 1)
        go_on.set()
        assert first.result() == 5


def test_a_refused_call_leaves_what_it_was_to_give(cache: Path, thing: Connection) -> None:
    with Pool(1, cache_dir=cache) as pool:
        carrier = load(pool)
        with pytest.raises(SignatureMismatch):
            carrier["finish"](thing, "two")
    with pytest.raises(PoolClosed):
        carrier["finish"](thing, 2)
    assert thing.closed == 0


def test_a_worker_that_dies_closes_what_a_call_has_given(cache: Path) -> None:
    class Fatal(Connection):
        def add_up(self, n: int) -> int:
            (worker,) = mine.workers()
            os.kill(worker.pid, signal.SIGKILL)
            return n

    thing = Fatal(1)
    with Pool(1, cache_dir=cache) as mine:
        with pytest.raises(WorkerLost):
            load(mine)["finish"](thing, 2)
        until(lambda: thing.closed == 1)


@pytest.mark.parametrize(("name", "closed"), [("look", 0), ("finish", 1)])
def test_a_call_that_begins_again_brings_what_it_brought(
    cache: Path, name: str, closed: int
) -> None:
    class FatalOnce(Connection):
        times = 0

        def add_up(self, n: int) -> int:
            size = super().add_up(n)
            self.times += 1
            if self.times == 1:
                (worker,) = mine.workers()
                os.kill(worker.pid, signal.SIGKILL)
            return size

    thing = FatalOnce(1)
    with Pool(1, cache_dir=cache) as mine:
        value, receipt = load(mine)[name].options(retries=1).detailed(thing, 2)
        assert (value, receipt.attempts, thing.times) == (5, 2, 2)
    assert thing.closed == closed


def test_what_a_lost_attempt_has_made_is_not_there_again() -> None:
    kind, brought = ResourceKind("connection"), Luggage(None)
    given = brought.pack(lambda: objects.held.get().add(kind, "given"))
    own = brought.brought.add(kind, "made")
    others = brought.brought.beside(brought.numbers)
    assert (others.numbers, brought.brought.numbers) == ({own}, {given})


def test_with_trio_it_is_the_same(cache: Path, thing: Connection) -> None:
    async def main() -> None:
        async with open_pool(workers=1, cache_dir=cache) as pool:
            carrier = await load(pool)
            assert await pool.call(carrier["give-back"], thing) is thing
            async with pool.instance(carrier) as instance:
                assert await instance.call("look", thing, 2) == 42
                await instance.call("keep", thing)
                assert await instance.call("release") is thing

    trio.run(main)
    assert thing.closed == 0


def test_a_worker_cannot_name_what_its_call_has_not_given() -> None:
    kind, others, own = ResourceKind("connection"), Objects(), Objects()
    lent, foreign = own.add(kind, "lent", lent=True), others.add(kind, "another's")
    world = World(resources=("connection",), types=(wit.Own(0), wit.List(0)), names=("", ""))
    codec = WitCodec("f", world, Signature(result=1), {0: kind})
    given = own.add(kind, "given")
    forged: list[object] = [lent, foreign, given, 0, -1, 1 << 63, 1.0, "one", [], {}, None, True]
    for number in forged:
        luggage = Luggage(codec.unpack)
        luggage.take_back(own, b"", msgspec.msgpack.encode([given, number]))
        assert isinstance(luggage.error, BadResult)
        assert own.get(kind, given) == "given"
    luggage = Luggage(codec.unpack)
    luggage.take_back(own, b"", msgspec.msgpack.encode([given]))
    assert luggage.value == ["given"]
    with pytest.raises(BadArgument):
        own.get(kind, given)


def test_a_call_brings_no_more_than_an_instance_may_have(
    pool: Pool, carrier: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 1)
    first, second = Connection(1), Connection(2)
    with pool.instance(carrier) as instance:
        instance.call("keep", first)
        with pytest.raises(Trap, match="no resource"):
            instance.call("finish", second, 1)
        until(lambda: second.closed == 1)
        assert instance.call("release") is first
    monkeypatch.setattr(objects, "MAX_OBJECTS", 0)
    with pytest.raises(SignatureMismatch, match="resources"):
        carrier["look"](first, 1)


class Hanging(Connection):
    """Closes when it may."""

    go_on = threading.Event()
    made = 0

    def __init__(self, size: int) -> None:
        super().__init__(size)
        Hanging.made += 1

    @classmethod
    def how_many(cls) -> int:
        return cls.made

    def close(self) -> None:
        self.go_on.wait(60)
        super().close()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two things may wait to be closed."""
    monkeypatch.setattr(leftovers, "MOST", 2)
    Hanging.go_on.clear()
    Hanging.made = 0
    yield
    Hanging.go_on.set()


def test_what_is_brought_to_an_instance_that_has_ended_is_still_there_to_be_closed() -> None:
    ended, brought = Objects(), Objects()
    number = brought.add(kind := ResourceKind("connection"), "given")
    ended.close()
    ended.adopt(brought)
    assert brought.get(kind, number) == "given"


@pytest.mark.usefixtures("few")
def test_a_tenants_guests_get_no_more_while_too_much_waits_to_be_closed(cache: Path) -> None:
    with Pool(2, cache_dir=cache) as pool:
        database = pool.load(DATABASE, imports={DB: {"connection": Hanging, "merge": max}})
        leave, other = database["leave"], database["leave"].options(tenant="b")
        leave(1)
        leave(1)
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                leave.options(timeout=0.2)(1)
        with pool.instance(database) as instance, pytest.raises(DeadlineExceeded):
            instance.call("leave", 1, timeout=0.2)
        assert Hanging.made == 2
        other(1)  # of another tenant: nobody waits for the others
        waiting = pool.submit(leave, 1)
        assert database["many"]() == 3  # it gives nothing
        Hanging.go_on.set()
        waiting.result()
        leave(1)


@pytest.mark.usefixtures("few")
def test_a_call_that_brings_something_waits_while_too_much_waits_to_be_closed(
    cache: Path, thing: Connection
) -> None:
    with Pool(1, cache_dir=cache) as pool:
        carrier = load(pool)
        things = [Hanging(each) for each in range(5)]
        for each in things[:2]:
            carrier["leave"](each)
        assert carrier["look"](thing, 1) == 41  # what is lent is not closed
        with pytest.raises(DeadlineExceeded):
            carrier["leave"].options(timeout=0.2)(things[2])
        cancelled = pool.submit(carrier["leave"], things[3])
        assert cancelled.cancel()
        waiting = pool.submit(carrier["leave"], things[4])
        Hanging.go_on.set()
        waiting.result()
        until(lambda: [each.closed for each in things] == [1] * 5)


@pytest.mark.usefixtures("few")
def test_nothing_of_a_call_that_has_ended_waits_for_room(cache: Path) -> None:
    async def main() -> None:
        async with open_pool(workers=1, cache_dir=cache) as pool:
            carrier = await load(pool)
            for each in range(2):
                await pool.call(carrier["leave"], Hanging(each))
            await trio.testing.wait_all_tasks_blocked()
            before = trio.lowlevel.current_statistics().tasks_living
            for each in range(5):
                with pytest.raises(DeadlineExceeded):
                    await pool.call(carrier["leave"].options(timeout=0.05), Hanging(each))
            await trio.testing.wait_all_tasks_blocked()
            closing = trio.lowlevel.current_statistics().tasks_living - before
            assert closing == 5  # one for each of what was given
            Hanging.go_on.set()

    trio.run(main)
