"""What a guest does in the directories that it is granted is checked and counted, in every way
that WASI has; see ``worker/engines/warden.py`` for the rules."""

from __future__ import annotations

import os
import resource
import stat
import threading
from pathlib import Path

import pytest
from engine_support import LIMITS, Bench, bench, number, slots
from engine_support import close_after_module as close_after_module
from engine_support import close_after_test as close_after_test
from file_guest import (
    APPEND,
    CREATE,
    DIRECTORY,
    EBADF,
    EFBIG,
    EINVAL,
    EMFILE,
    ENAMETOOLONG,
    ENOENT,
    ENOSPC,
    ENOTSUP,
    EPERM,
    EXCLUSIVE,
    EXDEV,
    OK,
    READING,
    ROOT,
    TRUNCATE,
    FileGuest,
    source,
    writable,
)

from wasm_sandbox.protocol.capabilities import MAX_DIRECTORIES, Grant
from wasm_sandbox.protocol.description import FunctionType
from wasm_sandbox.worker.engines import gate
from wasm_sandbox.worker.engines.accounts import AT_ONCE, BURST, Bucket, FileAccount
from wasm_sandbox.worker.engines.interface import (
    EngineRefusal,
    FileLimits,
    GuestMemory,
    GuestTrap,
    HostFunction,
    RunSettings,
    Session,
    SessionLimits,
    Wasi,
)
from wasm_sandbox.worker.engines.warden import ENTRY, PATH_LIMIT
from wasm_sandbox.worker.engines.wasmtime.engine import RawEngine
from wasm_sandbox.worker.engines.wasmtime.public import PublicEngine

FORCED = "forced by a test"
NEW = ROOT + 1
"""The descriptor that is opened first where one directory is granted."""


