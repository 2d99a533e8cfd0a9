"""Resources that the program provides: components hold handles to its objects."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec
import pytest
import trio
from fakes import until
from importing_components import DATABASE, DB
from trio.testing import MockClock

from wasm_sandbox import (
    Capabilities,
    ConfigurationError,
    Grants,
    HostFunction,
    HostFunctionError,
    MissingImport,
    Module,
    Pool,
    SignatureMismatch,
    Trap,
)
from wasm_sandbox.object_handles import object_handle
from wasm_sandbox.protocol import wit
from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.protocol.messages import LentFunction
from wasm_sandbox.supervisor import leftovers, objects
from wasm_sandbox.supervisor.imports import BadArgument, HostImport
from wasm_sandbox.supervisor.leftovers import AT_ONCE, Leftovers
from wasm_sandbox.supervisor.rate import Rate
from wasm_sandbox.wit_host import HostWitCodec
from wasm_sandbox.wit_types import WitFunction


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(1, cache_dir=cache) as pool:
        yield pool


class Connection:
    """A resource as a class."""

    made: ClassVar[list[Connection]] = []

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = 0
        self.made.append(self)

    def add_up(self, n: int) -> int:
        return self.size + n

    @classmethod
    def how_many(cls) -> int:
        return len(cls.made)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def forget() -> None:
    Connection.made.clear()


def merge(a: Connection, b: Connection) -> Connection:
    return Connection(a.size * 10 + b.size)


GIVEN: dict[str, Any] = {"connection": Connection, "merge": merge}


@pytest.fixture(scope="module")
def database(pool: Pool) -> Module:
    return pool.load(DATABASE, imports={DB: GIVEN})


def closed() -> list[int]:
    return [each.closed for each in Connection.made]


def test_a_guest_makes_uses_and_drops_objects_of_a_class(database: Module) -> None:
    value, receipt = database["use"].detailed(40, 2)
    assert value == 42
    assert receipt.host_calls == 3
    assert closed() == [1]
    assert database["many"]() == 1


def test_what_is_left_is_closed_when_the_call_ends(database: Module) -> None:
    database["leave"](1)
    until(lambda: closed() == [1])


def test_what_is_left_is_closed_when_the_call_fails(database: Module) -> None:
    with pytest.raises(Trap):
        database["merge-itself"]()
    until(lambda: closed() == [1])


def test_what_is_given_away_is_the_programs_and_what_is_lent_is_not(database: Module) -> None:
    assert database["merge"](1, 2) == 12
    until(lambda: closed() == [0, 1, 1])


def test_a_handle_that_the_guest_does_not_have_is_a_trap(database: Module) -> None:
    with pytest.raises(Trap, match="7 is no handle") as caught:
        database["add-to"](7)
    assert caught.value.code == "bad_value"


def test_what_is_lent_and_given_away_at_once_is_a_trap(database: Module) -> None:
    with pytest.raises(Trap) as caught:
        database["merge-itself"]()
    assert caught.value.code == "bad_value"


def test_an_instance_keeps_its_resources_until_it_ends(pool: Pool, database: Module) -> None:
    with pool.instance(database) as instance:
        instance.call("leave", 5)
        assert instance.call("add-kept", 3) == 8
        with pytest.raises(Trap):
            instance.call("add-to", 99)
        assert instance.call("add-kept", 4) == 9
        assert closed() == [0]
        instance.call("release")
        assert closed() == [1]
        with pytest.raises(Trap):
            instance.call("add-kept", 4)
        instance.call("leave", 6)
        assert closed() == [1, 0]
    until(lambda: closed() == [1, 1])


def test_an_instance_that_is_killed_leaves_nothing_open(pool: Pool, database: Module) -> None:
    with pool.instance(database, restart="temporary") as instance:
        instance.call("leave", 5)
        pid = instance.usage().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: closed() == [1])


def test_a_failed_call_gives_back_what_was_lent(pool: Pool) -> None:
    fails = [True]

    class Failing(Connection):
        def add_up(self, n: int) -> int:
            if fails.pop():
                raise LookupError
            return n

    given = GIVEN | {"connection": Failing, "merge": lambda a, b: a}
    with pool.instance(pool.load(DATABASE, imports={DB: given})) as instance:
        instance.call("leave", 5)
        with pytest.raises(HostFunctionError):
            instance.call("add-kept", 1)
        instance.call("release")
        assert closed() == [1]


def test_a_pool_that_ends_closes_what_is_left(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        instance = pool.instance(pool.load(DATABASE, imports={DB: GIVEN}))
        instance.call("leave", 5)
    assert closed() == [1]


def test_guests_do_not_see_each_others_objects(pool: Pool, database: Module) -> None:
    with pool.instance(database) as one, pool.instance(database) as two:
        assert one.call("leave", 1) == two.call("leave", 2) == 1
        assert (one.call("add-kept", 0), two.call("add-kept", 0)) == (1, 2)


def test_methods_may_be_coroutines_and_have_bounds(pool: Pool) -> None:
    class Slow(Connection):
        async def add_up(self, n: int) -> int:  # type: ignore[override]
            return self.size * n

        async def close(self) -> None:  # type: ignore[override]
            self.closed += 1

    function = HostFunction(Slow, timeout=5.0, rate=1000)
    module = pool.load(DATABASE, imports={DB: GIVEN | {"connection": function}})
    assert module["use"](6, 7) == 42
    module["leave"](1)
    until(lambda: closed() == [1, 1])


def test_a_resource_may_be_given_as_functions(pool: Pool) -> None:
    dropped: list[Any] = []
    functions: dict[str, Any] = {
        "[constructor]connection": lambda size: [size],
        "[method]connection.add_up": lambda thing, n: thing[0] + n,
        "[static]connection.how-many": lambda: 5,
        "[resource-drop]connection": dropped.append,
        "merge": lambda a, b: a + b,
    }
    module = pool.load(DATABASE, imports={"docs:db/api": functions})
    assert (module["use"](1, 2), module["many"](), module["merge"](4, 5)) == (3, 5, 4)
    until(lambda: sorted(map(len, dropped)) == [1, 1, 2])


class Plain:
    """A resource that nothing has to be done for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def add_up(self, n: int) -> int:
        return self.size + n

    @staticmethod
    def how_many() -> int:
        return 1


