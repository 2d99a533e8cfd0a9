"""The audit log: every decision is a line of JSON, and no disk can end the pool."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import threading
import typing
from pathlib import Path
from typing import Any

import guest_commands
import guests
import pytest

from wasm_sandbox import (
    AuditLog,
    Capabilities,
    CapabilityDenied,
    ConfigurationError,
    Environment,
    Event,
    Filesystem,
    InvalidModule,
    LimitExceeded,
    Limits,
    Pool,
)
from wasm_sandbox.cli.main import main
from wasm_sandbox.protocol import events
from wasm_sandbox.protocol.receipts import DeathCertificate

ADD = guests.add().encode()
STOPPED = events.PoolStopped(when=1.5)
KINDS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def lines(path: Path) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- the file -------------------------------------------------------------------------------------


def test_each_event_is_a_line_with_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path)
    died = DeathCertificate(worker=1, pid=2, cause="crashed", wall="kernel", phase="busy")
    assert log.write(events.WorkerDied(when=1.5, certificate=died, tenant="t")) == ""
    assert log.write(STOPPED) == ""
    first, second = lines(path)
    assert first["type"] == "WorkerDied"
    assert first["when"] == 1.5
    assert first["tenant"] == "t"
    assert first["certificate"]["cause"] == "crashed"
    assert first["program"] == second["program"] == os.getpid()
    assert second["type"] == "PoolStopped"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.close()


def test_a_file_is_appended_to_and_can_be_shared(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_text('{"type": "Before"}\n')
    logs = [AuditLog(path), AuditLog(path)]

    def write(log: AuditLog) -> None:
        for _ in range(200):
            log.write(STOPPED)

    threads = [threading.Thread(target=write, args=(log,)) for log in logs * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(path)
    assert len(found) == 801
    assert len({line.get("log") for line in found}) == 3
    for log in logs:
        log.close()


def test_a_line_has_a_bound_and_no_text_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path)
    log.write(events.PoolFailed(when=0.0, reason="\n\x00\x1b[2J\udcff" * 100_000))
    log.write(events.WorkerReady(when=0.0, worker=1, seconds=0.0, walls=("w",) * 100_000))
    assert len(lines(path)) == 2
    assert path.stat().st_size < 20_000
    assert path.read_bytes().isascii()
    log.close()


@pytest.mark.parametrize("make", ["directory", "link", "fifo", "nowhere"])
def test_what_is_no_ordinary_file_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "audit"
    match make:
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(path)
        case _:
            path = path / "below"
    with pytest.raises(ConfigurationError) as caught:
        AuditLog(path)
    assert caught.value.field == "audit"
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_full_is_put_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path, aside = tmp_path / "audit", tmp_path / "audit.1"
    logs = [AuditLog(path, max_bytes=4096), AuditLog(path, max_bytes=4096)]
    for number in range(200):
        assert logs[number % 2].write(STOPPED) == ""
        assert path.stat().st_size <= 4096
    assert 0 < aside.stat().st_size <= 4096
    assert aside.stat().st_size > 3900
    assert len(lines(path)) + len(lines(aside)) < 200
    for log in logs:
        log.close()


def test_a_file_that_was_moved_away_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, max_bytes=None)
    log.write(STOPPED)
    path.rename(tmp_path / "yesterday")
    log.write(STOPPED)
    log.write(STOPPED)
    assert len(lines(tmp_path / "yesterday")) == 1
    assert len(lines(path)) == 2
    log.close()


# -- a disk that fails ----------------------------------------------------------------------------


class Disk:
    """A disk that takes so many bytes of each write, and then no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._real = AuditLog._write
        monkeypatch.setattr(AuditLog, "_write", lambda log, data: self.write(log, data))

    def write(self, log: AuditLog, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._real(log, data[: self.room])


def test_a_full_disk_costs_lines_which_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit"
    log, disk = AuditLog(path), Disk(monkeypatch)
    log.write(STOPPED)
    disk.room = 0
    assert log.write(STOPPED) == os.strerror(errno.ENOSPC)
    assert log.write(STOPPED) == os.strerror(errno.ENOSPC)
    assert log.lost == 2
    disk.room = None
    assert log.write(STOPPED) == ""
    assert [line["type"] for line in lines(path)] == ["PoolStopped", "AuditResumed", "PoolStopped"]
    assert lines(path)[1]["lost"] == 2
    log.close()


def test_a_line_that_was_cut_short_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit"
    log, disk = AuditLog(path), Disk(monkeypatch)
    disk.room = 20
    assert log.write(STOPPED) != ""
    disk.room = None
    log.write(STOPPED)
    torn, *whole = path.read_text().splitlines()
    assert len(torn) == 20
    assert [json.loads(line)["type"] for line in whole] == ["AuditResumed", "PoolStopped"]
    log.close()


def test_a_pool_outlives_its_log_and_says_that_it_fails(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "audit", list[Event]()
    log, disk = AuditLog(path), Disk(monkeypatch)
    disk.room = 0
    with Pool(1, cache_dir=cache, audit=log, on_event=seen.append) as pool:
        assert pool.load(ADD)["add"](1, 2) == 3
        disk.room = None
    failures = [event for event in seen if isinstance(event, events.AuditFailed)]
    assert [event.reason for event in failures] == [os.strerror(errno.ENOSPC)]
    first, *_, last = lines(path)
    assert first["type"] == "AuditResumed"
    assert first["lost"] >= 4
    assert last["type"] == "PoolStopped"


# -- what is in it --------------------------------------------------------------------------------


def test_a_pools_life_is_in_its_log(tmp_path: Path) -> None:
    path, seen = tmp_path / "audit", list[Event]()
    granted = Capabilities(filesystem=Filesystem.read_write(tmp_path, at="/work"))
    with Pool(
        1, cache_dir=tmp_path / "cache", audit=path, capabilities=granted, on_event=seen.append
    ) as pool:
        assert pool.load(ADD)["add"](1, 2) == 3
    found = {line["type"]: line for line in lines(path)}
    assert list(found)[:3] == ["WorkerStarted", "WorkerReady", "Granted"]
    assert len(lines(path)) == len(seen)
    assert found["PoolStarted"]["isolation"] == "best-effort"
    assert "rlimits" in found["PoolStarted"]["walls"]
    assert found["Granted"]["directories"][0][:3] == [str(tmp_path), "/work", True]
    assert {"ModuleCompiled", "WorkerDied"} <= found.keys()
    assert found["WorkerDied"]["certificate"]["cause"] == "stopped"


def test_a_variable_is_named_and_its_value_kept_out(tmp_path: Path, cache: Path) -> None:
    path, secret = tmp_path / "audit", os.urandom(8).hex()
    with Pool(1, cache_dir=cache, audit=path) as pool:
        app = pool.load(guest_commands.hello().encode())
        pool.run(app, secret, env={"TOKEN": secret}, stdin=secret.encode())
    (granted,) = [line for line in lines(path) if line["type"] == "CallGranted"]
    assert granted["environment"] == ["TOKEN"]
    assert granted["stdin"] is False
    assert secret not in path.read_text()


VARIABLES = b"""(module
  (import "wasi_snapshot_preview1" "environ_sizes_get"
    (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "count") (result i32)
    (drop (call $sizes (i32.const 0) (i32.const 4))) (i32.load (i32.const 0))))"""


def test_every_call_that_is_given_variables_is_told_of(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "audit"
    granted = Capabilities(environment=Environment.set({"TOKEN": "x"}))
    with Pool(1, cache_dir=cache, audit=path, capabilities=granted) as pool:
        count = pool.load(VARIABLES)["count"]
        for _ in range(6):  # one after the other: an idle worker is sent them without ceremony
            assert count() == 1
    assert [line["type"] for line in lines(path)].count("CallGranted") == 6


def test_what_was_denied_stopped_or_refused_is_in_it(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "audit"
    (tmp_path / "gone").mkdir()
    granted = Capabilities(filesystem=Filesystem.read_only(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    with Pool(1, cache_dir=cache, audit=path, capabilities=granted) as pool:
        spin = pool.load(guests.loop().encode())["spin"]
        with pytest.raises(LimitExceeded):
            spin.options(limits=Limits(wall_time=0.05))()
        app = pool.load(guest_commands.hello().encode())
        with pytest.raises(CapabilityDenied):
            pool.run(app)
        with pytest.raises(InvalidModule):
            pool.load(b"\0asm\1\0\0\0\xff")
    found = {line["type"]: line for line in lines(path)}
    assert found["CallStopped"]["reason"] == "DeadlineExceeded"
    assert found["CallStopped"]["export"] == "spin"
    assert found["CallDenied"]["sha256"] == app.sha256
    assert found["ModuleRefused"]["reason"] == "InvalidModule"


def test_the_command_line_logs_too(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "add.wat").write_bytes(ADD)
    log = f"{tmp_path}/audit"
    command = ["call", f"{tmp_path}/add.wat", "add", "1", "2", "--audit", log]
    assert main([*command, "--cache-dir", str(cache)]) == 0
    assert lines(Path(log))[-1]["type"] == "PoolStopped"


def test_every_event_is_documented() -> None:
    table = (Path(__file__).parents[1] / "docs" / "audit.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, flags=re.MULTILINE))
    assert documented.keys() == {kind.__name__ for kind in KINDS}
    for kind in KINDS:
        fields = {name for name in kind.__struct_fields__ if name != "when"}
        assert set(re.findall(r"`(\w+)`", documented[kind.__name__])) == fields, kind
    assert typing.get_type_hints(Event) == {"when": float}
