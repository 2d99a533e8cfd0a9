"""Refusals that every engine words the same way, with what would have been close."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from ...protocol.description import (
    Export,
    ExternFunction,
    ExternType,
    FunctionType,
    Import,
    ModuleDescription,
)
from .interface import SLOT, WASI_MODULE, EngineRefusal, shorten
from .preview1 import FUNCTIONS

_NAMED = 8
_POINTERS = (("i32",), ("i64",))
Offered = Mapping[tuple[str, str], FunctionType]
"""Functions that guests may import beside WASI's, by module and name."""
REBUILD = "rebuild it with the declarations of WASI preview 1 (wasm32-wasip1)"


def _list(names: Iterable[str]) -> str:
    listed = list(names)
    text = ", ".join(shorten(name, 60) for name in listed[:_NAMED])
    return text + (f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else "")


def _kind(extern: ExternType) -> str:
    return type(extern).__name__.removeprefix("Extern").lower()


def missing_export(description: ModuleDescription, name: str) -> EngineRefusal:
    """There is no exported function ``name``; the hint names those that are."""
    for export in description.exports:
        if export.name == name:
            return EngineRefusal(
                "missing_export", f"{shorten(name, 60)!r} is a {_kind(export.type)}, no function"
            )
    functions = [e.name for e in description.exports if isinstance(e.type, ExternFunction)]
    close = get_close_matches(name[:60], functions[:1000], n=3)
    hint = ""
    if close:
        hint = f"did you mean {_list(close)}?"
    elif functions:
        hint = f"it exports {_list(functions)}"
    return EngineRefusal(
        "missing_export", f"the module exports no function {shorten(name, 60)!r}", hint
    )


def find_export(description: ModuleDescription, name: str) -> Export | None:
    """The export called ``name``, whatever it is."""
    return next((export for export in description.exports if export.name == name), None)


def alloc_pointer(description: ModuleDescription) -> str | None:
    """The type of the pointers of the module's ``alloc``, where it is one of the buffer
    convention."""
    alloc = description.function("alloc")
    fits = alloc is not None and alloc.params == alloc.results and alloc.params in _POINTERS
    return alloc.params[0] if alloc is not None and fits else None


def reference_types(export: str, function: FunctionType) -> EngineRefusal:
    """The signature has values that cannot cross the wall."""
    return EngineRefusal(
        "signature",
        f"{shorten(export, 60)!r} has reference types in its signature {function}",
        f"only i32, i64, f32, f64 and v128 can be passed, not {_list(function.references)}",
    )


def numeric_signature(description: ModuleDescription, export: str) -> FunctionType:
    """The type of the exported function ``export``, all of whose values can cross the wall.

    Raises:
        EngineRefusal: ``missing_export`` or ``signature``.
    """
    function = description.function(export)
    if function is None:
        raise missing_export(description, export)
    if function.references:
        raise reference_types(export, function)
    return function


def unmetered() -> EngineRefusal:
    """Fuel was asked for where code does not count it."""
    return EngineRefusal(
        "unsupported_module",
        "this engine's modules do not count fuel",
        "make the engine, and compile the module, with fuel=True",
    )


def unguarded() -> EngineRefusal:
    """Directories are granted where nothing would count what is done in them."""
    return EngineRefusal(
        "capability_denied",
        "this engine was given nothing that keeps to the limits of granted directories",
        "give it the gate and the warden first",
    )


def wrong_slots(export: str, function: FunctionType, given: int) -> EngineRefusal:
    """The number of arguments is not the function's."""
    return EngineRefusal(
        "signature",
        f"{shorten(export, 60)!r} takes {len(function.params)} arguments, not {given / SLOT:g}",
        f"its type is {function}",
    )


def refused_imports(description: ModuleDescription, offered: Offered) -> EngineRefusal | None:
    """A refusal that names every import that is neither a function of WASI preview 1 nor
    ``offered``, or else the first that wants one of another type."""
    types = [(entry, _type_of(entry, offered)) for entry in description.imports]
    missing = [entry for entry, found in types if found is None]
    if missing:
        return _missing_imports(missing, offered)
    for entry, found in types:
        if not isinstance(entry.type, ExternFunction) or entry.type.type != found:
            return _unlike(entry, found)
    return None


def _type_of(entry: Import, offered: Offered) -> FunctionType | None:
    if entry.module == WASI_MODULE:
        return FUNCTIONS.get(entry.name)
    return offered.get((entry.module, entry.name))


def _unlike(entry: Import, found: FunctionType | None) -> EngineRefusal:
    wanted = _kind(entry.type)
    if isinstance(entry.type, ExternFunction):
        wanted += f" {shorten(str(entry.type.type), 200)}"
    return EngineRefusal(
        "signature",
        f"the module imports {entry.module}.{entry.name} as a {wanted}; it is a function {found}",
        REBUILD if entry.module == WASI_MODULE else "rebuild it with that declaration",
    )


def unlike_imports(reason: str) -> EngineRefusal:
    """Types that print alike may differ still, by their recursion groups: the engine knows."""
    return EngineRefusal("signature", f"an import is of another type than here: {reason}", REBUILD)


def _missing_imports(missing: Sequence[Import], offered: Offered) -> EngineRefusal:
    listed = _list(f"{shorten(entry.module, 60)}.{shorten(entry.name, 60)}" for entry in missing)
    modules = {entry.module for entry in missing}
    first = missing[0]
    names = {WASI_MODULE: set(FUNCTIONS)}
    for module, name in offered:
        names.setdefault(module, set()).add(name)
    hint = f"give it by load(imports=); without, there is only what is in {' and '.join(names)}"
    if first.module in names:
        close = get_close_matches(first.name[:60], sorted(names[first.module]), n=2)
        hint = f"did you mean {_list(close)}?" if close else f"{first.module} has no such function"
    elif "wasi_unstable" in modules:
        hint = "wasi_unstable is the older snapshot 0; rebuild it for wasm32-wasip1"
    elif any(module.startswith("wasi:") for module in modules):
        hint = "that is an interface of WASI 0.2; build a core module for wasm32-wasip1"
    return EngineRefusal("missing_import", f"nothing here offers {listed}", hint)
