"""What this machine offers to build walls with, asked of its kernel."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import msgspec

from .cgroups import Hierarchy

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_VERSION = 1
_PR_GET_SECCOMP = 21
_UNSHARE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(ctypes.get_errno() if libc.unshare(0x10000000) else 0)  # CLONE_NEWUSER
"""
_LIBC = ctypes.CDLL(None, use_errno=True)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Facts. A text says why not, or is empty where nothing is in the way."""

    kernel: str
    architecture: str
    user: int
    """Effective user id."""
    landlock: int
    """ABI of Landlock; 0 is none."""
    seccomp: bool
    """Whether system calls can be filtered."""
    user_namespaces: str
    """Why an ordinary process can make none."""
    cgroups: str
    """``v1``, ``v2``, ``v2-delegated`` or ``none``."""
    controllers: tuple[str, ...]
    missing_controllers: tuple[tuple[str, str, str], ...]
    """(controller, why it cannot be used, how to get it)."""


def look(hierarchy: Hierarchy) -> Machine:
    """Look around; ``hierarchy`` is what was found out about cgroups."""
    return Machine(
        kernel=os.uname().release,
        architecture=os.uname().machine,
        user=os.geteuid(),
        landlock=landlock_abi(),
        seccomp=_LIBC.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0,
        user_namespaces=user_namespaces(),
        cgroups=hierarchy.kind,
        controllers=tuple(sorted(hierarchy.controllers)),
        missing_controllers=tuple(
            (name, why.reason, why.remedy) for name, why in hierarchy.missing.items()
        ),
    )


def landlock_abi() -> int:
    """The ABI of Landlock that the kernel speaks (landlock_create_ruleset(2)); 0 is none."""
    call = map(ctypes.c_long, (_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_VERSION))
    return max(int(_LIBC.syscall(*call)), 0)


def user_namespaces() -> str:
    """Why a process of this user can make no user namespace; empty where it can. One tries it."""
    command = [sys.executable, "-I", "-S", "-c", _UNSHARE]
    number = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    return os.strerror(number) if number else ""
