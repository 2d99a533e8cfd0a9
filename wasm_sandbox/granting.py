"""How a host function gets the custom capabilities of the call that calls it: as its parameter
``grants``. They go beside the arguments, because a coroutine may run in another context."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from .options import Options
from .protocol.errors import ConfigurationError
from .protocol.grants import Grants, Needs, check_granted, check_needs
from .supervisor.imports import granted, serving
from .supervisor.requests import ModuleHandle
from .supervisor.shortages import check_open_files

Call = Callable[[bytes, bytes], Awaitable[tuple[bytes, bytes]]]


class _Slots(bytes):
    """The slots of arguments, and what the call was granted."""

    grants = Grants()


def check_takes_grants(function: Callable[..., Any], needs: Needs) -> None:
    """Refuse needs that cannot be, and those of a function that would not see what it gets.

    Raises:
        ConfigurationError: such needs.
    """
    field = "HostFunction.needs"
    check_needs(field, needs)
    if not needs:
        return
    try:
        inspect.signature(function).bind_partial(grants=Grants())
    except (TypeError, ValueError):
        raise ConfigurationError(
            field, dict(needs), "its function has no parameter grants", "add `*, grants: Grants`"
        ) from None


def without_grants(function: Callable[..., Any], needs: Needs) -> Callable[..., Any]:
    """The function, as its import's type is held against it."""
    return partial(function, grants=Grants()) if needs else function


def with_grants(call: Call) -> Call:
    """``HostImport.call`` of a function that needs some."""

    async def wrapped(slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        beside = _Slots(slots)
        beside.grants = granted(serving.get())
        return await call(beside, data)

    return wrapped


def keywords(needs: Needs) -> Callable[[bytes], dict[str, Any]]:
    """What the function gets beside its arguments, by their slots."""

    def none(_: bytes) -> dict[str, Any]:
        return {}

    def grants(slots: bytes) -> dict[str, Any]:
        assert isinstance(slots, _Slots)
        return {"grants": slots.grants}

    return grants if needs else none


def check_options(options: Options, handle: ModuleHandle) -> None:
    """Hold what calls of a module are granted against what its host functions need, and their
    limits against what the program may have.

    Raises:
        ConfigurationError: a grant that none of them needs, or that is not what one of them needs;
            more open files than can be had.
    """
    check_open_files(options.limits, options.capabilities)
    grants = options.capabilities.grants
    if grants:
        check_granted(grants, [function.needs for function in handle.imports])
