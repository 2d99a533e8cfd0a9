"""The children of a supervisor: how they are specified, shown and counted."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from .branches import InstanceBranch, PoolBranch, Runnable, Shutdown
from .configuration import check_choice
from .module import Module
from .protocol.errors import ConfigurationError
from .protocol.fields import check_kind
from .protocol.limits import check_number
from .protocol.policies import RestartType
from .sources import Source
from .supervisor.supervision import AutoShutdown, Status
from .supervisor.tree import Tree
from .tree_runs import Serves

if TYPE_CHECKING:
    from .pool import Pool
    from .trio_pool import TrioPool

_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class ChildStatus:
    """A child of a supervisor, as ``which_children`` shows it."""

    name: str
    status: Status
    """``running``; ``restarting`` where it could not be started yet; ``stopped``."""
    restart: RestartType
    kind: str
    """``instance``, ``pool``, ``task`` or ``supervisor``."""


@dataclass(frozen=True, kw_only=True)
class ChildCounts:
    """How many children a supervisor has, as ``count_children`` counts them."""

    specs: int
    """All, whether they run or not."""
    active: int
    """Those that run."""
    supervisors: int
    """Those that are supervisors, whether they run or not."""
    workers: int
    """Those that are not."""


@dataclass(frozen=True)
class Child:
    """One child of a ``Supervisor``: what it is, and when it is restarted.

    Args:
        name: by which the supervisor knows it; no two of its children have the same.
        what: an asynchronous function without parameters, which runs from the start of the child to
            its end (with a parameter ``task_status`` it says itself when it is up); another
            ``Supervisor``; or use ``Child.instance`` and ``Child.pool``.
        restart: as in OTP: ``"permanent"`` always, ``"transient"`` after an abnormal exit (a task
            that raised, a worker that died), ``"temporary"`` never.
        shutdown: seconds that it has to end when it is asked to, from 0 to 86,400, or
            ``"infinity"``; then an instance loses its running call, and a pool its calls.
            ``"brutal_kill"`` does not ask. ``None`` is 5 seconds for these. A task is cancelled at
            once and waited for, however long it takes, and so is a supervisor: for them it can only
            be ``"infinity"``, which ``None`` is.
        significant: whether its end may end the supervisor: see ``auto_shutdown``.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    name: str
    what: Callable[..., Awaitable[object]] | Serves | Runnable
    restart: RestartType = field(default="permanent", kw_only=True)
    shutdown: Shutdown | None = field(default=None, kw_only=True)
    significant: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_kind("child.name", self.name, str)
        check_choice("child.restart", self.restart, ("permanent", "transient", "temporary"))
        if self.shutdown not in ("brutal_kill", "infinity"):
            check_number("child.shutdown", self.shutdown, 0, _DAY, whole=False, optional=True)
        if self.significant and self.restart == "permanent":
            raise ConfigurationError(
                "child.significant", True, "a permanent child never ends the supervisor"
            )
        if not isinstance(self.what, Serves | Runnable) and not inspect.iscoroutinefunction(
            self.what
        ):
            raise ConfigurationError(
                "child.what",
                self.what,
                "must be an async function or a Supervisor",
                "Child.instance and Child.pool make the others",
            )
        if not isinstance(self.what, Runnable) and self.shutdown not in (None, "infinity"):
            raise ConfigurationError(
                "child.shutdown",
                self.shutdown,
                "a task or a supervisor is waited for until it has ended",
                'leave it out, or say "infinity"',
            )

    @classmethod
    def instance(
        cls,
        name: str,
        pool: Pool | TrioPool | str,
        module: Module | Source,
        *,
        restart: RestartType = "permanent",
        shutdown: Shutdown = 5.0,
        significant: bool = False,
        **settings: Any,
    ) -> Child:
        """An instance, with the keywords of ``Pool.instance``; the supervisor restarts it.

        ``pool`` may be the name of an earlier child that is a pool; then ``module`` is what
        ``pool.load`` takes. It stays the same ``Instance`` over its restarts, and calls that wait
        are served by its next worker.
        """
        for given in ("policy", "restart"):
            if given in settings:
                raise ConfigurationError(
                    f"child.{given}", settings[given], "is the supervisor's to say"
                )
        what = InstanceBranch(pool, module, shutdown, settings)
        return cls(name, what, restart=restart, shutdown=shutdown, significant=significant)

    @classmethod
    def pool(
        cls,
        name: str,
        *,
        restart: RestartType = "permanent",
        shutdown: Shutdown = 5.0,
        significant: bool = False,
        **keywords: Any,
    ) -> Child:
        """A pool, with the keywords of ``Pool``; it exits when it fails. It is a ``Pool`` under
        ``with``, a ``TrioPool`` under ``async with``."""
        what = PoolBranch(shutdown, keywords)
        return cls(name, what, restart=restart, shutdown=shutdown, significant=significant)


def kind_of(what: object) -> str:
    """What ``ChildStatus.kind`` says."""
    if isinstance(what, Runnable):
        return what.kind
    return "supervisor" if isinstance(what, Serves) else "task"


def spec_of(tree: Tree, name: str) -> Child:
    """What a child of the tree was specified as.

    Raises:
        KeyError: there is no such child.
    """
    return cast(Child, tree.origin(name))


def check_significant(child: Child, auto_shutdown: AutoShutdown) -> None:
    """Refuse a significant child where that means nothing.

    Raises:
        ConfigurationError: the supervisor's ``auto_shutdown`` is ``"never"``.
    """
    if child.significant and auto_shutdown == "never":
        raise ConfigurationError(
            "child.significant", child.name, "needs auto_shutdown=", "as in OTP"
        )
