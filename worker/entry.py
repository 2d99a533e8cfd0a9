"""Where a forked worker begins, and what its zygote prepares for all of them."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ..protocol import zygote as wire
from ..protocol.messages import StartFailed, encode
from ..protocol.profile import Profile
from . import compiling, jail, loop, runtime
from .engines.gate import gate
from .engines.warden import warden

EXIT_FAULT = 70
"""Exit status of a worker whose own code failed (sysexits(3), EX_SOFTWARE)."""


def engine_identity() -> tuple[str, str, tuple[tuple[bool, str], ...]]:
    """(engine, processor, compile settings of each variant), all part of an artifact's key."""
    return runtime.identity()


def guard_sources() -> tuple[bytes, bytes]:
    """The modules that workers need where directories are granted, in the order of ``Guard``."""
    return gate().encode(), warden().encode()


def warm_up() -> None:
    """Load what workers would load lazily, without running or compiling anything."""
    runtime.warm_up()
    jail.warm_up()


class Probe:
    """The check of the engine's raw call path, in a child of its own: the zygote runs no guest."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        self._verdict: str | None = None
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.write(write, runtime.raw_path_fault().encode()[:4000])
            finally:
                os._exit(0)
        os.close(write)

    def verdict(self) -> str:
        """Why the raw path cannot be used; empty where it can. Waits for the child the first
        time."""
        if self._verdict is None:
            with open(self._read, "rb") as source:
                said = source.read().decode()
            _, status = os.waitpid(self._pid, 0)
            self._verdict = f"the check ended with status {status}" if status else said
        return self._verdict


def run_child(
    request: wire.Fork, descriptors: list[int], raw_path_fault: str, around: jail.Around
) -> NoReturn:
    """Be a worker, in a process that was just forked. Never returns."""
    code = EXIT_FAULT
    try:
        code = _run(request, descriptors, raw_path_fault, around)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(request: wire.Fork, given: list[int], raw_path_fault: str, around: jail.Around) -> int:
    refused = ""
    try:
        jail.enter_groups(request.procs_files)
    except OSError as error:
        refused = str(error)
    *kept, stderr = given
    chosen = around.chosen if request.attack is None else request.attack.walls
    if chosen is None or "descriptors" in chosen:
        kept = jail.keep_descriptors(kept, stderr=stderr)
    else:
        os.dup2(stderr, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - lives as long as the worker
    jail.set_name(f"wasm-{request.role}-{request.worker}")
    if refused:
        os.write(kept[0], encode(StartFailed("cgroup", refused)))
        return 1
    if request.role == "compile":
        channel, module, artifact, passing = kept
        with socket.socket(fileno=passing) as descriptors:
            return compiling.main(channel, module, artifact, descriptors, around)
    channel, control, passing, arena = kept
    make_runtime: Callable[[Profile, str], runtime.Runtime] = runtime.Runtime
    if request.attack is not None:
        from . import attacks  # in this process only: no worker that runs guests has it in memory

        make_runtime = attacks.runtime(request.attack)
    with socket.socket(fileno=passing) as descriptors:
        return loop.main(
            channel, control, descriptors, arena, raw_path_fault, around, make_runtime, chosen
        )
