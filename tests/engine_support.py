"""An engine in the test's own process, without a pool around it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import pytest
from suites import SLOT, Loaded, Refused, Trapped

from wasm_sandbox.protocol.description import ModuleDescription
from wasm_sandbox.worker.engines import wasmtime as package
from wasm_sandbox.worker.engines.gate import gate
from wasm_sandbox.worker.engines.interface import (
    CallLimits,
    CompileSettings,
    ComponentFunction,
    Engine,
    EngineRefusal,
    GuestTrap,
    HostFunction,
    LoadedModule,
    RunSettings,
    SessionLimits,
)
from wasm_sandbox.worker.engines.warden import warden

MIB = 1 << 20
LIMITS = CallLimits(memory=64 * MIB, table_elements=10_000)


def slots(*values: int | bytes) -> bytes:
    """Slots of integers (as 64-bit two's complement) and of raw bytes."""
    return b"".join(
        (
            value if isinstance(value, bytes) else (value & (1 << 64) - 1).to_bytes(8, "little")
        ).ljust(SLOT, b"\0")
        for value in values
    )


def number(result: bytes, at: int = 0, size: int = 4) -> int:
    """A signed integer of a result's slot."""
    return int.from_bytes(result[at * SLOT : at * SLOT + size], "little", signed=True)


@dataclass
class Bench:
    """One engine, and modules compiled for it."""

    engine: Engine
    settings: RunSettings

    def load(
        self,
        source: str | bytes,
        *functions: HostFunction,
        component_functions: tuple[ComponentFunction, ...] = (),
        prepare: bool = True,
    ) -> LoadedModule:
        """Compile and load, with host functions of the module's own."""
        data = source.encode() if isinstance(source, str) else source
        compiled = package.compile_module(
            data, CompileSettings(fuel=self.settings.fuel), parallel=False
        )
        module = load_artifact(
            self.engine, compiled.artifact, compiled.description, functions, component_functions
        )
        _opened.append(module)
        if prepare:
            module.prepare()
        return module


def load_artifact(
    engine: Engine,
    artifact: bytes | bytearray,
    description: ModuleDescription,
    functions: tuple[HostFunction, ...] = (),
    component_functions: tuple[ComponentFunction, ...] = (),
) -> LoadedModule:
    """Load from a file in memory, as workers do."""
    with ExitStack() as stack:
        return engine.load(
            artifact_path(stack, artifact), description, functions, component_functions
        )


def bench(
    settings: RunSettings | None = None,
    fault: str = "",
    functions: tuple[HostFunction, ...] = (),
    *,
    guarded: bool = False,
) -> Bench:
    """An engine; with ``fault``, the slower one of the public binding; ``guarded``, for directories
    to be granted."""
    settings = settings or RunSettings()
    engine = keep(package.open_engine(settings, fault, functions))
    if guarded:
        with ExitStack() as stack:
            engine.guard(*(artifact_path(stack, a) for a in guard_artifacts(settings.fuel)))
    return Bench(engine, settings)


@cache
def guard_artifacts(fuel: bool) -> tuple[bytes | bytearray, ...]:
    """The gate and the warden."""
    settings = CompileSettings(fuel=fuel)
    return tuple(
        package.compile_module(text.encode(), settings, parallel=False).artifact
        for text in (gate(), warden())
    )


def artifact_path(stack: ExitStack, artifact: bytes | bytearray) -> str:
    """A file in memory for as long as ``stack`` is open, as workers get it."""
    descriptor = os.memfd_create("artifact")
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(artifact)
    return f"/proc/self/fd/{descriptor}"


_opened: list[Engine | LoadedModule] = []


def keep(engine: Engine) -> Engine:
    """``engine``, which the fixtures below close."""
    _opened.append(engine)
    return engine


def close_since(mark: int) -> None:
    """Close what was opened after ``mark`` things, the last first."""
    while len(_opened) > mark:
        _opened.pop().close()


@pytest.fixture(autouse=True, scope="module")
def close_after_module() -> Iterator[None]:
    """Close what a file's own fixtures opened. Files import it and the next one by name."""
    mark = len(_opened)
    yield
    close_since(mark)


@pytest.fixture(autouse=True)
def close_after_test() -> Iterator[None]:
    """Close what a test opened."""
    mark = len(_opened)
    yield
    close_since(mark)


class SessionHost:
    """The specification suite's host: one session of an engine in this process."""

    def __init__(self, stage: Bench) -> None:
        self._stage = stage
        limits = SessionLimits(memory=1 << 44, table_elements=1 << 44, shares=64)
        self.session = stage.engine.session(limits)

    def load(self, data: bytes) -> Loaded:
        try:
            module = self._stage.load(data, prepare=False)
        except EngineRefusal as refusal:
            raise Refused(refusal.kind, refusal.message) from None
        return Loaded(module, module.description)

    def instantiate(self, module: Loaded, bindings: Sequence[tuple[int, str]]) -> int:
        try:
            return self.session.instantiate(module.handle, bindings)
        except EngineRefusal as refusal:
            raise Refused(refusal.kind, refusal.message) from None
        except GuestTrap as trap:
            raise Trapped(trap.code, trap.message) from None

    def invoke(self, instance: int, export: str, slots: bytes) -> bytes:
        try:
            return self.session.invoke(instance, export, slots).slots
        except EngineRefusal as refusal:
            raise Refused(refusal.kind, refusal.message) from None
        except GuestTrap as trap:
            raise Trapped(trap.code, trap.message) from None

    def read_global(self, instance: int, export: str) -> bytes:
        try:
            return self.session.read_global(instance, export)
        except EngineRefusal as refusal:
            raise Refused(refusal.kind, refusal.message) from None

    def close(self) -> None:
        self.session.close()
