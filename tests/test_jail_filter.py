"""The filter of system calls, read as the kernel reads it: for either machine, every number."""

from __future__ import annotations

import itertools
import struct

import pytest

from wasm_sandbox.protocol.syscalls import AUDIT, NUMBERS, name
from wasm_sandbox.worker.jail import bpf, calls

PID = 4321
WORKS: tuple[calls.Work, ...] = ("compile", "run", "run reading files", "run writing files")
DANGEROUS = [
    "execve",
    "execveat",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "process_mrelease",
    "kill",
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "kcmp",
    "fork",
    "vfork",
    "wait4",
    "waitid",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "fsopen",
    "fsmount",
    "fsconfig",
    "fspick",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "keyctl",
    "add_key",
    "request_key",
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recvfrom",
    "recvmmsg",
    "setsockopt",
    "memfd_create",
    "memfd_secret",
    "shmget",
    "shmat",
    "semget",
    "msgget",
    "mq_open",
    "personality",
    "seccomp",
    "landlock_restrict_self",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "setuid",
    "setgid",
    "setresuid",
    "setresgid",
    "capset",
    "setrlimit",
    "sched_setaffinity",
    "sched_setscheduler",
    "setpriority",
    "open_by_handle_at",
    "name_to_handle_at",
    "quotactl",
    "iopl",
    "ioperm",
    "modify_ldt",
    "arch_prctl",
    "acct",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "sethostname",
    "syslog",
    "mlock",
    "mlockall",
    "mbind",
    "move_pages",
    "migrate_pages",
    "vmsplice",
    "splice",
    "tee",
    "fanotify_init",
    "inotify_init1",
    "lookup_dcookie",
    "timer_create",
    "signalfd4",
    "chmod",
    "fchmodat",
    "fchownat",
    "mknodat",
    "setxattr",
    "truncate",
    "chdir",
    "flock",
    "dup2",
    "dup3",
]
FILES = (
    "openat2 getdents64 mkdirat unlinkat renameat renameat2 linkat symlinkat utimensat ftruncate"
)


def run(program: bytes, number: int, *arguments: int, audit: int) -> int:
    """What the kernel's machine for classic BPF answers."""
    data = struct.pack("<iIQ6Q", number, audit, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    code: list[tuple[int, int, int, int]] = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        operation, then, otherwise, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15 | 0x35 | 0x45:
                passed = {
                    0x15: accumulator == value,
                    0x35: accumulator >= value,
                    0x45: bool(accumulator & value),
                }[operation]
                at += then if passed else otherwise
            case 0x06:
                return value
            case _:
                raise AssertionError(f"operation {operation:#x} is not used")


class Filter:
    """A filter for one machine and one kind of work."""

    def __init__(self, machine: str, work: calls.Work) -> None:
        self.machine, self.work = machine, work
        self.program = calls.program(machine, work, PID, calls.KILL)

    def answer(self, call: str, *arguments: int) -> int:
        """For a call by name, with the arguments as an unsigned 64-bit machine passes them."""
        words = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments]
        return run(self.program, NUMBERS[self.machine][call], *words, audit=AUDIT[self.machine])


@pytest.fixture(params=itertools.product(NUMBERS, WORKS), ids=" ".join)
def jail(request: pytest.FixtureRequest) -> Filter:
    """Each filter that there is."""
    return Filter(*request.param)


def test_no_way_out_is_allowed(jail: Filter) -> None:
    for call in DANGEROUS:
        if call in NUMBERS[jail.machine]:
            assert jail.answer(call) == calls.KILL, call


def test_only_names_that_a_machine_has_are_listed() -> None:
    known = set().union(*NUMBERS.values())
    for work in WORKS:
        assert set(calls._rules(work)) <= known


def test_no_other_interface_and_no_unknown_number_passes(jail: Filter) -> None:
    numbers = NUMBERS[jail.machine]
    read, audit = numbers["read"], AUDIT[jail.machine]
    assert run(jail.program, read, audit=audit) == calls.ALLOW
    for other in (0x40000003, 0x40000028, *(set(AUDIT.values()) - {audit})):
        assert run(jail.program, read, audit=other) == calls.KILL
    unknown = set(range(1000)) - set(numbers.values())
    for number in (*unknown, -1, *((1 << 30) + number for number in range(600))):
        assert run(jail.program, number, audit=audit) == calls.KILL


def test_files_are_for_workers_that_were_granted_some(jail: Filter) -> None:
    answers = {call: jail.answer(call) for call in FILES.split() if call in NUMBERS[jail.machine]}
    links = {answers.pop("linkat"), answers.pop("symlinkat")}
    reading = {answers.pop("openat2"), answers.pop("getdents64")}
    writing = set(answers.values())
    match jail.work:
        case "run writing files":
            assert (reading, writing) == ({calls.ALLOW}, {calls.ALLOW})
        case "run reading files":
            assert (reading, writing) == ({calls.ALLOW}, {calls.KILL})
        case _:
            assert (reading, writing) == ({calls.KILL}, {calls.KILL})
    assert links == ({calls.ERRNO | 1} if "files" in jail.work else {calls.KILL})


