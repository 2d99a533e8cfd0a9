"""Drivers for the official WebAssembly test suites, whatever they are run through.

A script of the specification suite needs state: instances that live on, registered names, imports
between modules. ``run_script`` speaks to a ``Host``, which may be an engine in this process or a
pool.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wasm_sandbox.protocol.description import (
    ExternFunction,
    ExternGlobal,
    ExternType,
    ModuleDescription,
)

SLOT = 16
Command = dict[str, Any]


def suites_path() -> Path | None:
    """Where the suites lie, or ``None`` where there are none on this machine."""
    named = os.environ.get("WASM_SANDBOX_SUITES")
    path = Path(named) if named else Path(__file__).parents[2] / "shared" / "suites"
    return path if (path / "spec").is_dir() else None


# --- values --------------------------------------------------------------------------------------

_WIDTHS = {"i32": 4, "i64": 8, "f32": 4, "f64": 8}
_LANES = {"i8x16": 1, "i16x8": 2, "i32x4": 4, "i64x2": 8, "f32x4": 4, "f64x2": 8}
_QUIET = {4: 0x7FC00000, 8: 0x7FF8000000000000}


class ReferenceValue(Exception):
    """A value that cannot cross the wall; the argument is its kind."""


def encode(value: Sequence[Any]) -> bytes:
    """The slot of an argument.

    Raises:
        ReferenceValue: it is one.
    """
    kind, bits = value
    if kind in _WIDTHS:
        return int(bits).to_bytes(_WIDTHS[kind], "little").ljust(SLOT, b"\0")
    if kind == "v128":
        shape, lanes = bits
        return b"".join(int(lane).to_bytes(_LANES[shape], "little") for lane in lanes)
    raise ReferenceValue(kind)


def matches(expected: Sequence[Any], slot: bytes) -> bool:
    """Whether the result in ``slot`` is what the script expects, NaN patterns and alternatives
    included.

    Raises:
        ReferenceValue: the script expects one.
    """
    kind, wanted = expected
    if kind == "either":
        return any(matches(alternative, slot) for alternative in wanted)
    if kind in _WIDTHS:
        return _lane_matches(wanted, slot[: _WIDTHS[kind]])
    if kind == "v128":
        shape, lanes = wanted
        width = _LANES[shape]
        return all(
            _lane_matches(lane, slot[at * width : (at + 1) * width])
            for at, lane in enumerate(lanes)
        )
    raise ReferenceValue(kind)


def _lane_matches(wanted: int | str, lane: bytes) -> bool:
    bits = int.from_bytes(lane, "little")
    if not isinstance(wanted, str):
        return bits == wanted
    quiet = _QUIET[len(lane)]
    if wanted == "nan:canonical":
        return bits & (1 << (8 * len(lane) - 1)) - 1 == quiet
    return bits & quiet == quiet


# --- what a script runs through ------------------------------------------------------------------


class Refused(Exception):
    """The host would not load, link or start something. ``kind`` is the kind of the refusal."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind


class Trapped(Exception):
    """The guest trapped with our trap code ``code``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code


@dataclass(frozen=True)
class Loaded:
    """A module that a host has taken; ``handle`` is the host's own."""

    handle: Any
    description: ModuleDescription


class Host(Protocol):
    """A session: all raise ``Refused`` and ``Trapped`` and nothing else."""

    def load(self, data: bytes) -> Loaded:
        """Take a module, in binary or in text form."""
        ...

    def instantiate(self, module: Loaded, bindings: Sequence[tuple[int, str]]) -> int:
        """A new instance, from (instance, export) for each import."""
        ...

    def invoke(self, instance: int, export: str, slots: bytes) -> bytes:
        """Call an export."""
        ...

    def read_global(self, instance: int, export: str) -> bytes:
        """The slot of a global."""
        ...


TRAP_CODES = {
    "call stack exhausted": "stack_overflow",
    "indirect call type mismatch": "bad_signature",
    "integer divide by zero": "integer_division_by_zero",
    "integer overflow": "integer_overflow",
    "invalid conversion to integer": "bad_conversion_to_integer",
    "null array reference": "null_reference",
    "null function reference": "null_reference",
    "null structure reference": "null_reference",
    "cast failure": "cast_failure",
    "out of bounds array access": "array_out_of_bounds",
    "out of bounds memory access": "memory_out_of_bounds",
    "out of bounds table access": "table_out_of_bounds",
    "undefined element": "table_out_of_bounds",
    "uninitialized element": "indirect_call_to_null",
    "unreachable": "unreachable",
    "": "uncaught_exception",
}
"""What the scripts call a trap, and what we call it."""

