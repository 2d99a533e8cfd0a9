"""Dead workers are replaced by OTP's rule, guests cannot close the pool, and waits are bounded."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wasm_sandbox.protocol.policies import Recycle, RestartPolicy, RestartType
from wasm_sandbox.supervisor.restart import (
    Death,
    Decision,
    GiveUp,
    History,
    Ignore,
    Phase,
    Restart,
    backoff,
    became_ready,
    decide,
    recycle_reason,
    should_restart,
)

POLICY = RestartPolicy(
    intensity=3, period=5.0, backoff_first=0.1, backoff_factor=2.0, backoff_max=0.3
)
NOW = Restart(0.0)
GIVE_UP = GiveUp("any")

SCENARIOS: dict[str, list[tuple[float, str, Decision]]] = {
    "idle deaths are forgiven up to the intensity, and no further": [
        (0.0, "idle", NOW),
        (1.0, "idle", NOW),
        (2.0, "idle", NOW),
        (3.0, "idle", GIVE_UP),
    ],
    "a death that has left the window does not count": [
        (0.0, "idle", NOW),
        (1.0, "idle", NOW),
        (2.0, "idle", NOW),
        (5.01, "idle", NOW),
        (5.02, "idle", GIVE_UP),
    ],
    "a death exactly one period ago counts, as in OTP": [
        (0.0, "idle", NOW),
        (1.0, "idle", NOW),
        (2.0, "idle", NOW),
        (5.0, "idle", GIVE_UP),
    ],
    "workers lost during calls are replaced at once, however many": [(0.0, "busy", NOW)] * 50,
    "calls do not add to the count of others": [
        (0.0, "idle", NOW),
        (0.1, "busy", NOW),
        (0.2, "idle", NOW),
        (0.3, "busy", NOW),
        (0.4, "idle", NOW),
        (0.5, "idle", GIVE_UP),
    ],
    "failed starts wait longer each time, up to the bound, and count": [
        (0.0, "starting", Restart(0.1)),
        (0.1, "starting", Restart(0.2)),
        (0.3, "starting", Restart(0.3)),
        (0.6, "starting", GIVE_UP),
    ],
    "ready resets the wait but not the window": [
        (0.0, "starting", Restart(0.1)),
        (0.1, "starting", Restart(0.2)),
        (0.3, "ready", Ignore()),
        (0.4, "starting", Restart(0.1)),
        (0.5, "starting", GIVE_UP),
    ],
    "starts that fail too slowly to fill the window still end it": [
        (0.0, "starting", Restart(0.1)),
        (10.0, "starting", Restart(0.2)),
        (20.0, "starting", Restart(0.3)),
        (30.0, "starting", GIVE_UP),
    ],
    "slow failures with a success between them go on for ever": [
        (0.0, "starting", Restart(0.1)),
        (10.0, "starting", Restart(0.2)),
        (20.0, "ready", Ignore()),
        (30.0, "starting", Restart(0.1)),
        (40.0, "starting", Restart(0.2)),
    ],
    "an idle death after failed starts is replaced without a wait": [
        (0.0, "starting", Restart(0.1)),
        (0.1, "idle", NOW),
    ],
    "a stop that was asked for is no death": [(0.0, "stopping", Ignore())] * 9,
    "whoever is asked for is not replaced, whatever it was doing": [
        (0.0, "asked idle", Ignore()),
        (0.0, "asked starting", Ignore()),
        (0.0, "asked busy", Ignore()),
    ]
    * 3,
    "a recycled worker is replaced at once and not counted": [
        (0.0, "recycled stopping", NOW),
        (0.0, "recycled idle", NOW),
    ]
    * 5,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str) -> None:
    history = History()
    for when, event, expected in SCENARIOS[scenario]:
        if event == "ready":
            history = became_ready(history)
            continue
        history, decision = decide(POLICY, history, _death(when, event))
        if isinstance(expected, GiveUp):
            assert isinstance(decision, GiveUp)
        else:
            assert decision == expected


def _death(when: float, event: str) -> Death:
    phases: dict[str, Phase] = {
        "starting": "starting",
        "idle": "idle",
        "busy": "busy",
        "stopping": "stopping",
    }
    how, _, phase = event.rpartition(" ")
    return Death(when=when, phase=phases[phase], asked=how == "asked", recycled=how == "recycled")


def test_an_intensity_of_zero_forgives_nothing_but_calls() -> None:
    strict = RestartPolicy(intensity=0)
    assert decide(strict, History(), Death(when=0.0, phase="busy"))[1] == NOW
    assert isinstance(decide(strict, History(), Death(when=0.0, phase="idle"))[1], GiveUp)


def test_the_reason_for_giving_up_has_the_numbers_in_it() -> None:
    strict = RestartPolicy(intensity=0, period=7.5)
    _, decision = decide(strict, History(), Death(when=0.0, phase="idle"))
    assert isinstance(decision, GiveUp)
    assert "1 workers died within 7.5 s" in decision.reason


def test_a_machine_on_which_nothing_starts_is_given_up_by_the_defaults() -> None:
    history, when = History(), 0.0
    for attempt in range(100):
        history, decision = decide(RestartPolicy(), history, Death(when=when, phase="starting"))
        if isinstance(decision, GiveUp):
            assert attempt == RestartPolicy().intensity
            return
        assert isinstance(decision, Restart)
        when += decision.after + 1.0
    pytest.fail("it would go on for ever")


@pytest.mark.parametrize(
    "policy",
    [
        RestartPolicy(),
        RestartPolicy(backoff_factor=1000.0, backoff_max=3600.0),
        RestartPolicy(backoff_factor=1.0),
        RestartPolicy(backoff_first=0),
        RestartPolicy(backoff_first=5e-324, backoff_max=3600.0, backoff_factor=1.0000001),
    ],
)
def test_the_wait_grows_and_stays_within_its_bounds_after_any_number_of_failures(
    policy: RestartPolicy,
) -> None:
    waits = [backoff(policy, failures) for failures in (1, 2, 3, 10, 100, 10_000, 10_000_000)]
    assert waits[0] == policy.backoff_first
    assert waits == sorted(waits)
    assert all(policy.backoff_first <= wait <= policy.backoff_max for wait in waits)


@pytest.mark.parametrize(
    ("kind", "after_normal", "after_abnormal"),
    [("permanent", True, True), ("transient", False, True), ("temporary", False, False)],
)
def test_children_are_restarted_by_their_type(
    kind: RestartType, after_normal: bool, after_abnormal: bool
) -> None:
    assert should_restart(kind, normal_exit=True) is after_normal
    assert should_restart(kind, normal_exit=False) is after_abnormal


@pytest.mark.parametrize(
    ("calls", "age", "memory_growth", "reason"),
    [
        (9, 9.9, 10, None),
        (10, 0.0, 0, "calls"),
        (0, 10.0, 0, "age"),
        (0, 0.0, 11, "memory"),
        (10, 10.0, 11, "calls"),
    ],
)
def test_a_worker_is_recycled_at_the_first_bound_that_it_reaches(
    calls: int, age: float, memory_growth: int, reason: str | None
) -> None:
    recycle = Recycle(max_calls=10, max_age=10.0, max_memory_growth=10)
    assert recycle_reason(recycle, calls=calls, age=age, memory_growth=memory_growth) == reason
    never = Recycle(max_calls=None, max_age=None, max_memory_growth=None)
    assert recycle_reason(never, calls=calls, age=age, memory_growth=memory_growth) is None


class Supervision(RuleBasedStateMachine):
    """Deaths of every kind, at any time, against a record that forgets nothing."""

    @initialize(
        intensity=st.integers(0, 5),
        period=st.floats(0.01, 10),
        first=st.floats(0, 1),
        factor=st.floats(1, 10),
        longest=st.floats(1, 10),
    )
    def begin(
        self, intensity: int, period: float, first: float, factor: float, longest: float
    ) -> None:
        self.policy = RestartPolicy(
            intensity=intensity,
            period=period,
            backoff_first=first,
            backoff_factor=factor,
            backoff_max=longest,
        )
        self.history = History()
        self.now = 0.0
        self.counted: list[float] = []
        self.failed_in_a_row = 0
        self.gave_up = False

    @rule(seconds=st.one_of(st.floats(0, 0.1), st.floats(0, 20)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_worker_becomes_ready(self) -> None:
        counted = self.history.counted
        self.history = became_ready(self.history)
        self.failed_in_a_row = 0
        assert self.history.counted == counted

    @rule(phase=st.sampled_from(["starting", "idle"]))
    @precondition(lambda self: not self.gave_up)
    def a_worker_dies_by_itself(self, phase: Phase) -> None:
        decision = self._decide(Death(when=self.now, phase=phase))
        self.counted.append(self.now)
        self.failed_in_a_row += phase == "starting"
        recent = [t for t in self.counted if self.now <= t + self.policy.period]
        too_many = max(len(recent), self.failed_in_a_row) > self.policy.intensity
        assert isinstance(decision, GiveUp) == too_many
        self.gave_up = too_many
        if isinstance(decision, Restart):
            low = self.policy.backoff_first if phase == "starting" else 0.0
            high = self.policy.backoff_max if phase == "starting" else 0.0
            assert low <= decision.after <= high

    @rule()
    def a_worker_dies_during_a_call(self) -> None:
        self._uncounted(Death(when=self.now, phase="busy"), NOW)

    @rule(phase=st.sampled_from(["starting", "idle", "busy", "stopping"]))
    def a_worker_is_recycled(self, phase: Phase) -> None:
        self._uncounted(Death(when=self.now, phase=phase, recycled=True), NOW)

    @rule(phase=st.sampled_from(["starting", "idle", "busy", "stopping"]))
    def a_worker_is_asked_to_stop(self, phase: Phase) -> None:
        self._uncounted(Death(when=self.now, phase=phase, asked=True), Ignore())

    @invariant()
    def no_window_holds_more_than_the_intensity_unless_it_gave_up(self) -> None:
        if not hasattr(self, "policy") or self.gave_up:
            return
        for end in self.counted:
            inside = [t for t in self.counted if t <= end <= t + self.policy.period]
            assert len(inside) <= self.policy.intensity

    def _uncounted(self, death: Death, expected: Decision) -> None:
        before = self.history
        assert self._decide(death) == expected
        assert self.history == before

    def _decide(self, death: Death) -> Decision:
        result = decide(self.policy, self.history, death)
        assert decide(self.policy, self.history, death) == result
        self.history, decision = result
        return decision


TestSupervision = Supervision.TestCase
