"""Capabilities: what a guest may reach. Nothing is granted by default.

A grant that no wall can enforce yet is refused when it is made, never ignored.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import Literal

import msgspec

from .errors import ConfigurationError
from .fields import Settings, check_kind
from .grants import Grants
from .limits import check_number
from .network import Network


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """One directory of the host, and what a guest may do in it and below."""

    path: str
    """Absolute path on the host."""
    at: str
    """The guest's path."""
    writable: bool = False
    """Whether the content of files may be changed."""
    create: bool = False
    """Whether files and directories may be made. Only with ``writable``."""
    delete: bool = False
    """Whether files and directories may be removed. Only with ``writable``."""
    max_file_size: int | None = None
    """Bytes that a file may grow to; never more than ``Limits.file_size``, which ``None`` stands
    for."""


class Scratch(msgspec.Struct, frozen=True, array_like=True):
    """A private directory that is empty at the beginning of each call, and gone after it."""

    at: str
    """The guest's path."""
    size: int
    """Bytes that it can hold."""
    path: str = ""
    """Where a worker has it; chosen for each, never by a policy."""

    @property
    def grant(self) -> Grant:
        """What a guest may do in it: all that can be granted."""
        return Grant(self.path, self.at, True, True, True)


MAX_DIRECTORIES = 64
"""Directories that can be granted together."""
MAX_SCRATCH = 16 << 30
"""Bytes of a scratch directory at most."""