SPECTEST = b"""
(module
  (func (export "print")) (func (export "print_i32") (param i32))
  (func (export "print_i64") (param i64)) (func (export "print_f32") (param f32))
  (func (export "print_f64") (param f64)) (func (export "print_i32_f32") (param i32 f32))
  (func (export "print_f64_f64") (param f64 f64))
  (global (export "global_i32") i32 (i32.const 666))
  (global (export "global_i64") i64 (i64.const 666))
  (global (export "global_f32") f32 (f32.const 666.6))
  (global (export "global_f64") f64 (f64.const 666.6))
  (table (export "table") 10 20 funcref) (table (export "table64") i64 10 20 funcref)
  (memory (export "memory") 1 2))
"""


# --- scripts -------------------------------------------------------------------------------------


def load_script(path: Path) -> list[Command]:
    """The commands of one script."""
    commands: list[Command] = json.loads(gzip.decompress(path.read_bytes()))
    return commands


@dataclass
class Report:
    """How a script went."""

    passed: int = 0
    failures: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    """Assertions that the design does not run, each with the reason."""
    absent: int = 0
    """Modules that the script's text form could not even be converted from."""

    def add(self, other: Report) -> None:
        """Add another script's."""
        self.passed += other.passed
        self.failures += other.failures
        self.refused += other.refused
        self.absent += other.absent


class _Failed(Exception):
    """An assertion does not hold."""


Instance = tuple[int, ModuleDescription]


