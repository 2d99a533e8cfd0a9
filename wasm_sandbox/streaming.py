"""What both faces share of commands with streams: the request, and the pipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .calls import build_request
from .chunks import Chunks, given_input
from .function import Function
from .options import Stdin
from .pipes import Pipes
from .protocol.errors import ConfigurationError
from .supervisor.requests import CallRequest
from .supervisor.resources import for_reading
from .supervisor.shortages import pool_error


def stream(
    main: Function, argv: tuple[Any, ...], stdin: Stdin | Chunks | None, *, bells: bool
) -> tuple[CallRequest, Pipes, Chunks | None]:
    """The request for a command, its pipes, and what is to be fed to it, if anything is.

    Raises:
        SignatureMismatch: an argument that cannot be one.
        ConfigurationError: an input or a setting that cannot be used.
        PoolError: no descriptor is left.
    """
    settings = main.settings
    if settings.retries:
        raise ConfigurationError(
            "options.retries", settings.retries, "is not for streams: what was read is gone"
        )
    if settings.on_output is not None or settings.stdin != b"":
        raise ConfigurationError(
            "start", main, "has stdin= or on_output= of its own", "give start() one without"
        )
    descriptor, chunks = (None, None) if stdin is None else given_input(stdin)
    request = build_request(main, argv)
    assert request.command is not None
    try:
        given = None if descriptor is None else for_reading(descriptor)
        pipes = Pipes(request.limits.output, given, bells=bells)
    except OSError as error:
        raise pool_error("a command cannot have its streams", error) from error
    request.command = replace(request.command, ends=pipes.guest)
    return request, pipes, chunks
