"""The directory is the user's own, and no trouble with it reaches the user."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from caches import ARTIFACT, DESCRIPTION, fetch, key, names, no_descriptor_left_open

from wasm_sandbox.supervisor.cache import ArtifactCache, default_directory, seal


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    with no_descriptor_left_open():
        yield


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


# Whose directory it is


def test_directory_secret_and_entries_are_for_the_owner_alone(cache: ArtifactCache) -> None:
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert cache.directory is not None
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert [n.partition(".")[2] for n in names(cache)] == ["artifact", ""]
    for name in names(cache):
        assert (cache.directory / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(PermissionError, match="group or others"):
        ArtifactCache(directory)
    assert list(directory.iterdir()) == []


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    directory = Path("/")
    if os.geteuid() == 0:
        directory = tmp_path / "theirs"
        directory.mkdir(mode=0o700)
        os.chown(directory, 65534, 65534)
    with pytest.raises(PermissionError, match="belongs to user"):
        ArtifactCache(directory)


def test_a_directory_that_is_opened_up_later_is_not_used_any_more(cache: ArtifactCache) -> None:
    assert cache.directory is not None
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    cache.directory.chmod(0o777)
    assert cache.get(key()) is None
    assert "group or others" in str(cache.last_error)
    assert not cache.put(key(), DESCRIPTION, ARTIFACT)


def test_a_deleted_directory_is_made_again(cache: ArtifactCache) -> None:
    assert cache.directory is not None
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    shutil.rmtree(cache.directory)
    assert fetch(cache, key()) is None
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert fetch(cache, key()) == (DESCRIPTION, ARTIFACT)
    assert cache.corruptions == 0


@pytest.mark.parametrize(
    ("xdg", "home", "expected"),
    [
        ("/xdg", "/home/me", "/xdg/wasm-sandbox"),
        ("", "/home/me", "/home/me/.cache/wasm-sandbox"),
        ("relative", "/home/me", "/home/me/.cache/wasm-sandbox"),
    ],
)
def test_the_default_directory_is_where_the_desktop_standard_says(
    monkeypatch: pytest.MonkeyPatch, xdg: str, home: str, expected: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", home)
    assert default_directory() == Path(expected)


def test_without_a_home_the_cache_is_in_memory_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(FileNotFoundError, match="no home directory"):
        ArtifactCache()
    cache = ArtifactCache.open()
    assert "no home directory" in str(cache.last_error)
    _keeps_in_memory(cache)


def test_an_unusable_directory_gives_a_cache_in_memory_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ArtifactCache.open(tmp_path / "file" / "cache")
    assert str(tmp_path / "file") in str(cache.last_error)
    _keeps_in_memory(cache)


def _keeps_in_memory(cache: ArtifactCache) -> None:
    assert cache.directory is None
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert fetch(cache, key()) == (DESCRIPTION, ARTIFACT)
    cache.close()
    assert fetch(cache, key()) is None
    cache.close()


# Trouble with the disk


@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_that_may_not_grow_so_far_is_no_error_and_leaves_nothing(
    cache: ArtifactCache, sealed: bool
) -> None:
    source = seal(ARTIFACT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert not cache.put(key(), DESCRIPTION, source if sealed else ARTIFACT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.close(source)
    assert os.strerror(errno.EFBIG) in str(cache.last_error)
    assert names(cache) == ["key"]


def _run_in_private_mounts(script: str, directory: Path) -> str:
    """Run Python where a 1 MiB tmpfs of its own is mounted on ``directory``."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-r"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(directory)]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, *mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs a private mount namespace (root, or unprivileged user namespaces)")
    done = subprocess.run(
        [*unshare, "sh", "-c", 'set -e; "$@"; exec "$PYTHON" -c "$SCRIPT"', "sh", *mount],
        env=_environment() | {"PYTHON": sys.executable, "SCRIPT": script},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": paths}


PREAMBLE = """
import os, subprocess, sys
from wasm_sandbox.supervisor.cache import ArtifactCache, ArtifactKey
def key(n): return ArtifactKey(module_sha256=bytes([n]) * 32, engine="e", settings="", cpu="")
def fetch(cache, wanted):
    entry = cache.get(wanted)
    if entry is None: return None
    data = os.pread(entry.artifact_fd, entry.artifact_size, 0)
    os.close(entry.artifact_fd)
    return data
"""


def test_a_full_disk_is_no_error_and_leaves_nothing(tmp_path: Path) -> None:
    script = f"""{PREAMBLE}
cache = ArtifactCache({str(tmp_path)!r})
assert cache.put(key(1), b"", b"a" * 300_000)
assert not cache.put(key(2), b"", b"b" * 900_000)
assert "No space left" in cache.last_error, cache.last_error
assert fetch(cache, key(1)) == b"a" * 300_000
assert fetch(cache, key(2)) is None
assert len(os.listdir({str(tmp_path)!r})) == 2, os.listdir({str(tmp_path)!r})
assert cache.put(key(3), b"", b"c" * 300_000)
print("fine")
"""
    assert _run_in_private_mounts(script, tmp_path) == "fine\n"


def test_a_read_only_cache_can_be_read_and_refuses_quietly(tmp_path: Path) -> None:
    script = f"""{PREAMBLE}
where = {str(tmp_path)!r}
assert ArtifactCache(where).put(key(1), b"", b"a" * 300_000)
open(where + "/stale.tmp", "w").close()
subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)
cache = ArtifactCache(where, max_bytes=100)
assert fetch(cache, key(1)) == b"a" * 300_000
assert not cache.put(key(2), b"", b"b")
assert "Read-only" in cache.last_error, cache.last_error
assert ArtifactCache.open(where + "/new").put(key(2), b"", b"b")
print("fine")
"""
    assert _run_in_private_mounts(script, tmp_path) == "fine\n"


# Several processes, some of which die


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_are_not(
    cache: ArtifactCache,
) -> None:
    assert cache.directory is not None
    stale, alive = cache.directory / "stale.tmp", cache.directory / "alive.tmp"
    stale.write_bytes(b"half an artifact")
    with alive.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        ArtifactCache(cache.directory)
        assert not stale.exists()
        assert alive.exists()
    assert cache.put(key(), DESCRIPTION, ARTIFACT)
    assert not alive.exists()


WORK = f"""{PREAMBLE}
where, rounds = sys.argv[1], int(sys.argv[2])
cache = ArtifactCache(where, max_bytes=1_500_000)
print("started", flush=True)
hits = 0
for round in range(rounds):
    n = (round * 7 + os.getpid()) % 8
    content = bytes([n]) * (250_000 + n)
    if round % 3 == 0:
        assert cache.put(key(n), b"", content), cache.last_error
    found = fetch(cache, key(n))
    assert found in (None, content)
    hits += found is not None
print(cache.corruptions, hits > 0, flush=True)
"""


def test_processes_share_a_directory_and_killed_ones_do_no_harm(tmp_path: Path) -> None:
    directory = tmp_path / "cache"

    def start(rounds: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORK, str(directory), str(rounds)],
            env=_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    workers = [start(120) for _ in range(3)]
    victims = [start(1_000_000) for _ in range(2)]
    for victim in victims:
        with victim:
            assert victim.stdout is not None
            victim.stdout.readline()
            victim.kill()
        assert victim.returncode == -signal.SIGKILL
    for worker in workers:
        output, _ = worker.communicate()
        assert output == "started\n0 True\n"
        assert worker.returncode == 0
    cache = ArtifactCache(directory, max_bytes=1_500_000)
    assert all(name == "key" or name.endswith(".artifact") for name in names(cache))
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 1_500_032


def test_a_fork_in_the_middle_of_a_put_does_not_hold_up_anybody(cache: ArtifactCache) -> None:
    """A child that inherits a temporary file's lock keeps that file at most, not the cache."""
    assert cache.directory is not None
    with (cache.directory / "inherited.tmp").open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "60"], pass_fds=[writer.fileno()])
    try:
        assert cache.put(key(), DESCRIPTION, ARTIFACT)
        assert fetch(ArtifactCache(cache.directory), key()) == (DESCRIPTION, ARTIFACT)
    finally:
        child.kill()
        child.wait()
    ArtifactCache(cache.directory)
    assert "inherited.tmp" not in names(cache)
