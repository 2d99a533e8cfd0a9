"""The artifact cache: native code that was compiled from WebAssembly, kept between pools.

Theory of operation
-------------------
An engine that loads a forged artifact runs it, so nothing from the disk is believed. Every entry
carries a MAC, under a secret that only the owner of the directory can read, over everything that
was stored and over the key it was stored under. The artifact is copied, piece by piece, through a
private buffer into a memory file; each piece is digested in that buffer, so it does not matter what
happens to the file on the disk meanwhile. The memory file is *sealed* (nobody can change or resize
it any more, through whatever descriptor) before the MAC over the digests is compared, and it is the
very file that is handed out: what was verified is what runs.

One entry is one file, ``<digest of the key>.artifact``::

    header = magic 16 | digest of the key 32 | size of the description 8 | size of the artifact 8
    MAC    = HMAC-SHA-256(secret, header | description | SHA-256 of each MiB of the artifact)
    file   = header | MAC | description | artifact

Digests of pieces let several threads share the work: hashing is most of what a ``get()`` costs.

Several threads, pools and processes use one directory, and no lock is waited for
(``private_directory``). Whoever finds a broken entry deletes it. A race costs, at worst, an entry,
which is then compiled again. Entries are not flushed to the disk: the MAC tells what a power
failure left half-written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import stat
import struct
import threading
from collections import OrderedDict
from pathlib import Path

import msgspec

from .private_directory import (
    READ_FLAGS,
    TEMPORARY_SUFFIX,
    opened,
    remove_if_abandoned,
    secret,
    temporary,
)
from .sealed import Data, copy_digested, is_sealed, seal, seal_digested, size_of, write

__all__ = ["ArtifactCache", "ArtifactKey", "Entry", "default_directory", "module_digest", "seal"]

_MAGIC = b"wasm-sandbox/1\r\n"
_HEADER = struct.Struct("<16s32sQQ")
_MAC_SIZE = 32
_SUFFIX = ".artifact"
_MAX_ENTRIES = 4096  # so that looking through the directory stays a matter of milliseconds
_LOOKS = 64  # how often a full directory is looked through while all its entries are replaced
_MAX_MEMORY_ENTRIES = 128  # each holds a descriptor of the user's process


class ArtifactKey(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what native code a module becomes.

    Raises:
        ValueError: ``module_sha256`` is not 32 bytes.
    """

    module_sha256: bytes
    """SHA-256 of the module's bytes, as given."""
    engine: str
    """Name and exact version of the engine, such as ``"wasmtime 50.0.1"``."""
    settings: str
    """Canonical text of the settings that modules are compiled with."""
    cpu: str
    """What stands for the processor's features, such as a hash of their list."""

    def __post_init__(self) -> None:
        if len(self.module_sha256) != 32:
            raise ValueError(f"module_sha256: must be 32 bytes; got {len(self.module_sha256)}")

    def digest(self) -> str:
        """64 hexadecimal digits, the same for equal keys only. They name the entry's file."""
        fields = (self.module_sha256, self.engine, self.settings, self.cpu)
        return hashlib.sha256(_MAGIC + msgspec.msgpack.encode(fields)).hexdigest()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One verified artifact. The caller owns ``artifact_fd`` and closes it."""

    description: bytes
    """What the compiler said about the module; opaque here."""
    artifact_fd: int
    """A memory file, sealed against every change; its offset may be shared, so use ``pread``."""
    artifact_size: int
    """Bytes of the artifact."""


class ArtifactCache:
    """Verified artifacts by key, in a directory of the user's own. Several threads may use it.

    Every method blocks on files, so call them from a thread. A cache is an optimisation:
    ``get`` and ``put`` raise nothing for what the disk does; ``last_error`` says what it was.

    Args:
        directory: where; made with mode 0700 if missing. ``None`` is ``wasm-sandbox`` in
            ``$XDG_CACHE_HOME`` or ``~/.cache``.
        max_bytes: size of all entries together, beyond which those used longest ago are deleted.

    Raises:
        OSError: the directory cannot be made or read, belongs to somebody else, or can be written
            by group or others (``open`` falls back to memory instead).
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, *, max_bytes: int = 4 << 30
    ) -> None:
        self.directory: Path | None = Path(directory or default_directory()).absolute()
        self.max_bytes = max_bytes
        self.last_error: str | None = None
        """Why the last thing that failed did, or ``None``."""
        self.corruptions = 0
        """Entries that failed verification, and were deleted, since this object was made."""
        self._lock = threading.Lock()
        self._total = 0
        """Bytes of all entries, as far as this object knows."""
        self._unchecked = 0
        """Entries that may be stored before the directory is looked through again."""
        with self._opened() as made:
            secret(made)
            self._tidy(made)

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str] | None = None, *, max_bytes: int = 4 << 30
    ) -> ArtifactCache:
        """The cache in ``directory`` or, where that cannot be used, one in memory."""
        try:
            return cls(directory, max_bytes=max_bytes)
        except OSError as error:
            return cls.disabled(_describe(error))

    @classmethod
    def disabled(cls, reason: str, *, max_bytes: int = 256 << 20) -> ArtifactCache:
        """A cache with the same methods that keeps its entries in memory; ``last_error`` is why.

        ``max_bytes`` is of memory here. ``close()`` gives it back.
        """
        return _MemoryCache(reason, max_bytes)

    def get(self, key: ArtifactKey) -> Entry | None:
        """The artifact stored under ``key``, verified and sealed, or ``None``.

        An entry that fails verification is deleted and counted in ``corruptions``.
        """
        try:
            with self._opened() as directory:
                return self._load(directory, key)
        except OSError as error:
            self.last_error = _describe(error)
            return None

    def put(
        self, key: ArtifactKey, description: bytes, artifact: Data | int, size: int | None = None
    ) -> bool:
        """Store an artifact under ``key``, in place of what was there.

        ``artifact`` is bytes, or the descriptor of a file of which the first ``size`` bytes (all,
        if ``None``) are meant; whoever holds it may go on writing to it, unless it is sealed.
        Returns whether it was stored; if not, ``last_error`` says why, and nothing is left behind.
        """
        try:
            self._store(key, description, artifact, size_of(artifact) if size is None else size)
        except OSError as error:
            self.last_error = _describe(error)
            return False
        return True

    def close(self) -> None:
        """Give back what is held: nothing, for a cache on disk. May be called again."""

    def _load(self, directory: int, key: ArtifactKey) -> Entry | None:
        name = key.digest() + _SUFFIX
        try:
            fd = os.open(name, READ_FLAGS, dir_fd=directory)
        except FileNotFoundError:
            return None
        try:
            entry = _read_entry(fd, secret(directory), key)
        except _Corrupt as problem:
            with self._lock:
                self.corruptions += 1
            self.last_error = f"{name}: {problem}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            return None
        else:
            with contextlib.suppress(OSError):  # on a read-only disk, a use leaves no mark
                os.utime(fd)
            return entry
        finally:
            os.close(fd)

    def _store(self, key: ArtifactKey, description: bytes, artifact: Data | int, size: int) -> None:
        header = _header(key, len(description), size)
        start = len(header) + _MAC_SIZE + len(description)
        self._check_fit(start + size)
        name = key.digest() + _SUFFIX
        with self._opened() as directory, temporary(directory) as (fd, new):
            digests = copy_digested(artifact, fd, size, target_offset=start)
            mac = _mac(secret(directory), header, description, digests)
            write(fd, header + mac + description, 0)
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
            with self._lock:
                self._total += start + size
                self._unchecked -= 1
                crowded = self._unchecked < 0 or self._total > self.max_bytes
            if crowded:
                self._tidy(directory, keep=name)

    def _check_fit(self, size: int) -> None:
        if size > self.max_bytes:
            raise OSError(errno.EFBIG, f"{size} bytes do not fit in a cache of {self.max_bytes}")

    def _opened(self) -> contextlib.AbstractContextManager[int]:
        """The directory, opened anew for each use, because people delete caches."""
        assert self.directory is not None
        return opened(self.directory)

    def _tidy(self, directory: int, keep: str = "") -> None:
        """Remove what dead writers left and what is beyond the bounds, oldest use first.

        It takes 5 µs for each entry, so it is done the more rarely the more there are. Until then
        there may be too many: 1/64 more for each process that stores some.
        """
        entries: list[tuple[int, str, int]] = []
        with os.scandir(directory) as listing:
            for item in listing:
                if item.name.endswith(TEMPORARY_SUFFIX):
                    remove_if_abandoned(directory, item.name)
                elif item.name.endswith(_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        status = item.stat(follow_symlinks=False)
                        entries.append((status.st_mtime_ns, item.name, status.st_size))
        entries.sort()
        total, count = sum(size for _, _, size in entries), len(entries)
        for _, name, size in entries:
            if total <= self.max_bytes and count <= _MAX_ENTRIES:
                break
            if name != keep:
                # Most often another process that tidies up was faster.
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
                total, count = total - size, count - 1
        with self._lock:
            self._total, self._unchecked = total, count // _LOOKS


class _MemoryCache(ArtifactCache):
    """Where no directory can be used: the same promises, for as long as the process lives."""

    def __init__(self, reason: str, max_bytes: int) -> None:
        # The directory is all that the base's own __init__ is about.
        self.directory = None
        self.max_bytes = max_bytes
        self.last_error = reason
        self.corruptions = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def get(self, key: ArtifactKey) -> Entry | None:
        with self._lock:
            entry = self._entries.get(key.digest())
            if entry is None:
                return None
            self._entries.move_to_end(key.digest())
            try:
                return msgspec.structs.replace(entry, artifact_fd=os.dup(entry.artifact_fd))
            except OSError as error:
                self.last_error = _describe(error)
                return None

    def _store(self, key: ArtifactKey, description: bytes, artifact: Data | int, size: int) -> None:
        self._check_fit(len(description) + size)
        if isinstance(artifact, int) and is_sealed(artifact) and size_of(artifact) == size:
            memfd = os.dup(artifact)
        else:
            memfd = seal(artifact, size)
        entry = Entry(description=description, artifact_fd=memfd, artifact_size=size)
        with self._lock:
            replaced = self._entries.pop(key.digest(), None)
            if replaced is not None:
                os.close(replaced.artifact_fd)
            self._entries[key.digest()] = entry
            while self._size() > self.max_bytes or len(self._entries) > _MAX_MEMORY_ENTRIES:
                os.close(self._entries.popitem(last=False)[1].artifact_fd)

    def _size(self) -> int:
        return sum(e.artifact_size + len(e.description) for e in self._entries.values())

    def close(self) -> None:
        with self._lock:
            while self._entries:
                os.close(self._entries.popitem()[1].artifact_fd)


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/wasm-sandbox`` (if it is absolute) or ``~/.cache/wasm-sandbox``.

    Raises:
        FileNotFoundError: there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):
        raise FileNotFoundError(errno.ENOENT, "no home directory; set HOME or XDG_CACHE_HOME")
    return Path(base, "wasm-sandbox")


