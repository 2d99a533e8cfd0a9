"""What a worker needs of those for whom it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..protocol.description import ModuleDescription
from ..protocol.receipts import DeathCertificate
from .calls import CallRecord
from .leftovers import Leftovers
from .network.access import NetworkAccess
from .sending import Mail

if TYPE_CHECKING:
    from .worker import Worker


class Office(Protocol):
    """A pool's dispatcher, or a session."""

    mail: Mail
    network: NetworkAccess
    leftovers: Leftovers

    def next_call(self) -> int:
        """A call number larger than all before."""
        ...

    def adopt(self, record: CallRecord) -> None:
        """A call was sent by a loan: it is one of the pool's from now on."""

    def artifact(self, record: CallRecord) -> tuple[int, ModuleDescription]:
        """Descriptor of the verified artifact that the call needs, and the module's description."""
        ...

    def guard(self, metered: bool) -> tuple[int, ...]:
        """Descriptors of the modules that workers need where directories are granted."""
        ...

    def worker_forked(self, worker: Worker) -> None:
        """The worker's process is there."""

    def worker_gone(self, worker: Worker) -> None:
        """The worker is dead, and about to give back its calls."""

    def worker_died(self, worker: Worker, certificate: DeathCertificate) -> None:
        """The worker's calls are about to be given their outcome, or back."""

    def worker_ready(self, worker: Worker) -> None:
        """The worker can take calls."""

    def worker_has_room(self, worker: Worker, now: float) -> None:
        """The worker finished a call."""

    def give_back(self, records: list[CallRecord]) -> None:
        """Calls that were sent and not begun, oldest first."""
