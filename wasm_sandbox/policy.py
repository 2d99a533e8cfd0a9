"""Policy files: limits and capabilities in TOML. An unknown field is an error.

    [limits]
    memory = "64MiB"            # a number of bytes, or a number with KiB, MiB, GiB, kB, MB, GB
    wall_time = 5.0

    [capabilities]
    stdio = true
    clock = "real"              # or "monotonic_only", or { frozen = 0 }
    random = "secure"           # or "none", or { seeded = 7 }
    network = "none"            # or "full", or a table

    [capabilities.network]      # any of these
    hosts = ["api.example.org:443", "*.example.org:443"]
    private_hosts = ["db.internal:5432"]
    loopback = [8000]           # or true, for all ports
    ports = [443, "8000-8100"]

    [capabilities.filesystem]
    read_only = ["data", { path = "shared", at = "/shared" }]
    read_write = [{ path = "out", at = "/out", allow_delete = false, max_file_size = "1MiB" }]

    [capabilities.environment]  # one of these
    allow = ["LANG"]            # deny = [...], set = { NAME = "value" }, full = true

    [capabilities.custom]       # what host functions need, by names of the program's
    tier = "gold"               # text, a number, true or false, a list of texts

Relative paths are relative to the file's own directory.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from .protocol.capabilities import (
    Capabilities,
    Clock,
    Environment,
    Filesystem,
    Random,
)
from .protocol.errors import ConfigurationError
from .protocol.fields import check_fields
from .protocol.limits import Limits
from .protocol.network import Network

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
SIZES = frozenset(
    {
        "memory",
        "stack",
        "output",
        "file_size",
        "disk",
        "network_received",
        "network_sent",
        "io_read",
        "io_write",
        "compile_memory",
        "module_size",
    }
)
"""The limits that are sizes in bytes."""
_GRANT = ("path", "at")
_WRITABLE_GRANT = (*_GRANT, "max_file_size", "allow_create", "allow_delete")


class Policy(NamedTuple):
    """What a policy file says."""

    limits: Limits
    capabilities: Capabilities


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy file.

    Raises:
        ConfigurationError: it cannot be read, is not TOML, or says something that cannot be used.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            table = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError("policy", name, f"cannot be read: {reason}") from error
    return parse_policy(table, os.path.dirname(os.path.abspath(name)))


def parse_policy(table: dict[str, Any], directory: str = ".") -> Policy:
    """The policy that a parsed file holds; its relative paths begin at ``directory``.

    Raises:
        ConfigurationError: something that cannot be used; ``.field`` names it.
    """
    check_fields("", table, ("limits", "capabilities"))
    limits = _table("limits", table.get("limits", {}))
    capabilities = _table("capabilities", table.get("capabilities", {}))
    return Policy(_limits(limits), _capabilities(capabilities, directory))


def parse_size(field: str, value: Any) -> Any:
    """Bytes of a size such as ``65536`` or ``"64MiB"``; what is no text is left to others to check.

    Raises:
        ConfigurationError: a text that is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ConfigurationError(field, value, "is no size", 'write 1048576, "1MiB" or "1MB"')
    size = float(match[1]) * unit
    return int(match[1]) * unit if match[1].isdigit() else math.floor(size)


def _limits(table: dict[str, Any]) -> Limits:
    given: dict[str, Any] = {
        name: parse_size(f"limits.{name}", value) if name in SIZES else value
        for name, value in table.items()
    }
    return Limits(**given)


def _capabilities(table: dict[str, Any], directory: str) -> Capabilities:
    check_fields("capabilities", table, Capabilities.__struct_fields__)
    made: dict[str, Any] = {}
    for name, value in table.items():
        match name:
            case "filesystem":
                made[name] = _filesystem(value, directory)
            case "environment":
                made[name] = _choose("environment", value, _ENVIRONMENTS)
            case "clock":
                made[name] = _choose("clock", value, _CLOCKS)
            case "random":
                made[name] = _choose("random", value, _RANDOMS)
            case "network":
                made[name] = _network(value)
            case "custom":
                made[name] = _table("capabilities.custom", value)
            case _:
                if not isinstance(value, bool):
                    raise ConfigurationError(f"capabilities.{name}", value, "must be true or false")
                made[name] = value
    return Capabilities(**made)


