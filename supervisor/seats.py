"""The seats of a pool: whose worker lives in each, what follows its death, and which calls get
it.

Some seats may be *spare*: their workers stand behind their walls and wait. When a worker serves no
more, for whatever reason, a spare one of its profile serves in its stead at once. The two seats
only change their roles: whoever is made next in the place of the one that is gone is the spare.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import trio

from ..protocol import errors, events
from ..protocol.profile import Profile
from ..protocol.receipts import DeathCertificate
from . import restart
from .certificates import Verdict
from .cgroups import CgroupError
from .keeper import ZygoteKeeper
from .life import Life
from .office import Office
from .options import CoreOptions
from .queues import STARVING, Lane, Queues
from .shortages import remedy
from .worker import Worker

PROFILE_STARTS = 3
"""Starts in a row that may fail with a profile that is not the pool's own, until its calls fail."""
CERTIFICATES = 16
"""Death certificates that a failing pool shows."""
STARTING = max(8, 2 * (os.cpu_count() or 1))
"""Workers that come up at the same time, at most: beyond what keeps the processors busy, each more
makes all the others later."""


@dataclass(eq=False)
class Seat:
    """A place for a worker; ``profile`` is that of the next one, and of the one that is there."""

    profile: Profile
    spare: bool = False
    """Whether its worker only waits to take another one's place."""
    worker: Worker | None = None
    used: float = 0.0
    starting: bool = False
    """Whether its worker is one of the ``STARTING``."""


