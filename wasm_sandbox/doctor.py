"""What ``wasm-sandbox doctor`` finds out: the machine, the walls, the policy, and the attacks."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import msgspec
import trio

from .calls import innermost
from .policy import Policy
from .pool import Pool
from .protocol.catalogue import ATTACKS
from .protocol.errors import PoolError, SandboxError
from .protocol.events import EngineFallback, Event
from .protocol.isolation import EnforcementRow, WallReport
from .supervisor.attacks.laboratory import laboratory
from .supervisor.attacks.subject import CannotBuild
from .supervisor.attacks.survey import Row, survey
from .supervisor.cgroups import discover
from .supervisor.exposure import Exposure, exposures
from .supervisor.machine import Machine, look

_PACKAGES = ("wasm-sandbox", "wasmtime", "msgspec", "trio", "multiprocess", "cgroupspy")


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen without attacking anything."""

    versions: dict[str, str]
    machine: Machine
    fallback: str
    """Why calls go through the engine's public interface; empty where they go the quick way."""
    walls: tuple[WallReport, ...]
    policy: tuple[EnforcementRow, ...]
    exposures: tuple[Exposure, ...]
    """Attacks that no wall here would stop."""

    @property
    def strict(self) -> bool:
        """Whether ``isolation="strict"`` would start here, with this policy."""
        return not self.exposures and not any(row.gap for row in self.policy)


def examine(policy: Policy, cache_dir: str | None = None) -> Findings:
    """Start a pool with this policy, and look at its walls.

    Raises:
        SandboxError: it does not start, even without insisting on any wall.
    """
    seen: list[Event] = []
    with Pool(
        1,
        limits=policy.limits,
        capabilities=policy.capabilities,
        cache_dir=cache_dir,
        on_event=seen.append,
    ) as pool:
        walls, rows = pool.walls(), pool.enforcement()
    return Findings(
        versions={"python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        machine=look_around(),
        fallback=next((event.reason for event in seen if isinstance(event, EngineFallback)), ""),
        walls=walls,
        policy=rows,
        exposures=exposures(walls, root=os.geteuid() == 0),
    )


def look_around() -> Machine:
    """The facts about this machine."""
    hierarchy = discover()
    try:
        return look(hierarchy)
    finally:
        hierarchy.close()


def attack(on_row: Callable[[Row], None] | None = None) -> tuple[Row, ...]:
    """Make all attacks, each without walls, with each wall alone and with all; takes a minute.

    Raises:
        PoolError: what is needed for it could not be made.
    """

    async def main() -> tuple[Row, ...]:
        async with laboratory() as place:
            return await survey(place, on_row=on_row)

    try:
        return trio.run(main)
    except Exception as group:
        error = innermost(group)
        if isinstance(error, SandboxError | KeyboardInterrupt):
            raise error from None
        if isinstance(error, OSError | CannotBuild):
            raise PoolError(f"the attacks could not be prepared: {error}") from error
        raise


def breaches(rows: tuple[Row, ...], walls: tuple[WallReport, ...]) -> tuple[Row, ...]:
    """The attacks that got through a wall that should have stopped them: holes."""
    standing = {report.wall for report in walls if report.stands}
    root = os.geteuid() == 0
    return tuple(
        row for row in rows if row.all and ATTACKS[row.attack].stopped_by(root=root) & standing
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that was not installed
        return "unknown"
