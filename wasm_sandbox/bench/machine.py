"""The machine: what it is, how busy it is, and how fast it is just now."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

PROC = Path("/proc")
_PACKAGES = ("wasmtime", "trio", "msgspec", "multiprocess", "pebble", "loky", "extism")
_LOOPS, _COPIED = 200_000, 64 << 20
_TIMES = 5


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when something was measured, and how busy it was there."""

    python: str
    kernel: str
    processor: str
    cpus: int
    memory: int
    """Bytes of memory that could be had."""
    load: float
    """Load average of the last minute."""
    when: str
    packages: dict[str, str]


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same in every run: the best of some tries."""

    loop: float
    """Seconds that a loop of Python takes."""
    copy: float
    """Bytes per second that are copied from memory to memory."""
    load: float
    """Load average."""
    stolen: float
    """Seconds of all processors that the host gave to others, since the machine was started."""
    when: float
    """Seconds of a clock."""


def look(proc: Path = PROC) -> Machine:
    """The machine as it is now."""
    return Machine(
        python=platform.python_version(),
        kernel=platform.release(),
        processor=_processor(proc),
        cpus=len(os.sched_getaffinity(0)),
        memory=available(proc),
        load=os.getloadavg()[0],
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
    )


def calibrate(clock: Callable[[], float] = time.perf_counter, proc: Path = PROC) -> Calibration:
    """How fast the machine is now."""
    source, target = b"\x5a" * _COPIED, bytearray(_COPIED)
    loops: list[float] = []
    copies: list[float] = []
    for _ in range(_TIMES):
        begun = clock()
        for _ in range(_LOOPS):
            pass
        between = clock()
        target[:] = source
        loops.append(between - begun)
        copies.append(clock() - between)
    return Calibration(
        loop=min(loops),
        copy=_COPIED / max(min(copies), 1e-9),
        load=os.getloadavg()[0],
        stolen=_stolen(proc),
        when=clock(),
    )


def available(proc: Path = PROC) -> int:
    """Bytes of memory that processes may still have; 0 where it is not known."""
    try:
        lines = Path(proc, "meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable:")), 0)


def _processor(proc: Path) -> str:
    try:
        lines = Path(proc, "cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _stolen(proc: Path) -> float:
    try:
        ticks = int(Path(proc, "stat").read_text().split("\n")[0].split()[8])
    except (OSError, ValueError, IndexError):
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
