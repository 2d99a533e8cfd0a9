"""Supervisors at work: tasks under a clock that jumps, then real instances and pools."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import actor_guests
import guests
import pytest
import trio
import trio.testing
from actor_guests import wait_for_spin
from leftovers import nothing_left
from stages import Failed, Stage, run

from wasm_sandbox import (
    Child,
    ConfigurationError,
    Instance,
    InstanceClosed,
    MissingImport,
    Pool,
    PoolError,
    RestartIntensityReached,
    Supervisor,
    TreeEvent,
    TrioSupervisor,
    WorkerLost,
    open_pool,
)

COUNTER = actor_guests.COUNTER.encode()


def test_children_are_started_in_order_and_ended_in_reverse_order() -> None:
    stage = Stage()

    async def main() -> None:
        children = [stage.child(name, cleanup=3) for name in "abc"]
        async with Supervisor(children) as tree:
            assert [tree[name] for name in "abc"] == ["A", "B", "C"]
            assert [(c.name, c.status, c.kind) for c in tree.which_children()] == [
                (name, "running", "task") for name in "abc"
            ]
            with pytest.raises(KeyError):
                tree["d"]
        with pytest.raises(InstanceClosed):
            tree["a"]

    run(main)
    assert stage.log == [
        *("a starts", "b starts", "c starts"),
        *("c stopped", "b stopped", "a stopped"),
    ]


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        ("one_for_one", ["b ends", "b starts"]),
        ("rest_for_one", ["b ends", "c stopped", "b starts", "c starts"]),
        ("one_for_all", ["b ends", "c stopped", "a stopped", "a starts", "b starts", "c starts"]),
    ],
)
def test_the_strategy_is_carried_out(strategy: Any, log: list[str]) -> None:
    async def main() -> None:
        stage = Stage()
        async with Supervisor([stage.child(name) for name in "abc"], strategy=strategy):
            assert await stage.end("b", Failed()) == log
            assert await stage.end("b") == log  # a permanent child is restarted after any exit

    run(main)


def test_two_deaths_at_once_are_dealt_with_one_after_the_other() -> None:
    async def main() -> None:
        stage = Stage()
        children = [stage.child(name) for name in "abc"]
        async with Supervisor(children, strategy="one_for_all", intensity=2):
            stage._how.update(a=Failed())
            stage._ends["a"].set()
            log = await stage.end("c", Failed())
            # The second death is that of a child which the first had replaced: nothing follows.
            assert sorted(log[:3]) == ["a ends", "b stopped", "c ends"]
            assert log[3:] == ["a starts", "b starts", "c starts"]

    run(main)


def test_the_intensity_ends_the_tree_and_cancels_the_block() -> None:
    stage = Stage()
    events: list[TreeEvent] = []

    async def block(tree: Supervisor) -> None:
        async with tree:
            stage._how["b"] = Failed("why")
            stage._ends["b"].set()
            await trio.sleep_forever()

    async def main() -> None:
        children = [stage.child("a"), stage.child("b")]
        tree = Supervisor(children, intensity=0, on_event=events.append)
        with pytest.raises(RestartIntensityReached) as error:
            await block(tree)
        assert isinstance(error.value.__cause__, Failed)
        assert stage.log[-2:] == ["b ends", "a stopped"]
        with pytest.raises(RestartIntensityReached):
            tree["a"]

    run(main)
    assert [event.what for event in events] == ["started", "started", "exited", "stopped", "ended"]


def test_a_restart_that_fails_is_tried_again_with_pauses() -> None:
    async def main() -> None:
        stage = Stage()
        async with Supervisor([stage.child("a"), stage.child("b")], intensity=5) as tree:
            stage.refuse["a"] = 3
            log = await stage.end("a", Failed())
            assert log == ["a ends", *["a refuses"] * 3, "a starts"]
            stage.refuse["a"] = 1000
            stage._how["a"] = Failed()
            stage._ends["a"].set()
            await trio.sleep(0.005)
            assert [child.status for child in tree.which_children()] == ["restarting", "running"]
            with pytest.raises(InstanceClosed):
                tree["a"]
            with pytest.raises(RestartIntensityReached):
                await _until_it_fails(tree)

    with pytest.raises(RestartIntensityReached):
        run(main)


async def _until_it_fails(tree: TrioSupervisor) -> None:
    with trio.CancelScope(shield=True):
        while True:
            try:
                tree["a"]
            except InstanceClosed:
                await trio.sleep(1)


def test_a_first_start_that_fails_ends_those_before_it_and_raises() -> None:
    stage = Stage()
    stage.refuse["c"] = 1

    async def main() -> None:
        with pytest.raises(Failed):
            async with Supervisor([stage.child(name) for name in "abcd"]):
                raise AssertionError

    run(main)
    assert stage.log == ["a starts", "b starts", "c refuses", "b stopped", "a stopped"]


def test_a_supervisor_below_another_is_a_child_like_any() -> None:
    """Its own intensity is a normal exit (``shutdown``): only a permanent one is restarted."""

    async def main(restart: Any, log: list[str]) -> None:
        stage = Stage()
        below = Supervisor([stage.child("x"), stage.child("y")], intensity=0, name="below")
        async with Supervisor(
            [stage.child("a"), Child("below", below, restart=restart)], intensity=5
        ) as tree:
            assert isinstance(tree["below"], TrioSupervisor)
            assert tree["below"]["x"] == "X"
            assert below["x"] == "X"
            assert await stage.end("x", Failed()) == log
            if restart == "permanent":
                assert below["x"] == "X"
            else:
                with pytest.raises(RestartIntensityReached):
                    below["x"]
            assert tree["a"] == "A"
            assert tree.which_children()[1].kind == "supervisor"

    run(lambda: main("permanent", ["x ends", "y stopped", "x starts", "y starts"]))
    run(lambda: main("transient", ["x ends", "y stopped"]))


def test_a_significant_child_ends_the_tree_without_an_error() -> None:
    async def main() -> None:
        stage = Stage()
        async with Supervisor(
            [stage.child("a"), stage.child("b", restart="transient", significant=True)],
            auto_shutdown="any_significant",
        ) as tree:
            assert await stage.end("b") == ["b ends", "a stopped"]
            with pytest.raises(InstanceClosed):
                tree["a"]

    run(main)


@pytest.mark.parametrize("how", ["cancelled", "fails"])
def test_however_the_block_ends_the_children_are_ended_in_reverse_order(how: str) -> None:
    stage = Stage()

    async def main() -> None:
        with trio.move_on_after(1):
            async with Supervisor([stage.child(name, cleanup=1) for name in "ab"]):
                if how == "fails":
                    raise Failed
                await trio.sleep_forever()

    if how == "fails":
        with pytest.raises(Failed):
            run(main)
    else:
        run(main)
    assert stage.log == ["a starts", "b starts", "b stopped", "a stopped"]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Child("a", print), "child.what"),  # type: ignore[arg-type]
        (lambda: Child("a", Supervisor([]), restart="never"), "child.restart"),  # type: ignore[arg-type]
        (lambda: Child("a", Supervisor([]), shutdown=-1), "child.shutdown"),
        (lambda: Child("a", Supervisor([]), significant=True), "child.significant"),
        (lambda: Child.instance("a", 3, b""), "child.pool"),  # type: ignore[arg-type]
        (lambda: Child.instance("a", "p", b"", policy=3), "child.policy"),
        (lambda: Supervisor([], strategy="all"), "strategy"),  # type: ignore[arg-type]
        (lambda: Supervisor([], auto_shutdown="yes"), "auto_shutdown"),  # type: ignore[arg-type]
        (lambda: Supervisor([], intensity=-1), "restart.intensity"),
        (lambda: Supervisor([], period=0), "restart.period"),
        (lambda: Supervisor([3]), "children"),  # type: ignore[list-item]
        (lambda: Supervisor([Child.pool("a"), Child.pool("a")]), "children"),
        (
            lambda: Supervisor([Child.pool("a", restart="transient", significant=True)]),
            "child.significant",
        ),
    ],
)
def test_what_cannot_be_used_is_named(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make()
    assert error.value.field == field


# --- instances and pools --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    with nothing_left():
        yield


def kill(instance: Instance) -> None:
    """Kill its worker, and wait until that is known."""
    usage = instance.usage()
    assert usage.pid
    os.kill(usage.pid, signal.SIGKILL)
    while instance.usage().worker == usage.worker:
        time.sleep(0.002)


def test_instances_of_a_tree_are_restarted_together_and_keep_their_mailboxes(cache: Path) -> None:
    def rebuild(instance: Instance) -> None:
        assert instance.call("add", 100) == 100

    with Pool(1, cache_dir=cache) as pool:
        counter = pool.load(COUNTER)
        children = [
            Child.instance("a", pool, counter, on_restart=rebuild),
            Child.instance("b", pool, counter, on_restart=rebuild, shutdown=0.1),
        ]
        with Supervisor(children, strategy="one_for_all") as tree:
            a, b = tree["a"], tree["b"]
            assert (a.call("increment"), b.call("increment")) == (1, 1)
            lost = b.submit("spin")
            waiting = [each.submit("increment") for each in (a, b, b)][1:]
            wait_for_spin(b)
            kill(a)
            error = lost.exception(60)
            assert isinstance(error, WorkerLost)
            assert error.certificate.cause == "stopped"
            assert [future.result(60) for future in waiting] == [101, 102]
            assert a.call("increment") == 101
            assert tree["a"] is a
            assert a.usage().restarts == b.usage().restarts == 1
        with pytest.raises(InstanceClosed):
            a.call("increment")
        assert counter["increment"]() == 1


def test_those_who_wait_for_an_instance_learn_that_its_tree_gave_up(cache: Path) -> None:
    gate = threading.Event()

    def rebuild(_: Instance) -> None:
        gate.wait(60)
        raise Failed

    pool = Pool(1, cache_dir=cache)
    child = Child.instance("a", pool, pool.load(COUNTER), on_restart=rebuild)
    waiting = []

    def block() -> None:
        with Supervisor([child], intensity=2, period=60) as tree:
            kill(tree["a"])
            waiting.append(tree["a"].submit("increment"))
            gate.set()
            assert isinstance(waiting[0].exception(60), PoolError)
            until_given_up(tree)

    with pool, pytest.raises(RestartIntensityReached):
        block()


def until_given_up(tree: Supervisor) -> None:
    while tree.failure is None:
        time.sleep(0.002)


def test_a_guest_that_leaves_is_a_normal_exit(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        counter = pool.load(COUNTER)
        children = [
            Child.instance("a", pool, counter, restart="transient", significant=True),
            Child.instance("b", pool, counter),
        ]
        with Supervisor(children, auto_shutdown="any_significant") as tree:
            b = tree["b"]
            left, waiting = (tree["a"].submit(name, *args) for name, *args in LEAVE)
            assert left.exception(60) is not None
            assert isinstance(waiting.exception(60), InstanceClosed)
            while b.usage().phase != "ended":
                time.sleep(0.002)


LEAVE = (("leave", 0), ("increment",))


def test_a_pool_that_fails_is_made_anew_with_the_instances_behind_it(cache: Path) -> None:
    async def main() -> None:
        pool = Child.pool("pool", workers=1, cache_dir=cache)
        children = [pool, Child.instance("counter", "pool", COUNTER)]
        async with Supervisor(children, strategy="rest_for_one", intensity=9) as tree:
            first, counter = tree["pool"], tree["counter"]
            assert await counter.call("increment") == 1
            first.core._life.fail(PoolError("for a test"))
            with trio.fail_after(60):
                while tree.which_children()[1].status != "running" or tree["counter"] is counter:
                    await trio.sleep(0.01)
            assert tree["pool"] is not first
            assert await tree["counter"].call("increment") == 1
            with pytest.raises(PoolError):
                await counter.call("increment")

    trio.run(main)


def test_a_pool_and_its_instance_are_made_for_with(cache: Path) -> None:
    children = [
        Child.pool("pool", workers=1, cache_dir=cache),
        Child.instance("counter", "pool", COUNTER, mailbox=5),
    ]
    with Supervisor(children) as tree:
        assert isinstance(tree["pool"], Pool)
        assert isinstance(tree["counter"], Instance)
        assert tree["counter"].call("increment") == 1
        assert [child.kind for child in tree.which_children()] == ["pool", "instance"]


def test_an_instance_that_cannot_be_made_is_the_supervisors_error(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        module = pool.load(guests.missing_import().encode())
        with (
            pytest.raises(MissingImport),
            Supervisor([Child.instance("a", pool, module)]),
        ):
            raise AssertionError

        async def main() -> None:
            async with open_pool(1, cache_dir=cache) as other:
                there = await other.load(COUNTER)
                async with Supervisor([Child.instance("a", other, there)]) as tree:
                    assert await tree["a"].call("increment") == 1
                child = Child.instance("a", "nowhere", COUNTER)
                with pytest.raises(KeyError):
                    async with Supervisor([child]):
                        raise AssertionError

        trio.run(main)


def test_a_pool_that_is_closed_first_takes_the_tree_along(cache: Path) -> None:
    pool = Pool(1, cache_dir=cache)
    child = Child.instance("a", pool, pool.load(COUNTER))

    def block() -> None:
        with Supervisor([child]) as tree:
            future = tree["a"].submit("increment")
            pool.shutdown()
            assert future.result(0) == 1
            until_given_up(tree)

    with pytest.raises(RestartIntensityReached):
        block()
