"""The account of an instance: receipts in, a snapshot out. Nothing here wakes up by itself."""

from __future__ import annotations

import time
from collections import deque

import trio

from ..protocol import arena
from ..protocol.receipts import Receipt
from ..protocol.usage import InstanceUsage, Phase, UsageSample
from .watch import processor_clock
from .worker import Worker

SAMPLES = 240
"""How many samples a timeline keeps."""
INTERVAL = 1.0
"""Seconds between two of them, at the least."""


class Account:
    """What one instance has used."""

    def __init__(self) -> None:
        self.restarts = 0
        self._born = trio.current_time()
        self._memory = 0
        self._peak = 0
        self._cpu_time = 0.0
        self._wall_time = 0.0
        self._fuel = 0
        self._calls = 0
        self._failures = 0
        self._bytes_in = 0
        self._output = 0
        self._bytes_read = 0
        self._bytes_written = 0
        self._disk = 0
        self._host_calls = 0
        self._timeline: deque[UsageSample] = deque(maxlen=SAMPLES)
        self._sampled = -INTERVAL

    def began(self, receipt: Receipt) -> None:
        """The instance was made, or made again."""
        self._memory = 0
        self._add(receipt)

    def ended(self, receipt: Receipt, *, failed: bool) -> None:
        """A call is over."""
        if receipt.attempts:
            self._calls += 1
            self._failures += failed
            self._add(receipt)

    def _add(self, receipt: Receipt) -> None:
        if receipt.peak_memory is not None:
            self._memory = receipt.peak_memory
            self._peak = max(self._peak, self._memory)
        self._cpu_time += receipt.cpu_time
        self._wall_time += receipt.wall_time
        self._fuel += receipt.fuel or 0
        self._bytes_in += receipt.bytes_in
        self._output += receipt.bytes_out
        self._bytes_read += receipt.bytes_read
        self._bytes_written += receipt.bytes_written
        self._disk += receipt.disk
        self._host_calls += receipt.host_calls
        self._sample(trio.current_time(), self._cpu_time)

    def _sample(self, now: float, cpu_time: float) -> None:
        if now - self._sampled >= INTERVAL:
            self._sampled = now
        elif self._timeline:
            self._timeline.pop()  # the latest of its second stands for it
        self._timeline.append(
            UsageSample(
                when=time.time(),
                memory_used=self._memory,
                cpu_time=cpu_time,
                calls=self._calls,
                restarts=self.restarts,
            )
        )

    def snapshot(self, phase: Phase, worker: Worker | None, waiting: int) -> InstanceUsage:
        """All of it, as it is now."""
        now = trio.current_time()
        cpu_time, wall_time = self._cpu_time, self._wall_time
        if worker is not None and worker.head is not None:
            begun, since = arena.read_begun(worker.wires.view)
            clock = processor_clock(worker.pid)
            if begun == worker.head.number and clock is not None:
                cpu_time += max(clock - since / 1e9, 0.0)
            wall_time += now - worker.head.sent
        self._sample(now, cpu_time)
        return InstanceUsage(
            phase=phase,
            worker=None if worker is None else worker.number,
            pid=None if worker is None else worker.pid,
            age=now - self._born,
            memory_used=self._memory,
            memory_peak=self._peak,
            resident=None if worker is None else worker.memory(),
            cpu_time=cpu_time,
            wall_time=wall_time,
            fuel=self._fuel,
            calls=self._calls,
            failures=self._failures,
            waiting=waiting,
            restarts=self.restarts,
            bytes_in=self._bytes_in,
            output=self._output,
            bytes_read=self._bytes_read,
            bytes_written=self._bytes_written,
            disk=self._disk,
            host_calls=self._host_calls,
            timeline=tuple(self._timeline),
        )
