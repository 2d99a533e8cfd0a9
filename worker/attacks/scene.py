"""What an attack has at hand."""

from __future__ import annotations

from collections.abc import Sequence

from ...protocol.attacks import Report, Targets, encode
from ...protocol.capabilities import Grant
from ..transfer import Transfer
from .native import Stopped


class Scene:
    """The targets, what connects the worker with its supervisor, and what is to be reported."""

    def __init__(
        self, targets: Targets, transfer: Transfer, directories: Sequence[Grant] = ()
    ) -> None:
        self.targets = targets
        self.transfer = transfer
        self.directories = directories
        """What was granted, by the paths that it has in the worker."""
        self.number = 0
        """See ``Report.number``."""
        self._reported = False

    def report(self, report: Report) -> None:
        """Hand the report to the supervisor; only the first counts."""
        if not self._reported:
            self._reported = True
            self.transfer.drain(memoryview(encode(report)))

    def want(self, content: bytes) -> None:
        """Insist that ``content`` is the secret.

        Raises:
            Stopped: it is something else.
        """
        if content.rstrip(b"\0") != self.targets.secret.encode():
            raise Stopped("what was read is not the secret")
