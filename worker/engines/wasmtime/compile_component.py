"""Compiling components: validated as a whole, compiled one core module at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import wasmtime

from ....protocol.description import Component, ExternMemory, ExternTable, ModuleDescription
from ...binary_exports import growing, show
from ...binary_reader import InterfaceTooLarge, MalformedModule, Reader
from ...components.abi import Codecs, FunctionCodec
from ...components.bridge import bridge
from ...components.plan import Core, Module, Plan, encode
from ...components.resolve import Resolved, core_signature, resolve
from ...components.skeleton import skeleton
from ..interface import EngineRefusal
from .library import library

_PAGE = 1 << 16
_DATA = 11
_FILES = "wasi:filesystem/"
_NO_MODULES = b"none"
"""An artifact is never empty."""
_REALLOC = ("i32", "i32", "i32", "i32"), ("i32",)


def validate(
    engine: wasmtime.Engine, binary: bytes, refusal: Callable[[str], EngineRefusal]
) -> Resolved:
    """The component ``binary``, taken apart. The code of its core modules is not validated yet.

    Raises:
        EngineRefusal: ``invalid_module`` or ``unsupported_module``.
    """
    try:
        fault = _fault(engine, skeleton(binary))
    except MalformedModule as error:
        fault = str(error)
    if fault is not None:
        raise refusal(fault)
    try:
        resolved = resolve(binary)
    except InterfaceTooLarge as error:
        raise EngineRefusal("unsupported_module", str(error)) from None
    except MalformedModule as error:
        raise EngineRefusal(
            "unsupported_module",
            f"the component has something that is not known here: {error}",
            "components of WASI 0.2, without asynchronous functions, are supported",
        ) from None
    _check(resolved)
    return resolved


def _fault(engine: wasmtime.Engine, binary: bytes) -> str | None:
    """Why a component is not valid. The binding for components is not loaded for that alone."""
    native, made = library(), (ctypes.c_void_p * 1)()
    pointer = ctypes.cast(engine.ptr(), ctypes.c_void_p)
    error = native.component_new(pointer, binary, len(binary), ctypes.addressof(made))
    if error:
        return native.take_error(error)
    native.component_delete(made[0])
    return None


def compile_parts(
    resolved: Resolved, compile_module: Callable[[bytes], bytes]
) -> tuple[ModuleDescription, bytes]:
    """The description of a component, and its artifact: those of its core modules in one piece.

    The first is the one that can be mapped from the file: that with the data, or the largest.
    """
    used = sorted({made.module for made in resolved.instantiations})
    with_files = any(each.interface.startswith(_FILES) for each in resolved.lowerings)
    if with_files:
        used.append(resolved.add_module(bytes(wasmtime.wat2wasm(bridge()))))
    parts = {
        index: compile_module(show(resolved.sources[index], growing(resolved.descriptions[index])))
        for index in used
    }
    places: dict[int, tuple[int, int]] = {}
    artifact = bytearray()
    images = _images(resolved)
    for index, part in sorted(
        parts.items(), key=lambda item: (item[0] not in images, -len(item[1]))
    ):
        artifact += bytes(-len(artifact) % _PAGE)
        places[index] = len(artifact), len(part)
        artifact += part
    order = {index: place for place, index in enumerate(used)}
    plan = Plan(
        tuple([Module(resolved.descriptions[index], *places[index]) for index in used]),
        tuple([type(made)(order[made.module], made.arguments) for made in resolved.instantiations]),
        tuple(resolved.liftings),
        tuple(resolved.lowerings),
        tuple(resolved.builtins),
        tuple(resolved.tables.resources),
        tuple(resolved.exports),
        len(images) > 1,
        len(used) - 1 if with_files else None,
    )
    return _describe(resolved, used, plan), bytes(artifact) or _NO_MODULES


def several_images(resolved: Resolved) -> bool:
    """Whether more than one of its modules puts data into a memory of its own."""
    return len(_images(resolved)) > 1


def _images(resolved: Resolved) -> set[int]:
    used = {made.module for made in resolved.instantiations}
    return {index for index in used if _has_image(resolved, index)}


def _has_image(resolved: Resolved, index: int) -> bool:
    """Whether a core module puts data into a memory of its own."""
    description = resolved.descriptions[index]
    if len(description.memories) == _imported(description, ExternMemory):
        return False
    source = resolved.sources[index]
    reader = Reader(source, 8, len(source))
    while reader.remaining:
        section = reader.byte()
        body = reader.section(reader.unsigned())
        if section == _DATA:
            return body.count() > 0
    return False


def _describe(resolved: Resolved, used: list[int], plan: Plan) -> ModuleDescription:
    instances = [resolved.descriptions[made.module] for made in resolved.instantiations]
    modules = [resolved.descriptions[index] for index in used]
    return ModuleDescription(
        memories=tuple(
            [m for each in instances for m in each.memories[_imported(each, ExternMemory) :]]
        ),
        tables=tuple(
            [t for each in instances for t in each.tables[_imported(each, ExternTable) :]]
        ),
        start=any(each.start for each in instances),
        uses_gc=any(each.uses_gc for each in instances),
        function_count=sum(each.function_count for each in modules),
        code_size=sum(each.code_size for each in modules),
        component=Component(resolved.world, encode(plan)),
    )


def _imported(description: ModuleDescription, kind: type[ExternMemory | ExternTable]) -> int:
    return sum(isinstance(needed.type, kind) for needed in description.imports)


def _check(resolved: Resolved) -> None:
    """Compare the types of all core functions that are called here with what they are called as:
    a wrong number of values would be written past their end."""
    codecs = Codecs(resolved.tables.types)
    wanted: list[tuple[Core | None, tuple[tuple[str, ...], tuple[str, ...]]]] = []
    for lifting in resolved.liftings:
        params, results = FunctionCodec(codecs, lifting.signature).lifted
        wanted += [
            (lifting.function, (params, results)),
            (lifting.options.post_return, (results, ())),
            (lifting.options.realloc, _REALLOC),
        ]
    wanted += [(lowering.options.realloc, _REALLOC) for lowering in resolved.lowerings]
    wanted += [(resource.destructor, (("i32",), ())) for resource in resolved.tables.resources]
    for function, (params, results) in wanted:
        found = None if function is None else core_signature(resolved, function)
        if found is not None and (found.params, found.results) != (params, results):
            raise EngineRefusal(
                "unsupported_module",
                f"a core function has the type {found}; its component type needs "
                f"({', '.join(params)}) -> ({', '.join(results)})",
            )
