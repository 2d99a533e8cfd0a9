"""Supervision trees: instances, pools and plain trio tasks that are started, watched and ended
together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from .branches import Runnable, run_task
from .children import Child, ChildCounts, ChildStatus, check_significant, kind_of, spec_of
from .configuration import check_choice
from .protocol.errors import ConfigurationError, InstanceClosed, PoolError
from .protocol.fields import check_kind
from .protocol.policies import RestartPolicy
from .supervisor.imports import lives
from .supervisor.supervision import AutoShutdown, ChildRules, Strategy, TreeState
from .supervisor.tree import Branch, Started, Tree, TreeEnded, TreeEvent, intensity_reached
from .supervisor.tree_orders import Order, TreeOver
from .tree_runs import Serves, TreeThread, block

if TYPE_CHECKING:
    from .trio_supervision import TrioSupervisor

T = TypeVar("T")

Act = Callable[[Tree], Awaitable[T]]
"""What an order has a tree do."""


class Supervisor(Serves):
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
            check_significant(child, auto_shutdown)
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
        self._synchronous = True
        self._token: trio.lowlevel.TrioToken | None = None
        self._error: BaseException | None = None
        self._thread: TreeThread | None = None
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
        tree = self._tree
        child = self.get_childspec(name)
        if self._error is not None:
            raise self._error
        try:
            if tree is None:
                raise KeyError(name)
            return tree.value(name)
        except KeyError:
            raise InstanceClosed(f"{child.name} of {self.name}") from None

    def get_childspec(self, name: str) -> Child:
        """What the child of that name was specified as.

        Raises:
            KeyError: there is none.
        """
        return self._children[name] if self._tree is None else spec_of(self._tree, name)

    def which_children(self) -> tuple[ChildStatus, ...]:
        """The children as they are now, in the order of their start."""
        found: list[ChildStatus] = []
        tree = self._tree
        for child in () if tree is None else tree.children():
            assert tree is not None
            with suppress(KeyError):  # it is being removed
                rules, kind = child.rules, kind_of(spec_of(tree, child.rules.name).what)
                found.append(
                    ChildStatus(
                        name=rules.name, status=child.status, restart=rules.restart, kind=kind
                    )
                )
        return tuple(found)

    def count_children(self) -> ChildCounts:
        """How many children there are now."""
        children = self.which_children()
        supervisors = sum(child.kind == "supervisor" for child in children)
        return ChildCounts(
            specs=len(children),
            active=sum(child.status == "running" for child in children),
            supervisors=supervisors,
            workers=len(children) - supervisors,
        )

    # --- orders ---------------------------------------------------------------------------------

    def start_child(self, child: Child) -> Any:
        """Add a child while the supervisor runs, as the last one, and start it. It is lost when the
        supervisor ends.

        Like the other orders it is carried out between two exits, one at a time, and for ``with``:
        ``async with`` gives what has them to be awaited.

        Returns:
            The child, as ``supervisor[child.name]``.

        Raises:
            ChildConflict: there is one of that name, running or not.
            ConfigurationError: it cannot be a child of this supervisor.
            InstanceClosed: the supervisor is over.
            PoolError: the supervisor waits for the child that asks: it is not up yet, or being
                ended.
            Exception: what it could not be started for. Then it is not added.
        """
        return self._wait(self.starting(child))

    def terminate_child(self, name: str) -> None:
        """End a child. It stays known, for ``restart_child`` and for restarts of all, unless it is
        temporary. That a significant child was ended so does not end the supervisor.

        Raises:
            KeyError: there is none of that name.
            InstanceClosed: the supervisor is over.
        """
        self._wait(lambda tree: tree.terminate_child(name))

    def restart_child(self, name: str) -> Any:
        """Start a child that was ended, or has ended by itself and was not restarted. It does not
        count as a restart.

        Returns:
            The child. An instance is another one than before.

        Raises:
            KeyError: there is none of that name; a temporary one is forgotten when it ends.
            ChildConflict: it runs, or is being restarted.
            InstanceClosed: the supervisor is over.
            Exception: what it could not be started for. It stays as it was.
        """
        return self._wait(lambda tree: tree.restart_child(name))

    def delete_child(self, name: str) -> None:
        """Forget a child that does not run.

        Raises:
            KeyError: there is none of that name.
            ChildConflict: it runs, or is being restarted.
            InstanceClosed: the supervisor is over.
        """
        self._wait(lambda tree: tree.delete_child(name))

    def starting(self, child: Child) -> Act[Any]:
        """The order that ``start_child`` gives."""
        check_kind("child", child, Child)
        check_significant(child, self._state.auto_shutdown)
        return lambda tree: tree.start_child(self._branch(child, self._synchronous))

    def order(self, act: Act[T]) -> Order[T]:
        """Give an order; from any thread."""
        order, tree = Order(act, lives.get()), self._tree
        if tree is None or self._token is None:
            order.refuse()
            return order
        try:
            self._token.run_sync_soon(tree.take, order)
        except trio.RunFinishedError:
            order.refuse()
        return order

    def answer(self, order: Order[T]) -> T:
        """What became of an order; waits for it."""
        try:
            return order.answer.result()
        except TreeOver:
            raise self._error or InstanceClosed(self.name) from None

    def _wait(self, act: Act[T]) -> T:
        if _in_run(self._token):
            raise PoolError(
                f"the supervisor {self.name} would wait for itself",
                "await the order of what `async with` gives, or give it from another thread",
            )
        return self.answer(self.order(act))

    # --- life -----------------------------------------------------------------------------------

    def _make(self, synchronous: bool) -> Tree:
        branches = {
            name: self._branch(child, synchronous) for name, child in self._children.items()
        }
        self._synchronous, self._token = synchronous, trio.lowlevel.current_trio_token()
        self._error = None
        self._tree = Tree(self._state, branches, self._on_event)
        return self._tree

    def _branch(self, child: Child, synchronous: bool) -> Branch:
        rules = ChildRules(name=child.name, restart=child.restart, significant=child.significant)
        what = child.what
        if isinstance(what, Serves):
            run: Callable[[Started], Awaitable[None]] = partial(what.serve, synchronous=synchronous)
            return Branch(rules=rules, run=run, origin=child)
        if isinstance(what, Runnable):
            run, forget, lasting = what.bind(synchronous, self.__getitem__)
            return Branch(rules=rules, run=run, forget=forget, lasting=lasting, origin=child)
        return Branch(rules=rules, run=partial(run_task, what), origin=child)

    @property
    def failure(self) -> BaseException | None:
        """``RestartIntensityReached`` where it gave up."""
        return self._error

    async def serve(self, started: Started, *, synchronous: bool) -> None:
        """Run it, for ``with``, ``async with`` and the supervisor above."""
        from .trio_supervision import TrioSupervisor

        tree = self._make(synchronous)
        face = self if synchronous else TrioSupervisor(self)
        try:
            await tree.serve(Started(lambda _: started.started(face)))
        except TreeEnded as ended:
            if ended.reason == "intensity":
                self._error = intensity_reached(ended, self.name)
            raise
        finally:
            tree.close()

    async def __aenter__(self) -> TrioSupervisor:
        from .trio_supervision import TrioSupervisor

        self._block = block(self)
        await self._block.__aenter__()
        return TrioSupervisor(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """End the children, the last first."""
        return await self._block.__aexit__(kind, error, traceback)  # type: ignore[no-any-return]

    def __enter__(self) -> Supervisor:
        self._thread = TreeThread(self)
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


def _in_run(token: trio.lowlevel.TrioToken | None) -> bool:
    """Whether this is code of that trio run."""
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # of none
        return False