@pytest.fixture(scope="module", params=["raw", "public"])
def fault(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "raw" else FORCED


@pytest.fixture(scope="module")
def stage(fault: str) -> Bench:
    return bench(fault=fault, guarded=True)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A directory with a file and a directory in it."""
    path = tmp_path / "box"
    (path / "old").mkdir(parents=True)
    (path / "file").write_bytes(b"0123456789")
    return path


def guest(stage: Bench, *grants: Grant, **limits: int) -> FileGuest:
    return FileGuest.open_in(stage, *grants, limits=FileLimits(**limits))


def account_of(stage: Bench) -> FileAccount:
    engine = stage.engine
    assert isinstance(engine, RawEngine | PublicEngine)
    return engine.account


# --- rights --------------------------------------------------------------------------------------


def test_creating_and_deleting_are_granted_apart(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box, create=False)) as it:
        assert it.open("new", CREATE)[0] == EPERM
        assert it.open("new", CREATE | EXCLUSIVE)[0] == EPERM
        assert it.open("file", CREATE | EXCLUSIVE)[0] == EPERM
        assert it.mkdir("new") == EPERM
        assert it.rename("file", "new") == EPERM
        assert it.unlink("file") == OK
        assert it.rmdir("old") == OK
    assert os.listdir(box) == []
    with guest(stage, writable(box, delete=False)) as it:
        assert it.open("file", CREATE)[0] == OK
        assert it.mkdir("old") == OK
        assert it.unlink("file") == EPERM
        assert it.rmdir("old") == EPERM
        assert it.rename("file", "new") == EPERM
    assert sorted(os.listdir(box)) == ["file", "old"]


def test_what_is_there_can_be_written_without_the_right_to_create(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box, create=False, delete=False)) as it:
        fd = it.opened("file", CREATE)
        assert it.write(fd, b"abc") == (OK, 3)
        assert (box / "file").read_bytes() == b"abc3456789"
        it.opened("file", CREATE | TRUNCATE)
    assert (box / "file").read_bytes() == b""


def test_a_read_only_directory_stays_as_it_is(stage: Bench, box: Path) -> None:
    with guest(stage, Grant(str(box), "/")) as it:
        fd = it.opened("file", rights=READING)
        assert it.read(fd, 100) == (OK, b"0123456789")
        assert it.write(fd, b"x")[0] != OK
        assert it.resize(fd, 0) != OK
        assert it.open("file", TRUNCATE)[0] == EPERM
        for refused in (
            it.open("new", CREATE)[0],
            it.mkdir("new"),
            it.unlink("file"),
            it.rmdir("old"),
            it.rename("file", "new"),
            it.link("file", "new"),
            it.symlink("file", "new"),
        ):
            assert refused == EPERM
    assert sorted(os.listdir(box)) == ["file", "old"]
    assert (box / "file").read_bytes() == b"0123456789"


def test_rights_stay_with_the_directory_under_whatever_number(stage: Bench, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with guest(stage, writable(tmp_path / "a", "/a"), writable(tmp_path / "b", "/b", create=False)
    ) as it:  # fmt: skip
        assert it.call("fd_renumber", ROOT + 1, ROOT) == OK
        assert it.mkdir("new") == EPERM
        assert it.mkdir("new", at=ROOT + 1) == EBADF
        directory = it.opened(".", DIRECTORY)
        assert it.mkdir("new", at=directory) == EPERM


def test_rights_hold_below_what_was_opened(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box, create=False)) as it:
        inner = it.opened("old", DIRECTORY)
        assert it.mkdir("x", at=inner) == EPERM
        assert it.open("x", CREATE, at=inner)[0] == EPERM


def test_standard_streams_are_no_directories(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        for fd in (0, 1, 2, 1000, 70_000, 0x7FFFFFFF):
            assert it.open("file", at=fd)[0] == EBADF
            assert it.mkdir("x", at=fd) == EBADF
            assert it.rename("file", "x", to=fd) == EBADF
        assert it.write(1, b"hello") == (OK, 5)
        assert it.measured.bytes_written == 0


# --- traps for whoever reads the directory -------------------------------------------------------


def test_no_links_are_left_behind(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        assert it.symlink("file", "soft") == EPERM
        assert it.symlink("../outside", "soft") == EPERM
        assert it.link("file", "hard") == EPERM
        assert it.link("file", "hard", to=1) == it.link("file", "hard", at=1) == EBADF
        assert it.symlink("file", "soft", at=1) == EBADF
    assert sorted(os.listdir(box)) == ["file", "old"]
    assert (box / "file").stat().st_nlink == 1


def test_a_link_of_the_host_is_not_moved(stage: Bench, box: Path) -> None:
    """It would point elsewhere."""
    (box / "soft").symlink_to("file")
    with guest(stage, writable(box)) as it:
        assert it.rename("soft", "old/soft") == EPERM
        assert it.unlink("soft") == OK


def test_nothing_is_moved_from_grant_to_grant(stage: Bench, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "large").write_bytes(bytes(100))
    grants = writable(tmp_path / "a", "/a"), writable(tmp_path / "b", "/b", max_file_size=10)
    with guest(stage, *grants) as it:
        assert it.rename("large", "large", to=ROOT + 1) == EXDEV
    assert os.listdir(tmp_path / "b") == []


def longest(root: Path) -> int:
    """Bytes of the longest path below ``root``."""
    return max((len(os.fsencode(p.relative_to(root))) for p in root.rglob("*")), default=0)


def test_no_path_grows_beyond_what_can_be_removed(stage: Bench, box: Path) -> None:
    name = "d" * 200
    with guest(stage, writable(box)) as it:
        at, depth = ROOT, 0
        while (error := it.mkdir(name, at)) == OK:
            at, depth = it.opened(name, DIRECTORY, at=at), depth + 1
        assert (error, depth) == (ENAMETOOLONG, PATH_LIMIT // 201)
        assert it.open("f" * 100, CREATE, at=at)[0] == ENAMETOOLONG
        assert it.open("f", CREATE, at=at)[0] == OK
        assert it.rename("file", "g" * 100, to=at) == ENAMETOOLONG
    assert longest(box) <= PATH_LIMIT


def test_a_directory_is_renamed_only_where_it_is(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        for name in ("a", "deep", "deep/er", "long name"):
            assert it.mkdir(name) == OK
        assert it.rename("long name", "deep/x") == EXDEV
        for new in ("deep/er/a", "deep/a", "aa", "a/", "./a"):
            assert it.rename("a", new) in (EXDEV, EINVAL)
        assert it.rename("deep/er", "er") == EXDEV
        assert it.rename("a", "b", to=it.opened("deep", DIRECTORY)) == EXDEV
        assert it.rename("deep/er", "deeper/er") == EXDEV
        assert it.rename("deep/er", "dEep/er") == EXDEV
        assert it.rename("a/", "b") == EXDEV
        assert it.rename("a", "b") == OK
        assert it.rename("deep/er", "deep/in") == OK
        assert it.rename("file", "deep/longer name of a file") == OK
    assert sorted(os.listdir(box)) == ["b", "deep", "long name", "old"]
    assert sorted(os.listdir(box / "deep")) == ["in", "longer name of a file"]


def test_a_tree_is_not_made_deeper_by_renaming_from_afar(stage: Bench, box: Path) -> None:
    """A descriptor's path is counted long where it was opened by a long way."""
    with guest(stage, writable(box)) as it:
        far = it.opened("/".join(["."] * 400), DIRECTORY)
        assert it.mkdir("top") == it.mkdir("other") == OK
        assert it.rename("top", "other/top", at=far) == EXDEV
        assert it.rename("top", "longer") == EXDEV
        assert it.rename("top", "longer", at=far, to=far) == EXDEV
        assert it.mkdir("x" * 250, at=far) == ENAMETOOLONG


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["grant", "limit"])
def test_a_file_grows_to_its_limit_and_no_further(stage: Bench, box: Path, where: str) -> None:
    grant = writable(box, max_file_size=1000) if where == "grant" else writable(box)
    with guest(stage, grant, file_size=1000 if where == "limit" else 2000) as it:
        fd = it.opened("new", CREATE)
        assert it.write(fd, 700) == (OK, 700)
        assert it.write(fd, 700) == (OK, 300)
        assert it.write(fd, 1)[0] == EFBIG
        assert it.write(fd, 100, 950) == (OK, 50)
        for offset in (1000, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            assert it.write(fd, 1, offset)[0] == EFBIG
            assert it.resize(fd, offset + (offset == 1000)) == EFBIG
        assert it.resize(fd, 1000) == OK
        appending = it.opened("new", fdflags=APPEND)
        assert it.write(appending, 1)[0] == EFBIG
        assert it.resize(fd, 990) == OK
        assert it.write(appending, 100) == (OK, 10)
    assert (box / "new").stat().st_size == 1000


def test_several_appending_descriptors_do_not_add_up(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box, max_file_size=100)) as it:
        first, second = (it.opened("new", CREATE, fdflags=APPEND) for _ in range(2))
        assert it.write(first, 60) == (OK, 60)
        assert it.write(second, 60) == (OK, 40)
        assert it.write(first, 60)[0] == EFBIG
        plain = it.opened("new")
        assert it.call("fd_fdstat_set_flags", plain, APPEND) == OK
        assert it.write(plain, 60)[0] == EFBIG
        assert it.call("fd_fdstat_set_flags", plain, 0) == OK
        assert it.write(plain, 60) == (OK, 60)
    assert (box / "new").stat().st_size == 100


