"""One call, one pool: the words of the command line as functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .calls import CompletedRun
from .configuration import CAPABILITIES, LIMITS, Walls
from .options import OnOutput, Stdin
from .pool import Pool
from .protocol.capabilities import Capabilities
from .protocol.limits import Limits
from .sources import Source


def call(
    source: Source,
    function: str,
    /,
    *args: Any,
    limits: Limits | None = None,
    capabilities: Capabilities | None = None,
    isolation: Walls = "best-effort",
    cache_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Load a module, call one of its functions in a worker of its own, and return the value.

    A program that calls more than once keeps a ``Pool`` instead.

    Args:
        source: as for ``Pool.load``.
        function: name of the export.
        args: its arguments.
        limits: as for ``Pool``.
        capabilities: as for ``Pool``.
        isolation: as for ``Pool``.
        cache_dir: as for ``Pool``.
        options: as for ``Function.options``.

    Raises:
        SandboxError: as the error tree has it.
    """
    with Pool(
        1,
        limits=LIMITS if limits is None else limits,
        capabilities=CAPABILITIES if capabilities is None else capabilities,
        isolation=isolation,
        cache_dir=cache_dir,
    ) as pool:
        return pool.load(source)[function].options(**options)(*args)


def run(
    source: Source,
    /,
    *argv: str | bytes | os.PathLike[str],
    stdin: Stdin = b"",
    env: Mapping[str, str] | None = None,
    argv0: str | None = None,
    check: bool = False,
    timeout: float | None = None,
    limits: Limits | None = None,
    capabilities: Capabilities | None = None,
    isolation: Walls = "best-effort",
    cache_dir: str | os.PathLike[str] | None = None,
    on_output: OnOutput | None = None,
) -> CompletedRun:
    """Load a WASI command, run it in a worker of its own, and return its exit code and output.

    The arguments are those of ``Pool`` and ``Pool.run``.

    Raises:
        GuestExit: with ``check``, where the exit code is not 0.
        SandboxError: as the error tree has it.
    """
    with Pool(
        1,
        limits=LIMITS if limits is None else limits,
        capabilities=CAPABILITIES if capabilities is None else capabilities,
        isolation=isolation,
        cache_dir=cache_dir,
    ) as pool:
        return pool.run(
            pool.load(source),
            *argv,
            stdin=stdin,
            env=env,
            argv0=argv0,
            check=check,
            timeout=timeout,
            on_output=on_output,
        )
