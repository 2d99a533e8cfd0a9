"""A function of a loaded module, with the settings of its calls."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Never

from msgspec import UNSET, UnsetType

from .granting import check_options
from .options import OPTIONS, OnOutput, Options, Stdin
from .protocol.batch import most_records
from .protocol.capabilities import Capabilities
from .protocol.description import FunctionType
from .protocol.errors import ConfigurationError, SignatureMismatch
from .protocol.limits import Limits
from .protocol.profile import Profile
from .protocol.receipts import Receipt
from .values import Codec, Returns
from .wit_codec import WitCodec
from .wit_types import WitFunction

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from .batching import Pace
    from .module import Module
    from .supervisor.requests import CallRequest


class Function:
    """An exported function. Get it by ``module["name"]``, or ``module.main`` for a command.

    It is immutable; ``options`` returns another one. Each call runs in a fresh instance.
    """

    def __init__(
        self, module: Module, codec: Codec | WitCodec, options: Options, *, command: bool
    ) -> None:
        self._module = module
        self._codec = codec
        self._options = options
        self._command = command
        codec.check_returns(options.returns)
        check_options(options, module.handle)
        if options.instance == "per-batch" and not self._may_share():
            raise ConfigurationError(
                "options.instance",
                options.instance,
                "is for functions of numbers in modules that import nothing",
                "see docs/batching.md",
            )

    def _may_share(self) -> bool:
        description = self._module.description
        if self._command or description.imports or description.component is not None:
            return False
        return self._options.returns is None and most_records(self.numbers.type) > 0

    @property
    def module(self) -> Module:
        """The module that exports it."""
        return self._module

    @property
    def name(self) -> str:
        """The export's name."""
        return self._codec.name

    @property
    def type(self) -> FunctionType | WitFunction:
        """Its parameters and results."""
        return self._codec.type

    @property
    def numbers(self) -> Codec:
        """The codec of a core module's function."""
        assert isinstance(self._codec, Codec)
        return self._codec

    @property
    def is_command(self) -> bool:
        """Whether it is a WASI command: called with its arguments, it gives a ``CompletedRun``."""
        return self._command

    @property
    def codec(self) -> Codec | WitCodec:
        """What turns values into what crosses, and back."""
        return self._codec

    @property
    def settings(self) -> Options:
        """The settings of its calls."""
        return self._options

    @cached_property
    def profile(self) -> Profile:
        """The kind of worker that its calls need."""
        options = self._options
        return Profile.of(
            options.limits,
            options.capabilities,
            tenant=options.tenant,
            runtime=self._module.runtime,
            helpers=self._module.handle.helpers,
        )

    @cached_property
    def draft(self) -> Callable[..., CallRequest]:
        """What makes the request of a call, of what is its own."""
        from .calls import draft_of  # which knows functions

        return draft_of(self)

    @cached_property
    def pace(self) -> Pace:
        """How long its calls take, as measured so far: so many of them travel together."""
        from .batching import Pace  # which knows functions

        return Pace()

    def options(
        self,
        *,
        timeout: float | UnsetType | None = UNSET,
        fuel: int | UnsetType | None = UNSET,
        limits: Limits | UnsetType = UNSET,
        capabilities: Capabilities | UnsetType = UNSET,
        tenant: str | UnsetType | None = UNSET,
        retries: int | UnsetType = UNSET,
        returns: Returns | WriteableBuffer | UnsetType = UNSET,
        instance: str | UnsetType | None = UNSET,
        stdin: Stdin | UnsetType = UNSET,
        env: Mapping[str, str] | UnsetType | None = UNSET,
        argv0: str | UnsetType | None = UNSET,
        on_output: OnOutput | UnsetType | None = UNSET,
        **unknown: Any,
    ) -> Function:
        """The same function with these settings changed; those not given stay as they are.

        Args:
            timeout: seconds from submission to the answer, queueing included
                (``DeadlineExceeded``), 0.001 to a year; ``None`` is no such bound.
                ``Limits.wall_time`` counts from the call's beginning.
            fuel: short for ``limits`` with another ``fuel``; ``None`` is unmetered.
            limits: instead of the pool's.
            capabilities: instead of the pool's.
            tenant: calls of two tenants never share a worker process; 1 to 200 characters.
            retries: how often the call may be begun again when its worker is lost under it, 0 to
                100. Only for what may safely run twice.
            returns: ``str``, ``bytes`` or ``"json"``: read the result as a buffer. The result must
                be one ``i64`` that is ``(pointer << 32) | length``, or a pointer and a length. Or a
                writable buffer, such as a ``bytearray`` or an array, which is several times as fast
                for large results: it is filled, and the value is a ``memoryview`` of the part that
                was. A larger result is ``OutputLimitExceeded``; after a failed call its content
                means nothing, and no two calls may have it at a time.
            instance: ``"fresh"``: no state survives from one call to the next. ``"per-batch"``:
                calls of a ``map`` that travel together share an instance, for functions of numbers
                in modules that import nothing (docs/batching.md). For state there is
                ``pool.instance``.
            stdin: a command's standard input: bytes, or an open descriptor or file, which must stay
                open until the call is over. A regular file is read from its position on, which does
                not move.
            env: a command's environment, and itself the grant; ``None`` is what the capability
                grants.
            argv0: a command's name for itself; the module's by default.
            on_output: called with (1 or 2, bytes) as a command writes. It runs in the supervisor's
                thread and must be quick; what it raises stops the command and is raised to the
                caller.

        Raises:
            ConfigurationError: an unknown option, or a value that cannot be used.
            SignatureMismatch: ``returns`` does not fit the function's results.
        """
        given: dict[str, Any] = {
            "timeout": timeout,
            "fuel": fuel,
            "limits": limits,
            "capabilities": capabilities,
            "tenant": tenant,
            "retries": retries,
            "returns": returns,
            "instance": instance,
            "stdin": stdin,
            "env": env,
            "argv0": argv0,
            "on_output": on_output,
            **unknown,
        }
        given = {name: value for name, value in given.items() if value is not UNSET}
        changed = self._options.change(given, command=self._command)
        return Function(self._module, self._codec, changed, command=self._command)

    def __call__(self, *args: Any, **keywords: Never) -> Any:
        """Call it and wait for its value; Ctrl-C stops the guest.

        Raises:
            SignatureMismatch: the arguments do not fit; a guest's parameters have no names.
            SandboxError: as the error tree has it.
        """
        refuse_keywords(self, keywords)
        return self._module.owner.wait_for(self, args)[0]

    def detailed(self, *args: Any, **keywords: Never) -> tuple[Any, Receipt]:
        """Call it and wait for its value and its receipt."""
        refuse_keywords(self, keywords)
        return self._module.owner.wait_for(self, args)

    def stream(self, chunks: Iterable[Any] | AsyncIterable[Any], /) -> Any:
        """Its values for each of ``chunks``, in order, in **one** instance that is made for them,
        so that the guest can keep something from one to the next.

        An iterator of them; in ``open_pool``, where chunks may be asynchronous: ``async with
        function.stream(chunks) as values:``, then ``async for``. As ``Instance.stream``, of an
        instance that is not restarted.

        Args:
            chunks: each is the argument of one call, or a tuple is all of them.

        Raises:
            ConfigurationError: a command, for which there is ``pool.start``; or ``retries``.
        """
        if self._command:
            raise ConfigurationError("stream", self, "is a command", "use pool.start")
        if self._options.retries:
            raise ConfigurationError(
                "options.retries", self._options.retries, "is not for streams: their state is lost"
            )
        return self._module.owner.stream(self, chunks)

    def __repr__(self) -> str:
        return f"<Function {self.name} {self.type} of {self._module.name}>"


def refuse_keywords(function: Function, keywords: Mapping[str, object]) -> None:
    """Refuse arguments by keyword: the parameters of WebAssembly have no names.

    Raises:
        SignatureMismatch: there are some; the hint says where settings go.
    """
    if keywords:
        settings = ", ".join(f"{name}=…" for name in keywords if name in OPTIONS)
        raise SignatureMismatch(
            f"{function.name}: takes no keyword arguments, and was given "
            f"{', '.join(f'{name}=' for name in keywords)}; the type is {function.type}",
            f"settings are made before the call: function.options({settings})" if settings else "",
        )
