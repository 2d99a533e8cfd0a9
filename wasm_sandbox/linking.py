"""What a module gets for its imports: ``load(imports=, worker_imports=)``."""

from __future__ import annotations

from .component_imports import link_component
from .imports import Given, Runner, link_core
from .supervisor.requests import ModuleHandle


def link(given: Given, handle: ModuleHandle, runner: Runner) -> ModuleHandle:
    """A module with functions bound to its imports; itself where none are given.

    Raises:
        MissingImport: it imports something that is not given.
        ConfigurationError: something is given that it does not import, or cannot be used.
        SignatureMismatch: a function that does not fit its import.
        MissingExport: a function takes buffers, and the module lacks what that needs.
    """
    if not given:
        return handle
    linker = link_core if handle.description.component is None else link_component
    return linker(given, handle, runner)
