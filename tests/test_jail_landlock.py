"""The wall around files, TCP, signals and abstract sockets.

Every attack is made twice by native code in a worker: with this wall alone, where it fails, and
with neither it nor the filter of system calls, where it succeeds. What a grant allows is tried out
in a process that has nothing else on.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import guest_commands
import pytest
from cores import run, serving
from native import LAST, outcomes
from targets import SECRET, Targets

from wasm_sandbox.protocol.capabilities import Grant
from wasm_sandbox.worker import jail
from wasm_sandbox.worker.jail import landlock, no_new_privs

ALONE = tuple(wall for wall in LAST if not wall.startswith("landlock"))


def _abi() -> int:
    try:
        return landlock._abi()
    except OSError:
        return 0


ABI = _abi()
pytestmark = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")
since_4 = pytest.mark.skipif(ABI < 4, reason=f"Landlock ABI {ABI} knows nothing of TCP")
since_6 = pytest.mark.skipif(ABI < 6, reason=f"Landlock ABI {ABI} knows nothing of signals")


# -- attacks --------------------------------------------------------------------------------------


def attacks_on(targets: Targets) -> dict[str, tuple[str, dict[str, Any]]]:
    """What this wall stops; and artifacts can be opened with it, or nothing would run."""
    victim = targets.process.pid
    return {
        "read a file": ("read_file", {"path": "/etc/passwd"}),
        "read the supervisor's environment": (
            "read_file",
            {"path": f"/proc/{os.getpid()}/environ"},
        ),
        "write a file": ("write_file", {"path": str(targets.folder / "written")}),
        "write into /var/tmp": ("write_file", {"path": f"/var/tmp/{targets.folder.name}"}),
        "execute": ("execute", {"program": "/bin/sh", "arguments": ["-c", "exit 42"]}),
        "trace": ("trace", {"pid": victim}),
        "read memory": ("read_memory", targets.secret),
        "connect TCP": ("connect", {"family": "AF_INET", "address": ["127.0.0.1", targets.tcp]}),
        "listen": ("listen", {}),
        "connect abstract": ("connect", {"family": "AF_UNIX", "address": targets.abstract}),
        "signal": ("send_signal", {"pid": victim, "number": signal.SIGCONT}),
        "signal the supervisor": ("send_signal", {"pid": os.getpid(), "number": 0}),
    }


ATTACKS = [
    *("read a file", "read the supervisor's environment", "write a file", "write into /var/tmp"),
    *("execute", "trace", "read memory"),
    *(pytest.param(what, marks=since_4) for what in ("connect TCP", "listen")),
    *(
        pytest.param(what, marks=since_6)
        for what in ("connect abstract", "signal", "signal the supervisor")
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    """What is there to be attacked."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("targets")
        stack.callback(lambda: Path(f"/var/tmp/{folder.name}").unlink(missing_ok=True))
        yield Targets(stack, folder)


@pytest.fixture(scope="module")
def without(cache: Path, targets: Targets) -> dict[str, Any]:
    """What the attacks came to where neither wall stands."""
    return outcomes(cache, LAST, attacks_on(targets))


@pytest.fixture(scope="module")
def alone(cache: Path, targets: Targets) -> dict[str, Any]:
    """What they came to with this wall alone."""
    return outcomes(cache, ALONE, attacks_on(targets))


@pytest.mark.parametrize("what", ATTACKS)
def test_nothing_outside_can_be_reached(what: str, alone: dict[str, Any]) -> None:
    if what == "execute":  # the worker's own code does not expect it
        assert "PermissionError" in alone[what].certificate.evidence
    else:
        assert alone[what] in ("EACCES", "EPERM"), alone[what]


@pytest.mark.parametrize("what", ATTACKS)
def test_without_this_wall_it_can(what: str, without: dict[str, Any]) -> None:
    if what == "execute":
        assert without[what].certificate.exit_code == 42
    else:
        assert without[what] == (SECRET if what == "read memory" else "done")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
def test_it_stands_for_an_ordinary_user_too(cache: Path) -> None:
    readable = {"read a file": ("read_file", {"path": "/etc/passwd"})}
    assert outcomes(cache, LAST, readable, user=65534) == {"read a file": "done"}
    assert outcomes(cache, ALONE, readable, user=65534) == {"read a file": "EACCES"}


# -- grants ---------------------------------------------------------------------------------------


