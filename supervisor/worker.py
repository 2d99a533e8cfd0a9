"""One worker, from its fork to its burial.

Theory of operation. ``live`` is the whole life in one function: group, wires, fork, READY, serving,
death, certificate. While it serves, three tasks run: the reader hands what the worker says to the
``Listener`` (the only one that finishes calls), the watch keeps deadlines, the writer sends what
the pipe did not take at once. Whoever finds a reason to end the worker calls ``kill`` with a
verdict; the first verdict stands. The calls that the worker held when it died are sorted by the
flag that it published in shared memory: those that were begun get the certificate, the others go
back to the queue.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec
import trio

from ..protocol import arena, messages
from ..protocol.conversation import State
from ..protocol.errors import ProtocolError
from ..protocol.framing import READ_SIZE
from ..protocol.grants import Grants
from ..protocol.policies import Recycle
from ..protocol.profile import Profile
from ..protocol.receipts import DeathCertificate
from . import burial, certificates, denials, restart
from .calls import CallRecord
from .certificates import Verdict
from .cgroups import CgroupError, CgroupLimits, CgroupUsage, Hierarchy
from .express import ANSWERS, Loan
from .holder import Holder
from .listener import Listener
from .office import Office
from .resources import Wires
from .scratch import ScratchPlaces
from .throttle import Throttle
from .watch import processor_clock
from .zygote import Child, ForkRefused, Zygote, ZygoteLost

T = TypeVar("T")
_log = logging.getLogger("wasm_sandbox")
START_SECONDS = 20.0
"""How long a worker may take from fork to READY."""
STOP_SECONDS = 1.0
"""How long a worker that was asked to stop may take before it is killed."""
BURIAL_SECONDS = 5.0
"""How long the zygote may take to report the death of a killed worker."""
DRAIN_SECONDS = 0.2
"""How long the channel of a dead worker is read for what it had said before."""
OVERHEAD = 64 << 20
"""Bytes of memory that a worker is allowed beside its guest's: interpreter, engine, code."""
MEMORY_CHECK = 64
"""Calls between two looks at a worker's resident memory."""
PAGE = os.sysconf("SC_PAGE_SIZE")
TASKS = 32
"""Threads and processes of a worker: the engine's WASI starts some threads of its own."""

_NEVER_READY = Verdict("start_failed", "supervisor", f"not READY within {START_SECONDS:g} s")
_NO_END = Verdict("stopped", "supervisor", "it did not end when asked to")

Phase = Literal["starting", "idle", "busy", "stopping"]


