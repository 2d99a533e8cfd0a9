"""The error tree. Leaves carry data; the text is made from the data.

    SandboxError
    ├── ConfigurationError            a value that cannot be used; names the field
    ├── ModuleError
    │   ├── InvalidModule             not WebAssembly, or not valid
    │   ├── UnsupportedModule         valid, but uses what is not offered here
    │   ├── MissingExport
    │   ├── MissingImport
    │   ├── SignatureMismatch         a type that does not fit: of arguments, or of an import
    │   │   └── ArgumentOutOfRange
    │   ├── CompilationLimit          too large, too slow or too hungry to compile
    │   └── ModuleQuarantined         its calls crashed too many workers
    ├── GuestError
    │   ├── Trap
    │   ├── GuestExit
    │   └── BadResult
    ├── LimitExceeded
    │   ├── OutOfFuel · DeadlineExceeded · CpuTimeExceeded · IdleTimeExceeded
    │   └── MemoryLimitExceeded · TableLimitExceeded · OutputLimitExceeded · DiskLimitExceeded
    ├── CapabilityDenied
    ├── HostFunctionError
    ├── PluginUnavailable             no such plug-in, or none any more
    ├── WorkerLost
    │   └── OutOfMemoryKilled · Crashed · SyscallDenied · ProtocolViolation
    ├── PoolError
    │   ├── PoolClosed · InstanceClosed · RestartIntensityReached · QueueFull
    │   └── ChildConflict             a supervisor's child is not in a state for that
    └── IsolationError

``ProtocolError`` stands outside: it is how the sans-IO parser says that a peer broke the rules, and
the supervisor turns it into ``ProtocolViolation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .receipts import DeathCertificate, Receipt


class ProtocolError(Exception):
    """A peer sent what the framing, the message types or the conversation table do not allow."""


class SandboxError(Exception):
    """Base of all errors of this library.

    ``hint`` says what the user can do about it; ``receipt`` is what the call had used, where there
    was one; ``record`` is which record of a ``map_buffers`` it was.
    """

    hint: str = ""
    receipt: Receipt | None = None
    record: int | None = None

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else type(self).__name__
        return f"{text} ({self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(
    kind: type[SandboxError], args: tuple[Any, ...], state: dict[str, Any]
) -> SandboxError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(SandboxError, ValueError):
    """A value that cannot be used. ``field`` names it, ``value`` is it."""

    def __init__(self, field: str, value: object, reason: str, hint: str = "") -> None:
        super().__init__(f"{field}: {reason}; got {_brief(value)}")
        self.field, self.value, self.reason, self.hint = field, _brief(value), reason, hint


class ModuleError(SandboxError):
    """Something about the module, or about how it is used, is wrong."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InvalidModule(ModuleError):
    """Not WebAssembly, or refused by validation."""


class UnsupportedModule(ModuleError):
    """Valid, but uses something that is not offered here."""


class MissingExport(ModuleError, KeyError):
    """The module has no such export, or it is not a function."""


class MissingImport(ModuleError):
    """The module needs something that nobody gives it, under any type."""


class SignatureMismatch(ModuleError, TypeError):
    """Types do not fit: a call's arguments and its function's, or an import's and what there is."""


class ArgumentOutOfRange(SignatureMismatch, OverflowError):
    """A number that does not fit in its parameter's type."""


class CompilationLimit(ModuleError):
    """Compiling was stopped. ``limit`` is ``compile_time``, ``compile_memory`` or
    ``module_size``."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        limit: str = "",
        certificate: DeathCertificate | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.limit, self.certificate = limit, certificate


class ModuleQuarantined(ModuleError):
    """Refused for a while, because calls of the module kept crashing their workers.

    ``sha256`` is the module's; ``seconds`` is how long it is still refused; ``certificates`` are
    the deaths that it is to blame for."""

    def __init__(
        self, sha256: str, seconds: float, certificates: Sequence[DeathCertificate]
    ) -> None:
        causes = ", ".join(dict.fromkeys(each.cause for each in certificates))
        super().__init__(
            f"the module {sha256[:12]}… is in quarantine for {seconds:g} s: "
            f"{len(certificates)} of its calls ended their workers ({causes})",
            "its certificates say how; Pool(quarantine=None) refuses no module",
        )
        self.sha256, self.seconds, self.certificates = sha256, seconds, tuple(certificates)


class GuestError(SandboxError):
    """The guest itself failed."""


class Trap(GuestError):
    """The guest trapped. ``code`` is the kind of trap, ``backtrace`` its frames, innermost
    first."""

    def __init__(self, code: str, message: str, backtrace: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.backtrace = code, message, tuple(backtrace)


class GuestExit(GuestError):
    """The guest ended itself by ``proc_exit``. ``code`` is its exit code, 0 to 2**32 - 1."""

    def __init__(self, code: int, stderr: bytes = b"") -> None:
        tail = stderr[-500:].decode("utf-8", "replace").strip()
        super().__init__(f"the guest exited with code {code}" + (f": {tail}" if tail else ""))
        self.code, self.stderr = code, stderr


class BadResult(GuestError):
    """What the guest returned is not what was asked for (a pointer outside its memory, not
    UTF-8, …)."""


class LimitExceeded(SandboxError):
    """A limit stopped the guest. ``limit`` names the field, ``used`` is the usage at that point.

    ``certificate`` is there when the worker had to be killed for it."""

    field = ""

    def __init__(
        self,
        limit: str = "",
        used: float | None = None,
        allowed: float | None = None,
        hint: str = "",
        certificate: DeathCertificate | None = None,
    ) -> None:
        limit = limit or self.field
        text, unit = f"the limit {limit}", _UNITS.get(limit, "")
        if allowed is not None:
            text += f" of {plain(allowed)}{unit}"
        text += " was exceeded"
        if used is not None:
            text += f": {plain(used)}{unit} used"
        super().__init__(text)
        self.limit, self.used, self.allowed, self.hint = limit, used, allowed, hint
        self.certificate = certificate


_UNITS: dict[str, str] = {
    **dict.fromkeys(("wall_time", "cpu_time", "idle_time", "timeout"), " s"),
    **dict.fromkeys(("memory", "output"), " bytes"),
}


class OutOfFuel(LimitExceeded):
    """The call burnt all its fuel."""

    field = "fuel"


class DeadlineExceeded(LimitExceeded, TimeoutError):
    """The call took longer than ``Limits.wall_time`` or ``options(timeout=)`` allow."""

    field = "wall_time"


class CpuTimeExceeded(LimitExceeded):
    """The call used more processor time than it may."""

    field = "cpu_time"


class IdleTimeExceeded(LimitExceeded):
    """The call used no processor for longer than it may."""

    field = "idle_time"


class MemoryLimitExceeded(LimitExceeded):
    """The module needs more memory than it may have."""

    field = "memory"


class TableLimitExceeded(LimitExceeded):
    """The module needs larger tables than it may have."""

    field = "table_elements"


class OutputLimitExceeded(LimitExceeded):
    """The guest wrote or returned more than it may."""

    field = "output"


class DiskLimitExceeded(LimitExceeded):
    """The guest was about to add more to its directories than it may."""

    field = "disk"


class CapabilityDenied(SandboxError):
    """The guest asked for what it was not granted."""

    def __init__(self, capability: str, operation: str, hint: str = "") -> None:
        needs = f" was denied: it needs the capability {capability}" if capability else ""
        super().__init__(f"{operation}{needs}")
        self.capability, self.operation, self.hint = capability, operation, hint


class PluginUnavailable(SandboxError, KeyError):
    """There is no such plug-in: there never was, it was refused, or it was removed."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class HostFunctionError(SandboxError):
    """A host function failed; its own exception is ``__cause__``."""