class Script:
    """The state of a script that runs: what is current, what has a name, what is registered."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.report = Report()
        self.current: Instance | None = None
        self.named: dict[str, Instance] = {}
        self.registered: dict[str, Instance] = {}
        self.definitions: dict[str | None, Loaded] = {}
        self.tainted: set[int] = set()
        """Instances whose state the script may have meant to change by passing a reference
        value."""
        self.handlers: dict[str, Callable[[Command], None]] = {
            "module": self.module,
            "inline": lambda _: None,
            "register": self.register,
            "action": lambda command: self._returns(command, None),
            "assert_return": lambda command: self._returns(command, command["expected"]),
            "assert_trap": self.traps,
            "assert_exhaustion": self.traps,
            "assert_exception": self.traps,
            "assert_invalid": self.is_refused,
            "assert_malformed": self.is_refused,
            "assert_unlinkable": self.is_unlinkable,
            "assert_uninstantiable": self.is_uninstantiable,
        }
        spectest = host.load(SPECTEST)
        self.registered["spectest"] = host.instantiate(spectest, []), spectest.description

    def run(self, commands: Sequence[Command], name: str) -> Report:
        """Run all commands; what fails is reported, not raised."""
        for command in commands:
            where = f"{name}:{command['line']} {command['type']}"
            try:
                self.handlers[command["type"]](command)
            except ReferenceValue as value:
                self.report.refused.append(f"{where}: a reference value ({value})")
            except (_Failed, Refused, Trapped) as failure:
                if self._is_tainted(command):
                    self.report.refused.append(f"{where}: a reference value (in its state)")
                else:
                    self.report.failures.append(f"{where}: {type(failure).__name__} {failure}")
        return self.report

    # --- commands ------------------------------------------------------------------------------

    def module(self, command: Command) -> None:
        if command.get("kind") == "instance":
            loaded = self.definitions[command["of"]]
        else:
            loaded = self.host.load(_binary(command))
            self.definitions[command["name"]] = loaded
            if command["definition"]:
                self.report.passed += 1
                return
        self.current = self._instantiate(loaded)
        if command["name"]:
            self.named[command["name"]] = self.current
        self.report.passed += 1

    def register(self, command: Command) -> None:
        self.registered[command["as_"]] = self._instance(command["name"])
        self.report.passed += 1

    def _returns(self, command: Command, expected: list[Any] | None) -> None:
        slots = self._act(command["action"])
        if expected is not None:
            if len(slots) != SLOT * len(expected):
                raise _Failed(f"{len(slots) // SLOT} results, not {len(expected)}")
            for at, wanted in enumerate(expected):
                slot = slots[at * SLOT : (at + 1) * SLOT]
                if not matches(wanted, slot):
                    raise _Failed(f"{slot.hex()} is not {wanted}")
        self.report.passed += 1

    def traps(self, command: Command) -> None:
        text = command["text"]
        try:
            self._act(command["action"])
        except Trapped as trap:
            if trap.code != TRAP_CODES.get(text):
                raise _Failed(f"trap {trap}, not {text!r}") from None
            self.report.passed += 1
        else:
            raise _Failed("no trap")

    def is_refused(self, command: Command) -> None:
        if "wasm" not in command["module"]:
            self.report.absent += 1
            return
        try:
            self.host.load(_binary(command["module"]))
        except Refused as refusal:
            if refusal.kind not in ("invalid_module", "unsupported_module"):
                raise
            self.report.passed += 1
        else:
            raise _Failed("accepted")

    def is_unlinkable(self, command: Command) -> None:
        loaded = self.host.load(_binary(command["module"]))
        try:
            self._instantiate(loaded)
        except Refused as refusal:
            if refusal.kind != "unlinkable":
                raise
            self.report.passed += 1
        else:
            raise _Failed("linked")

    def is_uninstantiable(self, command: Command) -> None:
        loaded = self.host.load(_binary(command["module"]))
        try:
            self._instantiate(loaded)
        except Trapped as trap:
            if trap.code != TRAP_CODES.get(command["text"]):
                raise
            self.report.passed += 1
        else:
            raise _Failed("instantiated")

    # --- parts ---------------------------------------------------------------------------------

    def _is_tainted(self, command: Command) -> bool:
        action = command.get("action")
        return action is not None and self._instance(action["module"])[0] in self.tainted

    def _instance(self, name: str | None) -> Instance:
        found = self.current if name is None else self.named[name]
        if found is None:
            raise _Failed("there is no current module")
        return found

    def _instantiate(self, loaded: Loaded) -> Instance:
        bindings: list[tuple[int, str]] = []
        for needed in loaded.description.imports:
            offer = self.registered.get(needed.module)
            if offer is None or all(export.name != needed.name for export in offer[1].exports):
                raise Refused("unlinkable", f"unknown import {needed.module}.{needed.name}")
            bindings.append((offer[0], needed.name))
        return self.host.instantiate(loaded, bindings), loaded.description

    def _act(self, action: Command) -> bytes:
        number, description = self._instance(action["module"])
        kind = _export_type(description, action["field"])
        if action["type"] == "get":
            if isinstance(kind, ExternGlobal) and kind.type.value not in (*_WIDTHS, "v128"):
                raise ReferenceValue(kind.type.value)
            return self.host.read_global(number, action["field"])
        if isinstance(kind, ExternFunction) and kind.type.references:
            if action["args"]:
                self.tainted.add(number)
            raise ReferenceValue(kind.type.references[0])
        slots = b"".join([encode(value) for value in action["args"]])
        return self.host.invoke(number, action["field"], slots)


def _binary(module: Command) -> bytes:
    return base64.b64decode(module["wasm"])


def _export_type(description: ModuleDescription, name: str) -> ExternType | None:
    return next((export.type for export in description.exports if export.name == name), None)


# --- WASI ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WasiCase:
    """One program of the WASI suite, and what it must do."""

    wasm: Path
    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
    root: Path | None
    """Directory to copy, and to grant as ``/``."""
    stdin: bytes
    stdout: bytes | None
    exit_code: int

    def __str__(self) -> str:
        return f"{self.wasm.parent.name}/{self.wasm.stem}"

    def copy_root(self, target: Path) -> Path | None:
        """A writable copy of ``root`` below ``target``: the programs write into it."""
        if self.root is None:
            return None
        copied = Path(shutil.copytree(self.root, target / "root"))
        for path in (copied, *copied.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
        return copied


def wasi_cases(suites: Path) -> Iterator[WasiCase]:
    """All programs of the WASI suite."""
    for wasm in sorted((suites / "wasi").rglob("*.wasm")):
        described = wasm.with_suffix(".json")
        spec: Command = json.loads(described.read_text()) if described.exists() else {}
        root = spec.get("root") or next(iter(spec.get("dirs", [])), None)
        stdout = spec.get("stdout")
        yield WasiCase(
            wasm=wasm,
            argv=(wasm.name.encode(), *(argument.encode() for argument in spec.get("args", []))),
            env=tuple((k.encode(), v.encode()) for k, v in spec.get("env", {}).items()),
            root=wasm.parent / root if root else None,
            stdin=spec.get("stdin", "").encode(),
            stdout=None if stdout is None else stdout.encode(),
            exit_code=spec.get("exit_code", 0),
        )
