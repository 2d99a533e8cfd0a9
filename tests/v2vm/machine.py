#!/usr/bin/env python3
"""Run a command in a throw-away machine whose only cgroup hierarchy is a real, pure cgroup v2.

    machine.py [--uid N] [--place root|delegated|session] [--memory MIB] [--timeout S] -- COMMAND...

The machine is user-mode-linux: a kernel that runs as an ordinary program, without KVM or
privileges, at native speed on one CPU, up in about a second. The host's root directory is its root
directory, read-only; /tmp, /run, /var/tmp and /dev/shm are fresh. COMMAND runs in the present
directory. Its output is printed when it has ended; the exit status is its own, 124 after a timeout,
125 if the machine itself failed.

--place says where COMMAND sits in the cgroup tree:
    root       in the root cgroup (the default); delegated  in the leaf /delegated/main, with
    /delegated handed to the uid as systemd's Delegate=yes and
               DelegateSubgroup=main do;
    session    in the leaf /user/session, of which nothing is handed over.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux.uml"
GUEST = Path(__file__).with_name("guest.py")
HOW_TO_INSTALL = "run tests/v2vm/setup as root (it installs the Debian package user-mode-linux)"

TIMED_OUT = 124
MACHINE_FAILED = 125


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the command ended: its exit status (or 124, 125) and what it wrote to stdout and stderr
    together."""

    status: int
    output: str


def kernel() -> str | None:
    """The path of the user-mode-linux kernel, or None where it is not installed."""
    return shutil.which(KERNEL)


@functools.cache
def unusable() -> str | None:
    """Why no machine can be had here, or None where one boots.

    The kernel saves its processes' registers in a space of fixed size, so it does not boot on
    processors whose registers are larger (AMX).
    """
    if kernel() is None:
        return f"user-mode-linux is not installed: {HOW_TO_INSTALL}"
    outcome = run(["/bin/true"], memory=256, timeout=60)
    if outcome.status == MACHINE_FAILED:
        return "user-mode-linux is installed, but does not boot on this processor"
    return None


def run(
    command: Sequence[str],
    *,
    uid: int = 0,
    place: str = "root",
    memory: int = 1024,
    timeout: float = 120,
    environment: dict[str, str] | None = None,
    needs: Sequence[str] = (),
) -> Outcome:
    """Boot, run ``command``, power off.

    ``memory`` is in MiB, ``timeout`` in seconds. ``needs`` are directories that the command reads
    and that an ordinary user could not otherwise reach (below a private home) or that a fresh mount
    would hide (below /tmp).
    """
    executable = kernel()
    if executable is None:
        raise FileNotFoundError(f"{KERNEL} is not installed: {HOW_TO_INSTALL}")
    with tempfile.TemporaryDirectory(prefix="v2vm-") as folder:
        orders = {
            "command": list(command),
            "uid": uid,
            "place": place,
            "directory": os.getcwd(),
            "needs": [
                os.path.realpath(path)
                for path in (sys.base_prefix, sys.prefix, os.getcwd(), *needs)
            ],
            "environment": {"PATH": os.environ.get("PATH", os.defpath), **(environment or {})},
        }
        Path(folder, "orders.json").write_text(json.dumps(orders))
        arguments = [
            executable,
            f"mem={memory}M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            "con=null",
            "con0=null,fd:1",
            f"uml_dir={folder}",
            "umid=machine",
            f"init={os.path.realpath(sys.executable)}",
            "--",
            "-ISB",
            str(GUEST.resolve()),
            folder,
        ]
        with open(os.path.join(folder, "console"), "wb") as console:
            machine = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                machine.wait(timeout)
            except subprocess.TimeoutExpired:
                return Outcome(status=TIMED_OUT, output=_text(folder, "output"))
            finally:
                _stop(machine, folder)
        status = _text(folder, "status")
        if not status:
            return Outcome(status=MACHINE_FAILED, output=_text(folder, "console"))
        return Outcome(status=int(status), output=_text(folder, "output"))


def _text(folder: str, name: str) -> str:
    with suppress(FileNotFoundError):
        return Path(folder, name).read_text(errors="replace")
    return ""


def _stop(machine: subprocess.Popen[bytes], folder: str) -> None:
    """End the machine and its helper processes: they sit in a process group that it made for
    itself."""
    groups = {machine.pid}
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        groups.add(os.getpgid(int(Path(folder, "machine", "pid").read_text())))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    machine.wait()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="run a command in a cgroup v2 machine")
    parser.add_argument("--uid", type=int, default=0)
    parser.add_argument("--place", choices=("root", "delegated", "session"), default="root")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("--timeout", type=float, default=120, metavar="S")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        outcome = run(
            options.command,
            uid=options.uid,
            place=options.place,
            memory=options.memory,
            timeout=options.timeout,
        )
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return MACHINE_FAILED
    sys.stdout.write(outcome.output)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
