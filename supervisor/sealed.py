"""Memory files that nobody can change any more: made, filled, digested, sealed.

A sealed file can be verified once and then shared: neither its bytes nor its size change
afterwards, through whatever descriptor or mapping, so no reader's mapping is ever cut short.

Digests are of what was written, taken from the same private buffer, whatever happens to the source
meanwhile. Until it is sealed a new memory file is known to nobody else: a process that may open it
through ``/proc`` may as well read or change everything that this one does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os

Data = bytes | bytearray | memoryview

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3. Keeps execve() off; mapping as code is another matter.

_SEGMENT = 1 << 20
_SEGMENTS_WORTH_A_THREAD = 2
_MAX_THREADS = 4


def seal(source: Data | int, size: int | None = None, *, offset: int = 0) -> int:
    """A new sealed memory file with ``size`` bytes of ``source`` from ``offset``.

    The caller closes it. ``source`` is bytes, or the descriptor of a file, whose position is
    neither used nor moved. A ``size`` of ``None`` is all the bytes that there are.

    Raises:
        OSError: no memory or descriptor is left, or the source ends early (``ENODATA``).
    """
    size = max(0, size_of(source) - offset) if size is None else size
    return seal_digested(source, size, offset=offset)[0]


def seal_digested(source: Data | int, size: int, *, offset: int = 0) -> tuple[int, bytes]:
    """What ``seal`` returns, and the digests of its content as ``copy_digested`` returns them."""
    memfd = _memory_file()
    try:
        digests = copy_digested(source, memfd, size, source_offset=offset)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(memfd)
        raise
    return memfd, digests


def is_sealed(fd: int) -> bool:
    """Whether ``fd`` is a memory file with all of ``SEALS`` on."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    except OSError:  # not a memory file
        return False


def size_of(source: Data | int) -> int:
    """How many bytes there are, in a buffer or in an open file."""
    return os.fstat(source).st_size if isinstance(source, int) else memoryview(source).nbytes


def copy_digested(
    source: Data | int, target: int, size: int, *, source_offset: int = 0, target_offset: int = 0
) -> bytes:
    """Copy ``size`` bytes to the file ``target``; return the SHA-256 of each MiB of them, joined.

    The last piece may be shorter. Larger copies are shared between threads: hashlib and the kernel
    let others run while they work.

    Raises:
        OSError: of either file; ``ENODATA`` where the source ends early.
    """
    count = -(-size // _SEGMENT)
    cpus = len(os.sched_getaffinity(0))
    parts = max(1, min(_MAX_THREADS, cpus, count // _SEGMENTS_WORTH_A_THREAD))

    def copy_part(part: int) -> bytes:
        buffer = memoryview(bytearray(min(_SEGMENT, size)))
        digests: list[bytes] = []
        for segment in range(count * part // parts, count * (part + 1) // parts):
            start = segment * _SEGMENT
            piece = buffer[: min(_SEGMENT, size - start)]
            _read(source, piece, source_offset + start)
            write(target, piece, target_offset + start)
            digests.append(hashlib.sha256(piece).digest())
        return b"".join(digests)

    if parts == 1:
        return copy_part(0)
    try:
        # Once a program's main thread is over, this can no longer be imported.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(parts) as threads:
            return b"".join(threads.map(copy_part, range(parts)))
    except RuntimeError:  # no thread can be started, as at a limit or at the program's end
        return b"".join(map(copy_part, range(parts)))


def write(target: int, data: Data, offset: int) -> None:
    """Write all of ``data`` to a file, from ``offset``."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.pwrite(target, view[written:], offset + written)


def _read(source: Data | int, buffer: memoryview, offset: int) -> None:
    """Fill ``buffer``."""
    filled = 0
    while filled < len(buffer):
        rest = buffer[filled:]
        if isinstance(source, int):
            count = os.preadv(source, [rest], offset + filled)
        else:
            with memoryview(source).cast("B") as view:
                chunk = view[offset + filled : offset + len(buffer)]
                count = len(chunk)
                rest[:count] = chunk
        if not count:
            raise OSError(errno.ENODATA, "it ends before the size that was given")
        filled += count


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with contextlib.suppress(OSError):
        return os.memfd_create("artifact", flags | _MFD_NOEXEC_SEAL)
    return os.memfd_create("artifact", flags)
