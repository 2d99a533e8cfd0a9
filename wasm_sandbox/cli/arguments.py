"""What the commands share of their arguments: parsers, limits, grants."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from ..policy import SIZES, Policy, parse_size, read_policy
from ..protocol.capabilities import Capabilities, Environment, Filesystem
from ..protocol.errors import ConfigurationError
from ..protocol.fields import check_fields
from ..protocol.limits import Limits
from ..protocol.network import Network

_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)
_OPTIONS = {"wall_time": "--timeout", "fuel": "--fuel", "memory": "--memory"}
"""Options of the limits that have one of their own."""
_Number = TypeVar("_Number", int, float)
_MARK = "\0"
"""Keeps argparse from taking a negative number for an option. No argument can hold it."""


class UsageError(Exception):
    """The command line makes no sense."""


class Parser(argparse.ArgumentParser):
    """A parser that raises ``UsageError``, and knows negative numbers from options."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: always.
        """
        if message.startswith("unrecognized") and "ARG" in self.format_usage():
            message += " (what begins with - and is for the guest goes behind --)"
        message = message.replace(_MARK, "").replace(repr(_MARK)[1:-1], "")
        raise UsageError(f"{message}\n{self.format_usage().strip()}")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse ``arguments``; what follows ``--`` ends up in ``rest``, unread.

        Raises:
            UsageError: the command line makes no sense.
        """
        ours, rest = list(arguments), list[str]()
        if "--" in ours:
            at = ours.index("--")
            ours, rest = ours[:at], ours[at + 1 :]
        ours = [_MARK + each if _NUMBER.match(each) else each for each in ours]
        options = self.parse_intermixed_args(ours)
        options.rest = [each.removeprefix(_MARK) for each in options.rest] + rest
        return options


def make_parser(name: str, description: str, *, rest: str) -> Parser:
    """What ``call`` and ``run`` have in common; ``rest`` is the help of the guest's arguments."""
    function = "FUNCTION " if name == "call" else ""
    parser = Parser(
        prog=f"wasm-sandbox {name}",
        usage=f"wasm-sandbox {name} [OPTION ...] MODULE {function}[ARG ...]",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("module", metavar="MODULE", help="a .wasm or .wat file")
    if function:
        parser.add_argument("function", metavar="FUNCTION", help="name of the exported function")
    parser.add_argument("rest", nargs="*", default=[], metavar="ARG", help=rest)
    add_json(parser)
    add_policy(parser, environment=name == "run")
    parser.add_argument("--audit", metavar="FILE", help="append each event as a line of JSON")
    return parser


def add_policy(parser: Parser, *, environment: bool) -> None:
    """The options that ``policy_of`` reads, and how the policy is enforced."""
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--timeout",
        type=number,
        metavar="SECONDS",
        help="stop the guest after this time; its processor and idle time may be as long",
    )
    limits.add_argument("--fuel", type=whole, metavar="N", help="stop it after N units of fuel")
    limits.add_argument("--memory", metavar="SIZE", help="linear memory at most, such as 64MiB")
    limits.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of Limits, such as output=1MiB or stack=1MiB; may be repeated",
    )
    grants = parser.add_argument_group("policy")
    grants.add_argument("--policy", metavar="FILE", help="limits and capabilities, in TOML")
    grants.add_argument(
        "--dir",
        action="append",
        default=[],
        metavar="HOST[::GUEST][:rw]",
        help="grant a directory, to read unless :rw; GUEST is its path for the guest, by default "
        "HOST as given; may be repeated",
    )
    grants.add_argument(
        "--net",
        action="append",
        default=[],
        metavar="WHERE",
        help="let it connect to HOST:PORT, to :PORT of any public host, to loopback or "
        "loopback:PORT, or to all (full); PORT may be LOW-HIGH or *; may be repeated",
    )
    if environment:
        grants.add_argument(
            "--env",
            action="append",
            default=[],
            metavar="NAME[=VALUE]",
            help="set a variable, or pass on yours; may be repeated",
        )
    grants.add_argument(
        "--isolation",
        choices=("best-effort", "strict"),
        default="best-effort",
        help="strict refuses to run where this machine cannot enforce the policy",
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="where compiled modules are kept")


