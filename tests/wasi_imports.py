"""Text of a component's imports of WASI, made of the types that the functions are offered with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wasm_sandbox.worker.components.http_fields import Fields
from wasm_sandbox.worker.components.http_requests import Requests
from wasm_sandbox.worker.components.http_responses import Responses
from wasm_sandbox.worker.components.poll import Polls
from wasm_sandbox.worker.components.sockets import Sockets
from wasm_sandbox.worker.components.sockets_tcp import TcpSockets
from wasm_sandbox.worker.components.streams import Streams
from wasm_sandbox.worker.components.wasi import System

_PARTS = (Fields, Requests, Responses, Polls, Sockets, TcpSockets, Streams, System)
SHAPES: dict[tuple[str, str], str] = {
    (interface, name): shape
    for part in _PARTS
    for function in vars(part).values()
    for interface, name, shape in getattr(function, "offers", ())
}
"""The type of each function, by interface and name."""

_OWNERS = {
    "error": "wasi:io/error",
    "pollable": "wasi:io/poll",
    "input-stream": "wasi:io/streams",
    "output-stream": "wasi:io/streams",
    "network": "wasi:sockets/network",
    "tcp-socket": "wasi:sockets/tcp",
    "udp-socket": "wasi:sockets/udp",
    "resolve-address-stream": "wasi:sockets/ip-name-lookup",
}
"""The interface of each resource; those that are not here are of ``wasi:http/types``."""


class _Interface:
    """The text of one imported instance."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: list[str] = []
        self._named: dict[str, str] = {}

    def function(self, name: str, shape: str) -> None:
        params, _, result = _split_function(shape)
        first = "self" if name.startswith("[method]") else "p0"
        names = [first, *(f"p{at}" for at in range(1, len(params)))]
        listed = " ".join(
            f'(param "{each}" {self._type(of)})' for each, of in zip(names, params, strict=False)
        )
        given = f" (result {self._type(result)})" if result else ""
        self._lines.append(f'(export "{name}" (func {listed}{given}))')

    def text(self, at: str) -> str:
        body = "\n    ".join(self._lines)
        return f'(import "{self._name}{at}" (instance ${_id(self._name)}\n    {body}))'

    def _type(self, shape: str) -> str:
        kind, _, rest = shape.partition("<")
        inner = _split(rest[:-1]) if rest else []
        match kind:
            case "own" | "borrow":
                return f"({kind} {self._resource(inner[0])})"
            case "list" | "option" | "tuple":
                return f"({kind} {' '.join(map(self._type, inner))})"
            case "result":
                ok, error = inner
                good = "" if ok == "_" else f" {self._type(ok)}"
                bad = "" if error == "_" else f" (error {self._type(error)})"
                return f"(result{good}{bad})"
            case "enum":
                return self._define(shape, f"(enum {' '.join(map(_quoted, inner))})")
            case "record":
                fields = [each.split(": ", 1) for each in inner]
                listed = (f'(field "{name}" {self._type(of)})' for name, of in fields)
                return self._define(shape, f"(record {' '.join(listed)})")
            case "variant":
                return self._define(shape, f"(variant {' '.join(map(self._case, inner))})")
            case _:
                return shape

    def _case(self, case: str) -> str:
        name, _, payload = case.partition("(")
        return f'(case "{name}" {self._type(payload[:-1])})' if payload else f'(case "{name}")'

    def _resource(self, name: str) -> str:
        known = self._named.get(name)
        if known is None:
            known = self._named[name] = f"$r-{name}"
            if _OWNERS.get(name, "wasi:http/types") == self._name:
                self._lines.append(f'(export "{name}" (type {known} (sub resource)))')
            else:
                self._lines.append(f"(alias outer 1 $outer-{name} (type $o-{name}))")
                self._lines.append(f'(export "{name}" (type {known} (eq $o-{name})))')
        return known

    def _define(self, shape: str, text: str) -> str:
        known = self._named.get(shape)
        if known is None:
            number = len(self._named)
            known = self._named[shape] = f"$e{number}"
            self._lines.append(f"(type $t{number} {text})")
            self._lines.append(f'(export "named{number}" (type {known} (eq $t{number})))')
        return known


def imports(wanted: Sequence[tuple[str, str]], at: str = "@0.2.0") -> str:
    """The imports of these functions, and their lowerings ``$f0``, ``$f1``, ... with the memory and
    the allocator of the core instance ``$heap``."""
    resources = dict.fromkeys(
        name for key in wanted for name in re.findall(r"(?:own|borrow)<([a-z-]+)>", SHAPES[key])
    )
    owners = {name: _OWNERS.get(name, "wasi:http/types") for name in resources}
    order = [*_OWNERS.values(), "wasi:http/types", *(interface for interface, _ in wanted)]
    needed = {*owners.values(), *(interface for interface, _ in wanted)}
    lines: list[str] = []
    for name in dict.fromkeys(each for each in order if each in needed):
        interface = _Interface(name)
        for resource in (each for each, owner in owners.items() if owner == name):
            interface._resource(resource)
        for of, called in wanted:
            if of == name:
                interface.function(called, SHAPES[of, called])
        lines.append(interface.text(at))
        lines += [
            f'(alias export ${_id(name)} "{each}" (type $outer-{each}))'
            for each, owner in owners.items()
            if owner == name
        ]
    options = '(memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))'
    for number, (name, called) in enumerate(wanted):
        lines.append(
            f'(core func $f{number} (canon lower (func ${_id(name)} "{called}") {options}))'
        )
    for resource in resources:
        lines.append(f"(core func $drop-{resource} (canon resource.drop $outer-{resource}))")
    return "\n  ".join(lines)


def _split_function(shape: str) -> tuple[list[str], str, str]:
    params, arrow, result = shape.partition(") -> ")
    return _split(params[1:] if arrow else params[1:-1]), arrow, result


def _split(text: str) -> list[str]:
    """The parts of a list with commas, whose parts may be lists in brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        if letter in "<(":
            depth += 1
        elif letter in ">)":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def _id(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")


def _quoted(name: str) -> str:
    return f'"{name}"'
