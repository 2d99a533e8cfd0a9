"""A profile: all that is fixed in a worker once its jail is on. Equal profiles may share a
worker."""

from __future__ import annotations

import msgspec

from .capabilities import Capabilities, Filesystem, Grant, Scratch
from .grants import Grants
from .limits import Limits
from .network import NetworkGrant

MODULES = 256
"""Modules that a worker keeps loaded; each holds a descriptor."""
OWN_DESCRIPTORS = 48
"""Descriptors that a worker needs beside its modules' and the guest's: 7 of its own (standard
streams, channels, arena), 2 of the guards, 3 of the engine's WASI, 7 of a streamed stdin, as many
of one that has not ended yet, and those that an operation opens for a moment: the parents of paths,
a listing, a module that is loaded. Nobody can make it need more: the engine counts what a guest
holds (``worker/engines/warden.py``), so this wall is never the first that a guest meets."""


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is made for; hashable, so that the scheduler can group calls and workers by
    it."""

    tenant: str | None
    runtime: str
    metered: bool
    """Whether modules are compiled to burn fuel."""
    memory: int
    table_elements: int
    stack: int
    open_files: int
    file_size: int
    cpu_fraction: float
    directories: tuple[Grant, ...] = ()
    clock: tuple[str, float] = ("real", 0.0)
    random: tuple[str, int] = ("secure", 0)
    stdio: bool = True
    stateful: bool = False
    """Whether the worker keeps instances from call to call (one session) instead of a fresh one
    each."""
    network: tuple[NetworkGrant, ...] = ()
    """Here although the supervisor enforces it: one guest's hold on a worker must not reach what
    another was granted."""
    disk: int = 0
    io_read: int = 0
    io_write: int = 0
    """Like the limits of these names where directories are granted; else 0, so that they do not
    keep calls from sharing a worker."""
    scratch: tuple[Scratch, ...] = ()

    grants: Grants = Grants()
    """Custom capabilities, for host functions alone: no worker is told. Here for the reason that
    ``network`` is."""
    helpers: bytes = b""
    """Functions of the program's that run in the worker, as they were pickled for it. Only workers
    unpickle them."""

    @property
    def has_files(self) -> bool:
        """Whether guests are granted any directory."""
        return bool(self.directories or self.scratch)

    @property
    def descriptors(self) -> int:
        """Descriptors that its worker, modules and guest hold at most together
        (``RLIMIT_NOFILE``)."""
        return OWN_DESCRIPTORS + MODULES + self.open_files + len(self.granted)

    @property
    def granted(self) -> tuple[Grant, ...]:
        """All directories, scratch included."""
        return (*self.directories, *(scratch.grant for scratch in self.scratch))

    @staticmethod
    def of(
        limits: Limits,
        capabilities: Capabilities,
        *,
        tenant: str | None = None,
        runtime: str = "wasmtime",
        stateful: bool = False,
        helpers: bytes = b"",
    ) -> Profile:
        """The profile that ``limits`` and ``capabilities`` need."""
        files = capabilities.filesystem != Filesystem.none()
        return Profile(
            tenant=tenant,
            runtime=runtime,
            metered=limits.fuel is not None,
            memory=limits.memory,
            table_elements=limits.table_elements,
            stack=limits.stack,
            open_files=limits.open_files,
            file_size=limits.file_size,
            cpu_fraction=float(limits.cpu_fraction),
            directories=capabilities.filesystem.directories,
            clock=(capabilities.clock.kind, capabilities.clock.at),
            random=(capabilities.random.kind, capabilities.random.seed),
            stdio=capabilities.stdio,
            stateful=stateful,
            network=capabilities.network.grants,
            grants=capabilities.grants,
            helpers=helpers,
            disk=limits.disk * files,
            io_read=limits.io_read * files,
            io_write=limits.io_write * files,
            scratch=capabilities.filesystem.scratches,
        )
