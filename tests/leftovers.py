"""What a pool must not leave behind: processes, descriptors, cgroups, temporary files.

While a check runs, this process adopts orphans (prctl(2), PR_SET_CHILD_SUBREAPER): a zygote or a
worker that outlives the program that started it becomes our child, so nothing of ours can hide.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wasm_sandbox.supervisor.cgroups.discovery import NAME, PROC, ROOT, find_trees

PATIENCE = 60.0
"""Seconds in which the last of it may still be going away. Nothing is measured here."""

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("PR_SET_CHILD_SUBREAPER was refused")


def descendants(root: int | None = None) -> dict[int, str]:
    """Every process below ``root`` (this one by default) that is not a zombie: pid to name."""
    parents: dict[int, tuple[int, str, str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                _head, _, rest = Path("/proc", entry, "stat").read_text().rpartition(")")
                state, parent = rest.split()[:2]
                parents[int(entry)] = int(parent), _head.partition("(")[2], state
    found: dict[int, str] = {}
    frontier = {os.getpid() if root is None else root}
    while frontier:
        below = {pid: name for pid, (parent, name, _) in parents.items() if parent in frontier}
        found |= {pid: name for pid, name in below.items() if parents[pid][2] not in "ZX"}
        frontier = set(below)
    return found


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what they are."""
    found: dict[int, str] = {}
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return {number: target for number, target in found.items() if not target.endswith("/fd")}


def cgroups(pids: frozenset[int]) -> set[str]:
    """Directories of pools that were made by one of ``pids``, in every tree, at any depth."""
    found: set[str] = set()
    for tree in find_trees(ROOT, PROC).values():
        for path, directories, _ in os.walk(tree.mount):
            for name in directories:
                parts = name.split(".")
                if parts[0] == NAME and len(parts) == 5 and int(parts[2]) in pids:
                    found.add(os.path.join(path, name))
    return found


def temporary_files() -> set[str]:
    """What lies in shared memory and in the temporary directory that could be a pool's."""
    found: set[str] = set()
    for directory in ("/dev/shm", tempfile.gettempdir()):
        with suppress(FileNotFoundError):
            found |= {
                os.path.join(directory, name)
                for name in os.listdir(directory)
                if name.startswith((NAME, "pym", "wnsm_", "psm_", "sem.", "mp-"))
                and "-fuzz-" not in name  # a campaign beside the tests
            }
    return found


def anothers(path: str, ours: set[int]) -> bool:
    """Whether a living process that is none of ``ours`` has made the file, by its name, or has it
    open or mapped: somebody else's run of these tests, or another program."""
    parts = os.path.basename(path).split(".")
    if len(parts) == 5 and parts[2].isdigit():  # as ``supervisor.cgroups.owners`` names them
        return int(parts[2]) not in ours and Path("/proc", parts[2]).exists()
    if os.geteuid():  # other users' processes cannot be looked into
        with suppress(FileNotFoundError):
            if os.stat(path).st_uid != os.geteuid():
                return True
    return any(
        entry.isdigit() and int(entry) not in ours and _holds(entry, path)
        for entry in os.listdir("/proc")
    )


def _holds(pid: str, path: str) -> bool:
    with suppress(OSError):  # it is gone, or may not be looked at
        if path in Path("/proc", pid, "maps").read_text():
            return True
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{entry}") == path:
                    return True
    return False


def _reap(before: set[str], *, zygotes: bool) -> list[str]:
    """Bury adopted zombies; children of the test itself are its own business. A zygote, which leads
    a session, is its pool's to bury, unless ``zygotes`` says that their programs are gone."""
    unburied: list[str] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry not in before:
            with suppress(OSError, ValueError):
                head, _, rest = Path("/proc", entry, "stat").read_text().rpartition(")")
                name = head.partition("(")[2]
                state, parent, _, session = rest.split()[:4]
                if state != "Z" or int(parent) != os.getpid():
                    continue
                if (
                    zygotes
                    or session != entry
                    or not name.startswith(("wasm-anchor", "wasm-zygote", "python"))
                ):
                    os.waitpid(int(entry), os.WNOHANG)
                else:
                    unburied.append(f"zombie {entry} ({name})")
    return unburied


def _left(
    before: tuple[dict[int, str], dict[int, str], set[str]], pids: frozenset[int]
) -> list[str]:
    processes, opened, files = before
    left = [
        f"process {pid} ({name})" for pid, name in descendants().items() if pid not in processes
    ]
    left += [
        f"descriptor {number} ({target})"
        for number, target in descriptors().items()
        if opened.get(number) != target
    ]
    left += [f"cgroup {path}" for path in sorted(cgroups(pids))]
    ours = {*pids, *descendants()}
    new = sorted(temporary_files() - files)
    return left + [f"file {path}" for path in new if not anothers(path, ours)]


@contextmanager
def nothing_left(*, pids: set[int] | None = None) -> Iterator[None]:
    """Assert that the block leaves no process, descriptor, cgroup or temporary file behind. Files
    of other programs that run meanwhile are theirs.

    Args:
        pids: programs that the block started and that made pools of their own; may be filled in it.
    """
    adopt_orphans()
    everybody = set(os.listdir("/proc"))
    before = descendants(), descriptors(), temporary_files()
    yield
    deadline = time.monotonic() + PATIENCE
    while True:
        own = frozenset({os.getpid(), *(pids or ())})
        left = _reap(everybody, zygotes=bool(pids)) + _left(before, own)
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert not left, "\n".join(["left behind:", *left])
