"""Plug-ins that are watched, in trio, at the end of their pool, and in quarantine."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
from leftovers import nothing_left
from plugin_folders import Gate, Heard, health, put, whats

from wasm_sandbox import (
    Limits,
    ModuleQuarantined,
    Plugins,
    Pool,
    PoolClosed,
    Quarantine,
    TrioPlugins,
    WorkerLost,
    open_plugins,
    open_pool,
)
from wasm_sandbox.plugins import folder, releases
from wasm_sandbox.supervisor import quarantine


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed is waited for less long than users would want it."""
    monkeypatch.setattr(folder, "SETTLE", 0.05)
    monkeypatch.setattr(releases, "SETTLE", 0.05)


def test_a_quarantined_plugin_hurts_no_other_and_a_rollback_heals_it(
    cache: Path, place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker in a namespace of its own cannot be sent a fault from here.
    monkeypatch.setattr(quarantine, "_CAUSES", ("killed",))
    with Pool(workers=1, cache_dir=cache, quarantine=Quarantine(crashes=1)) as pool:
        put(place, 1)
        put(place, 9, "other")
        plugins = Plugins(pool, place, imports=gate.imports)
        put(place, 2)
        plugins.refresh()
        clock = plugins["clock"]
        lost = clock.submit("wait")
        assert gate.entered.acquire(timeout=60)
        for worker in pool.workers():
            os.kill(worker.pid, signal.SIGKILL)
        assert isinstance(lost.exception(60), WorkerLost)
        with pytest.raises(ModuleQuarantined):
            clock.call("which")
        assert plugins["other"].call("which") == 9
        plugins.rollback("clock")
        assert clock.call("which") == 1
        gate.open.set()


@pytest.mark.parametrize("watch", [False, True])
def test_a_pool_that_is_shut_down_in_the_middle_ends_the_refresh(
    cache: Path, place: Path, gate: Gate, watch: bool
) -> None:
    with nothing_left(), Pool(workers=1, cache_dir=cache) as pool:
        put(place, 1)
        with Plugins(pool, place, imports=gate.imports, watch=watch) as plugins:
            old = plugins["clock"].release
            put(place, 2, tables=health("wait"))
            with ThreadPoolExecutor(1) as threads:
                refreshing = None if watch else threads.submit(plugins.refresh)
                assert gate.entered.acquire(timeout=60)
                pool.shutdown(wait=False, cancel_futures=True)
                gate.open.set()
                if refreshing is not None:
                    with pytest.raises(PoolClosed):
                        refreshing.result()
        assert plugins["clock"].release is old
        with pytest.raises(PoolClosed):
            plugins["clock"].call("which")


def test_changes_are_taken_in_as_they_happen_and_nothing_is_left(
    cache: Path, place: Path, gate: Gate
) -> None:
    heard = Heard()
    with nothing_left(), Pool(workers=1, cache_dir=cache) as pool:
        with Plugins(pool, place, imports=gate.imports, watch=True, on_event=heard) as plugins:
            put(place, 1)  # a folder that was not there
            heard.wait_for("loaded", "1.0.0")
            put(place, 2, code="(module")
            assert heard.wait_for("refused").previous == "1.0.0"
            put(place, 3)
            put(place, 4)
            heard.wait_for("reloaded", "4.0.0")
            assert plugins["clock"].call("which") == 4
            new = put(place.parent, 5, folder="staged")  # and renamed into place, as it should be
            shutil.rmtree(place / "clock")
            new.rename(place / "clock")
            heard.wait_for("reloaded" if plugins["clock"].version == "4.0.0" else "loaded", "5.0.0")
            shutil.rmtree(place / "clock")
            heard.wait_for("removed")
        put(place, 6)
        assert "wasm-plugins" not in {thread.name for thread in threading.enumerate()}
        assert [*plugins] == []


def test_plugins_that_nobody_holds_are_watched_no_longer(
    cache: Path, place: Path, gate: Gate
) -> None:
    with nothing_left(), Pool(workers=1, cache_dir=cache) as pool:
        plugins = Plugins(pool, place, watch=True)
        (watcher,) = [each for each in threading.enumerate() if each.name == "wasm-plugins"]
        del plugins
        watcher.join(60)
        assert not watcher.is_alive()


def test_the_end_of_the_directory_is_an_event_for_those_who_watch(
    cache: Path, place: Path, gate: Gate
) -> None:
    heard = Heard()
    with Pool(workers=1, cache_dir=cache) as pool:
        put(place, 1)
        with Plugins(pool, place, imports=gate.imports, watch=True, on_event=heard) as plugins:
            (place / "clock").rename(place.parent / "clock")
            heard.wait_for("removed")
            place.rmdir()
            assert "cannot be watched" in heard.wait_for("failed").reason
            assert len(plugins) == 0


# --- trio -----------------------------------------------------------------------------------------


def with_plugins(
    cache: Path, place: Path, work: Callable[[TrioPlugins], Any], **keywords: Any
) -> None:
    async def main() -> None:
        with trio.fail_after(150):
            async with (
                open_pool(workers=1, cache_dir=cache) as pool,
                open_plugins(pool, place, **keywords) as plugins,
            ):
                await work(plugins)

    with nothing_left():
        trio.run(main)


def test_in_trio_calls_that_had_begun_end_with_their_version(cache: Path, place: Path) -> None:
    entered, opened = trio.Event(), trio.Event()

    async def gate(number: int) -> None:
        entered.set()
        await opened.wait()

    async def work(plugins: TrioPlugins) -> None:
        clock = plugins["clock"]
        got: list[int] = []

        async def wait() -> None:
            got.append(await clock.call("wait"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await entered.wait()
            put(place, 2)
            nursery.start_soon(plugins.refresh)
            with trio.move_on_after(30):
                while clock.version == "1.0.0":
                    await trio.sleep(0.01)
            assert got == []
            opened.set()
        assert (got, (await clock.detailed("which"))[0]) == ([1], 2)
        plugins.rollback("clock")
        assert await clock.call("which") == 1

    put(place, 1)
    with_plugins(cache, place, work, imports={"env": {"gate": gate}}, limits=Limits())


def test_in_trio_a_cancelled_refresh_leaves_the_old_version(cache: Path, place: Path) -> None:
    entered = trio.Event()

    async def gate(number: int) -> None:
        entered.set()
        await trio.sleep_forever()

    async def work(plugins: TrioPlugins) -> None:
        put(place, 2, tables=health("wait"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugins.refresh)
            await entered.wait()
            nursery.cancel_scope.cancel()
        assert await plugins["clock"].call("which") == 1
        put(place, 3)
        assert whats(await plugins.refresh()) == [("reloaded", "clock")]

    put(place, 1)
    with_plugins(cache, place, work, imports={"env": {"gate": gate}})


def test_in_trio_changes_are_taken_in_as_they_happen(cache: Path, place: Path, gate: Gate) -> None:
    heard = Heard()

    async def work(plugins: TrioPlugins) -> None:
        put(place, 1)
        await trio.to_thread.run_sync(heard.wait_for, "loaded")
        put(place, 2)
        await trio.to_thread.run_sync(heard.wait_for, "reloaded")
        assert await plugins["clock"].call("which") == 2

    with_plugins(cache, place, work, imports=gate.imports, watch=True, on_event=heard)


def test_in_trio_an_error_of_the_block_comes_out_as_it_is(
    cache: Path, place: Path, gate: Gate
) -> None:
    async def work(plugins: TrioPlugins) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        with_plugins(cache, place, work, watch=True)
