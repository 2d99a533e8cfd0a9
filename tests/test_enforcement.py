"""What the policy says is enforced by a wall that stands here, or the table says why it is not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import guests
import msgspec
import pytest
from native import workers_without

from wasm_sandbox import (
    Capabilities,
    ConfigurationError,
    Filesystem,
    Isolation,
    IsolationError,
    Limits,
    Pool,
    RestartIntensityReached,
    WallReport,
)
from wasm_sandbox.function import Function
from wasm_sandbox.protocol.catalogue import ATTACKS
from wasm_sandbox.protocol.isolation import WALLS, EnforcementRow
from wasm_sandbox.protocol.policies import RestartPolicy
from wasm_sandbox.protocol.profile import Profile
from wasm_sandbox.supervisor import enforcement as fields
from wasm_sandbox.supervisor import keeper
from wasm_sandbox.supervisor.attacks.survey import CHOICE
from wasm_sandbox.supervisor.cgroups import Unavailable
from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
from wasm_sandbox.supervisor.enforcement import enforcement, refuse_absent, wall_reports
from wasm_sandbox.supervisor.exposure import exposures, refuse_exposures

ADD = guests.add().encode()
FIELDS = [f"limits.{name}" for name in Limits.__struct_fields__]
FIELDS += [f"capabilities.{name}" for name in Capabilities.__struct_fields__]
REASON, REMEDY = "no cgroup file system is mounted", "mount one"
NOWHERE = NoHierarchy(dict.fromkeys(CONTROLLERS, Unavailable(reason=REASON, remedy=REMEDY)))
LIMITS, CAPABILITIES = Limits(), Capabilities()
IN_THE_WORKER = ("engine", "process", "descriptors", "environment", "no_new_privs", "rlimits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def rows(cache: Path) -> dict[str, EnforcementRow]:
    """The table of an ordinary pool on this machine."""
    with Pool(1, cache_dir=cache) as pool:
        return {row.field: row for row in pool.enforcement()}


@pytest.fixture
def shut(cache: Path, rows: dict[str, EnforcementRow]) -> None:
    """Skip, by name, where ``strict`` has a reason to refuse this machine."""
    if gaps := [row.field for row in rows.values() if row.gap]:
        pytest.skip(f"this machine has gaps: {gaps}")
    with Pool(1, cache_dir=cache) as pool:
        if found := exposures(pool.walls(), root=os.geteuid() == 0):
            pytest.skip(f"this machine is open to {[exposure.title for exposure in found]}")


@pytest.fixture
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no cgroup can be made."""
    monkeypatch.setattr(keeper, "discover", lambda: NoHierarchy(NOWHERE.missing))


def table(
    limits: Limits = LIMITS, capabilities: Capabilities = CAPABILITIES, *without: str
) -> dict[str, EnforcementRow]:
    """The table of a machine without cgroups, where the walls ``without`` could not be built."""
    standing = [wall for wall in (*IN_THE_WORKER, "death_signal") if wall not in without]
    missing = [(wall, "the kernel is too old") for wall in without]
    directories = Profile.of(limits, capabilities).directories
    made = enforcement(limits, directories, standing, missing, NOWHERE)
    return {row.field: row for row in made}


# -- the table ------------------------------------------------------------------------------------


def test_every_field_of_the_policy_has_one_row(
    rows: dict[str, EnforcementRow], cache: Path
) -> None:
    assert list(rows) == FIELDS
    with Pool(1, cache_dir=cache) as pool:
        assert [row.field for row in pool.enforcement()] == FIELDS


@pytest.mark.parametrize("field", FIELDS)
def test_a_row_names_walls_that_exist_and_says_why_others_do_not(
    rows: dict[str, EnforcementRow], field: str
) -> None:
    row = rows[field]
    assert set(row.walls) <= set(WALLS)
    assert not set(row.walls) & {wall for wall, *_ in row.missing}
    assert not row.gap, f"nothing enforces {field} here: {row.missing} {row.note}"
    for wall, reason, _ in row.missing:
        assert wall in WALLS
        assert reason
        assert "no worker has reported" not in reason
    if not row.walls:
        assert row.note


def test_all_walls_in_the_worker_stand_on_this_machine(rows: dict[str, EnforcementRow]) -> None:
    standing = {wall for row in rows.values() for wall in row.walls}
    assert {"engine", "process", "supervisor", "rlimits", "environment", "descriptors"} <= standing


def test_rows_are_plain_data(rows: dict[str, EnforcementRow]) -> None:
    for row in rows.values():
        assert msgspec.convert(msgspec.to_builtins(row), EnforcementRow) == row


# -- without cgroups ------------------------------------------------------------------------------

IN_CGROUPS = {
    "limits.memory": ("cgroup.memory", "cgroup.swap"),
    "limits.processes": ("cgroup.pids",),
    "limits.cpu_fraction": ("cgroup.cpu",),
    "limits.compile_memory": ("cgroup.memory",),
}