def add_json(parser: Parser) -> None:
    """The option that all commands have."""
    parser.add_argument("--json", action="store_true", help="print JSON, errors too")


def number(text: str) -> float:
    """A number of an option."""
    return _parse(float, text, "number")


def whole(text: str) -> int:
    """A whole number of an option, also in hexadecimal."""
    return _parse(lambda digits: int(digits, 0), text, "whole number")


def _parse(kind: Callable[[str], _Number], text: str, what: str) -> _Number:
    text = text.removeprefix(_MARK)
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}") from None


def policy_of(options: argparse.Namespace) -> Policy:
    """The limits and capabilities that the options ask for, on top of those of a policy file.

    Raises:
        ConfigurationError: something that cannot be used.
    """
    policy = read_policy(options.policy) if options.policy else Policy(Limits(), Capabilities())
    return Policy(_limits(options, policy.limits), _capabilities(options, policy.capabilities))


def _limits(options: argparse.Namespace, base: Limits) -> Limits:
    changes: dict[str, Any] = {}
    if options.timeout is not None:
        changes["wall_time"] = options.timeout
        for name in ("cpu_time", "idle_time"):
            changes[name] = max(getattr(base, name), options.timeout)
    if options.fuel is not None:
        changes["fuel"] = options.fuel
    if options.memory is not None:
        changes["memory"] = parse_size("--memory", options.memory)
    for setting in options.limit:
        name, equals, value = setting.partition("=")
        check_fields("--limit", {name: value}, Limits.__struct_fields__)
        if not equals:
            raise ConfigurationError("--limit", setting, "must be NAME=VALUE")
        changes[name] = _limit(name, value)
    try:
        return msgspec.structs.replace(base, **changes)
    except ConfigurationError as error:  # in the words of the command line
        name = error.field.removeprefix("limits.")
        option = _OPTIONS.get(name, "")
        if getattr(options, option.removeprefix("--"), None) is None:
            option = f"--limit {name}"
        raise ConfigurationError(option, changes[name], error.reason, error.hint) from None


def _limit(name: str, value: str) -> object:
    if name in SIZES:
        return parse_size(f"--limit {name}", value)
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise ConfigurationError(f"--limit {name}", value, "is no number")


def _capabilities(options: argparse.Namespace, base: Capabilities) -> Capabilities:
    filesystem = base.filesystem
    for grant in options.dir:
        filesystem |= _directory(grant)
    network = base.network
    for grant in options.net:
        network |= _network(grant)
    return msgspec.structs.replace(base, filesystem=filesystem, network=network)


def _directory(grant: str) -> Filesystem:
    path, make = grant, Filesystem.read_only
    if grant.endswith(":rw"):
        path, make = grant.removesuffix(":rw"), Filesystem.read_write
    elif grant.endswith(":ro"):
        path = grant.removesuffix(":ro")
    host, _, guest = path.partition("::")
    return make(host, at=guest or host)


def _network(grant: str) -> Network:
    host, colon, ports = grant.rpartition(":")
    if grant == "full":
        return Network.full()
    if grant == "loopback":
        return Network.loopback()
    if host == "loopback":
        return Network.loopback(None if ports == "*" else ports)
    if colon and not host:
        return Network.ports("1-65535" if ports == "*" else ports)
    return Network.hosts(grant)


def environment(options: argparse.Namespace, granted: Environment) -> dict[str, str]:
    """The variables of a command: those of the policy, and those of ``--env``.

    Raises:
        ConfigurationError: ``--env NAME``, and there is no such variable to pass on.
    """
    variables = dict(granted.select(dict(os.environ)))
    for setting in options.env:
        name, equals, value = setting.partition("=")
        if not equals:
            if name not in os.environ:
                raise ConfigurationError("--env", setting, "is not set here", "write NAME=VALUE")
            value = os.environ[name]
        variables[name] = value
    return variables


def complain(*lines: str) -> None:
    """Write to standard error, where there is one."""
    if sys.stderr is not None:
        print(*lines, sep="\n", file=sys.stderr)
