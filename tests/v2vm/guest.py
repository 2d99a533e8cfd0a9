"""The first process of the cgroup v2 test machine: mounts, runs the command, reports its status,
powers off.

Standard library only: it runs with ``python -ISB`` as pid 1 of a machine whose root directory is
the host's.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC = 0x1000, 0x4000
RB_POWER_OFF = 0x4321FEDC
CGROUPS = "/sys/fs/cgroup"
FRESH = ("/tmp", "/run", "/var/tmp", "/dev/shm")
DELEGATED_FILES = ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    arguments = [text.encode() or None for text in (source, target, kind)]
    if LIBC.mount(*arguments, flags, data.encode() or None):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def write(path: str, text: str) -> None:
    """Write a control file in one system call."""
    with open(path, "w") as file:
        file.write(text)


def blocked(path: str) -> str | None:
    """The topmost directory on the way to ``path`` that other users may not enter."""
    parts = path.split("/")
    for length in range(2, len(parts) + 1):
        ancestor = "/".join(parts[:length])
        if not os.stat(ancestor).st_mode & 0o001:
            return ancestor
    return None


def prepare_files(needs: list[str]) -> None:
    """Fresh directories to write in, with ``needs`` still visible, and reachable for every user."""
    fresh = [path for path in FRESH if os.path.isdir(path)]
    private = {ancestor for path in needs if (ancestor := blocked(path)) is not None}
    hidden = [
        path for path in needs if path.startswith(tuple(f"{top}/" for top in (*fresh, *private)))
    ]
    mount("tmpfs", "/mnt", "tmpfs")
    for number, path in enumerate(hidden):
        os.mkdir(f"/mnt/{number}")
        mount(path, f"/mnt/{number}", flags=MS_BIND | MS_REC)
    for path in fresh:
        mount("tmpfs", path, "tmpfs", data="mode=1777")
    for path in private:
        os.makedirs(path, exist_ok=True)
        mount("tmpfs", path, "tmpfs", data="mode=755")
    for number, path in enumerate(hidden):
        os.makedirs(path, exist_ok=True)
        mount(f"/mnt/{number}", path, flags=MS_BIND | MS_REC)


def prepare_cgroups(place: str, uid: int) -> str:
    """Mount cgroup v2, switch every controller on, and make the group for the command; its
    directory."""
    mount("sysfs", "/sys", "sysfs")
    mount("cgroup2", CGROUPS, "cgroup2")
    branch, leaf = {
        "root": ("", ""),
        "delegated": ("/delegated", "/main"),
        "session": ("/user", "/session"),
    }[place]
    with open(f"{CGROUPS}/cgroup.controllers") as file:
        controllers = file.read().split()
    for controller in controllers:
        write(f"{CGROUPS}/cgroup.subtree_control", f"+{controller}")
    os.makedirs(CGROUPS + branch + leaf, exist_ok=True)
    if place == "delegated":
        for directory in (branch, branch + leaf):
            for name in DELEGATED_FILES:
                os.chown(os.path.join(CGROUPS + directory, name), uid, uid)
    return CGROUPS + branch + leaf


def execute(orders: dict[str, Any], group: str, output: int) -> int:
    """Run the command; its exit status, as a shell gives it."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            write(f"{group}/cgroup.procs", "0")
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.setgroups([])
            os.setresgid(orders["uid"], orders["uid"], orders["uid"])
            os.setresuid(orders["uid"], orders["uid"], orders["uid"])
            os.chdir(orders["directory"])
            settings = {
                "HOME": "/tmp",
                "TMPDIR": "/tmp",
                "PYTHONDONTWRITEBYTECODE": "1",
                "LANG": "C.UTF-8",
            }
            os.execvpe(
                orders["command"][0], orders["command"], {**settings, **orders["environment"]}
            )
        except BaseException:
            os.write(output, traceback.format_exc().encode())
        finally:
            os._exit(126)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> None:
    """Everything, from the first mount to the power switch."""
    folder = sys.argv[1]
    try:
        mount("proc", "/proc", "proc")
        with open(f"{folder}/orders.json") as file:
            orders = json.load(file)
        group = prepare_cgroups(orders["place"], orders["uid"])
        prepare_files(orders["needs"])
        os.mkdir("/run/result")
        mount("none", "/run/result", "hostfs", data=folder)
        output = os.open("/run/result/output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        status = execute(orders, group, output)
        write("/run/result/status", str(status))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os.sync()
        LIBC.reboot(ctypes.c_int(RB_POWER_OFF))


if __name__ == "__main__":
    main()
