"""A tree decides as OTP's supervisor does: a table of scenarios, and a machine that tries more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wasm_sandbox.protocol.policies import RestartPolicy
from wasm_sandbox.supervisor.supervision import (
    ChildRules,
    ChildState,
    Decision,
    End,
    Nothing,
    Restart,
    TreeState,
    TryAgain,
    added,
    exited,
    refusal,
    removed,
    start_failed,
    started,
    stopped,
    try_again,
)

STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
TYPES = ("permanent", "transient", "temporary")


def tree(strategy: Any, *kinds: Any, intensity: int = 1, **more: Any) -> TreeState:
    """A tree of children ``a``, ``b``, … of these restart types, all running; ``!`` behind one says
    that it is significant."""
    children = tuple(
        ChildState(
            ChildRules(name=name, restart=kind.rstrip("!"), significant=kind.endswith("!")),
            "running",
        )
        for name, kind in zip("abcdef", kinds, strict=False)
    )
    policy = RestartPolicy(intensity=intensity, period=5, backoff_first=0.5, backoff_max=8)
    return TreeState(strategy=strategy, policy=policy, children=children, **more)


def statuses(state: TreeState) -> dict[str, str]:
    return {child.rules.name: child.status for child in state.children}


# --- who is restarted, by restart type (supervisor(3), "restart" of a child specification) --------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("kind", "normal", "restarts"),
    [
        ("permanent", True, True),
        ("permanent", False, True),
        ("transient", True, False),
        ("transient", False, True),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
)
def test_the_restart_type_decides(strategy: str, kind: str, normal: bool, restarts: bool) -> None:
    state, decision = exited(tree(strategy, kind), "a", normal=normal, when=0)
    assert decision == (Restart(start=("a",)) if restarts else Nothing())
    # A transient child that ended is remembered, a temporary one is not.
    assert statuses(state) == ({} if kind == "temporary" else {"a": "stopped"})


# --- who else is restarted, by strategy ("Restart Strategies" of the design principles) -----------


@pytest.mark.parametrize(
    ("strategy", "dies", "stop", "start"),
    [
        ("one_for_one", "a", "", "a"),
        ("one_for_one", "b", "", "b"),
        ("one_for_one", "d", "", "d"),
        ("one_for_all", "a", "dcb", "abcd"),
        ("one_for_all", "b", "dca", "abcd"),
        ("one_for_all", "d", "cba", "abcd"),
        ("rest_for_one", "a", "dcb", "abcd"),
        ("rest_for_one", "b", "dc", "bcd"),
        ("rest_for_one", "d", "", "d"),
    ],
)
def test_the_strategy_decides_who_is_ended_and_started_in_which_order(
    strategy: str, dies: str, stop: str, start: str
) -> None:
    state, decision = exited(tree(strategy, *["permanent"] * 4), dies, normal=False, when=0)
    assert decision == Restart(stop=tuple(stop), start=tuple(start))
    for name in start:
        assert statuses(state)[name] == "stopped"
        state = started(state, name)
    assert set(statuses(state).values()) == {"running"}


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_temporary_sibling_is_ended_and_not_started_again(strategy: str) -> None:
    state, decision = exited(
        tree(strategy, "permanent", "temporary", "transient"), "a", normal=False, when=0
    )
    assert decision == Restart(stop=("c", "b"), start=("a", "c"))
    assert statuses(state) == {"a": "stopped", "c": "stopped"}


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_transient_sibling_that_had_ended_is_started_again(strategy: str) -> None:
    state, decision = exited(tree(strategy, "permanent", "transient"), "b", normal=True, when=0)
    assert decision == Nothing()
    state, decision = exited(state, "a", normal=False, when=1)
    assert decision == Restart(start=("a", "b"))


def test_a_child_that_ended_is_left_alone_by_one_for_one() -> None:
    state, _ = exited(tree("one_for_one", "permanent", "transient"), "b", normal=True, when=0)
    state, decision = exited(state, "a", normal=False, when=1)
    assert decision == Restart(start=("a",))
    assert statuses(state)["b"] == "stopped"


# --- intensity and period ("Maximum Restart Intensity") -------------------------------------------


@pytest.mark.parametrize(
    ("intensity", "times", "ends"),
    [
        (0, [0], True),
        (1, [0], False),
        (1, [0, 1], True),
        (1, [0, 5], True),  # exactly the period ago still counts
        (1, [0, 5.001], False),
        (1, [0, 5.001, 10.003], False),
        (3, [0, 1, 2], False),
        (3, [0, 1, 2, 3], True),
        (3, [0, 1, 2, 6], False),
    ],
)
def test_more_restarts_than_the_intensity_within_the_period_end_the_tree(
    intensity: int, times: list[float], ends: bool
) -> None:
    state = tree("one_for_one", "permanent", "permanent", intensity=intensity)
    decision: Decision = Nothing()
    name = ""
    for at, when in enumerate(times):
        name = "ab"[at % 2]  # they count together
        state, decision = exited(state, name, normal=False, when=when)
        if isinstance(decision, Restart):
            state = started(state, name)
    assert decision == (End("intensity") if ends else Restart(start=(name,)))


def test_ends_that_are_followed_by_no_restart_do_not_count() -> None:
    state = tree("one_for_one", "temporary", "transient", "permanent", intensity=1)
    state, _ = exited(state, "a", normal=False, when=0)
    state, _ = exited(state, "b", normal=True, when=0)
    assert exited(state, "c", normal=False, when=0)[1] == Restart(start=("c",))


def test_a_restart_of_many_children_counts_once() -> None:
    state = tree("one_for_all", *["permanent"] * 4, intensity=1)
    assert isinstance(exited(state, "a", normal=False, when=0)[1], Restart)


# --- starts that fail -----------------------------------------------------------------------------


def test_a_start_that_fails_is_tried_again_later_and_counts() -> None:
    state = tree("one_for_one", "permanent", "permanent", intensity=3)
    state, _ = exited(state, "a", normal=False, when=0)
    for when, after in ((1, 0.5), (2, 1.0)):
        state, later = start_failed(state, "a")
        assert later == TryAgain("a", after)
        assert statuses(state) == {"a": "restarting", "b": "running"}
        state, decision = try_again(state, "a", when=when)
        assert decision == Restart(start=("a",))
    failed, _ = start_failed(state, "a")
    assert try_again(failed, "a", when=3)[1] == End("intensity")
    state = started(state, "a")
    assert state.failed_starts == 0
    assert statuses(state) == {"a": "running", "b": "running"}


def test_what_was_started_meanwhile_is_not_tried_again() -> None:
    state = tree("rest_for_one", "permanent", "permanent", intensity=3)
    state, _ = exited(state, "b", normal=False, when=0)
    state, _ = start_failed(state, "b")
    state, decision = exited(state, "a", normal=False, when=0)
    assert decision == Restart(start=("a", "b"))
    state = started(started(state, "a"), "b")
    assert try_again(state, "b", when=1) == (state, Nothing())
    state = tree("one_for_all", "permanent", "transient", intensity=3)
    assert try_again(state, "gone", when=1) == (state, Nothing())


def test_starts_that_fail_slowly_end_the_tree_too() -> None:
    state = tree("one_for_one", "permanent", intensity=2)
    state, decision = exited(state, "a", normal=False, when=0)
    for number in range(3):
        assert isinstance(decision, Restart)
        state, _ = start_failed(state, "a")
        state, decision = try_again(state, "a", when=100.0 * number)
    assert decision == End("intensity")


def test_where_a_start_fails_the_strategy_is_applied_to_that_child() -> None:
    state = tree("rest_for_one", "permanent", "permanent", "permanent", intensity=9)
    state, decision = exited(state, "a", normal=False, when=0)
    assert decision == Restart(stop=("c", "b"), start=("a", "b", "c"))
    state, later = start_failed(started(state, "a"), "b")
    assert later == TryAgain("b", 0.5)
    state, decision = try_again(state, "b", when=0)
    assert decision == Restart(start=("b", "c"))
    state = tree("one_for_all", "permanent", "permanent", "permanent", intensity=9)
    state, _ = exited(state, "a", normal=False, when=0)
    for after in (0.5, 1.0):  # that others come up does not make it forget how often this failed
        state, later = start_failed(started(state, "a"), "b")
        assert later == TryAgain("b", after)
        state, decision = try_again(state, "b", when=0)
        assert decision == Restart(stop=("a",), start=("a", "b", "c"))


# --- significant children ("Automatic Shutdown") --------------------------------------------------


@pytest.mark.parametrize(
    ("auto", "kinds", "deaths", "ends"),
    [
        ("never", ["transient!", "permanent"], [("a", True)], False),
        ("any_significant", ["transient!", "permanent"], [("a", True)], True),
        ("any_significant", ["transient!", "permanent"], [("a", False)], False),
        ("any_significant", ["temporary!", "permanent"], [("a", False)], True),
        ("any_significant", ["temporary", "temporary!"], [("a", True)], False),
        ("all_significant", ["transient!", "transient!"], [("a", True)], False),
        ("all_significant", ["transient!", "transient!"], [("a", True), ("b", True)], True),
        ("all_significant", ["temporary!", "transient!"], [("a", False), ("b", True)], True),
        ("all_significant", ["temporary!", "transient!"], [("b", True), ("a", False)], True),
        ("all_significant", ["transient!", "transient"], [("b", True)], False),
    ],
)
def test_a_significant_child_that_ends_by_itself_may_end_the_tree(
    auto: Any, kinds: list[str], deaths: list[tuple[str, bool]], ends: bool
) -> None:
    state = tree("one_for_one", *kinds, intensity=9, auto_shutdown=auto)
    decision: Decision = Nothing()
    for name, normal in deaths:
        state, decision = exited(state, name, normal=normal, when=0)
    assert (decision == End("auto_shutdown")) is ends


def test_a_significant_child_that_a_sibling_took_along_does_not_end_the_tree() -> None:
    state = tree("one_for_all", "permanent", "temporary!", auto_shutdown="any_significant")
    state, decision = exited(state, "a", normal=False, when=0)
    assert decision == Restart(stop=("b",), start=("a",))
    assert statuses(state) == {"a": "stopped"}


# --- what the user may do (supervisor(3), start_child/2 to delete_child/2) ------------------------


def in_state(status: str, kind: str = "permanent") -> TreeState:
    """A tree of one child in that status."""
    state = tree("one_for_one", kind, intensity=9)
    if status == "stopped":
        return stopped(state, "a")
    if status == "restarting":
        return start_failed(exited(state, "a", normal=False, when=0)[0], "a")[0]
    return state


@pytest.mark.parametrize(
    ("status", "start", "restart", "delete"),
    [
        ("running", "already_started", "running", "running"),
        ("restarting", "already_started", "restarting", "restarting"),
        ("stopped", "already_present", None, None),
        (None, None, "not_found", "not_found"),
    ],
)
def test_the_state_of_a_child_decides_what_may_be_done(
    status: str | None, start: str | None, restart: str | None, delete: str | None
) -> None:
    state = tree("one_for_one") if status is None else in_state(status)
    assert statuses(state).get("a") == status
    got = added(state, ChildRules(name="a"))
    assert (got if isinstance(got, str) else None) == start
    assert restart == delete == refusal(state, "a")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", TYPES)
def test_an_added_child_is_the_last(strategy: str, kind: Any) -> None:
    state = added(
        tree(strategy, "permanent", "permanent", intensity=9), ChildRules(name="z", restart=kind)
    )
    assert isinstance(state, TreeState)
    state = started(state, "z")
    assert list(statuses(state)) == ["a", "b", "z"]
    again = () if kind == "temporary" else ("z",)
    assert (
        exited(state, "b", normal=False, when=0)[1]
        == {
            "one_for_one": Restart(start=("b",)),
            "rest_for_one": Restart(stop=("z",), start=("b", *again)),
            "one_for_all": Restart(stop=("z", "a"), start=("a", "b", *again)),
        }[strategy]
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("status", ["running", "restarting", "stopped"])
def test_what_the_user_ended_is_kept_unless_temporary(kind: str, status: str) -> None:
    if kind == "temporary" and status != "running":
        return  # there is no such child
    state = stopped(in_state(status, kind), "a")
    assert statuses(state) == ({} if kind == "temporary" else {"a": "stopped"})
    assert state.failed_starts == 0
    # The pause after which it was to be tried again is over, and nothing follows.
    assert try_again(state, "a", when=9) == (state, Nothing())


@pytest.mark.parametrize(
    ("strategy", "start"), [("one_for_one", "a"), ("rest_for_one", "abc"), ("one_for_all", "abc")]
)
def test_what_the_user_ended_is_started_with_all(strategy: str, start: str) -> None:
    state = stopped(tree(strategy, *["permanent"] * 3), "b")
    decision = exited(state, "a", normal=False, when=0)[1]
    assert isinstance(decision, Restart)
    assert decision.start == tuple(start)
    assert "b" not in decision.stop


def test_what_was_removed_is_started_with_nobody() -> None:
    state = removed(stopped(tree("one_for_all", *["permanent"] * 3), "b"), "b")
    assert exited(state, "a", normal=False, when=0)[1] == Restart(stop=("c",), start=("a", "c"))


def test_what_the_user_does_is_no_restart() -> None:
    state = tree("one_for_one", "permanent", "permanent", intensity=1)
    for _ in range(5):
        state = started(stopped(state, "a"), "a")
    assert state.restarts == ()
    assert exited(state, "b", normal=False, when=0)[1] == Restart(start=("b",))


@pytest.mark.parametrize("auto", ["any_significant", "all_significant"])
def test_a_significant_child_that_the_user_ended_does_not_end_the_tree(auto: Any) -> None:
    state = tree("one_for_one", "transient!", "transient!", "permanent", auto_shutdown=auto)
    state = stopped(state, "a")
    # It is no longer active: b is the last.
    assert exited(state, "b", normal=True, when=0)[1] == End("auto_shutdown")


# --- whatever happens -----------------------------------------------------------------------------


class Trees(RuleBasedStateMachine):
    """A tree that is told of exits and failed starts in any order, and carries out what it
    decides."""

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        kinds=st.lists(st.sampled_from(TYPES), min_size=1, max_size=5),
        intensity=st.integers(0, 4),
    )
    def make(self, strategy: Any, kinds: list[str], intensity: int) -> None:
        self.state = tree(strategy, *kinds, intensity=intensity)
        self.kinds = dict(zip("abcdef", kinds, strict=False))
        self.order = list(self.kinds)
        self.alive = list(self.order)
        self.intensity = intensity
        self.now = 0.0
        self.counted: list[float] = []
        self.over = False

    @rule(data=st.data(), normal=st.booleans(), fails=st.integers(0, 3), wait=st.floats(0, 4))
    def exit(self, data: st.DataObject, normal: bool, fails: int, wait: float) -> None:
        if self.over or not self.alive:
            return
        self.now += wait
        name = data.draw(st.sampled_from(self.alive))
        self.alive.remove(name)
        self.state, decision = exited(self.state, name, normal=normal, when=self.now)
        kind = self.kinds[name]
        restarts = kind == "permanent" or (kind == "transient" and not normal)
        assert isinstance(decision, Nothing) is not restarts
        failures = 0
        while True:
            if restarts:
                self.counted.append(self.now)
            if isinstance(decision, End):
                assert decision.reason == "intensity"
                recent = [t for t in self.counted if self.now <= t + 5]
                assert len(recent) > self.intensity or failures > self.intensity
                self.over = True
                return
            if not isinstance(decision, Restart):
                return
            failed = self.carry_out(decision, fails > 0)
            if failed is None:
                return
            fails -= 1
            failures += 1
            self.state, later = start_failed(self.state, failed)
            self.now += later.after
            self.state, decision = try_again(self.state, failed, when=self.now)

    def carry_out(self, decision: Restart, fails: bool) -> str | None:
        # What is ended runs, from the last to the first; what is started does not, in order.
        assert list(decision.stop) == [n for n in reversed(self.order) if n in decision.stop]
        assert set(decision.stop) <= set(self.alive)
        self.alive = [name for name in self.alive if name not in decision.stop]
        assert list(decision.start) == [n for n in self.order if n in decision.start]
        assert not set(decision.start) & set(self.alive)
        for name in decision.start:
            assert self.kinds[name] != "temporary"
            if fails and name == decision.start[-1]:
                return name
            self.alive.append(name)
            self.state = started(self.state, name)
        return None

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """The user ends one."""
        if self.over or not self.alive:
            return
        name = data.draw(st.sampled_from(self.alive))
        self.alive.remove(name)
        self.state = stopped(self.state, name)
        if self.kinds[name] == "temporary":
            self.order.remove(name)

    @rule(kind=st.sampled_from(TYPES))
    def add(self, kind: Any) -> None:
        """The user adds one."""
        if self.over or len(self.kinds) > 12:
            return
        name = f"n{len(self.kinds)}"
        state = added(self.state, ChildRules(name=name, restart=kind))
        assert isinstance(state, TreeState)
        self.state = started(state, name)
        self.kinds[name] = kind
        self.order.append(name)
        self.alive.append(name)

    @rule(data=st.data(), delete=st.booleans())
    def use_what_was_ended(self, data: st.DataObject, delete: bool) -> None:
        """The user starts one again, or removes it."""
        found = [name for name in statuses(self.state) if refusal(self.state, name) is None]
        assert not set(found) & set(self.alive)
        if self.over or not found:
            return
        name = data.draw(st.sampled_from(found))
        if delete:
            self.state = removed(self.state, name)
            self.order.remove(name)
        else:
            self.state = started(self.state, name)
            self.alive.append(name)

    @invariant()
    def it_knows_who_runs(self) -> None:
        if not hasattr(self, "state") or self.over:
            return
        running = {name for name, status in statuses(self.state).items() if status == "running"}
        assert running == set(self.alive)
        assert all(
            self.kinds[name] != "temporary"
            for name, status in statuses(self.state).items()
            if status != "running"
        )


TestTrees = Trees.TestCase
