"""The functions and resources of this process that a component imports: ``load(imports=)``, typed
by its WIT world."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .granting import without_grants
from .guest_memory import memory_asked
from .import_names import DROP, Bindings, match, shown
from .imports import Given, HostFunction, Runner, bind, pickled
from .object_handles import giving, object_handle
from .protocol import wit
from .protocol.description import FunctionType
from .protocol.errors import SignatureMismatch, printable
from .protocol.messages import LentFunction
from .protocol.wit import NUMBERS, Ref, Signature
from .supervisor.imports import HostImport
from .supervisor.objects import ResourceKind
from .supervisor.requests import ModuleHandle
from .wit_converters import Converter, Handle, WitTypes
from .wit_host import HostWitCodec
from .wit_types import WitText
from .wit_values import Err, WitError


def link_component(given: Given, handle: ModuleHandle, runner: Runner) -> ModuleHandle:
    """A component with functions bound to its imports.

    Raises:
        MissingImport: it imports something that is not given, or a class lacks a method.
        ConfigurationError: something is given that it does not import, or cannot be used.
        SignatureMismatch: a function that cannot be called with what its import has, or has
            resources that the pool itself provides.
    """
    component = handle.description.component
    assert component is not None
    return _Linking(match(component.world, given), runner).done(handle)


class _Linking:
    """Binds what was found for each import of one world."""

    def __init__(self, wanted: Bindings, runner: Runner) -> None:
        self._world = world = wanted.world
        self._wanted = wanted
        self._runner = runner
        self._text = WitText(world)
        self._types = WitTypes(world, self._handle)
        self._kinds = {
            index: ResourceKind(
                shown(resource.places[0]).replace("#", "."), of=resource.of or object
            )
            for index, resource in wanted.resources.items()
        }
        self._handles: dict[tuple[int, bool], Converter] = {}
        self._giving = giving(world, self._kinds)

    def done(self, handle: ModuleHandle) -> ModuleHandle:
        """The component with all of it."""
        wanted = self._wanted
        here = [self._bound(name, function) for name, function in wanted.here.items()]
        for index in wanted.resources:
            here += self._drops(index)
        return replace(
            handle,
            imports=tuple(here),
            resources=self._kinds,
            lent=tuple([self._lent(name, helper) for name, helper in wanted.there.items()]),
            helpers=pickled(wanted.there) if wanted.there else b"",
        )

    # --- functions ------------------------------------------------------------------------------

    def _bound(self, name: tuple[str, str], function: HostFunction) -> HostImport:
        signature = self._wanted.signatures[name]
        given = without_grants(function.function, function.needs)
        _check_arity(name, given, signature, str(self._text.function(signature)))
        result = signature.result
        if isinstance(result, int) and isinstance(self._world.types[result], wit.Result):
            function = replace(function, function=_answering(function))
        try:
            codec = HostWitCodec(
                *name,
                [self._types.get(ref) for _, ref in signature.params],
                None if result is None else self._types.get(result),
                self._text.function(signature),
            )
        except SignatureMismatch as error:
            raise SignatureMismatch(f"{shown(name)}: {error.args[0]}", error.hint) from None
        return replace(bind(codec, function, self._runner), gives=result in self._giving)

    def _lent(self, name: tuple[str, str], helper: Callable[..., Any]) -> LentFunction:
        signature = self._wanted.signatures[name]
        text = str(self._text.function(signature))
        _check_arity(name, helper, signature, text)
        params = tuple([_number(ref) for _, ref in signature.params])
        results = () if signature.result is None else (_number(signature.result),)
        if not all((*params, *results)):
            raise SignatureMismatch(
                f"{shown(name)} runs in the worker, where only numbers are passed; it is {text}",
                "give it in imports=",
            )
        return LentFunction(*name, FunctionType(params, results), component=True)

    # --- resources ------------------------------------------------------------------------------

    def _handle(self, handle: Handle, text: str) -> Converter:
        kind = self._kinds.get(handle.resource)
        if kind is None:
            raise SignatureMismatch(
                f"{text} is a resource that the pool provides; it cannot be passed to your program"
            )
        key = handle.resource, isinstance(handle, wit.Own)
        made = self._handles.get(key)
        if made is None:
            made = self._handles[key] = object_handle(kind, handle)
        return made

    def _drops(self, index: int) -> Iterator[HostImport]:
        """What guests call to drop one, under each name that its type has."""
        resource, kind = self._wanted.resources[index], self._kinds[index]
        drop = resource.drop or HostFunction(_nothing, direct=True)
        converter = self._handle(wit.Own(index), kind.name)
        for interface, name in resource.places:
            text = self._text.function(Signature())
            codec = HostWitCodec(interface, f"{DROP}{name}", [converter], None, text)
            function = bind(codec, drop, self._runner)
            if resource.drop is not None:
                kind.drop = kind.drop or function
            yield function


def _nothing(_: object) -> None:
    """What dropping means where the program did not say."""


def _number(ref: Ref) -> str:
    return ref if isinstance(ref, str) and ref in NUMBERS else ""


def _answering(function: HostFunction) -> Callable[..., Any]:
    """The function, whose ``WitError`` is its result."""
    called = function.function
    if function.is_async:

        async def wait(*arguments: Any, **grants: Any) -> Any:
            try:
                return await called(*arguments, **grants)
            except WitError as error:
                return Err(error.error)

        return wait

    def call(*arguments: Any, **grants: Any) -> Any:
        try:
            return called(*arguments, **grants)
        except WitError as error:
            return Err(error.error)

    return call


def _check_arity(
    name: tuple[str, str], function: Callable[..., Any], signature: Signature, text: str
) -> None:
    try:
        known = inspect.signature(function)
    except (TypeError, ValueError):
        return  # built in: nothing is known of it
    with contextlib.suppress(Exception):  # of whatever annotations say: they mean little here
        known = inspect.signature(function, eval_str=True)
    if memory_asked(known) is not None:
        raise SignatureMismatch(
            f"the host function for {shown(name)} asks for its guest's memory: components have "
            "none to give",
            "it gets values of WIT",
        )
    try:
        known.bind(*signature.params)
    except TypeError as error:
        raise SignatureMismatch(
            f"the host function for {shown(name)} cannot be called as {printable(text)[:500]}: "
            f"{error}"
        ) from None
