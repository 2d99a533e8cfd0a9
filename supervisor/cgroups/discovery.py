"""Find out where this process can make groups, and clear away what dead pools left there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from . import janitor, v1, v2
from .hierarchy import CONTROLLERS, Hierarchy, NoHierarchy
from .model import Unavailable
from .owners import is_orphan, pool_name

ROOT: Final = "/sys/fs/cgroup"
PROC: Final = "/proc"
NAME: Final = "wasm-sandbox"

_UNIFIED: Final = ""
"""The name under which /proc/self/cgroup and we list the v2 tree."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A mounted cgroup tree and the place of this process in it."""

    mount: str
    own: str


def discover(root: str = ROOT, proc: str = PROC, name: str = NAME) -> Hierarchy:
    """Make a pool's directories where this process may, and say what can be enforced in them.

    v1 where any of its limiting controllers is mounted below ``root`` and can be used, else v2,
    else a hierarchy of kind ``none`` that tells why. ``name`` is the prefix of the directories.
    Nothing is raised for what is missing.
    """
    trees = find_trees(root, proc)
    directory = pool_name(proc, name)
    attempts: list[Hierarchy] = []
    if any(controller in trees for controller in ("memory", "pids", "cpu")):
        places = {controller: tree.own for controller, tree in trees.items()}
        attempts.append(v1.V1Hierarchy.build(places, directory))
    if _UNIFIED in trees and not (attempts and attempts[0].controllers):
        unified = trees[_UNIFIED]
        attempts.append(v2.V2Hierarchy.build(unified.mount, unified.own, directory))
    for attempt in attempts:
        if attempt.controllers:
            return attempt
        attempt.close()
    if attempts:
        return NoHierarchy(attempts[0].missing)
    reason = f"no cgroup file system with this process in it is mounted below {root}"
    remedy = "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    return NoHierarchy(dict.fromkeys(CONTROLLERS, Unavailable(reason=reason, remedy=remedy)))


def sweep(root: str = ROOT, proc: str = PROC, name: str = NAME, patience: float = 0.5) -> int:
    """Remove the directories of pools whose supervisor is gone, with all that still runs in them;
    how many.

    Looks in the groups where pools of this process, or of one started like it, stand. Safe at any
    time, also several at once: a directory's name says whose it is. What does not die within
    ``patience`` seconds is left for the next time.
    """
    orphans: dict[str, list[str]] = {}
    for place in set(_places(find_trees(root, proc))):
        with suppress(OSError):
            for entry in os.listdir(place):
                if is_orphan(entry, proc, name):
                    orphans.setdefault(entry, []).append(os.path.join(place, entry))
    removed = 0
    for paths in orphans.values():
        # Together: what is frozen in one tree does not die of a signal sent through another.
        with suppress(OSError):
            removed += len(paths) - len(janitor.remove_directories(paths, patience))
    return removed


def find_trees(root: str, proc: str) -> dict[str, Tree]:
    """The usable trees by controller; v2 is the empty name."""
    trees: dict[str, Tree] = {}
    memberships = _memberships(proc)
    for mounted, mount, controllers in _mounts(root, proc):
        for controller in controllers:
            path = memberships.get(controller)
            if path is None or controller in trees:
                continue
            own = os.path.normpath(os.path.join(mount, os.path.relpath(path, mounted)))
            # Outside what is mounted here (a container sees a part only) there is nothing to be
            # found.
            if (own == mount or own.startswith(mount + "/")) and os.path.isdir(own):
                trees[controller] = Tree(mount=mount, own=own)
    return trees


def _places(trees: dict[str, Tree]) -> Iterator[str]:
    """Where pools stand: the own group, the one above, and its other groups (where earlier runs may
    have been)."""
    for tree in trees.values():
        yield tree.own
        if tree.own != tree.mount:
            above = os.path.dirname(tree.own)
            yield above
            with suppress(OSError), os.scandir(above) as entries:
                yield from [entry.path for entry in entries if entry.is_dir()]


def _memberships(proc: str) -> dict[str, str]:
    """/proc/self/cgroup: the path of this process by controller, as lines of
    ``id:controllers:path``."""
    with suppress(OSError), open(os.path.join(proc, "self/cgroup")) as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
        return {name: path for _, names, path in lines for name in names.split(",")}
    return {}


def _mounts(root: str, proc: str) -> Iterator[tuple[str, str, list[str]]]:
    """/proc/self/mountinfo: (part of the tree, mount point, controllers) of each cgroup mount below
    ``root``."""
    try:
        with open(os.path.join(proc, "self/mountinfo")) as file:
            lines = file.readlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind, options = before.split(), after.split()[0], after.split()[-1]
        part, mount = _unescape(fields[3]), _unescape(fields[4])
        if mount != root and not mount.startswith(root.rstrip("/") + "/"):
            continue
        if ".." in part.split("/"):  # mounted outside this cgroup namespace
            continue
        if kind == "cgroup2":
            yield part, mount, [_UNIFIED]
        elif kind == "cgroup":
            yield part, mount, options.split(",")


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
