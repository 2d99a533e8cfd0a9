"""A user namespace (user_namespaces(7)) for the workers of a pool that root does not make: it gives
its zygote the capabilities to make the other namespaces, and no power over anything outside."""

from __future__ import annotations

import errno
import os

from . import capabilities
from .namespaces import NEWUSER, NEWUTS, unshare


def enter() -> None:
    """Put this process, which must have one thread only, into a user namespace of its own, under
    its own user and group id.

    Raises:
        OSError: it is not needed, or not allowed here.
    """
    if capabilities.holds(capabilities.SYS_ADMIN):
        raise OSError(errno.EALREADY, "not needed: the program may make the others without it")
    user, group = os.geteuid(), os.getegid()
    # With another namespace at once: where a security module takes the capabilities away again
    # (AppArmor), nothing happens at all.
    unshare(NEWUSER | NEWUTS)
    _write("setgroups", "deny")
    _write("uid_map", f"{user} {user} 1")
    _write("gid_map", f"{group} {group} 1")


def _write(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
        file.write(text)
