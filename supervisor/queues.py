"""Which call goes to which worker. No I/O and no clock of its own.

Calls wait in lanes, one for each profile, in order. An idle worker gets one at once; a busy one
whose calls are quick gets some to hold behind the running one, and they are recalled if it turns
out slow. A lane that has calls and no worker takes over a seat: an idle one of another lane, or the
next to finish a call once its calls have waited ``STARVING`` seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..protocol.policies import Recycle
from ..protocol.profile import Profile
from .calls import CallRecord
from .express import Loan
from .worker import Worker

WINDOW = 16
"""Calls that may be at one worker at a time, while they are quick."""
QUICK = 0.003
"""Seconds that a call may take on average for others to wait behind it."""
STARVING = 0.1


class Lane:
    """The calls of one profile that no worker has yet, and the workers that are ready for them."""

    __slots__ = ("loans", "profile", "waiting", "workers")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.waiting: deque[CallRecord] = deque()
        self.workers: list[Worker] = []
        self.loans: deque[Loan] = deque(maxlen=256)
        """Idle workers that other threads may send a call to; some of these have ended."""

    def trim(self) -> int:
        """Drop calls that ended while they waited, up to the first that did not; what is left."""
        while self.waiting and self.waiting[0].finished:
            self.waiting.popleft()
        return len(self.waiting)

    def match(self, now: float) -> None:
        """Send what can be sent."""
        while self.trim():
            worker = self._choose(now)
            if worker is None:
                return
            worker.assign(self.waiting.popleft(), now)

    def lend(self, worker: Worker, recycle: Recycle) -> None:
        """Let other threads use a worker that has nothing to do."""
        if not self.waiting:
            worker.lend(self.loans, recycle)

    def feed(self, worker: Worker, now: float) -> None:
        """Send calls to a worker that has just finished one."""
        while self.waiting and worker.has_room(WINDOW, QUICK, now) and self.trim():
            worker.assign(self.waiting.popleft(), now)

    def _choose(self, now: float) -> Worker | None:
        best: Worker | None = None
        for worker in self.workers:
            if not worker.has_room(WINDOW, QUICK, now):
                continue
            if not worker.records:
                return worker
            if best is None or len(worker.records) < len(best.records):
                best = worker
        return best


class Queues:
    """All lanes."""

    def __init__(self) -> None:
        self._lanes: dict[Profile, Lane] = {}
        self._last: Lane | None = None

    def lane(self, profile: Profile) -> Lane:
        """The lane of a profile."""
        last = self._last
        if last is not None and last.profile is profile:
            return last
        lane = self._lanes.get(profile)
        if lane is None:
            self._drop_empty()
            lane = self._lanes[profile] = Lane(profile)
        elif lane.profile is not profile and not lane.waiting:
            lane.profile = profile  # equal, and the one that callers hold now: found faster
        self._last = lane
        return lane

    def add_first(self, records: Iterable[CallRecord]) -> set[Lane]:
        """Put calls back to the front, oldest first; the lanes that they went to."""
        lanes: set[Lane] = set()
        for record in reversed(list(records)):
            lane = self.lane(record.request.profile)
            lane.waiting.appendleft(record)
            lanes.add(lane)
        return lanes

    def ready(self, worker: Worker) -> Lane:
        """The worker can take calls from now on."""
        lane = self.lane(worker.profile)
        lane.workers.append(worker)
        return lane

    def gone(self, worker: Worker) -> None:
        """The worker takes no more calls."""
        lane = self.lane(worker.profile)
        if worker in lane.workers:
            lane.workers.remove(worker)

    def clear(self) -> None:
        """Forget all the calls that wait."""
        for lane in self._lanes.values():
            lane.waiting.clear()

    def hungry(self) -> list[Lane]:
        """The lanes that have waiting calls, the one that has waited longest first."""
        lanes = [lane for lane in self._lanes.values() if lane.waiting and lane.trim()]
        return sorted(lanes, key=lambda lane: lane.waiting[0].submitted)

    def only(self, profile: Profile) -> bool:
        """Whether no other profile has calls that wait."""
        return all(
            not lane.waiting or lane.profile is profile or lane.profile == profile
            for lane in self._lanes.values()
        )

    def find(self, profile: Profile) -> Lane | None:
        """The lane of a profile, if there is one; from any thread."""
        return self._lanes.get(profile)

    def _drop_empty(self) -> None:
        if len(self._lanes) > 64:
            self._lanes = {
                profile: lane
                for profile, lane in self._lanes.items()
                if lane.waiting or lane.workers
            }