class WorkerLost(SandboxError):
    """The worker died under this call. ``certificate`` says how."""

    def __init__(self, certificate: DeathCertificate) -> None:
        how = {
            "out_of_memory": "was killed by the kernel: its cgroup is out of memory",
            "crashed": f"crashed (signal {certificate.signal})",
            "syscall_denied": "made a system call that its jail denies",
            "protocol_violation": "broke the protocol",
        }.get(certificate.cause, f"was lost ({certificate.cause})")
        detail = f": {certificate.evidence}" if certificate.evidence else ""
        super().__init__(f"worker {certificate.worker} {how}{detail}")
        self.certificate = certificate


class OutOfMemoryKilled(WorkerLost):
    """The kernel killed the worker because its cgroup was out of memory."""


class Crashed(WorkerLost):
    """The worker ended by a signal of its own, or by an exit that nobody asked for."""

    @property
    def signal(self) -> int | None:
        """Number of the signal, or ``None`` where the process exited."""
        return self.certificate.signal


class SyscallDenied(WorkerLost):
    """The worker made a system call that its jail denies. ``name`` is that call's."""

    @property
    def name(self) -> str:
        """Name of the system call; ``unknown`` where the kernel did not tell."""
        return self.certificate.evidence


class ProtocolViolation(WorkerLost):
    """The worker said something that it may not say; it may be in the guest's hands."""


class PoolError(SandboxError):
    """The pool cannot serve."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PoolClosed(PoolError, RuntimeError):
    """The pool was shut down."""


class InstanceClosed(PoolError, RuntimeError):
    """The instance is over, and the call was not begun. ``certificate`` says how its worker died;
    ``None`` where it was closed before that."""

    def __init__(self, name: str, certificate: DeathCertificate | None = None) -> None:
        why = "it was closed"
        if certificate is not None:
            detail = f": {certificate.evidence}" if certificate.evidence else ""
            why = f"its worker died ({certificate.cause}{detail})"
        super().__init__(f"the instance of {name} is over: {why}", "make a new one")
        self.certificate = certificate


class QueueFull(PoolError):
    """``max_pending`` calls of the pool, or ``mailbox`` calls of the instance, are waiting, and the
    pool was made with ``when_full="raise"``."""


class RestartIntensityReached(PoolError):
    """Workers kept dying without any call's fault, or an instance's kept dying. ``certificates``
    are the last deaths."""

    def __init__(
        self, message: str, certificates: Sequence[DeathCertificate] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.certificates = tuple(certificates)


class ChildConflict(PoolError):
    """A supervisor's ``child`` is not in a state for what was asked; ``reason`` is OTP's word."""

    def __init__(self, child: str, reason: str, why: str) -> None:
        super().__init__(f"{child}: {why}")
        self.child, self.reason = child, reason


class IsolationError(SandboxError):
    """A wall that was asked for cannot be built here. ``wall`` names it."""

    def __init__(self, wall: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{wall}: {reason}")
        self.wall, self.reason, self.hint = wall, reason, hint


LONGEST = 300
"""Characters of a decoder's complaint that are told: it may quote what does not decode."""


def printable(text: str) -> str:
    """Text whose words a guest may have chosen, without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def plain(number: float) -> str:
    """A number for people: a whole one in full, another to six digits."""
    return f"{number:.0f}" if number == number // 1 else f"{number:g}"


def described(error: BaseException) -> str:
    """Kind and text of an exception that is somebody else's, and may fail to give its text."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:
        return f"{kind}, whose text cannot be had"


def _brief(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a foreign object's, or an integer of thousands of digits
        text = f"a value of {type(value).__name__} that cannot be shown"
    return text if len(text) <= 200 else text[:197] + "..."
