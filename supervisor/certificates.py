"""From how a process ended to a death certificate, and from that to the error of the guilty
call."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from ..protocol import errors
from ..protocol.receipts import Cause, DeathCertificate
from ..protocol.zygote import Exited
from .cgroups import CgroupUsage
from .shortages import remedy

UNKNOWN = "unknown"
"""The name of a denied system call that the kernel does not tell."""

_OUT_OF_MEMORY = re.compile(
    "memory allocation of|out[ -]of[ -]memory|Cannot allocate memory|MemoryError"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the supervisor ended a worker: known before the kernel says anything."""

    cause: Cause
    wall: str
    evidence: str = ""


def judge(
    verdict: Verdict | None, exited: Exited | None, usage: CgroupUsage | None, last_words: str
) -> tuple[Verdict, int | None, int | None]:
    """(what ended the worker and which wall saw it, its signal, its exit status)."""
    if exited is None:
        return verdict or Verdict("killed", "kernel", "its zygote was lost"), None, None
    died, code, last_words = exited.signal, exited.exit_code, errors.printable(last_words)
    if verdict is not None:
        return verdict, died, code
    if usage is not None and usage.oom_kills > 0 and died == signal.SIGKILL:
        evidence = f"the cgroup counted {usage.oom_kills} kill(s) for memory"
        return Verdict("out_of_memory", "cgroup", evidence), died, code
    if died == signal.SIGSYS:
        return Verdict("syscall_denied", "jail", UNKNOWN), died, code
    if died == signal.SIGKILL:
        return Verdict("killed", "kernel", "SIGKILL from outside"), died, code
    if died is not None:
        name = _name(died)
        return (
            Verdict("crashed", "kernel", f"{name}; {last_words}" if last_words else name),
            died,
            code,
        )
    return Verdict("exited", "kernel", f"exit status {code}; {last_words}".rstrip("; ")), died, code


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


_ERRORS: dict[Cause, type[errors.WorkerLost]] = {
    "out_of_memory": errors.OutOfMemoryKilled,
    "crashed": errors.Crashed,
    "exited": errors.Crashed,
    "syscall_denied": errors.SyscallDenied,
    "protocol_violation": errors.ProtocolViolation,
}


def to_error(certificate: DeathCertificate) -> errors.WorkerLost:
    """The error of the call that a worker took with it."""
    error = _ERRORS.get(certificate.cause, errors.WorkerLost)(certificate)
    error.hint = remedy(certificate.evidence)
    return error


def out_of_memory(evidence: str) -> bool:
    """Whether a process says last that RLIMIT_DATA ended it: the engine has no other way out."""
    return _OUT_OF_MEMORY.search(evidence) is not None
