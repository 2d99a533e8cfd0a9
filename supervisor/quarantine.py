"""Which modules are refused because their calls keep crashing workers: pure, with no clock in it.

What counts is what speaks of an attack on the walls, or of a hole in the engine: a crash of the
engine, an exit that nobody asked for, a denied system call, a broken protocol. What does not count
has an innocent reading: a deadline, a limit (memory among them), a cancellation, a signal from
outside.

Deaths are counted for each **(tenant, module)**. A guest can crash any number of its own tenant's
workers, and could choose a module that another tenant uses, too; but no tenant's call runs in
another's worker, so it can have a module refused to nobody but its own tenant. Within a tenant, a
fallen worker may blame another of the tenant's modules, by answering for its own call first.
Compiling is of no tenant: there, the module's bytes alone decide what happens.
"""

from __future__ import annotations

import math
import signal
from collections import OrderedDict, deque
from dataclasses import dataclass

from ..protocol.errors import ModuleQuarantined
from ..protocol.policies import Quarantine
from ..protocol.receipts import DeathCertificate
from .certificates import out_of_memory

_CAUSES = ("crashed", "exited", "syscall_denied", "protocol_violation")
_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGTRAP,
}
"""Signals that a process brings on itself."""
MOST = 4096
"""Modules that are remembered: those forgotten first died longest ago."""


@dataclass(frozen=True, slots=True)
class Compiling:
    """Stands where a tenant does, for deaths of compilers."""


COMPILING = Compiling()
Key = tuple[str | Compiling | None, str]
"""(tenant, digest of the module in hexadecimal digits)."""


class Ward:
    """Counts deaths and knows who is in quarantine. Times are monotonic seconds.

    Args:
        policy: ``None`` counts nothing and refuses nothing.
    """

    def __init__(self, policy: Quarantine | None) -> None:
        self._policy = policy
        self._deaths: OrderedDict[Key, deque[tuple[float, DeathCertificate]]] = OrderedDict()
        self._until: OrderedDict[Key, float] = OrderedDict()
        self._certificates: dict[Key, tuple[DeathCertificate, ...]] = {}

    @property
    def occupied(self) -> bool:
        """Whether any module may be in quarantine; to be asked from any thread."""
        return bool(self._until)

    def died(self, key: Key, certificate: DeathCertificate, now: float) -> ModuleQuarantined | None:
        """Count a death that ``key`` is to blame for; what its calls are refused with from now on,
        if this death was one too many."""
        policy = self._policy
        if policy is None or not counts(certificate):
            return None
        deaths = self._deaths.setdefault(key, deque(maxlen=policy.crashes))
        self._deaths.move_to_end(key)
        deaths.append((now, certificate))
        if len(self._deaths) > MOST:
            self._deaths.popitem(last=False)
        if len(deaths) < policy.crashes or now - deaths[0][0] > policy.period:
            return None
        del self._deaths[key]
        self._until[key] = now + policy.lasts
        self._until.move_to_end(key)
        self._certificates[key] = tuple(each for _, each in deaths)
        if len(self._until) > MOST:
            self._release(next(iter(self._until)))
        return self.refusal(key, now)

    def refusal(self, key: Key, now: float) -> ModuleQuarantined | None:
        """What a call of a module in quarantine fails with, ``None`` for any other."""
        until = self._until.get(key)
        if until is None:
            return None
        if now >= until:
            self._release(key)
            return None
        return ModuleQuarantined(key[1], math.ceil(until - now), self._certificates[key])

    def _release(self, key: Key) -> None:
        del self._until[key], self._certificates[key]


def counts(certificate: DeathCertificate) -> bool:
    """Whether a death speaks against a module."""
    if certificate.cause not in _CAUSES or out_of_memory(certificate.evidence):
        return False
    return certificate.cause != "crashed" or certificate.signal in _FAULTS
