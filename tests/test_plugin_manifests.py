"""A manifest asks, the program grants; what is wrong or too much is refused by its name."""

from __future__ import annotations

import itertools
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from plugin_folders import manifest

from wasm_sandbox import (
    Capabilities,
    CapabilityDenied,
    Clock,
    ConfigurationError,
    Environment,
    Filesystem,
    Limits,
    Network,
    Random,
)
from wasm_sandbox.plugins.folder import look_at
from wasm_sandbox.plugins.grants import grant_capabilities, grant_imports, grant_limits
from wasm_sandbox.plugins.manifest import parse_manifest
from wasm_sandbox.plugins.versions import Version
from wasm_sandbox.policy import parse_policy

ORDER = [
    "0.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1",
    "1.0.1",
    "1.10",
    "2.0.0.1",
]


@pytest.mark.parametrize(("low", "high"), [*itertools.combinations(ORDER, 2)])
def test_versions_are_compared_as_semantic_versioning_has_it(low: str, high: str) -> None:
    assert Version.parse(low) < Version.parse(high)


def test_what_a_version_leaves_out_is_zero_and_builds_do_not_count() -> None:
    assert len({Version.parse(text) for text in ("1", "1.0", "1.0.0", "1.0.0+build.5")}) == 1


@pytest.mark.parametrize("text", ["", "v1", "1.", "1..2", "1.2.3.4.5", "1-", "1.0-a..b", "9" * 101])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="version"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("plugin.toml", "name = "),
        ("plugin.toml", "a=" + "[" * 5000),
        ("name", manifest().replace('name = "clock"', "")),
        ("name", manifest("Clock")),
        ("name", manifest("../clock")),
        ("version", manifest(version="newest")),
        ("module", manifest().replace("code.wat", "../code.wat")),
        ("module", manifest().replace("code.wat", "/code.wat")),
        ("module", manifest().replace("code.wat", "")),
        ("module", manifest().replace('"code.wat"', "7")),
        ("modul", manifest(more='modul = "x"')),
        ("sha256", manifest(more='sha256 = "00"')),
        *[
            ("imports", manifest().replace("env.gate", text))
            for text in ("", "env.", ".gate", "#a", "a#")
        ],
        ("entry_points", 'name = "a"\nversion = "1"\nmodule = "a.wasm"'),
        ("entry_points.more.export", manifest(tables="more = {}")),
        ("entry_points.more.return", manifest(tables='more = { export = "a", return = "str" }')),
        ("entry_points.more.returns", manifest(tables='more = { export = "a", returns = "int" }')),
        ("limits.memroy", manifest(tables="[limits]\nmemroy = 1")),
        ("limits.memory", manifest(tables='[limits]\nmemory = "much"')),
        ("limits.compile_time", manifest(tables="[limits]\ncompile_time = 1.0")),
        ("health.export", manifest(tables="[health]")),
        ("health.timeout", manifest(tables='[health]\nexport = "a"\ntimeout = 0')),
        ("health.args", manifest(tables='[health]\nexport = "a"\nargs = 1')),
        ("health.expect", manifest(tables='[health]\nexport = "a"\nexpect = 1')),
    ],
)
def test_an_error_in_a_manifest_names_the_field(field: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_manifest(text.encode())
    assert caught.value.field == field


def asking(capabilities: str) -> Capabilities:
    return parse_and_grant(capabilities, Capabilities.minimal())


def parse_and_grant(capabilities: str, granted: Capabilities) -> Capabilities:
    text = manifest(tables=f"[capabilities]\n{capabilities}")
    return grant_capabilities(parse_manifest(text.encode()), granted)


NETWORKS = Network.hosts("*.example.org:443", "10.0.0.1:80") | Network.hosts(
    "db.internal:5432", private=True
)
HERE = Filesystem.read_only("/usr", at="/photos") | Filesystem.read_write("/tmp", at="/out")


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ('network = { hosts = ["a.example.org:443"] }', Capabilities(network=NETWORKS)),
        ('network = { hosts = ["*.a.example.org:443"] }', Capabilities(network=NETWORKS)),
        ('network = { private_hosts = ["db.internal:5432"] }', Capabilities(network=NETWORKS)),
        ('network = { hosts = ["a.org:80-90"] }', Capabilities(network=Network.ports("1-100"))),
        ('network = "loopback"', Capabilities(network=Network.full())),
        ('environment = { allow = ["A"] }', Capabilities(environment=Environment.allow("A", "B"))),
        ('environment = { allow = ["A"] }', Capabilities(environment=Environment.deny("B"))),
        ('environment = { deny = ["A", "B"] }', Capabilities(environment=Environment.deny("B"))),
        ('environment = "full"', Capabilities(environment=Environment.full())),
        ('environment = { set = { A = "1" } }', Capabilities()),
        ('clock = "monotonic_only"', Capabilities()),
        ('random = "none"', Capabilities(random=Random.seeded(1))),
        ("random = { seeded = 1 }", Capabilities(random=Random.secure())),
    ],
)
def test_what_is_within_the_grant_is_given(asked: str, granted: Capabilities) -> None:
    wanted = parse_policy({"capabilities": tomllib.loads(asked)}).capabilities
    (name,) = tomllib.loads(asked)
    assert getattr(parse_and_grant(asked, granted), name) == getattr(wanted, name)


