"""Attacks on what everybody shares: memory, processor, descriptors, and the limits on them."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import resource
import threading
import time

from .native import LIBC, Stopped, mapping
from .scene import Scene

_RESERVED = 10 << 30
_MAP_NORESERVE, _MAP_GROWSDOWN = 0x4000, 0x100
_CHUNK = 16 << 20
_THREADS = 8
_STACK = 1 << 16


def take_private_memory(scene: Scene) -> str:
    """Take 10 GiB of private memory, and touch so much of it that it must show."""
    return _take(scene, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def take_shared_memory(scene: Scene) -> str:
    """Take 10 GiB of shared memory, which resource limits do not count, and touch it likewise."""
    return _take(scene, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def take_stack_memory(scene: Scene) -> str:
    """Take 10 GiB of memory that grows like a stack, which the limit on data does not count."""
    return _take(scene, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_GROWSDOWN)


def start_threads(scene: Scene) -> str:
    """Start threads by the dozen, each waiting for the same lock: a fork bomb that needs no
    fork."""
    lock = ctypes.create_string_buffer(128)  # at least a pthread_mutex_t, of zeros: unlocked
    LIBC.pthread_mutex_lock(lock)
    waiting = ctypes.cast(LIBC.pthread_mutex_lock, ctypes.c_void_p)
    attributes, thread = ctypes.create_string_buffer(128), ctypes.c_ulong()
    LIBC.pthread_attr_init(attributes)
    LIBC.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_STACK))
    for made in range(scene.targets.threads):
        error = LIBC.pthread_create(ctypes.byref(thread), attributes, waiting, lock)
        if error:
            raise OSError(error, f"{os.strerror(error)}, after {made} threads")
    return f"{scene.targets.threads} threads"


def burn_processor(scene: Scene) -> str:
    """Spin on eight threads at once."""
    over = threading.Event()
    block = bytes(1 << 20)

    def spin() -> None:
        while not over.is_set():
            hashlib.sha256(block)  # lets go of the interpreter's lock

    wall, processor = time.monotonic(), time.process_time()
    threads = [threading.Thread(target=spin, daemon=True) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(scene.targets.seconds)
    share = (time.process_time() - processor) / (time.monotonic() - wall)
    over.set()
    for thread in threads:
        thread.join()
    if share < scene.targets.share:
        raise Stopped(f"{share:.2f} of a processor")
    return f"{share:.2f} of a processor"


def open_descriptors(scene: Scene) -> str:
    """Open descriptors by the ten thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(scene.targets.descriptors, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[int] = []
    try:
        while len(opened) < scene.targets.descriptors:
            opened.append(os.dup(0))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return f"{len(opened)} descriptors"


def raise_limits(scene: Scene) -> str:
    """Be without a limit on private memory."""
    unlimited = resource.RLIM_INFINITY, resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    except ValueError as error:
        raise Stopped(str(error)) from None
    return "unlimited"


def leave_group(scene: Scene) -> str:
    """Move into the control group of the program, which has other limits."""
    if not scene.targets.group:
        raise Stopped("there is no such group here")
    _write(scene.targets.group, "0")
    return scene.targets.group


def raise_group_limit(scene: Scene) -> str:
    """Take away the limits of the own control group."""
    for path in scene.targets.group_limits:
        _write(path, "max" if path.endswith("memory.max") else "-1")
    if not scene.targets.group_limits:
        raise Stopped("there is no such group here")
    return " ".join(scene.targets.group_limits)


def _take(scene: Scene, flags: int) -> str:
    address = mapping(_RESERVED, flags | _MAP_NORESERVE)
    for offset in range(0, scene.targets.memory, _CHUNK):
        ctypes.memset(address + offset, 1, _CHUNK)
    LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(_RESERVED))
    return f"{scene.targets.memory >> 20} MiB of {_RESERVED >> 30} GiB touched"


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())
