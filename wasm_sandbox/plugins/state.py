"""What is known of plug-ins: their versions, what happened to them, what they are granted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from ..configuration import Configuration
from ..function import Function
from ..imports import Imports, read_imports
from ..module import Module
from ..protocol.capabilities import Capabilities
from ..protocol.errors import ConfigurationError, MissingExport, PluginUnavailable
from ..protocol.fields import check_kind
from ..protocol.limits import Limits
from .folder import Signature
from .manifest import Manifest

T = TypeVar("T")

What = Literal["loaded", "reloaded", "refused", "removed", "rolled_back", "failed"]


class PluginEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a plug-in."""

    what: What
    """``loaded``; ``reloaded``: another version took over; ``refused``: what is in the folder is
    not used, and the version that serves, if there is one, goes on; ``removed``; ``rolled_back``;
    ``failed``: the directory could not be watched or read."""
    folder: str
    """Its folder's name."""
    plugin: str = ""
    """Its name, where the manifest could be read."""
    version: str = ""
    """The version that this is about: for ``rolled_back``, the one that serves again."""
    previous: str = ""
    """The version that served until now."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class PluginRelease(Mapping[str, Function]):
    """One version of a plug-in: its entry points, as functions with their limits and grants.

    It stays usable for as long as the pool, also when another version has taken over.
    """

    name: str
    version: str
    module: Module
    manifest: Manifest
    functions: Mapping[str, Function]
    digest: bytes
    """Of manifest and module."""

    def __getitem__(self, entry: str) -> Function:
        function = self.functions.get(entry)
        if function is None:
            raise MissingExport(
                f"{self.name} {self.version} has no entry point {entry!r}",
                f"it has {', '.join(self.functions) or 'none'}",
            )
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)

    def __repr__(self) -> str:
        return f"<PluginRelease {self.name} {self.version} with {', '.join(self.functions)}>"


@dataclass(eq=False)
class Slot:
    """A plug-in through all its versions."""

    name: str
    folder: str
    release: PluginRelease | None = None
    previous: PluginRelease | None = None
    signature: Signature = ()
    """Of the folder, when its content was last taken or put back."""
    put_back: set[bytes] = field(default_factory=set[bytes])
    """Digests of what was rolled back: not taken again."""

    def current(self) -> PluginRelease:
        """The version that serves now.

        Raises:
            PluginUnavailable: it was removed.
        """
        release = self.release
        if release is None:
            raise PluginUnavailable(f"the plug-in {self.name} was removed")
        return release


class Host(Protocol):
    """A pool, and how to wait."""

    async def load(self, data: bytes, imports: Imports | None) -> Module:
        """Load a module."""
        ...

    async def call(self, function: Function, args: tuple[Any, ...]) -> Any:
        """Call a function."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Do what reads files."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the program grants to its plug-ins."""

    directory: str
    granted: Capabilities | Mapping[str, Capabilities] | None
    limits: Limits
    imports: Imports
    on_event: Callable[[PluginEvent], object] | None

    @classmethod
    def of(
        cls,
        pool: Configuration,
        directory: str | os.PathLike[str],
        granted: Capabilities | Mapping[str, Capabilities] | None,
        limits: Limits | None,
        imports: Imports | None,
        on_event: Callable[[PluginEvent], object] | None,
    ) -> Rules:
        """The arguments of the user, checked.

        Raises:
            ConfigurationError: a value that cannot be used.
        """
        if granted is not None and not isinstance(granted, Capabilities):
            check_kind("plugins.granted", granted, (Capabilities, Mapping))
            for name, each in granted.items():
                check_kind(f"plugins.granted[{name!r}]", each, Capabilities)
        check_kind("plugins.limits", limits, (Limits, type(None)))
        check_kind("plugins.directory", directory, (str, os.PathLike))
        if on_event is not None and not callable(on_event):
            raise ConfigurationError("plugins.on_event", on_event, "must be callable")
        read_imports(imports)
        return cls(
            directory=os.path.abspath(os.fspath(directory)),
            granted=granted,
            limits=pool.limits if limits is None else limits,
            imports=imports or {},
            on_event=on_event,
        )
