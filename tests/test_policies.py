"""A policy that cannot be meant is refused, and the error names the field."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from wasm_sandbox.protocol.errors import ConfigurationError
from wasm_sandbox.protocol.policies import Recycle, RestartPolicy

REFUSED: list[tuple[type[Any], str, Any]] = [
    (RestartPolicy, "restart.intensity", -1),
    (RestartPolicy, "restart.intensity", 1.5),
    (RestartPolicy, "restart.intensity", True),
    (RestartPolicy, "restart.intensity", None),
    (RestartPolicy, "restart.period", 0),
    (RestartPolicy, "restart.period", math.inf),
    (RestartPolicy, "restart.period", math.nan),
    (RestartPolicy, "restart.period", "5"),
    (RestartPolicy, "restart.backoff_first", -0.01),
    (RestartPolicy, "restart.backoff_factor", 0.5),
    (RestartPolicy, "restart.backoff_max", -1),
    (RestartPolicy, "restart.backoff_max", 0.001),
    (Recycle, "recycle.max_calls", 0),
    (Recycle, "recycle.max_calls", 10.0),
    (Recycle, "recycle.max_age", 0.0),
    (Recycle, "recycle.max_age", math.inf),
    (Recycle, "recycle.max_memory_growth", -1),
]


@pytest.mark.parametrize(("policy", "field", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_field(
    policy: type[Any], field: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=field) as caught:
        policy(**{field.partition(".")[2]: value})
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("policy", [RestartPolicy, Recycle])
def test_the_defaults_are_valid_and_every_field_has_one(policy: type[Any]) -> None:
    assert policy() == policy()
    assert msgspec.json.decode(msgspec.json.encode(policy()), type=policy) == policy()


@pytest.mark.parametrize("policy", [RestartPolicy, Recycle])
def test_an_unknown_field_is_an_error(policy: type[Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="intensty"):
        msgspec.convert({"intensty": 3}, policy)


@pytest.mark.parametrize("policy", [RestartPolicy(), Recycle()])
def test_a_policy_cannot_be_changed_once_made(policy: Any) -> None:
    name = policy.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(policy, name, 1)


def test_recycling_can_be_switched_off_field_by_field() -> None:
    never = Recycle(max_calls=None, max_age=None, max_memory_growth=None)
    assert (never.max_calls, never.max_age, never.max_memory_growth) == (None, None, None)


@pytest.mark.parametrize(
    "policy",
    [
        RestartPolicy(intensity=0),
        RestartPolicy(backoff_first=0, backoff_max=0, backoff_factor=1),
        RestartPolicy(backoff_first=0.5, backoff_max=0.5),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(policy: RestartPolicy) -> None:
    assert policy.backoff_first <= policy.backoff_max
