"""Starting the zygote through multiprocess' *spawn*, with less of the parent in it than spawn would
leave.

Three things differ from an ordinary spawned process: the parent's main module is not prepared in
the child (so no ``__main__`` guard is needed, and the user's script is not run again), no resource
tracker is started, and the environment is cut down to what the interpreter needs to find its
modules.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping


@contextlib.contextmanager
def _temporary_directory() -> Generator[None]:
    """dill asks for the directory of temporary files when it is imported. In a place where nothing
    can be written there is none, and none is needed."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.sep
        try:
            yield
        finally:
            tempfile.tempdir = None
    else:
        yield


with _temporary_directory():
    from multiprocess import context, popen_spawn_posix, process, reduction, spawn

    from .spawned import ZygoteProcess

_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")
OPTIONAL = ("dill", "typing_extensions")
"""What multiprocess and msgspec import where it is installed, and do without in a zygote, which has
no use for it: together they take as long as the engine's library."""
CHANNEL = 3
"""Descriptor number of the channel in the zygote."""


class ZygotePopen(popen_spawn_posix.Popen):
    """Launches the interpreter by ``subprocess``: own session, own environment, two descriptors."""

    child: subprocess.Popen[bytes]

    def _launch(self, process_obj: ZygoteProcess) -> None:
        preparation = {
            "name": process_obj.title,
            "sys_argv": [process_obj.title],
            "sys_path": _search_path(),
            "authkey": b"",
        }
        payload = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, payload)
            reduction.dump(process_obj, payload)
        finally:
            context.set_spawning_popen(None)
        pipe, feed = os.pipe()
        with open(feed, "wb", buffering=0) as sink:
            with open(pipe, "rb") as source, _above_standard(source.fileno()) as passed:
                self.child = subprocess.Popen(
                    _command(passed),
                    env=_environment() | process_obj.inherited,
                    pass_fds=(passed, process_obj.channel),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self.pid, self.sentinel = self.child.pid, -1
            with contextlib.suppress(BrokenPipeError):  # it is dead: its channel will tell
                sink.write(payload.getbuffer())

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Exit status of the zygote, or ``None`` while it lives."""
        return self.child.poll() if flag == os.WNOHANG else self.child.wait()


def start_zygote(
    inherited: Mapping[str, str] | None = None, chosen: tuple[str, ...] | None = None
) -> tuple[ZygotePopen, socket.socket]:
    """Start a zygote; return its process and the supervisor's end of the channel.

    Args:
        inherited: what it has in its environment beside the least that it needs.
        chosen: the walls to build around it and its workers, ``None`` for all (see
            ``protocol.attacks``).

    Raises:
        OSError: the process could not be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs, _above_standard(theirs.fileno()) as channel:
            launched = ZygotePopen(ZygoteProcess(channel, inherited or {}, chosen))
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return launched, ours


class Launch:
    """A zygote that was started before there is anybody to talk to it: it takes longer to come up
    than the program takes to import the rest of its supervisor."""

    def __init__(self) -> None:
        self._started: tuple[ZygotePopen, socket.socket] | None = None
        with contextlib.suppress(OSError):  # whoever takes it tries again, and says why
            self._started = start_zygote()

    def take(self) -> tuple[ZygotePopen, socket.socket] | None:
        """What ``start_zygote`` returned, once; it is the caller's."""
        started, self._started = self._started, None
        return started

    def discard(self) -> None:
        """End it, unless it was taken."""
        started = self.take()
        if started is not None:
            launched, channel = started
            channel.close()
            launched.child.kill()
            launched.child.wait()


@contextlib.contextmanager
def _above_standard(descriptor: int) -> Generator[int]:
    """The same file under a number above 2. In a program that has closed its standard streams it
    may have the number of one of them, which is another file in the child."""
    duplicate = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        yield duplicate
    finally:
        os.close(duplicate)


def _command(pipe: int) -> list[str]:
    """What spawn would start, but without the current directory among those of modules (``-P``);
    without ``OPTIONAL`` modules; and without looking for garbage, of which there is none while
    modules are imported (``Zygote.serve`` begins it)."""
    executable, *command = spawn.get_command_line(tracker_fd=-1, pipe_handle=pipe)
    if "-c" in command:  # all but a frozen program
        at = command.index("-c")
        without = f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))"
        program = f"import gc, sys; gc.disable(); {without}; {command[at + 1]}"
        command[at : at + 2] = "-P", "-c", program
    return [os.fsdecode(executable), *command]  # multiprocess gives it as bytes


def _search_path() -> list[str]:
    """Where modules are looked for; the current directory was that of the program's start."""
    entries: list[object] = list(sys.path)  # Python itself passes over what is no str
    paths = [path for path in entries if isinstance(path, str)]
    return [found for path in paths if (found := path or process.ORIGINAL_DIR)]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    kept["PYTHONPATH"] = os.pathsep.join(_search_path())
    kept["PYTHONDONTWRITEBYTECODE"] = "1" if sys.dont_write_bytecode else ""
    return kept