@pytest.mark.usefixtures("no_cgroups")
def test_without_cgroups_the_rows_give_reason_and_remedy(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        assert pool.load(ADD)["add"](1, 2) == 3
        found = {row.field: row for row in pool.enforcement()}
    for field, walls in IN_CGROUPS.items():
        assert set(found[field].missing) >= {(wall, REASON, REMEDY) for wall in walls}
        assert not set(found[field].walls) & set(walls)
    assert found["limits.memory"].walls == ("engine", "rlimits")
    assert found["limits.cpu_fraction"].walls == ("supervisor",)
    assert not [field for field, row in found.items() if row.gap]
    assert not any(wall.startswith("cgroup.") for row in found.values() for wall in row.walls)


@pytest.mark.usefixtures("no_cgroups")
def test_strict_refuses_a_gap_and_names_the_field(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fields.WALLS_OF, "limits.cpu_fraction", ("cgroup.cpu",))
    with pytest.raises(IsolationError) as caught, Pool(1, cache_dir=cache, isolation="strict"):
        pytest.fail("it started")
    assert caught.value.wall == "limits.cpu_fraction"
    assert REASON in str(caught.value)
    assert caught.value.hint == REMEDY


@pytest.mark.usefixtures("no_cgroups")
@pytest.mark.parametrize("wall", [f"cgroup.{name}" for name in CONTROLLERS])
def test_a_wall_that_must_stand_and_does_not_is_refused(cache: Path, wall: str) -> None:
    asked = Isolation(require=frozenset({"engine", wall}))
    with pytest.raises(IsolationError) as caught, Pool(1, cache_dir=cache, isolation=asked):
        pytest.fail("it started")
    assert caught.value.wall == wall
    assert REASON in str(caught.value)
    assert caught.value.hint == REMEDY


@pytest.mark.usefixtures("no_cgroups")
def test_the_walls_that_stand_may_be_asked_for(cache: Path) -> None:
    walls = frozenset({"supervisor", "death_signal", *IN_THE_WORKER})
    with Pool(1, cache_dir=cache, isolation=Isolation(require=walls)) as pool:
        assert pool.load(ADD)["add"](1, 2) == 3


@pytest.mark.usefixtures("shut")
def test_strict_starts_where_nothing_is_missing(cache: Path) -> None:
    with Pool(1, cache_dir=cache, isolation="strict") as pool:
        assert pool.load(ADD)["add"](1, 2) == 3


@pytest.mark.usefixtures("no_cgroups")
def test_strict_starts_without_cgroups_where_other_walls_do_their_work(cache: Path) -> None:
    with Pool(1, cache_dir=cache) as pool:
        if found := exposures(pool.walls(), root=os.geteuid() == 0):
            pytest.skip(f"this machine is open to {[exposure.title for exposure in found]}")
    with Pool(1, cache_dir=cache, isolation="strict") as pool:
        assert pool.load(ADD)["add"](1, 2) == 3


# -- the limits and capabilities of single calls --------------------------------------------------


@pytest.fixture
def no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that cannot enforce rates."""
    monkeypatch.setitem(fields.WALLS_OF, "limits.io_read", ())


@pytest.mark.usefixtures("no_rates")
def test_strict_refuses_rates_that_nothing_enforces(cache: Path, tmp_path: Path) -> None:
    granted = Capabilities(filesystem=Filesystem.read_only(tmp_path))
    with (
        pytest.raises(IsolationError) as caught,
        Pool(1, cache_dir=cache, isolation="strict", capabilities=granted),
    ):
        pytest.fail("it started")
    assert caught.value.wall == "limits.io_read"


@pytest.mark.usefixtures("shut", "no_rates")
def test_strict_holds_for_the_options_of_a_function(cache: Path, tmp_path: Path) -> None:
    """A function may not bring in a gap that its pool would have refused."""
    granted = Capabilities(filesystem=Filesystem.read_write(tmp_path))
    with Pool(1, cache_dir=cache, isolation="strict") as pool:
        add = pool.load(ADD)["add"]
        with pytest.raises(IsolationError) as caught:
            add.options(capabilities=granted)(1, 2)
        assert caught.value.wall == "limits.io_read"
        assert add(1, 2) == 3


@pytest.mark.parametrize(
    ("field", "policy", "in_force"),
    [
        ("limits.fuel", {}, False),
        ("limits.fuel", {"limits": Limits(fuel=1)}, True),
        ("limits.fuel", {"limits": Limits(fuel=0)}, True),
        ("limits.io_read", {}, False),
        (
            "limits.io_read",
            {"capabilities": Capabilities(filesystem=Filesystem.read_only("/"))},
            True,
        ),
        (
            "limits.io_write",
            {"capabilities": Capabilities(filesystem=Filesystem.read_only("/"))},
            False,
        ),
        (
            "limits.io_write",
            {"capabilities": Capabilities(filesystem=Filesystem.read_write("/"))},
            True,
        ),
        (
            "limits.file_size",
            {"capabilities": Capabilities(filesystem=Filesystem.read_write("/"))},
            True,
        ),
        (
            "limits.disk",
            {"capabilities": Capabilities(filesystem=Filesystem.read_only("/"))},
            False,
        ),
        (
            "limits.disk",
            {"capabilities": Capabilities(filesystem=Filesystem.read_write("/"))},
            True,
        ),
        ("limits.open_files", {}, False),
        (
            "limits.open_files",
            {"capabilities": Capabilities(filesystem=Filesystem.read_only("/"))},
            True,
        ),
        ("limits.memory", {}, True),
        ("capabilities.network", {}, True),
    ],
)
def test_a_row_tells_whether_the_policy_asks_for_anything(
    field: str, policy: dict[str, Any], in_force: bool
) -> None:
    assert table(**policy)[field].in_force is in_force


# -- walls that a worker could not build ----------------------------------------------------------


def test_a_wall_that_a_worker_could_not_build_is_a_gap() -> None:
    row = table(Limits(), Capabilities(), "rlimits")["limits.compile_memory"]
    assert row.gap
    assert row.missing[-1][:2] == ("rlimits", "the kernel is too old")
    assert row.missing[-1][2]


@pytest.mark.parametrize("wall", ["no_new_privs", "death_signal", "rlimits"])
def test_a_required_wall_that_a_worker_could_not_build_is_refused_with_its_reason(
    wall: str,
) -> None:
    standing = [name for name in (*IN_THE_WORKER, "death_signal") if name != wall]
    reports = wall_reports(standing, [(wall, "the kernel is too old")], NOWHERE)
    with pytest.raises(IsolationError) as caught:
        refuse_absent(Isolation(require=frozenset({wall})), reports)
    assert caught.value.wall == wall
    assert "the kernel is too old" in str(caught.value)
    assert caught.value.hint


def test_an_unknown_wall_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Isolation(require=frozenset({"moat"}))
    assert all(wall in caught.value.hint for wall in WALLS)


# -- attacks that nothing stops -------------------------------------------------------------------


def reports(*standing: str) -> tuple[WallReport, ...]:
    """What is reported where these walls stand, and the kernel is too old for the others."""
    missing = [(wall, "the kernel is too old") for wall in WALLS if wall not in standing]
    return wall_reports(standing, missing, NOWHERE)


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("wall", CHOICE)
def test_an_attack_is_open_unless_a_wall_stands_that_stops_it(wall: str, root: bool) -> None:
    found = {exposure.attack for exposure in exposures(reports(wall), root=root)}
    for name, entry in ATTACKS.items():
        stopped = entry.subject == "supervisor" or entry.stopped_by(root=root) & {
            "supervisor",  # which always stands
            wall,
        }
        assert (name in found) is not bool(stopped)


def test_an_open_attack_is_refused_with_the_walls_that_would_stop_it_and_a_remedy() -> None:
    with pytest.raises(IsolationError) as caught:
        refuse_exposures(reports("seccomp"))
    assert caught.value.wall == "attack.read_passwd"
    assert "read /etc/passwd" in str(caught.value)
    assert "landlock: the kernel is too old" in str(caught.value)
    assert caught.value.hint


@pytest.mark.usefixtures("shut")
def test_strict_refuses_to_start_where_an_attack_is_open(cache: Path) -> None:
    with (
        workers_without("rlimits"),
        pytest.raises(IsolationError) as caught,
        Pool(1, cache_dir=cache, isolation="strict"),
    ):
        pytest.fail("it started")
    assert caught.value.wall == "attack.fill_disk"
    assert "left out by the test" in str(caught.value)


def call_for_ever(add: Function) -> None:
    """Until a call fails."""
    while True:
        add(1, 2)


@pytest.mark.usefixtures("shut")
def test_a_worker_that_lacks_a_wall_does_not_serve_under_strict(cache: Path) -> None:
    """The walls of the first worker say nothing about those of the next."""
    with workers_without("rlimits", after=1):
        restart = RestartPolicy(intensity=2, backoff_first=0.0)
        with Pool(1, cache_dir=cache, isolation="strict", restart=restart) as pool:
            add = pool.load(ADD)["add"]
            assert add(1, 2) == 3
            os.kill(pool.workers()[0].pid, signal.SIGKILL)
            with pytest.raises(RestartIntensityReached, match=r"attack\.fill_disk"):
                call_for_ever(add)
        with Pool(1, cache_dir=cache, restart=restart) as pool:
            assert pool.load(ADD)["add"](1, 2) == 3
