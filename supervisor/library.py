"""The modules of a pool: digests, artifacts from the cache or a compiler, and who holds them."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import trio

from ..protocol import trampoline
from ..protocol.description import FunctionType, ModuleDescription
from ..protocol.errors import CompilationLimit, ModuleError, SandboxError, WorkerLost
from ..protocol.limits import Limits
from ..protocol.profile import Profile
from ..protocol.zygote import Hello
from .cache import ArtifactCache, ArtifactKey, module_digest
from .compiler import Compilation
from .quarantine import COMPILING, Ward
from .reporter import Reporter
from .requests import BatchRequest, ModuleHandle

OPEN_ARTIFACTS = 256
"""Artifacts that are kept open without a call that needs them; others are fetched from the cache
again."""
_IN_THREAD = 1 << 18
"""Bytes from which hashing goes to a thread, so that the supervisor's loop does not stand still."""

Key = tuple[bytes, bool]
"""(digest of the module, metered)."""

Compiler = Callable[[bytes, Limits, bool], Awaitable[Compilation]]


@dataclass(eq=False, slots=True)
class Artifact:
    """An open, verified artifact, and how many unfinished calls need it."""

    descriptor: int
    size: int
    description: ModuleDescription
    sha256: bytes
    """Digest of the module."""
    users: int = 0


