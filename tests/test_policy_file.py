"""A policy file says exactly what it grants, and whatever it says wrongly is refused by name."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from wasm_sandbox import (
    Capabilities,
    Clock,
    ConfigurationError,
    Environment,
    Filesystem,
    Limits,
    Network,
    Random,
)
from wasm_sandbox.policy import parse_policy, parse_size, read_policy

EVERYTHING = """
[limits]
memory = "64MiB"
output = 1000
network_received = "1MiB"
network_sent = "10kB"
wall_time = 5.5
fuel = 1000000

[capabilities]
stdio = false
clock = { frozen = 12.5 }
random = { seeded = 7 }
network = "none"

[capabilities.filesystem]
read_only = ["data", { path = "shared", at = "/shared" }]
read_write = [
  "work", { path = "out", at = "/out", max_file_size = "1KiB", allow_create = false },
]

[capabilities.environment]
allow = ["LANG", "TZ"]
"""


def test_a_policy_file_says_everything(tmp_path: Path) -> None:
    for name in ("data", "shared", "work", "out"):
        (tmp_path / name).mkdir()
    path = tmp_path / "policy.toml"
    path.write_text(EVERYTHING)
    policy = read_policy(path)
    assert policy.limits == Limits(
        memory=64 << 20,
        output=1000,
        network_received=1 << 20,
        network_sent=10_000,
        wall_time=5.5,
        fuel=1_000_000,
    )
    assert policy.capabilities == Capabilities(
        stdio=False,
        clock=Clock.frozen(12.5),
        random=Random.seeded(7),
        environment=Environment.allow("LANG", "TZ"),
        filesystem=Filesystem.read_only(tmp_path / "data", at="data")
        | Filesystem.read_only(tmp_path / "shared", at="/shared")
        | Filesystem.read_write(tmp_path / "work", at="work")
        | Filesystem.read_write(
            tmp_path / "out", at="/out", max_file_size=1024, allow_create=False
        ),
    )


def test_an_empty_policy_grants_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.touch()
    assert read_policy(path) == (Limits(), Capabilities.minimal())


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"clock": "real"}, Capabilities()),
        ({"clock": "frozen"}, Capabilities(clock=Clock.frozen())),
        ({"clock": "monotonic_only"}, Capabilities(clock=Clock.monotonic_only())),
        ({"random": "none"}, Capabilities(random=Random.none())),
        ({"environment": "full"}, Capabilities(environment=Environment.full())),
        ({"environment": {"full": True}}, Capabilities(environment=Environment.full())),
        ({"environment": {"deny": ["A"]}}, Capabilities(environment=Environment.deny("A"))),
        (
            {"environment": {"set": {"A": "b"}}},
            Capabilities(environment=Environment.set({"A": "b"})),
        ),
        ({"filesystem": "none"}, Capabilities()),
        ({"network": "full"}, Capabilities(network=Network.full())),
        ({"network": "loopback"}, Capabilities(network=Network.loopback())),
        ({"network": {"loopback": True}}, Capabilities(network=Network.loopback())),
        (
            {
                "network": {
                    "loopback": [8000, "9000-9001"],
                    "hosts": ["a.example:443", "10.0.0.1:80"],
                    "private_hosts": ["db.internal:5432"],
                    "ports": [443],
                }
            },
            Capabilities(
                network=Network.loopback([8000, "9000-9001"])
                | Network.hosts("a.example:443", "10.0.0.1:80")
                | Network.hosts("db.internal:5432", private=True)
                | Network.ports(443)
            ),
        ),
        ({"filesystem": {}}, Capabilities()),
    ],
    ids=str,
)
def test_capabilities_are_said_by_kind(said: dict[str, Any], meant: Capabilities) -> None:
    assert parse_policy({"capabilities": said}).capabilities == meant


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"limit": {}}, "limit"),
    ({"limits": 3}, "limits"),
    ({"limits": {"memori": 1}}, "limits.memori"),
    ({"limits": {"memory": -1}}, "limits.memory"),
    ({"limits": {"memory": "64 MiBs"}}, "limits.memory"),
    ({"limits": {"memory": "-1MiB"}}, "limits.memory"),
    ({"limits": {"memory": 1.5}}, "limits.memory"),
    ({"limits": {"memory": True}}, "limits.memory"),
    ({"limits": {"wall_time": "5s"}}, "limits.wall_time"),
    ({"limits": {"wall_time": float("nan")}}, "limits.wall_time"),
    ({"limits": {"wall_time": 0}}, "limits.wall_time"),
    ({"capabilities": []}, "capabilities"),
    ({"capabilities": {"files": {}}}, "capabilities.files"),
    ({"capabilities": {"stdio": 1}}, "capabilities.stdio"),
    ({"capabilities": {"clock": "slow"}}, "capabilities.clock.slow"),
    ({"capabilities": {"clock": {"frozen": "now"}}}, "capabilities.clock.frozen"),
    ({"capabilities": {"clock": {"frozen": -1}}}, "capabilities.clock.frozen"),
    ({"capabilities": {"clock": {"real": 3}}}, "capabilities.clock.real"),
    ({"capabilities": {"random": {"seeded": 1.5}}}, "capabilities.random.seeded"),
    ({"capabilities": {"random": "seeded"}}, "capabilities.random.seeded"),
    ({"capabilities": {"random": {}}}, "capabilities.random"),
    ({"capabilities": {"random": {"none": True, "secure": True}}}, "capabilities.random"),
    ({"capabilities": {"network": {"full": 1}}}, "capabilities.network.full"),
    ({"capabilities": {"network": {"hosts": "a.example:80"}}}, "capabilities.network.hosts"),
    ({"capabilities": {"network": {"hosts": ["a.example"]}}}, "capabilities.network.hosts"),
    ({"capabilities": {"network": {"hosts": True}}}, "capabilities.network.hosts"),
    ({"capabilities": {"network": {"ports": [0]}}}, "capabilities.network.ports"),
    ({"capabilities": {"network": {"loopback": False}}}, "capabilities.network.loopback"),
    ({"capabilities": {"network": {"lopback": True}}}, "capabilities.network.lopback"),
    ({"capabilities": {"network": "nonne"}}, "capabilities.network.nonne"),
    ({"capabilities": {"environment": {"allow": "A"}}}, "capabilities.environment.allow"),
    ({"capabilities": {"environment": {"allow": [1]}}}, "capabilities.environment.allow"),
    ({"capabilities": {"environment": {"set": {"A": 1}}}}, "capabilities.environment.set.A"),
    ({"capabilities": {"filesystem": {"scratch": "1KiB"}}}, "capabilities.filesystem.scratch"),
    ({"capabilities": {"filesystem": {"scratch": "big"}}}, "capabilities.filesystem.scratch"),
    ({"capabilities": {"filesystem": {"write": []}}}, "capabilities.filesystem.write"),
    ({"capabilities": {"filesystem": {"read_only": "x"}}}, "capabilities.filesystem.read_only"),
    ({"capabilities": {"filesystem": {"read_only": [3]}}}, "capabilities.filesystem.read_only"),
    (
        {"capabilities": {"filesystem": {"read_only": [{"at": "/x"}]}}},
        "capabilities.filesystem.read_only.path",
    ),
    (
        {"capabilities": {"filesystem": {"read_only": [{"path": "/", "mode": "rw"}]}}},
        "capabilities.filesystem.read_only.mode",
    ),
    (
        {"capabilities": {"filesystem": {"read_only": ["/no such directory"]}}},
        "capabilities.filesystem.read_only",
    ),
    (
        {"capabilities": {"filesystem": {"read_write": [{"path": "/", "allow_delete": 0}]}}},
        "capabilities.filesystem.read_write.allow_delete",
    ),
]


@pytest.mark.parametrize(("table", "field"), WRONG, ids=lambda value: str(value)[:60])
def test_what_cannot_be_used_is_refused_by_name(table: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_policy(table)
    assert refusal.value.field == field


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_every_limit_has_its_line(name: str) -> None:
    default = getattr(Limits(), name) or 0
    tighter = default // 2 if isinstance(default, int) else default / 2
    policy = tomllib.loads(f"limits.{name} = {tighter}")
    assert parse_policy(policy).limits == Limits(**{name: tighter})


LINES: dict[str, tuple[str, Capabilities]] = {
    "filesystem": (
        'filesystem.read_only = ["/"]',
        Capabilities(filesystem=Filesystem.read_only("/")),
    ),
    "network": ('network = "none"', Capabilities(network=Network.none())),
    "environment": (
        'environment.set = { A = "b" }',
        Capabilities(environment=Environment.set({"A": "b"})),
    ),
    "clock": ("clock.frozen = 7", Capabilities(clock=Clock.frozen(7))),
    "random": ("random.seeded = 7", Capabilities(random=Random.seeded(7))),
    "stdio": ("stdio = false", Capabilities(stdio=False)),
    "custom": (
        'custom = { tier = "gold", rows = 10, ratio = 0.5, admin = false, tables = ["a", "b"] }',
        Capabilities(
            custom={
                "tier": "gold",
                "rows": 10,
                "ratio": 0.5,
                "admin": False,
                "tables": ["a", "b"],
            }
        ),
    ),
}


@pytest.mark.parametrize("name", Capabilities.__struct_fields__)
def test_every_capability_has_its_line(name: str) -> None:
    line, meant = LINES[name]
    assert parse_policy(tomllib.loads(f"[capabilities]\n{line}")).capabilities == meant


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (field, kind)
        for field, kinds in {
            "filesystem": Filesystem,
            "network": Network,
            "environment": Environment,
            "clock": Clock,
            "random": Random,
        }.items()
        for kind, member in vars(kinds).items()
        if isinstance(member, staticmethod)
    ],
)
def test_every_kind_of_grant_that_python_has_can_be_written(field: str, kind: str) -> None:
    """Written without what it needs; that, or what this version lacks, is then what is refused."""
    assert "no such field" not in refusal_of(field, kind if kind == "none" else {kind: True})
    assert "no such field" in refusal_of(field, {f"{kind}x": True})


def refusal_of(field: str, grant: object) -> str:
    try:
        parse_policy({"capabilities": {field: grant}})
    except ConfigurationError as refusal:
        return str(refusal)
    return ""


MISSPELT: list[tuple[str, str, str]] = [
    ("[limit]", "limit", "limits"),
    ("[capability]", "capability", "capabilities"),
    ("limits.memori = 1", "limits.memori", "memory"),
    ("capabilities.filesytem = {}", "capabilities.filesytem", "filesystem"),
    ("filesystem.readonly = []", "capabilities.filesystem.readonly", "read_only"),
    (
        'filesystem.read_only = [{ path = "/", att = "/" }]',
        "capabilities.filesystem.read_only.att",
        "at",
    ),
    (
        'filesystem.read_write = [{ path = "/", allow_creat = true }]',
        "capabilities.filesystem.read_write.allow_creat",
        "allow_create",
    ),
    ("environment.alow = []", "capabilities.environment.alow", "allow"),
    ('clock = "frosen"', "capabilities.clock.frosen", "frozen"),
    ("random.seded = 7", "capabilities.random.seded", "seeded"),
    ('network = "nome"', "capabilities.network.nome", "none"),
]


@pytest.mark.parametrize(("line", "field", "near"), MISSPELT)
def test_a_misspelt_field_of_any_level_is_met_with_the_right_one(
    line: str, field: str, near: str
) -> None:
    whole = line if line.startswith(("[", "limits", "capabilities")) else f"capabilities.{line}"
    with pytest.raises(ConfigurationError, match="there is no such field") as refusal:
        parse_policy(tomllib.loads(whole))
    assert refusal.value.field == field
    assert refusal.value.hint == f"did you mean {near}?"


@pytest.mark.parametrize("content", [b"[limits", b"\xff", b"limits = 1\nlimits = 2"])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="policy"):
        read_policy(path)


def test_a_missing_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("1.5MiB", 3 << 19),
        ("2MB", 2_000_000),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_numbers_with_units(text: str, size: int) -> None:
    assert parse_size("limits.memory", text) == size
