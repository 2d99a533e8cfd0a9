"""Functions of the caller's process that guests import: what the supervisor knows of them.

What they are made of (threads, event loops, Python values) is the face's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..protocol.errors import CapabilityDenied
from ..protocol.grants import FIELD, Grants, Need, Needs
from ..protocol.messages import LentFunction
from .rate import Rate

if TYPE_CHECKING:
    from .actor import Actor
    from .calls import CallRecord
    from .reach import Reach
    from .sending import Mail
    from .tree import Life


class BadArgument(Exception):
    """What the guest gave is not what the function's declaration says; the text says what."""


class Raised(Exception):
    """A function has raised what no coroutine can pass on, ``StopIteration``: it is the cause."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HostImport:
    """A function of the caller's process, bound to an import of one module."""

    shape: LentFunction
    """How workers lend it; its number is given by each worker's ``Holder``."""
    timeout: float
    """Seconds that one call of it may take, once its rate lets it begin."""
    rate: Rate
    needs: Needs = field(default_factory=dict[str, Need])
    """The grants that a call must have for it to be called."""
    gives: bool = False
    """Whether it gives the guest things that may have to be dropped."""
    memory: bool = False
    """Whether it wants the guest's memory: it finds that in ``reaching``."""
    call: Callable[[bytes, bytes], Awaitable[tuple[bytes, bytes]]]
    """Gets the slots of the arguments and the bytes that they point to, one after the other; gives
    the slots of the results, or nothing and the bytes. One for components gets no slots, and finds
    what its guest has handles to in ``objects.held``. When it is cancelled it ends at once, and
    what it left running is nobody's. Raises ``BadArgument`` before the function has begun;
    everything else is the function's own."""

    @property
    def name(self) -> str:
        """Module and name, as users know it."""
        shape = self.shape
        if shape.component:
            return f"{shape.module}#{shape.name}" if shape.module else shape.name
        return f"{shape.module}.{shape.name}"


def granted(record: CallRecord | None) -> Grants:
    """The custom capabilities of a call that runs."""
    return Grants() if record is None or record.worker is None else record.worker.profile.grants


def denial(function: HostImport, record: CallRecord) -> CapabilityDenied | None:
    """What a call fails with that calls the function and lacks what it needs."""
    grants = granted(record)
    for name in function.needs:
        if name not in grants:
            return CapabilityDenied(
                f"{FIELD}.{name}",
                f"calling the host function {function.name}",
                f"grant it by options(capabilities=Capabilities(custom={{{name!r}: …}}))",
            )
    return None


serving: ContextVar[CallRecord | None] = ContextVar("serving", default=None)
"""In a host function, and in what it calls: the call whose guest waits for it."""
reaching: ContextVar[Reach] = ContextVar("reaching")
"""In a host function that wants it: how to reach the memory of the guest that waits for it."""
rebuilding: ContextVar[Actor | None] = ContextVar("rebuilding", default=None)
"""In an ``on_restart``, and in what it calls: the instance that waits for it."""
lives: ContextVar[tuple[Life, ...]] = ContextVar("lives", default=())
"""In a supervised child, and in what it calls: its life, after those of the supervisors that it is
below."""


def act_for(context: Context) -> None:
    """Have this task be waited for by those who wait for the code with this context."""
    serving.set(context.get(serving))
    rebuilding.set(context.get(rebuilding))
    lives.set(context.get(lives, ()))


def served(record: CallRecord | None, mail: Mail) -> CallRecord | None:
    """``record``, where it is a call of the pool with this mail, and is not over."""
    worker = None if record is None else record.worker
    return record if worker is not None and worker.office.mail is mail else None
