"""The burial of a worker: its death certificate, and what becomes of the calls that it held."""

from __future__ import annotations

from collections.abc import Mapping

from ..protocol import arena
from ..protocol.errors import LimitExceeded, SandboxError
from ..protocol.receipts import DeathCertificate
from . import certificates
from .calls import CallRecord

MAX_LOSSES = 3
"""Workers that may die before they begin a call that they had at hand, until the call is blamed."""


def modules_begun(records: Mapping[int, CallRecord], begun: int) -> tuple[str, ...]:
    """Digests of the modules whose calls were begun, each once."""
    return tuple(
        {
            record.request.module.sha256.hex(): None
            for number, record in records.items()
            if number <= begun or record.spoken
        }
    )


def settle_calls(
    records: Mapping[int, CallRecord],
    begun: int,
    certificate: DeathCertificate,
    rescued: tuple[int, bytes] = (0, b""),
) -> list[CallRecord]:
    """Give every call that the worker held its outcome; those that it has not yet, oldest first.

    Args:
        records: the calls by number, oldest first.
        begun: the last call that the worker said it had begun.
        certificate: what the calls that it took along fail with.
        rescued: what a batch at the head had come to (``rescue``).
    """
    back: list[CallRecord] = []
    head = next(iter(records), 0)
    for number, record in records.items():
        if number <= begun or record.spoken:
            finished = rescued if number == head else (0, b"")
            if record.stop is not None:
                if isinstance(record.stop, LimitExceeded):
                    record.stop.certificate = certificate
                _settle(record, record.stop, finished)
            elif record.attempts <= record.request.retries:
                record.begin_again()
                back.append(record)
            else:
                _settle(record, certificates.to_error(certificate), finished)
            continue
        record.attempts -= 1  # it was sent and not begun
        record.losses += number == head
        # So often is no chance: those workers lied. What may be begun again may bear more of it.
        if record.losses > MAX_LOSSES + record.request.retries:
            record.fail(certificates.to_error(certificate))
            continue
        if record.stop is not None:
            record.fail(record.stop)
        else:
            back.append(record)
    return back


def rescue(head: CallRecord | None, view: memoryview) -> tuple[int, bytes]:
    """(records that the batch at the head had finished, their results) by the dead worker's
    arena."""
    batch = None if head is None else head.request.batch
    if head is None or batch is None:
        return 0, b""
    done = arena.read_finished(view, head.number, batch.count)
    _, outward, half = arena.halves(len(view))
    return done, bytes(view[outward : outward + min(batch.results_size, half)]) if done else b""


def _settle(record: CallRecord, error: SandboxError, finished: tuple[int, bytes]) -> None:
    if record.request.batch is None:
        record.fail(error)
    else:
        record.batch_lost(error, *finished)
