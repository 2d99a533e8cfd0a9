"""The wall around system calls: what a worker does not need ends it, by name.

Every attack is made twice by native code in a worker: with this wall alone, where it fails, and
with neither it nor Landlock, where it succeeds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import guest_commands
import guests
import pytest
from cores import run, serving
from native import LAST, PREFIX, attack, native_workers, outcomes
from targets import SECRET, Targets

from wasm_sandbox.protocol.capabilities import Capabilities, Filesystem
from wasm_sandbox.protocol.errors import Crashed, InvalidModule, SyscallDenied
from wasm_sandbox.protocol.syscalls import NUMBERS

MACHINE = os.uname().machine
NUMBER = NUMBERS.get(MACHINE, {})
STATUS = Path("/proc/self/status").read_text()
ROOT = bool(int(STATUS.partition("CapEff:")[2].split()[0], 16) >> 21 & 1)
"""Whether there is CAP_SYS_ADMIN."""
ALONE = tuple(wall for wall in LAST if wall != "seccomp")

pytestmark = pytest.mark.skipif(not NUMBER, reason=f"no filter is known for {MACHINE}")


def buffer(layout: str = "", *values: int, size: int = 0) -> str:
    """An argument that is the address of these bytes."""
    return struct.pack(layout, *values).ljust(size, b"\0").hex()


PLAIN: dict[str, list[int | str]] = {
    "io_uring_setup": [1, buffer(size=120)],
    "keyctl": [0, -3, 1],
    "memfd_create": [b"x\0".hex(), 0],
    "personality": [0xFFFFFFFF],
    "userfaultfd": [1],
    "pidfd_open": [os.getpid(), 0],
    "prlimit64": [os.getpid(), 7, 0, buffer(size=16)],
    "socketpair": [1, 1, 0, buffer(size=8)],
    "inotify_init1": [0],
    "timerfd_create": [1, 0],
    "signalfd4": [-1, buffer(size=8), 8, 0],
    "landlock_create_ruleset": [0, 0, 1],
    "sched_setaffinity": [0, 8, buffer("Q", 1)],
    "setpriority": [0, 0, 19],
    "tgkill": [os.getpid(), os.getpid(), 0],
    "fcntl": [0, 8, os.getpid()],
    "prctl": [1, 0, 0, 0, 0],
    "umask": [0o22],
    "setsid": [],
    "mmap": [0, 4096, 3, 0x21, -1, 0],
    "sendmsg": [3, buffer(size=56), 0],
}
"""Calls that an ordinary user may make."""
PRIVILEGED: dict[str, list[int | str]] = {
    "bpf": [0, buffer("4I", 2, 4, 4, 1, size=72), 72],
    "unshare": [0x04000000],
    "fsopen": [b"tmpfs\0".hex(), 0],
    "perf_event_open": [buffer("2I", 1, 64, size=64), 0, -1, -1, 0],
    "kcmp": [os.getpid(), os.getpid(), 1, 0, 0],
    "setuid": [0],
    "chroot": [b"/\0".hex()],
}
"""Calls that only root may make (here: CAP_SYS_ADMIN)."""
CALLS = PLAIN | (PRIVILEGED if ROOT else {})


def handle_of(path: Path) -> dict[str, str]:
    """A file's handle, by which root can open it wherever it is (name_to_handle_at(2)).

    Raises:
        OSError: the file system gives none.
    """
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    where = ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.name_to_handle_at(-100, str(path).encode(), handle, ctypes.byref(where), 0) != 0:
        raise OSError(ctypes.get_errno(), "no handle")
    (size,) = struct.unpack_from("I", handle)
    return {"mount": str(path), "handle": handle.raw[: 8 + size].hex()}


def attacks_on(targets: Targets) -> dict[str, tuple[str, dict[str, Any]]]:
    """By the system call that makes each of them."""
    victim = targets.process.pid
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "execve": ("execute", {"program": "/bin/sh", "arguments": ["-c", "exit 42"]}),
        "clone": ("fork", {}),
        "ptrace": ("trace", {"pid": victim}),
        "process_vm_readv": ("read_memory", targets.secret),
        "kill": ("send_signal", {"pid": victim, "number": signal.SIGCONT}),
        "kill the supervisor": ("send_signal", {"pid": os.getpid(), "number": 0}),
        "socket": ("connect", {"family": "AF_INET", "address": ["127.0.0.1", targets.tcp]}),
        "socket: UDP": ("send_datagram", {"port": targets.udp}),
        "socket: path": ("connect", {"family": "AF_UNIX", "address": targets.path}),
        "socket: abstract": ("connect", {"family": "AF_UNIX", "address": targets.abstract}),
        "socket: listen": ("listen", {}),
        "openat": ("write_file", {"path": str(targets.folder / "written")}),
        "shmget": ("share_memory", {}),
        "mprotect": ("make_writable_code", {}),
    }
    if MACHINE == "x86_64":
        found["i386 system call 20"] = ("make_foreign_call", {})
    if ROOT:
        found["mount"] = ("mount", {"path": str(targets.folder)})
        with suppress(OSError):
            handle = {"number": NUMBER["open_by_handle_at"], **handle_of(targets.folder)}
            found["open_by_handle_at"] = ("open_handle", handle)
    for name, arguments in CALLS.items():
        found[name] = ("make_call", {"number": NUMBER[name], "arguments": arguments})
    return found


ATTACKS = [
    *("execve", "clone", "ptrace", "process_vm_readv", "kill", "kill the supervisor", "socket"),
    *("socket: UDP", "socket: path", "socket: abstract", "socket: listen", "openat"),
    *("shmget", "mprotect"),
    *(["i386 system call 20"] if MACHINE == "x86_64" else []),
    *(["mount", "open_by_handle_at"] if ROOT else []),
    *CALLS,
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    """What is there to be attacked."""
    with ExitStack() as stack:
        yield Targets(stack, tmp_path_factory.mktemp("targets"))


@pytest.fixture(scope="module")
def without(cache: Path, targets: Targets) -> dict[str, Any]:
    """What the attacks came to where neither wall stands."""
    return outcomes(cache, LAST, attacks_on(targets))


@pytest.fixture(scope="module")
def alone(cache: Path, targets: Targets) -> dict[str, Any]:
    """What they came to with this wall alone."""
    return outcomes(cache, ALONE, attacks_on(targets))


# -- attacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ATTACKS)
def test_what_a_worker_does_not_need_ends_it_by_name(what: str, alone: dict[str, Any]) -> None:
    if what not in alone:
        pytest.skip("the file system of the temporary directory gives no handles")
    error = alone[what]
    assert isinstance(error, SyscallDenied), error
    assert error.name == what.partition(":")[0].removesuffix(" the supervisor")
    certificate = error.certificate
    assert (certificate.cause, certificate.wall) == ("syscall_denied", "jail")
    assert (certificate.phase, certificate.signal) == ("busy", signal.SIGKILL)
    assert error.name in str(error)


@pytest.mark.parametrize("what", ATTACKS)
def test_without_this_wall_it_succeeds(what: str, without: dict[str, Any]) -> None:
    if what == "execve":
        assert isinstance(without[what], Crashed)
        assert without[what].certificate.exit_code == 42
        return
    if what not in without or (what in CALLS and without[what] in ("EPERM", "EACCES", "ENOSYS")):
        pytest.skip(f"this machine stops {what} anyway")
    assert without[what] == (SECRET if what == "process_vm_readv" else "done")


@pytest.mark.skipif(MACHINE != "x86_64", reason="only x86_64 kernels may have the x32 interface")
def test_the_x32_interface_is_denied(cache: Path) -> None:
    call = {"x32": ("make_call", {"number": (1 << 30) + NUMBER["getpid"], "arguments": []})}
    error = outcomes(cache, ALONE, call)["x32"]
    assert isinstance(error, SyscallDenied)
    assert error.name == f"x32 system call {NUMBER['getpid']}"
    assert outcomes(cache, LAST, call)["x32"] in ("ENOSYS", "done")


def test_a_flood_of_denied_calls_ends_with_the_first(cache: Path) -> None:
    error = outcomes(cache, ALONE, {"flood": ("flood", {})})["flood"]
    assert isinstance(error, SyscallDenied)
    assert error.name == f"system call {1 << 20}"


def test_a_denied_call_that_is_taken_back_ends_the_worker_too(cache: Path) -> None:
    error = outcomes(cache, ALONE, {"interrupted": ("interrupt_denied_calls", {})})["interrupted"]
    assert isinstance(error, SyscallDenied)
    assert error.name in ("unknown", "getpgrp", "getpgid")


def test_under_another_listener_the_kernel_kills_and_tells_no_name(cache: Path) -> None:
    error = outcomes(cache, (*ALONE, "listener"), {"fork": ("fork", {})})["fork"]
    assert isinstance(error, SyscallDenied)
    assert error.name == "unknown"
    assert error.certificate.signal == signal.SIGSYS


@pytest.mark.skipif(not ROOT, reason="only root can become an ordinary user")
def test_it_stands_for_an_ordinary_user_too(cache: Path, targets: Targets) -> None:
    attacks = {name: attacks_on(targets)[name] for name in ("clone", "socket", "execve", "keyctl")}
    for name, error in outcomes(cache, ALONE, attacks, user=65534).items():
        assert isinstance(error, SyscallDenied), error
        assert error.name == name


# -- compiling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "name"), [("fork:{}", "clone"), ('read_file:{"path": "/etc/passwd"}', "")]
)
def test_a_compiler_is_held_too(cache: Path, attack: str, name: str) -> None:
    async def compile_it() -> Exception:
        async with serving(cache, workers=1) as driver:
            with pytest.raises((SyscallDenied, InvalidModule)) as caught:
                await driver.load(f"{PREFIX}{attack}")
            await driver.load(guests.add())
            return caught.value

    with native_workers(*ALONE):
        held = run(compile_it)
    if name:
        assert isinstance(held, SyscallDenied)
        assert held.name == name
    else:
        assert "EACCES" in str(held)
    with native_workers(*LAST):
        assert "done" in str(run(compile_it))


# -- what goes on as before -----------------------------------------------------------------------


def test_every_thread_is_under_the_filter(cache: Path, tmp_path: Path) -> None:
    """Also those that the engine starts for the first command that uses files."""
    files = Capabilities(filesystem=Filesystem.read_write(tmp_path, at="/"))

    async def main() -> None:
        async with serving(cache, workers=1, capabilities=files) as driver:
            module = await driver.load(guest_commands.hello())
            assert (await driver.call(module, "_start")).error is None
            worker = await driver.wait_for_worker("idle")
            threads = list(Path(f"/proc/{worker.pid}/task").iterdir())
            assert len(threads) > 2
            for thread in threads:
                assert "\nSeccomp:\t2\n" in (thread / "status").read_text()

    run(main)


def test_a_worker_may_still_abort_and_say_its_last_words(cache: Path) -> None:
    attacks = {"abort": ("crash", {"number": int(signal.SIGABRT)}), "fault": ("no_such", {})}
    found = outcomes(cache, (), attacks)
    assert isinstance(found["abort"], Crashed)
    assert found["abort"].signal == signal.SIGABRT
    assert isinstance(found["fault"], Crashed)
    assert "AttributeError" in found["fault"].certificate.evidence


def test_nothing_is_imported_after_it_is_on(cache: Path, tmp_path: Path) -> None:
    files = Capabilities(filesystem=Filesystem.read_write(tmp_path, at="/"))

    async def main() -> None:
        async with serving(cache, workers=1, capabilities=files) as driver:
            module = await driver.load(guests.add())
            before = await attack(driver, module, "modules")
            command = await driver.load(guest_commands.reads_stdin())
            read, write = os.pipe()
            os.close(write)
            outcome = await driver.call(command, "_start", stdin_descriptor=read)
            os.close(read)
            assert outcome.error is None
            trap = await driver.load(guests.recursion())
            assert (await driver.call(trap, "descend")).error is not None
            assert await attack(driver, module, "modules") == before

    with native_workers():
        run(main)
