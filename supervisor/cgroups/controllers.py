"""The cgroup files that ``cgroupspy`` does not know, described in its own idiom.

``cgroupspy`` models a group as a ``Node``, the files of one controller as a ``Controller`` and each
file as a descriptor. Here the v1 controllers that it lacks and the whole of v2 are added. Its
``trees`` are never used: they scan every group of the machine, and fail when another process
removes one meanwhile.
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar, Final

from cgroupspy.controllers import (
    Controller,
    CpuAcctController,
    CpuController,
    MemoryController,
)
from cgroupspy.interfaces import BaseFileInterface, DictFile, FlagFile, IntegerFile, ListFile
from cgroupspy.nodes import Node

CPU_PERIOD: Final = 20_000
"""Microseconds. Short, so that a throttled guest stalls briefly; with the kernel's smallest quota,
1 ms, it gives ``model.SMALLEST_CPU_FRACTION``."""


class MaxFile(BaseFileInterface):
    """An integer, or ``max`` for None."""

    def sanitize_get(self, value: str) -> int | None:
        return None if value == "max" else int(value)

    def sanitize_set(self, value: int | None) -> str:
        return "max" if value is None else str(value)


class CpuMaxFile(BaseFileInterface):
    """``quota period`` as a fraction of one core, or None."""

    def sanitize_get(self, value: str) -> float | None:
        quota, period = value.split()
        return None if quota == "max" else int(quota) / int(period)

    def sanitize_set(self, value: float | None) -> str:
        return f"{'max' if value is None else round(value * CPU_PERIOD)} {CPU_PERIOD}"


class DeviceLimitsFile(BaseFileInterface):
    """Lines of ``major:minor key=value …`` as a dictionary of dictionaries; ``max`` is None."""

    def sanitize_get(self, value: str) -> dict[str, dict[str, int | None]]:
        limits: dict[str, dict[str, int | None]] = {}
        for line in value.splitlines():
            device, *pairs = line.split()
            split = (pair.split("=") for pair in pairs)
            limits[device] = {
                key: None if number == "max" else int(number) for key, number in split
            }
        return limits

    def sanitize_set(self, value: dict[str, dict[str, int | None]]) -> str:
        return "\n".join(
            " ".join([device, *(f"{key}={'max' if n is None else n}" for key, n in limits.items())])
            for device, limits in value.items()
        )


class DirectController(Controller):
    """Reads through descriptors that are kept (1 µs instead of 20) and writes in one system call.

    An attribute whose file this kernel does not have raises ``FileNotFoundError``; ``read``
    answers None instead.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._descriptors: dict[bytes, int] = {}

    def get_property(self, filename: bytes) -> str:
        descriptor = self._descriptors.get(filename)
        if descriptor is None:
            descriptor = os.open(self.filepath(filename), os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors[filename] = descriptor
        return os.pread(descriptor, 4096, 0).decode().strip()

    def set_property(self, filename: bytes, value: object) -> int:
        path = self.filepath(filename)
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(descriptor, str(value).encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None
        finally:
            os.close(descriptor)

    def read(self, name: str) -> Any:
        """The value of the file described by attribute ``name``; None without such a file."""
        try:
            return getattr(self, name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return None
            raise

    def number(self, name: str) -> int | None:
        """As ``read``, for files that hold one number."""
        value: int | None = self.read(name)
        return value

    def table(self, name: str) -> dict[str, int]:
        """As ``read``, for files with lines of a key and a number; empty without such a file."""
        value: dict[str, int] | None = self.read(name)
        return {} if value is None else value

    def close(self) -> None:
        """Close the kept descriptors."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


class MemoryFiles(DirectController, MemoryController):
    """v1 memory."""

    oom_control = DictFile("memory.oom_control", readonly=True)


class CpuFiles(DirectController, CpuController):
    """v1 cpu."""


class CpuAcctFiles(DirectController, CpuAcctController):
    """v1 cpuacct."""


class PidsFiles(DirectController):
    """v1 pids."""

    max = MaxFile("pids.max")
    current = IntegerFile("pids.current", readonly=True)
    peak = IntegerFile("pids.peak", readonly=True)
    events = DictFile("pids.events", readonly=True)


class FreezerFiles(DirectController):
    """v1 freezer."""

    state = BaseFileInterface("freezer.state")


class UnifiedFiles(DirectController):
    """v2: the files of all controllers in one directory."""

    type = BaseFileInterface("cgroup.type")
    controllers = ListFile("cgroup.controllers", readonly=True)
    subtree_control = BaseFileInterface("cgroup.subtree_control")
    events = DictFile("cgroup.events", readonly=True)
    freeze = FlagFile("cgroup.freeze")
    kill = FlagFile("cgroup.kill", writeonly=True)

    memory_max = MaxFile("memory.max")
    memory_current = IntegerFile("memory.current", readonly=True)
    memory_peak = IntegerFile("memory.peak", readonly=True)
    memory_events = DictFile("memory.events", readonly=True)
    memory_oom_group = FlagFile("memory.oom.group")
    memory_reclaim = BaseFileInterface("memory.reclaim", writeonly=True)
    memory_swap_max = MaxFile("memory.swap.max")

    pids_max = MaxFile("pids.max")
    pids_current = IntegerFile("pids.current", readonly=True)
    pids_peak = IntegerFile("pids.peak", readonly=True)
    pids_events = DictFile("pids.events", readonly=True)

    cpu_max = CpuMaxFile("cpu.max")
    cpu_stat = DictFile("cpu.stat", readonly=True)

    io_max = DeviceLimitsFile("io.max")


class GroupNode(Node):
    """A group whose controller is said, not guessed from its place below the mount point.

    ``cgroupspy`` takes the controller from the directory's name, which is wrong for co-mounted
    controllers (``cpu,cpuacct``) and for v2. A node without a parent bears an absolute path.
    """

    CONTROLLERS: ClassVar[dict[bytes, type[Controller]]] = {
        b"memory": MemoryFiles,
        b"cpu": CpuFiles,
        b"cpuacct": CpuAcctFiles,
        b"pids": PidsFiles,
        b"freezer": FreezerFiles,
        b"unified": UnifiedFiles,
    }

    def __init__(self, name: str, parent: GroupNode | None = None, controller: str = "") -> None:
        self._said = controller.encode()
        super().__init__(os.fsencode(name), parent)

    def _get_controller_type(self) -> bytes | None:
        return self._said or (self.parent.controller_type if self.parent else None)

    @property
    def directory(self) -> str:
        """The absolute path."""
        return os.fsdecode(self.full_path)
