"""What a pool is made with: checked once, before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .protocol.capabilities import Capabilities
from .protocol.errors import ConfigurationError
from .protocol.events import Event
from .protocol.fields import check_kind
from .protocol.isolation import Isolation
from .protocol.limits import Limits, check_number
from .protocol.policies import Quarantine, Recycle, RestartPolicy
from .supervisor.audit import AuditLog
from .supervisor.options import CoreOptions
from .supervisor.shortages import check_open_files
from .supervisor.spawn import Launch

if TYPE_CHECKING:
    from .supervisor.core import Core

WhenFull = Literal["wait", "raise"]
Walls = Literal["strict", "best-effort"] | Isolation
"""What ``isolation=`` takes."""
LIMITS, CAPABILITIES = Limits(), Capabilities.minimal()
RESTART, RECYCLE, QUARANTINE = RestartPolicy(), Recycle(), Quarantine()
MAX_PENDING = 10_000
MAX_INSTANCES = 1000
MAILBOX = 1000


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The keywords of ``Pool`` and ``open_pool``; their meanings are in ``Pool``'s docstring.

    Raises:
        ConfigurationError: a value of the wrong type or outside its range; ``.field`` names it.
    """

    workers: int | None = None
    runtime: str = "wasmtime"
    limits: Limits = LIMITS
    capabilities: Capabilities = CAPABILITIES
    isolation: Walls = "best-effort"
    restart: RestartPolicy = RESTART
    recycle: Recycle = RECYCLE
    spares: int = 0
    quarantine: Quarantine | None = QUARANTINE
    cache_dir: str | os.PathLike[str] | None = None
    on_event: Callable[[Event], None] | None = None
    audit: AuditLog | str | os.PathLike[str] | None = None
    max_pending: int = MAX_PENDING
    when_full: WhenFull = "wait"
    max_instances: int = MAX_INSTANCES

    def __post_init__(self) -> None:
        check_number("workers", self.workers, 1, 1024, whole=True, optional=True)
        check_number("spares", self.spares, 0, 1024, whole=True)
        check_number("max_pending", self.max_pending, 1, 1 << 31, whole=True)
        check_number("max_instances", self.max_instances, 0, 1 << 20, whole=True)
        check_choice("runtime", self.runtime, ("wasmtime",))
        check_choice("when_full", self.when_full, ("wait", "raise"))
        if not isinstance(self.isolation, Isolation):
            check_choice("isolation", self.isolation, ("strict", "best-effort"))
        check_kind("limits", self.limits, Limits)
        check_kind("capabilities", self.capabilities, Capabilities)
        check_open_files(self.limits, self.capabilities)
        check_kind("restart", self.restart, RestartPolicy)
        check_kind("recycle", self.recycle, Recycle)
        if self.quarantine is not None:
            check_kind("quarantine", self.quarantine, Quarantine)
        if self.audit is not None:
            check_kind("audit", self.audit, (AuditLog, str, os.PathLike))
        if self.cache_dir is not None:
            check_kind("cache_dir", self.cache_dir, (str, os.PathLike))
            path = os.fspath(self.cache_dir)
            if not path or "\0" in path:
                raise ConfigurationError(
                    "cache_dir", path, "must be a path: not empty, without NUL"
                )
        if self.on_event is not None and not callable(self.on_event):
            raise ConfigurationError("on_event", self.on_event, "must be callable")

    def make_core(self) -> Core:
        """The supervisor that this asks for, not yet started; but its zygote is, so it has to be
        served or discarded.

        Raises:
            ConfigurationError: the audit log cannot be written.
        """
        audit = self.audit
        if audit is not None and not isinstance(audit, AuditLog):
            audit = AuditLog(audit)
        options = CoreOptions(
            workers=self.workers or usable_processors(),
            spares=self.spares,
            max_instances=self.max_instances,
            runtime=self.runtime,
            limits=self.limits,
            capabilities=self.capabilities,
            isolation=self.isolation,
            restart=self.restart,
            recycle=self.recycle,
            quarantine=self.quarantine,
            cache_dir=None if self.cache_dir is None else os.path.abspath(self.cache_dir),
            on_event=self.on_event,
            audit=audit,
        )
        launch = Launch()
        try:
            from .supervisor.core import Core  # imports trio, while the zygote comes up

            return Core(options, launch)
        except BaseException:
            launch.discard()
            raise


def usable_processors() -> int:
    """How many processors this process may run on (``os.process_cpu_count`` of Python 3.13)."""
    return len(os.sched_getaffinity(0)) or 1


def check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of ``choices``.

    Raises:
        ConfigurationError: names ``field`` and the choices.
    """
    if value not in choices:
        raise ConfigurationError(field, value, f"must be {' or '.join(map(repr, choices))}")
