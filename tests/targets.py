"""What native code in a worker aims at: all of it made for that, by the test."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SECRET = "what the supervisor alone knows"
_secret = ctypes.create_string_buffer(SECRET.encode(), len(SECRET))


class Targets:
    """What is there to be attacked: sockets, a process, a file."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        tcp = self._listening(socket.AF_INET, ("127.0.0.1", 0))
        self.tcp = tcp.getsockname()[1]
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        self.udp = udp.getsockname()[1]
        self.path = str(folder / "socket")
        self._listening(socket.AF_UNIX, self.path)
        self.abstract = f"@wasm-sandbox-test-{os.getpid()}"
        self._listening(socket.AF_UNIX, self.abstract.replace("@", "\0"))
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        self.folder = folder
        self.secret = {
            "pid": os.getpid(),
            "start": ctypes.addressof(_secret),
            "size": len(SECRET),
        }
        """Where ``SECRET`` lies in this process."""

    def _listening(self, family: int, address: Any) -> socket.socket:
        server = self.stack.enter_context(socket.socket(family))
        server.bind(address)
        server.listen()
        return server