class Worker(Holder):
    """A worker process, as its supervisor sees it."""

    def __init__(
        self, number: int, profile: Profile, zygote: Zygote, hierarchy: Hierarchy, office: Office
    ) -> None:
        super().__init__(number, profile, Wires(), office)
        try:
            self._group = hierarchy.group(f"w{number}", self._group_limits())
        except BaseException:
            self.wires.close()
            raise
        self._zygote = zygote
        self._shares = "cpu" in hierarchy.controllers
        """Whether the kernel keeps it to its share of a processor."""
        self.ready: messages.Ready | None = None
        self.born = trio.current_time()
        """When it was made and, once it is READY, when it became so."""
        self.took = 0.0
        """Seconds from the one to the other."""
        self.asked: Verdict | None = None
        """Why it was asked to stop, where it was."""
        self.orphaned = False
        """Whether it went with its zygote."""
        self._places = _places(profile)
        self._scratch = ScratchPlaces(())
        self._listener = Listener(self)
        self._child: Child | None = None
        self._verdict: Verdict | None = None
        self._gone = False
        """Whether it is dead, or has closed its channel, as it does when it dies."""
        self._resident_at_ready = 0
        self._look_at = MEMORY_CHECK
        """How many instances it has made at the next look at its memory."""

    # --- what others see ------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What the worker is doing."""
        self.settle()
        if self.asked is not None or self._verdict is not None or self._gone:
            return "stopping"
        if self.ready is None:
            return "starting"
        return "busy" if self.records else "idle"

    @property
    def pid(self) -> int:
        """Process id, or 0 before the fork."""
        return self._child.pid if self._child else 0

    @property
    def dead(self) -> bool:
        """Whether its process is dead, even if nobody has reported it yet."""
        return self._child is not None and self._child.dead

    @property
    def serving(self) -> bool:
        """Whether it takes calls: it is READY, and is to live on."""
        if self.ready is None or self.asked is not None:
            return False
        return self._verdict is None and not self._gone

    def has_room(self, window: int, patience: float, now: float) -> bool:
        """As of a ``Holder``. What was granted may be another directory by now, at the same path:
        the jail stands around the old one, so another worker has to take this one's place."""
        if self._places and self.serving and self._places != _places(self.profile):
            self.stop(Verdict("recycled", "supervisor", "a granted directory was replaced"))
        return super().has_room(window, patience, now)

    def lend(self, home: deque[Loan], recycle: Recycle) -> None:
        """Let other threads send it calls, by a loan that lies at ``home``, while it is idle."""
        if self.records or self._loan is not None or not self.serving or not self.sender.idle:
            return
        # A share below one processor needs the supervisor's eyes on each call.
        watched = self.throttle is not None and self.profile.cpu_fraction < 1
        ear = None if watched or self._listener.amid else self.wires.ear
        answers = ANSWERS
        if recycle.max_calls is not None:  # the last one has it recycled
            answers = min(answers, recycle.max_calls - self.instances - 1)
        until = math.inf if recycle.max_age is None else self.born + recycle.max_age
        self._loan = Loan(self, home, ear, answers, until)
        home.append(self._loan)

    def heed(self, loan: Loan) -> None:
        """Take on what became of a loan, if it was used."""
        if self._loan is loan and loan.used:
            self.settle()
            if not self.records:
                self.office.worker_has_room(self, trio.current_time())

    def recycle_reason(self, recycle: Recycle) -> str | None:
        """Why a fresh worker should take this one's place, if one should."""
        growth = 0
        if self.instances >= self._look_at and recycle.max_memory_growth is not None:
            self._look_at = self.instances + MEMORY_CHECK
            growth = self._resident() - self._resident_at_ready
        age = trio.current_time() - self.born
        return restart.recycle_reason(recycle, calls=self.instances, age=age, memory_growth=growth)

    def cpu_time(self) -> float | None:
        """Processor seconds of all its threads up to now; ``None`` where there is no process."""
        return processor_clock(self.pid) if self.pid else None

    def memory(self) -> int | None:
        """Bytes of memory that its group is charged with now; the resident ones where there is no
        group, ``None`` where there is no process."""
        if not self.pid or self._gone:
            return None
        charged = _quietly(self._group.memory)
        return self._resident() if charged is None else charged

    def _resident(self) -> int:
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * PAGE
        except (OSError, IndexError):
            return self._resident_at_ready

    # --- life -----------------------------------------------------------------------------------

    async def live(self) -> DeathCertificate:
        """Start, serve and die; returns when the process is reaped and all that was its is gone."""
        failed = ""
        try:
            try:
                self._child = await self._zygote.fork(
                    self.number, "run", self._group.procs_files, self.wires.for_worker
                )
            except ForkRefused as error:
                failed = str(error)
            except ZygoteLost as error:
                failed, self.orphaned = str(error), True
            else:
                self.wires.handed_over()
                self.office.worker_forked(self)
                if self._verdict is not None:
                    self._child.kill()
                try:
                    await self._serve(self._child)
                except BaseException:
                    with trio.CancelScope(shield=True):
                        self._child.kill()
                        await self._child.gone.wait()
                        await self._child.outlived()
                    raise
        finally:
            certificate = self._bury(failed)
            if not self._scratch.removed:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._scratch.close)
        return certificate

    async def _serve(self, child: Child) -> None:
        if self.profile.scratch:
            self._scratch = await trio.to_thread.run_sync(ScratchPlaces, self.profile.scratch)
        self.sender.send(
            messages.Configure(
                messages.PROTOCOL_VERSION,
                self.number,
                msgspec.structs.replace(
                    self.profile, scratch=self._scratch.scratch, grants=Grants()
                ),
                arena.DEFAULT_SIZE,
                self.profile.memory + 4 * OVERHEAD,
            )
        )
        self.watch.expect(trio.current_time() + START_SECONDS, _NEVER_READY)
        async with trio.open_nursery() as nursery:
            self.host_calls.nursery = nursery
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self.sender.run)
            read = trio.Event()
            nursery.start_soon(self._read, read)
            nursery.start_soon(denials.watch, self.wires.passing, self.kill)
            await child.gone.wait()
            _quietly(self._group.kill)
            self.orphaned = child.exited is None
            await child.outlived()
            self._gone = True
            self.host_calls.end()
            with trio.move_on_after(DRAIN_SECONDS):
                await read.wait()
            nursery.cancel_scope.cancel()

    def hear(self, data: bytes) -> None:
        """Follow what was read of the channel.

        Raises:
            ProtocolError: it may not be said; nothing more may be heard.
        """
        self.settle()
        with self.office.mail:
            self._listener.hear(data)

    async def _read(self, finished: trio.Event) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self.wires.ear or self.wires.channel)
                self.settle()
                try:
                    data = os.read(self.wires.channel, READ_SIZE)
                except BlockingIOError:  # a thread that listened was faster
                    if self.serving and not self.records:
                        self.office.worker_has_room(self, trio.current_time())
                    continue
                except ConnectionError:
                    break
                if not data:
                    break
                self.hear(data)
        except ProtocolError as error:
            self.kill(Verdict("protocol_violation", "protocol", str(error)))
        finally:
            finished.set()
        # Its end is not long after, but another one can take its place already.
        self.settle()
        self._gone = True
        self.office.worker_gone(self)
        with trio.move_on_after(STOP_SECONDS):
            await trio.sleep_forever()
        if not self.dead:
            self.kill(Verdict("exited", "supervisor", "it closed its channel and went on living"))
        with trio.move_on_after(BURIAL_SECONDS):
            await trio.sleep_forever()
        self._zygote.kill()  # it does not say how its child died: frozen, or worse

    def _bury(self, failed: str) -> DeathCertificate:
        self.settle()
        self.office.worker_gone(self)
        self.sender.close()
        usage = _quietly(self._group.usage) or CgroupUsage()
        exited = None
        if self._child is not None:
            exited = self._child.exited
            self._child.close()
        phase = self.phase
        if self.asked is not None and self._verdict is None and exited and exited.exit_code == 0:
            self._verdict = self.asked
        if failed:
            self._verdict = Verdict("start_failed", "kernel", failed)
        verdict, died, code = certificates.judge(
            self._verdict, exited, usage, self.wires.last_words()
        )
        self._verdict = verdict
        begun, _ = arena.read_begun(self.wires.view)
        rescued = burial.rescue(self.head, self.wires.view)
        _quietly(self._group.remove)
        self.wires.close()
        if phase == "stopping" and self.asked is None:
            phase = "starting" if self.ready is None else "busy" if self.records else "idle"
        certificate = DeathCertificate(
            worker=self.number,
            pid=self.pid,
            cause=verdict.cause,
            wall=verdict.wall,
            phase=phase,
            signal=died,
            exit_code=code,
            evidence=verdict.evidence,
            modules=burial.modules_begun(self.records, begun),
            age=trio.current_time() - self.born,
            calls=self.calls,
            memory_peak=usage.memory_peak,
            cpu_time=exited.cpu_time if exited and usage.cpu_seconds is None else usage.cpu_seconds,
        )
        self.office.worker_died(self, certificate)
        back = burial.settle_calls(self.records, begun, certificate, rescued)
        self.records.clear()
        self.office.give_back(back)
        return certificate

    # --- what its listener hears ----------------------------------------------------------------

    def became_ready(self, message: messages.Ready) -> None:
        """It said READY."""
        self.ready = message
        now = trio.current_time()
        self.took, self.born = now - self.born, now
        self._resident_at_ready = self._resident()
        self.watch.expect(math.inf, _NO_END)
        if not self._shares:
            assert self._child is not None
            self.throttle = Throttle(self, self._child.send)
            self.host_calls.nursery.start_soon(self.throttle.run)
        self.office.worker_ready(self)

    def reject(self, reason: str) -> None:
        """It is READY, but must not serve."""
        self.ready = None
        self.kill(Verdict("start_failed", "jail", reason))

    def start_failed(self, message: messages.StartFailed) -> None:
        """It said that it cannot be READY."""
        self.kill(Verdict("start_failed", message.wall[:40], message.reason[:500]))

    def head_changed(self, before: CallRecord | None, now: float) -> None:
        """A call ended or went; ``before`` was at the head."""
        if self.head is before:
            return
        if self.records:
            self.watch.new_head(now)
        elif self.asked is not None:
            self.watch.expect(now + STOP_SECONDS, _NO_END)

    # --- ending ---------------------------------------------------------------------------------

    def kill(self, verdict: Verdict) -> None:
        """SIGKILL the process; the first verdict is the one that stands."""
        if self._verdict is None:
            self._verdict = verdict
        if self._child is not None:
            self._child.kill()

    def stop(self, verdict: Verdict) -> None:
        """Ask the worker to end when its calls are done; it is killed if it does not."""
        if self.asked is not None:
            return
        self.settle()
        self.asked = verdict
        if self.throttle is not None:
            self.throttle.let_go()
        if self.conversation.state is State.RUNNING:
            self.conversation.sent_stop()
            self.sender.send(messages.Stop())
            if not self.records:
                self.watch.expect(trio.current_time() + STOP_SECONDS, _NO_END)
        else:
            self.kill(verdict)

    def _group_limits(self) -> CgroupLimits:
        return CgroupLimits(
            memory=self.profile.memory
            + OVERHEAD
            + arena.DEFAULT_SIZE
            + sum(scratch.size for scratch in self.profile.scratch),  # their files are memory
            swap=0,
            pids=TASKS,
            cpu_fraction=self.profile.cpu_fraction,
        )


def _places(profile: Profile) -> tuple[tuple[int, int] | None, ...]:
    """What the paths of granted directories lead to."""
    return tuple(_place(grant.path) for grant in profile.directories)


def _place(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _quietly(action: Callable[[], T]) -> T | None:
    """Do what can fail without harm at a burial: what a group leaves is swept later."""
    try:
        return action()
    except (CgroupError, OSError) as error:
        _log.warning("%s", error)
        return None
