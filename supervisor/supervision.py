"""What a supervision tree does: pure decisions, with no clock and no process in them.

The words and the rules are those of Erlang/OTP's ``supervisor``:

* Children are started in order and ended in the reverse order. A child that cannot be started for
  the first time ends those before it, and the tree does not come to be.
* ``permanent`` children are always restarted, ``transient`` ones after an abnormal exit,
  ``temporary`` ones never: those are forgotten when they end, and so are those that a sibling's
  death ended.
* ``one_for_one`` restarts the child alone; ``rest_for_one`` it and those after it; ``one_for_all``
  all. Those that run are ended first. All of them are started, also a transient one that had ended
  normally before.
* More than ``intensity`` restarts within ``period`` seconds, and the tree ends. A restart that was
  exactly ``period`` seconds ago still counts. An attempt to start that fails is tried again, and is
  one more restart.
* A ``significant`` child that ends by itself, and is not to be restarted, ends the tree
  (``any_significant``), or does so if it was the last of them (``all_significant``). One that a
  sibling's death or the user ended does not.
* Children can be added while it runs, as the last ones, and ended, started again and taken out by
  the user. None of that is a restart, nor the end of a significant child; what may not be done is a
  ``Refusal``.
* A tree that ends itself for one of these reasons exits with ``shutdown``: to the tree above that
  is a normal exit, after which only a ``permanent`` child is restarted.

One thing differs: a start that fails is tried again after a pause, so that a broken machine is not
hammered.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.policies import RestartPolicy, RestartType
from .restart import backoff, should_restart

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]
Status = Literal["running", "restarting", "stopped"]
Refusal = Literal["not_found", "running", "restarting", "already_present", "already_started"]
"""Why the user cannot have what they ask for: OTP's words."""
REFUSALS: dict[Refusal, str] = {
    "not_found": "there is no such child",
    "running": "it runs; terminate_child ends it",
    "restarting": "it is being restarted; terminate_child ends that",
    "already_present": "it does not run; restart_child starts it, delete_child removes it",
    "already_started": "it was started before",
}
"""The same in ours."""


class ChildRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the tree knows of a child."""

    name: str
    restart: RestartType = "permanent"
    significant: bool = False


class ChildState(msgspec.Struct, frozen=True):
    """A child; ``restarting`` is one that could not be started, and will be tried again."""

    rules: ChildRules
    status: Status = "stopped"


class TreeState(msgspec.Struct, frozen=True, kw_only=True):
    """A tree between two events. ``children`` are in the order of their start."""

    strategy: Strategy
    policy: RestartPolicy
    auto_shutdown: AutoShutdown = "never"
    children: tuple[ChildState, ...] = ()
    restarts: tuple[float, ...] = ()
    """Times of the restarts that still count, oldest first."""
    failed_starts: int = 0
    """Starts that failed in a row."""

    def child(self, name: str) -> ChildState | None:
        """The child of that name."""
        return next((child for child in self.children if child.rules.name == name), None)


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """End ``stop``, then start ``start``, in these orders. Where one cannot be started go no
    further, and say so by ``start_failed``."""

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()


class End(msgspec.Struct, frozen=True):
    """End all children, the last first, and the tree."""

    reason: Literal["intensity", "auto_shutdown"]


class Nothing(msgspec.Struct, frozen=True):
    """Nothing follows."""


Decision = Restart | End | Nothing


class TryAgain(msgspec.Struct, frozen=True):
    """Call ``try_again`` with ``name`` after so many seconds; deal with exits until then."""

    name: str
    after: float


def started(state: TreeState, name: str) -> TreeState:
    """A child is up."""
    state = _mark(state, name, "running")
    if _restarting(state):
        return state
    return msgspec.structs.replace(state, failed_starts=0)


def exited(state: TreeState, name: str, *, normal: bool, when: float) -> tuple[TreeState, Decision]:
    """A child ended by itself; ``normal`` is what OTP calls ``normal`` or ``shutdown``."""
    child = state.child(name)
    assert child is not None
    assert child.status == "running"
    state = _mark(state, name, "stopped")
    if should_restart(child.rules.restart, normal_exit=normal):
        return _restart(state, name, when)
    if child.rules.restart == "temporary":
        state = removed(state, name)
    if _ends_the_tree(state, child.rules):
        return state, End("auto_shutdown")
    return state, Nothing()


def start_failed(state: TreeState, name: str) -> tuple[TreeState, TryAgain]:
    """A child that was to be restarted could not be started."""
    failed = state.failed_starts + 1
    state = msgspec.structs.replace(_mark(state, name, "restarting"), failed_starts=failed)
    return state, TryAgain(name, backoff(state.policy, failed))


def try_again(state: TreeState, name: str, *, when: float) -> tuple[TreeState, Decision]:
    """It is time to start that child, unless that was done meanwhile."""
    child = state.child(name)
    if child is None or child.status != "restarting":
        return state, Nothing()
    return _restart(state, name, when)


def stopped(state: TreeState, name: str) -> TreeState:
    """A child was ended, by the tree or by the user."""
    child = state.child(name)
    assert child is not None
    if child.rules.restart == "temporary":
        return removed(state, name)
    state = _mark(state, name, "stopped")
    return state if _restarting(state) else msgspec.structs.replace(state, failed_starts=0)


def added(state: TreeState, rules: ChildRules) -> TreeState | Refusal:
    """The user adds a child, as the last one. It is to be started, and removed where it cannot
    be."""
    child = state.child(rules.name)
    if child is not None:
        return "already_present" if child.status == "stopped" else "already_started"
    return msgspec.structs.replace(state, children=(*state.children, ChildState(rules)))


def refusal(state: TreeState, name: str) -> Refusal | None:
    """Why a child can neither be started again nor removed, if so: only a stopped one can."""
    child = state.child(name)
    if child is None:
        return "not_found"
    return None if child.status == "stopped" else child.status


def removed(state: TreeState, name: str) -> TreeState:
    """Without a child that does not run."""
    return msgspec.structs.replace(
        state, children=tuple(child for child in state.children if child.rules.name != name)
    )


def _restart(state: TreeState, name: str, when: float) -> tuple[TreeState, Decision]:
    policy = state.policy
    restarts = *(t for t in state.restarts if when <= t + policy.period), when
    state = msgspec.structs.replace(state, restarts=restarts)
    # Starts that fail in a row are bounded by their number, too: with pauses between them they
    # might never fill the period.
    if len(restarts) > policy.intensity or state.failed_starts > policy.intensity:
        return state, End("intensity")
    names = [child.rules.name for child in state.children]
    match state.strategy:
        case "one_for_one":
            concerned = [name]
        case "rest_for_one":
            concerned = names[names.index(name) :]
        case "one_for_all":
            concerned = names
    alive = [each for each in concerned if _status(state, each) == "running"]
    for each in alive:
        state = stopped(state, each)
    return state, Restart(
        stop=tuple(reversed(alive)),
        start=tuple(each for each in concerned if state.child(each) is not None),
    )


def _ends_the_tree(state: TreeState, rules: ChildRules) -> bool:
    if not rules.significant or state.auto_shutdown == "never":
        return False
    if state.auto_shutdown == "any_significant":
        return True
    return not any(
        child.rules.significant and child.status != "stopped" for child in state.children
    )


def _restarting(state: TreeState) -> bool:
    return any(child.status == "restarting" for child in state.children)


def _status(state: TreeState, name: str) -> Status:
    child = state.child(name)
    assert child is not None
    return child.status


def _mark(state: TreeState, name: str, status: Status) -> TreeState:
    return msgspec.structs.replace(
        state,
        children=tuple(
            ChildState(child.rules, status) if child.rules.name == name else child
            for child in state.children
        ),
    )