THREAD, ENOSYS, EINVAL, ENOTTY, EACCES = 0x3D0F00, 38, 22, 25, 13
ARGUMENTS: list[tuple[str, tuple[int, ...], int]] = [
    ("clone", (THREAD,), calls.ALLOW),
    ("clone", (THREAD | 0x400000,), calls.ALLOW),
    ("clone", (17,), calls.KILL),
    ("clone", (THREAD & ~0x10000,), calls.KILL),
    ("clone", (THREAD | 0x10000000,), calls.KILL),
    ("clone3", (0, 88), calls.ERRNO | ENOSYS),
    ("tgkill", (PID, 5, 6), calls.ALLOW),
    ("tgkill", (PID + 1, 5, 6), calls.KILL),
    ("prctl", (15,), calls.ALLOW),
    ("prctl", (1, 0), calls.KILL),
    ("prctl", (0x53564D41,), calls.ERRNO | EINVAL),
    ("ioctl", (0, 0x5451), calls.ALLOW),
    ("ioctl", (0, 0x5421), calls.ALLOW),
    ("ioctl", (0, 0x5401), calls.ERRNO | ENOTTY),
    ("ioctl", (0, 0x5412), calls.KILL),
    ("fcntl", (3, 1030), calls.ALLOW),
    ("fcntl", (3, 8), calls.KILL),
    ("fcntl", (3, 1033), calls.KILL),
    ("mmap", (0, 1, 3, 0x22, -1, 0), calls.ALLOW),
    ("mmap", (0, 1, 3, 0x01, 3, 0), calls.KILL),
    ("mmap", (0, 1, 3, 0x03, 3, 0), calls.KILL),
    ("mmap", (0, 1, 4, 0x22, -1, 0), calls.KILL),
    ("mmap", (0, 1, 3, 0x122, -1, 0), calls.KILL),
    ("mmap", (0, 1, 3, 0x40022, -1, 0), calls.KILL),
    ("mprotect", (0, 1, 5), calls.ALLOW),
    ("mprotect", (0, 1, 3), calls.ALLOW),
    ("mprotect", (0, 1, 7), calls.KILL),
    ("madvise", (0, 1, 4), calls.ALLOW),
    ("madvise", (0, 1, 100), calls.ERRNO | EINVAL),
    ("madvise", (0, 1, 12), calls.ERRNO | EINVAL),
    ("prlimit64", (0, 7, 0, 1), calls.ALLOW),
    ("prlimit64", (PID, 7, 0, 1), calls.ALLOW),
    ("prlimit64", (PID + 1, 7, 0, 1), calls.KILL),
    ("prlimit64", (0, 2, 1, 0), calls.KILL),
    ("prlimit64", (0, 2, 1 << 32, 0), calls.KILL),
    ("prlimit64", (0, 7, 1 << 40, 0), calls.KILL),
]


@pytest.mark.parametrize(("call", "arguments", "answer"), ARGUMENTS)
def test_arguments_are_looked_at(
    jail: Filter, call: str, arguments: tuple[int, ...], answer: int
) -> None:
    assert jail.answer(call, *arguments) == answer


def test_files_are_opened_as_the_work_needs_it(jail: Filter) -> None:
    read_only, create = 0o2000000, 0o2000101
    expected = {
        "compile": (calls.ERRNO | EACCES,) * 3,
        "run": (calls.ALLOW, calls.KILL, calls.KILL),
    }.get(jail.work, (calls.ALLOW,) * 3)
    answers = (
        jail.answer("openat", -100, 1, read_only),
        jail.answer("openat", -100, 1, create),
        jail.answer("openat", 5, 1, read_only),
    )
    assert answers == expected


def test_writing_leaves_no_device_and_takes_no_space_unseen(jail: Filter) -> None:
    moves = [jail.answer("renameat2", 3, 1, 3, 1, flags) for flags in (0, 1, 2, 4, 5)]
    writes = jail.work == "run writing files"
    harmless = calls.ALLOW if writes else calls.KILL
    assert moves == [harmless, harmless, calls.KILL, calls.KILL, calls.KILL]
    assert jail.answer("fallocate", 3, 1, 0, 1) == (calls.ERRNO | 95 if writes else calls.KILL)


def test_jumps_reach_as_far_as_they_must() -> None:
    long = bpf.argument(1) * 300 + bpf.answer(1)
    program = bpf.assemble(bpf.NUMBER + bpf.branch(bpf.EQUAL, 7, long, bpf.answer(2)))
    assert run(program, 7, audit=0) == 1
    assert run(program, 8, audit=0) == 2


@pytest.mark.parametrize(
    ("audit", "number", "called"),
    [
        (AUDIT["x86_64"], 59, "execve"),
        (AUDIT["aarch64"], 221, "execve"),
        (AUDIT["x86_64"], 425, "io_uring_setup"),
        (AUDIT["aarch64"], 425, "io_uring_setup"),
        (AUDIT["x86_64"], 462, "mseal"),
        (AUDIT["x86_64"], 334, "rseq"),
        (AUDIT["aarch64"], 293, "rseq"),
        (AUDIT["aarch64"], 261, "prlimit64"),
        (AUDIT["x86_64"], 1 << 20, "system call 1048576"),
        (AUDIT["x86_64"], (1 << 30) + 59, "x32 system call 59"),
        (0x40000003, 11, "i386 system call 11"),
        (0x1234, 11, "foreign system call 11"),
    ],
)
def test_calls_are_named(audit: int, number: int, called: str) -> None:
    assert name(audit, number) == called
