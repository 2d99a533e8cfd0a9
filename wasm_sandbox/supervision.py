"""Supervision trees: instances, pools and plain trio tasks that are started, watched and ended
together."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from .branches import InstanceBranch, PoolBranch, Runnable, run_task
from .calls import innermost
from .configuration import check_choice
from .module import Module
from .protocol.errors import ConfigurationError, InstanceClosed
from .protocol.fields import check_kind
from .protocol.limits import check_number
from .protocol.policies import RestartPolicy, RestartType
from .sources import Source
from .supervisor.supervision import AutoShutdown, ChildRules, Status, Strategy, TreeState
from .supervisor.tree import Branch, Started, Tree, TreeEnded, TreeEvent, intensity_reached

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
        shutdown: seconds that it has to end when it is asked to. Then an instance loses its running
            call, and a pool its calls; a task is cancelled at once and waited for, however long it
            takes.
        significant: whether its end may end the supervisor: see ``auto_shutdown``.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    name: str
    what: Callable[..., Awaitable[object]] | Supervisor | Runnable
    restart: RestartType = field(default="permanent", kw_only=True)
    shutdown: float = field(default=5.0, kw_only=True)
    significant: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_kind("child.name", self.name, str)
        check_choice("child.restart", self.restart, ("permanent", "transient", "temporary"))
        check_number("child.shutdown", self.shutdown, 0, _DAY, whole=False)
        if self.significant and self.restart == "permanent":
            raise ConfigurationError(
                "child.significant", True, "a permanent child never ends the supervisor"
            )
        if not isinstance(self.what, Supervisor | Runnable) and not inspect.iscoroutinefunction(
            self.what
        ):
            raise ConfigurationError(
                "child.what",
                self.what,
                "must be an async function or a Supervisor",
                "Child.instance and Child.pool make the others",
            )

    @classmethod
    def instance(
        cls,
        name: str,
        pool: Pool | TrioPool | str,
        module: Module | Source,
        *,
        restart: RestartType = "permanent",
        shutdown: float = 5.0,
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
        shutdown: float = 5.0,
        significant: bool = False,
        **keywords: Any,
    ) -> Child:
        """A pool, with the keywords of ``Pool``; it exits when it fails. It is a ``Pool`` under
        ``with``, a ``TrioPool`` under ``async with``."""
        what = PoolBranch(shutdown, keywords)
        return cls(name, what, restart=restart, shutdown=shutdown, significant=significant)


class Supervisor:
    """Children that are started in order, watched, restarted together as ``strategy`` says, and
    ended in the reverse order: OTP's supervisor. ``with`` runs it in a thread of its own, ``async
    with`` in your trio run; ``supervisor["name"]`` is the child.

    Args:
        children: their specifications, in the order of their start.
        strategy: ``"one_for_one"`` restarts the child that ended, ``"rest_for_one"`` it and those
            after it, ``"one_for_all"`` all.
        intensity: restarts that are forgiven: one more within ``period``, and it ends itself with
            ``RestartIntensityReached``.
        period: seconds for which a restart counts.
        auto_shutdown: whether a significant child that ends by itself ends the supervisor:
            ``"never"``, ``"any_significant"`` or the last of them, ``"all_significant"``.
        name: what it is called in errors.
        on_event: called with each ``TreeEvent``, in its thread; must be quick.

    Under ``async with``, a supervisor that gives up cancels the block, which raises the error.
    Under ``with`` the error comes from ``supervisor["name"]``, and at the end of the block.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        name: str = "supervisor",
        on_event: Callable[[TreeEvent], object] | None = None,
    ) -> None:
        check_choice("strategy", strategy, ("one_for_one", "one_for_all", "rest_for_one"))
        check_choice(
            "auto_shutdown", auto_shutdown, ("never", "any_significant", "all_significant")
        )
        names: set[str] = set()
        for child in children:
            check_kind("children", child, Child)
            if child.name in names:
                raise ConfigurationError("children", child.name, "is the name of two children")
            if child.significant and auto_shutdown == "never":
                raise ConfigurationError(
                    "child.significant", child.name, "needs auto_shutdown=", "as in OTP"
                )
            names.add(child.name)
        self.name = name
        self._children = {child.name: child for child in children}
        self._state = TreeState(
            strategy=strategy,
            policy=RestartPolicy(intensity=intensity, period=period),
            auto_shutdown=auto_shutdown,
        )
        self._on_event = on_event
        self._tree: Tree | None = None
        self._error: BaseException | None = None
        self._thread: _TreeThread | None = None
        self._block: Any = None

    # --- what others see ------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        """The child: an instance, a pool, a ``Supervisor``, or what a task called
        ``task_status.started`` with.

        Raises:
            KeyError: there is none of that name.
            InstanceClosed: it is not up at the moment. An instance stays there while it is being
                restarted.
            RestartIntensityReached: the supervisor gave up.
        """
        if name not in self._children:
            raise KeyError(name)
        if self._error is not None:
            raise self._error
        try:
            if self._tree is None:
                raise KeyError(name)
            return self._tree.value(name)
        except KeyError:
            raise InstanceClosed(f"{name} of {self.name}") from None

    def which_children(self) -> tuple[ChildStatus, ...]:
        """The children as they are now, in the order of their start."""
        tree = self._tree
        return tuple(
            ChildStatus(
                name=child.rules.name,
                status=child.status,
                restart=child.rules.restart,
                kind=_kind(self._children[child.rules.name].what),
            )
            for child in (() if tree is None else tree.children())
        )

    # --- life -----------------------------------------------------------------------------------

    def _make(self, synchronous: bool) -> Tree:
        branches = {
            name: self._branch(child, synchronous) for name, child in self._children.items()
        }
        self._error = None
        self._tree = Tree(self._state, branches, self._on_event)
        return self._tree

    def _branch(self, child: Child, synchronous: bool) -> Branch:
        rules = ChildRules(name=child.name, restart=child.restart, significant=child.significant)
        what = child.what
        if isinstance(what, Supervisor):
            return Branch(
                rules=rules, run=lambda started: what.serve(started, synchronous=synchronous)
            )
        if isinstance(what, Runnable):
            run, forget, lasting = what.bind(synchronous, self.__getitem__)
            return Branch(rules=rules, run=run, forget=forget, lasting=lasting)
        return Branch(rules=rules, run=partial(run_task, what))

    @property
    def failure(self) -> BaseException | None:
        """``RestartIntensityReached`` where it gave up."""
        return self._error

    async def serve(self, started: Started, *, synchronous: bool) -> None:
        """Run it, for ``with``, ``async with`` and the supervisor above."""
        tree = self._make(synchronous)
        try:
            await tree.serve(Started(lambda _: started.started(self)))
        except TreeEnded as ended:
            if ended.reason == "intensity":
                self._error = intensity_reached(ended, self.name)
            raise

    async def __aenter__(self) -> Supervisor:
        self._block = _block(self)
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """End the children, the last first."""
        return await self._block.__aexit__(kind, error, traceback)  # type: ignore[no-any-return]

    def __enter__(self) -> Supervisor:
        self._thread = _TreeThread(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the children, the last first."""
        assert self._thread is not None
        self._thread.close()
        if error is None and self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        return f"<Supervisor {self.name} of {', '.join(self._children)}>"


