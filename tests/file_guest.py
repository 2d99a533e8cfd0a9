"""A guest that does with files what a test tells it, one operation of WASI after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine_support import LIMITS, Bench, number, slots

from wasm_sandbox.protocol.capabilities import Grant
from wasm_sandbox.worker.engines.interface import FileLimits, LoadedModule, Measured, Wasi
from wasm_sandbox.worker.engines.module import FreshInstance, Module
from wasm_sandbox.worker.engines.preview1 import FUNCTIONS
from wasm_sandbox.worker.engines.views import view_memory

CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8
APPEND = 1
READING, WRITING = (1 << 1) | (1 << 14), (1 << 1) | (1 << 6)
ALL = (1 << 30) - 1
ROOT = 3
"""The descriptor of the first directory that is granted."""
OK, EBADF, EEXIST, EFBIG, EINVAL, EMFILE = 0, 8, 20, 22, 28, 33
ENAMETOOLONG, ENOENT, ENOSPC, ENOTSUP, EPERM, EXDEV = 37, 44, 51, 58, 63, 75
_RESULT, _BUFFER, _PATHS, _DATA = 128, 136, 1024, 8192
PAGES = 64


def source(memory: str = f'(memory (export "memory") {PAGES})') -> str:
    """Exports every function of WASI under its name, called from inside."""
    imports = [
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {_type(name)}))'
        for name in FUNCTIONS
    ]
    exports = [
        f'(func (export "{name}") {_type(name)} (call ${name} '
        + " ".join(f"(local.get {at})" for at in range(len(kind.params)))
        + "))"
        for name, kind in FUNCTIONS.items()
    ]
    return "\n".join(("(module", *imports, memory, *exports, ")"))


def _type(name: str) -> str:
    kind = FUNCTIONS[name]
    parts = (("param", kind.params), ("result", kind.results))
    return " ".join(f"({what} {' '.join(types)})" for what, types in parts if types)


def writable(path: object, at: str = "/", **restricted: object) -> Grant:
    """A grant of everything, but for what is restricted."""
    rights = {"writable": True, "create": True, "delete": True, **restricted}
    return Grant(str(path), at, **rights)  # type: ignore[arg-type]


@dataclass
class FileGuest:
    """Close it in the end. Operations return the error number; those with an answer, both."""

    instance: FreshInstance

    @classmethod
    def open_in(
        cls,
        stage: Bench,
        *grants: Grant,
        scratch: Sequence[tuple[Grant, int]] = (),
        limits: FileLimits | None = None,
        module: LoadedModule | None = None,
    ) -> FileGuest:
        """A fresh instance with these directories."""
        module = module or stage.load(source())
        assert isinstance(module, Module)
        wasi = Wasi(directories=grants, scratch=scratch, files=limits or FileLimits())
        return cls(module.open(LIMITS, module.caps(LIMITS), wasi))

    def close(self) -> None:
        self.instance.close()

    def __enter__(self) -> FileGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def measured(self) -> Measured:
        """What was counted so far."""
        return self.instance.measured()

    @property
    def memory(self) -> memoryview:
        """The guest's memory."""
        return view_memory(*self.instance.memory())

    def call(self, name: str, *arguments: int) -> int:
        """Call a function of WASI; its error number."""
        return number(self.instance.invoke(name, slots(*arguments)))

    def answer(self, size: int = 4) -> int:
        """What the last function wrote where its results go."""
        return int.from_bytes(self.memory[_RESULT : _RESULT + size], "little")

    def text(self, path: str | bytes, place: int = 0) -> tuple[int, int]:
        """Address and size of a path, put into the guest's memory."""
        data = path.encode() if isinstance(path, str) else path
        at = _PATHS + place * 3000
        self.memory[at : at + len(data)] = data
        return at, len(data)

    def open(
        self, path: str | bytes, flags: int = 0, *, at: int = ROOT, fdflags: int = 0,
        rights: int | None = None, follow: int = 1,
    ) -> tuple[int, int]:  # fmt: skip
        """Open below the directory ``at``: the error number, the descriptor."""
        if rights is None:
            rights = READING if flags & DIRECTORY else ALL
        error = self.call(
            "path_open", at, follow, *self.text(path), flags, rights, ALL, fdflags, _RESULT
        )
        return error, self.answer()

    def opened(self, path: str | bytes, flags: int = 0, **options: int) -> int:
        """The same, which must succeed."""
        error, descriptor = self.open(path, flags, **options)
        assert error == OK, error
        return descriptor

    def write(self, fd: int, data: bytes | int, offset: int | None = None) -> tuple[int, int]:
        """Write bytes, or so many of them: the error number, how many were written."""
        size = data if isinstance(data, int) else len(data)
        if isinstance(data, bytes):
            self.memory[_DATA : _DATA + size] = data
        return self._move("write", fd, size, offset)

    def read(self, fd: int, size: int, offset: int | None = None) -> tuple[int, bytes]:
        """Read up to ``size`` bytes."""
        error, moved = self._move("read", fd, size, offset)
        return error, bytes(self.memory[_DATA : _DATA + moved]) if not error else b""

    def _move(self, what: str, fd: int, size: int, offset: int | None) -> tuple[int, int]:
        self.memory[_BUFFER : _BUFFER + 8] = _DATA.to_bytes(4, "little") + size.to_bytes(
            4, "little"
        )
        if offset is None:
            error = self.call(f"fd_{what}", fd, _BUFFER, 1, _RESULT)
        else:
            error = self.call(f"fd_p{what}", fd, _BUFFER, 1, offset, _RESULT)
        assert int.from_bytes(self.memory[_BUFFER + 4 : _BUFFER + 8], "little") == size
        return error, self.answer()

    def mkdir(self, path: str, at: int = ROOT) -> int:
        return self.call("path_create_directory", at, *self.text(path))

    def unlink(self, path: str, at: int = ROOT) -> int:
        return self.call("path_unlink_file", at, *self.text(path))

    def rmdir(self, path: str, at: int = ROOT) -> int:
        return self.call("path_remove_directory", at, *self.text(path))

    def rename(self, old: str, new: str, at: int = ROOT, to: int = ROOT) -> int:
        return self.call("path_rename", at, *self.text(old), to, *self.text(new, 1))

    def link(self, old: str, new: str, at: int = ROOT, to: int = ROOT) -> int:
        return self.call("path_link", at, 0, *self.text(old), to, *self.text(new, 1))

    def symlink(self, target: str, path: str, at: int = ROOT) -> int:
        return self.call("path_symlink", *self.text(target), at, *self.text(path, 1))

    def resize(self, fd: int, size: int) -> int:
        return self.call("fd_filestat_set_size", fd, size)
