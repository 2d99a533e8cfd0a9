"""What both faces share: arguments become a request, an outcome becomes a value or an error."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import msgspec

from .function import Function, refuse_keywords
from .module import Module
from .options import OnOutput, descriptor_of
from .protocol.capabilities import Capabilities
from .protocol.errors import (
    ConfigurationError,
    GuestExit,
    MissingExport,
    QueueFull,
    SandboxError,
    SignatureMismatch,
)
from .protocol.receipts import Receipt
from .supervisor.imports import serving
from .supervisor.objects import Luggage
from .supervisor.requests import CallRequest, CommandRequest, Outcome
from .values import Codec, show
from .wit_codec import WitCodec


class CompletedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a WASI command."""

    exit_code: int
    """As the command gave it: 0 to 2**32 - 1."""
    stdout: bytes
    stderr: bytes
    receipt: Receipt


def build_request(function: Function, args: tuple[Any, ...], *, waits: bool = False) -> CallRequest:
    """The request for a call; ``waits``: for which the caller does nothing but wait.

    Raises:
        SignatureMismatch: the arguments do not fit.
        MissingExport: buffers are passed, and the module lacks what that needs.
    """
    codec = function.codec
    parent = serving.get() if waits else None
    if function.is_command:
        return function.draft(command=_command(function, args), parent=parent)
    if isinstance(codec, WitCodec) and codec.passes_objects:
        luggage = Luggage(codec.unpack if codec.gives_objects else None)
        slots, buffers = luggage.pack(partial(codec.pack, args))
        return function.draft(slots=slots, buffers=buffers, parent=parent, luggage=luggage)
    slots, buffers = codec.pack(args)
    if buffers and isinstance(codec, Codec) and (lacks := function.module.lacks_for_buffers):
        # Arguments before the first buffer take one parameter each: its slot is its place.
        first = buffers[0][0]
        raise _no_convention(function, f"take argument {first + 1}, {show(args[first])}", lacks)
    return function.draft(slots=slots, buffers=buffers, parent=parent)


def draft_of(function: Function) -> Callable[..., CallRequest]:
    """What makes a request of what one call has of its own; the rest is looked up once.

    Raises:
        MissingExport: a result is to be read as a buffer, and the module has no memory.
    """
    options, codec, module = function.settings, function.codec, function.module
    returns_buffer, results = options.returns is not None, 0
    if isinstance(codec, WitCodec):
        returns_buffer = not function.is_command
    elif not function.is_command:
        results = len(codec.type.results)
        if returns_buffer and "memory" in module.lacks_for_buffers:
            raise _no_convention(function, "return a buffer", ("memory",))
    draft = partial(
        CallRequest,
        module=module.handle,
        profile=function.profile,
        limits=options.limits,
        export=function.name,
        results=results,
        returns_buffer=returns_buffer,
        into=options.returns if isinstance(options.returns, memoryview) else None,
        timeout=options.timeout,
        retries=options.retries,
    )
    guarded, wants = options.on_output, not function.is_command and wants_environment(module)
    if guarded is None and not (wants and options.capabilities.environment.kind != "none"):
        return draft

    def with_more(**own: Any) -> CallRequest:
        """With what is of its moment."""
        return draft(
            env=environment(module, options.capabilities) if wants else (),
            on_output=None if guarded is None else OutputGuard(guarded),
            **own,
        )

    return with_more


def _command(function: Function, args: tuple[Any, ...]) -> CommandRequest:
    options = function.settings
    argv0 = options.argv0 if options.argv0 is not None else function.module.name
    variables = options.env
    if variables is None:
        variables = options.capabilities.environment.select(dict(os.environ))
    # Asked anew: the number of a file that was closed may be another's by now.
    descriptor = None if isinstance(options.stdin, bytes) else descriptor_of(options.stdin_owner)
    return CommandRequest(
        argv=(os.fsencode(argv0), *(_argument(at, arg) for at, arg in enumerate(args, 1))),
        env=_encoded(variables),
        stdin=options.stdin if isinstance(options.stdin, bytes) else b"",
        stdin_descriptor=descriptor,
    )


def environment(module: Module, capabilities: Capabilities) -> tuple[tuple[bytes, bytes], ...]:
    """What a module that imports WASI sees when one of its functions is called that is no
    command."""
    granted = capabilities.environment
    if granted.kind == "none" or not wants_environment(module):
        return ()
    return _encoded(granted.select(dict(os.environ)))


def wants_environment(module: Module) -> bool:
    """Whether functions of a module could see it at all."""
    description = module.description
    if description.component is not None:
        imported = description.component.world.imports
        return any(each.name.startswith("wasi:cli/environment@") for each in imported)
    return any(needed.module == "wasi_snapshot_preview1" for needed in description.imports)


