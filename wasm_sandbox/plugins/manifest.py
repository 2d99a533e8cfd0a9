"""The manifest of a plug-in, ``plugin.toml``: what it is, offers and asks for. An unknown field is
an error.

    name = "greeter"
    version = "1.2.0"
    module = "greeter.wasm"             # in the plug-in's folder, or below
    sha256 = "9f86d0…"                  # of the module; may be left out
    imports = ["env.log"]               # functions of the program's that it asks for; of a
                                        # component "docs:shop/prices#unit-price", or "log"

    [entry_points]                      # what the program may call
    add = "add"                         # the name of an export,
    greet = { export = "greet", returns = "str" }   # or with what its result is read as

    [limits]                            # as in a policy file; never more than is granted
    memory = "16MiB"

    [capabilities]                      # as in a policy file, but for the file system
    environment = { allow = ["LANG"] }
    filesystem = { read_only = ["/photos"] }        # by the guest's path that the program grants

    [health]                            # a call that must succeed before a version takes over
    export = "check"
    args = [20]
    result = 42                         # what it must return; may be left out
    timeout = 1.0                       # seconds; 5 by default
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, cast

from ..imports import Name
from ..policy import parse_policy
from ..protocol.errors import ConfigurationError
from ..protocol.fields import check_fields, check_kind
from ..protocol.limits import Limits, check_number
from ..values import Returns
from .versions import Version

FILE = "plugin.toml"
MAX_SIZE = 64 << 10
"""Bytes of a manifest."""

HEALTH_TIMEOUT = 5.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = (
    "name",
    "version",
    "module",
    "sha256",
    "imports",
    "entry_points",
    "limits",
    "capabilities",
    "health",
)
_OF_THE_POOL = ("compile_time", "compile_memory", "module_size")
_RETURNS: dict[str, Literal["json"] | type[str] | type[bytes]] = {
    "str": str,
    "bytes": bytes,
    "json": "json",
}
ANYTHING: Any = object()
"""The result of a health check that says none."""


@dataclass(frozen=True, kw_only=True)
class EntryPoint:
    """A function that the program may call."""

    export: str
    returns: Returns = None


@dataclass(frozen=True, kw_only=True)
class Health:
    """A call that must succeed."""

    entry: EntryPoint
    args: tuple[Any, ...] = ()
    result: Any = ANYTHING
    timeout: float = HEALTH_TIMEOUT


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a plug-in says of itself. Checked; an invalid one cannot be parsed."""

    name: str
    version: Version
    module: PurePosixPath
    sha256: str | None
    imports: tuple[Name, ...]
    entry_points: Mapping[str, EntryPoint]
    limits: Mapping[str, Any]
    """The values asked for, by field."""
    capabilities: Mapping[str, Any]
    """As the file has them."""
    health: Health | None
    source: bytes
    """The file."""


def parse_manifest(data: bytes) -> Manifest:
    """What the file says.

    Raises:
        ConfigurationError: not TOML, or something that cannot be used; ``.field`` names it.
    """
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(FILE, "", f"is no TOML: {error}") from None
    check_fields("", table, _FIELDS)
    name = _text(table, "name")
    if not _NAME.fullmatch(name):
        raise ConfigurationError("name", name, "must be lower case letters, digits, '.', '_', '-'")
    sha256 = _text(table, "sha256") if "sha256" in table else None
    if sha256 is not None and not _DIGEST.fullmatch(sha256):
        raise ConfigurationError("sha256", sha256, "must be 64 hexadecimal digits in lower case")
    return Manifest(
        name=name,
        version=Version.parse(_text(table, "version")),
        module=_path(_text(table, "module")),
        sha256=sha256,
        imports=_imports(table.get("imports", [])),
        entry_points={
            key: _entry(f"entry_points.{key}", value)
            for key, value in _table("entry_points", table.get("entry_points")).items()
        },
        limits=_limits(_table("limits", table.get("limits", {}))),
        capabilities=_table("capabilities", table.get("capabilities", {})),
        health=_health(_table("health", table["health"])) if "health" in table else None,
        source=data,
    )


def _path(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in text:
        raise ConfigurationError("module", text, "must be a path below the plug-in's own folder")
    return path


def _imports(value: object) -> tuple[Name, ...]:
    names: list[Name] = []
    for text in _list("imports", value):
        module, mark, name = "", "", text if isinstance(text, str) else ""
        if "#" in name:
            module, mark, name = name.partition("#")
        elif "." in name:
            module, mark, name = name.rpartition(".")
        if not name or bool(mark) != bool(module):
            raise ConfigurationError(
                "imports", text, 'must be "module.name", or of a component "interface#name", "name"'
            )
        names.append((module, name))
    return tuple(dict.fromkeys(names))


def _entry(field: str, value: object) -> EntryPoint:
    if isinstance(value, str):
        return EntryPoint(export=value)
    table = _table(field, value)
    check_fields(field, table, ("export", "returns"))
    return EntryPoint(export=_text(table, "export", field), returns=_returns(field, table))


def _returns(field: str, table: Mapping[str, Any]) -> Returns:
    if "returns" not in table:
        return None
    text = _text(table, "returns", field)
    if text not in _RETURNS:
        raise ConfigurationError(f"{field}.returns", text, "must be str, bytes or json")
    return _RETURNS[text]


def _limits(table: dict[str, Any]) -> dict[str, Any]:
    for name in _OF_THE_POOL:
        if name in table:
            raise ConfigurationError(f"limits.{name}", table[name], "is the whole pool's to say")
    made: Limits = parse_policy({"limits": table}).limits
    return {name: getattr(made, name) for name in table}


def _health(table: dict[str, Any]) -> Health:
    check_fields("health", table, ("export", "returns", "args", "result", "timeout"))
    timeout = table.get("timeout", HEALTH_TIMEOUT)
    check_number("health.timeout", timeout, 0.001, 3600, whole=False)
    export = _text(table, "export", "health")
    return Health(
        entry=EntryPoint(export=export, returns=_returns("health", table)),
        args=tuple(_list("health.args", table.get("args", []))),
        result=table.get("result", ANYTHING),
        timeout=timeout,
    )


def _text(table: Mapping[str, Any], name: str, place: str = "") -> str:
    field = f"{place}.{name}" if place else name
    if name not in table:
        raise ConfigurationError(field, None, "is missing")
    check_kind(field, table[name], str)
    return cast(str, table[name])


def _table(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(field, value, "must be a table")
    return dict(cast(dict[str, Any], value))


def _list(field: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ConfigurationError(field, value, "must be a list")
    return cast(list[object], value)
