"""Attacks on the kernel itself: what only administrators need, and what has often had holes.

Each asks for the least that tells whether it is allowed: an empty program, a garbled module, a name
that is the same as before.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .native import LIBC, Stopped, checked, in_a_child, system_call
from .scene import Scene

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIGCHLD = 17
_SHM_RDONLY = 0o10000
_BPF_MAP_CREATE, _BPF_MAP_TYPE_ARRAY = 0, 2
_PERF_TYPE_SOFTWARE = 1
_PERF_SIZE = 64


def mount(scene: Scene) -> str:
    """Mount a file system, and take it away again."""
    place = f"{scene.targets.folder}/open".encode()
    checked(LIBC.mount(b"none", place, b"tmpfs", 0, b"size=4k"))
    checked(LIBC.umount2(place, 0))
    return "mounted"


def make_user_namespace(scene: Scene) -> str:
    """Become the administrator of a namespace: the way to most of the kernel's privileged code."""
    child = system_call("clone", _CLONE_NEWUSER | _SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        in_a_child(0)
    os.waitpid(child, 0)
    return "made"


def make_network_namespace(scene: Scene) -> str:
    """Become the owner of a network stack."""
    checked(LIBC.unshare(_CLONE_NEWNET))
    return "made"


def load_module(scene: Scene) -> str:
    """Load a kernel module: one that is none, so that the refusal tells who refused."""
    try:
        system_call("init_module", b"no module", 9, b"")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        return f"the kernel looked at it: {error.strerror}"
    raise Stopped("it was loaded, though it is none")


def load_bpf(scene: Scene) -> str:
    """Make a BPF map."""
    wish = struct.pack("<IIIII", _BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0).ljust(72, b"\0")
    os.close(system_call("bpf", _BPF_MAP_CREATE, wish, len(wish)))
    return "a map"


def open_perf_event(scene: Scene) -> str:
    """Watch the kernel by its performance counters."""
    wish = struct.pack("<IIQ", _PERF_TYPE_SOFTWARE, _PERF_SIZE, 0).ljust(_PERF_SIZE, b"\0")
    os.close(system_call("perf_event_open", wish, 0, -1, -1, 0))
    return "a counter"


def open_userfaultfd(scene: Scene) -> str:
    """Stop the kernel in the middle of a copy, whenever wanted."""
    os.close(system_call("userfaultfd", 0))
    return "a descriptor"


def set_up_io_uring(scene: Scene) -> str:
    """Make system calls that no filter sees."""
    os.close(system_call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    return "a ring"


def add_key(scene: Scene) -> str:
    """Keep something in the kernel's key rings: of this thread, gone with it."""
    thread_keyring = -1
    system_call("add_key", b"user", b"wasm-sandbox", b"x", 1, thread_keyring)
    return "a key"


def rename_machine(scene: Scene) -> str:
    """Set the machine's name, to what it is already."""
    name = os.uname().nodename.encode()
    checked(LIBC.sethostname(name, len(name)))
    return name.decode()


def read_shared_memory(scene: Scene) -> str:
    """Read the program's System V shared memory."""
    LIBC.shmat.restype = ctypes.c_void_p
    address: int = LIBC.shmat(scene.targets.shared_memory, None, _SHM_RDONLY) or 0
    if address in (0, ctypes.c_void_p(-1).value):
        checked(-1)
    scene.want(ctypes.string_at(address, len(scene.targets.secret)))
    LIBC.shmdt(ctypes.c_void_p(address))
    return "the secret"
