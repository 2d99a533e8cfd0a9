"""The calls that a worker holds: how they are sent, lent, recalled and stopped.

What the worker says of them is followed in ``listener``; how it lives and dies is in ``worker``.
"""

from __future__ import annotations

import math
import os
import socket
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import trio

from ..protocol import arena, control, messages
from ..protocol.conversation import Conversation
from ..protocol.description import ModuleDescription
from ..protocol.errors import ConfigurationError, SandboxError, Trap
from ..protocol.profile import MODULES, Profile
from .calls import CallRecord
from .certificates import Verdict
from .express import Loan
from .host_calls import HostCalls
from .imports import HostImport
from .office import Office
from .orders import order
from .requests import CallRequest, CommandRequest, ModuleHandle
from .resources import Wires, for_reading
from .sending import Sender
from .shortages import pool_error
from .throttle import Throttle
from .watch import GRACE, Watch

if TYPE_CHECKING:
    from .library import Artifact


WEIGHT = 0.2
"""Of a call in the average of what calls take."""


class Holder(ABC):
    """A worker without its process: what it holds, and what it is told."""

    def __init__(self, number: int, profile: Profile, wires: Wires, office: Office) -> None:
        self.number = number
        self.profile = profile
        self.office = office
        self.wires = wires
        self.sender = Sender(wires.channel, office.mail)
        self.watch = Watch(self)
        self.conversation = Conversation()
        self.records: OrderedDict[int, CallRecord] = OrderedDict()
        """Calls that were sent and not answered, oldest first."""
        self.calls = 0
        """Calls that were answered; each record of a batch is one."""
        self.instances = 0
        """How often it was given something to run: the records of a batch that share an instance
        count once."""
        self.average = 1.0
        """Seconds that calls take here, smoothed: decides how many may wait in the pipe."""
        self.host_calls = HostCalls(
            self.conversation,
            self.sender,
            wires.view,
            office.network,
            self._lent_to,
            office.leftovers,
            profile,
        )
        self._modules: OrderedDict[object, int] = OrderedDict()
        self._next_module = 1
        self._lent: dict[int, tuple[ModuleHandle, HostImport]] = {}
        """The functions that this worker lends, by number, each with its module."""
        self._next_lent = 1
        self._guarded = False
        """Whether it was sent what it needs where directories are granted."""
        self._loan: Loan | None = None
        self.throttle: Throttle | None = None
        """What keeps it to its share of a processor, where nothing else does."""

    # --- what a worker's life decides -----------------------------------------------------------

    @property
    @abstractmethod
    def pid(self) -> int:
        """Process id, or 0 before the fork."""

    @property
    @abstractmethod
    def dead(self) -> bool:
        """Whether its process is dead, even if nobody has reported it yet."""

    @property
    @abstractmethod
    def serving(self) -> bool:
        """Whether it takes calls: it is READY, and is to live on."""

    @abstractmethod
    def kill(self, verdict: Verdict) -> None:
        """End it now; the first verdict is the one that stands."""

    # --- calls ----------------------------------------------------------------------------------

    @property
    def head(self) -> CallRecord | None:
        """The oldest call that was sent and not answered: the one that runs, if any does."""
        return next(iter(self.records.values()), None)

    @property
    def last_held(self) -> float:
        """When it was last let go on after something that was not its own doing: a host call (now,
        while it waits for a function of the caller's), a program that was slow to read what it
        writes or to write what it reads, or a pause that its share of a processor demanded."""
        record = self.head
        command = None if record is None else record.request.command
        if command is not None and command.ends is not None and command.ends.held():
            return trio.current_time()
        paused = -math.inf if self.throttle is None else self.throttle.last_held
        return max(self.host_calls.last_held(), paused)

    def begun_clock(self) -> float:
        """Processor seconds of the worker when its running call began, as the worker published
        it."""
        return arena.read_begun(self.wires.view)[1] / 1e9

    def has_room(self, window: int, patience: float, now: float) -> bool:
        """Whether a call may be sent: at once to an idle worker, behind quick ones up to
        ``window``."""
        if not self.serving:
            return False
        self.settle()
        waiting = len(self.records)
        if waiting == 0:
            return True
        if self.host_calls.serving:  # for who knows how long
            return False
        return (
            self.average < patience and waiting < window and now - self.watch.head_since < patience
        )

    def assign(self, record: CallRecord, now: float) -> None:
        """Send a call. The worker must be ready and not stopping."""
        number = record.number = self.office.next_call()
        try:
            streams = _standard_streams(record.request.command)
        except SandboxError as error:
            record.fail(error)
            return
        try:
            module = self.load(record)
            for descriptor in streams:
                self._pass(descriptor)
        finally:
            for descriptor in streams:
                os.close(descriptor)
        trampoline = 0 if record.trampoline is None else self._load_trampoline(record.trampoline)
        message = order(record, number, module, trampoline)
        self._take_on(record, now)
        self.sender.send(message)

    def _take_on(self, record: CallRecord, now: float) -> None:
        record.worker, record.sent, record.spoken = self, now, False
        record.pieces.clear()
        record.result = None
        record.pulled.clear()
        record.output = 0
        record.attempts += 1
        self.conversation.sent_call(record.number)
        self.records[record.number] = record
        if len(self.records) == 1:
            self.watch.new_head(now)
            if self.throttle is not None:
                self.throttle.has_work()
        else:
            self.watch.company()

    def settle(self) -> None:
        """End the loan; count the calls that are over, and take on the one that is not."""
        loan, self._loan = self._loan, None
        if loan is None:
            return
        record, outcome = loan.end()
        over = loan.answered
        if over:
            self.calls += over
            self.instances += over
            self.average += (loan.spent / over - self.average) * (1 - (1 - WEIGHT) ** over)
        if record is None:
            return
        self.wires.prick_ear()  # such calls come here: the next may be answered the short way
        if outcome is not None:
            record.done(outcome)
        else:
            self.office.adopt(record)
            self._take_on(record, record.submitted)

    def interrupt(self, record: CallRecord) -> None:
        """Stop a call that this worker has, whether it runs or waits; ``record.stop`` says why."""
        if self.throttle is not None:
            self.throttle.let_go()
        self._control(control.Control.INTERRUPT, record.number)
        self.watch.stopping(record)
        self.host_calls.interrupt(record)

    def recall(self) -> None:
        """Ask for the calls behind the running one, which takes long."""
        until = next(reversed(self.records))
        if not self.conversation.recalls and self._control(control.Control.RECALL, until):
            self.conversation.sent_recall(until)

    # --- modules --------------------------------------------------------------------------------

    def loaded(self, request: CallRequest) -> int | None:
        """This worker's number of the request's module, if it has it."""
        return self._modules.get(request.module.key)

    def load(self, record: CallRecord) -> int:
        """This worker's number of the record's module, loading it where it is new here."""
        if record.request.guarded and not self._guarded:
            self._guarded = True
            for descriptor in self.office.guard(self.profile.metered):
                self._pass(descriptor)
            self.sender.send(messages.Guard())
        key = record.request.module.key
        number = self._modules.get(key)
        if number is not None:
            self._modules.move_to_end(key)
            return number
        lent = self._lend(record.request.module)
        return self._give(key, *self.office.artifact(record), lent)

    def _load_trampoline(self, artifact: Artifact) -> int:
        """This worker's number of a trampoline."""
        number = self._modules.get(artifact.sha256)
        if number is not None:
            self._modules.move_to_end(artifact.sha256)
            return number
        return self._give(
            artifact.sha256, artifact.descriptor, artifact.description, companion=True
        )

    def _give(
        self,
        key: object,
        descriptor: int,
        description: ModuleDescription,
        lent: tuple[messages.LentFunction, ...] = (),
        *,
        companion: bool = False,
    ) -> int:
        number, self._next_module = self._next_module, self._next_module + 1
        self._pass(descriptor)
        self.conversation.sent_load(number)
        self._modules[key] = number
        self.sender.send(messages.Load(number, description, lent, companion))
        if len(self._modules) > MODULES:
            key, oldest = self._modules.popitem(last=False)
            self._lent = {n: lent for n, lent in self._lent.items() if lent[0] is not key}
            self.sender.send(messages.Unload(oldest))
        return number

    def _lend(self, module: ModuleHandle) -> tuple[messages.LentFunction, ...]:
        shapes: list[messages.LentFunction] = []
        for function in module.imports:
            number, self._next_lent = self._next_lent, self._next_lent + 1
            self._lent[number] = module, function
            shapes.append(msgspec.structs.replace(function.shape, number=number))
        return (*shapes, *module.lent)

    def _lent_to(self, record: CallRecord, number: int) -> HostImport | None:
        """The function ``number``, where the call's module imports it; in a session, one of its
        modules, for they may call each other."""
        module, function = self._lent.get(number, (None, None))
        if module is record.request.module or self.profile.stateful:
            return function
        return None

    # --- what frames cannot carry ---------------------------------------------------------------

    def _pass(self, descriptor: int) -> None:
        try:
            socket.send_fds(self.wires.passing, [b"+"], [descriptor])
        except OSError as error:
            self._unheard("descriptors", error)

    def _control(self, what: control.Control, call: int) -> bool:
        try:
            os.write(self.wires.control, control.pack(what, call))
        except OSError as error:
            self._unheard("orders", error)
            return False
        return True

    def _unheard(self, what: str, error: OSError) -> None:
        verdict = Verdict("protocol_violation", "supervisor", f"takes no {what}: {error}")
        if isinstance(error, ConnectionError):  # it is dead, and how it died about to be known
            self.watch.expect(trio.current_time() + GRACE, verdict)
        else:
            self.kill(verdict)


def _standard_streams(command: CommandRequest | None) -> tuple[int, ...]:
    """What a command's worker is handed, to be closed by the caller.

    Raises:
        ConfigurationError: its input was closed.
        PoolError: no descriptor is left.
        Trap: the program has gone away meanwhile.
    """
    if command is None:
        return ()
    if command.ends is not None:
        try:
            copies = command.ends.copies()
        except OSError as error:
            raise pool_error("a command cannot have its streams", error) from error
        if not copies:
            raise Trap("interrupt", "the call was cancelled")
        return copies
    if command.stdin_descriptor is None:
        return ()
    try:
        return (for_reading(command.stdin_descriptor),)
    except OSError:
        raise ConfigurationError(
            "options.stdin",
            command.stdin_descriptor,
            "was closed before the call began",
            "keep the file open until the call is over",
        ) from None
