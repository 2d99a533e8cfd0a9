"""Compiling one module in a jailed, disposable process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import trio

from ..protocol import messages
from ..protocol.conversation import Conversation, State
from ..protocol.description import ModuleDescription
from ..protocol.errors import (
    CompilationLimit,
    PoolError,
    ProtocolError,
    SandboxError,
    printable,
)
from ..protocol.failures import to_error
from ..protocol.framing import READ_SIZE, FrameReader
from ..protocol.limits import Limits
from ..protocol.receipts import DeathCertificate
from . import certificates, denials
from .certificates import Verdict
from .cgroups import CgroupLimits, CgroupUsage, Hierarchy
from .sealed import SEALS, seal
from .shortages import pool_error
from .zygote import Child, ForkRefused, Zygote

OVERHEAD = 48 << 20
"""Bytes of memory that the compiler's process needs before it has seen the module."""
TASKS = 64
FINISH_SECONDS = 5.0
"""How long a compiler may take to end once it has answered."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """A compiled module; the caller owns ``artifact``, a sealed memory file of ``size`` bytes."""

    artifact: int
    size: int
    description: ModuleDescription
    seconds: float


async def compile_module(
    source: bytes,
    limits: Limits,
    *,
    metered: bool,
    number: int,
    zygote: Zygote,
    hierarchy: Hierarchy,
) -> Compilation:
    """Compile ``source``.

    Raises:
        ModuleError: the module was refused.
        CompilationLimit: it took more time or memory than it may.
        WorkerLost: the compiler crashed or broke the protocol.
        PoolError: no process could be had.
        OSError, CgroupError: what a process needs could not be had.
    """
    group = hierarchy.group(
        f"c{number}", CgroupLimits(memory=limits.compile_memory + OVERHEAD, swap=0, pids=TASKS)
    )
    try:
        job = _Job(source, limits, metered, number)
        try:
            return await job.run(zygote, group.procs_files, group.usage)
        finally:
            group.kill()
            job.close()
    finally:
        group.remove()


class _Job:
    def __init__(self, source: bytes, limits: Limits, metered: bool, number: int) -> None:
        self._limits, self._number, self._metered = limits, number, metered
        self._size = len(source)
        self._memory = limits.compile_memory + OVERHEAD
        self._verdict: Verdict | None = None
        self._descriptors: list[int] = []
        self._sockets: list[socket.socket] = []
        try:
            self._ours, self._theirs = self._pair(socket.SOCK_STREAM)
            self._ours.setblocking(False)
            self._passing, self._their_passing = self._pair(socket.SOCK_SEQPACKET)
            self._passing.setblocking(False)
            self._module = self._keep(seal(source))
            self._artifact = self._keep(
                os.memfd_create("wasm-sandbox-artifact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            )
            words, stderr = os.pipe()
            self._words, self._stderr = self._keep(words), self._keep(stderr)
            os.set_blocking(words, False)
            os.set_blocking(stderr, False)
        except BaseException:
            self.close()
            raise

    def _pair(self, kind: int) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair(socket.AF_UNIX, kind)
        self._sockets += pair
        return pair

    def _keep(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def close(self) -> None:
        """Give everything back but an artifact that is good."""
        for end in self._sockets:
            end.close()
        while self._descriptors:
            os.close(self._descriptors.pop())

    async def run(
        self, zygote: Zygote, procs_files: tuple[str, ...], usage: Callable[[], CgroupUsage]
    ) -> Compilation:
        """Fork, compile, bury, and judge."""
        try:
            child = await zygote.fork(
                self._number,
                "compile",
                procs_files,
                (
                    self._theirs.fileno(),
                    self._module,
                    self._artifact,
                    self._their_passing.fileno(),
                    self._stderr,
                ),
            )
        except ForkRefused as error:
            raise pool_error("no compiler could be started", error) from None
        self._theirs.close()
        self._their_passing.close()
        self._descriptors.remove(self._stderr)
        os.close(self._stderr)
        started = trio.current_time()
        answer = None

        def kill(verdict: Verdict) -> None:
            self._end(verdict)
            child.kill()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(denials.watch, self._passing, kill)
                answer = await self._ask(child)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                child.kill()
                await child.gone.wait()
                await child.outlived()
                child.close()
        elapsed = trio.current_time() - started
        refusal: SandboxError | None = None
        if self._verdict is None:
            try:
                match answer:
                    case messages.Compiled():
                        return self._good(answer)
                    case messages.CompileFailed(failure=failure):
                        refusal = to_error(failure)
                    case messages.StartFailed(wall=wall, reason=reason):
                        why = printable(f"{wall[:40]}: {reason[:500]}")
                        refusal = PoolError(f"a compiler could not start: {why}")
                    case _:
                        pass
            except ProtocolError as error:
                self._end(Verdict("protocol_violation", "protocol", str(error)))
        if refusal is not None:
            raise refusal
        counters = usage()
        judged, died, code = certificates.judge(
            self._verdict, child.exited, counters, self._last_words()
        )
        raise self._error(
            DeathCertificate(
                worker=self._number,
                pid=child.pid,
                cause=judged.cause,
                wall=judged.wall,
                phase="busy",
                signal=died,
                exit_code=code,
                evidence=judged.evidence,
                age=elapsed,
                memory_peak=counters.memory_peak,
                cpu_time=counters.cpu_seconds,
            )
        )

    def _end(self, verdict: Verdict) -> None:
        """Why the compiler was ended; the first verdict is the one that stands."""
        self._verdict = self._verdict or verdict

    async def _ask(self, child: Child) -> messages.FromWorker | None:
        """Give the compiler its order; wait for its answer, and then for its end."""
        with contextlib.suppress(ConnectionError):  # it is dead: the answer will be none
            self._ours.send(
                messages.encode(
                    messages.ConfigureCompiler(
                        messages.PROTOCOL_VERSION,
                        self._number,
                        self._metered,
                        self._size,
                        self._memory,
                    )
                )
            )
        answer = None
        with trio.move_on_after(self._limits.compile_time) as scope:
            try:
                answer = await self._answer()
            except ProtocolError as error:
                self._end(Verdict("protocol_violation", "protocol", str(error)))
                return None
        if scope.cancelled_caught:
            self._end(Verdict("deadline", "supervisor", "compiling took too long"))
            return None
        with trio.move_on_after(FINISH_SECONDS):
            await child.gone.wait()
        return answer

    async def _answer(self) -> messages.FromWorker | None:
        conversation, reader = Conversation(State.COMPILING), FrameReader()
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            try:
                data = self._ours.recv(READ_SIZE)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            if not data:
                return None
            for body in reader.feed(data):
                for message in messages.decode_from_worker(body):
                    conversation.received(message)
                    return message

    def _good(self, answer: messages.Compiled) -> Compilation:
        """Freeze the artifact: the compiler is dead, so a seal that fails means that it left a
        mapping."""
        try:
            fcntl.fcntl(self._artifact, fcntl.F_ADD_SEALS, SEALS)
        except OSError as error:
            raise ProtocolError(f"an artifact that cannot be sealed: {error}") from error
        size = os.fstat(self._artifact).st_size
        if size != answer.size or size == 0:
            raise ProtocolError("an artifact of another size than announced")
        if size > self._memory:  # with holes, or somebody else's memory: it came out of its own
            raise ProtocolError(f"an artifact of {size} bytes is more than a compiler can make")
        self._descriptors.remove(self._artifact)
        return Compilation(self._artifact, size, answer.description, answer.seconds)

    def _last_words(self) -> str:
        try:
            return os.read(self._words, 1 << 16)[-1000:].decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def _error(self, certificate: DeathCertificate) -> SandboxError:
        limits = self._limits
        if certificate.cause == "deadline":
            return CompilationLimit(
                f"compiling took more than {limits.compile_time:g} s",
                "raise Limits(compile_time=) if you trust the module's size",
                limit="compile_time",
                certificate=certificate,
            )
        if certificate.cause == "out_of_memory" or certificates.out_of_memory(certificate.evidence):
            return CompilationLimit(
                f"compiling needed more than {limits.compile_memory:,} bytes of memory",
                "raise Limits(compile_memory=) if you trust the module",
                limit="compile_memory",
                certificate=certificate,
            )
        return certificates.to_error(certificate)
