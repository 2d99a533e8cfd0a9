"""The table of docs/security.md: what was measured, and what the map says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import security_table

from wasm_sandbox.protocol.catalogue import ATTACKS
from wasm_sandbox.protocol.isolation import WALLS

FOUND: dict[str, Any] = json.loads(security_table.DATA.read_text())


def test_the_table_is_the_one_that_the_measurements_make() -> None:
    text = security_table.PAGE.read_text()
    assert security_table.render(FOUND, text) == text, "run python3 dev.py security-table --render"


def test_the_table_tells_root_user_and_container_and_both_kinds_of_cgroup() -> None:
    assert {"root, cgroup v1", "root, cgroup v2", "user, no cgroup"} <= FOUND.keys()
    assert any(name.startswith("root without namespaces") for name in FOUND)
    assert any(name.startswith("user without namespaces") for name in FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_measured_is_what_the_map_says(name: str) -> None:
    """For every situation, and not only for the one that the tests run in."""
    there, root = FOUND[name], name.startswith("root")
    assert there["attacks"].keys() == ATTACKS.keys(), "run python3 dev.py security-table"
    assert {*there["standing"], *there["missing"]} == set(WALLS)
    for attack, entry in ATTACKS.items():
        measured = there["attacks"][attack]
        expected = entry.stopped_by(root=root) & set(there["standing"])
        if measured["without"]:
            stopped = set(measured["stopped_by"])
            assert stopped - {*entry.sometimes} == expected & set(measured["alone"]), attack
            assert measured["succeeded"] is not bool(expected), attack
        else:
            assert not measured["succeeded"], attack
