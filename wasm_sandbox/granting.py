"""What a host function gets by keyword: the custom capabilities of the call that calls it, as its
parameter ``grants``, and the memory of its guest, as ``memory``. They go beside the arguments,
because a coroutine may run in another context."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
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
    """The slots of arguments, and what the function gets beside them."""

    keywords: dict[str, Any]


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


def with_keywords(call: Call, makers: Mapping[str, Callable[[], object]]) -> Call:
    """``HostImport.call`` of a function that gets these keywords, each made when it is called."""

    async def wrapped(slots: bytes, data: bytes) -> tuple[bytes, bytes]:
        beside = _Slots(slots)
        beside.keywords = {name: make() for name, make in makers.items()}
        return await call(beside, data)

    return wrapped if makers else call


def keywords(slots: bytes) -> dict[str, Any]:
    """What the function gets beside its arguments."""
    return slots.keywords if isinstance(slots, _Slots) else {}


def own_grants() -> Grants:
    """Those of the call whose guest calls."""
    return granted(serving.get())


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
