"""What a plug-in gets: what its manifest asks for, all of which must have been granted.

What it does not ask for it does not get, but for what every guest has (a clock, random numbers,
stdio): those are then as granted. Where it cannot be seen that a grant covers what is asked, it
does not.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, cast

import msgspec

from ..imports import Imports, Name
from ..policy import parse_policy, parse_size
from ..protocol.capabilities import Capabilities, Clock, Environment, Filesystem, Grant, Random
from ..protocol.errors import CapabilityDenied, ConfigurationError
from ..protocol.fields import check_fields
from ..protocol.grants import FIELD, Grants, within
from ..protocol.limits import Limits
from ..protocol.network import Network, NetworkGrant
from .manifest import Manifest


def grant_limits(manifest: Manifest, granted: Limits) -> Limits:
    """The limits of its calls.

    Raises:
        CapabilityDenied: it asks for more than is granted; names the fields.
    """
    denied = [
        f"limits.{name}"
        for name, asked in manifest.limits.items()
        if _more(asked, getattr(granted, name))
    ]
    _refuse(manifest, denied, "at most what limits= says")
    return msgspec.structs.replace(granted, **manifest.limits)


def _more(asked: float | None, most: float | None) -> bool:
    return most is not None and (asked is None or asked > most)


def grant_imports(manifest: Manifest, lent: Imports) -> Imports | None:
    """The functions of the program's that it gets.

    Raises:
        CapabilityDenied: some that it asks for are not there; names them.
    """
    own: dict[str, object] = {}
    modules: dict[str, Mapping[str, object]] = {"": own}
    for module, each in lent.items():
        if isinstance(each, Mapping):
            modules[module] = cast("Mapping[str, object]", each)
        else:
            own[module] = each
    given: dict[str, Any] = {}
    denied: list[str] = []
    for asked in manifest.imports:
        module, name = _lent(asked, modules)
        if name is None:
            mark = "#" if ":" in asked[0] else "."
            denied.append(f"imports {mark.join(filter(None, asked))}")
        elif module:
            given.setdefault(module, {})[name] = modules[module][name]
        else:
            given[name] = own[name]
    _refuse(manifest, denied, "imports= has others")
    return given or None


def _lent(asked: Name, modules: Mapping[str, Mapping[str, object]]) -> tuple[str, str | None]:
    """What is asked for, as the program spells it; no name where it lends no such thing, or more
    than one."""
    module, name = asked
    if name in modules.get(module, {}):
        return asked
    fitting = [
        (known, each)
        for known, names in modules.items()
        if _same_interface(module, known)
        for each in names
        if each.replace("_", "-") == name.replace("_", "-")
    ]
    return fitting[0] if len(fitting) == 1 else (module, None)


def _same_interface(asked: str, known: str) -> bool:
    """Whether both are the same of a component, where one of them may say no version."""
    (name, _, version), (other, _, given) = asked.partition("@"), known.partition("@")
    any_version = not version or not given or version == given
    return name == other and any_version and (":" in name or not name)


def grant_capabilities(manifest: Manifest, granted: Capabilities) -> Capabilities:
    """What its calls may reach.

    Raises:
        ConfigurationError: the manifest asks for something that there is not.
        CapabilityDenied: it asks for more than is granted; names all of it.
    """
    tables = dict(manifest.capabilities)
    filesystem = tables.pop("filesystem", {})
    asked = parse_policy({"capabilities": tables}).capabilities
    denied: list[str] = []
    given: dict[str, Any] = {
        "filesystem": _filesystem(filesystem, granted.filesystem, denied),
        "network": _network(asked.network, granted.network, denied),
        "environment": _environment(asked.environment, granted.environment, denied),
        "custom": _custom(asked.grants, granted.grants, denied),
    }
    for name, fits in (
        ("clock", _is_clock_within(asked.clock, granted.clock)),
        ("random", _is_random_within(asked.random, granted.random)),
        ("stdio", granted.stdio or not asked.stdio),
    ):
        if name in tables and not fits:
            denied.append(f"capabilities.{name}")
        given[name] = getattr(asked if name in tables else granted, name)
    _refuse(manifest, denied, "grant it by granted=, if the plug-in may have it")
    return Capabilities(**given)


def _refuse(manifest: Manifest, denied: list[str], hint: str) -> None:
    if denied:
        raise CapabilityDenied(
            "", f"{manifest.name} asks for what is not granted: {', '.join(denied)}", hint
        )


def _filesystem(table: object, granted: Filesystem, denied: list[str]) -> Filesystem:
    field = "capabilities.filesystem"
    if not isinstance(table, dict):
        raise ConfigurationError(field, table, "must be a table")
    wanted = cast(dict[str, Any], table)
    check_fields(field, wanted, ("read_only", "read_write", "scratch"))
    there = {posixpath.normpath(grant.at): grant for grant in granted.directories}
    result = Filesystem.none()
    for kind in ("read_only", "read_write"):
        places = wanted.get(kind, [])
        if not isinstance(places, list):
            raise ConfigurationError(f"{field}.{kind}", places, "must be a list")
        for place in cast(list[object], places):
            if not isinstance(place, str):
                raise ConfigurationError(
                    f"{field}.{kind}",
                    place,
                    "must be a guest's path that the program grants",
                    "only the program knows the paths of its machine",
                )
            grant = there.get(posixpath.normpath(place))
            if grant is None or (kind == "read_write" and not grant.writable):
                denied.append(f"{field}.{kind} {place}")
                continue
            if kind == "read_only":
                grant = Grant(grant.path, grant.at)
            result |= Filesystem((grant,))
    if "scratch" in wanted:
        size = parse_size(f"{field}.scratch", wanted["scratch"])
        asked = Filesystem.scratch(size)
        large = [scratch for scratch in granted.scratches if scratch.size >= size]
        if large:
            result |= Filesystem.scratch(size, at=large[0].at)
        else:
            denied.append(f"{field}.scratch of {asked.scratches[0].size} bytes")
    return result


def _network(asked: Network, granted: Network, denied: list[str]) -> Network:
    for wanted in asked.grants:
        having = [grant for grant in granted.grants if _covers(grant, wanted)]
        if not all(
            any(low <= first and last <= high for grant in having for low, high in grant.ports)
            for first, last in wanted.ports
        ):
            denied.append(f"capabilities.network {wanted}")
    return asked


def _covers(grant: NetworkGrant, wanted: NetworkGrant) -> bool:
    """Whether ``grant`` is for all hosts of ``wanted``, on its own ports."""
    if wanted.kind != "host":
        return grant.kind in (wanted.kind, "full")
    if grant.kind == "host":
        below = grant.host.startswith("*.") and wanted.host.endswith(grant.host[1:])
        return (grant.host == wanted.host or below) and (grant.private or not wanted.private)
    try:
        address = ip_address(wanted.host)
    except ValueError:  # a name, which leads to public addresses unless it is a private one
        return grant.kind == "full" or (grant.kind == "public" and not wanted.private)
    return grant.kind == "full" and not address.is_link_local


def _environment(asked: Environment, granted: Environment, denied: list[str]) -> Environment:
    names = set(asked.names)
    match asked.kind, granted.kind:
        case ("none" | "set", _) | (_, "full"):  # its own constants are no secrets
            return asked
        case "allow", "allow":
            beyond = names - set(granted.names)
        case "allow", "deny":
            beyond = names & set(granted.names)
        case "allow", "set":
            values = dict(granted.variables)
            beyond = names - set(values)
            asked = Environment.set({name: values[name] for name in asked.names if name in values})
        case "deny", "deny":
            beyond = set(granted.names) - names
        case "allow", _:
            beyond = names
        case kind, _:
            beyond = {kind}
    denied += [f"capabilities.environment {name}" for name in sorted(beyond)]
    return asked


def _custom(asked: Grants, granted: Grants, denied: list[str]) -> Grants:
    denied += [
        f"{FIELD}.{name}"
        for name in asked
        if name not in granted or not within(asked[name], granted[name])
    ]
    return asked


def _is_clock_within(asked: Clock, granted: Clock) -> bool:
    return asked == granted or granted.kind == "real"


def _is_random_within(asked: Random, granted: Random) -> bool:
    return asked == granted or asked.kind == "none" or granted.kind == "secure"


def granted_to(
    name: str, granted: Capabilities | Mapping[str, Capabilities] | None, pool: Capabilities
) -> Capabilities:
    """What the program grants to the plug-in of this name."""
    if granted is None:
        return pool
    if isinstance(granted, Capabilities):
        return granted
    return granted.get(name, Capabilities.minimal())
