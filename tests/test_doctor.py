"""``wasm-sandbox doctor``: what stands here, what does not and why, and proof by attack."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left
from native import workers_without

from wasm_sandbox import Pool, doctor
from wasm_sandbox.cli.main import main
from wasm_sandbox.protocol.capabilities import Capabilities
from wasm_sandbox.protocol.catalogue import ATTACKS
from wasm_sandbox.protocol.isolation import WALLS
from wasm_sandbox.protocol.limits import Limits
from wasm_sandbox.supervisor import keeper
from wasm_sandbox.supervisor.attacks.survey import Row, survey
from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from wasm_sandbox.supervisor.cgroups.model import Unavailable

REASON, REMEDY = "no cgroup file system is mounted", "mount one"
FIELDS = [f"limits.{name}" for name in Limits.__struct_fields__]
FIELDS += [f"capabilities.{name}" for name in Capabilities.__struct_fields__]
FEW = ("open_descriptors", "load_module", "send_noise")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no cgroup can be made."""
    missing = dict.fromkeys(map(str, CONTROLLERS), Unavailable(reason=REASON, remedy=REMEDY))
    for module in (keeper, doctor):
        monkeypatch.setattr(module, "discover", lambda: NoHierarchy(missing))


@pytest.fixture
def few_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as prove the command."""
    monkeypatch.setattr(doctor, "survey", functools.partial(survey, names=FEW))


def consult(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and what was printed; nothing is left."""
    with nothing_left():
        code = main(["doctor", *arguments])
    return code, capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON."""
    code, said = consult(capsys, "--json", *arguments)
    return code, json.loads(said)


def test_it_shows_the_machine_every_wall_and_every_field(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    code, said = consult(capsys, "--cache-dir", str(cache))
    assert code == 0
    lines = said.splitlines()
    assert max(map(len, lines)) <= 100
    assert os.uname().release in said
    assert "raw call path" in said
    for wall in WALLS:
        assert any(line.startswith((f"  + {wall} ", f"  - {wall} ")) for line in lines)
    for field in FIELDS:
        assert any(line.startswith(f"  {field} ") for line in lines)


def test_the_same_is_there_for_machines(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    code, found = facts(capsys, "--cache-dir", str(cache))
    assert code == 0
    with Pool(1, cache_dir=cache) as pool:
        assert found["policy"] == json.loads(msgspec.json.encode(pool.enforcement()))
        assert found["walls"] == json.loads(msgspec.json.encode(pool.walls()))
    assert found["machine"]["kernel"] == os.uname().release
    assert found["versions"]["wasmtime"].startswith("50.")
    assert found["fallback"] == ""
    assert found["strict"] is (not found["exposures"])
    assert "attacks" not in found


@pytest.mark.usefixtures("no_cgroups")
def test_a_missing_wall_comes_with_its_reason_and_its_remedy(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    with workers_without("rlimits"):
        code, said = consult(capsys, "--cache-dir", str(cache))
    assert code == 0
    flat = " ".join(said.split())
    assert f"- cgroup.cpu {REASON} to get it: {REMEDY}" in flat
    assert f"limits.compile_memory GAP: cgroup.memory: {REASON}" in flat
    assert "limits.cpu_fraction supervisor" in flat
    assert "would refuse to start here" in said
    assert "nothing enforces limits.compile_memory" in said
    assert f"native code that tries to {ATTACKS['fill_disk'].title}" in flat


@pytest.mark.usefixtures("no_cgroups")
def test_a_gap_under_strict_is_exit_code_5(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    with workers_without("rlimits"):
        code, found = facts(capsys, "--isolation", "strict", "--cache-dir", str(cache))
    assert code == 5
    assert found["strict"] is False
    assert "fill_disk" in [each["attack"] for each in found["exposures"]]


def test_the_policy_is_the_one_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    _, found = facts(
        capsys, "--dir", f"{tmp_path}::/work:rw", "--fuel", "9", "--cache-dir", str(cache)
    )
    rows = {row["field"]: row for row in found["policy"]}
    assert rows["limits.fuel"]["in_force"]
    assert rows["limits.file_size"]["in_force"]


# -- attacks --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_attacks")
def test_attacks_are_made_and_what_stopped_them_is_named(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    code, said = consult(capsys, "--attack", "--cache-dir", str(cache))
    assert code == 0
    assert max(map(len, said.splitlines())) <= 100
    flat = " ".join(said.split())
    assert "open 100,000 descriptors stopped by rlimits" in flat
    assert "send bytes that are no message stopped by supervisor" in flat
    table = said[said.index("S succeeded") :]
    assert "open 100,000 descriptors " in table
    assert "send bytes" not in table


@pytest.mark.usefixtures("few_attacks")
def test_an_attack_that_nothing_stops_succeeds_and_strict_says_5(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    with workers_without("rlimits"):
        code, said = consult(capsys, "--attack", "--cache-dir", str(cache))
        assert code == 0
        assert "open 100,000 descriptors SUCCEEDED: " in " ".join(said.split())
        arguments = "--attack", "--isolation", "strict", "--cache-dir", str(cache)
        code, found = facts(capsys, *arguments)
        assert code == 5
    row = next(row for row in found["attacks"] if row["attack"] == "open_descriptors")
    assert row["all"] is True
    assert row["stopped_by"] == []


def test_an_attack_that_passes_a_wall_which_should_stop_it_is_a_hole(
    capsys: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(
        attack="outlive",
        title="outlive the parent",
        without=True,
        refusal="",
        alone={"death_signal": True},
        all=True,
        evidence="it lived on",
    )
    monkeypatch.setattr("wasm_sandbox.cli.doctor.attack", lambda *_: (row,))
    assert consult(capsys, "--attack", "--cache-dir", str(cache))[0] == 5


@pytest.mark.parametrize("seen", [True, False])
def test_progress_is_shown_where_the_attacks_are_not(
    capsys: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    shown: list[str] = []

    @contextmanager
    def progress(what: str) -> Generator[None]:
        shown.append(what)
        yield

    monkeypatch.setattr("wasm_sandbox.cli.doctor.progress", progress)
    monkeypatch.setattr("wasm_sandbox.cli.doctor.attack", lambda _: ())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: seen)
    consult(capsys, "--attack", "--cache-dir", str(cache))
    consult(capsys, "--attack", "--json", "--cache-dir", str(cache))
    assert shown == ["attacking"] * (1 if seen else 2)