def confined(work: Callable[[], Any], *grants: Grant, later: tuple[str, ...] = ()) -> Any:
    """What ``work`` answers in a process that may do what the grants say, and nothing else."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            no_new_privs.apply()
            landlock.apply(grants=grants, later=later)
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said)


def _attempt(work: Callable[[], object]) -> bool:
    try:
        work()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EXDEV):
            raise
        return False
    return True


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _run(program: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.execv(program, [str(program)])
        finally:
            os._exit(9)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9:
        raise PermissionError(errno.EACCES, "not executed")


def _operations(folder: Path) -> dict[str, Callable[[], object]]:
    inside = folder / "inside"
    return {
        "read": (folder / "file").read_bytes,
        "list": lambda: os.listdir(folder),
        "write": lambda: (folder / "file").open("r+b").write(b"x"),
        "truncate": lambda: os.truncate(folder / "file", 0),
        "create": lambda: os.close(os.open(folder / "new", os.O_CREAT | os.O_RDONLY)),
        "make a directory": lambda: (folder / "made").mkdir(),
        "remove": (folder / "removed").unlink,
        "remove a directory": (folder / "empty").rmdir,
        "rename": lambda: (folder / "old").rename(folder / "renamed"),
        "move": lambda: (folder / "moving").rename(inside / "moved"),
        "execute": lambda: _run(folder / "program"),
        "make a symbolic link": lambda: (folder / "link").symlink_to("/etc/passwd"),
        "make a link from outside": lambda: os.link(folder.parent / "outside", folder / "hard"),
        "make a pipe": lambda: os.mkfifo(folder / "pipe"),
        "make a socket": lambda: _bind(folder / "socket"),
        "make a device": lambda: os.mknod(folder / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
        "read beside it": (folder.parent / "outside").read_bytes,
    }


READING = {"read", "list"}
WRITING = READING | {"write", "truncate"}
CREATING = WRITING | {"create", "make a directory"}
DELETING = WRITING | {"remove", "remove a directory"}


@pytest.mark.skipif(ABI < 3, reason="before ABI 3, Landlock knows nothing of truncation")
@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        ((False, False, False), READING),
        ((True, False, False), WRITING),
        ((True, True, False), CREATING),
        ((True, False, True), DELETING),
        ((True, True, True), CREATING | DELETING | {"rename", "move"}),
    ],
    ids=["read", "write", "create", "delete", "all"],
)
def test_a_grant_gives_exactly_its_rights(
    tmp_path: Path, rights: tuple[bool, bool, bool], allowed: set[str]
) -> None:
    folder = tmp_path / "granted"
    (folder / "inside").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("granted/file", "granted/removed", "granted/old", "granted/moving", "outside"):
        (tmp_path / name).write_text(name)
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o755)

    def work() -> dict[str, bool]:
        return {what: _attempt(operation) for what, operation in _operations(folder).items()}

    found = confined(work, Grant(str(folder), "/", *rights))
    assert {what for what, done in found.items() if done} == allowed


def test_a_grant_that_is_gone_takes_none_of_the_others_along(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    gone = Grant(str(tmp_path / "gone"), "/gone")
    here = Grant(str(tmp_path), "/here")
    assert confined(lambda: _attempt((tmp_path / "file").read_bytes), gone, here)


def test_pipes_and_memory_files_can_still_be_opened_by_their_descriptors() -> None:
    read, write = os.pipe()
    memory = os.memfd_create("artifact")

    def work() -> bool:
        paths = [f"/proc/self/fd/{descriptor}" for descriptor in (memory, write)]
        return all(_attempt(partial(os.open, path, os.O_WRONLY)) for path in paths)

    try:
        assert confined(work)
    finally:
        for descriptor in (read, write, memory):
            os.close(descriptor)


# -- older kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", range(1, ABI + 1))
def test_it_stands_with_every_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abi: int
) -> None:
    """And says of what the version lacks which kernel has it."""
    monkeypatch.setattr(landlock, "_abi", lambda: abi)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def work() -> list[bool]:
            with socket.socket() as client:
                return [
                    _attempt(lambda: Path("/etc/passwd").read_bytes()),
                    _attempt(lambda: client.connect(server.getsockname())),
                ]

        assert confined(work, later=tuple(landlock.LATER)) == [False, abi < 4]
    for wall, (needed, linux) in landlock.LATER.items():
        if abi >= needed:
            landlock.require(wall, abi)
        else:
            with pytest.raises(OSError, match=rf"Linux {linux}\b.*ABI {abi}\b"):
                landlock.require(wall, abi)


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.ENOSYS, "this kernel has no Landlock"), (errno.EOPNOTSUPP, "is switched off")],
)
def test_a_kernel_without_it_is_reported(
    monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(landlock, "system_call", refuse)
    built = jail.Walls()
    jail._fence(built, ())
    assert "landlock" not in built.walls
    reasons = dict(built.missing)
    assert why in reasons["landlock"]
    for wall in landlock.LATER:
        assert "Landlock" in reasons[wall]


# -- what the engine cannot see any more ----------------------------------------------------------


def test_a_worker_has_few_threads_whatever_the_processors(
    cache: Path,
) -> None:
    """Its runtime would start one for each, now that it cannot see its share of them."""
    processors = len(os.sched_getaffinity(0))
    if processors < 2:
        pytest.skip("this machine has one processor")

    async def main() -> int:
        async with serving(cache, workers=1) as driver:
            module = await driver.load(guest_commands.hello())
            assert (await driver.call(module, "_start")).error is None
            worker = await driver.wait_for_worker("idle")
            return len(os.listdir(f"/proc/{worker.pid}/task"))

    assert run(main) == 3  # the guest's, the control thread, one of the engine's runtime
