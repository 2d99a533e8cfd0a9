"""Compiling. It runs in a process of its own, with its own limits: a few KiB can take minutes or
gigabytes.

All of it goes through the public binding; nothing here is called often enough to need another way.
"""

from __future__ import annotations

import re
import time

import msgspec
import wasmtime

from ....protocol.description import ModuleDescription
from ...binary import (
    InterfaceTooLarge,
    MalformedModule,
    describe,
    looks_like_component,
    looks_like_text,
)
from ...binary_exports import growing, lasting, show
from ...purity import mark
from ..interface import Compiled, CompileSettings, EngineRefusal
from .compile_component import compile_parts, several_images, validate
from .config import public_config

_SWITCHED_OFF = re.compile(r"must be enabled|not supported|unsupported|is disabled|not enabled")


def compile_module(data: bytes, settings: CompileSettings, *, parallel: bool = True) -> Compiled:
    """Validate and compile ``data``, a core module in binary or in text form.

    ``parallel`` uses a pool of threads: compiling then hangs in every child that this process forks
    later.

    Raises:
        EngineRefusal: ``invalid_module`` or ``unsupported_module``, with the engine's own words.
    """
    started = time.perf_counter()
    binary = to_binary(data)
    engine = wasmtime.Engine(public_config(settings.fuel, parallel=parallel))
    if looks_like_component(binary):
        description, artifact = _compile_component(engine, binary, settings, parallel=parallel)
    else:
        description = _validate(engine, binary)
        things = dict.fromkeys((*growing(description), *lasting(binary, description)))
        shown = show(binary, tuple(things))
        artifact = _compile(engine, shown)
        description = msgspec.structs.replace(description, moved=len(shown) - len(binary))
    return Compiled(description, artifact, time.perf_counter() - started)


def _compile(engine: wasmtime.Engine, valid: bytes) -> bytes | bytearray:
    try:
        return wasmtime.Module(engine, valid).serialize()
    except wasmtime.WasmtimeError as error:
        # It is valid, so what is left are limits of the implementation.
        raise EngineRefusal(
            "unsupported_module", _text(error), "the engine cannot compile this valid module"
        ) from None


def _compile_component(
    engine: wasmtime.Engine, binary: bytes, settings: CompileSettings, *, parallel: bool
) -> tuple[ModuleDescription, bytes | bytearray]:
    resolved = validate(engine, binary, _invalid)
    for source, description in zip(resolved.sources, resolved.descriptions, strict=True):
        _validate_code(engine, source)
        _refuse_shared(description)
    if several_images(resolved):
        engine = wasmtime.Engine(public_config(settings.fuel, parallel=parallel, images=False))
    return compile_parts(resolved, lambda module: bytes(_compile(engine, module)))


def to_binary(data: bytes) -> bytes:
    """The binary of ``data``, which may be text.

    Raises:
        EngineRefusal: neither a module nor text that makes one.
    """
    if data[:4] == b"\0asm":
        return data
    if not looks_like_text(data):
        what = "empty" if not data else f"not WebAssembly (it begins with {data[:8].hex(' ')})"
        raise EngineRefusal(
            "invalid_module",
            f"the module is {what}",
            "a .wasm file begins with 00 61 73 6d, a .wat file with a parenthesis",
        )
    try:
        return bytes(wasmtime.wat2wasm(data.decode()))
    except UnicodeDecodeError as error:
        raise EngineRefusal("invalid_module", f"the text is not UTF-8: {error}") from None
    except wasmtime.WasmtimeError as error:
        raise EngineRefusal("invalid_module", _text(error), "the text is not WebAssembly") from None


def _validate_code(engine: wasmtime.Engine, binary: bytes) -> None:
    try:
        wasmtime.Module.validate(engine, binary)
    except wasmtime.WasmtimeError as error:
        raise _invalid(_text(error)) from None


def _invalid(message: str) -> EngineRefusal:
    message = " ".join(message.split())
    if _SWITCHED_OFF.search(message):
        return EngineRefusal("unsupported_module", message, "build the module without this feature")
    return EngineRefusal(
        "invalid_module", message, "the file is damaged, or its compiler made a mistake"
    )


def _validate(engine: wasmtime.Engine, binary: bytes) -> ModuleDescription:
    _validate_code(engine, binary)
    try:
        description = describe(binary)
    except InterfaceTooLarge as error:
        raise EngineRefusal(
            "unsupported_module", str(error), "export less of it, or strip its custom sections"
        ) from None
    except MalformedModule as error:
        raise EngineRefusal(
            "unsupported_module",
            f"the engine accepts this module, its types are not known here: {error}",
        ) from None
    _refuse_shared(description)
    return mark(binary, description)


def _refuse_shared(description: ModuleDescription) -> None:
    if any(memory.shared for memory in description.memories):
        raise EngineRefusal(
            "unsupported_module",
            "the module has a shared memory (threads), which no limit can hold",
            "build the module without threads",
        )


def _text(error: wasmtime.WasmtimeError) -> str:
    return " ".join(str(error).split())
