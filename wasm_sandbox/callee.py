"""What both faces share of an instance: its settings checked, its calls made, its reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .calls import OutputGuard, build_request, environment
from .configuration import MAILBOX, RESTART, check_choice
from .function import Function
from .granting import check_options
from .module import Module
from .options import OnOutput, Options
from .protocol.capabilities import Capabilities
from .protocol.description import ExternGlobal, ExternMemory, FunctionType, GlobalType
from .protocol.errors import ConfigurationError, MissingExport, UnsupportedModule
from .protocol.fields import check_callable, check_kind
from .protocol.limits import Limits, check_number
from .protocol.messages import Freeze, ReadGlobal, ReadMemory, ToWorker
from .protocol.policies import RestartPolicy, RestartType
from .snapshot import Snapshot
from .supervisor.requests import CallRequest, Outcome
from .values import BYTES_LIKE, Codec, Returns, content_of
from .waiting import outcome_of

if TYPE_CHECKING:
    from .supervisor.actor import Actor, ActorOptions, Hook

_log = logging.getLogger("wasm_sandbox")
_REMEMBERED = 100
Extern = TypeVar("Extern", ExternMemory, ExternGlobal)


def of_kind(value: object, kind: type[object] | tuple[type[object], ...]) -> bool:
    """Whether a caller gave what the types say."""
    return isinstance(value, kind)


class Settings:
    """The keywords of ``Pool.instance``; their meanings are in its docstring.

    Raises:
        TypeError: no ``Module``.
        ConfigurationError: a module of another pool, or a value that cannot be used.
    """

    def __init__(
        self,
        pool: object,
        module: Module,
        *,
        restart: RestartType = "transient",
        policy: RestartPolicy = RESTART,
        limits: Limits | None = None,
        capabilities: Capabilities | None = None,
        tenant: str | None = None,
        mailbox: int = MAILBOX,
        on_restart: Callable[..., object] | None = None,
        on_output: OnOutput | None = None,
    ) -> None:
        if not of_kind(module, Module):
            raise TypeError(
                f"instance takes a Module, such as pool.load('counter.wasm'), not {module!r}"
            )
        if module.owner is not pool:
            raise ConfigurationError(
                "instance.module", module, "belongs to another pool", "load it with this pool"
            )
        check_choice("instance.restart", restart, ("permanent", "transient", "temporary"))
        check_kind("instance.policy", policy, RestartPolicy)
        check_number("instance.mailbox", mailbox, 1, 1 << 31, whole=True)
        for name, function in (("on_restart", on_restart), ("on_output", on_output)):
            if function is not None:
                check_callable(f"instance.{name}", function)
        self.module = module
        self.on_output = on_output
        self.given: dict[str, Any] = {
            name: value
            for name, value in (
                ("limits", limits),
                ("capabilities", capabilities),
                ("tenant", tenant),
            )
            if value is not None
        }
        configuration = module.owner.configuration
        self._options = Options(
            limits=configuration.limits, capabilities=configuration.capabilities
        ).change(self.given, command=False)
        check_options(self._options, module.handle)
        self._restart: RestartType = restart
        self._policy = policy
        self.mailbox = mailbox

    def actor_options(self, hook: Hook | None) -> ActorOptions:
        """What the supervisor is asked for."""
        from .supervisor.actor import ActorOptions

        module, options = self.module, self._options
        return ActorOptions(
            module=module.handle,
            name=module.name,
            limits=options.limits,
            capabilities=options.capabilities,
            tenant=options.tenant,
            env=environment(module, options.capabilities),
            restart=self._restart,
            policy=self._policy,
            on_restart=hook,
            on_output=None if self.on_output is None else _Logging(self.on_output),
        )


class Callee:
    """Makes the calls of one instance; ``first`` is for those of ``on_restart``."""

    def __init__(self, actor: Actor, settings: Settings, *, first: bool = False) -> None:
        self.actor = actor
        self.first = first
        self.cancel = actor.cancel
        self.module = settings.module
        self._on_output = settings.on_output
        self._given = settings.given
        self._functions: dict[tuple[str, Returns, float | None], Function] = {}

    def function(self, name: str, returns: Returns, timeout: float | None) -> Function:
        """The function that is called.

        Raises:
            MissingExport, SignatureMismatch, ConfigurationError: it cannot be, or not so.
        """
        lasting = all(isinstance(each, Hashable) for each in (name, returns, timeout))
        key = (name, returns, timeout) if lasting and not isinstance(returns, memoryview) else None
        found = None if key is None else self._functions.get(key)
        if found is None:
            found = self.module.kept_function(name).options(
                returns=returns, timeout=timeout, **self._given
            )
            if found.is_command:
                raise ConfigurationError(
                    "instance.call", name, "is a command", "pool.run runs it, in a fresh instance"
                )
            if len(self._functions) >= _REMEMBERED:
                self._functions.clear()
            if key is not None:
                self._functions[key] = found
        return found

    def request(
        self, function: Function, args: tuple[Any, ...], *, waits: bool = False
    ) -> CallRequest:
        """The request for a call: as ``build_request``.

        Raises:
            PoolError: the caller ``waits``, and the instance waits for the caller.
        """
        if waits:
            self.actor.check_may_wait(first=self.first)
        request = build_request(function, args, waits=waits)
        request.profile, request.env = self.actor.profile, ()
        if self._on_output is not None:
            request.on_output = OutputGuard(self._on_output)
        return request

    def submit(
        self,
        request: CallRequest,
        done: Callable[[Outcome], None],
        message: Callable[[int], ToWorker] | None = None,
    ) -> None:
        """Put a call, or what is sent instead of one, into the mailbox."""
        self.actor.submit(request, done, message=message, first=self.first)

    async def read_memory(self, name: str, start: int, length: int) -> bytes:
        """A copy of a part of an exported memory.

        Raises:
            MissingExport: there is none.
            ConfigurationError: a place or a length that none has.
            SandboxError: as for calls.
        """
        from .supervisor.session import ALONE

        self._check_export(name, ExternMemory, "memory")
        check_number("memory.start", start, 0, (1 << 63) - 1, whole=True)
        check_number("memory.length", length, 0, (1 << 63) - 1, whole=True)
        options = self.actor.options
        length = min(length, options.limits.memory)
        request = self._read(name, msgspec.structs.replace(options.limits, output=length))
        request.returns_buffer = True
        outcome = await self._outcome(
            request, lambda number: ReadMemory(number, ALONE, name, start, length)
        )
        return bytes(outcome.data or b"")

    async def write_memory(self, name: str, start: int, data: bytes | memoryview) -> None:
        """Put bytes into an exported memory.

        Raises:
            MissingExport: there is none.
            ConfigurationError: a place that none has, or no bytes.
            Trap: they would not all lie in it.
            SandboxError: as for calls.
        """
        from .supervisor.orders import writing
        from .supervisor.session import ALONE

        self._check_export(name, ExternMemory, "memory")
        check_number("write_memory.start", start, 0, (1 << 63) - 1, whole=True)
        request = self._read(name, self.actor.options.limits)
        request.buffers = ((0, data),)
        await self._outcome(request, writing(request, ALONE, start))

    async def read_global(self, name: str) -> Any:
        """The value of an exported global.

        Raises:
            MissingExport: there is none.
            SignatureMismatch: it is a reference.
            SandboxError: as for calls.
        """
        from .supervisor.session import ALONE

        kind = self._check_export(name, ExternGlobal, "global").type
        assert isinstance(kind, GlobalType)
        codec = Codec(name, FunctionType((), (kind.value,)))
        request = self._read(name, self.actor.options.limits)
        request.results = 1
        outcome = await self._outcome(request, lambda number: ReadGlobal(number, ALONE, name))
        return codec.unpack(outcome.slots)

    async def snapshot(self) -> Snapshot:
        """A module of the state as it is in turn with the calls.

        Raises:
            UnsupportedModule: it has state that cannot be carried over.
            CompilationLimit: larger than ``Limits.module_size``.
            SandboxError: as for calls.
        """
        from .supervisor.orders import arguments
        from .supervisor.session import ALONE

        if self.module.description.component is not None:
            raise UnsupportedModule(
                f"{self.module.name} is a component: there can be no snapshot",
                "make the state again with on_restart",
            )
        source, most = self.module.handle.source, self.module.handle.limits.module_size
        limits = self.actor.options.limits
        request = self._read("snapshot", msgspec.structs.replace(limits, output=most))
        request.returns_buffer = True
        request.buffers = ((0, source),)
        (argument,) = arguments(request.buffers)
        outcome = await self._outcome(request, lambda number: Freeze(number, ALONE, argument, most))
        return Snapshot(self.module.name, outcome.data or b"")

    async def _outcome(self, request: CallRequest, message: Callable[[int], ToWorker]) -> Outcome:
        self.actor.check_may_wait(first=self.first)
        outcome = await outcome_of(_Reader(self, message), request)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def _read(self, name: str, limits: Limits) -> CallRequest:
        return CallRequest(
            module=self.module.handle, profile=self.actor.profile, limits=limits, export=name
        )

    def _check_export(self, name: str, kind: type[Extern], what: str) -> Extern:
        for export in self.module.description.exports:
            if export.name == name and isinstance(export.type, kind):
                return export.type
        raise MissingExport(f"{self.module.name}: there is no exported {what} {name!r}")


def bytes_of(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """What ``write_memory`` is given; made in the caller's thread, as it may be large.

    Raises:
        ConfigurationError: it is none of these.
    """
    if not of_kind(data, BYTES_LIKE):
        raise ConfigurationError("write_memory.data", data, "must be bytes, bytearray, memoryview")
    return content_of(data)


class _Reader:
    """Takes what is no call of a function."""

    def __init__(self, callee: Callee, message: Callable[[int], ToWorker]) -> None:
        self._callee = callee
        self._message = message
        self.cancel = callee.cancel

    def submit(self, request: CallRequest, done: Callable[[Outcome], None]) -> None:
        """Put it into the mailbox."""
        self._callee.submit(request, done, self._message)


class _Logging:
    """Carries what a guest writes while it starts: nobody's call can fail for it."""

    def __init__(self, wanted: OnOutput) -> None:
        self._wanted = wanted

    def __call__(self, stream: int, data: bytes) -> None:
        try:
            self._wanted(stream, data)
        except BaseException:  # the user's; it must not end the pool
            _log.exception("on_output failed while an instance started")
