"""Attacks on whoever listens to this worker: frames that are none, and memory that changes."""

from __future__ import annotations

import ctypes
import os
import re
import struct

from ...protocol import messages
from ...protocol.attacks import INTACT, Report
from ...protocol.receipts import Usage
from .native import Stopped
from .scene import Scene

_LENGTH = struct.Struct("<I")


def send_oversized_frame(scene: Scene) -> str:
    """Announce a frame of four gigabytes."""
    return _send(scene, _LENGTH.pack(0xFFFF_FFFF) + bytes(1000))


def send_noise(scene: Scene) -> str:
    """Send a frame of bytes that decode to nothing."""
    return _send(scene, _LENGTH.pack(64) + bytes(range(0xC0, 0x100)))


def send_out_of_turn(scene: Scene) -> str:
    """Answer a call that nobody made."""
    return _send(scene, messages.encode(messages.Returned(1 << 40, b"", Usage())))


def send_wrong_result(scene: Scene) -> str:
    """Answer the call at hand with more values than its function returns."""
    call = scene.transfer._call  # pyright: ignore[reportPrivateUsage] - an attacker asks nobody
    return _send(scene, messages.encode(messages.Returned(call, bytes(4096), Usage())))


def resize_arena(scene: Scene) -> str:
    """Cut off the shared memory, so that who reads it dies by SIGBUS."""
    try:
        with open("/proc/self/maps") as lines:
            found = [line for line in lines if "wasm-sandbox-arena" in line]
        where = re.sub(r"\b0+(?=.)", "", found[0].split()[0])
        descriptor = os.open(f"/proc/self/map_files/{where}", os.O_RDWR | os.O_CLOEXEC)
    except IndexError:
        raise Stopped("the arena is not mapped") from None
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return "cut off"


def change_arena(scene: Scene) -> str:
    """Change what was handed over in the arena, after it was taken."""
    outward = scene.transfer.outward
    scene.report(Report(True, INTACT))
    first = ctypes.c_char.from_buffer(outward)
    ctypes.memset(ctypes.addressof(first), ord("b"), len(outward))
    return ""


def _send(scene: Scene, data: bytes) -> str:
    channel = scene.transfer._channel  # pyright: ignore[reportPrivateUsage]
    os.write(channel._descriptor, data)  # pyright: ignore[reportPrivateUsage]
    return "sent"
