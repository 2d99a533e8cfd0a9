"""What users may do with the children of a supervisor while it runs, as with OTP's."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import actor_guests
import pytest
import trio
from leftovers import nothing_left
from stages import Failed, Stage, run

from wasm_sandbox import (
    Child,
    ChildConflict,
    ChildCounts,
    ConfigurationError,
    GuestExit,
    Instance,
    InstanceClosed,
    Pool,
    PoolError,
    RestartIntensityReached,
    Supervisor,
    TrioSupervisor,
    WorkerLost,
    open_pool,
)

COUNTER = actor_guests.COUNTER.encode()


def in_trio(
    children: str, scenario: Callable[[Stage, TrioSupervisor], Awaitable[None]], **more: Any
) -> None:
    """The scenario, with a supervisor of tasks of these names."""

    async def main() -> None:
        stage = Stage()
        async with Supervisor([stage.child(name) for name in children], **more) as tree:
            stage.log.clear()
            await scenario(stage, tree)

    run(main)


def names(tree: Supervisor | TrioSupervisor) -> dict[str, str]:
    return {child.name: child.status for child in tree.which_children()}


def conflict(reason: str) -> Any:
    return pytest.raises(ChildConflict, check=lambda error: error.reason == reason)


# --- the table of supervisor(3) -------------------------------------------------------------------


def test_a_child_is_added_as_the_last_and_ended_first() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        assert await tree.start_child(stage.child("c")) == "C"
        assert tree["c"] == "C"
        assert names(tree) == dict.fromkeys("abc", "running")
        assert await stage.end("b", Failed()) == [
            *("b ends", "c stopped", "b starts", "c starts"),
        ]

    in_trio("ab", scenario, strategy="rest_for_one")


def test_a_name_that_is_taken_is_refused_and_nothing_is_started() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        with conflict("already_started"):
            await tree.start_child(stage.child("a"))
        await tree.terminate_child("a")
        stage.log.clear()
        with conflict("already_present"):
            await tree.start_child(stage.child("a"))
        assert stage.log == []

    in_trio("ab", scenario)


def test_a_child_that_cannot_be_started_is_not_added() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        stage.refuse["b"] = 1
        with pytest.raises(Failed):
            await tree.start_child(stage.child("b"))
        assert names(tree) == {"a": "running"}
        with pytest.raises(KeyError):
            tree["b"]
        assert await tree.start_child(stage.child("b")) == "B"  # the name is free

    in_trio("a", scenario)


def test_what_was_ended_is_kept_started_again_and_deleted() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        await tree.terminate_child("a")
        await tree.terminate_child("a")  # that it does not run is no error
        assert stage.log == ["a stopped"]
        assert names(tree) == {"a": "stopped", "b": "running"}
        with pytest.raises(InstanceClosed):
            tree["a"]
        assert await tree.restart_child("a") == "A"
        with conflict("running"):
            await tree.restart_child("a")
        with conflict("running"):
            await tree.delete_child("a")
        await tree.terminate_child("a")
        await tree.delete_child("a")
        assert names(tree) == {"b": "running"}
        with pytest.raises(KeyError):
            tree["a"]

    in_trio("ab", scenario)


@pytest.mark.parametrize("method", ["terminate_child", "restart_child", "delete_child"])
def test_what_is_not_there_is_a_key_error(method: str) -> None:
    async def scenario(_: Stage, tree: TrioSupervisor) -> None:
        with pytest.raises(KeyError):
            await getattr(tree, method)("z")
        with pytest.raises(KeyError):
            tree.get_childspec("z")

    in_trio("a", scenario)


def test_a_temporary_child_is_forgotten_when_it_is_ended_or_ends() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        for how in ("ended", "ends", "taken along"):
            await tree.start_child(stage.child("t", restart="temporary"))
            match how:
                case "ended":
                    await tree.terminate_child("t")
                case "ends":
                    await stage.end("t", Failed())
                case _:
                    await stage.end("a", Failed())
            assert names(tree) == {"a": "running"}
            with pytest.raises(KeyError):
                tree["t"]
            with pytest.raises(KeyError):
                await tree.restart_child("t")

    in_trio("a", scenario, strategy="one_for_all")


def test_one_that_ended_normally_can_be_started_again_or_deleted() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        await tree.start_child(stage.child("t", restart="transient"))
        await stage.end("t")
        assert await tree.restart_child("t") == "T"
        await stage.end("t")
        await tree.delete_child("t")
        assert names(tree) == {"a": "running"}

    in_trio("a", scenario)


def test_one_that_is_being_restarted_must_be_ended_first() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        stage.refuse["a"] = 1
        stage._how["a"] = Failed()
        stage._ends["a"].set()
        await trio.sleep(0.005)
        assert names(tree) == {"a": "restarting"}
        with conflict("restarting"):
            await tree.restart_child("a")
        with conflict("restarting"):
            await tree.delete_child("a")
        with conflict("already_started"):
            await tree.start_child(stage.child("a"))
        await tree.terminate_child("a")
        await trio.sleep(100)
        assert names(tree) == {"a": "stopped"}
        assert stage.log == ["a ends", "a refuses"]

    in_trio("a", scenario, intensity=3)


def test_a_restart_by_hand_that_fails_leaves_it_ended() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        await tree.terminate_child("a")
        stage.refuse["a"] = 1
        with pytest.raises(Failed):
            await tree.restart_child("a")
        await trio.sleep(100)
        assert names(tree) == {"a": "stopped"}
        assert await tree.restart_child("a") == "A"

    in_trio("a", scenario)


def test_restarts_by_hand_do_not_count() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        for _ in range(5):
            await tree.terminate_child("a")
            await tree.restart_child("a")
        assert await stage.end("a", Failed()) == ["a ends", "a starts"]

    in_trio("a", scenario, intensity=1)


def test_a_significant_child_that_is_ended_by_hand_ends_nobody() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        child = stage.child("s", restart="transient", significant=True)
        await tree.start_child(child)
        await tree.terminate_child("s")
        await trio.sleep(1)
        assert tree["a"] == "A"
        await tree.restart_child("s")
        await stage.end("s")
        with pytest.raises(InstanceClosed):
            tree["a"]

    in_trio("a", scenario, auto_shutdown="any_significant")


def test_children_are_counted_and_their_specifications_shown() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        below = Child("below", Supervisor([stage.child("x")]), restart="temporary")
        assert isinstance(await tree.start_child(below), TrioSupervisor)
        assert tree.get_childspec("below") is below
        assert tree.count_children() == ChildCounts(specs=3, active=3, supervisors=1, workers=2)
        await tree.terminate_child("a")
        assert tree.count_children() == ChildCounts(specs=3, active=2, supervisors=1, workers=2)
        await tree.terminate_child("below")
        assert tree.count_children() == ChildCounts(specs=2, active=1, supervisors=0, workers=2)

    in_trio("ab", scenario)


def test_added_children_are_lost_when_their_supervisor_is_started_again() -> None:
    async def main() -> None:
        stage = Stage()
        below = Supervisor([stage.child("x")], intensity=0)
        async with Supervisor([Child("below", below)], intensity=5) as tree:
            await tree["below"].start_child(stage.child("y"))
            assert names(tree["below"]) == {"x": "running", "y": "running"}
            await stage.end("x", Failed())
            assert names(tree["below"]) == {"x": "running"}
            with pytest.raises(KeyError):
                below["y"]

    run(main)


# --- orders and ends ------------------------------------------------------------------------------


def test_an_order_is_carried_out_between_two_exits() -> None:
    """The exit of a child that is ended meanwhile is stale: it is not restarted."""

    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        stage.refuse["b"] = 0
        stage._how["b"] = Failed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.terminate_child, "b")
            nursery.start_soon(tree.terminate_child, "a")
            nursery.start_soon(tree.start_child, stage.child("d"))
        assert names(tree) == {"a": "stopped", "b": "stopped", "c": "running", "d": "running"}

    in_trio("abc", scenario)


def test_a_wait_that_is_cancelled_does_not_stop_what_was_asked_for() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        await tree.start_child(stage.child("s", cleanup=10))
        with trio.move_on_after(1) as scope:
            await tree.terminate_child("s")
        assert scope.cancelled_caught
        await trio.sleep(20)
        assert names(tree)["s"] == "stopped"

    in_trio("a", scenario)


def test_orders_to_one_that_is_over_are_answered() -> None:
    async def main() -> None:
        stage = Stage()
        supervisor = Supervisor([stage.child("a")])
        with pytest.raises(InstanceClosed):
            await TrioSupervisor(supervisor).terminate_child("a")
        async with supervisor as tree:
            pass
        with pytest.raises(InstanceClosed):
            await tree.start_child(stage.child("b"))
        assert [child.status for child in tree.which_children()] == ["stopped"]

    run(main)


@pytest.mark.parametrize("end", ["block", "intensity"])
def test_orders_that_wait_when_it_ends_are_answered(end: str) -> None:
    async def main() -> None:
        stage, answers = Stage(), list[type[BaseException]]()
        supervisor = Supervisor([stage.child("a", cleanup=5), stage.child("b")], intensity=0)

        async def ask(tree: TrioSupervisor) -> None:
            with trio.CancelScope(shield=True):
                try:
                    await tree.start_child(stage.child("c"))
                except PoolError as error:
                    answers.append(type(error))

        async def block() -> None:
            async with supervisor as tree, trio.open_nursery() as nursery:
                if end == "intensity":
                    stage._how["b"] = Failed()
                    stage._ends["b"].set()
                    await trio.sleep(1)  # now a is being ended
                nursery.start_soon(ask, tree)

        if end == "intensity":
            with pytest.raises(RestartIntensityReached):
                await block()
            assert answers == [RestartIntensityReached]
        else:
            await block()
            assert answers == []  # there was time enough
        assert stage.log[-1] == "a stopped"

    run(main)


def test_what_cannot_be_a_child_is_refused() -> None:
    async def scenario(stage: Stage, tree: TrioSupervisor) -> None:
        significant = stage.child("s", restart="transient", significant=True)
        with pytest.raises(ConfigurationError, match="auto_shutdown"):
            await tree.start_child(significant)
        with pytest.raises(ConfigurationError):
            await tree.start_child("s")  # type: ignore[arg-type]

    in_trio("a", scenario)


# --- in a thread ----------------------------------------------------------------------------------


async def forever(task_status: Any) -> None:
    """A task that says who it is."""
    task_status.started(threading.get_ident())
    await trio.sleep_forever()


def test_without_trio_the_same_methods_wait() -> None:
    with Supervisor([Child("a", forever)]) as tree:
        there = tree.start_child(Child("b", forever))
        assert there == tree["b"] == tree["a"] != threading.get_ident()
        with conflict("already_started"):
            tree.start_child(Child("b", forever))
        tree.terminate_child("b")
        assert names(tree) == {"a": "running", "b": "stopped"}
        assert tree.restart_child("b") == there
        tree.terminate_child("b")
        tree.delete_child("b")
        assert tree.count_children() == ChildCounts(specs=1, active=1, supervisors=0, workers=1)
        below = tree.start_child(Child("below", Supervisor([Child("x", forever)])))
        assert isinstance(below, Supervisor)
        assert below.start_child(Child("y", forever)) == there
    with pytest.raises(InstanceClosed):
        tree.start_child(Child("b", forever))
    with pytest.raises(InstanceClosed):
        below.terminate_child("x")


def test_whoever_would_wait_for_himself_is_told() -> None:
    async def task() -> None:
        with pytest.raises(PoolError, match="wait for itself"):
            tree.terminate_child("task")
        told.set()

    tree, told = Supervisor([Child("task", task, restart="temporary")]), threading.Event()
    with tree:
        assert told.wait(20)


@pytest.mark.parametrize("below", [False, True])
def test_a_child_that_its_supervisor_waits_for_cannot_wait_for_it(below: bool) -> None:
    """While it starts and while it ends; when it is up it can."""
    seen: list[str] = []

    async def task(task_status: Any) -> None:
        async def ask(when: str) -> None:
            try:
                await outer.start_child(Child(f"more-{when}", forever, restart="temporary"))
            except PoolError:
                seen.append(f"refused {when}")
            else:
                seen.append(f"done {when}")

        outer = TrioSupervisor(supervisor)
        await ask("before")
        task_status.started()
        try:
            await ask("up")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await ask("after")

    child = Child("task", task)
    supervisor = Supervisor([Child("below", Supervisor([child])) if below else child])

    async def main() -> None:
        async with supervisor:
            await trio.sleep(1)

    run(main)
    assert seen == ["refused before", "done up", "refused after"]


@pytest.mark.parametrize("below", [False, True])
def test_nor_can_a_thread_of_the_child(below: bool) -> None:
    """It cannot be cancelled. What it asked for when the child was up is done all the same."""
    refused: list[str] = []
    ended = threading.Event()

    def end(name: str, when: str) -> None:
        with pytest.raises(PoolError, match="waits for the child"):
            tree.terminate_child(name)
        refused.append(when)

    async def task(task_status: Any) -> None:
        await trio.to_thread.run_sync(end, "task", "before")
        task_status.started()
        try:
            await trio.to_thread.run_sync(end, "task", "up")
        finally:
            ended.set()

    child = Child("task", task)
    tree = Supervisor([Child("task", Supervisor([child])) if below else child])
    with tree:
        assert ended.wait(60)
        while names(tree) != {"task": "stopped"}:
            time.sleep(0.01)
    assert refused == ["before", "up"]


# --- instances and pools --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def test_instances_come_and_go_in_a_tree(cache: Path) -> None:
    with nothing_left(), Supervisor([Child.pool("pool", workers=1, cache_dir=cache)]) as tree:
        first = tree.start_child(Child.instance("a", "pool", COUNTER))
        assert isinstance(first, Instance)
        assert first.call("increment") == 1
        tree.terminate_child("a")
        with pytest.raises(InstanceClosed):
            first.call("increment")
        second = tree.restart_child("a")
        assert second is tree["a"]
        assert second.call("increment") == 1
        tree.terminate_child("a")
        tree.delete_child("a")
        assert names(tree) == {"pool": "running"}


def test_instances_come_and_go_in_a_tree_of_trio(cache: Path) -> None:
    async def main() -> None:
        async with open_pool(1, cache_dir=cache) as pool:
            module = await pool.load(COUNTER)
            async with Supervisor([]) as tree:
                one = await tree.start_child(Child.instance("a", pool, module, restart="temporary"))
                assert await one.call("increment") == 1
                await tree.terminate_child("a")
                with pytest.raises(InstanceClosed):
                    await one.call("increment")
                assert names(tree) == {}

    with nothing_left():
        trio.run(main)


@pytest.mark.parametrize("shutdown", ["brutal_kill", "infinity"])
def test_how_long_an_instance_has_to_end_is_said_as_in_otp(cache: Path, shutdown: Any) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        module = pool.load(COUNTER)
        with Supervisor([Child.instance("a", pool, module, shutdown=shutdown)]) as tree:
            instance = tree["a"]
            assert instance.call("increment") == 1
            if shutdown == "brutal_kill":
                running = instance.submit("spin")
                actor_guests.wait_for_spin(instance)
                tree.terminate_child("a")
                with pytest.raises(WorkerLost):
                    running.result()
            else:
                running = instance.submit("increment")
                tree.terminate_child("a")
                assert running.result() == 2


@pytest.mark.parametrize("shutdown", ["brutal_kill", 3.0, "soon", -1, float("inf")])
def test_a_time_that_a_child_could_not_be_held_to_is_refused(shutdown: Any) -> None:
    with pytest.raises(ConfigurationError, match="shutdown"):
        Child("a", forever, shutdown=shutdown)
    with pytest.raises(ConfigurationError, match="shutdown"):
        Child("a", Supervisor([]), shutdown=shutdown)


def test_what_rebuilds_an_instance_cannot_wait_for_its_supervisor(cache: Path) -> None:
    told = threading.Event()

    def rebuild(_: Instance) -> None:
        with pytest.raises(PoolError, match="waits for the child"):
            tree.terminate_child("counter")
        told.set()

    with nothing_left(), Pool(1, cache_dir=cache) as pool:
        module = pool.load(COUNTER)
        counter = Child.instance("counter", pool, module, on_restart=rebuild)
        with Supervisor([counter]) as tree:
            with pytest.raises(GuestExit):
                tree["counter"].call("leave", 1)
            assert told.wait(60)