@asynccontextmanager
async def _block(supervisor: Supervisor) -> AsyncGenerator[None]:
    """The block of an ``async with``: cancelled where the supervisor gives up."""
    failure: BaseException | None = None
    refused: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        up, over = trio.Event(), trio.Event()
        block, serving = trio.CancelScope(), trio.CancelScope(shield=True)

        async def serve() -> None:
            try:
                with serving:
                    await supervisor.serve(Started(lambda _: up.set()), synchronous=False)
            except TreeEnded as ended:
                if ended.reason == "intensity":
                    block.cancel()
            except Exception as error:  # what a child could not be started for
                refused.append(error)
            finally:
                up.set()
                over.set()

        nursery.start_soon(serve)
        try:
            with block:
                await up.wait()
                if not refused:
                    yield
        except BaseException as error:
            failure = error
        serving.cancel()
        with trio.CancelScope(shield=True):
            await over.wait()
    if failure is not None:
        raise innermost(failure)
    if refused:
        raise innermost(refused[0])
    if supervisor.failure is not None:
        raise supervisor.failure


class _TreeThread:
    """A supervisor in a trio run of its own. Made, it is up."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._begun, self._up = threading.Event(), threading.Event()
        self._refused: BaseException | None = None
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken
        self._thread = threading.Thread(target=self._run, name="wasm-supervisor", daemon=True)
        self._thread.start()
        try:
            self._up.wait()
        except BaseException:
            self.close()
            raise
        if self._refused is not None:
            self._thread.join()
            raise self._refused

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._begun.wait()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except TreeEnded:
            pass
        except BaseException as error:
            self._refused = innermost(error)
        finally:
            self._begun.set()
            self._up.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._begun.set()
        with self._scope:
            await self._supervisor.serve(Started(lambda _: self._up.set()), synchronous=True)


def _kind(what: object) -> str:
    if isinstance(what, Runnable):
        return what.kind
    return "supervisor" if isinstance(what, Supervisor) else "task"
