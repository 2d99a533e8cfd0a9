"""A process-isolated worker pool for untrusted WebAssembly.

Names are loaded when they are first used: a worker imports this package as the parent of its own
code, and must get neither the event loop nor the face by it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calls import CompletedRun
    from .channel import Channel
    from .children import Child, ChildCounts, ChildStatus
    from .function import Function
    from .future import CallFuture
    from .guest_memory import AsyncGuestMemory, GuestMemory
    from .imports import HostFunction
    from .instance import Instance
    from .module import Module
    from .oneshot import call, run
    from .plugins.faces import Plugin, Plugins
    from .plugins.state import PluginEvent, PluginRelease
    from .plugins.trio_faces import TrioPlugin, TrioPlugins, open_plugins
    from .pool import Pool
    from .process import GuestInput, GuestOutput, Process
    from .protocol.capabilities import (
        Capabilities,
        Clock,
        Environment,
        Filesystem,
        Random,
    )
    from .protocol.errors import (
        ArgumentOutOfRange,
        BadResult,
        CapabilityDenied,
        ChildConflict,
        CompilationLimit,
        ConfigurationError,
        CpuTimeExceeded,
        Crashed,
        DeadlineExceeded,
        DiskLimitExceeded,
        GuestError,
        GuestExit,
        HostFunctionError,
        IdleTimeExceeded,
        InstanceClosed,
        InvalidModule,
        IsolationError,
        LimitExceeded,
        MemoryLimitExceeded,
        MissingExport,
        MissingImport,
        ModuleError,
        ModuleQuarantined,
        OutOfFuel,
        OutOfMemoryKilled,
        OutputLimitExceeded,
        PluginUnavailable,
        PoolClosed,
        PoolError,
        ProtocolViolation,
        QueueFull,
        RestartIntensityReached,
        SandboxError,
        SignatureMismatch,
        SyscallDenied,
        TableLimitExceeded,
        Trap,
        UnsupportedModule,
        WorkerLost,
    )
    from .protocol.events import Event
    from .protocol.grants import Grants
    from .protocol.isolation import EnforcementRow, Isolation, WallReport
    from .protocol.limits import Limits
    from .protocol.network import Network
    from .protocol.policies import Quarantine, Recycle, RestartPolicy
    from .protocol.receipts import DeathCertificate, Receipt
    from .protocol.usage import InstanceUsage, UsageSample
    from .results import collect_files, remove_directory
    from .snapshot import Snapshot
    from .supervision import Supervisor
    from .supervisor.audit import AuditLog
    from .supervisor.tree import TreeEvent
    from .trio_chunks import ValueStream
    from .trio_instance import TrioInstance
    from .trio_pool import TrioPool, open_pool
    from .trio_process import TrioGuestInput, TrioGuestOutput, TrioProcess
    from .trio_supervision import TrioSupervisor
    from .wit_values import Err, Ok, Resource, Some, Variant, WitError

    __version__: str

__all__ = [
    "ArgumentOutOfRange",
    "AsyncGuestMemory",
    "AuditLog",
    "BadResult",
    "CallFuture",
    "Capabilities",
    "CapabilityDenied",
    "Channel",
    "Child",
    "ChildConflict",
    "ChildCounts",
    "ChildStatus",
    "Clock",
    "CompilationLimit",
    "CompletedRun",
    "ConfigurationError",
    "CpuTimeExceeded",
    "Crashed",
    "DeadlineExceeded",
    "DeathCertificate",
    "DiskLimitExceeded",
    "EnforcementRow",
    "Environment",
    "Err",
    "Event",
    "Filesystem",
    "Function",
    "Grants",
    "GuestError",
    "GuestExit",
    "GuestInput",
    "GuestMemory",
    "GuestOutput",
    "HostFunction",
    "HostFunctionError",
    "IdleTimeExceeded",
    "Instance",
    "InstanceClosed",
    "InstanceUsage",
    "InvalidModule",
    "Isolation",
    "IsolationError",
    "LimitExceeded",
    "Limits",
    "MemoryLimitExceeded",
    "MissingExport",
    "MissingImport",
    "Module",
    "ModuleError",
    "ModuleQuarantined",
    "Network",
    "Ok",
    "OutOfFuel",
    "OutOfMemoryKilled",
    "OutputLimitExceeded",
    "Plugin",
    "PluginEvent",
    "PluginRelease",
    "PluginUnavailable",
    "Plugins",
    "Pool",
    "PoolClosed",
    "PoolError",
    "Process",
    "ProtocolViolation",
    "Quarantine",
    "QueueFull",
    "Random",
    "Receipt",
    "Recycle",
    "Resource",
    "RestartIntensityReached",
    "RestartPolicy",
    "SandboxError",
    "SignatureMismatch",
    "Snapshot",
    "Some",
    "Supervisor",
    "SyscallDenied",
    "TableLimitExceeded",
    "Trap",
    "TreeEvent",
    "TrioGuestInput",
    "TrioGuestOutput",
    "TrioInstance",
    "TrioPlugin",
    "TrioPlugins",
    "TrioPool",
    "TrioProcess",
    "TrioSupervisor",
    "UnsupportedModule",
    "UsageSample",
    "ValueStream",
    "Variant",
    "WallReport",
    "WitError",
    "WorkerLost",
    "__version__",
    "call",
    "collect_files",
    "open_plugins",
    "open_pool",
    "remove_directory",
    "run",
]

_PLACES = {
    "calls": ("CompletedRun",),
    "channel": ("Channel",),
    "children": ("Child", "ChildCounts", "ChildStatus"),
    "function": ("Function",),
    "future": ("CallFuture",),
    "guest_memory": ("AsyncGuestMemory", "GuestMemory"),
    "imports": ("HostFunction",),
    "instance": ("Instance",),
    "module": ("Module",),
    "oneshot": ("call", "run"),
    "plugins.faces": ("Plugin", "Plugins"),
    "plugins.state": ("PluginEvent", "PluginRelease"),
    "plugins.trio_faces": ("TrioPlugin", "TrioPlugins", "open_plugins"),
    "pool": ("Pool",),
    "process": ("GuestInput", "GuestOutput", "Process"),
    "protocol.capabilities": (
        "Capabilities",
        "Clock",
        "Environment",
        "Filesystem",
        "Random",
    ),
    "protocol.events": ("Event",),
    "protocol.grants": ("Grants",),
    "protocol.isolation": ("EnforcementRow", "Isolation", "WallReport"),
    "protocol.limits": ("Limits",),
    "protocol.network": ("Network",),
    "protocol.policies": ("Quarantine", "Recycle", "RestartPolicy"),
    "protocol.receipts": ("DeathCertificate", "Receipt"),
    "protocol.usage": ("InstanceUsage", "UsageSample"),
    "supervision": ("Supervisor",),
    "supervisor.audit": ("AuditLog",),
    "supervisor.tree": ("TreeEvent",),
    "results": ("collect_files", "remove_directory"),
    "snapshot": ("Snapshot",),
    "trio_chunks": ("ValueStream",),
    "trio_instance": ("TrioInstance",),
    "trio_pool": ("TrioPool", "open_pool"),
    "trio_process": ("TrioGuestInput", "TrioGuestOutput", "TrioProcess"),
    "trio_supervision": ("TrioSupervisor",),
    "wit_values": ("Err", "Ok", "Resource", "Some", "Variant", "WitError"),
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names}
_OTHERS = "protocol.errors"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in __all__:
        value = getattr(import_module(f".{_PLACE.get(name, _OTHERS)}", __name__), name)
        _adopt_errors()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wasm-sandbox")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _adopt_errors() -> None:
    """Let tracebacks name the errors as users import them."""
    errors = import_module(f".{_OTHERS}", __name__)
    for name in __all__:
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            kind.__module__ = __name__
