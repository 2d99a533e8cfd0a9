"""Which system calls a jailed worker may make, and with what arguments.

It is an allow-list of what the engine, the interpreter and the C library need once the engine is
up. What libraries are known to try, and to do without, fails with an error; every other call is
*denied*, which ends the worker.

The kernel takes the arguments that are looked at here as 32-bit numbers or as flags in the low
half, so only that half is compared, except for pointers.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Callable
from typing import Literal

from ...protocol.syscalls import AUDIT, NUMBERS
from . import bpf
from .bpf import Code

Work = Literal["compile", "run", "run reading files", "run writing files"]
"""What a worker does once the filter is on."""

KILL, ERRNO, NOTIFY, ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
"""``SECCOMP_RET_*`` (linux/seccomp.h): end the process; fail with the error in the low half; ask
the supervisor, and wait; let it happen."""

Rule = Callable[[Code], Code]
"""The code for one system call, given that for denying it."""

_ALLOWED = bpf.answer(ALLOW)


def _allow(denied: Code) -> Code:
    del denied
    return _ALLOWED


def _fail(error: int) -> Rule:
    return lambda denied: bpf.answer(ERRNO | error)


def _one_of(index: int, *values: int, mask: int | None = None, error: int | None = None) -> Rule:
    """Allow an argument that (masked) is one of ``values``; another is denied, or an ``error``."""

    def code(denied: Code) -> Code:
        rest = denied if error is None else bpf.answer(ERRNO | error)
        for value in values:
            rest = bpf.branch(bpf.EQUAL, value, _ALLOWED, rest)
        return bpf.argument(index, mask=mask) + rest

    return code


def _without(*forbidden: tuple[int, int]) -> Rule:
    """Deny what has any of these bits: (argument, bits)."""

    def code(denied: Code) -> Code:
        rest = _ALLOWED
        for index, bits in forbidden:
            rest = bpf.argument(index) + bpf.branch(bpf.ANY_BIT, bits, denied, rest)
        return rest

    return code


def _all(*wanted: tuple[int, int]) -> Rule:
    """Allow only where all of these are so: (argument, value)."""

    def code(denied: Code) -> Code:
        rest = _ALLOWED
        for index, value in wanted:
            rest = bpf.argument(index) + bpf.branch(bpf.EQUAL, value, rest, denied)
        return rest

    return code


# --- arguments (asm-generic/ and linux/: fcntl.h, ioctls.h, mman.h, prctl.h, sched.h) -------------

_AT_FDCWD = 0xFFFFFF9C
_READ_ONLY = 0o2000000
"""``O_RDONLY | O_CLOEXEC``."""
_DUPLICATE, _DESCRIPTOR_FLAGS, _STATUS_FLAGS, _DUPLICATE_CLOEXEC = 0, (1, 2), (3, 4), 1030
_CLOSE_ON_EXEC, _NON_BLOCKING, _HOW_MUCH_TO_READ = (0x5450, 0x5451), 0x5421, 0x541B
_TERMINAL = (0x5401, 0x5413, 0x802C542A)
"""``TCGETS``, ``TIOCGWINSZ``, ``TCGETS2``: is this a terminal?"""
_WRITABLE, _EXECUTABLE, _SHARED = 2, 4, 1
_GROWS_DOWN, _HUGE_PAGES = 0x100, 0x40000
"""``MAP_GROWSDOWN`` and ``MAP_HUGETLB``: memory that ``RLIMIT_DATA``, or the memory cgroup, misses.
"""
_ADVICE = (*range(5), 8, 10, 11, 14, 15, 16, 17, 18, 20, 21, 22, 23, 102, 103)
"""``MADV_*`` without merging pages with others' (12) and poisoning them (100, 101)."""
_SET_NAME, _NAME_MEMORY = 15, 0x53564D41
_MOVE, _MOVE_TO_NOWHERE = 0, 1
"""``renameat2`` without flags, and with ``RENAME_NOREPLACE``; ``RENAME_WHITEOUT`` leaves a device
file, which Landlock does not see."""
_THREAD, _DETACHED = 0x3D0F00, 0x400000
"""The flags that the C libraries start threads with; musl adds ``CLONE_DETACHED``, which means
nothing."""
_OWN_PID = 0x7FFFFFFF
"""Stands for the worker's process id, which can not be so large."""


def _ioctl(denied: Code) -> Code:
    code = denied
    for request in _TERMINAL:
        code = bpf.branch(bpf.EQUAL, request, bpf.answer(ERRNO | errno.ENOTTY), code)
    for request in (*_CLOSE_ON_EXEC, _NON_BLOCKING, _HOW_MUCH_TO_READ):
        code = bpf.branch(bpf.EQUAL, request, _ALLOWED, code)
    return bpf.argument(1) + code


