"""Which of a component's imports each thing is for that ``load(imports=)`` was given."""

from __future__ import annotations

import difflib
import functools
import inspect
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .imports import Given, HostFunction, Name
from .protocol.errors import ConfigurationError, MissingImport, printable
from .protocol.wit import Interface, Signature, World
from .wit_types import WitText

DROP = "[resource-drop]"
"""Before the name of a resource: the name of the function that drops one."""
_OWN = re.compile(r"wasi:(cli|clocks|filesystem|http|io|random|sockets)/.*")
"""Interfaces that the pool itself offers, or withholds."""
_MEMBER = re.compile(r"\[(constructor|method|static)\]([^.]+)(?:\.(.+))?")
_LISTED = 8


@dataclass(eq=False)
class HostResource:
    """A type of resources that the program provides."""

    places: list[Name] = field(default_factory=list[Name])
    """Interface and name, in each interface that has it."""
    of: type[Any] | None = None
    drop: HostFunction | None = None


@dataclass(eq=False)
class Bindings:
    """What was given, by the imports of one world."""

    world: World
    here: dict[Name, HostFunction] = field(default_factory=dict[Name, HostFunction])
    there: dict[Name, Callable[..., Any]] = field(default_factory=dict[Name, Callable[..., Any]])
    signatures: dict[Name, Signature] = field(default_factory=dict[Name, Signature])
    """Of all that must be given."""
    resources: dict[int, HostResource] = field(default_factory=dict[int, HostResource])


def shown(name: Name) -> str:
    """An import as errors write it: the guest chose it."""
    interface, function = name
    return printable(f"{interface[:100]}#{function[:60]}" if interface else function[:60])


def match(world: World, given: Given) -> Bindings:
    """Find out what each thing is for.

    Raises:
        MissingImport: the component imports something that is not given, or a class lacks a method.
        ConfigurationError: something is given that it does not import, or twice, or no class where
            a resource belongs.
    """
    return _Matching(world, given).bindings


