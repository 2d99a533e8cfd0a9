"""What is misspelt or mistyped in a policy is refused by the name of its field, with what is
close."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasm_sandbox import (
    Capabilities,
    Clock,
    ConfigurationError,
    Environment,
    Filesystem,
    Isolation,
    Limits,
    Pool,
    Recycle,
    RestartPolicy,
    open_pool,
)

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "limits": Limits,
    "capabilities": Capabilities,
    "restart": RestartPolicy,
    "recycle": Recycle,
    "isolation": Isolation,
}


@pytest.mark.parametrize("place", STRUCTS)
def test_every_misspelt_field_is_met_with_the_right_one(place: str) -> None:
    make: Callable[..., object] = STRUCTS[place]
    for name in STRUCTS[place].__struct_fields__:
        with pytest.raises(ConfigurationError) as refusal:
            make(**{f"{name}x": 1})
        assert refusal.value.field == f"{place}.{name}x"
        assert refusal.value.hint == f"did you mean {name}?"


@pytest.mark.parametrize("place", STRUCTS)
def test_a_field_that_is_like_none_is_met_with_all(place: str) -> None:
    make: Callable[..., object] = STRUCTS[place]
    with pytest.raises(ConfigurationError) as refusal:
        make(ø=1)
    assert refusal.value.field == f"{place}.ø"
    for name in STRUCTS[place].__struct_fields__:
        assert name in refusal.value.hint


@pytest.mark.parametrize("place", STRUCTS)
def test_fields_without_a_name_are_refused(place: str) -> None:
    make: Callable[..., object] = STRUCTS[place]
    with pytest.raises(ConfigurationError, match="by name") as refusal:
        make(64 << 20)
    assert refusal.value.field == place
    assert STRUCTS[place].__struct_fields__[0] in refusal.value.hint


@pytest.mark.parametrize("place", STRUCTS)
def test_a_copy_with_another_value_is_checked_too(place: str) -> None:
    made: Any = STRUCTS[place]()
    field = STRUCTS[place].__struct_fields__[0]
    with pytest.raises(ConfigurationError) as refusal:
        msgspec.structs.replace(made, **{field: -1})
    assert refusal.value.field == f"{place}.{field}"
    assert msgspec.structs.replace(made) == made


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pool(worker=1),  # type: ignore[call-arg]
        lambda: open_pool(worker=1),  # type: ignore[call-arg]
        lambda: Filesystem.read_only(".", to="/x"),  # type: ignore[call-arg]
    ],
)
def test_an_unknown_keyword_of_a_function_is_pythons_own_error(make: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"worker|to"):
        make()


WRONG_TYPES: list[tuple[Callable[[Any], object], str, list[Any]]] = [
    (Filesystem.read_only, "capabilities.filesystem.read_only", [b"/", None, 7, ["/"], "", "\0"]),
    (Filesystem.read_write, "capabilities.filesystem.read_write", [b"/", None, 7, ["/"], ""]),
    (
        lambda at: Filesystem.read_only("/", at=at),
        "capabilities.filesystem.read_only.at",
        [b"/", 7, Path("/x"), ["/x"]],
    ),
    (Environment.allow, "capabilities.environment.allow", [b"A", None, ["A"], ""]),
    (Environment.deny, "capabilities.environment.deny", [b"A", None, ["A"], ""]),
    (Environment.set, "capabilities.environment.set", ["AB", None, [("A", "b")], {"A": 1}]),
    (lambda value: Isolation(require=value), "isolation.require", ["engine", ["engine"], 7, {7}]),
    (lambda value: Pool(cache_dir=value), "cache_dir", ["", "a\0b", b"/tmp", 7]),
]


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [(make, field, value) for make, field, values in WRONG_TYPES for value in values],
    ids=repr,
)
def test_a_value_of_a_wrong_type_is_refused_by_the_name_of_its_field(
    make: Callable[[Any], object], field: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        make(value)
    assert refusal.value.field == field


def test_a_wall_that_there_is_not_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean cgroup\.memory"):
        Isolation(require={"cgroup.memry"})
    assert Isolation(require={"engine"}) == Isolation(require=frozenset({"engine"}))


BY_HAND: list[tuple[str, Callable[[], Any]]] = [
    ("clock", lambda: Clock("slow")),  # type: ignore[arg-type]
    ("filesystem", lambda: Filesystem(7)),  # type: ignore[arg-type]
    ("filesystem", lambda: Filesystem((object(),))),  # type: ignore[arg-type]
    ("environment", lambda: Environment("allow", 7)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("field", "make"), BY_HAND)
def test_a_grant_that_no_function_makes_is_refused(field: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Capabilities(**{field: make()})
    assert refusal.value.field == f"capabilities.{field}"


def test_only_file_systems_are_joined() -> None:
    with pytest.raises(ConfigurationError, match="must be Filesystem, not str"):
        Filesystem.none() | "./data"  # type: ignore[operator]
