"""Every attack, behind each wall alone: what stops it is what ``catalogue.ATTACKS`` says.

An attack that fails where a wall stands proves nothing unless the same attack succeeds where it
does not: each is made without any wall, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from leftovers import nothing_left

from wasm_sandbox.protocol.catalogue import ATTACKS
from wasm_sandbox.supervisor.attacks.laboratory import EXPOSE, Attempt, Laboratory, laboratory
from wasm_sandbox.supervisor.attacks.survey import CHOICE, survey

T = TypeVar("T")
PROGRAMS: set[int] = set()
"""Other programs with laboratories."""


class Place:
    """A laboratory in a thread of its own, for all tests of this file."""

    def __init__(self) -> None:
        self._up = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._over: trio.Event
        self._laboratory: Laboratory
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    async def _main(self) -> None:
        self._over = trio.Event()
        try:
            async with laboratory() as self._laboratory:
                self._token = trio.lowlevel.current_trio_token()
                self._up.set()
                await self._over.wait()
        finally:
            self._up.set()

    def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Call an asynchronous function with the laboratory."""
        assert self._token is not None
        return trio.from_thread.run(function, self._laboratory, *arguments, trio_token=self._token)

    def attempt(self, name: str, walls: tuple[str, ...] | None = None) -> Attempt:
        """Make one attack."""
        return self.run(Laboratory.attempt, name, walls)

    def __enter__(self) -> Place:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            trio.from_thread.run_sync(self._over.set, trio_token=self._token)
        self._thread.join()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A laboratory, which leaves nothing behind."""
    with nothing_left(pids=PROGRAMS), Place() as made:
        yield made


@pytest.fixture(scope="module")
def standing(place: Place) -> frozenset[str]:
    """The walls that a worker has here."""
    return frozenset(place.run(Laboratory.standing)[0])


# -- the map --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name, entry in ATTACKS.items() if entry.subject != "supervisor"]
)
def test_an_attack_is_stopped_by_each_wall_that_the_map_names_and_by_no_other(
    place: Place, standing: frozenset[str], name: str
) -> None:
    entry = ATTACKS[name]
    expected = entry.stopped_by(root=os.geteuid() == 0) & standing
    (row,) = place.run(survey, [name], expected)
    if not row.without:
        pytest.skip(f"the machine itself refuses it: {row.refusal}")
    assert set(row.stopped_by) == expected & row.alone.keys()
    assert row.all is not bool(expected), row.evidence
    others = standing.intersection(CHOICE) - expected - {*entry.sometimes}
    # Once is enough: what the others do not stop may still fail on a busy machine.
    failed: list[Attempt] = []
    while not (attempt := place.attempt(name, tuple(others))).succeeded:
        failed.append(attempt)
        assert len(failed) < 5, failed


@pytest.mark.parametrize(
    "name", [name for name, entry in ATTACKS.items() if entry.subject == "supervisor"]
)
def test_the_supervisor_is_not_fooled(place: Place, name: str) -> None:
    attempt = place.attempt(name)
    assert not attempt.succeeded, attempt.evidence
    if name.startswith("send_"):
        assert attempt.certificate is not None
        assert attempt.certificate.cause == "protocol_violation"


_UNSEALED = """
import trio
from wasm_sandbox.supervisor import resources
from wasm_sandbox.supervisor.attacks.laboratory import laboratory

async def main():
    async with laboratory() as place:
        await place.attempt("resize_arena", ())

resources._SEALS = 0
trio.run(main)
"""


def test_without_seals_a_worker_of_root_kills_its_supervisor(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can open a mapping again (/proc/PID/map_files)")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", _UNSEALED], env=environment) as program:
        PROGRAMS.add(program.pid)
        assert program.wait(120) == -signal.SIGBUS


def test_no_worker_that_runs_guests_has_the_attacks_in_it() -> None:
    program = "import sys, wasm_sandbox.worker.zygote; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not [name for name in said.stdout.decode().split() if "worker.attacks" in name]


def test_there_is_code_for_every_attack_and_for_nothing_else() -> None:
    program = "from wasm_sandbox.worker.attacks import FUNCTIONS; print(*FUNCTIONS)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert {*said.stdout.decode().split()} == {*ATTACKS, EXPOSE}