def test_space_cannot_be_reserved(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        fd = it.opened("file")
        assert it.call("fd_allocate", fd, 0, 1 << 30) == ENOTSUP
        assert it.call("fd_allocate", 1000, 0, 1) == EBADF
    assert (box / "file").stat().st_size == 10


# --- what is added -------------------------------------------------------------------------------


def ends_at_the_limit(it: FileGuest, operation: str, *arguments: int | str | bytes) -> None:
    with pytest.raises(GuestTrap) as caught:
        getattr(it, operation)(*arguments)
    assert caught.value.code == "disk_limit"
    assert caught.value.measured.disk > 0


def test_growth_is_counted_and_overwriting_is_not(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        fd = it.opened("file")
        assert it.write(fd, 4) == (OK, 4)
        assert it.measured.disk == 0
        assert it.write(fd, 10) == (OK, 10)
        assert it.measured.disk == 4
        assert it.write(fd, 5, 100) == (OK, 5)
        assert it.measured.disk == 95
        assert it.write(fd, 5, 50) == (OK, 5)
        assert it.measured.disk == 95
        assert it.resize(fd, 1000) == OK
        assert it.measured.disk == 990
        new = it.opened("new", CREATE)
        assert it.measured.disk == 990 + ENTRY
        assert it.mkdir("directory") == OK
        assert it.measured.disk == 990 + 2 * ENTRY
        assert it.write(new, 7) == (OK, 7)
        assert (it.measured.disk, it.measured.bytes_written) == (997 + 2 * ENTRY, 31)
        it.opened("new", CREATE)
        assert it.mkdir("directory") != OK
        assert it.unlink("missing") == ENOENT
        assert it.measured.disk == 997 + 2 * ENTRY


def test_what_is_deleted_counts_all_the_same(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box), disk=3 * ENTRY + 100) as it:
        for _ in range(2):
            it.opened("new", CREATE)
            assert it.unlink("new") == OK
        fd = it.opened("new", CREATE)
        assert it.unlink("new") == OK
        assert it.write(fd, 100) == (OK, 100)
        ends_at_the_limit(it, "write", fd, 1)


def test_every_way_to_add_ends_at_the_limit(stage: Bench, box: Path) -> None:
    ways: tuple[tuple[str, tuple[int | str, ...]], ...] = (
        ("write", (NEW, 1011)),
        ("write", (NEW, 1, 10_000_000)),
        ("resize", (NEW, 1011)),
        ("mkdir", ("x",)),
        ("open", ("x", CREATE)),
        ("open", ("x", CREATE | EXCLUSIVE)),
    )
    for operation, arguments in ways:
        with guest(stage, writable(box), disk=1000) as it:
            assert it.opened("file") == NEW
            ends_at_the_limit(it, operation, *arguments)
    assert sorted(os.listdir(box)) == ["file", "old"]
    assert (box / "file").stat().st_size == 10


def test_several_descriptors_of_a_file_never_count_too_little(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        first, second = (it.opened("new", CREATE) for _ in range(2))
        assert it.write(first, 100) == (OK, 100)
        assert it.write(second, 300) == (OK, 300)
        assert it.resize(first, 0) == OK
        assert it.write(second, 50, 0) == (OK, 50)
        third = it.opened("new", TRUNCATE)
        assert it.write(third, 500) == (OK, 500)
        assert it.measured.disk >= ENTRY + 500
        assert it.measured.disk - ENTRY <= 100 + 300 + 50 + 500


def test_a_scratch_directory_is_full_at_its_size(stage: Bench, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    small, large = ((writable(tmp_path / "a", "/a"), size) for size in (2 * ENTRY, 1 << 30))
    with FileGuest.open_in(stage, writable(tmp_path / "b", "/b"), scratch=[small]) as it:
        scratch = ROOT + 1
        fd = it.opened("new", CREATE, at=scratch)
        assert it.write(fd, ENTRY + 1) == (ENOSPC, it.answer())
        assert it.write(fd, ENTRY) == (OK, ENTRY)
        assert it.write(fd, 1)[0] == ENOSPC
        assert it.mkdir("x", scratch) == ENOSPC
        assert it.mkdir("x") == OK
    with FileGuest.open_in(stage, scratch=[large], limits=FileLimits(disk=100)) as it:
        ends_at_the_limit(it, "mkdir", "y")


# --- descriptors ---------------------------------------------------------------------------------


def test_open_descriptors_are_counted_exactly(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box), open_files=3) as it:
        held = [it.opened("file") for _ in range(3)]
        assert it.open("file")[0] == EMFILE
        assert it.open("new", CREATE)[0] == EMFILE
        assert it.open("missing")[0] == EMFILE
        assert it.call("fd_close", held[0]) == OK
        assert it.call("fd_close", held[0]) == EBADF
        assert it.open("missing")[0] == ENOENT
        held[0] = it.opened("file")
        assert it.call("fd_renumber", held[1], held[0]) == OK
        assert it.opened("file") == held[1]
        assert it.open("file")[0] == EMFILE
        assert it.call("fd_renumber", held[0], held[0]) == OK
        assert it.open("file")[0] == EMFILE
    assert not (box / "new").exists()


def test_there_is_a_record_for_every_descriptor(stage: Bench, box: Path) -> None:
    """More than the state begins with room for."""
    count = (gate.PAGE - gate.RECORDS) // gate.RECORD_SIZE + 10
    if count + 100 > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        pytest.skip("this program itself may not have so many (`ulimit -n`)")
    with guest(stage, writable(box, create=False), open_files=4 * count) as it:
        held = [it.opened("old", DIRECTORY) for _ in range(NEW, count + 1)]
        assert held[-1] == count
        for fd in held[-2:]:
            assert it.mkdir("x", at=fd) == EPERM


def test_as_many_directories_can_be_granted_as_the_policy_allows(
    stage: Bench, tmp_path: Path
) -> None:
    assert MAX_DIRECTORIES < gate.MAX_GRANTS
    grants: list[Grant] = []
    for at in range(MAX_DIRECTORIES):
        (tmp_path / str(at)).mkdir()
        grants.append(writable(tmp_path / str(at), f"/{at}", create=at % 2 == 0))
    with guest(stage, *grants) as it:
        for at in range(MAX_DIRECTORIES):
            assert it.mkdir("x", ROOT + at) == (EPERM if at % 2 else OK)
    many = Wasi(directories=[*grants, *grants, grants[0]])
    with pytest.raises(EngineRefusal) as refusal:
        stage.load(source()).call("fd_close", slots(3), LIMITS, many)
    assert refusal.value.kind == "capability_denied"


# --- rates ---------------------------------------------------------------------------------------


def test_what_is_read_and_written_is_counted(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        fd = it.opened("file")
        assert it.read(fd, 4) == (OK, b"0123")
        assert it.read(fd, 4, 8) == (OK, b"89")
        assert it.read(fd, 100) == (OK, b"456789")
        assert it.read(fd, 100) == (OK, b"")
        assert it.read(fd, 0) == (OK, b"")
        assert it.write(fd, 0) == (OK, 0)
        assert it.write(fd, b"ab") == (OK, 2)
        used = it.measured
        assert (used.bytes_read, used.bytes_written) == (12, 2)
        assert it.call("fd_readdir", ROOT, 8192, 4096, 0, 128) == OK
        assert it.measured.bytes_read == 12 + it.answer() > 12


def test_one_reading_or_writing_moves_a_tenth_of_a_second(stage: Bench, box: Path) -> None:
    (box / "large").write_bytes(os.urandom(100_000))
    with guest(stage, writable(box), io_read=200_000, io_write=50_000) as it:
        fd = it.opened("large")
        assert it.read(fd, 100_000) == (OK, (box / "large").read_bytes()[:20_000])
        assert it.write(fd, 100_000, 0) == (OK, 5_000)
    with guest(stage, writable(box)) as it:
        assert it.read(it.opened("large"), 100_000) == (OK, (box / "large").read_bytes())
    assert AT_ONCE < 1 << 30


def test_a_guest_that_waits_for_its_rate_can_be_stopped(stage: Bench, box: Path) -> None:
    """Without a kill: it would take ten minutes."""
    waiting = threading.Event()

    class Noticed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout)

    def stop() -> None:
        waiting.wait()
        stage.engine.interrupt()

    def write_for_ever(it: FileGuest) -> None:
        fd = it.opened("file")
        while it.write(fd, 1, 0)[0] == OK:
            pass

    account_of(stage).woken = Noticed()
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with guest(stage, writable(box), io_write=1) as it, pytest.raises(GuestTrap) as caught:
            write_for_ever(it)
    finally:
        waiting.set()
        thread.join()
        stage.engine.arm()
    assert caught.value.code == "interrupt"


def test_tokens_come_at_the_rate_and_no_more_than_a_burst() -> None:
    bucket = Bucket()
    assert bucket.fill(1000, 50.0) == 1000 * BURST
    bucket.left(0)
    assert bucket.fill(1000, 50.0625) == 62
    bucket.left(-100)
    assert bucket.fill(1000, 50.0625) == -100
    assert bucket.fill(1000, 50.125) == -37
    assert bucket.fill(1000, 51.0) == 100


def test_slow_tokens_are_not_lost_to_rounding() -> None:
    bucket = Bucket()
    assert bucket.fill(1, 0.0) == 1
    bucket.left(0)
    for eighth in range(1, 8):
        assert bucket.fill(1, eighth / 8) == 0
        bucket.left(0)
    assert bucket.fill(1, 1.0) == 1


def test_a_rate_holds_from_one_call_to_the_next(stage: Bench, box: Path) -> None:
    account = account_of(stage)
    account.buckets = Bucket(), Bucket()
    for tokens in (40, -20):
        with guest(stage, writable(box), io_write=1000) as it:
            assert it.write(it.opened("file"), 60, 0) == (OK, 60)
        assert tokens <= account.buckets[1].tokens < 1000 * BURST
        account.buckets[1].tokens = tokens


# --- how it stands between -----------------------------------------------------------------------


def test_the_guests_memory_is_as_it_was(stage: Bench, box: Path) -> None:
    """The warden borrows its beginning."""
    with guest(stage, writable(box)) as it:
        mark = bytes(range(1, 65))
        it.memory[:64] = mark
        fd = it.opened("file")
        it.write(fd, b"abc")
        it.resize(fd, 100)
        it.rename("file", "other")
        assert bytes(it.memory[:64]) == mark


def test_empty_and_several_buffers_are_moved_as_the_engine_does(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        fd = it.opened("file")
        it.memory[200:224] = b"".join(
            value.to_bytes(4, "little") for value in (0, 0, 8192, 3, 9000, 5)
        )
        assert it.call("fd_read", fd, 200, 3, 128) == OK
        assert (it.answer(), bytes(it.memory[8192:8195])) == (3, b"012")
        assert it.call("fd_write", fd, 200, 1, 128) == OK
        assert it.answer() == 0
        assert it.call("fd_write", fd, 200, 0, 128) == OK
        assert it.answer() == 0


@pytest.mark.parametrize("function", ["fd_read", "fd_write"])
def test_a_buffer_outside_of_the_memory_traps(stage: Bench, box: Path, function: str) -> None:
    for buffers, count in ((0xFFFFFFF0, 1), (0x7FFFFFFF, 3), (200, 1)):
        with guest(stage, writable(box)) as it:
            fd = it.opened("file")
            it.memory[200:208] = b"\xf0\xff\xff\xff\x10\0\0\0"
            with pytest.raises((GuestTrap, EngineRefusal)):
                it.call(function, fd, buffers, count, 128)


def test_advice_is_checked(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        fd = it.opened("file")
        assert [it.call("fd_advise", fd, 0, 10, advice) for advice in range(6)] == [OK] * 6
        assert it.call("fd_advise", 1000, 0, 10, 3) == EBADF
        with pytest.raises((GuestTrap, EngineRefusal)):
            it.call("fd_advise", fd, 0, 10, 6)


def test_without_the_warden_no_directory_is_granted(fault: str, box: Path) -> None:
    module = bench(fault=fault).load(source())
    with pytest.raises(EngineRefusal) as refusal:
        module.call("fd_close", slots(3), LIMITS, Wasi(directories=[writable(box)]))
    assert refusal.value.kind == "capability_denied"
    assert number(module.call("fd_close", slots(3), LIMITS, Wasi()).slots) == EBADF


def test_a_64_bit_memory_gets_no_directory(stage: Bench, box: Path) -> None:
    module = stage.load(source('(memory (export "memory") i64 1)'))
    with pytest.raises(EngineRefusal) as refusal:
        module.call("fd_close", slots(3), LIMITS, Wasi(directories=[writable(box)]))
    assert refusal.value.kind == "unsupported_module"


def test_without_an_exported_memory_files_are_out_of_reach(stage: Bench, box: Path) -> None:
    module = stage.load(source("(memory 1)"))
    with pytest.raises(GuestTrap):
        module.call("fd_close", slots(3), LIMITS, Wasi(directories=[writable(box)]))


def test_a_start_function_cannot_use_files(stage: Bench, box: Path) -> None:
    """It runs before the warden is there."""
    body = "(drop (call $fd_close (i32.const 3)))"
    module = stage.load(
        f"""(module (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32)
          (result i32))) (memory (export "memory") 1) (func $start {body}) (start $start)
          (func (export "run")))"""
    )
    with pytest.raises(GuestTrap):
        module.call("run", b"", LIMITS, Wasi(directories=[writable(box)]))
    module.call("run", b"", LIMITS, Wasi())


def test_a_metered_guest_and_one_outside_of_the_pool_are_guarded(fault: str, box: Path) -> None:
    metered = bench(RunSettings(fuel=True), fault, guarded=True)
    with guest(metered, writable(box, create=False)) as it:
        assert it.mkdir("x") == EPERM
    stage = bench(fault=fault, guarded=True)
    large = stage.load(source('(memory (export "memory") 1) (table 1 funcref)'))
    wasi = Wasi(directories=[writable(box, create=False)])
    answer = large.call("path_create_directory", slots(3, 0, 1), LIMITS, wasi)
    assert number(answer.slots) == EPERM


def test_host_functions_are_there_beside_files(fault: str, box: Path) -> None:
    """Even one that is called as the warden's own way to the host."""

    def answer(_memory: GuestMemory, _given: bytes) -> bytes:
        return slots(42)

    kind = FunctionType(("i32",), ("i32",))
    function = HostFunction(module=gate.HOST_MODULE, name=gate.PACE, type=kind, call=answer)
    stage = bench(RunSettings(), fault, (function,), guarded=True)
    module = stage.load(
        f"""(module
          (import "{gate.HOST_MODULE}" "{gate.PACE}" (func $host (param i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_create_directory"
            (func $mkdir (param i32 i32 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 0) "x")
          (func (export "run") (result i32 i32)
            (call $host (i32.const 7)) (call $mkdir (i32.const 3) (i32.const 0) (i32.const 1))))"""
    )
    wasi = Wasi(directories=[writable(box, create=False)], files=FileLimits(io_write=1))
    answers = module.call("run", b"", LIMITS, wasi).slots
    assert (number(answers), number(answers, 1)) == (42, EPERM)


def test_nothing_is_left_of_a_call(stage: Bench, box: Path) -> None:
    module = stage.load(source())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        limits = FileLimits(disk=5000)
        with FileGuest.open_in(stage, writable(box), limits=limits, module=module) as it:
            it.opened("file")
            it.opened("new", CREATE)
            ends_at_the_limit(it, "resize", NEW, 5000)
        (box / "new").unlink()
    assert len(os.listdir("/proc/self/fd")) < before + 10


# --- sessions ------------------------------------------------------------------------------------


def session_of(box: Path, *grants: Grant) -> tuple[Bench, Session]:
    stage = bench(RunSettings(stateful=True), guarded=True)
    limits = SessionLimits(memory=1 << 26, table_elements=1000)
    wasi = Wasi(directories=grants or [writable(box, create=False)], files=FileLimits(disk=10_000))
    return stage, stage.engine.session(limits, wasi)


def test_instances_of_a_session_are_guarded_together(box: Path) -> None:
    stage, session = session_of(box, writable(box))
    module = stage.load(source(), prepare=False)
    first, second = (session.instantiate(module, None) for _ in range(2))

    def call(instance: int, name: str, *arguments: int) -> int:
        return number(session.invoke(instance, name, slots(*arguments)).slots)

    assert call(first, "path_create_directory", 3, 0, 1) != OK  # a NUL byte
    assert call(second, "fd_renumber", 3, 3) == OK
    assert call(second, "fd_close", 3) == OK
    assert call(first, "path_create_directory", 3, 0, 1) == EBADF
    session.close()


def test_a_session_keeps_to_what_is_granted(box: Path) -> None:
    stage, session = session_of(box)
    module = stage.load(
        """(module
          (import "wasi_snapshot_preview1" "path_create_directory"
            (func $f (param i32 i32 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 0) "x")
          (func (export "run") (result i32)
            (call $f (i32.const 3) (i32.const 0) (i32.const 1))))""",
        prepare=False,
    )
    instance = session.instantiate(module, None)
    assert number(session.invoke(instance, "run", b"").slots) == EPERM
    session.close()
    assert sorted(os.listdir(box)) == ["file", "old"]


def test_what_is_made_is_plain(stage: Bench, box: Path) -> None:
    with guest(stage, writable(box)) as it:
        it.opened("new", CREATE)
        it.mkdir("directory")
    for path, kind in ((box / "new", stat.S_ISREG), (box / "directory", stat.S_ISDIR)):
        mode = path.lstat().st_mode
        assert kind(mode)
        assert not mode & (stat.S_ISUID | stat.S_ISGID)
        assert mode & stat.S_IRUSR