class Library:
    """Loads modules; each variant is compiled once, however many ask at the same time."""

    def __init__(
        self,
        cache: ArtifactCache,
        hello: Callable[[], Hello],
        compiler: Compiler,
        ward: Ward,
        report: Reporter,
    ) -> None:
        self._cache = cache
        self._hello = hello
        self._compiler = compiler
        self._ward = ward
        self._report = report
        self._open: OrderedDict[Key, Artifact] = OrderedDict()
        self._under_way: dict[Key, trio.Event] = {}
        self._guards: dict[bool, tuple[Artifact, ...]] = {}
        self._trampolines: dict[FunctionType, ModuleHandle] = {}
        self._ordered: set[FunctionType] = set()
        """Types of those that were ordered."""

    def close(self) -> None:
        """Close all artifacts."""
        for artifact in self._open.values():
            os.close(artifact.descriptor)
        self._open.clear()
        self._cache.close()

    async def load(self, source: bytes, limits: Limits, *, metered: bool) -> ModuleHandle:
        """Make a module ready to be called.

        Raises:
            CompilationLimit: larger than ``limits.module_size``, or too costly to compile.
            ModuleError: not a module that can be used here.
        """
        if len(source) > limits.module_size:
            raise CompilationLimit(
                f"the module has {len(source):,} bytes; {limits.module_size:,} are allowed",
                "raise Limits(module_size=) if you trust it",
                limit="module_size",
            )
        if len(source) < _IN_THREAD:
            digest = hashlib.sha256(source).digest()
        else:
            digest = await trio.to_thread.run_sync(module_digest, source)
        artifact = await self._fetch((digest, metered), source, limits)
        return ModuleHandle(digest, source, artifact.description, limits)

    def get(
        self, module: ModuleHandle, profile: Profile, *, guarded: bool = False
    ) -> Artifact | None:
        """The artifact, if it is open, and so is what ``guarded`` calls, and workers of the
        profile, need beside it."""
        key = module.sha256, profile.metered
        artifact = self._open.get(key)
        if (guarded or profile.has_files) and profile.metered not in self._guards:
            return None
        if artifact is not None:
            self._open.move_to_end(key)
        return artifact

    async def prepare(
        self, module: ModuleHandle, profile: Profile, *, guarded: bool = False
    ) -> Artifact:
        """The artifact, fetched or compiled where it is not open. Raises as ``load`` does."""
        if (guarded or profile.has_files) and profile.metered not in self._guards:
            await self._open_guard(profile.metered)
        return await self._fetch((module.sha256, profile.metered), module.source, module.limits)

    def guard(self, metered: bool) -> tuple[int, ...]:
        """Descriptors of the modules that stand between guests and WASI, once they are
        open."""
        return tuple(artifact.descriptor for artifact in self._guards[metered])

    def trampoline(self, batch: BatchRequest, profile: Profile) -> Artifact | None:
        """The trampoline that a batch needs, if it is open."""
        handle = self._trampolines.get(batch.function)
        return None if handle is None else self.get(handle, profile)

    def order_trampoline(
        self, batch: BatchRequest, profile: Profile, start: Callable[..., object]
    ) -> None:
        """Have it made in the meantime, by a task that ``start`` starts; once, if it fails."""
        if batch.function not in self._ordered:
            self._ordered.add(batch.function)
            start(self.prepare_trampoline, batch, profile)

    async def prepare_trampoline(self, batch: BatchRequest, profile: Profile) -> Artifact | None:
        """The trampoline that a batch needs; ``None`` where none can be had, which costs only
        time."""
        kind, limits = batch.function, Limits()
        handle = self._trampolines.get(kind)
        try:
            if handle is None:
                handle = await self.load(trampoline.source(kind), limits, metered=profile.metered)
                self._trampolines[kind] = handle
            return await self.prepare(handle, profile)
        except SandboxError:  # reported, by whoever compiles
            return None

    async def _open_guard(self, metered: bool) -> None:
        found: list[Artifact] = []
        for source in self._hello().guard:
            handle = await self.load(source, Limits(), metered=metered)
            artifact = await self._fetch((handle.sha256, metered), source, Limits())
            artifact.users += 1
            found.append(artifact)
        self._guards[metered] = tuple(found)

    async def _fetch(self, key: Key, source: bytes, limits: Limits) -> Artifact:
        while True:
            artifact = self._open.get(key)
            if artifact is not None:
                self._open.move_to_end(key)
                return artifact
            under_way = self._under_way.get(key)
            if under_way is None:
                break
            await under_way.wait()
        self._under_way[key] = trio.Event()
        try:
            artifact = await self._from_cache(key) or await self._compile(key, source, limits)
            self._open[key] = artifact
            self._shrink(key)
            return artifact
        finally:
            self._under_way.pop(key).set()

    def _cache_key(self, key: Key) -> ArtifactKey:
        hello = self._hello()
        settings = dict(hello.settings)[key[1]]
        return ArtifactKey(
            module_sha256=key[0], engine=hello.engine, settings=settings, cpu=hello.cpu
        )

    async def _from_cache(self, key: Key) -> Artifact | None:
        entry = await trio.to_thread.run_sync(self._cache.get, self._cache_key(key))
        if entry is None:
            return None
        description = msgspec.msgpack.decode(entry.description, type=ModuleDescription)
        self._report.module_loaded(key[0].hex())
        return Artifact(entry.artifact_fd, entry.artifact_size, description, key[0])

    async def _compile(self, key: Key, source: bytes, limits: Limits) -> Artifact:
        digest = key[0].hex()
        try:
            made = await self._compile_unless_refused(key, source, limits)
        except (ModuleError, WorkerLost) as error:
            self._report.module_refused(digest, error)
            raise
        self._report.module_compiled(digest, made.seconds, made.size)
        description = msgspec.msgpack.encode(made.description)
        try:
            await trio.to_thread.run_sync(
                self._cache.put, self._cache_key(key), description, made.artifact, made.size
            )
        except BaseException:
            os.close(made.artifact)
            raise
        return Artifact(made.artifact, made.size, made.description, key[0])

    async def _compile_unless_refused(self, key: Key, source: bytes, limits: Limits) -> Compilation:
        suspect = COMPILING, key[0].hex()
        refusal = self._ward.refusal(suspect, trio.current_time())
        if refusal is not None:
            raise refusal
        try:
            return await self._compiler(source, limits, key[1])
        except WorkerLost as error:
            refusal = self._ward.died(suspect, error.certificate, trio.current_time())
            if refusal is not None:
                self._report.module_quarantined(refusal, None, compiling=True)
            raise

    def _shrink(self, keep: Key) -> None:
        for key in list(self._open):
            if len(self._open) <= OPEN_ARTIFACTS:
                return
            if key != keep and not self._open[key].users:
                os.close(self._open.pop(key).descriptor)
