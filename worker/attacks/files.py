"""Attacks on files: the machine's, the program's, the cache's, and the room on the disk."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import os
import stat
import struct

from .native import LIBC, Stopped, checked, system_call
from .scene import Scene

_CHUNK = 1 << 20
_KEEP_SIZE, _RENAME_WHITEOUT, _AT_FDCWD = 1, 4, -100
_HEADER = struct.Struct("<16s32sQQ")
_MAGIC = b"wasm-sandbox/1\r\n"
FORGED = b"\x7fELF machine code of the attacker's choice"


def read_passwd(scene: Scene) -> str:
    """Read what everybody may read."""
    return f"{len(_read('/etc/passwd'))} bytes"


def read_private_file(scene: Scene) -> str:
    """Read what only the program's user may read."""
    scene.want(_read(f"{scene.targets.folder}/private"))
    return "the secret"


def read_cache_key(scene: Scene) -> str:
    """Read the key that authenticates compiled modules."""
    return f"{len(_read(f'{scene.targets.folder}/cache/key'))} bytes"


def write_file(scene: Scene) -> str:
    """Make a file where everybody may."""
    path = f"{scene.targets.folder}/open/written"
    with open(path, "wb", buffering=0) as file:
        file.write(scene.targets.secret.encode())
    return path


def fill_disk(scene: Scene) -> str:
    """Make a file larger than allowed, in a directory that was granted for writing."""
    size, written = scene.targets.file_size, 0
    with open(f"{scene.directories[0].path}/large", "wb", buffering=0) as file:
        while written < size:
            written += file.write(bytes(min(_CHUNK, size - written)))
    return f"{written} bytes"


def reserve_disk(scene: Scene) -> str:
    """Take room on the disk that no file's size shows, in a directory that was granted for
    writing."""
    path = f"{scene.directories[0].path}/large"
    with open(path, "wb", buffering=0) as file:
        size = ctypes.c_long(scene.targets.file_size)
        checked(LIBC.fallocate(file.fileno(), _KEEP_SIZE, ctypes.c_long(0), size))
    return f"{size.value} bytes"


def leave_device(scene: Scene) -> str:
    """Leave a device file in a directory that was granted for writing, where a file was."""
    path = f"{scene.directories[0].path}/device"
    with open(path, "wb", buffering=0):
        here = _AT_FDCWD, path.encode(), _AT_FDCWD, f"{path}-moved".encode()
        system_call("renameat2", *here, _RENAME_WHITEOUT)
    return path


def make_device(scene: Scene) -> str:
    """Make a device file: of the null device, which harms nobody."""
    path = f"{scene.targets.folder}/open/device"
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    return path


def open_kvm(scene: Scene) -> str:
    """Open the door to the hypervisor."""
    os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    return "a descriptor"


def forge_artifact(scene: Scene) -> str:
    """Put machine code into the cache, authenticated with the key as the cache does it."""
    cache, digest = f"{scene.targets.folder}/cache", scene.targets.artifact
    key = _read(f"{cache}/key")
    header = _HEADER.pack(_MAGIC, bytes.fromhex(digest), 0, len(FORGED))
    mac = hmac.new(key, header + hashlib.sha256(FORGED).digest(), "sha256").digest()
    with open(f"{cache}/{digest}.artifact", "wb", buffering=0) as file:
        file.write(header + mac + FORGED)
    return digest


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        content = file.read()
    if not content:
        raise Stopped(f"{path} is empty")
    return content
