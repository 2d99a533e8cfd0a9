"""``wasm-sandbox inspect``: what a module offers and needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..module import ItemType, Module
from ..pool import Pool
from ..protocol.description import FunctionType, GlobalType, MemoryType, TableType
from ..wit_types import WitFunction
from .arguments import Parser, add_json
from .progress import progress
from .reports import OK, print_json, print_line, printable

WASI = "wasi_snapshot_preview1"
OURS = "wasm_sandbox"
"""The import module of the network (docs/network.md)."""
_NEEDS = {
    "filesystem": ("path_", "fd_readdir", "fd_prestat"),
    "environment": ("environ_",),
    "clock": ("clock_",),
    "random": ("random_",),
    "network": ("sock_",),
    "stdio": ("fd_read", "fd_write"),
}
"""Which functions of WASI preview 1 a guest needs which capability for, by their beginnings."""
_INTERFACES = {
    "filesystem": ("wasi:filesystem/",),
    "environment": ("wasi:cli/environment",),
    "clock": ("wasi:clocks/",),
    "random": ("wasi:random/",),
    "network": ("wasi:sockets/", "wasi:http/"),
    "stdio": ("wasi:cli/stdin", "wasi:cli/stdout", "wasi:cli/stderr"),
}
"""The same of the interfaces of WASI 0.2."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    parser = Parser(
        prog="wasm-sandbox inspect",
        usage="wasm-sandbox inspect [OPTION ...] MODULE",
        description="Show what a module exports and imports, and what it will ask for.",
        allow_abbrev=False,
    )
    parser.add_argument("module", metavar="MODULE", help="a .wasm or .wat file")
    parser.add_argument("--cache-dir", metavar="DIR", help="where compiled modules are kept")
    add_json(parser)
    parser.set_defaults(rest=[])
    options = parser.parse(arguments)
    with Pool(1, cache_dir=options.cache_dir) as pool, progress(f"compiling {options.module}"):
        module = pool.load(options.module)
    facts = describe(module)
    if options.json:
        print_json(facts)
    else:
        _print(facts)
    return OK


def describe(module: Module) -> dict[str, Any]:
    """All that ``inspect`` shows, as data."""
    described = module.description
    return {
        "module": module.name,
        "sha256": module.sha256,
        "size": len(module.handle.source),
        "kind": kind_of(module),
        "functions": described.function_count,
        "code_size": described.code_size,
        "exports": [{"name": name, "type": show(kind)} for name, kind in module.exports.items()],
        "imports": [
            {"module": need.module, "name": need.name, "type": show(need.type)}
            for need in module.imports
        ],
        "memory": [show(memory) for memory in described.memories],
        "wit": module.wit,
        "capabilities": capabilities(module),
        "unknown_imports": sorted(
            {need.module for need in module.imports if not _is_known(need.module)}
        ),
        "custom_sections": [
            {"name": name, "size": size} for name, size in described.custom_sections
        ],
    }


def kind_of(module: Module) -> str:
    """Which kind of program this is."""
    if module.wit is not None:
        return "component, WASI command" if module.description.is_command else "component"
    if module.description.is_command:
        return "WASI command"
    return "WASI reactor" if "_initialize" in module else "library"


def capabilities(module: Module) -> list[str]:
    """The capabilities that the module's imports ask for; without a grant they fail at run time."""
    if module.wit is not None:
        interfaces = {need.module for need in module.imports}
        return [
            what
            for what, begins in _INTERFACES.items()
            if any(interface.startswith(begins) for interface in interfaces)
        ]
    names = [need.name for need in module.imports if need.module == WASI]
    asked = [what for what, begin in _NEEDS.items() if any(n.startswith(begin) for n in names)]
    if any(need.module == OURS for need in module.imports) and "network" not in asked:
        asked.append("network")
    return asked


def _is_known(module: str) -> bool:
    return module in (WASI, OURS) or module.startswith("wasi:")


def show(kind: ItemType) -> str:
    """A type in a few words."""
    match kind:
        case WitFunction():
            return str(kind)
        case FunctionType():
            return f"func {kind}"
        case MemoryType():
            size = f"{kind.minimum * kind.page_size} bytes"
            most = "" if kind.maximum is None else f" to {kind.maximum * kind.page_size}"
            extras = " shared" * kind.shared + " 64-bit" * kind.is_64
            return f"memory {size}{most}{extras}"
        case TableType():
            most = "" if kind.maximum is None else f" to {kind.maximum}"
            return f"table {kind.minimum}{most} of {kind.element}"
        case GlobalType():
            return f"global {'mutable ' * kind.mutable}{kind.value}"
        case _:
            return f"tag ({', '.join(kind.params)})"


def _print(facts: dict[str, Any]) -> None:
    print_line(f"{printable(facts['module'])}: {facts['kind']}, {facts['size']} bytes")
    print_line(f"sha256 {facts['sha256']}")
    print_line(f"{facts['functions']} functions, {facts['code_size']} bytes of code")
    print_line(f"asks for: {', '.join(facts['capabilities']) or 'nothing'}")
    if facts["unknown_imports"]:
        named = printable(", ".join(facts["unknown_imports"]))
        print_line(f"needs host functions, which this version does not offer, from: {named}")
    if facts["wit"] is not None:
        for line in facts["wit"].splitlines():
            print_line(printable(line))
        return
    for title in ("exports", "imports"):
        if facts[title]:
            print_line(f"{title}:")
        for item in facts[title]:
            name = f"{item['module']}.{item['name']}" if "module" in item else item["name"]
            print_line(f"    {printable(name)}: {item['type']}")
