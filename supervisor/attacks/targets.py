"""What is attacked: files, sockets, memory and a process, made for it and gone with it."""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from ...protocol.attacks import Targets, Victim
from .. import temporary
from ..cache import ArtifactCache, ArtifactKey

_ENVIRONMENT = "WASM_SANDBOX_ATTACK_SECRET"
_OTHER_USER = 65533
"""An unprivileged user whom the set-uid program belongs to."""
_IPC_CREAT, _IPC_RMID = 0o1000, 0
_VICTIM = f"""
import ctypes, os
secret = ctypes.create_string_buffer(os.environ["{_ENVIRONMENT}"].encode())
print(ctypes.addressof(secret), flush=True)
input()
"""
_MEMORY, _TASKS = 112 << 20, 40
"""Bytes that an attack on memory touches, and processes that a fork bomb makes: more than any wall
around it allows, and not many more, because emulated machines are slow at it."""


_LEFT = ("open/written", "open/device", "granted/large", "granted/device", "granted/device-moved")
"""What attacks leave in the folder."""


class Scenery:
    """All targets. Leaving the block removes them, and nothing of them survives this process but
    the folder.

    Raises:
        OSError: the folder, a socket or the victim could not be made.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.secret = secrets.token_hex(16)
        self.environment = {_ENVIRONMENT: self.secret}
        """What the program that makes the pool has in its environment."""
        self.key = ArtifactKey(module_sha256=bytes(32), engine="none", settings="", cpu="")

    def __enter__(self) -> Scenery:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _make(self) -> None:
        self.folder = Path(temporary.make("wasm-sandbox-attack"))
        self._stack.callback(temporary.remove, str(self.folder))
        self._make_files()
        self.tcp = self._listen(socket.AF_INET, ("127.0.0.1", 0))
        place = os.open(self.folder, os.O_PATH | os.O_CLOEXEC)
        try:  # by a way that is never too long for the address of a socket
            self.path = self._listen(socket.AF_UNIX, f"/proc/self/fd/{place}/unix")
        finally:
            os.close(place)
        os.chmod(self.folder / "unix", 0o777)
        abstract = f"wasm-sandbox-attack-{self.secret[:8]}"
        self.abstract = self._listen(socket.AF_UNIX, f"\0{abstract}")
        self.udp = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.targets = Targets(
            secret=self.secret,
            folder=str(self.folder),
            supervisor=self._start_victim(),
            tcp_port=self.tcp.getsockname()[1],
            udp_port=self.udp.getsockname()[1],
            abstract=abstract,
            shared_memory=self._share_memory(),
            artifact=self.key.digest(),
            processes=_TASKS,
            threads=96,
            memory=min(_MEMORY, _free_memory() // 2),
            file_size=4 << 20,
            descriptors=min(100_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 9 // 10),
            seconds=0.4,
            share=0.15,
        )

    def _make_files(self) -> None:
        """A private file among public directories, a cache, a program of another user."""
        self.folder.chmod(0o711)
        for name in ("open", "granted"):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o777)
        private = self.folder / "private"
        private.touch(0o600)
        private.write_text(self.secret)
        self.cache = ArtifactCache(self.folder / "cache")
        program = shutil.which("head")
        if os.geteuid() == 0 and program is not None:
            shutil.copy(program, self.folder / "other")
            (self.folder / "locked").write_text(self.secret)
            for name, mode in (("other", 0o4755), ("locked", 0o400)):
                os.chown(self.folder / name, _OTHER_USER, _OTHER_USER)
                (self.folder / name).chmod(mode)

    def _listen(self, family: int, address: str | tuple[str, int]) -> socket.socket:
        server = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        server.bind(address)
        server.listen()
        server.setblocking(False)
        return server

    def _start_victim(self) -> Victim:
        victim = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _VICTIM],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(_end, victim)
        assert victim.stdout is not None
        line = victim.stdout.readline()
        if not line:
            raise OSError("the process that is to be attacked did not start")
        return Victim(victim.pid, int(line))

    def _share_memory(self) -> int:
        """A System V segment, which is gone with us: it is marked for removal while we hold it."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        identifier = libc.shmget(0, ctypes.c_size_t(4096), _IPC_CREAT | 0o600)
        address = libc.shmat(identifier, None, 0) if identifier >= 0 else None
        if address in (None, ctypes.c_void_p(-1).value):
            return -1  # a kernel without it: the attack comes to nothing
        libc.shmctl(identifier, _IPC_RMID, None)
        self._stack.callback(libc.shmdt, ctypes.c_void_p(address))
        ctypes.memmove(address, self.secret.encode(), len(self.secret))
        return int(identifier)

    def tidy(self) -> None:
        """Remove what the last attack left in the folder, and forget who knocked."""
        for name in _LEFT:
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "cache" / f"{self.key.digest()}.artifact").unlink(missing_ok=True)
        for server in (self.tcp, self.path, self.abstract):
            heard(server)
        with suppress(BlockingIOError):
            while True:
                self.udp.recv(64)


def heard(server: socket.socket) -> bool:
    """Whether somebody had connected; all who did are let go."""
    found = False
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            found = True
    return found


def _end(victim: subprocess.Popen[bytes]) -> None:
    victim.kill()
    victim.communicate()


def _free_memory() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable"))
