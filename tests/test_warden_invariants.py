"""Whatever a guest does in a directory, in whatever order, the warden's rules hold afterwards."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_support import Bench, bench
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from file_guest import CREATE, DIRECTORY, EXCLUSIVE, ROOT, TRUNCATE, FileGuest, source, writable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_sandbox.worker.engines.interface import FileLimits, GuestTrap, LoadedModule
from wasm_sandbox.worker.engines.warden import ENTRY, PATH_LIMIT

DISK, LARGEST, OPEN = 20 * ENTRY, 3 * ENTRY, 6
INITIAL = {"old": None, "old/inner": b"", "file": b"0123456789"}

LONG = "n" * 200, "a/" + "n" * 200, "/".join(["a"] * 300)
_names = st.sampled_from(
    ["a", "b", "file", "old", "old/a", "old/inner", "a/b", "a/a", ".", "..", "a/../b", "a/", *LONG]
)
_descriptors = st.integers(0, ROOT + OPEN + 1)
_directories = st.sampled_from([ROOT, ROOT, ROOT, ROOT + 1, ROOT + 2, ROOT + 3])
_sizes = st.sampled_from([0, 1, 100, ENTRY, LARGEST - 1, LARGEST, LARGEST + 1, 1 << 40, 1 << 63])
_small = st.sampled_from([0, 1, 100, ENTRY, 2 * LARGEST])
_bits = st.integers(0, CREATE | DIRECTORY | EXCLUSIVE | TRUNCATE)
_operations = st.one_of(
    st.tuples(st.just("open"), _names, _bits, _directories, st.integers(0, 1)),
    st.tuples(st.just("write"), _descriptors, _small, st.none() | _sizes),
    st.tuples(st.just("read"), _descriptors, _small, st.none() | _sizes),
    st.tuples(st.just("resize"), _descriptors, _sizes),
    st.tuples(st.just("mkdir"), _names, _directories),
    st.tuples(st.just("unlink"), _names, _directories),
    st.tuples(st.just("rmdir"), _names, _directories),
    st.tuples(st.just("rename"), _names, _names, _directories, _directories),
    st.tuples(st.just("link"), _names, _names, _directories, _directories),
    st.tuples(st.just("symlink"), _names, _names, _directories),
    st.tuples(st.just("fd_close"), _descriptors),
    st.tuples(st.just("fd_renumber"), _descriptors, _descriptors),
    st.tuples(st.just("fd_fdstat_set_flags"), _descriptors, st.integers(0, 1)),
    st.tuples(st.just("fd_seek"), _descriptors, _small, st.integers(0, 2), st.just(128)),
)


@dataclass(frozen=True)
class Tree:
    """What lies below a directory."""

    names: frozenset[str]
    size: int

    @classmethod
    def of(cls, root: Path) -> Tree:
        """Raises AssertionError for what no guest may leave."""
        names: set[str] = set()
        size = 0
        for path in root.rglob("*"):
            status, name = path.lstat(), str(path.relative_to(root))
            names.add(name)
            assert len(name.encode()) <= PATH_LIMIT
            assert stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode), name
            if stat.S_ISREG(status.st_mode):
                assert status.st_nlink == 1, name
                assert status.st_size <= LARGEST, name
                size += status.st_size
        return cls(frozenset(names), size)


@pytest.fixture(scope="module")
def stage() -> Bench:
    return bench(guarded=True)


@pytest.fixture(scope="module")
def module(stage: Bench) -> LoadedModule:
    return stage.load(source())


def carry_out(it: FileGuest, operation: tuple[object, ...]) -> bool:
    """Whether the guest goes on, for it has not reached its limit."""
    name, *arguments = operation
    try:
        if name == "open":
            path, flags, at, fdflags = arguments
            it.open(path, flags, at=at, fdflags=fdflags)  # type: ignore[arg-type]
        elif str(name).startswith("fd_"):
            it.call(str(name), *arguments)  # type: ignore[arg-type]
        else:
            getattr(it, str(name))(*arguments)
    except GuestTrap as trap:
        if trap.code != "disk_limit":
            raise
        return False
    return True


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=st.lists(_operations, max_size=40), create=st.booleans(), delete=st.booleans())
def test_the_rules_hold(
    stage: Bench,
    module: LoadedModule,
    tmp_path_factory: pytest.TempPathFactory,
    operations: list[tuple[object, ...]],
    create: bool,
    delete: bool,
) -> None:
    box = tmp_path_factory.mktemp("box")
    for name, content in INITIAL.items():
        if content is None:
            (box / name).mkdir()
        else:
            (box / name).write_bytes(content)
    before = Tree.of(box)
    grant = writable(box, create=create, delete=delete, max_file_size=LARGEST)
    limits = FileLimits(disk=DISK, open_files=OPEN)
    with FileGuest.open_in(stage, grant, limits=limits, module=module) as it:
        for operation in operations:
            if not carry_out(it, operation):
                break
            used, tree = it.measured.disk, Tree.of(box)
            assert used <= DISK
            made = tree.names - before.names
            assert tree.size - before.size + ENTRY * len(made) <= used + _freed(before, tree)
            assert create or not made
            assert delete or not before.names - tree.names
    Tree.of(box)


def _freed(before: Tree, now: Tree) -> int:
    """What was there may be renamed, which makes a name out of one that is gone."""
    return ENTRY * len(before.names - now.names)