@pytest.mark.parametrize(
    ("asked", "granted", "named"),
    [
        ('network = "full"', Capabilities(network=NETWORKS), "network full"),
        (
            'network = { hosts = ["example.org:443"] }',
            Capabilities(network=NETWORKS),
            "example.org",
        ),
        ('network = { hosts = ["a.example.org:444"] }', Capabilities(network=NETWORKS), "444"),
        ('network = { hosts = ["*.org:443"] }', Capabilities(network=NETWORKS), r"\*\.org"),
        ('network = { hosts = ["evilexample.org:443"] }', Capabilities(network=NETWORKS), "evil"),
        (
            'network = { private_hosts = ["a.example.org:443"] }',
            Capabilities(network=NETWORKS),
            "a.example.org",
        ),
        (
            'network = { private_hosts = ["a.org:80"] }',
            Capabilities(network=Network.ports(80)),
            "a.org",
        ),
        (
            'network = { hosts = ["10.0.0.1:80"] }',
            Capabilities(network=Network.ports(80)),
            "10.0.0.1",
        ),
        (
            'network = { hosts = ["169.254.169.254:80"] }',
            Capabilities(network=Network.full()),
            "169.254",
        ),
        ('environment = { allow = ["A"] }', Capabilities(), "environment A"),
        ('environment = { allow = ["A"] }', Capabilities(environment=Environment.deny("A")), "A"),
        (
            'environment = { deny = ["A"] }',
            Capabilities(environment=Environment.allow("B")),
            "deny",
        ),
        ('environment = { deny = ["A"] }', Capabilities(environment=Environment.deny("B")), "B"),
        ('environment = "full"', Capabilities(environment=Environment.deny("B")), "full"),
        ('filesystem = { read_only = ["/data"] }', Capabilities(filesystem=HERE), "/data"),
        (
            'filesystem = { read_write = ["/photos"] }',
            Capabilities(filesystem=HERE),
            "read_write /photos",
        ),
        ('filesystem = { scratch = "1MiB" }', Capabilities(filesystem=HERE), "scratch"),
        ('clock = "real"', Capabilities(clock=Clock.frozen(1)), "clock"),
        ('random = "secure"', Capabilities(random=Random.none()), "random"),
        ("stdio = true", Capabilities(stdio=False), "stdio"),
    ],
)
def test_what_is_asked_beyond_the_grant_is_refused_by_name(
    asked: str, granted: Capabilities, named: str
) -> None:
    with pytest.raises(CapabilityDenied, match=named):
        parse_and_grant(asked, granted)


def test_all_that_is_too_much_is_named_at_once() -> None:
    with pytest.raises(CapabilityDenied, match=r"/data.*loopback.*HOME"):
        asking(
            'filesystem = { read_only = ["/data"] }\nnetwork = "loopback"\n'
            'environment = { allow = ["HOME"] }'
        )


def test_what_is_not_asked_for_is_not_given() -> None:
    granted = Capabilities(
        filesystem=HERE,
        network=Network.full(),
        environment=Environment.full(),
        clock=Clock.frozen(5),
        stdio=False,
    )
    assert parse_and_grant("", granted) == Capabilities(clock=Clock.frozen(5), stdio=False)


def test_directories_are_given_by_the_guests_path_with_no_more_rights_than_asked_for() -> None:
    given = parse_and_grant(
        'filesystem = { read_only = ["/out"], scratch = "1MiB" }',
        Capabilities(filesystem=HERE | Filesystem.scratch(2 << 20, at="/scratch")),
    ).filesystem
    assert given == Filesystem.read_only("/tmp", at="/out") | Filesystem.scratch(
        1 << 20, at="/scratch"
    )


