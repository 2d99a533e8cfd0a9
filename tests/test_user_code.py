"""What the user's own functions and files do to a pool: nothing."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guests
import pytest

import wasm_sandbox
from wasm_sandbox import (
    Capabilities,
    ConfigurationError,
    Filesystem,
    Limits,
    OutputLimitExceeded,
    Pool,
)
from wasm_sandbox.protocol.events import Event, WorkerReady, WorkerStarted

MISBEHAVE = Path(__file__).parents[1] / "examples" / "guests" / "misbehave.wasm"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with Pool(1, cache_dir=tmp_path_factory.mktemp("cache")) as pool:
        yield pool


def leave(*_: Any) -> None:
    sys.exit(3)


def serves(pool: Pool) -> bool:
    return bool(pool.load(guests.add().encode())["add"].options(timeout=20.0)(1, 2) == 3)


def test_what_an_output_function_raises_reaches_the_caller_alone(pool: Pool) -> None:
    with pytest.raises(SystemExit):
        pool.run(pool.load(MISBEHAVE), "args", on_output=leave)
    assert serves(pool)


def test_what_a_futures_callback_raises_ends_nothing(pool: Pool) -> None:
    before = pool.submit(pool.load(MISBEHAVE).main, "sleep")
    future = pool.submit(pool.load(guests.add().encode())["add"], 1, 2)
    future.add_done_callback(leave)  # in the pool's thread: it cannot be over yet
    before.cancel()
    assert future.result(60) == 3
    assert serves(pool)


def test_a_cancelled_guest_is_stopped_whatever_a_callback_raises(pool: Pool) -> None:
    future = pool.submit(pool.load(MISBEHAVE).main, "sleep")
    future.add_done_callback(leave)
    time.sleep(0.1)
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    assert serves(pool)


def test_an_event_function_may_raise_and_events_tell_the_truth(tmp_path: Path) -> None:
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        sys.exit(3)

    with Pool(1, cache_dir=tmp_path / "cache", on_event=on_event) as pool:
        assert serves(pool)
        pids = {worker.pid for worker in pool.workers()}
    started = [event for event in seen if isinstance(event, WorkerStarted)]
    ready = [event for event in seen if isinstance(event, WorkerReady)]
    assert {event.pid for event in started} >= pids
    assert all(0 < event.seconds < 100 for event in ready)


def test_a_map_that_is_closed_at_once_is_cancelled(pool: Pool) -> None:
    pool.map(pool.load(MISBEHAVE).main, ["sleep"]).close()  # type: ignore[attr-defined]
    assert serves(pool)


def test_a_stdin_file_is_kept_open_by_whoever_may_still_need_it(pool: Pool, tmp_path: Path) -> None:
    given, secret = tmp_path / "given", tmp_path / "secret"
    given.write_bytes(b"12345")
    secret.write_bytes(b"1")
    function = pool.load(MISBEHAVE).main.options(stdin=given.open("rb"))
    gc.collect()
    with secret.open("rb"):
        assert pool.submit(function, "stdin").result(60).stdout == b"5\n"
    owner: Any = function.settings.stdin_owner
    owner.close()


def test_a_stdin_file_that_was_closed_is_the_callers_mistake(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "given").touch()
    with (tmp_path / "given").open("rb") as file:
        function = pool.load(MISBEHAVE).main.options(stdin=file)
    worker = pool.workers()[0].pid
    with pytest.raises(ConfigurationError, match=r"options\.stdin"):
        pool.run(function, "stdin")
    assert serves(pool)
    assert pool.workers()[0].pid == worker


def test_names_that_are_no_text_are_refused(pool: Pool, tmp_path: Path) -> None:
    add = pool.load(guests.add().encode())["add"]
    with pytest.raises(ConfigurationError, match="tenant"):
        add.options(tenant="\udcff")
    strange = tmp_path / "d\udcff"
    strange.mkdir()
    with pytest.raises(ConfigurationError, match="filesystem"):
        Filesystem.read_only(strange, at="/d")
    with pytest.raises(ConfigurationError, match="same guest path"):
        _ = Filesystem.read_only(tmp_path, at="/a") | Filesystem.read_only(tmp_path, at="/a/")
    assert serves(pool)


def test_an_output_limit_says_how_much_was_wanted(pool: Pool) -> None:
    with pytest.raises(OutputLimitExceeded) as stopped:
        pool.run(pool.load(MISBEHAVE), "flood", limits=Limits(output=1000))
    assert stopped.value.used is not None
    assert stopped.value.used > 1000


def test_one_shots_take_none_for_the_default(tmp_path: Path) -> None:
    given: dict[str, Any] = {"limits": None, "capabilities": None, "cache_dir": tmp_path / "c"}
    assert wasm_sandbox.call(guests.add().encode(), "add", 1, 2, **given) == 3
    assert wasm_sandbox.run(MISBEHAVE, "exit", "7", **given).exit_code == 7
    assert Capabilities() == Capabilities.minimal()
