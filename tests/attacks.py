"""What native code in a worker tries. Each function runs in the worker and returns plain data.

Imported by the zygote, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_CHUNK = 16 << 20


def pid() -> int:
    """Which process this is."""
    return os.getpid()


_visitors: list[str | None] = []


def visit(name: str | None) -> dict[str, Any]:
    """Leave a name in this process's memory; all the names that were ever left there."""
    _visitors.append(name)
    return {"pid": os.getpid(), "visitors": _visitors}


def crash(number: int = signal.SIGSEGV) -> None:
    """Die by a signal, as an engine's own fault would."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    time.sleep(10)


def leave(code: int = 0) -> None:
    """End the process without a word."""
    os._exit(code)


def hang() -> None:
    """Never come back, with no processor used."""
    time.sleep(3600)


def outlive(seconds: float = 3600) -> None:
    """Refuse to die with the parent (prctl(2), PR_SET_PDEATHSIG), and never come back."""
    _libc.prctl(1, 0, 0, 0, 0)
    time.sleep(seconds)


def spin(seconds: float = 3600) -> None:
    """Burn processor, deaf to the control thread (which runs, but has no guest to stop)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def crash_later(seconds: float) -> str:
    """Leave a thread behind that ends the process when the call is long over."""
    threading.Timer(seconds, os._exit, (77,)).start()
    return "armed"


def open_descriptors() -> dict[str, str]:
    """The open descriptors of this process, and what they are."""
    found: dict[str, str] = {}
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
    return {number: target for number, target in found.items() if not target.endswith("/fd")}


def environment() -> dict[str, Any]:
    """What is left of the environment: for Python, for the C library, and on the initial stack."""
    with open("/proc/self/environ", "rb") as file:
        initial = file.read()
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        parent = file.read()
    _libc.getenv.restype = ctypes.c_char_p
    native = _libc.getenv(b"WASM_SANDBOX_TEST_SECRET") or b""
    return {
        "python": dict(os.environ),
        "native": native.decode(),
        "initial": initial.decode("utf-8", "replace"),
        "parent": parent.decode("utf-8", "replace"),
    }


def status(field: str) -> str:
    """A field of /proc/self/status."""
    with open("/proc/self/status") as lines:
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith(field + ":")
        )


def reachable_processes() -> list[int]:
    """Processes that this one may signal through descriptors that it holds (pidfds)."""
    found: list[int] = []
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{entry}") == "anon_inode:[pidfd]":
                signal.pidfd_send_signal(int(entry), 0)
                with open(f"/proc/self/fdinfo/{entry}") as lines:
                    found += [int(line.split()[1]) for line in lines if line.startswith("Pid:")]
    return found


def run_set_uid(program: str) -> str:
    """As nobody, run a set-uid-root program that says who it is."""
    drop: dict[str, Any] = {}
    if os.getuid() == 0:
        drop = {"user": 65534, "group": 65534, "extra_groups": ()}
    said: bytes = subprocess.run([program, "-u"], capture_output=True, check=True, **drop).stdout
    return said.decode().strip()


def allocate_private(size: int) -> str:
    """Take and touch private memory; what the kernel says."""
    return _touch(size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def allocate_shared(size: int) -> str:
    """Take and touch shared memory, which no resource limit counts."""
    return _touch(size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def _touch(size: int, flags: int) -> str:
    address = _libc.mmap(0, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if address == ctypes.c_void_p(-1).value:
        return errno.errorcode[ctypes.get_errno()]
    for offset in range(0, size, _CHUNK):
        ctypes.memset(address + offset, 1, min(_CHUNK, size - offset))
    _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return "done"


def open_many(count: int) -> int:
    """Open descriptors; how many could be had."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return len(opened)


def write_large(path: str, size: int) -> int:
    """Write a file; how large it could be made."""
    with open(path, "wb", buffering=0) as file:
        written = 0
        with suppress(OSError):
            while written < size and (more := file.write(b"x" * min(_CHUNK, size - written))):
                written += more
    return written


def fill_artifact(size: int) -> str:
    """In a compiler: let the artifact grow."""
    try:
        for _ in range(size // _CHUNK):
            os.write(5, bytes(_CHUNK))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def write_files(folder: str, count: int, size: int) -> int:
    """Write files until there is no more room, as the kernel sees it; how many bytes there was
    room for."""
    written = 0
    for number in range(count):
        with suppress(OSError):
            written += write_large(f"{folder}/{number}", size)
    return written


def raise_limit(name: str, unprivileged: bool = False) -> str:
    """Raise one of the own resource limits back to infinity; as nobody, if ``unprivileged``."""
    which = getattr(resource, name)
    if unprivileged and os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    try:
        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError) as error:
        return type(error).__name__
    return "raised"


def fork_many(count: int) -> int:
    """A fork bomb, stopped at ``count``; how many processes it got."""
    made: list[int] = []
    try:
        while len(made) < count:
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            made.append(child)
    except OSError:
        pass
    for child in made:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(made)


def start_threads(count: int) -> int:
    """Threads that wait for a lock, stopped at ``count``; how many it got."""
    lock, attributes = ctypes.create_string_buffer(128), ctypes.create_string_buffer(128)
    thread, wait = ctypes.c_ulong(), ctypes.cast(_libc.pthread_mutex_lock, ctypes.c_void_p)
    _libc.pthread_mutex_lock(lock)
    _libc.pthread_attr_init(attributes)
    _libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(32768))
    made = 0
    while made < count and not _libc.pthread_create(ctypes.byref(thread), attributes, wait, lock):
        made += 1
    return made


def fork_and_leave(count: int) -> list[int]:
    """Processes in sessions of their own that outlive the call and ignore their parent's death."""
    made: list[int] = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(60)
            os._exit(0)
        made.append(child)
    return made


def burn(processor_seconds: float) -> float:
    """Use so much processor; how long that took."""
    start = time.monotonic()
    end = time.process_time() + processor_seconds
    while time.process_time() < end:
        sum(range(1000))
    return time.monotonic() - start


def scribble(offset: int, value: int, descriptor: int | None = None) -> str:
    """Resize and overwrite the shared arena, wherever it is mapped."""
    with open("/proc/self/maps") as lines:
        line = next(line for line in lines if "wasm-sandbox-arena" in line)
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    ctypes.memset(start + offset, value, end - start - offset)
    return "written"


def call_counts() -> dict[str, Any]:
    """Threads and descriptors of this process."""
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": sorted(int(entry) for entry in os.listdir("/proc/self/fd")),
    }
