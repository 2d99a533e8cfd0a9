"""One worker's engine: the pool, and beside it the on-demand allocator for what the pool cannot
hold."""

from __future__ import annotations

from ....protocol.description import ModuleDescription
from ...components.plan import decode
from ..accounts import FileAccount
from ..interface import (
    NO_WASI,
    ComponentFunction,
    HostFunction,
    LoadedModule,
    RunSettings,
    SessionLimits,
    Wasi,
)
from .component import RawComponent
from .config import engine_text
from .guard import Guard
from .library import library
from .modules import RawModule
from .session import RawSession
from .store import Allocator, Shared, fits_pool


class RawEngine:
    """See ``interface.Engine``; every call goes through the engine's C interface."""

    raw_path = True
    note = ""

    def __init__(self, settings: RunSettings, functions: tuple[HostFunction, ...] = ()) -> None:
        self.name = engine_text()
        self._settings = settings
        self._shared = Shared(library(), settings, functions)
        self._allocators: dict[tuple[bool, bool], Allocator] = {}
        self._allocator(pooled=not settings.stateful)

    @property
    def account(self) -> FileAccount:
        """What the running call does with files."""
        return self._shared.host.account

    def _allocator(self, *, pooled: bool, images: bool = True) -> Allocator:
        found = self._allocators.get((pooled, images))
        if found is None:
            found = Allocator(self._shared, pooled=pooled, images=images)
            self._allocators[pooled, images] = found
        return found

    def load(
        self,
        path: str,
        description: ModuleDescription,
        functions: tuple[HostFunction, ...] = (),
        component_functions: tuple[ComponentFunction, ...] = (),
    ) -> LoadedModule:
        """Take the artifact at ``path``."""
        if description.component is not None:
            plan = decode(description.component.plan)
            allocator = self._allocator(pooled=False, images=not plan.several_images)
            return RawComponent(allocator, path, description, plan, component_functions)
        pooled = not self._settings.stateful and fits_pool(description, self._settings)
        return RawModule(self._allocator(pooled=pooled), path, description, functions)

    def guard(self, gate: str, warden: str) -> None:
        """Take the artifacts of the gate and of the warden."""
        for pooled in {False, not self._settings.stateful}:
            allocator = self._allocator(pooled=pooled)
            allocator.guard = Guard(allocator, gate, warden)

    def session(self, limits: SessionLimits, wasi: Wasi = NO_WASI) -> RawSession:
        """A new store for instances that live on."""
        assert self._settings.stateful
        return RawSession(self._allocator(pooled=False), limits, wasi)

    def arm(self) -> None:
        """Forget an interrupt that hit nothing."""
        self._shared.interrupted = False
        if self.account.woken.is_set():
            self.account.woken.clear()

    def interrupt(self) -> None:
        """Stop the running call, or the next one if it has not begun to run."""
        # In this order: a call sets its deadline, then looks at the flag.
        self._shared.interrupted = True
        self._shared.increment_epoch()
        self.account.woken.set()

    def increment_epoch(self) -> None:
        """Stop whatever runs now."""
        self._shared.increment_epoch()

    def close(self) -> None:
        """Free it."""
        for allocator in self._allocators.values():
            allocator.close()
        self._allocators.clear()
