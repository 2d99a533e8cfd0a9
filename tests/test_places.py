"""Places that lack what programs take for granted: a pool works there, or says what to do about
it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import situations
from leftovers import nothing_left

PATIENCE = 60.0
"""Seconds after which something counts as a hang."""
PROGRAM = """
import os, signal, sys
sys.path[:1] = {paths!r}  # in place of the current directory
import guest_commands, guests
from wasm_sandbox import Pool, SandboxError
try:
    with Pool(2, cache_dir=sys.argv[1] or None) as pool:
        said = [pool.load(guests.add().encode())["add"](1, 2)]
        exec(sys.argv[3])
        said += [pool.run(pool.load(guest_commands.hello().encode())).stdout]
        said += [pool.run(pool.load(guest_commands.reads_stdin().encode()), stdin=bytes(200_000))
                 .exit_code]
except SandboxError as error:
    said = [f"{{type(error).__name__}}: {{error}}"]
os.write(int(sys.argv[2]), repr(said).encode())
"""
WORKS = repr([3, b"hello\n", 200_000])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache in which everything is, so that nothing is compiled."""
    directory = str(tmp_path_factory.mktemp("cache"))
    assert said_in("", directory) == WORKS
    return directory


def said_in(
    place: str,
    cache: str,
    *,
    meanwhile: str = "",
    wrapped: tuple[str, ...] = (),
    own: dict[str, str] | None = None,
) -> str:
    """What a program said that ran where ``place``, in the language of sh(1), has led it.

    Args:
        place: run first.
        cache: the cache's directory; empty for the default.
        meanwhile: Python that the program runs between its calls.
        wrapped: a command that runs all of it.
        own: variables of the environment.
    """
    tests = Path(__file__).parent
    program = PROGRAM.format(paths=[str(tests), str(tests.parent)])
    result, write = os.pipe()
    pids: set[int] = set()
    with nothing_left(pids=pids), open(result, "rb") as said:
        command = [sys.executable, "-B", "-W", "error", "-c", program, cache, str(write), meanwhile]
        running = subprocess.Popen(
            [*wrapped, "sh", "-ec", f'{place}\nexec "$@"', "sh", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(write,),
            env=os.environ | (own or {}),
        )
        os.close(write)
        pids.add(running.pid)
        try:
            output, _ = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
            running.wait()
        assert (output, running.returncode) == (b"", 0), output.decode()
        return said.read().decode()


# --- without privileges ---------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(cache: str, closed: str) -> None:
    assert said_in(f"exec {closed}", cache) == WORKS


def test_standard_streams_may_be_closed_while_a_pool_works(cache: str) -> None:
    respawn = """
for stream in range(3):
    os.close(stream)
worker = pool.workers()[0].pid
with open(f"/proc/{worker}/status") as status:
    (parent,) = [line.split()[1] for line in status if line.startswith("PPid")]
os.kill(int(parent), signal.SIGKILL)
"""
    assert said_in("", cache, meanwhile=respawn) == WORKS


@pytest.mark.parametrize("place", ["/nowhere", "/dev/null", "/proc"])
def test_no_temporary_directory_is_needed(cache: str, place: str) -> None:
    assert said_in("", cache, own={"TMPDIR": place}) == WORKS


def test_no_home_is_needed() -> None:
    assert said_in("unset XDG_CACHE_HOME", "", own={"HOME": "/dev/null"}) == WORKS


def test_no_current_directory_is_needed(cache: str, tmp_path: Path) -> None:
    assert said_in(f"cd {tmp_path}; mkdir gone; cd gone; rmdir ../gone", cache) == WORKS


def test_modules_in_the_current_directory_are_not_the_zygotes(cache: str, tmp_path: Path) -> None:
    for name in ("multiprocess.py", "tempfile.py", "msgspec.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    assert said_in(f"cd {tmp_path}", cache) == WORKS


def test_the_limit_of_file_sizes_is_named(cache: str, tmp_path: Path) -> None:
    assert "ulimit -f" in said_in("ulimit -f 0", cache)
    assert "ulimit -f" in said_in("ulimit -f 0", str(tmp_path / "cache"))


@pytest.mark.parametrize("mebibytes", [200, 3000])
def test_the_limit_of_address_space_is_named(cache: str, mebibytes: int) -> None:
    """Without it a memory of 4 GiB is reserved, so 3,000 MiB are too few for a guest that has
    one."""
    assert "ulimit -v" in said_in(f"ulimit -v {mebibytes << 10}", cache)


# --- as an ordinary user --------------------------------------------------------------------------


@pytest.fixture
def ordinary(tmp_path: Path) -> tuple[str, ...]:
    """What runs a command as an ordinary user, whose directory ``tmp_path`` is."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.chown(tmp_path, situations.USER, situations.USER)
    needs = [str(Path(__file__).parents[1]), str(tmp_path)]
    return tuple(situations.command("user", [], needs))


@pytest.mark.parametrize("deeper", ["", "deeper/still"])
def test_a_umask_that_takes_everything_away_does_not_reach_the_cache(
    ordinary: tuple[str, ...], tmp_path: Path, deeper: str
) -> None:
    cache = str(tmp_path / "cache" / deeper)
    for _ in range(2):
        assert said_in("umask 777", cache, wrapped=ordinary) == WORKS


@pytest.mark.parametrize("processes", [2, 3, 5, 6, 8, 14])
def test_the_limit_of_processes_is_named(
    ordinary: tuple[str, ...], tmp_path: Path, processes: int
) -> None:
    if not shutil.which("prlimit"):
        pytest.skip("needs prlimit(1)")
    limited = (*ordinary, "prlimit", f"--nproc={processes}")
    said = said_in("", str(tmp_path / "cache"), wrapped=limited)
    assert said == WORKS or "ulimit -u" in said


PIDS = Path("/sys/fs/cgroup/pids")


@pytest.fixture
def crowded() -> Iterator[Path]:
    """A control group without a limit yet."""
    if not os.access(PIDS, os.W_OK):
        pytest.skip("no pids controller of cgroup version 1 can be used here")
    group = PIDS / f"wasm-sandbox-test-{os.getpid()}"
    group.mkdir()
    yield group
    group.rmdir()


@pytest.mark.parametrize("processes", [3, 4, 6, 7, 12])
def test_the_limit_of_a_control_group_is_named(cache: str, crowded: Path, processes: int) -> None:
    (crowded / "pids.max").write_text(str(processes))
    said = said_in(f"echo $$ > {crowded}/cgroup.procs", cache)
    assert said == WORKS or "pids.max" in said


# --- among other mounts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mounts() -> tuple[str, ...]:
    """What runs a command in a mount namespace of its own, in which it may mount."""
    unshare = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "-r")
    attempt = [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if (
        not shutil.which("unshare")
        or subprocess.run(attempt, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs a private mount namespace (root, or unprivileged user namespaces)")
    return unshare


@pytest.mark.parametrize(
    ("options", "expected"),
    [("size=20k", WORKS), ("size=4k", "free space"), ("size=1m,nr_inodes=3", "free space")],
)
def test_a_full_disk_costs_the_cache_or_is_named(
    mounts: tuple[str, ...], tmp_path: Path, options: str, expected: str
) -> None:
    place = f"mount -t tmpfs -o mode=755,{options} tmpfs {tmp_path}; mkdir -m 700 {tmp_path}/c"
    if options == "size=4k":
        place += f"; head -c 4096 /dev/zero > {tmp_path}/all"
    assert expected in said_in(place, f"{tmp_path}/c", wrapped=mounts)


@pytest.mark.parametrize("options", ["size=4k", "ro"])
def test_shared_memory_needs_no_space_in_its_directory(
    mounts: tuple[str, ...], cache: str, options: str
) -> None:
    assert said_in(f"mount -t tmpfs -o {options} tmpfs /dev/shm", cache, wrapped=mounts) == WORKS


def test_nothing_need_be_writable(mounts: tuple[str, ...]) -> None:
    read_only = "mount -o remount,bind,ro /"
    if subprocess.run([*mounts, *read_only.split()], capture_output=True, check=False).returncode:
        pytest.skip("the root cannot be mounted read-only here")
    home = {"HOME": "/nowhere", "XDG_CACHE_HOME": "", "TMPDIR": ""}
    assert said_in(f"{read_only}; cd /", "", wrapped=mounts, own=home) == WORKS


def test_a_missing_proc_is_named(mounts: tuple[str, ...], cache: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("what was mounted before stays in the namespace of an ordinary user")
    assert "mount /proc" in said_in("umount -l /proc", cache, wrapped=mounts)


def test_processes_may_be_hidden_from_each_other(
    mounts: tuple[str, ...], ordinary: tuple[str, ...], tmp_path: Path
) -> None:
    if tuple(map(int, platform.release().split(".")[:2])) < (5, 8):
        pytest.skip("before Linux 5.8 all mounts of proc share their options")
    hidden = ("sh", "-ec", 'mount -t proc -o hidepid=2 proc /proc; exec "$@"', "sh")
    assert said_in("", str(tmp_path / "cache"), wrapped=(*mounts, *hidden, *ordinary)) == WORKS