def test_a_value_of_an_environment_that_was_set_is_the_programs() -> None:
    granted = Capabilities(environment=Environment.set({"A": "1", "B": "2"}))
    given = parse_and_grant('environment = { allow = ["A"] }', granted)
    assert given.environment == Environment.set({"A": "1"})


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ('filesystem = { read_only = [{ path = "/etc" }] }', "filesystem.read_only"),
        ('filesystem = { write = ["/"] }', "filesystem.write"),
        ('filesystem = "full"', "filesystem"),
        ("netwrok = true", "netwrok"),
    ],
)
def test_a_capability_that_there_is_not_is_an_error(asked: str, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        asking(asked)
    assert caught.value.field == f"capabilities.{field}"


def test_limits_are_never_more_than_granted() -> None:
    text = manifest(tables='[limits]\nmemory = "2MiB"\nfuel = 5\nwall_time = 9.0')
    asked = parse_manifest(text.encode())
    assert grant_limits(asked, Limits()) == Limits(memory=2 << 20, fuel=5, wall_time=9.0)
    with pytest.raises(CapabilityDenied, match=r"limits\.memory, limits\.fuel, limits\.wall_time"):
        grant_limits(asked, Limits(memory=1 << 20, fuel=4, wall_time=8.0))


def test_functions_of_the_program_are_lent_only_to_those_that_ask() -> None:
    asked = parse_manifest(manifest().encode())
    lent = {"env": {"gate": print, "other": print}, "more": {"gate": print}}
    assert grant_imports(asked, lent) == {"env": {"gate": print}}
    with pytest.raises(CapabilityDenied, match=r"env\.gate"):
        grant_imports(asked, {"env": {"other": print}})


LENT: dict[str, Any] = {
    "docs:shop/prices": {"unit_price": abs, "receipt": int},
    "docs:math/ops@0.1.0": {"add": sum},
    "docs:math/ops@0.2.0": {"add": max},
    "log": print,
}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("docs:shop/prices@0.1.0#unit-price", {"docs:shop/prices": {"unit_price": abs}}),
        ("docs:shop/prices#receipt", {"docs:shop/prices": {"receipt": int}}),
        ("docs:math/ops@0.2.0#add", {"docs:math/ops@0.2.0": {"add": max}}),
        ("log", {"log": print}),
    ],
)
def test_a_component_asks_for_functions_of_interfaces(text: str, given: Any) -> None:
    asked = parse_manifest(manifest().replace("env.gate", text).encode())
    assert grant_imports(asked, LENT) == given


@pytest.mark.parametrize(
    "text",
    [
        "docs:shop/prices#gate",
        "docs:shop/prices@0.1.0",
        "docs:math/ops#add",  # which of the two?
        "docs:math/ops@0.3.0#add",
        "docs:shop/price#receipt",
        "env.log",
        "gate",
    ],
)
def test_what_a_component_asks_for_and_is_not_lent_is_named(text: str) -> None:
    asked = parse_manifest(manifest().replace("env.gate", text).encode())
    with pytest.raises(CapabilityDenied, match=f"imports {text}"):
        grant_imports(asked, LENT)


def _link_folder(place: Path, outside: Path) -> None:
    place.rmdir()
    place.symlink_to(outside)


def _link_manifest(place: Path, outside: Path) -> None:
    (place / "plugin.toml").symlink_to(outside / "plugin.toml")


def _link_module(place: Path, outside: Path) -> None:
    (place / "plugin.toml").write_text(manifest())
    (place / "code.wat").symlink_to(outside / "code.wat")


def _link_between(place: Path, outside: Path) -> None:
    (place / "plugin.toml").write_text(manifest().replace("code.wat", "below/code.wat"))
    (place / "below").symlink_to(outside)


def _pipe(place: Path, outside: Path) -> None:
    (place / "plugin.toml").write_text(manifest())
    os.mkfifo(place / "code.wat")


def _folder(place: Path, outside: Path) -> None:
    (place / "plugin.toml").write_text(manifest())
    (place / "code.wat").mkdir()


def _large(place: Path, outside: Path) -> None:
    (place / "plugin.toml").write_text("#" * 100_000)


@pytest.mark.parametrize(
    "prepare",
    [_link_folder, _link_manifest, _link_module, _link_between, _pipe, _folder, _large],
    ids=lambda prepare: prepare.__name__.strip("_"),
)
def test_nothing_outside_of_its_folder_is_read_nor_what_is_no_file(
    prepare: object, tmp_path: Path
) -> None:
    outside, plugins = tmp_path / "outside", tmp_path / "plugins"
    (plugins / "clock").mkdir(parents=True)
    outside.mkdir()
    (outside / "plugin.toml").write_text(manifest())
    (outside / "code.wat").write_text("(module)")
    assert callable(prepare)
    prepare(plugins / "clock", outside)
    found = look_at(str(plugins), "clock").found
    assert isinstance(found, ConfigurationError)
    assert found.field in ("plugin", "plugin.toml", "module")