def _encoded(variables: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((os.fsencode(name), os.fsencode(value)) for name, value in variables)


def _argument(at: int, arg: Any) -> bytes:
    if not isinstance(arg, (str, bytes)) and not hasattr(arg, "__fspath__"):
        raise SignatureMismatch(
            f"argument {at} of a command must be str, bytes or a path, not {type(arg).__name__}",
            "use str(value)",
        )
    try:
        encoded = os.fsencode(arg)
    except UnicodeEncodeError:
        raise SignatureMismatch(f"argument {at} of a command is no valid text") from None
    if b"\0" in encoded:
        raise SignatureMismatch(f"argument {at} of a command holds a NUL character")
    return encoded


def _no_convention(function: Function, use: str, lacks: tuple[str, ...]) -> MissingExport:
    module = function.module
    return MissingExport(
        f"{function.name} cannot {use}: {module.name} does not export {' and '.join(lacks)}",
        "see the buffer convention in docs/api.md",
    )


class OutputGuard:
    """Carries a guest's output to the user's function, and stops the guest where that raises."""

    def __init__(self, wanted: OnOutput) -> None:
        self._wanted = wanted
        self.stop: Callable[[], object] = lambda: None
        """Stops the guest; set by the pool that runs it."""
        self.error: BaseException | None = None
        """What the user's function raised."""

    def __call__(self, stream: int, data: bytes) -> None:
        if self.error is None:
            try:
                self._wanted(stream, data)
            except BaseException as error:  # the caller's own, whatever it is: it goes back there
                self.error = error
                self.stop()


def conclude(
    function: Function, request: CallRequest, outcome: Outcome
) -> tuple[Any, None] | tuple[None, BaseException]:
    """The value of a call that ended, or its error."""
    guard = request.on_output
    if isinstance(guard, OutputGuard) and guard.error is not None:
        return None, guard.error
    error = outcome.error
    if request.command is not None and (error is None or isinstance(error, GuestExit)):
        return CompletedRun(
            exit_code=error.code if error is not None else outcome.exit_code or 0,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            receipt=outcome.receipt,
        ), None
    if error is None and outcome.filled is not None:
        return outcome.filled, None
    luggage = request.luggage
    if error is None and luggage is not None and luggage.unpack is not None:
        if luggage.error is None:
            return luggage.value, None
        error = luggage.error
    if error is None:
        try:
            returns = function.settings.returns
            return function.codec.unpack(outcome.slots, outcome.data, returns), None
        except SandboxError as bad:
            error = bad
    return None, with_receipt(error, outcome.receipt)


def with_receipt(error: SandboxError, receipt: Receipt) -> SandboxError:
    """``error`` for one call; a copy where the same error goes to several."""
    if error.receipt is not None and error.receipt is not receipt:
        error = copy.copy(error)
    error.receipt = receipt
    return error


def checked(run: CompletedRun, check: bool) -> CompletedRun:
    """``run``, unless ``check`` and it failed.

    Raises:
        GuestExit: the exit code is not 0.
    """
    if check and run.exit_code:
        raise with_receipt(GuestExit(run.exit_code, run.stderr), run.receipt)
    return run


def check_owner(
    pool: object, function: object, verb: str, keywords: Mapping[str, object] = MappingProxyType({})
) -> Function:
    """``function``, where it is one of ``pool``'s, and called without ``keywords``.

    Raises:
        TypeError: it is no ``Function``; says what to pass.
        SignatureMismatch: there are ``keywords``.
        ConfigurationError: it is of another pool.
    """
    if not isinstance(function, Function):
        given = f"module {function.name}" if isinstance(function, Module) else repr(function)
        remedy = (
            "choose one of its functions, module['name'] or module.main"
            if isinstance(function, Module)
            else "for Python code there is concurrent.futures.ProcessPoolExecutor"
        )
        raise TypeError(
            f"{verb} takes a Function, such as pool.load('calc.wasm')['add'], not {given}; {remedy}"
        )
    if function.module.owner is not pool:
        raise ConfigurationError(
            "function", function, "belongs to another pool", "load its module with this pool"
        )
    refuse_keywords(function, keywords)
    return function


def main_of(app: object, **options: Any) -> Function:
    """The command of ``app`` with those ``options`` that are not ``None``.

    Raises:
        MissingExport: it is no command.
        ConfigurationError: an option that cannot be used.
    """
    main = app.main if isinstance(app, Module) else app
    if not isinstance(main, Function) or not main.is_command:
        raise TypeError(f"run takes a Module that is a WASI command, not {app!r}")
    given = {name: value for name, value in options.items() if value is not None}
    return main.options(**given) if given else main


def pool_full(most: int) -> QueueFull:
    """The error where a pool has as many calls as it may have."""
    return QueueFull(
        f"{most} calls are not over yet",
        "call more slowly, raise max_pending=, or use when_full='wait'",
    )


def mailbox_full(most: int) -> QueueFull:
    """The same of an instance."""
    return QueueFull(
        f"{most} calls of this instance are not over yet",
        "call more slowly, raise mailbox=, or use Pool(when_full='wait')",
    )


def innermost(error: BaseException) -> BaseException:
    """The one error that a tree of nurseries wrapped in groups."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if len(group.exceptions) != 1:
            return group
        (error,) = group.exceptions
    return error
