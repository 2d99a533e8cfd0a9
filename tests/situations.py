"""Machines that this one can be: programs run as root, as an ordinary user, or in a container, with
what they need of this machine's files within reach.

    situations.py SITUATION FOLDER... -- COMMAND...

is run by root and becomes the command, behind an own table of mounts, in which the folders that
others may not enter (a private home) are replaced by empty ones with only the FOLDERs in them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

SITUATIONS = ("root", "user", "user without namespaces", "root in a container")
USER = 1000
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_PR_CAPBSET_DROP, _CAP_SYS_ADMIN = 24, 21


def command(situation: str, words: Sequence[str], needs: Sequence[str] = ()) -> list[str]:
    """The command line that runs ``words`` in ``situation``; only root can run it."""
    folders = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, *needs)}
    return [sys.executable, "-ISB", os.path.realpath(__file__), situation, *folders, "--", *words]


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = [text.encode() or None for text in (source, target, kind)]
    _checked(_LIBC.mount(*words, flags, data.encode() or None))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _blocked(path: str) -> str | None:
    """The topmost directory on the way to ``path`` that other users may not enter."""
    parts = path.split("/")
    ancestors = ("/".join(parts[:length]) for length in range(2, len(parts) + 1))
    return next((path for path in ancestors if not os.stat(path).st_mode & 0o001), None)


def _open_up(needs: Sequence[str]) -> None:
    """Make the folders reachable for everybody, in this process and those that it starts."""
    _checked(_LIBC.unshare(_NEWNS))
    _mount("", "/", flags=_REC | _PRIVATE)
    closed = {blocked for path in needs if (blocked := _blocked(path)) is not None}
    hidden = [path for path in needs if any(path.startswith(f"{top}/") for top in closed)]
    held = [os.open(path, os.O_PATH) for path in hidden]
    for path in closed:
        _mount("tmpfs", path, "tmpfs", data="mode=755")
    for path, descriptor in zip(hidden, held, strict=True):
        os.makedirs(path, exist_ok=True)
        _mount(f"/proc/self/fd/{descriptor}", path, flags=_BIND | _REC)
        os.close(descriptor)


def _enter_user_namespace(ids: str) -> None:
    """Enter a user namespace with these ids, in which no further one can be made."""
    parent, (read, write) = os.getpid(), os.pipe()
    helper = os.fork()  # only from outside may other ids than the own be mapped
    if helper == 0:
        os.close(write)
        os.read(read, 1)
        for kind in ("uid_map", "gid_map"):
            _write(f"/proc/{parent}/{kind}", ids)
        os._exit(0)
    os.close(read)
    _checked(_LIBC.unshare(_NEWUSER))
    os.close(write)
    _, status = os.waitpid(helper, 0)
    if status:
        sys.exit("the ids could not be mapped")
    _write("/proc/sys/user/max_user_namespaces", "0")


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def main() -> None:
    """Become the command."""
    situation, *rest = sys.argv[1:]
    at = rest.index("--")
    folders, words = rest[:at], rest[at + 1 :]
    _open_up(folders)
    match situation:
        case "user":
            _become(USER)
        case "user without namespaces":
            _enter_user_namespace(f"0 0 {1 << 16}")
            _become(USER)
        case "root in a container":
            _enter_user_namespace(f"0 0 {1 << 16}")
            _checked(_LIBC.prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0))
        case _:
            pass
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
