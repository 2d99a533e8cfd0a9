"""What the face asks of the supervisor, and what it gets back.

What is made for each call is a ``msgspec.Struct``: five times as fast to make as a dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ..protocol.batch import Mode, width
from ..protocol.description import FunctionType, ModuleDescription
from ..protocol.errors import SandboxError
from ..protocol.limits import Limits
from ..protocol.messages import LentFunction
from ..protocol.profile import Profile
from ..protocol.receipts import Receipt
from .ends import GuestEnds
from .imports import HostImport

if TYPE_CHECKING:
    from .calls import CallRecord
    from .objects import Luggage, ResourceKind


@dataclass(frozen=True, eq=False, slots=True)
class ModuleHandle:
    """A module that a pool has loaded. The source is kept for the variants that are compiled
    later."""

    sha256: bytes
    """Digest of the module as given, 32 bytes."""
    source: bytes = field(repr=False)
    description: ModuleDescription = field(repr=False)
    limits: Limits = field(repr=False)
    """Limits under which it is compiled."""
    imports: tuple[HostImport, ...] = field(default=(), repr=False)
    """The functions of the caller's process that it imports."""
    resources: Mapping[int, ResourceKind] = field(
        default_factory=dict[int, "ResourceKind"], repr=False
    )
    """The kinds of resources of its world that the caller's process provides."""
    lent: tuple[LentFunction, ...] = field(default=(), repr=False)
    """Those that it imports and that run in the worker."""
    helpers: bytes = field(default=b"", repr=False)
    """The same, pickled: part of the profile of all its calls."""

    @property
    def key(self) -> object:
        """What workers keep it under: the same bytes with other imports are another module."""
        return self if self.imports or self.lent else self.sha256


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What a WASI command gets."""

    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...] = ()
    stdin: bytes = b""
    stdin_descriptor: int | None = None
    """A descriptor to stream stdin from instead; the supervisor duplicates it and closes only
    its own."""
    ends: GuestEnds | None = None
    """All three standard streams instead, as pipes to the program."""

    @property
    def size(self) -> int:
        """Bytes of arguments and environment, with some for each of them."""
        strings = (*self.argv, *(text for pair in self.env for text in pair))
        return sum(len(text) + 8 for text in strings)


@dataclass(eq=False, slots=True)
class Search:
    """For the guilty record of a batch whose worker died. Its deaths are ours, one for each time
    that the batch can be halved; where there are more of them they are the module's."""

    deaths: int

    def forgives(self) -> bool:
        """Whether the death of one of its workers speaks against nobody."""
        self.deaths -= 1
        return self.deaths >= 0


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Many calls in one: their arguments are columns, in the request's one buffer."""

    count: int
    mode: Mode
    function: FunctionType
    attempt: bool = False
    """Whether it has less time than a call: where that runs out, no record has failed."""
    search: Search | None = None
    """What it is run again for."""

    @property
    def results_size(self) -> int:
        """Bytes of the columns of results."""
        return self.count * width(self.function.results)


class CallRequest(msgspec.Struct, eq=False, kw_only=True):
    """One call. Everything was checked by the face: slots and buffers fit the function's type."""

    module: ModuleHandle
    profile: Profile
    limits: Limits
    export: str
    slots: bytes = b""
    """16 bytes for each parameter; those of a buffer's pointer and length are zero."""
    buffers: tuple[tuple[int, bytes | memoryview], ...] = ()
    """(slot of the pointer, content) for each buffer argument."""
    results: int = 0
    """How many values the function returns."""
    returns_buffer: bool = False
    into: memoryview | None = None
    """Where the result's bytes are put, instead of into new ones: writable, of bytes."""
    command: CommandRequest | None = None
    env: tuple[tuple[bytes, bytes], ...] = ()
    """Environment of a module that imports WASI and is no command."""
    timeout: float | None = None
    """Seconds from submission, queueing included; ``None`` is no such bound."""
    retries: int = 0
    """How often the call may be begun again when its worker is lost under it."""
    on_output: Callable[[int, bytes], None] | None = None
    """Called in the supervisor's thread with (1 or 2, bytes) as the guest writes; must be quick."""
    batch: BatchRequest | None = None
    luggage: Luggage | None = None
    """The things of the caller's process that it brings, where its function takes or gives such."""

    parent: CallRecord | None = None
    """The call whose host function waits for this one."""

    @property
    def guarded(self) -> bool:
        """Whether its worker needs what stands between guests and WASI: for directories, and to
        pass output on in large pieces."""
        piped = self.command is not None and self.command.ends is not None
        return piped or self.profile.has_files

    @property
    def asks(self) -> bool:
        """Whether it may need the supervisor while it runs."""
        return bool(self.module.imports or self.profile.network)

    @property
    def size(self) -> int:
        """Bytes of arguments and input that are given at once."""
        size = len(self.slots)
        if self.buffers:
            size += sum(len(data) for _, data in self.buffers)
        return size if self.command is None else size + len(self.command.stdin)


class Outcome(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The one end of a call. ``error`` is ``None`` where it returned."""

    receipt: Receipt
    error: SandboxError | None = None
    slots: bytes = b""
    data: bytes | None = None
    filled: memoryview | None = None
    """The part of ``CallRequest.into`` that holds the result."""
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    done: int = 0
    """Records of a batch that returned; ``data`` are the columns of their results, with room for
    all. Where those are not all, ``error`` is of the next one; ``None``: that is to be run again,
    by itself."""