class Filesystem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Directories that a guest may use, and nothing beside them; join several with ``|``.

    The engine resolves every path below the directory that was granted: ``..`` and symbolic links
    cannot leave it. A guest leaves no traps in a writable one: it makes no links of either kind, no
    special files, and no path of more than 1,024 bytes below it. What its files hold, and what they
    are called, is its own choice.
    """

    directories: tuple[Grant, ...] = ()
    scratches: tuple[Scratch, ...] = ()

    def __post_init__(self) -> None:
        field = "capabilities.filesystem"
        check_kind(field, self.directories, tuple)
        check_kind(field, self.scratches, tuple)
        many = len(self.directories) + len(self.scratches)
        if many > MAX_DIRECTORIES:
            raise ConfigurationError(field, many, f"more than {MAX_DIRECTORIES} directories")
        for grant in self.directories:
            check_kind(field, grant, Grant)
            if (grant.create or grant.delete) and not grant.writable:
                raise ConfigurationError(field, grant.path, "to create or delete is to write")
        for scratch in self.scratches:
            check_kind(field, scratch, Scratch)
            _check_place(f"{field}.scratch", scratch.at)
            check_number(f"{field}.scratch", scratch.size, 4096, MAX_SCRATCH, whole=True)
            if scratch.path:
                raise ConfigurationError(field, scratch.path, "no policy says where scratch is")

    def __or__(self, other: Filesystem) -> Filesystem:
        check_kind("capabilities.filesystem", other, Filesystem)
        here: list[Grant | Scratch] = [*self.directories, *self.scratches]
        seen = {posixpath.normpath(each.at) for each in here}
        added: list[Grant | Scratch] = [*other.directories, *other.scratches]
        for directory in added:
            if posixpath.normpath(directory.at) in seen:
                raise ConfigurationError(
                    "capabilities.filesystem",
                    directory.at,
                    "two directories at the same guest path",
                )
        return Filesystem(self.directories + other.directories, self.scratches + other.scratches)

    @staticmethod
    def none() -> Filesystem:
        """No files at all."""
        return Filesystem()

    @staticmethod
    def read_only(*paths: str | os.PathLike[str], at: str | None = None) -> Filesystem:
        """Directories that the guest may read.

        Args:
            paths: directories on the host.
            at: the guest's path, for a single directory; the path as given otherwise.

        Raises:
            ConfigurationError: not a directory, or ``at`` with several paths.
        """
        return _grants("read_only", paths, at)

    @staticmethod
    def read_write(
        *paths: str | os.PathLike[str],
        at: str | None = None,
        max_file_size: int | None = None,
        allow_create: bool = True,
        allow_delete: bool = True,
    ) -> Filesystem:
        """Directories that the guest may read and change.

        Args:
            paths: directories on the host.
            at: the guest's path, for a single directory; the path as given otherwise.
            max_file_size: bytes that a file may grow to (``EFBIG`` for the guest beyond), from 0 to
                2**50; where it is ``None``, or larger, ``Limits.file_size`` bounds it.
            allow_create: whether files and directories may be made; ``EPERM`` otherwise. Files that
                are there can be written to all the same.
            allow_delete: whether files and directories may be removed; ``EPERM`` otherwise.
                Renaming is both, so it needs both.

        Raises:
            ConfigurationError: as for ``read_only``, or a restriction of the wrong type.
        """
        field = "capabilities.filesystem.read_write"
        check_number(f"{field}.max_file_size", max_file_size, 0, 1 << 50, whole=True, optional=True)
        for name, value in (("allow_create", allow_create), ("allow_delete", allow_delete)):
            if not isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"{field}.{name}", value, "must be true or false")
        return _grants(
            "read_write",
            paths,
            at,
            writable=True,
            create=allow_create,
            delete=allow_delete,
            max_file_size=max_file_size,
        )

    @staticmethod
    def scratch(size: int = 64 << 20, at: str = "/tmp") -> Filesystem:
        """A private directory, empty at the beginning of each call and gone after it. The guest may
        do in it all that can be granted; ``Limits.disk`` and ``file_size`` hold in it, too.

        It is memory (a tmpfs), whose size the kernel keeps, and which the worker's cgroup is given
        on top of ``Limits.memory``; where there are no mount namespaces it is a temporary directory
        of the machine, whose size the engine keeps.

        Args:
            size: bytes that it can hold (``ENOSPC`` for the guest beyond), with 4 KiB for each file
                and directory; 4 KiB to 16 GiB.
            at: the guest's path.

        Raises:
            ConfigurationError: no size, or no path.
        """
        return Filesystem(scratches=(Scratch(at, size),))


def _check_place(field: str, path: object) -> None:
    if not _is_text(path) or not path:
        raise ConfigurationError(field, path, "must be UTF-8 text without NUL, not empty")


def _grants(
    kind: str,
    paths: tuple[str | os.PathLike[str], ...],
    at: str | None,
    *,
    writable: bool = False,
    create: bool = False,
    delete: bool = False,
    max_file_size: int | None = None,
) -> Filesystem:
    field = f"capabilities.filesystem.{kind}"
    if at is not None and len(paths) != 1:
        raise ConfigurationError(field, paths, "at= needs exactly one directory")
    made: list[Grant] = []
    for path in paths:
        check_kind(field, path, (str, os.PathLike))
        given = os.fspath(path)
        where = given if at is None else at
        check_kind(f"{field}.at", where, str)
        for text in (given, where):
            _check_place(field, text)
        absolute = os.path.abspath(given)
        if not os.path.isdir(absolute):
            raise ConfigurationError(field, given, "is not a directory on this machine")
        made.append(Grant(absolute, where, writable, create, delete, max_file_size))
    return Filesystem(tuple(made))


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of your program's environment variables a guest sees. Read when the guest is
    started."""

    kind: Literal["none", "allow", "deny", "set", "full"] = "none"
    names: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def none() -> Environment:
        """No variables."""
        return Environment()

    @staticmethod
    def allow(*names: str) -> Environment:
        """Only these, where they are set."""
        return Environment("allow", _names("allow", names))

    @staticmethod
    def deny(*names: str) -> Environment:
        """All but these."""
        return Environment("deny", _names("deny", names))

    @staticmethod
    def set(variables: dict[str, str]) -> Environment:
        """Exactly these, with these values."""
        check_kind("capabilities.environment.set", variables, dict)
        _names("set", tuple(variables))
        for name, value in variables.items():
            if not _is_text(value):
                raise ConfigurationError(
                    "capabilities.environment.set",
                    (name, value),
                    "a value must be text without NUL",
                )
        return Environment("set", (), tuple(variables.items()))

    @staticmethod
    def full() -> Environment:
        """All of them. Secrets too: prefer ``allow``."""
        return Environment("full")

    def select(self, source: dict[str, str]) -> tuple[tuple[str, str], ...]:
        """What a guest sees of ``source``."""
        match self.kind:
            case "none":
                return ()
            case "set":
                return self.variables
            case "full":
                return tuple(source.items())
            case "allow":
                return tuple((name, source[name]) for name in self.names if name in source)
            case "deny":
                return tuple((k, v) for k, v in source.items() if k not in self.names)