def module_digest(data: Data) -> bytes:
    """SHA-256 of a module's bytes. Other threads run meanwhile."""
    return hashlib.sha256(data).digest()


class _Corrupt(Exception):
    """An entry is not what was stored."""


def _header(key: ArtifactKey, description_size: int, artifact_size: int) -> bytes:
    return _HEADER.pack(_MAGIC, bytes.fromhex(key.digest()), description_size, artifact_size)


def _mac(key: bytes, header: bytes, description: bytes, digests: bytes) -> bytes:
    mac = hmac.new(key, header, "sha256")
    mac.update(description)
    mac.update(digests)
    return mac.digest()


def _read_entry(fd: int, mac_key: bytes, key: ArtifactKey) -> Entry:
    """Verify an open entry. Until the MAC is right, no length in it is more than a hint."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise _Corrupt("not a file")
    prefix = os.pread(fd, _HEADER.size + _MAC_SIZE, 0)
    if len(prefix) < _HEADER.size + _MAC_SIZE:
        raise _Corrupt("cut short")
    header, expected = prefix[: _HEADER.size], prefix[_HEADER.size :]
    _, _, description_size, size = _HEADER.unpack(header)
    if header != _header(key, description_size, size):
        raise _Corrupt("the header is of another format or another entry")
    if status.st_size != len(prefix) + description_size + size:
        raise _Corrupt("not of the size that its header tells")
    description = os.pread(fd, description_size, len(prefix))
    try:
        memfd, digests = seal_digested(fd, size, offset=len(prefix) + description_size)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise _Corrupt("cut short while it was read") from None
        raise
    if not hmac.compare_digest(_mac(mac_key, header, description, digests), expected):
        os.close(memfd)
        raise _Corrupt("the MAC is wrong")
    return Entry(description=description, artifact_fd=memfd, artifact_size=size)


def _describe(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text
