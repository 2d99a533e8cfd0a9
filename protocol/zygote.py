"""What the supervisor and its zygote say to each other: one message in each datagram,
descriptors beside it."""

from __future__ import annotations

from typing import Literal

import msgspec

from .attacks import Attack

Role = Literal["run", "compile", "attack"]


class Fork(msgspec.Struct, frozen=True, array_like=True, tag="fork"):
    """Fork worker ``worker``; it enters the groups in ``procs_files`` before anything else.

    Descriptors, in this order, for ``run`` and ``attack``: channel, control, descriptor channel,
    arena, stderr; for ``compile``: channel, module, artifact, stderr.
    """

    worker: int
    role: Role
    procs_files: tuple[str, ...] = ()
    attack: Attack | None = None
    """What a worker of the role ``attack`` is made for; no other role has it."""


class Own(msgspec.Struct, frozen=True, array_like=True, tag="own"):
    """Directories that the zygote, as janitor, removes when the supervisor is gone."""

    cgroups: tuple[str, ...]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """First message of a zygote: it is up, with this engine."""

    engine: str
    cpu: str
    settings: tuple[tuple[bool, str], ...]
    """(metered, canonical text of the compile settings): part of the key of an artifact."""
    guard: tuple[bytes, ...] = ()
    """The modules that workers need where directories are granted, in the order of ``Guard``."""
    pid: int = 0
    """Process id of the zygote itself, which may be a child of the process that was started."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """Last message of a zygote that cannot go on."""

    reason: str


class Forked(msgspec.Struct, frozen=True, array_like=True, tag="forked"):
    """Answer to ``Fork``, with a pidfd beside it."""

    worker: int
    pid: int


class ForkFailed(msgspec.Struct, frozen=True, array_like=True, tag="fork-failed"):
    """Answer to ``Fork``."""

    worker: int
    reason: str


class Exited(msgspec.Struct, frozen=True, array_like=True, tag="exited"):
    """A worker is dead and reaped; exactly one of ``signal`` and ``exit_code`` is set."""

    worker: int
    signal: int | None
    exit_code: int | None
    cpu_time: float
    max_rss: int


ToZygote = Fork | Own
FromZygote = Hello | Failed | Forked | ForkFailed | Exited

MAX_DATAGRAM = 1 << 16

encode = msgspec.msgpack.Encoder().encode
decode_to_zygote = msgspec.msgpack.Decoder(ToZygote).decode
decode_from_zygote = msgspec.msgpack.Decoder(FromZygote).decode
