"""Failures as data, and the errors that callers see."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from . import errors
from .messages import Failure

_KINDS: dict[str, Callable[[Failure], errors.SandboxError]] = {
    "invalid_module": lambda f: errors.InvalidModule(f.message, f.hint),
    "unsupported_module": lambda f: errors.UnsupportedModule(f.message, f.hint),
    "module_limit": lambda f: errors.CompilationLimit(f.message, f.hint, limit="module_size"),
    "missing_import": lambda f: errors.MissingImport(f.message, f.hint),
    "missing_export": lambda f: errors.MissingExport(f.message, f.hint),
    "signature": lambda f: errors.SignatureMismatch(f.message, f.hint),
    "trap": lambda f: errors.Trap(f.code, f.message, f.backtrace),
    "exit": lambda f: errors.GuestExit(f.exit_code),
    "host_function": lambda f: errors.HostFunctionError(f.message),
    "bad_result": lambda f: errors.BadResult(f.message),
    "out_of_fuel": lambda f: errors.OutOfFuel("fuel", f.used, f.allowed, f.hint),
    "memory_limit": lambda f: errors.MemoryLimitExceeded("memory", f.used, f.allowed, f.hint),
    "table_limit": lambda f: errors.TableLimitExceeded("table_elements", f.used, f.allowed, f.hint),
    "output_limit": lambda f: errors.OutputLimitExceeded("output", f.used, f.allowed, f.hint),
    "disk_limit": lambda f: errors.DiskLimitExceeded("disk", f.used, f.allowed, f.hint),
    "capability_denied": lambda f: errors.CapabilityDenied(f.limit, f.message, f.hint),
    "unlinkable": lambda f: errors.MissingImport(f.message, f.hint),
    "interrupted": lambda f: errors.Trap("interrupt", f.message, f.backtrace),
}
KINDS = frozenset(_KINDS)
"""Every kind that a worker may name."""


def to_error(failure: Failure) -> errors.SandboxError:
    """The error that a caller gets for ``failure``. Its texts may be of a guest's choice, whoever
    says them: they are made printable.

    Raises:
        ProtocolError: no such kind.
    """
    make = _KINDS.get(failure.kind)
    if make is None:
        raise errors.ProtocolError(f"unknown kind of failure {failure.kind[:40]!r}")
    return make(
        msgspec.structs.replace(
            failure,
            message=errors.printable(failure.message),
            hint=errors.printable(failure.hint),
            code=errors.printable(failure.code),
            limit=errors.printable(failure.limit),
            backtrace=tuple(map(errors.printable, failure.backtrace)),
        )
    )