def test_without_close_nothing_is_called(pool: Pool) -> None:
    given: dict[str, Any] = {"connection": Plain, "merge": lambda a, _: a}
    module = pool.load(DATABASE, imports={DB: given})
    assert module["use"](1, 2) == 3
    module["leave"](1)


def test_an_object_of_another_class_is_no_resource(pool: Pool) -> None:
    module = pool.load(DATABASE, imports={DB: GIVEN | {"merge": lambda a, b: "text"}})
    with pytest.raises(HostFunctionError, match="the result must be a Connection, as the resource"):
        module["merge"](1, 2)


def test_a_close_that_fails_or_hangs_harms_nobody(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    event = threading.Event()

    def drop(thing: Plain) -> None:
        if thing.size:
            raise LookupError("nothing to close")
        event.wait()

    given: dict[str, Any] = {
        "connection": Plain,
        "[resource-drop]connection": HostFunction(drop, timeout=0.05),
        "merge": lambda a, _: a,
    }
    module = pool.load(DATABASE, imports={DB: given})
    module["leave"](1)
    module["leave"](0)
    until(lambda: "nothing to close" in caplog.text and "not done after" in caplog.text)
    event.set()
    assert module["many"]() == 1


def test_a_guest_that_drops_gets_what_close_raises(pool: Pool) -> None:
    class Bad(Connection):
        def close(self) -> None:
            raise LookupError

    module = pool.load(DATABASE, imports={DB: GIVEN | {"connection": Bad}})
    with pytest.raises(HostFunctionError, match=r"\[resource-drop\]connection raised LookupError"):
        module["use"](1, 1)


class Lasting:
    """The things of instances, as they are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[objects.Objects] = []
        begin = objects.Objects.__init__

        def made(each: objects.Objects) -> None:
            begin(each)
            self.all.append(each)

        monkeypatch.setattr(objects.Objects, "__init__", made)

    def count(self) -> int:
        return sum(len(each._things) for each in self.all)


RESULTS = b"""(component
  (import "docs:db/api" (instance $db
    (export "connection" (type $c (sub resource)))
    (export "all" (func (result (tuple (own $c) (own $c) string))))))
  (alias export $db "connection" (type $c))
  (core module $libc
    (memory (export "memory") 20)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64)))
  (core instance $libc (instantiate $libc))
  (core func $all (canon lower (func $db "all") (memory (core memory $libc "memory"))
    (realloc (core func $libc "realloc"))))
  (core module $m
    (import "h" "all" (func $all (param i32)))
    (func (export "f") (call $all (i32.const 16))))
  (core instance $i (instantiate $m (with "h" (instance (export "all" (func $all))))))
  (func (export "f") (canon lift (core func $i "f"))))"""


@pytest.mark.parametrize(
    ("text", "error"),
    [(None, "the result"), ("x" * (1 << 26), "can cross"), ("late", "longer than its timeout")],
)
def test_a_kept_instance_has_nothing_of_a_result_that_fails(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, text: str | None, error: str
) -> None:
    lasting, event = Lasting(monkeypatch), threading.Event()
    answers: list[Any] = [text]

    def everything() -> tuple[Connection, Connection, Any]:
        answer = answers.pop() if answers else "well"
        if answer == "late":
            event.wait()
        return Connection(1), Connection(2), answer

    given: dict[str, Any] = {
        "connection": Connection,
        "all": HostFunction(everything, timeout=0.2 if text == "late" else 10.0),
    }
    with pool.instance(pool.load(RESULTS, imports={"docs:db/api": given})) as instance:
        with pytest.raises(HostFunctionError, match=error):
            instance.call("f")
        event.set()
        if text == "late":
            until(lambda: len(Connection.made) == 2)
        assert lasting.count() == 0
        instance.call("f")
        assert lasting.count() == 2
    until(lambda: closed() == [0, 0, 1, 1])


def test_what_a_function_adds_while_it_is_given_up_is_taken_back() -> None:
    kind, those = objects.ResourceKind("connection"), objects.Objects()
    kept = objects.Turn(those).add(kind, "kept")
    turn = objects.Turn(those)
    number = turn.add(kind, "early")
    turn.undo()
    with pytest.raises(BadArgument):
        those.get(kind, number)
    with pytest.raises(BadArgument, match="given up"):
        turn.add(kind, "late")
    with pytest.raises(BadArgument):
        those.get(kind, number + 1)
    assert those.get(kind, kept) == "kept"


def test_a_function_that_was_given_up_before_it_read_its_arguments_takes_nothing() -> None:
    kind, those = objects.ResourceKind("connection"), objects.Objects()
    number = those.add(kind, "given")
    owned = object_handle(kind, wit.Own(0))
    codec = HostWitCodec("docs:db/api", "merge", [owned], None, WitFunction(()))
    data = msgspec.msgpack.encode([number])
    turn = objects.Turn(those)

    def unpack() -> list[Any]:
        objects.held.set(turn)
        return codec.unpack(b"", data)

    turn.undo()
    with pytest.raises(BadArgument, match="given up"):
        copy_context().run(unpack)
    assert those.get(kind, number) == "given"
    turn = objects.Turn(those)
    assert copy_context().run(unpack) == ["given"]
    with pytest.raises(BadArgument):
        those.get(kind, number)


def test_what_guests_have_left_takes_few_threads_and_turns() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            running, most, order = 0, 0, list[str]()

            def call_of(guest: str) -> Any:
                async def call(_slots: bytes, _data: bytes) -> tuple[bytes, bytes]:
                    nonlocal running, most
                    order.append(guest)
                    running += 1
                    most = max(most, running)
                    await trio.sleep(0.01)
                    running -= 1
                    return b"", b""

                return call

            leftovers = Leftovers(nursery.start_soon)
            for guest, count in [("greedy", 40)] * 10 + [("modest", 1)]:
                left = objects.Objects()
                shape = LentFunction("docs:a/b", "drop", FunctionType((), ()), component=True)
                drop = HostImport(shape=shape, timeout=5.0, rate=Rate(1000), call=call_of(guest))
                for _ in range(count):
                    left.add(objects.ResourceKind("connection", drop), object())
                leftovers.take(left, None)
            await leftovers.wait()
            assert (running, most, len(order)) == (0, AT_ONCE, 401)
            assert order.index("modest") < 30

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_what_one_tenant_leaves_does_not_wake_the_guests_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "MOST", 20)
    looks = Counter[str | None]()

    class Counting(Leftovers):
        def has_room(self, tenant: str | None) -> bool:
            looks[tenant] += 1
            return super().has_room(tenant)

    async def main() -> None:
        async def hangs(_slots: bytes, _data: bytes) -> tuple[bytes, bytes]:
            await trio.sleep_forever()
            raise AssertionError

        async def closes(_slots: bytes, _data: bytes) -> tuple[bytes, bytes]:
            closed.append(1)
            return b"", b""

        def leave(call: Any, tenant: str) -> None:
            left = objects.Objects()
            drop = HostImport(shape=shape, timeout=60.0, rate=Rate(1000), call=call)
            for _ in range(20):
                left.add(objects.ResourceKind("connection", drop), object())
            waiting.take(left, tenant)

        closed: list[int] = []
        shape = LentFunction("docs:a/b", "drop", FunctionType((), ()), component=True)
        async with trio.open_nursery() as nursery:
            waiting = Counting(nursery.start_soon)
            leave(hangs, "full")
            nursery.start_soon(waiting.wait_for_room, "full")
            await trio.testing.wait_all_tasks_blocked()
            leave(closes, "other")
            await trio.testing.wait_all_tasks_blocked()
            assert (len(closed), looks["full"]) == (20, 1)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_they_are_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 20)
    module = pool.load(DATABASE, imports={DB: GIVEN})
    with pytest.raises(Trap, match="the guest has 20 resources, and drops none"):
        module["hoard"](1000)
    until(lambda: closed() == [1] * 20 + [0])


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"merge": merge}, MissingImport, r"\[constructor\]connection: func\(size: u32\)"),
        (
            {"merge": merge, "connection": type("Empty", (), {})},
            MissingImport,
            "the class Empty has no method add_up",
        ),
        (
            {"merge": merge, "connection": lambda size: size},
            ConfigurationError,
            "is for a resource, and is no class",
        ),
        (
            GIVEN | {"[method]connection.add-up": lambda thing, n: n},
            ConfigurationError,
            "a second time",
        ),
        (GIVEN | {"[resource-drop]connection": merge}, ConfigurationError, "given twice"),
        (GIVEN | {"[resource-drop]statement": merge}, ConfigurationError, "no such thing"),
        (GIVEN | {"merge": lambda a: a}, SignatureMismatch, "cannot be called as func"),
    ],
)
def test_what_does_not_fit_is_told_when_it_is_loaded(
    pool: Pool, given: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        pool.load(DATABASE, imports={DB: given})


def test_resources_of_wasi_stay_in_the_worker(pool: Pool) -> None:
    source = b"""(component
      (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type $p (sub resource)))))
      (alias export $poll "pollable" (type $pollable))
      (import "docs:a/b" (instance $b
        (alias outer 1 $pollable (type $q)) (export "pollable" (type $p (eq $q)))
        (export "f" (func (param "it" (own $p)))))))"""
    with pytest.raises(SignatureMismatch, match="pollable is a resource that the pool provides"):
        pool.load(source, imports={"docs:a/b": {"f": lambda it: None}})


def test_a_resource_may_be_used_from_another_interface(pool: Pool) -> None:
    source = b"""(component
      (import "docs:db/types" (instance $types
        (export "connection" (type $c (sub resource)))
        (export "[constructor]connection" (func (param "size" u32) (result (own $c))))))
      (alias export $types "connection" (type $c))
      (import "docs:db/use" (instance $use
        (alias outer 1 $c (type $q)) (export "connection" (type $d (eq $q)))
        (export "size" (func (param "of" (borrow $d)) (result u32)))))
      (core func $new (canon lower (func $types "[constructor]connection")))
      (core func $size (canon lower (func $use "size")))
      (core func $drop (canon resource.drop $c))
      (core module $m
        (import "h" "new" (func $new (param i32) (result i32)))
        (import "h" "size" (func $size (param i32) (result i32)))
        (import "h" "drop" (func $drop (param i32)))
        (func (export "f") (param i32) (result i32) (local $c i32)
          (local.set $c (call $new (local.get 0)))
          (call $size (local.get $c))
          (call $drop (local.get $c))))
      (core instance $i (instantiate $m (with "h" (instance
        (export "new" (func $new)) (export "size" (func $size)) (export "drop" (func $drop))))))
      (func (export "f") (param "size" u32) (result u32) (canon lift (core func $i "f"))))"""
    imports: dict[str, Any] = {
        "docs:db/types": {"connection": Connection},
        "docs:db/use": {"size": lambda it: it.size},
    }
    assert pool.load(source, imports=imports)["f"](42) == 42
    assert closed() == [1]


def test_a_class_whose_methods_get_grants_is_closed_without(pool: Pool) -> None:
    class Granted(Connection):
        def __init__(self, size: int, *, grants: Grants) -> None:
            super().__init__(size * cast("int", grants["times"]))

        def add_up(self, n: int, *, grants: Grants | None = None) -> int:
            assert grants is not None
            return super().add_up(n) * cast("int", grants["times"])

        @classmethod
        def how_many(cls, *, grants: Grants | None = None) -> int:
            assert grants is not None
            return len(cls.made)

    given = GIVEN | {"connection": HostFunction(Granted, needs={"times": (1, 9)})}
    module = pool.load(DATABASE, imports={DB: given})
    granted = Capabilities(custom={"times": 2})
    assert module["use"].options(capabilities=granted)(40, 2) == (40 * 2 + 2) * 2
    assert closed() == [1]


def _drop(thing: Connection, *, grants: Grants) -> None:
    thing.close()


def test_dropping_needs_no_grants(pool: Pool) -> None:
    needy = HostFunction(_drop, needs={"times": (1, 9)})
    given = {name: GIVEN[name] for name in GIVEN if name != "connection"}
    with pytest.raises(ConfigurationError, match="whatever is granted"):
        pool.load(DATABASE, imports={DB: given | {"[resource-drop]connection": needy}})