def _names(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _is_text(name) or not name or "=" in name:
            raise ConfigurationError(
                f"capabilities.environment.{kind}", name, "is no name of a variable"
            )
    return names


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What time a guest sees. It does not apply to the times of files in granted directories."""

    kind: Literal["real", "frozen", "monotonic_only"] = "real"
    at: float = 0.0

    @staticmethod
    def real() -> Clock:
        """The machine's clocks."""
        return Clock()

    @staticmethod
    def frozen(at: float = 0.0) -> Clock:
        """All clocks stand still at ``at`` seconds after 1970-01-01 UTC. Waiting takes its time."""
        check_number("capabilities.clock.frozen", at, 0, 1 << 33, whole=False)
        return Clock("frozen", float(at))

    @staticmethod
    def monotonic_only() -> Clock:
        """Time passes, and nobody knows the date: the realtime clock stands still at 1970-01-01
        UTC, the monotonic one counts from the beginning of the worker.

        The realtime clock is not refused, because programs that ask for the date are seldom ready
        to be told that there is none."""
        return Clock("monotonic_only")


class Random(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a guest's random bytes come from."""

    kind: Literal["secure", "seeded", "none"] = "secure"
    seed: int = 0

    @staticmethod
    def secure() -> Random:
        """The kernel's."""
        return Random()

    @staticmethod
    def seeded(seed: int) -> Random:
        """A deterministic stream, the same for every call; not for secrets. ``seed``: 0 to 2**64
        - 1."""
        check_number("capabilities.random.seeded", seed, 0, (1 << 64) - 1, whole=True)
        return Random("seeded", seed)

    @staticmethod
    def none() -> Random:
        """``random_get`` fails with ``ENOTSUP``."""
        return Random("none")


class Capabilities(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a guest may reach outside its own memory. The default grants nothing."""

    place = "capabilities"

    filesystem: Filesystem = Filesystem()
    network: Network = Network()
    environment: Environment = Environment()
    clock: Clock = Clock()
    random: Random = Random()
    stdio: bool = True
    """Whether a command may read its stdin and write its stdout and stderr (capped by
    ``Limits.output``)."""
    custom: Grants | Mapping[str, object] = Grants()
    """What your host functions need, by names of yours: a dict of ``bool``, numbers, ``str`` and
    lists of ``str``; ``grants`` is the same, checked. See ``HostFunction(needs=)``."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("filesystem", Filesystem),
            ("network", Network),
            ("environment", Environment),
            ("clock", Clock),
            ("random", Random),
            ("stdio", bool),
        ):
            value = getattr(self, name)
            check_kind(f"capabilities.{name}", value, kind)
            try:  # the structs can also be made by hand, with anything in them
                msgspec.convert(msgspec.to_builtins(value), kind)
            except (TypeError, msgspec.ValidationError) as error:
                hint = f"use the functions of {kind.__name__}"
                raise ConfigurationError(f"capabilities.{name}", value, str(error), hint) from None
        check_kind("capabilities.custom", self.custom, (Grants, Mapping))
        if isinstance(self.custom, Mapping):
            msgspec.structs.force_setattr(self, "custom", Grants.of(self.custom))

    @property
    def grants(self) -> Grants:
        """``custom``, checked."""
        assert isinstance(self.custom, Grants)
        return self.custom

    @staticmethod
    def minimal() -> Capabilities:
        """No files, no network, no environment; real clock, secure random numbers, captured
        stdio."""
        return Capabilities()

    @staticmethod
    def development() -> Capabilities:
        """``minimal()`` and ``LANG``, ``LC_ALL``, ``TERM`` and ``TZ`` of your environment, and
        the current directory to read."""
        return Capabilities(
            filesystem=Filesystem.read_only("."),
            environment=Environment.allow("LANG", "LC_ALL", "TERM", "TZ"),
        )