def _filesystem(value: object, directory: str) -> Filesystem:
    if value == "none":
        return Filesystem.none()
    table = _table("capabilities.filesystem", value)
    check_fields("capabilities.filesystem", table, ("read_only", "read_write", "scratch"))
    result = Filesystem.none()
    for kind, grants in table.items():
        field = f"capabilities.filesystem.{kind}"
        if kind == "scratch":
            result |= Filesystem.scratch(parse_size(field, grants))
            continue
        grant = Filesystem.read_only if kind == "read_only" else Filesystem.read_write
        for entry in _list(field, grants):
            if isinstance(entry, str):
                entry = {"path": entry}
            options = _table(field, entry)
            check_fields(field, options, _GRANT if kind == "read_only" else _WRITABLE_GRANT)
            if "max_file_size" in options:
                options["max_file_size"] = parse_size(
                    f"{field}.max_file_size", options["max_file_size"]
                )
            path = _text(f"{field}.path", options.pop("path", None))
            at = _text(f"{field}.at", options.pop("at", path))
            result |= grant(os.path.join(directory, path), at=at, **options)
    return result


def _network(value: object) -> Network:
    field = "capabilities.network"
    if isinstance(value, str):
        value = {value: True}
    table = _table(field, value)
    check_fields(field, table, _NETWORKS)
    result = Network.none()
    for kind, argument in table.items():
        if argument is True and kind in ("none", "full", "loopback"):
            result |= _NETWORKS[kind]()
        elif kind in ("none", "full"):
            raise ConfigurationError(f"{field}.{kind}", argument, "must be true")
        else:
            result |= _NETWORKS[kind](*_list(f"{field}.{kind}", argument))
    return result


def _choose(field: str, value: object, choices: dict[str, Callable[..., Any]]) -> Any:
    """``"kind"``, ``{ kind = argument }`` or ``{ kind = true }`` for a kind without arguments."""
    field = f"capabilities.{field}"
    if isinstance(value, str):
        table: dict[str, Any] = {value: True}
    else:
        table = _table(field, value)
    if len(table) != 1:
        raise ConfigurationError(field, value, f"must be one of {', '.join(choices)}")
    ((kind, argument),) = table.items()
    check_fields(field, table, choices)
    try:
        return choices[kind]() if argument is True else choices[kind](argument)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{field}.{kind}", argument, f"cannot be used: {error}") from error


def _names(make: Callable[..., Environment], field: str) -> Callable[[object], Environment]:
    return lambda value: make(*(_text(field, name) for name in _list(field, value)))


def _variables(value: object) -> Environment:
    field = "capabilities.environment.set"
    table = _table(field, value)
    return Environment.set({name: _text(f"{field}.{name}", text) for name, text in table.items()})


def _seeded(value: object) -> Random:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError("capabilities.random.seeded", value, "must be a whole number")
    return Random.seeded(value)


def _frozen(value: object = 0) -> Clock:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError("capabilities.clock.frozen", value, "must be a number of seconds")
    return Clock.frozen(value)


_ENVIRONMENTS: dict[str, Callable[..., Any]] = {
    "none": Environment.none,
    "allow": _names(Environment.allow, "capabilities.environment.allow"),
    "deny": _names(Environment.deny, "capabilities.environment.deny"),
    "set": _variables,
    "full": Environment.full,
}
_CLOCKS: dict[str, Callable[..., Any]] = {
    "real": Clock.real,
    "frozen": _frozen,
    "monotonic_only": Clock.monotonic_only,
}
_RANDOMS: dict[str, Callable[..., Any]] = {
    "secure": Random.secure,
    "seeded": _seeded,
    "none": Random.none,
}
_NETWORKS: dict[str, Callable[..., Any]] = {
    "none": Network.none,
    "loopback": lambda *ports: Network.loopback(ports or None),
    "hosts": Network.hosts,
    "private_hosts": lambda *hosts: Network.hosts(*hosts, private=True),
    "ports": Network.ports,
    "full": Network.full,
}


def _table(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(field, value, "must be a table")
    return dict(cast(dict[str, Any], value))


def _list(field: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ConfigurationError(field, value, "must be a list")
    return cast(list[object], value)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(field, value, "must be text")
    return value
