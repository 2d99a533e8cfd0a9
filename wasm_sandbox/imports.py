"""The functions of this process that guests may call: ``load(imports=)``."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from .granting import check_takes_grants, keywords, own_grants, with_keywords, without_grants
from .guest_memory import WantsMemory
from .host_types import HostCodec
from .protocol.description import ExternFunction, FunctionType, Import, ModuleDescription
from .protocol.errors import (
    ConfigurationError,
    MissingImport,
    SignatureMismatch,
    printable,
)
from .protocol.fields import check_kind
from .protocol.grants import Need, Needs
from .protocol.limits import check_number
from .protocol.messages import LentFunction
from .supervisor.imports import HostImport, Raised, reaching
from .supervisor.rate import Rate
from .supervisor.requests import ModuleHandle

LONGEST_TIMEOUT = 3600.0
TIMEOUT = 10.0
RATE = 10_000.0
MOST_CALLS = 1e6
RESERVED = ("wasi_snapshot_preview1", "wasm_sandbox")
"""Import modules whose functions are the pool's own."""


@dataclass(frozen=True)
class HostFunction:
    """A function for ``load(imports=)``, with bounds of its own. A bare callable has the defaults.

    Args:
        function: a function or a coroutine function.
        timeout: seconds that one call of it may take, 0.001 to 3600; 10 by default. Then the guest
            is stopped and the caller gets a ``HostFunctionError``. A coroutine is cancelled; a
            thread cannot be, and what it still does is nobody's.
        rate: calls a second, averaged over a second and over all guests of the pool, 0.001 to
            1,000,000. A guest that calls more often waits.
        direct: call it in the pool's own thread (in ``open_pool``: in your trio run), without a
            thread of its own. Only for what takes microseconds and waits for nothing: nothing else
            happens meanwhile in the pool, and so it can have no ``timeout``.
        needs: custom capabilities without which it is not called, by name: ``bool``, ``str``,
            ``list``, or the bounds of a number, such as ``(1, 1000)``. It gets those of the call
            that calls it as its parameter ``grants``, a ``Grants``.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    function: Callable[..., Any]
    timeout: float | None = None
    rate: float = RATE
    direct: bool = False
    needs: Needs = dataclasses.field(default_factory=dict[str, Need], hash=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigurationError("HostFunction.function", self.function, "must be callable")
        check_number(
            "HostFunction.timeout", self.timeout, 0.001, LONGEST_TIMEOUT, whole=False, optional=True
        )
        check_number("HostFunction.rate", self.rate, 0.001, MOST_CALLS, whole=False)
        check_kind("HostFunction.direct", self.direct, bool)
        check_takes_grants(self.function, self.needs)
        if self.direct and self.timeout is not None:
            raise ConfigurationError(
                "HostFunction.timeout", self.timeout, "cannot be kept for a direct function"
            )
        if self.direct and self.is_async:
            raise ConfigurationError(
                "HostFunction.direct", self.direct, "is not for coroutine functions"
            )

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        called = getattr(self.function, "__call__", None)  # noqa: B004 - an object's may be one
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(called)


Imports = Mapping[
    str,
    Mapping[str, Callable[..., Any] | HostFunction] | Callable[..., Any] | HostFunction,
]
"""What ``load(imports=)`` takes: host functions by module, or interface, and name; of a component
also by name alone, for what its world itself imports."""

MAX_HELPERS = 1 << 18
"""Bytes of pickled functions: they travel in one frame."""

Name = tuple[str, str]
"""Module and name of an import."""
Answer = tuple[bytes, bytes]
T = TypeVar("T")
Work = Callable[[bytes, bytes], Answer]


class Runner(Protocol):
    """Where the host functions of a pool run. Each gives what ``HostImport.call`` wants."""

    def plain(self, work: Work) -> Callable[[bytes, bytes], Awaitable[Answer]]:
        """Call ``work`` in a thread."""
        ...

    def coroutine(
        self, work: Callable[[bytes, bytes], Awaitable[Answer]]
    ) -> Callable[[bytes, bytes], Awaitable[Answer]]:
        """Await ``work`` in its event loop."""
        ...

    async def wait(self, future: Future[T]) -> T:
        """In that loop: until ``future`` is done."""
        ...


class AnyCodec(Protocol):
    """Between an import and its function."""

    name: str
    shape: LentFunction

    @property
    def memory(self) -> WantsMemory | None:
        """What the function wants beside its arguments."""
        ...

    def unpack(self, slots: bytes, data: bytes) -> list[Any] | tuple[Any, ...]:
        """The arguments."""
        ...

    def pack(self, value: Any) -> Answer:
        """What the function returned."""
        ...


@dataclass(frozen=True)
class Given:
    """Functions by module and name: those that run here, and those that run in the worker."""

    here: Mapping[Name, HostFunction]
    there: Mapping[Name, Callable[..., Any]]
    bare: frozenset[str] = frozenset()
    """Those that were given without a module, whose module is ``""`` here."""

    def __bool__(self) -> bool:
        return bool(self.here or self.there)

    @property
    def functions(self) -> dict[Name, tuple[str, Callable[..., Any]]]:
        """All of them, with the keyword that gave each."""
        here = {
            name: ("imports", without_grants(each.function, each.needs))
            for name, each in self.here.items()
        }
        return here | {name: ("worker_imports", each) for name, each in self.there.items()}


def read_imports(imports: Imports | None, worker_imports: Imports | None = None) -> Given:
    """What is given, checked as far as it can be without the module.

    Raises:
        ConfigurationError: not functions by module and name, or in the name of what is the pool's.
    """
    here: dict[Name, HostFunction] = {}
    there: dict[Name, Callable[..., Any]] = {}
    bare = frozenset(
        name
        for each in (imports, worker_imports)
        if isinstance(each, Mapping)
        for name, functions in each.items()
        if not isinstance(functions, Mapping)
    )
    for name, field, function in _entries("load.imports", imports):
        if name in here:
            raise ConfigurationError(field, function, "is given twice")
        here[name] = HostFunction(function) if not isinstance(function, HostFunction) else function
    for name, field, function in _entries("load.worker_imports", worker_imports):
        if isinstance(function, HostFunction):
            raise ConfigurationError(
                field, function, "has bounds, and nothing keeps them in the worker", "give it bare"
            )
        if HostFunction(function).is_async:
            raise ConfigurationError(
                field, function, "is a coroutine function: a worker has no loop"
            )
        if name in here:
            raise ConfigurationError(field, function, "is in imports=, too")
        if name in there:
            raise ConfigurationError(field, function, "is given twice")
        there[name] = function
    return Given(here, there, bare)


def _entries(place: str, imports: Imports | None) -> Iterator[tuple[Name, str, Any]]:
    if imports is None:
        return
    check_kind(place, imports, Mapping)
    for module, functions in imports.items():
        check_kind(place, module, str)
        if not isinstance(functions, Mapping):
            if not isinstance(functions, HostFunction) and not callable(functions):
                check_kind(f"{place}[{module!r}]", functions, Mapping)
            yield ("", module), f"{place}[{module!r}]", functions
            continue
        for name, function in cast("Mapping[str, Any]", functions).items():
            check_kind(f"{place}[{module!r}]", name, str)
            field = f"{place}[{module!r}][{name!r}]"
            if module in RESERVED:
                raise ConfigurationError(field, function, f"{module} is offered by the pool itself")
            if not isinstance(function, HostFunction) and not callable(function):
                raise ConfigurationError(field, function, "must be callable")
            yield (module, name), field, function


def link_core(given: Given, handle: ModuleHandle, runner: Runner) -> ModuleHandle:
    """A core module with functions bound to its imports.

    Raises:
        MissingImport: it imports something that is not given.
        ConfigurationError: something is given that it does not import, or cannot be pickled.
        SignatureMismatch: a function that does not fit its import.
        MissingExport: a function takes buffers or the memory, and the module lacks what that needs.
    """
    description, functions = handle.description, given.functions
    for name in sorted(given.bare):
        raise ConfigurationError(
            f"load.imports[{name!r}]",
            name,
            "is a function by itself, and this is a core module",
            'give its import module, too: {"env": {"' + name + '": …}}',
        )
    types = _types(given, description)
    codecs = {
        name: HostCodec(*name, types[name], function, description)
        for name, (_, function) in functions.items()
    }
    there = tuple(codecs[name].shape for name in given.there)
    for shape in there:
        if shape.buffers or shape.result or codecs[shape.module, shape.name].memory:
            raise SignatureMismatch(
                f"{shape.module}.{shape.name} runs in the worker, where only numbers are passed",
                "give it in imports=",
            )
    return replace(
        handle,
        imports=tuple(
            bind(codecs[name], function, runner) for name, function in given.here.items()
        ),
        lent=there,
        helpers=pickled(given.there) if there else b"",
    )


def _types(given: Given, description: ModuleDescription) -> dict[Name, FunctionType]:
    functions = given.functions
    needed = [each for each in description.imports if each.module not in RESERVED]
    missing = [each for each in needed if (each.module, each.name) not in functions]
    if missing:
        raise _missing(missing, functions)
    types: dict[Name, FunctionType] = {}
    for each in needed:
        if not isinstance(each.type, ExternFunction):
            kind = type(each.type).__name__.removeprefix("Extern").lower()
            raise SignatureMismatch(f"it imports {_name(each)} as a {kind}, not as a function")
        known = types.setdefault((each.module, each.name), each.type.type)
        if known != each.type.type:
            raise SignatureMismatch(
                f"it imports {_name(each)} twice, as {known} and as {each.type.type}"
            )
    for (module, name), (keyword, function) in functions.items():
        if (module, name) not in types:
            near = difflib.get_close_matches(name, [n[:60] for _, n in types][:1000], 2)
            raise ConfigurationError(
                f"load.{keyword}[{module!r}][{name!r}]",
                function,
                "the module imports no such function",
                printable(f"did you mean {' or '.join(near)}?" if near else _list(types)),
            )
    return types


def pickled(functions: Mapping[Name, Callable[..., Any]]) -> bytes:
    """Functions for the worker, as bytes.

    Raises:
        ConfigurationError: they cannot be pickled, or are too large.
    """
    import dill

    try:
        data: bytes = dill.dumps(dict(functions), recurse=True)
    except Exception as error:  # of whatever objects they refer to
        raise ConfigurationError(
            "load.worker_imports", list(functions), f"cannot be pickled: {error}"
        ) from error
    if len(data) > MAX_HELPERS:
        raise ConfigurationError(
            "load.worker_imports",
            list(functions),
            f"take {len(data):,} bytes pickled, and {MAX_HELPERS:,} may be sent",
            "have them import what is large",
        )
    return data


def bind(codec: AnyCodec, function: HostFunction, runner: Runner) -> HostImport:
    """An import of a module's, bound to a function.

    Raises:
        ConfigurationError, SignatureMismatch: it asks for its guest's memory and could not use it.
    """
    wanted, memory = function.function, codec.memory
    makers: dict[str, Callable[[], object]] = {"grants": own_grants} if function.needs else {}
    if memory is not None:
        memory.check(codec.name, is_async=function.is_async, direct=function.direct)
        makers["memory"] = lambda: memory.make(reaching.get(), runner.wait)
    if function.is_async:

        async def wait(slots: bytes, data: bytes) -> Answer:
            return codec.pack(await wanted(*codec.unpack(slots, data), **keywords(slots)))

        call = runner.coroutine(wait)
    else:

        def work(slots: bytes, data: bytes) -> Answer:
            try:
                value = wanted(*codec.unpack(slots, data), **keywords(slots))
            except StopIteration as error:
                raise Raised from error
            if inspect.iscoroutine(value):
                value.close()
                raise SignatureMismatch(
                    f"{codec.name}: returned a coroutine", "declare it with `async def`"
                )
            return codec.pack(value)

        call = _directly(work) if function.direct else runner.plain(work)
    return HostImport(
        shape=codec.shape,
        timeout=TIMEOUT if function.timeout is None else function.timeout,
        rate=Rate(function.rate),
        needs=dict(function.needs),
        memory=memory is not None,
        call=with_keywords(call, makers),
    )


def _directly(work: Work) -> Callable[[bytes, bytes], Awaitable[Answer]]:
    async def call(slots: bytes, data: bytes) -> Answer:
        return work(slots, data)

    return call


def _missing(missing: list[Import], given: Iterable[Name]) -> MissingImport:
    listed = ", ".join(f"{_name(each)} {_type(each)}" for each in missing[:8])
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    names = [f"{module}.{name}" for module, name in given]
    near = difflib.get_close_matches(_name(missing[0]), names, 2)
    hint = f"imports= has {' and '.join(near)}" if near else ""
    return MissingImport(f"it imports what imports= does not give: {listed}{more}", hint)


def _list(needed: Iterable[Name]) -> str:
    names = ", ".join(f"{module[:60]}.{name[:60]}" for module, name in [*needed][:8])
    return f"it imports {names}" if names else "it imports nothing of yours"


def _name(needed: Import) -> str:
    """As errors write it: the guest chose it."""
    return printable(f"{needed.module[:60]}.{needed.name[:60]}")


def _type(needed: Import) -> str:
    kind = needed.type
    if isinstance(kind, ExternFunction):
        return str(kind.type)
    return f"(a {type(kind).__name__.removeprefix('Extern').lower()})"
