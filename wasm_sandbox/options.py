"""The settings of a function's calls: what ``Function.options`` changes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from .protocol.capabilities import Capabilities
from .protocol.errors import ConfigurationError
from .protocol.fields import check_fields, check_kind
from .protocol.limits import Limits, check_number
from .values import Returns

OnOutput = Callable[[int, bytes], object]
"""Gets (1 for stdout or 2 for stderr, bytes)."""

_YEAR = 365 * 86400.0


@runtime_checkable
class HasDescriptor(Protocol):
    """An open file, pipe or socket."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


Stdin = bytes | bytearray | memoryview | int | HasDescriptor


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """How the calls of one function are made. Checked; an invalid one cannot be made."""

    limits: Limits
    capabilities: Capabilities
    timeout: float | None = None
    tenant: str | None = None
    retries: int = 0
    returns: Returns = None
    instance: str = "fresh"
    """``"fresh"``: each call has an instance of its own; ``"per-batch"``: calls of a ``map`` that
    travel together share one."""
    stdin: bytes | int = b""
    """The bytes, or a descriptor to read them from."""
    stdin_owner: object = None
    """The file that the descriptor is of: kept, because a closed one's number is soon another's."""
    env: tuple[tuple[str, str], ...] | None = None
    """Given variables; ``None`` is those that the capability ``environment`` grants."""
    argv0: str | None = None
    on_output: OnOutput | None = None

    def change(self, given: Mapping[str, Any], *, command: bool) -> Options:
        """These options with those ``given`` changed.

        Raises:
            ConfigurationError: an unknown option, a value that cannot be used, or an option of
                commands for a function that is none.
        """
        check_fields("options", given, _CHECKS)
        changed: dict[str, Any] = {}
        for name, value in given.items():
            if name in _OF_COMMANDS and not command:
                raise ConfigurationError(
                    f"options.{name}", value, "is only for commands", "use it on module.main"
                )
            if name != "fuel":
                changed[name] = _CHECKS[name](value)
            if name == "stdin":
                changed["stdin_owner"] = value
        result = dataclasses.replace(self, **changed) if changed else self
        if "fuel" in given:
            limits = msgspec.structs.replace(result.limits, fuel=_fuel(given["fuel"]))
            result = dataclasses.replace(result, limits=limits)
        return result


def _timeout(value: Any) -> Any:
    check_number("options.timeout", value, 0.001, _YEAR, whole=False, optional=True)
    return value


def _fuel(value: Any) -> Any:
    check_number("options.fuel", value, 0, (1 << 63) - 1, whole=True, optional=True)
    return value


def _limits(value: Any) -> Any:
    check_kind("options.limits", value, Limits)
    return value


def _capabilities(value: Any) -> Any:
    check_kind("options.capabilities", value, Capabilities)
    return value


def _tenant(value: Any) -> Any:
    if value is not None:
        check_kind("options.tenant", value, str)
        if not 1 <= len(value) <= 200 or not value.isprintable():
            raise ConfigurationError(
                "options.tenant", value, "must have 1 to 200 printable characters"
            )
    return value


def _retries(value: Any) -> Any:
    check_number("options.retries", value, 0, 100, whole=True)
    return value


def _returns(value: Any) -> Any:
    if value is None or value is str or value is bytes or isinstance(value, str):
        if value not in (None, str, bytes, "json"):
            raise _no_returns(value)
        return value
    try:
        view = memoryview(value)
    except TypeError:
        raise _no_returns(value) from None
    if view.readonly or not view.c_contiguous:
        raise ConfigurationError("options.returns", value, "must be writable and in one piece")
    return view.cast("B")


def _no_returns(value: object) -> ConfigurationError:
    return ConfigurationError(
        "options.returns", value, "must be str, bytes, 'json', None or a writable buffer"
    )


def _instance(value: Any) -> Any:
    if value not in (None, "fresh", "per-batch"):
        raise ConfigurationError(
            "options.instance",
            value,
            "must be 'fresh' or 'per-batch'",
            "each call runs in a fresh instance: 'fresh'",
        )
    return value or "fresh"


def _stdin(value: Any) -> bytes | int:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(cast(bytes, value))
    return descriptor_of(value)


def descriptor_of(value: Any) -> int:
    """The descriptor of an open file, or itself.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(value, str):
        raise ConfigurationError("options.stdin", value, "must be bytes", "use text.encode()")
    try:
        descriptor = value.fileno() if isinstance(value, HasDescriptor) else value
        if isinstance(descriptor, bool) or not isinstance(descriptor, int):
            raise TypeError
        os.fstat(descriptor)
    except (TypeError, ValueError, OSError, OverflowError):
        raise ConfigurationError(
            "options.stdin", value, "must be bytes, or an open descriptor or file"
        ) from None
    return descriptor


def _env(value: Any) -> Any:
    if value is None:
        return None
    check_kind("options.env", value, Mapping)
    for name, content in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigurationError("options.env", name, "is no name of a variable")
        if not isinstance(content, str) or "\0" in content:
            raise ConfigurationError(f"options.env[{name!r}]", content, "must be str without NUL")
    return tuple(value.items())


def _argv0(value: Any) -> Any:
    if value is not None:
        check_kind("options.argv0", value, str)
        if "\0" in value:
            raise ConfigurationError("options.argv0", value, "holds a NUL character")
    return value


def _on_output(value: Any) -> Any:
    if value is not None and not callable(value):
        raise ConfigurationError("options.on_output", value, "must be callable")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "timeout": _timeout,
    "fuel": _fuel,
    "limits": _limits,
    "capabilities": _capabilities,
    "tenant": _tenant,
    "retries": _retries,
    "returns": _returns,
    "instance": _instance,
    "stdin": _stdin,
    "env": _env,
    "argv0": _argv0,
    "on_output": _on_output,
}
OPTIONS = tuple(_CHECKS)
"""The names of all settings."""
_OF_COMMANDS = frozenset({"stdin", "env", "argv0", "on_output"})