class _Matching:
    def __init__(self, world: World, given: Given) -> None:
        self._given = given
        self._text = WitText(world)
        self._interfaces = {each.name: each for each in world.imports if not _is_own(each.name)}
        self._superfluous: list[tuple[str, Name, object]] = []
        self.bindings = bindings = Bindings(world)
        own = {index for each in world.imports if _is_own(each.name) for _, index in each.resources}
        for interface in self._interfaces.values():
            bindings.signatures |= {(interface.name, n): type_ for n, type_ in interface.functions}
            for name, index in interface.resources:
                if index not in own:
                    resource = bindings.resources.setdefault(index, HostResource())
                    resource.places.append((interface.name, name))
        for key, function in given.here.items():
            self._add(self._field("imports", key), key, function)
        for key, helper in given.there.items():
            self._add_helper(self._field("worker_imports", key), key, helper)
        self._check()

    def _field(self, keyword_: str, name: Name) -> str:
        module, function = name
        if not module and function in self._given.bare:
            return f"load.{keyword_}[{function!r}]"
        return f"load.{keyword_}[{module!r}][{function!r}]"

    # --- what each thing is for -----------------------------------------------------------------

    def _add(self, place: str, name: Name, function: HostFunction) -> None:
        interface = self._interface(place, name, function.function)
        if interface is None:
            self._superfluous.append((place, name, function.function))
            return
        found = _spelled(name[1], dict(interface.functions))
        if found is not None:
            self._put(place, (interface.name, found), function)
            return
        drops = name[1].startswith(DROP)
        resource = _spelled(name[1].removeprefix(DROP), dict(interface.resources))
        known = self.bindings.resources.get(dict(interface.resources).get(resource or "", -1))
        if resource is None or known is None:
            self._superfluous.append((place, name, function.function))
        elif drops:
            self._put_drop(place, known, function)
        else:
            self._put_class(place, interface, resource, known, function)

    def _add_helper(self, place: str, name: Name, helper: Callable[..., Any]) -> None:
        interface = self._interface(place, name, helper)
        found = None if interface is None else _spelled(name[1], dict(interface.functions))
        if interface is None or found is None:
            self._superfluous.append((place, name, helper))
            return
        self._check_once(place, (interface.name, found), helper)
        self.bindings.there[interface.name, found] = helper

    def _interface(self, place: str, name: Name, function: object) -> Interface | None:
        wanted = name[0]
        found = self._interfaces.get(wanted)
        if found is not None or not wanted:
            return found
        if _is_own(wanted):
            raise ConfigurationError(
                place, function, f"{wanted} is offered by the pool itself", "see docs/components.md"
            )
        fitting = [each for each in self._interfaces if each.partition("@")[0] == wanted]
        if len(fitting) > 1:
            raise ConfigurationError(
                place,
                function,
                "the component imports that interface in several versions",
                printable(f"give {' and '.join(fitting)}"),
            )
        return self._interfaces[fitting[0]] if fitting else None

    def _put(self, place: str, name: Name, function: HostFunction) -> None:
        self._check_once(place, name, function.function)
        self.bindings.here[name] = function

    def _check_once(self, place: str, name: Name, function: object) -> None:
        if name in self.bindings.here or name in self.bindings.there:
            raise ConfigurationError(place, function, f"gives {shown(name)} a second time")

    # --- resources ------------------------------------------------------------------------------

    def _put_drop(self, place: str, resource: HostResource, function: HostFunction) -> None:
        if resource.drop is not None:
            raise ConfigurationError(place, function.function, "is given twice")
        if function.needs:
            raise ConfigurationError(
                place, dict(function.needs), "dropping is done for everybody, whatever is granted"
            )
        resource.drop = function

    def _put_class(
        self,
        place: str,
        interface: Interface,
        name: str,
        resource: HostResource,
        function: HostFunction,
    ) -> None:
        given = function.function
        if not isinstance(given, type):
            raise ConfigurationError(
                place, given, "is for a resource, and is no class", "see docs/components.md"
            )
        if resource.of is not None:
            raise ConfigurationError(place, given, "is given twice")
        resource.of = given
        for full, _ in interface.functions:
            kind, owner, member = _member(full)
            if owner != name:
                continue
            made = _construct(given)
            if kind != "constructor":
                attribute = self._attribute(given, member, (interface.name, full))
                static = kind == "static"
                made = getattr(given, attribute) if static else _method(given, attribute)
            self._put(place, (interface.name, full), replace(function, function=made))
        if callable(getattr(given, "close", None)):
            drop = replace(function, function=_method(given, "close"), needs={})
            self._put_drop(place, resource, drop)

    def _attribute(self, given: type[Any], member: str, name: Name) -> str:
        attribute = member.replace("-", "_")
        attribute += "_" * keyword.iskeyword(attribute)
        if callable(getattr(given, attribute, None)):
            return attribute
        near = difflib.get_close_matches(attribute, [n for n in dir(given) if n[0] != "_"], 2)
        raise MissingImport(
            f"it imports {self._typed(name)}, and the class {given.__name__} has no method "
            f"{printable(attribute[:60])}",
            f"did you mean {' or '.join(near)}?" if near else "",
        )

    # --- what is too little and what is too much ------------------------------------------------

    def _check(self) -> None:
        bindings = self.bindings
        missing = [
            name
            for name in bindings.signatures
            if name not in bindings.here and name not in bindings.there
        ]
        if missing:
            listed = ", ".join(self._typed(name) for name in missing[:_LISTED])
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            near = _near(missing[0], [name for _, name, _ in self._superfluous])
            raise MissingImport(
                f"it imports what imports= does not give: {listed}{more}",
                f"imports= has {' and '.join(near)}" if near else "",
            )
        for place, name, function in self._superfluous:
            known = [*bindings.signatures]
            near = _near(name, known[:1000])
            hint = f"did you mean {' or '.join(near)}?"
            if not near:
                listed = ", ".join(map(shown, known[:_LISTED]))
                hint = f"it imports {listed}" if known else "it imports nothing of yours"
            raise ConfigurationError(place, function, "the component imports no such thing", hint)

    def _typed(self, name: Name) -> str:
        kind = self._text.function(self.bindings.signatures[name])
        return printable(f"{shown(name)}: {str(kind)[:200]}")


def _is_own(interface: str) -> bool:
    return _OWN.fullmatch(interface) is not None


def _spelled(name: str, known: Mapping[str, object]) -> str | None:
    """The name that is meant: WIT's own, or the same with underscores, as Python has it."""
    return next((each for each in (name, name.replace("_", "-")) if each in known), None)


def _near(name: Name, known: list[Name]) -> list[str]:
    """What may have been meant: in the same interface, if any is, by the function's name alone."""
    interface = name[0].partition("@")[0]
    same = {each[1]: shown(each) for each in known if each[0].partition("@")[0] == interface}
    if same:
        return [same[each] for each in difflib.get_close_matches(name[1], same, 2)]
    return difflib.get_close_matches(shown(name), map(shown, known), 2)


def _member(full: str) -> tuple[str, str, str]:
    """("method", "connection", "query") for ``[method]connection.query``."""
    found = _MEMBER.fullmatch(full)
    return ("", "", "") if found is None else (found[1], found[2], found[3] or "")


def _construct(of: type[Any]) -> Callable[..., Any]:
    @functools.wraps(of, updated=())
    def construct(*arguments: Any, **grants: Any) -> Any:
        return of(*arguments, **grants)

    return construct


def _method(of: type[Any], name: str) -> Callable[..., Any]:
    """A method by its name, so that a subclass may have its own."""
    method = getattr(of, name)

    @functools.wraps(method)
    def call(thing: Any, *arguments: Any, **grants: Any) -> Any:
        return getattr(thing, name)(*arguments, **grants)

    @functools.wraps(method)
    async def wait(thing: Any, *arguments: Any, **grants: Any) -> Any:
        return await getattr(thing, name)(*arguments, **grants)

    return wait if inspect.iscoroutinefunction(method) else call