def _prctl(denied: Code) -> Code:
    unnamed = bpf.branch(bpf.EQUAL, _NAME_MEMORY, bpf.answer(ERRNO | errno.EINVAL), denied)
    return bpf.argument(0) + bpf.branch(bpf.EQUAL, _SET_NAME, _ALLOWED, unnamed)


def _mprotect(denied: Code) -> Code:
    """Compiled code is made executable after it was written, never both at once."""
    both = _WRITABLE | _EXECUTABLE
    return bpf.argument(2, mask=both) + bpf.branch(bpf.EQUAL, both, denied, _ALLOWED)


def _prlimit(denied: Code) -> Code:
    """Own limits may be read."""
    reading = bpf.argument(2, high=True) + bpf.branch(bpf.EQUAL, 0, _ALLOWED, denied)
    reading = bpf.argument(2) + bpf.branch(bpf.EQUAL, 0, reading, denied)
    own = bpf.branch(bpf.EQUAL, _OWN_PID, reading, denied)
    return bpf.argument(0) + bpf.branch(bpf.EQUAL, 0, reading, own)


# --- lists ----------------------------------------------------------------------------------------

_EVERYWHERE = """
    brk munmap mremap membarrier
    futex futex_waitv futex_wake futex_wait futex_requeue
    exit exit_group gettid rseq set_robust_list sched_yield sched_getaffinity getcpu
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage
    read write readv writev pread64 close fstat newfstatat statx lseek dup
    poll ppoll select pselect6
    getrandom uname sysinfo getpid getppid getuid geteuid getgid getegid
"""
_RUNNING = "recvmsg pipe2 eventfd2 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2"
_READING = """
    openat openat2 getdents64 readlink readlinkat preadv preadv2 fadvise64 fstatfs
"""
_WRITING = """
    pwrite64 pwritev pwritev2 ftruncate fsync fdatasync utimensat mkdirat unlinkat renameat
"""


def _rules(work: Work) -> dict[str, Rule]:
    rules: dict[str, Rule] = dict.fromkeys(_EVERYWHERE.split(), _allow)
    rules |= {
        "mmap": _without((2, _EXECUTABLE), (3, _SHARED | _GROWS_DOWN | _HUGE_PAGES)),
        "mprotect": _mprotect,
        "madvise": _one_of(1 + 1, *_ADVICE, error=errno.EINVAL),
        "clone": _one_of(0, _THREAD, mask=~_DETACHED & 0xFFFFFFFF),
        "clone3": _fail(errno.ENOSYS),  # the C library then uses clone, whose flags can be seen
        "tgkill": _all((0, _OWN_PID)),
        "prctl": _prctl,
        "ioctl": _ioctl,
        "fcntl": _one_of(1, _DUPLICATE, *_DESCRIPTOR_FLAGS, *_STATUS_FLAGS, _DUPLICATE_CLOEXEC),
        "prlimit64": _prlimit,
    }
    if work == "compile":
        rules["openat"] = _fail(errno.EACCES)  # the engine asks how many processors it may use
        return rules
    rules |= dict.fromkeys(_RUNNING.split(), _allow)
    rules["openat"] = _all((0, _AT_FDCWD), (2, _READ_ONLY))  # artifacts, by their descriptors
    if work != "run":
        rules |= dict.fromkeys(_READING.split(), _allow)
        rules |= dict.fromkeys(("linkat", "symlinkat"), _fail(errno.EPERM))
    if work == "run writing files":
        rules |= dict.fromkeys(_WRITING.split(), _allow)
        rules["renameat2"] = _one_of(4, _MOVE, _MOVE_TO_NOWHERE)
        rules["fallocate"] = _fail(errno.EOPNOTSUPP)  # takes disk space that RLIMIT_FSIZE misses
    return rules


def program(machine: str, work: Work, pid: int, denied: int) -> bytes:
    """The filter.

    Args:
        machine: a key of ``NUMBERS``.
        work: what the worker will do.
        pid: its own process id, as it sees it.
        denied: what happens to a call that is not allowed: ``KILL`` or ``NOTIFY``.
    """
    place, own = (struct.pack("=I", number) for number in (_OWN_PID, pid))
    return template(machine, work, denied).replace(place, own)


@functools.cache
def template(machine: str, work: Work, denied: int) -> bytes:
    """``program`` but for the process id. It takes a while to make."""
    deny = bpf.answer(denied)
    numbers = NUMBERS[machine]
    cases = {numbers[call]: rule(deny) for call, rule in _rules(work).items() if call in numbers}
    known = bpf.NUMBER + bpf.dispatch(cases, deny)
    return bpf.assemble(bpf.AUDIT_ARCH + bpf.branch(bpf.EQUAL, AUDIT[machine], known, deny))
