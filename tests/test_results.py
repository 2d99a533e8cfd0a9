"""What was left in a directory is read and removed, whatever its shape."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from wasm_sandbox import ConfigurationError, collect_files, remove_directory
from wasm_sandbox.supervisor import trees


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A directory full of traps, beside a secret."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "inner").write_text("secret")
    root = tmp_path / "left"
    (root / "inner").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    (root / "inner" / "file").write_bytes(b"inner")
    (root / "soft").symlink_to("../secret")
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "directory").symlink_to("../secrets")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    os.link(tmp_path / "secret", root / "hard")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    return root


def collected(path: Path) -> dict[str, bytes]:
    return {name: file.read() for name, file in collect_files(path)}


def bury(root: Path, depth: int, name: str = "d" * 100) -> None:
    """Make a tree that no path reaches the bottom of, with a file there."""
    at = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


def test_only_plain_files_are_collected(left: Path) -> None:
    assert collected(left) == {"file": b"content", "inner/file": b"inner"}


def test_files_come_in_order_and_are_closed_behind(left: Path) -> None:
    for name in ("b", "a", "inner/z", "inner/a"):
        (left / name).write_bytes(name.encode())
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for name, file in collect_files(left):
        assert file.read() == (left / name).read_bytes()
        kept.append((name, file))
    assert [name for name, _ in kept] == ["a", "b", "file", "inner/a", "inner/file", "inner/z"]
    assert all(file.closed for _, file in kept)
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_stays_open_where_the_iteration_is_left(left: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    found = collect_files(left)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_as_deep_as_a_guest_can_make_it_is_collected_with_few_descriptors(
    tmp_path: Path,
) -> None:
    bury(tmp_path, 511, "d")
    before = len(os.listdir("/proc/self/fd"))
    for name, _ in collect_files(tmp_path):
        assert name == "d/" * 511 + "bottom"
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    bury(tmp_path, 600, "e")
    assert list(collected(tmp_path)) == ["d/" * 511 + "bottom"]
    remove_directory(tmp_path / "e")


@pytest.mark.parametrize("swap", ["soft", "pipe", "hard"])
def test_a_file_that_is_changed_meanwhile_is_not_followed(
    left: Path, swap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and its opening."""
    real = os.open

    def late(path: str, flags: int, *arguments: int, dir_fd: int | None = None) -> int:
        if path == "file" and flags == trees._FILE and os.path.lexists(left / swap):
            os.replace(left / swap, left / "file")
        return real(path, flags, *arguments, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", late)
    if swap == "soft":
        with pytest.raises(OSError, match="symbolic links"):
            collected(left)
    else:
        assert collected(left) == {"inner/file": b"inner"}


def test_every_tree_is_removed_and_nothing_else(left: Path, tmp_path: Path) -> None:
    bury(left / "inner", 200)
    bury(left, 1200, "e")
    assert sum(len(entry.name) for entry in os.scandir(left)) < 4096
    locked = left / "locked"
    (locked / "in" / "side").mkdir(parents=True)
    for path in (locked / "in" / "side", locked / "in", locked):
        path.chmod(0)
    remove_directory(left)
    assert sorted(os.listdir(tmp_path)) == ["secret", "secrets"]
    assert (tmp_path / "secret").read_text() == "secret"
    assert os.listdir(tmp_path / "secrets") == ["inner"]


def test_many_entries_are_removed(tmp_path: Path) -> None:
    root = tmp_path / "many"
    for at in range(40):
        (root / str(at)).mkdir(parents=True)
        for inner in range(60):
            (root / str(at) / str(inner)).touch()
    remove_directory(root)
    assert not root.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
def test_an_ordinary_user_removes_what_nobody_may_read(left: Path) -> None:
    (left / "inner").chmod(0)
    child = os.fork()
    if child == 0:
        try:
            for path in (left.parent, left, left / "inner", *left.rglob("*")):
                os.chown(path, 65534, 65534, follow_symlinks=False)
            os.chdir(left.parent)
            os.setuid(65534)
            trees.remove(left.name)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not left.exists()


@pytest.mark.parametrize("name", ["file", "soft", "directory"])
def test_what_is_no_directory_is_refused(left: Path, name: str) -> None:
    for use in (collected, remove_directory):
        with pytest.raises(ConfigurationError, match="not a directory"):
            use(left / name)
    assert (left.parent / "secrets" / "inner").exists()


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    for use in (collected, remove_directory):
        with pytest.raises(FileNotFoundError):
            use(tmp_path / "missing")
