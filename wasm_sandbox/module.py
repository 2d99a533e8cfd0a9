"""A loaded module: what it offers and needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .function import Function
from .options import Options
from .protocol.description import (
    ExternMemory,
    FunctionType,
    GlobalType,
    MemoryType,
    ModuleDescription,
    TableType,
    TagType,
)
from .protocol.errors import MissingExport
from .protocol.receipts import Receipt
from .protocol.wit import Signature, World
from .values import Codec
from .wit_codec import WitCodec
from .wit_types import WitFunction, WitText

if TYPE_CHECKING:
    from .configuration import Configuration
    from .supervisor.requests import ModuleHandle

ItemType = FunctionType | MemoryType | TableType | GlobalType | TagType | WitFunction
_KINDS: dict[type[Any], str] = {
    FunctionType: "function",
    WitFunction: "function",
    MemoryType: "memory",
    TableType: "table",
    GlobalType: "global",
    TagType: "tag",
}


class Owner(Protocol):
    """The pool of a module, as its functions see it."""

    @property
    def configuration(self) -> Configuration:
        """What the pool was made with."""
        ...

    def wait_for(self, function: Function, args: tuple[Any, ...]) -> tuple[Any, Receipt]:
        """Call and block until the value and the receipt are there."""
        ...

    def stream(self, function: Function, chunks: Any, /) -> Any:
        """The values of a function for chunks, in one instance."""
        ...


class ModuleImport(NamedTuple):
    """Something that a module needs."""

    module: str
    name: str
    type: ItemType

    @property
    def kind(self) -> str:
        """``function``, ``memory``, ``table``, ``global`` or ``tag``."""
        return _KINDS[type(self.type)]


class Module:
    """A module that a pool has loaded. Get it by ``pool.load``; ``module["add"]`` is a
    ``Function``.

    Iterating, ``len`` and ``in`` are about the names of the exported functions.
    """

    def __init__(self, owner: Owner, handle: ModuleHandle, name: str) -> None:
        self._owner = owner
        self._handle = handle
        self._name = name
        self._functions: dict[str, Function] = {}

    @property
    def owner(self) -> Owner:
        """The pool that loaded it."""
        return self._owner

    @property
    def handle(self) -> ModuleHandle:
        """What the supervisor knows it by."""
        return self._handle

    @property
    def name(self) -> str:
        """The file's name, or ``module`` where it was loaded from bytes."""
        return self._name

    @property
    def runtime(self) -> str:
        """The engine that runs it."""
        return self._owner.configuration.runtime

    @property
    def sha256(self) -> str:
        """Digest of the module as given, in hexadecimal."""
        return self._handle.sha256.hex()

    @property
    def description(self) -> ModuleDescription:
        """All that is known of it."""
        return self._handle.description

    @cached_property
    def exports(self) -> Mapping[str, ItemType]:
        """What it offers: the type of each export, by name. Of a component its functions, those of
        an interface as ``docs:calc/ops@0.1.0#add``."""
        if self._world is not None:
            text = WitText(self._world)
            return MappingProxyType(
                {name: text.function(signature) for name, signature in self._signatures.items()}
            )
        return MappingProxyType(
            {export.name: export.type.type for export in self.description.exports}
        )

    @cached_property
    def imports(self) -> tuple[ModuleImport, ...]:
        """What it needs, in its own order. Of a component the functions, ``module`` being their
        interface."""
        if self._world is not None:
            text = WitText(self._world)
            return tuple(
                ModuleImport(interface.name, name, text.function(signature))
                for interface in self._world.imports
                for name, signature in interface.functions
            )
        return tuple(
            ModuleImport(need.module, need.name, need.type.type)
            for need in self.description.imports
        )

    @cached_property
    def lacks_for_buffers(self) -> tuple[str, ...]:
        """What the buffer convention needs, and it does not export."""
        memory = any(
            export.name == "memory" and isinstance(export.type, ExternMemory)
            for export in self.description.exports
        )
        lacks = [] if memory else ["memory"]
        return tuple(lacks if "alloc" in self else [*lacks, "alloc(size) -> pointer"])

    @cached_property
    def wit(self) -> str | None:
        """The world of a component as WIT, made of its binary; ``None`` for a core module."""
        return None if self._world is None else WitText(self._world).world()

    @property
    def _world(self) -> World | None:
        component = self.description.component
        return None if component is None else component.world

    @cached_property
    def _signatures(self) -> dict[str, Signature]:
        return {} if self._world is None else dict(self._world.functions())

    @property
    def main(self) -> Function:
        """The command: what ``pool.run`` runs. Called with command-line arguments, gives a
        ``CompletedRun``.

        Raises:
            MissingExport: this is no WASI command, which exports ``_start``, or as a component
                ``wasi:cli/run``.
        """
        if self._world is not None:
            if self._world.command is None:
                raise MissingExport(
                    f"{self._name} is no WASI command: it does not export wasi:cli/run",
                    self._offer("call one of"),
                )
            return self[self._world.command]
        if self.description.function("_start") != FunctionType((), ()):
            raise MissingExport(
                f"{self._name} is no WASI command: it has no _start", self._offer("call one of")
            )
        return self["_start"]

    def __getitem__(self, name: str) -> Function:
        """The exported function ``name``.

        Raises:
            MissingExport: there is none; the hint names similar ones.
            SignatureMismatch: its type has references or resources, which cannot cross the wall.
        """
        known = self._functions.get(name)
        if known is not None:
            return known
        if self._world is not None:
            return self._functions.setdefault(name, self._component_function(self._world, name))
        exported = self.exports.get(name)
        if not isinstance(exported, FunctionType):
            raise self._missing(name, exported)
        function = Function(
            self,
            Codec(name, exported),
            Options(
                limits=self._owner.configuration.limits,
                capabilities=self._owner.configuration.capabilities,
            ),
            command=name == "_start" and exported == FunctionType((), ()),
        )
        return self._functions.setdefault(name, function)

    def _component_function(self, world: World, name: str, *, kept: bool = False) -> Function:
        full, drops = name, dict(world.drops()) if kept else {}
        if name not in self._signatures and name not in drops:
            # The version may be left out.
            names = (*self._signatures, *drops)
            fitting = [each for each in names if _without_version(each) == name]
            if len(fitting) > 1:
                raise MissingExport(
                    f"{self._name}: {name} is there in several versions",
                    f"choose {' or '.join(fitting)}",
                )
            if not fitting:
                raise self._missing(name, None)
            (full,) = fitting
        if full in drops:
            codec = WitCodec.dropping(full, world, drops[full])
        else:
            codec = WitCodec(full, world, self._signatures[full], self._handle.resources, kept=kept)
        return Function(
            self,
            codec,
            Options(
                limits=self._owner.configuration.limits,
                capabilities=self._owner.configuration.capabilities,
            ),
            command=full == world.command,
        )

    def kept_function(self, name: str) -> Function:
        """The function ``name`` for calls in an instance that lives on, where resources live on,
        too; each has a function to drop it, ``[resource-drop]name``. For a core module it is
        ``module[name]``.

        Raises:
            MissingExport, SignatureMismatch: as for ``module[name]``.
        """
        if self._world is None:
            return self[name]
        return self._component_function(self._world, name, kept=True)

    def _missing(self, name: str, exported: ItemType | None) -> MissingExport:
        if exported is not None:
            kind = _KINDS[type(exported)]
            return MissingExport(f"{self._name}: {name} is a {kind}, not a function", self._offer())
        near = difflib.get_close_matches(str(name), list(self), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else self._offer()
        return MissingExport(f"{self._name}: there is no export {name!r}", hint)

    def _offer(self, verb: str = "it exports the functions") -> str:
        names = list(self)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return f"{verb} {', '.join(names[:10])}{more}" if names else "it exports no functions"

    def __iter__(self) -> Iterator[str]:
        return (name for name, kind in self.exports.items() if _KINDS[type(kind)] == "function")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        kind = self.exports.get(name) if isinstance(name, str) else None
        return kind is not None and _KINDS[type(kind)] == "function"

    def __repr__(self) -> str:
        return f"<Module {self._name} {self.sha256[:12]} {self._offer('exporting')}>"


def _without_version(name: str) -> str:
    """``docs:calc/ops#add`` for ``docs:calc/ops@0.1.0#add``."""
    interface, sharp, function = name.partition("#")
    return interface.partition("@")[0] + sharp + function
