"""A machine that is not there: the kernel's cgroup file systems, played by plain files."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wasm_sandbox.supervisor.cgroups import Hierarchy, discover
from wasm_sandbox.supervisor.cgroups.controllers import DirectController

V1_FILES = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuacct": ("cpuacct.usage",),
    "freezer": ("freezer.state",),
}
V2_FILES = {
    "memory": ("memory.max", "memory.swap.max", "memory.oom.group"),
    "pids": ("pids.max",),
    "cpu": ("cpu.max",),
}


def stat_line(command: str = "python", state: str = "S", start: int = 77) -> str:
    return f"12 ({command}) {state} " + " ".join(["0"] * 18) + f" {start} 0 0\n"


@dataclass
class Machine:
    """A kernel's cgroup file systems played by plain files below two folders.

    ``refuse`` maps (operation, directory) to the errno of the kernel's answer; operations are
    ``mkdir``, ``write`` (of cgroup.subtree_control) and ``access`` (to cgroup.procs).
    """

    root: Path
    proc: Path
    lacking: set[str] = field(default_factory=set)
    refuse: dict[tuple[str, Path], int] = field(default_factory=dict)
    type_of_new: str = "domain"
    _v1: dict[Path, list[str]] = field(default_factory=dict)
    _mounts: list[str] = field(default_factory=list)
    _groups: list[str] = field(default_factory=list)

    def mount_v1(self, names: str, own: str = "/", part: str = "/") -> Path:
        mount = self.root / names
        mount.mkdir(parents=True)
        self._v1[mount] = names.split(",")
        inside = mount / os.path.relpath(own, part)
        self._populate_all(mount, inside)
        self._mounts.append(f"30 25 0:1 {part} {mount} rw - cgroup cgroup rw,{names}")
        self._groups.append(f"4:{names}:{own}")
        return inside

    def mount_v2(
        self, below: str = "", own: str = "/", *, namespaced: bool = False, offered: str = ""
    ) -> Path:
        """``namespaced``: the top is not the machine's root group."""
        mount = self.root / below
        mount.mkdir(parents=True, exist_ok=True)
        inside = mount / own.strip("/")
        self._populate_all(mount, inside)
        for directory in [mount, *(mount / part for part in inside.relative_to(mount).parents)]:
            (directory / "cgroup.controllers").write_text(offered or "cpu io memory pids")
        if not namespaced:
            (mount / "cgroup.type").unlink()
        self._mounts.append(f"31 25 0:2 / {mount} rw - cgroup2 cgroup2 rw")
        self._groups.append(f"0::{own}")
        return inside

    def describe(self) -> None:
        """Write what /proc says of this process."""
        own = self.proc / "self"
        own.mkdir(parents=True, exist_ok=True)
        (own / "cgroup").write_text("".join(f"{line}\n" for line in self._groups))
        alive = self.proc / str(os.getpid())
        alive.mkdir(exist_ok=True)
        (alive / "stat").write_text(stat_line())
        noise = ["20 1 8:1 / / rw - ext4 /dev/sda1 rw", "21 1 0:5 / /proc rw - proc proc rw"]
        (own / "mountinfo").write_text("".join(f"{line}\n" for line in [*noise, *self._mounts]))

    def discover(self) -> Hierarchy:
        self.describe()
        return discover(root=str(self.root), proc=str(self.proc))

    def ours(self) -> list[Path]:
        """The directories of pools, wherever they are."""
        return sorted(self.root.rglob("wasm-sandbox.*"))

    def made(self, directory: Path) -> None:
        """What the kernel puts into a new group."""
        for mount, controllers in self._v1.items():
            if directory.is_relative_to(mount):
                self._touch(directory, [name for c in controllers for name in V1_FILES[c]])
                return
        above = directory.parent
        switched_on = (above / "cgroup.subtree_control").read_text().split()
        (directory / "cgroup.controllers").write_text(" ".join(switched_on))
        (directory / "cgroup.type").write_text(self.type_of_new)
        self._touch(directory, [name for c in switched_on for name in V2_FILES.get(c, ())])
        self._touch(directory, ["cgroup.subtree_control"])

    def switch(self, directory: Path, order: str) -> None:
        """A write to cgroup.subtree_control."""
        name = order.removeprefix("+")
        if name not in (directory / "cgroup.controllers").read_text().split():
            raise OSError(errno.ENOENT, "not offered")
        with (directory / "cgroup.subtree_control").open("a") as file:
            file.write(f"{name} ")
        # The files of the groups below appear.
        for below in directory.iterdir():
            if below.is_dir():
                with (below / "cgroup.controllers").open("a") as file:
                    file.write(f" {name}")
                self._touch(below, V2_FILES[name])

    def _populate_all(self, mount: Path, inside: Path) -> None:
        inside.mkdir(parents=True, exist_ok=True)
        for directory in {mount, inside, *(mount / p for p in inside.relative_to(mount).parents)}:
            self._touch(directory, ["cgroup.subtree_control"])
            (directory / "cgroup.type").write_text("domain")

    def _touch(self, directory: Path, names: list[str] | tuple[str, ...]) -> None:
        for name in ["cgroup.procs", *names]:
            if name not in self.lacking:
                unlimited = name.endswith("limit_in_bytes")
                (directory / name).write_text("9223372036854771712" if unlimited else "")


@pytest.fixture(name="machine")
def machine_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine(root=tmp_path / "cgroup", proc=tmp_path / "proc")
    mkdir, rmdir, access = os.mkdir, os.rmdir, os.access

    def is_a_group(path: str) -> bool:
        return "/wasm-sandbox." in os.fspath(path) and str(path).startswith(str(fake.root))

    def fake_mkdir(path: str, mode: int = 0o777) -> None:
        group = is_a_group(path)
        if group and ("mkdir", Path(path).parent) in fake.refuse:
            number = fake.refuse["mkdir", Path(path).parent]
            raise OSError(number, os.strerror(number), path)
        mkdir(path, mode)
        if group:
            fake.made(Path(path))

    def fake_rmdir(path: str, **keywords: int) -> None:
        if is_a_group(path):
            assert not any(entry.is_dir() for entry in Path(path).iterdir())
            for entry in Path(path).iterdir():
                entry.unlink()
        rmdir(path, **keywords)

    def fake_access(path: str, mode: int) -> bool:
        return ("access", Path(path).parent) not in fake.refuse and access(path, mode)

    def fake_set(files: DirectController, filename: bytes, value: object) -> int:
        path = Path(os.fsdecode(files.filepath(filename)))
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if path.name != "cgroup.subtree_control":
            return path.write_text(str(value))
        if number := fake.refuse.get(("write", path.parent)):
            raise OSError(number, os.strerror(number), str(path))
        fake.switch(path.parent, str(value))
        return 0

    monkeypatch.setattr(os, "mkdir", fake_mkdir)
    monkeypatch.setattr(os, "access", fake_access)
    monkeypatch.setattr(DirectController, "set_property", fake_set)
    monkeypatch.setattr(os, "rmdir", fake_rmdir)
    return fake
