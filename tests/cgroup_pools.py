"""Pools in the kernel of this machine, and small programs that run in their groups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wasm_sandbox.supervisor.cgroups import Group, Hierarchy, discover, janitor

EXPECTED = os.environ.get("WASM_SANDBOX_EXPECT_CGROUPS")
NAME = f"wasm-sandbox-test-{os.getpid()}"
MIB = 1 << 20

ENTER = """
import errno, os, signal, sys, time
for path in sys.argv[1:]:
    with open(path, "w") as file:
        file.write("0")
def say(text):
    print(text, flush=True)
"""
SLEEP = "say('inside'); time.sleep(60)"


@pytest.fixture(name="hierarchy")
def hierarchy_fixture() -> Iterator[Hierarchy]:
    found = discover(name=NAME)
    try:
        if not found.controllers and EXPECTED in (None, "none"):
            pytest.skip(f"no cgroups here: {found.missing['memory'].reason}")
        yield found
    finally:
        found.close()
    assert not [path for path in found.directories if os.path.exists(path)]


def need(hierarchy: Hierarchy, *controllers: str) -> None:
    """Skip, by name, what this machine cannot enforce."""
    for controller in controllers:
        if controller in hierarchy.missing:
            pytest.skip(f"no {controller} controller: {hierarchy.missing[controller].reason}")


@contextmanager
def program(group: Group, body: str) -> Iterator[subprocess.Popen[str]]:
    """A small Python program that enters the group first of all."""
    command = [sys.executable, "-ISc", ENTER + body, *group.procs_files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            group.kill()


def wait_inside(process: subprocess.Popen[str], times: int = 1) -> None:
    assert process.stdout is not None
    for _ in range(times):
        assert process.stdout.readline() == "inside\n"


def members(group: Group) -> set[int]:
    return janitor.members(group.directories)