class Seats:
    """Each seat's task makes a worker of the seat's profile, lives its life with it, and asks the
    pure restart logic what follows its death."""

    def __init__(
        self,
        options: CoreOptions,
        profile: Profile,
        life: Life,
        keeper: ZygoteKeeper,
        queues: Queues,
    ) -> None:
        self._policy = options.restart
        self._recycle = options.recycle
        self._profile = profile
        self._life = life
        self._keeper = keeper
        self._queues = queues
        self._seats = [
            Seat(profile, spare=number >= options.workers)
            for number in range(options.workers + options.spares)
        ]
        self._starts = trio.CapacityLimiter(STARTING)
        self._history = restart.History()
        self._deaths: list[DeathCertificate] = []
        self._left = trio.Event()

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats)

    @property
    def _serving(self) -> list[Seat]:
        """The seats that are not spare."""
        return [seat for seat in self._seats if not seat.spare]

    @property
    def workers(self) -> list[Worker]:
        """The workers of this moment."""
        return [seat.worker for seat in self._seats if seat.worker is not None]

    # --- life -----------------------------------------------------------------------------------

    async def keep(self, seat: Seat, office: Office) -> None:
        """Have a worker in the seat until the pool ends."""
        life, failures = self._life, 0
        while not life.ending and not life.failed:
            await self._starts.acquire_on_behalf_of(seat)
            seat.starting = True
            phase: restart.Phase = "starting"
            replaced = False
            try:
                zygote = await self._keeper.living()
                if seat.spare:
                    seat.profile = self._profile_for(seat)
                seat.worker = worker = Worker(
                    self._keeper.next_number(), seat.profile, zygote, self._keeper.groups, office
                )
            except errors.PoolError:
                return
            except (OSError, CgroupError) as error:
                reason = str(error)
            else:
                seat.used = trio.current_time()
                try:
                    certificate = await worker.live()
                finally:
                    seat.worker = None
                self._deaths = [*self._deaths[1 - CERTIFICATES :], certificate]
                reason = f"{certificate.cause}: {certificate.evidence}"
                # One that held a call that had not begun counts as busy, too: the call bears it
                # only a few times (``burial.MAX_LOSSES``), so this cannot go on for ever.
                phase = "busy" if _guilty(certificate) else certificate.phase
                # A zygote's death counts once, however many workers went with it.
                replaced = worker.orphaned or certificate.cause in ("recycled", "evicted")
            finally:
                self._started(seat)
                self._left.set()
                self._left = trio.Event()
            failures = failures + 1 if phase == "starting" and not replaced else 0
            if failures >= PROFILE_STARTS and not seat.spare and seat.profile != self._profile:
                # What one caller asked for cannot be had; the pool's own profile may be fine.
                self._give_up_profile(seat, reason)
                failures = 0
                continue
            await self.after(
                restart.Death(when=trio.current_time(), phase=phase, recycled=replaced), reason
            )
            self.balance()
            if failures >= PROFILE_STARTS and seat.spare:
                await self._left.wait()  # it can be done without until there may be more room
                failures = 0

    def _give_up_profile(self, seat: Seat, reason: str) -> None:
        lane = self._queues.lane(seat.profile)
        error = errors.PoolError(
            f"no worker can be started with these limits and capabilities: {reason}",
            "see pool.enforcement(); other calls are not affected",
        )
        while lane.trim():
            lane.waiting.popleft().fail(copy(error))
        seat.profile = self._profile

    async def after(self, death: restart.Death, reason: str) -> None:
        """Do what follows from a death: wait, or end the pool."""
        if self._life.ending or self._life.failed:
            return
        self._history, decision = restart.decide(self._policy, self._history, death)
        match decision:
            case restart.GiveUp(reason=why):
                self._life.fail(
                    errors.RestartIntensityReached(
                        f"{why}; the last: {reason}",
                        self._deaths,
                        remedy(reason, "see error.certificates"),
                    )
                )
            case restart.Restart(after=seconds) if seconds > 0:
                self._life.emit(events.RestartDelayed(when=time.time(), seconds=seconds))
                await trio.sleep(seconds)
            case _:
                pass

    def became_ready(self, worker: Worker) -> None:
        """A worker is READY: what failed before is forgiven, and it serves, or waits as a spare."""
        self._history = restart.became_ready(self._history)
        seat = next(seat for seat in self._seats if seat.worker is worker)
        self._started(seat)
        if seat.spare:
            self.fill()
        else:
            self._take_into_service(worker)

    def fill(self) -> None:
        """Have spare workers take the places of those that do not serve."""
        if self._life.ending:
            return
        for seat in self._serving:
            if seat.worker is not None and seat.worker.serving:
                continue
            for spare in self._seats:
                worker = spare.worker
                if not spare.spare or spare.profile != seat.profile:
                    continue
                if worker is not None and worker.serving:
                    seat.spare, spare.spare = True, False
                    spare.used = trio.current_time()
                    self._take_into_service(worker)
                    break

    def _take_into_service(self, worker: Worker) -> None:
        lane = self._queues.ready(worker)
        lane.match(trio.current_time())
        self.balance()
        lane.lend(worker, self._recycle)

    def _started(self, seat: Seat) -> None:
        if seat.starting:
            seat.starting = False
            self._starts.release_on_behalf_of(seat)

    def _profile_for(self, spare: Seat) -> Profile:
        """The profile of most of the seats for each of their spares; of several the present one."""
        served = Counter(seat.profile for seat in self._serving)
        spares = Counter(s.profile for s in self._seats if s.spare and s is not spare)
        return max(served, key=lambda p: (served[p] / (1 + spares[p]), p == spare.profile))

    def _dismiss_spares(self) -> None:
        """Replace those of a profile that no seat has any more."""
        served = {seat.profile for seat in self._serving}
        for spare in self._seats:
            if spare.spare and spare.profile not in served and spare.worker is not None:
                spare.worker.stop(Verdict("evicted", "supervisor"))

    def stop(self) -> None:
        """Ask all workers to end."""
        for worker in self.workers:
            worker.stop(Verdict("stopped", "supervisor"))

    async def wait_empty(self) -> None:
        """Wait until no worker is left."""
        while self.workers:
            await self._left.wait()

    # --- balance --------------------------------------------------------------------------------

    def starving(self, but: Profile, now: float) -> bool:
        """Whether calls of another profile than ``but`` have waited long and have no seat."""
        return any(
            lane.profile != but
            and now - lane.waiting[0].submitted > STARVING
            and not any(seat.profile == lane.profile for seat in self._serving)
            for lane in self._queues.hungry()
        )

    def balance(self, finished: Worker | None = None) -> None:
        """Give lanes that wait without a seat of their own the seats that can be spared."""
        if self._life.ending:
            return
        changed = False
        for lane in self._queues.hungry():
            serving = self._serving
            own = [seat for seat in serving if seat.profile == lane.profile]
            if len(own) == len(serving):
                continue
            wanted = len(lane.waiting) - sum(
                1 for s in own if s.worker is None or s.worker.phase in ("starting", "stopping")
            )
            while wanted > 0 and (seat := self._sparable(lane, finished, bool(own))) is not None:
                changed = True
                own.append(seat)
                wanted -= 1
                seat.profile = lane.profile
                if seat.worker is not None:
                    if seat.worker is finished:
                        finished = None
                    self._queues.gone(seat.worker)
                    seat.worker.stop(Verdict("evicted", "supervisor"))
        if changed:
            self._dismiss_spares()
            self.fill()

    def _sparable(self, lane: Lane, finished: Worker | None, has_one: bool) -> Seat | None:
        idle = [
            seat
            for seat in self._serving
            if seat.profile != lane.profile
            and not self._queues.lane(seat.profile).trim()
            and (seat.worker is None or seat.worker.phase == "idle")
        ]
        if idle:
            return min(idle, key=lambda seat: seat.used)
        if finished is not None and not has_one:
            return next((seat for seat in self._serving if seat.worker is finished), None)
        return None


def _guilty(certificate: DeathCertificate) -> bool:
    """Whether a guest may have caused this death: one that got out may well wait for its call's
    end. So only a worker that has never run a guest is known to have died of something else."""
    return bool(certificate.modules) or certificate.calls > 0
