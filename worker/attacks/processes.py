"""Attacks on other processes: the program that made the pool, and a worker beside this one."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ...protocol.attacks import EXIT_SUCCEEDED, Victim
from .native import LIBC, Stopped, checked
from .scene import Scene

_PTRACE_SEIZE = 0x4206
_PR_SET_PDEATHSIG = 1

Step = Callable[[Scene, Victim], str]


def on_supervisor(step: Step) -> Callable[[Scene], str]:
    """The attack on the program."""
    return lambda scene: step(scene, scene.targets.supervisor)


def on_sibling(step: Step) -> Callable[[Scene], str]:
    """The attack on another worker."""
    return lambda scene: step(scene, scene.targets.sibling)


def send_signal(scene: Scene, victim: Victim) -> str:
    """Send a signal: one that is ignored where it arrives."""
    os.kill(victim.pid, signal.SIGURG)
    return "delivered"


def trace(scene: Scene, victim: Victim) -> str:
    """Take control by ptrace(2). The victim is let go when this process ends."""
    checked(LIBC.ptrace(_PTRACE_SEIZE, victim.pid, None, None))
    return "seized"


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(scene: Scene, victim: Victim) -> str:
    """Read the secret out of the victim's memory by process_vm_readv(2)."""
    size = len(scene.targets.secret)
    buffer = ctypes.create_string_buffer(size)
    here = _Piece(ctypes.addressof(buffer), size)
    there = _Piece(victim.address, size)
    checked(LIBC.process_vm_readv(victim.pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
    scene.want(buffer.raw)
    return "the secret"


def write_memory(scene: Scene, victim: Victim) -> str:
    """Overwrite the secret in the victim's memory, with itself, by process_vm_writev(2)."""
    content = ctypes.create_string_buffer(scene.targets.secret.encode())
    here = _Piece(ctypes.addressof(content), len(scene.targets.secret))
    there = _Piece(victim.address, len(scene.targets.secret))
    checked(LIBC.process_vm_writev(victim.pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
    return "written"


def read_memory_file(scene: Scene, victim: Victim) -> str:
    """Read the secret through /proc/PID/mem."""
    descriptor = os.open(f"/proc/{victim.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        scene.want(os.pread(descriptor, len(scene.targets.secret), victim.address))
    finally:
        os.close(descriptor)
    return "the secret"


def write_memory_file(scene: Scene, victim: Victim) -> str:
    """Overwrite the secret, with itself, through /proc/PID/mem."""
    descriptor = os.open(f"/proc/{victim.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, scene.targets.secret.encode(), victim.address)
    finally:
        os.close(descriptor)
    return "written"


def read_environment(scene: Scene, victim: Victim) -> str:
    """Read the victim's environment, where secrets often are."""
    with open(f"/proc/{victim.pid}/environ", "rb", buffering=0) as file:
        if scene.targets.secret.encode() not in file.read():
            raise Stopped("the secret is not in it")
    return "the secret"


def change_limits(scene: Scene, victim: Victim) -> str:
    """Change a resource limit of the victim: that of core files, to nothing."""
    resource.prlimit(victim.pid, resource.RLIMIT_CORE, (0, 0))
    return "changed"


def read_own_environment(scene: Scene) -> str:
    """Find the program's secrets in what this process inherited: at the bottom of the stack, behind
    the arguments, which no interpreter clears."""
    address = ctypes.c_void_p.in_dll(LIBC, "program_invocation_name").value or 0
    empty = 0
    while empty < 2:  # eight zeros end it
        text = ctypes.string_at(address)
        if scene.targets.secret.encode() in text:
            return text.partition(b"=")[0].decode()
        address += len(text) + 1
        empty = 0 if text else empty + 1
    raise Stopped("the secret is not in it")


def use_inherited_handle(scene: Scene) -> str:
    """Find a handle of another process among the inherited descriptors, and signal it."""
    for descriptor in range(1024):
        with suppress(OSError):
            signal.pidfd_send_signal(descriptor, 0)
            return f"descriptor {descriptor}"
    raise Stopped("no descriptor is the handle of a process")


def fork_bomb(scene: Scene) -> str:
    """Make processes until somebody says no, or ``Targets.processes`` are there."""
    made: list[int] = []
    read, write = os.pipe()
    try:
        while len(made) < scene.targets.processes:
            child = os.fork()
            if child == 0:
                os.close(write)
                os.read(read, 1)  # until the parent is done, however it ends
                os._exit(0)
            made.append(child)
    finally:
        os.close(write)
        for child in made:
            os.waitpid(child, 0)
        os.close(read)
    return f"{len(made)} processes"


def execute(scene: Scene) -> str:
    """Become a shell."""
    os.execv("/bin/sh", ["sh", "-c", f"exit {EXIT_SUCCEEDED}"])


def execute_set_uid(scene: Scene) -> str:
    """Become another user by a set-uid program, as whom a locked file can be read."""
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setresuid(65534, 65534, 65534)
    folder = scene.targets.folder
    os.execv(f"{folder}/other", ["head", "-c", "1", f"{folder}/locked"])


def leave_process(scene: Scene) -> str:
    """Leave a process behind, in a session of its own, that outlives this one for a while."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(scene.targets.seconds)
        os._exit(0)
    return "left"


def outlive(scene: Scene) -> str:
    """Go on when the processes above are dead, deaf to the channel's end."""
    scene.transfer.write(1, b"begun")
    threading.Event().wait(scene.targets.seconds)
    return "woke up"


def outlive_without_signal(scene: Scene) -> str:
    """The same, after taking back the wish to die with the parent."""
    checked(LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0))
    return outlive(scene)


def expose(scene: Scene) -> str:
    """Be a victim: hold the secret in memory, and say where."""
    scene.number = ctypes.addressof(_exposed(scene.targets.secret))
    return "exposed"


_kept: list[ctypes.Array[ctypes.c_char]] = []


def _exposed(secret: str) -> ctypes.Array[ctypes.c_char]:
    _kept.append(ctypes.create_string_buffer(secret.encode()))
    return _kept[-1]
