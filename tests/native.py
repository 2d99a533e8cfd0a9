"""Native code inside a worker, as if a guest had broken out of the engine.

The product has no hook for it. Instead a test has its zygotes start through ``enter`` below, which
is the product's own entry with three changes made in that process only: a call of an export named
``native:ATTACK:ARGUMENTS``, and the compilation of such a "module", run a function of
``tests/attacks.py`` or ``tests/breakouts.py`` in the worker, in the place where the guest would run
or the compiler; the walls named by ``without`` are not built; and
the zygote may become an ordinary user.
"""

from __future__ import annotations

import codecs
import ctypes
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import guests
import pytest
import trio
from cores import Driver, run, serving

from wasm_sandbox.protocol.errors import SandboxError
from wasm_sandbox.protocol.isolation import WALLS
from wasm_sandbox.supervisor.requests import CallRequest

PREFIX = "native:"
LAST = tuple(
    wall
    for wall in WALLS
    if wall.startswith(("namespace.", "landlock"))
    or wall in ("seccomp", "capabilities", "uid", "dumpable")
)
"""Walls that stop most native code: left out where it is another wall that is tried."""


# --- in the zygote --------------------------------------------------------------------------------


def enter(
    channel: int,
    parent: int,
    _: tuple[str, ...] | None = None,
    *,
    without: tuple[str, ...] = (),
    user: int = 0,
) -> None:
    """Become a zygote whose workers run attacks when told to, and lack the walls ``without``."""
    from wasm_sandbox.worker import entry, jail, zygote

    _serve_attacks()
    if user:
        entry.engine_identity()  # what is loaded from now on must be readable for that user
        entry.warm_up()
        codecs.lookup("ascii")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own /proc stays its own
    if "listener" in without:
        getattr(jail, "seccomp")._NEW_LISTENER = 1 << 31  # noqa: B009 - for type checkers
    zygote.main(channel, parent, tuple(wall for wall in WALLS if wall not in without))


def enter_lacking(
    channel: int,
    parent: int,
    chosen: tuple[str, ...] | None = None,
    *,
    wall: str,
    after: int,
) -> None:
    """Become a zygote whose workers cannot build ``wall``, from the one after ``after`` on."""
    from wasm_sandbox.worker import jail, zygote

    module = getattr(jail, wall)
    build = module.apply

    def apply(**arguments: object) -> object:
        name = ctypes.create_string_buffer(16)
        ctypes.CDLL(None).prctl(16, name, 0, 0, 0)  # PR_GET_NAME
        if int(name.value.rpartition(b"-")[2]) > after:
            raise OSError(0, "left out by the test")
        return build(**arguments)

    module.apply = apply
    zygote.main(channel, parent, chosen)


def _serve_attacks() -> None:
    import attacks
    import breakouts

    from wasm_sandbox.worker import runtime
    from wasm_sandbox.worker.engines.interface import EngineRefusal

    run = runtime.Runtime.run

    def perform(order: str) -> str:
        _, name, arguments = order.split(":", 2)
        module = breakouts if hasattr(breakouts, name) else attacks
        return json.dumps(getattr(module, name)(**json.loads(arguments)))

    def run_or_attack(self: Any, message: Any, transfer: Any, stdin: int) -> Any:
        if not getattr(message, "export", "").startswith(PREFIX):
            return run(self, message, transfer, stdin)
        transfer.drain(memoryview(perform(message.export).encode()))
        return runtime.Result()

    compile_module = runtime.compile_module

    def compile_or_attack(source: bytes, *, metered: bool) -> Any:
        if not source.startswith(PREFIX.encode()):
            return compile_module(source, metered=metered)
        raise EngineRefusal("invalid_module", perform(source.decode()))

    setattr(runtime.Runtime, "run", run_or_attack)  # noqa: B010 - not the assignment of a method
    setattr(runtime, "compile_module", compile_or_attack)  # noqa: B010 - as above


# --- in the test ----------------------------------------------------------------------------------

_IN_THE_GROUP = {
    "cgroup.memory": {"memory": None, "swap": None},
    "cgroup.pids": {"pids": None},
    "cgroup.cpu": {"cpu_fraction": None},
}


@contextmanager
def native_workers(*without: str, user: int = 0) -> Iterator[None]:
    """Cores made in the block have workers that take ``attack`` and lack these walls."""
    from wasm_sandbox.supervisor import entry, keeper, spawn
    from wasm_sandbox.supervisor.cgroups.hierarchy import CONTROLLERS, NoHierarchy
    from wasm_sandbox.supervisor.cgroups.model import Unavailable
    from wasm_sandbox.supervisor.throttle import Throttle
    from wasm_sandbox.supervisor.worker import Worker

    limits = Worker._group_limits
    absent = {
        name: value for wall in without for name, value in _IN_THE_GROUP.get(wall, {}).items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "enter", functools.partial(enter, without=without, user=user))
        patch.setattr(
            Worker, "_group_limits", lambda self: dataclasses.replace(limits(self), **absent)
        )
        if user:  # to whom no group was delegated
            left_out = Unavailable(reason="left out by the test", remedy="")
            nowhere = NoHierarchy(dict.fromkeys(map(str, CONTROLLERS), left_out))
            patch.setattr(keeper, "discover", lambda: nowhere)
        if "throttle" in without:
            patch.setattr(Throttle, "run", lambda _: trio.sleep_forever())
        if "environment" in without:
            kept = spawn._environment
            patch.setattr(spawn, "_environment", lambda: os.environ | kept())
        yield


@contextmanager
def workers_without(wall: str, after: int = 0) -> Iterator[None]:
    """Pools made in the block have workers that say they could not build ``wall``; the first
    ``after`` of them could."""
    from wasm_sandbox.supervisor import entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "enter", functools.partial(enter_lacking, wall=wall, after=after))
        yield


async def attack(
    driver: Driver, module: Any, name: str, /, limits: Any = None, **arguments: Any
) -> Any:
    """Run an attack in a worker; its value, or the error of the call."""
    outcome = await driver.outcome(attack_request(driver, module, name, limits, **arguments))
    if outcome.error is not None:
        raise outcome.error
    assert outcome.data is not None
    return json.loads(outcome.data)


def attack_request(
    driver: Driver,
    module: Any,
    name: str,
    /,
    limits: Any = None,
    tenant: Any = None,
    **arguments: Any,
) -> CallRequest:
    """The request of an attack, in a tenant's name."""
    return driver.request(
        module,
        f"{PREFIX}{name}:{json.dumps(arguments)}",
        limits=limits,
        tenant=tenant,
        returns_buffer=True,
    )


def outcomes(
    cache: Any,
    without: Sequence[str],
    attacks: Mapping[str, tuple[str, dict[str, Any]]],
    *,
    user: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """What each of the attacks, by a name of its own, came to: its value, or the call's error.

    All are made on one pool, in turn; after each it must serve an ordinary call.
    """

    async def main() -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with serving(cache, workers=1, **options) as driver:
            module = await driver.load(guests.add())
            for name, (function, arguments) in attacks.items():
                try:
                    found[name] = await attack(driver, module, function, **arguments)
                except SandboxError as error:
                    found[name] = error
                assert (await driver.call(module, "add", 1, 2)).error is None, name
        return found

    with native_workers(*without, user=user):
        answer: dict[str, Any] = run(main)
        return answer
