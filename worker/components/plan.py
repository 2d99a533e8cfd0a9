"""How a component is put together from its core modules: what the compiler worker found out, as
plain data for the workers that run it.

Instantiation is static in the component model: nested components, aliases and instances are all
resolved when the binary is read. What is left is a list of core instances in their order, and what
each of their imports is.
"""

from __future__ import annotations

import msgspec

from ...protocol.description import ModuleDescription
from ...protocol.wit import Signature

PLAN_VERSION = 3
"""Part of an artifact's key: another plan, or another way to read components."""


class CoreExport(msgspec.Struct, frozen=True, array_like=True, tag="export"):
    """An export of a core instance."""

    instance: int
    name: str


class Lowered(msgspec.Struct, frozen=True, array_like=True, tag="lowered"):
    """A component function as a core function: ``Plan.lowerings[index]``."""

    index: int


class Builtin(msgspec.Struct, frozen=True, array_like=True, tag="builtin"):
    """``Plan.builtins[index]``."""

    index: int


Core = CoreExport | Lowered | Builtin


class Options(msgspec.Struct, frozen=True, array_like=True):
    """The options of a lift or of a lowering ("canonopt")."""

    encoding: str = "utf8"
    memory: CoreExport | None = None
    realloc: Core | None = None
    post_return: Core | None = None


class Lifting(msgspec.Struct, frozen=True, array_like=True):
    """A core function as a component function."""

    owner: int
    """The component instance that it belongs to."""
    function: Core
    signature: Signature
    options: Options


class Lowering(msgspec.Struct, frozen=True, array_like=True):
    """A component function that core code of the component instance ``owner`` calls."""

    owner: int
    signature: Signature
    options: Options
    lifting: int | None
    """What it calls, in ``Plan.liftings``; ``None``: the import ``interface``, ``name``."""
    interface: str = ""
    name: str = ""


class BuiltinFunction(msgspec.Struct, frozen=True, array_like=True):
    """A function of the component model itself, all of whose values are ``i32``."""

    owner: int
    kind: str
    """``resource.new``, ``resource.rep``, ``resource.drop``, ``context.get``, ``context.set``, or
    the name of one that is not offered: calling it is a trap."""
    operand: int
    """The resource, or the place in the context."""
    params: int
    results: int


class Resource(msgspec.Struct, frozen=True, array_like=True):
    """A resource type: defined by the component instance ``owner``, or imported."""

    owner: int | None
    destructor: Core | None = None
    interface: str = ""
    name: str = ""


class Instantiation(msgspec.Struct, frozen=True, array_like=True):
    """One core instance."""

    module: int
    arguments: tuple[Core, ...]
    """One for each import of the module, in order."""


class Module(msgspec.Struct, frozen=True, array_like=True):
    """One core module, and where in the artifact its own artifact lies."""

    description: ModuleDescription
    offset: int
    size: int


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """All of it."""

    modules: tuple[Module, ...]
    instantiations: tuple[Instantiation, ...]
    liftings: tuple[Lifting, ...]
    lowerings: tuple[Lowering, ...]
    builtins: tuple[BuiltinFunction, ...]
    resources: tuple[Resource, ...]
    exports: tuple[tuple[str, int], ...]
    """Name, as a caller gives it, and place in ``liftings``."""
    several_images: bool = False
    """Whether more than one module puts data into a memory of its own."""
    bridge: int | None = None
    """The bridge to files (``bridge.py``) among the modules, where the component may use it."""


_decoder = msgspec.msgpack.Decoder(Plan)


def encode(plan: Plan) -> bytes:
    """The bytes of a plan."""
    return msgspec.msgpack.encode(plan)


def decode(data: bytes) -> Plan:
    """The plan that ``encode`` made bytes of."""
    return _decoder.decode(data)
