"""What native code in a worker is made to try, to prove the walls: a request to a worker of the
role ``attack``, and its report.

Such a worker puts on the jail by the same code as one that runs guests. Nothing that a guest or an
ordinary worker can say leads here: the request comes with the fork, from the supervisor.
"""

from __future__ import annotations

import msgspec

from .errors import ProtocolError


class Victim(msgspec.Struct, frozen=True, array_like=True):
    """A process that may be attacked, because it was made for it."""

    pid: int = 0
    address: int = 0
    """Where ``Targets.secret`` lies in its memory."""


class Targets(msgspec.Struct, frozen=True, array_like=True):
    """What the attacks aim at. All of it was made for them: nobody else's is touched."""

    secret: str = ""
    """What is in the private file, in the victims' memory, in shared memory."""
    folder: str = ""
    """A directory with ``private``, ``open/``, ``granted/``, ``cache/``, ``other`` (a set-uid
    program), ``locked`` (what only it may read) and a socket ``unix``."""
    supervisor: Victim = Victim()
    """Stands for the program that made the pool."""
    sibling: Victim = Victim()
    """Another worker behind the same walls."""
    tcp_port: int = 0
    udp_port: int = 0
    abstract: str = ""
    """Name of an abstract socket, without its NUL."""
    shared_memory: int = 0
    """Identifier of a System V segment (shmget(2))."""
    artifact: str = ""
    """Digest of the key of a cached artifact."""
    group: str = ""
    """The ``cgroup.procs`` of the program's own group, or empty."""
    group_limits: tuple[str, ...] = ()
    """The files that limit the memory of the worker's group, in the order in which they can be
    raised."""
    processes: int = 0
    """How many a fork bomb makes when nothing stops it."""
    threads: int = 0
    """How many threads are started when nothing stops it."""
    memory: int = 0
    """Bytes that are touched of the 10 GiB that are taken."""
    file_size: int = 0
    """Bytes that one file is to have in the end."""
    descriptors: int = 0
    seconds: float = 0.0
    """How long the processor is burnt; how long what is left behind lives on."""
    share: float = 0.0
    """Share of one processor that is more than the worker may have."""


class Attack(msgspec.Struct, frozen=True, array_like=True):
    """One attack, by its name in ``catalogue.ATTACKS``."""

    name: str
    walls: tuple[str, ...] | None = None
    """The walls to build and no others; ``None`` is all. Only this role can be asked for less."""
    targets: Targets = Targets()


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How an attack ended, where it left somebody to tell."""

    succeeded: bool
    evidence: str
    """What it got, or what the kernel said."""
    number: int = 0
    """A number that the supervisor needs to check the success from outside."""


INTACT = "intact" * 20_000
"""Evidence that is too large for a frame, and so goes through the arena."""
EXIT_SUCCEEDED = 77
"""Exit status of an attack that ends its own process in succeeding."""

encode = msgspec.msgpack.Encoder().encode
_report = msgspec.msgpack.Decoder(Report)


def decode_report(data: bytes) -> Report:
    """A report, which comes from a process that is hostile by trade.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return _report.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"no report: {error}") from None
