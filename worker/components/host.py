"""What a component may import: WASI 0.2, as far as it is granted, and what it was loaded with.

Each function is found by its name without the last part of its version: ``wasi:io/streams@0.2.0``
and ``@0.2.9`` are the same here, as the versions of WASI promise. Interfaces of WASI that are not
offered can be imported, for many guests do and never use them: calling them is a denial, as an
error of the function where its type has one that says so, or else as the end of the call.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from ...protocol import wit
from ...protocol.wit import Signature, World
from ..engines.interface import ComponentFunction, EngineRefusal, RunSettings, Wasi, shorten
from .file_calls import FileError
from .files import Files
from .http_fields import Fields
from .http_requests import Requests
from .http_responses import Responses
from .instance import HostFunction
from .offers import State
from .plan import Lowering, Plan, Resource
from .poll import Polls
from .shapes import Shapes
from .sockets import Sockets
from .sockets_tcp import TcpSockets
from .streams import Streams
from .wasi import System

_VERSION = re.compile(r"(wasi:[a-z-]+/[a-z-]+)@0\.2\.\d+")
_WITHHELD = ("wasi:http/", "wasi:sockets/", "wasi:clocks/timezone")
_DENIALS = ("access-denied", "HTTP-request-denied")
_LISTED = 8


class ComponentHost:
    """The host of one component's instances, one at a time."""

    def __init__(
        self,
        settings: RunSettings,
        woken: threading.Event,
        functions: Iterable[ComponentFunction] = (),
    ) -> None:
        self._given: dict[tuple[str, str], HostFunction] = {
            (each.interface, each.name): each.call for each in functions
        }
        self.state = State(settings, woken)
        self._offers: dict[tuple[str, str], tuple[str, HostFunction]] = {}
        for part in (
            Streams(self.state),
            Polls(self.state),
            System(self.state),
            Files(self.state),
            Fields(self.state),
            Requests(self.state),
            Responses(self.state),
            Sockets(self.state),
            TcpSockets(self.state),
        ):
            for name in dir(part):
                function = getattr(part, name)
                for interface, called, shape in getattr(function, "offers", ()):
                    serve = _telling(function) if isinstance(part, Files) else function
                    self._offers[interface, called] = shape, serve

    def begin(self, wasi: Wasi) -> None:
        """Make ready for the next instance."""
        self.state.begin(wasi)

    def end(self) -> None:
        """The instance is gone."""
        self.state.end()

    def drop(self, interface: str, name: str, representation: int) -> None:
        """The guest has dropped a resource."""
        given = self._given.get((interface, f"[resource-drop]{name}"))
        if given is not None:
            given(representation)
        else:
            self.state.objects.drop(representation)

    def provides(self, resource: Resource) -> bool:
        """Whether a resource is one of the program's."""
        return (resource.interface, f"[resource-drop]{resource.name}") in self._given

    def link(self, plan: Plan, world: World) -> list[HostFunction | None]:
        """The function for each lowering; ``None`` for those that are no imports.

        Raises:
            EngineRefusal: ``missing_import``, naming all that nothing here offers, or
                ``signature``, naming the first that is of another type here.
        """
        shapes = Shapes(world)
        missing = [lowering for lowering in plan.lowerings if self._is_missing(lowering)]
        if missing:
            raise self._missing(missing)
        return [
            None if lowering.lifting is not None else self._function(lowering, world, shapes)
            for lowering in plan.lowerings
        ]

    def _is_missing(self, lowering: Lowering) -> bool:
        interface = _unversioned(lowering.interface)
        return (
            lowering.lifting is None
            and (lowering.interface, lowering.name) not in self._given
            and (interface, lowering.name) not in self._offers
            and not interface.startswith(_WITHHELD)
        )

    def _function(self, lowering: Lowering, world: World, shapes: Shapes) -> HostFunction:
        given = self._given.get((lowering.interface, lowering.name))
        if given is not None:
            return given
        interface, name = _unversioned(lowering.interface), lowering.name
        offered = self._offers.get((interface, name))
        if offered is None:
            return _denial(lowering, world)
        shape, function = offered
        wanted = shapes.function(lowering.signature)
        if wanted != shape:
            raise EngineRefusal(
                "signature",
                f"the component imports {lowering.interface} {name} as {shorten(wanted, 200)}; "
                f"it is {shape}",
                "rebuild it with the WIT of WASI 0.2",
            )
        return function

    def _missing(self, missing: list[Lowering]) -> EngineRefusal:
        names = [f"{lowering.interface} {lowering.name}".strip() for lowering in missing[:_LISTED]]
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        listed = ", ".join(shorten(name, 100) for name in names)
        interface = _unversioned(missing[0].interface)
        hint = "components can import the interfaces of WASI 0.2, and what load(imports=) gives"
        near = get_close_matches(
            missing[0].name[:60], [name for of, name in self._offers if of == interface], n=2
        )
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        elif missing[0].interface.startswith("wasi:"):
            hint = "that is no interface of WASI 0.2"
        return EngineRefusal("missing_import", f"nothing here offers {listed}{more}", hint)


def _unversioned(interface: str) -> str:
    """The name without its version; ``""`` where it is none of WASI 0.2."""
    match = _VERSION.fullmatch(interface)
    return match.group(1) if match else ""


def _telling(function: HostFunction) -> HostFunction:
    """``function``, whose failures on files are its result."""

    def tell(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except FileError as error:
            return [1, error.code]

    return tell


def _denial(lowering: Lowering, world: World) -> HostFunction:
    """A function that says no, in the words of its own type where it has them."""
    denied = _denied(lowering.signature, world)
    what = f"{lowering.interface} {lowering.name}"

    def deny(*_: Any) -> Any:
        if denied is not None:
            return denied
        raise EngineRefusal(
            "capability_denied",
            f"the component called {what}, which is not granted to components",
            "docs/components.md lists what they can use",
        )

    return deny


def _denied(signature: Signature, world: World) -> list[Any] | None:
    kind = world.types[signature.result] if isinstance(signature.result, int) else None
    if not isinstance(kind, wit.Result) or not isinstance(kind.error, int):
        return None
    error = world.types[kind.error]
    for denial in _DENIALS:
        for place, name in enumerate(_plain_cases(error)):
            if name == denial:
                return [1, place if isinstance(error, wit.Enum) else [place, None]]
    return None


def _plain_cases(error: wit.Type) -> Iterator[str | None]:
    """The cases of an error, in order; ``None`` for one that has a payload."""
    match error:
        case wit.Enum(names):
            yield from names
        case wit.Variant(cases):
            yield from (name if payload is None else None for name, payload in cases)
        case _:
            return
