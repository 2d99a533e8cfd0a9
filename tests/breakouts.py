"""What native code in a worker does to get out of it: one function for each way out.

Each runs in the worker, and returns ``done`` or the name of the error that the kernel gave it.
Imported by the zygote, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_I386_GETPID = bytes.fromhex("b814000000 cd80 c3")
"""mov eax, 20; int 0x80; ret."""


def _answer(work: Callable[[], object]) -> str:
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def raw(number: int, *arguments: int | bytes) -> int:
    """Make a system call, whichever it is."""
    words = [
        ctypes.c_char_p(word) if isinstance(word, bytes) else ctypes.c_long(word)
        for word in (number, *arguments)
    ]
    result: int = _libc.syscall(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def make_call(number: int, arguments: list[int | str]) -> str:
    """Make a system call; text stands for a buffer of bytes in hexadecimal."""
    given = [bytes.fromhex(word) if isinstance(word, str) else word for word in arguments]
    return _answer(lambda: raw(number, *given))


def make_foreign_call() -> str:
    """Make a system call through the 32-bit interface of an x86_64 kernel (``int 0x80``)."""
    code = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    code.write(_I386_GETPID)
    start = ctypes.addressof(ctypes.c_char.from_buffer(code))
    _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), 5)
    return "done" if ctypes.CFUNCTYPE(ctypes.c_int)(start)() > 0 else "nothing"


def execute(program: str, arguments: list[str]) -> None:
    """Become another program."""
    os.execv(program, [program, *arguments])


def fork() -> str:
    """Start another process."""

    def work() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    return _answer(work)


def send_signal(pid: int, number: int) -> str:
    """Send another process a signal."""
    return _answer(lambda: os.kill(pid, number))


def trace(pid: int) -> str:
    """Take hold of another process (ptrace(2), PTRACE_ATTACH), and let go of it again."""
    result = _libc.ptrace(ctypes.c_long(16), ctypes.c_long(pid), ctypes.c_long(0), ctypes.c_long(0))
    if result != 0:
        return errno.errorcode[ctypes.get_errno()]
    os.waitpid(pid, 0)
    _libc.ptrace(ctypes.c_long(17), ctypes.c_long(pid), ctypes.c_long(0), ctypes.c_long(0))
    return "done"


class _Piece(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


def read_memory(pid: int, start: int, size: int) -> str:
    """What another process has in its memory (process_vm_readv(2)), or the error."""
    buffer = ctypes.create_string_buffer(size)
    ours, theirs = _Piece(ctypes.addressof(buffer), size), _Piece(start, size)
    _libc.process_vm_readv.restype = ctypes.c_ssize_t
    read = _libc.process_vm_readv(
        ctypes.c_int(pid), ctypes.byref(ours), ctypes.c_ulong(1), ctypes.byref(theirs),
        ctypes.c_ulong(1), ctypes.c_ulong(0),
    )  # fmt: skip
    return buffer.raw.decode() if read == size else errno.errorcode[ctypes.get_errno()]


def read_file(path: str) -> str:
    """Open a file and read from it."""

    def work() -> None:
        with open(path, "rb") as file:
            file.read(1)

    return _answer(work)


def write_file(path: str) -> str:
    """Make a file."""

    def work() -> None:
        with open(path, "wb") as file:
            file.write(b"x")

    return _answer(work)


def open_handle(number: int, mount: str, handle: str) -> str:
    """Open a file by its handle, past all directories (open_by_handle_at(2))."""

    def work() -> None:
        root = os.open(mount, os.O_RDONLY | os.O_CLOEXEC)
        os.close(raw(number, root, bytes.fromhex(handle), os.O_RDONLY))

    return _answer(work)


def connect(family: str, address: str | list[str | int]) -> str:
    """Connect a stream socket; a leading ``@`` stands for an abstract address."""

    def work() -> None:
        with socket.socket(getattr(socket, family)) as ours:
            where = tuple(address) if isinstance(address, list) else address
            ours.connect(where.replace("@", "\0") if isinstance(where, str) else where)

    return _answer(work)


def send_datagram(port: int) -> str:
    """Send a datagram to a port of this machine."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
            ours.sendto(b"secret", ("127.0.0.1", port))

    return _answer(work)


def listen() -> str:
    """Offer a TCP port to the world."""

    def work() -> None:
        with socket.socket(socket.AF_INET) as ours:
            ours.bind(("0.0.0.0", 0))
            ours.listen()

    return _answer(work)


def mount(path: str) -> str:
    """Mount a file system of memory on a directory, and take it away again."""

    def work() -> None:
        if _libc.mount(b"none", path.encode(), b"tmpfs", ctypes.c_ulong(0), None) != 0:
            raise OSError(ctypes.get_errno(), "refused")
        _libc.umount2(path.encode(), 2)

    return _answer(work)


def flood() -> None:
    """Make a denied call on each of many threads, all at once."""
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        while True:
            _libc.syscall(ctypes.c_long(1 << 20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def share_memory() -> str:
    """Make a segment of System V shared memory, and remove it again."""

    def work() -> None:
        segment = _libc.shmget(0, ctypes.c_size_t(4096), 0o600)
        if segment < 0:
            raise OSError(ctypes.get_errno(), "refused")
        _libc.shmctl(segment, 0, None)

    return _answer(work)


def make_writable_code() -> str:
    """Make memory writable and executable at once."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    result = _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), 7)
    return errno.errorcode[ctypes.get_errno()] if result else "done"


def interrupt_denied_calls() -> None:
    """Make a denied call, and take it back by a signal before anybody can have looked at it."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while True:
            signal.pthread_kill(main, signal.SIGUSR1)

    threading.Thread(target=interrupt, daemon=True).start()
    while True:
        os.getpgrp()


def modules() -> list[str]:
    """What the interpreter has loaded."""
    return sorted(sys.modules)
