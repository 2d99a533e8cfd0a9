"""What a component does with files passes the warden: rights, sizes and counts hold as they do for
core modules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from component_texts import ALLOCATOR

from wasm_sandbox import (
    Capabilities,
    DiskLimitExceeded,
    Filesystem,
    Limits,
    Pool,
    UnsupportedModule,
)

CODES = (
    "access, would-block, already, bad-descriptor, busy, deadlock, quota, exist, file-too-large, "
    "illegal-byte-sequence, in-progress, interrupted, invalid, io, is-directory, loop, "
    "too-many-links, message-size, name-too-long, no-device, no-entry, no-lock, "
    "insufficient-memory, insufficient-space, not-directory, not-empty, not-recoverable, "
    "unsupported, no-tty, no-such-device, overflow, not-permitted, pipe, read-only, invalid-seek, "
    "text-file-busy, cross-device"
)
PLACES = dict(enumerate(CODES.split(", "), 1000))
CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8
READ, WRITE, MUTATE = 1, 2, 32


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "text").write_text("to be or not to be")
    (tmp_path / "secret").write_text("secret")
    return inside


def component(body: str, extra: str = "") -> bytes:
    """A component whose ``f`` is ``body``, on the first granted directory, ``$d``.

    ``$open`` (directory, name, size, open-flags, descriptor-flags) -> handle, or ``$fail`` ends it
    with 1000 and the error's place; ``$read`` (handle, offset) -> the first byte and 256 times how
    many there were; ``$write`` (handle, offset, size); ``$mkdir``, ``$unlink``, ``$symlink`` (name,
    size); ``$rename`` (name, size, name, size); ``$count`` -> entries; ``$drop`` (handle). Names
    are at 64: ``text`` ``new`` ``../secret`` ``link``.
    """
    codes = " ".join(f'"{code}"' for code in PLACES.values())
    result = "(result (result {} (error $code)))"
    methods = {
        "open-at": f"""(param "path-flags" $path-flags) (param "path" string)
          (param "open-flags" $open-flags) (param "flags" $flags) {result.format("(own $d)")}""",
        "read": f"""(param "length" u64) (param "offset" u64)
          {result.format("(tuple (list u8) bool)")}""",
        "write": f"""(param "buffer" (list u8)) (param "offset" u64) {result.format("u64")}""",
        "create-directory-at": f"""(param "path" string) {result.format("")}""",
        "unlink-file-at": f"""(param "path" string) {result.format("")}""",
        "symlink-at": f"""(param "old" string) (param "new" string) {result.format("")}""",
        "rename-at": f"""(param "old" string) (param "to" (borrow $d)) (param "new" string)
          {result.format("")}""",
        "read-directory": result.format("(own $l)"),
    }
    core = {
        "open-at": "i32 i32 i32 i32 i32 i32 i32",
        "read": "i32 i64 i64 i32",
        "write": "i32 i32 i32 i64 i32",
        "create-directory-at": "i32 i32 i32 i32",
        "unlink-file-at": "i32 i32 i32 i32",
        "symlink-at": "i32 i32 i32 i32 i32 i32",
        "rename-at": "i32 i32 i32 i32 i32 i32 i32",
        "read-directory": "i32 i32",
        "next": "i32 i32",
        "directories": "i32",
        "drop": "i32",
    }
    declared = "".join(
        f'(export "[method]descriptor.{name}" (func (param "self" (borrow $d)) {kind}))'
        for name, kind in methods.items()
    )
    options = '(memory (core memory $h "memory")) (realloc (core func $h "realloc"))'
    lowered = "".join(
        f'(core func $l-{name} (canon lower (func $t "[method]descriptor.{name}") {options}))'
        for name in methods
    )
    imports = "".join(
        f'(import "" "{name}" (func $host-{name} (param {params})))'
        for name, params in core.items()
    )
    given = "".join(f'(export "{name}" (func $l-{name}))' for name in core)
    return f"""
(component
  (import "wasi:filesystem/types@0.2.6" (instance $t
    (export "descriptor" (type $d (sub resource)))
    (export "directory-entry-stream" (type $l (sub resource)))
    (type $c (enum {codes})) (export "error-code" (type $code (eq $c)))
    (type $p (flags "symlink-follow")) (export "path-flags" (type $path-flags (eq $p)))
    (type $o (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $open-flags (eq $o)))
    (type $f (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
      "requested-write-sync" "mutate-directory"))
    (export "descriptor-flags" (type $flags (eq $f)))
    (type $k (enum "unknown" "block-device" "character-device" "directory" "fifo" "symbolic-link"
      "regular-file" "socket"))
    (export "descriptor-type" (type $kind (eq $k)))
    (type $e (record (field "type" $kind) (field "name" string)))
    (export "directory-entry" (type $entry (eq $e)))
    (export "[method]directory-entry-stream.read-directory-entry"
      (func (param "self" (borrow $l)) {result.format("(option $entry)")}))
    {declared}))
  (alias export $t "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.6" (instance $pre
    (alias outer 1 $descriptor (type $q)) (export "descriptor" (type $d (eq $q)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (core module $heap {ALLOCATOR}
    (data (i32.const 64) "textnew../secretlink"))
  (core instance $h (instantiate $heap))
  {lowered}
  (core func $l-next (canon lower
    (func $t "[method]directory-entry-stream.read-directory-entry") {options}))
  (core func $l-directories (canon lower (func $pre "get-directories") {options}))
  (core func $l-drop (canon resource.drop $descriptor))
  (core module $m
    {imports}
    (import "heap" "memory" (memory 1))
    (global $d (mut i32) (i32.const 0))
    (global $failed (mut i32) (i32.const 0))
    (func $check (param $code i32)
      (if (i32.load8_u (i32.const 128))
        (then (global.set $failed
          (i32.add (i32.const 1000) (i32.load8_u (i32.add (i32.const 128) (local.get $code))))))))
    (func $open
      (param $in i32) (param $at i32) (param $size i32) (param $how i32) (param $flags i32)
      (result i32)
      (call $host-open-at (local.get $in) (i32.const 0) (local.get $at) (local.get $size)
        (local.get $how) (local.get $flags) (i32.const 128))
      (call $check (i32.const 4))
      (i32.load (i32.const 132)))
    (func $read (param $file i32) (param $offset i64) (result i32)
      (call $host-read (local.get $file) (i64.const 100) (local.get $offset) (i32.const 128))
      (call $check (i32.const 4))
      (i32.add
        (i32.load8_u (i32.load (i32.const 132)))
        (i32.mul (i32.const 256) (i32.load (i32.const 136)))))
    (func $write (param $file i32) (param $offset i64) (param $size i32)
      (call $host-write (local.get $file) (i32.const 0) (local.get $size) (local.get $offset)
        (i32.const 128))
      (call $check (i32.const 8)))
    (func $mkdir (param $at i32) (param $size i32)
      (call $host-create-directory-at (global.get $d) (local.get $at) (local.get $size)
        (i32.const 128))
      (call $check (i32.const 1)))
    (func $unlink (param $at i32) (param $size i32)
      (call $host-unlink-file-at (global.get $d) (local.get $at) (local.get $size) (i32.const 128))
      (call $check (i32.const 1)))
    (func $symlink (param $at i32) (param $size i32)
      (call $host-symlink-at (global.get $d) (i32.const 64) (i32.const 4) (local.get $at)
        (local.get $size) (i32.const 128))
      (call $check (i32.const 1)))
    (func $rename (param $at i32) (param $size i32) (param $to i32) (param $more i32)
      (call $host-rename-at (global.get $d) (local.get $at) (local.get $size) (global.get $d)
        (local.get $to) (local.get $more) (i32.const 128))
      (call $check (i32.const 1)))
    (func $count (result i32) (local $n i32) (local $list i32)
      (call $host-read-directory (global.get $d) (i32.const 128))
      (call $check (i32.const 4))
      (local.set $list (i32.load (i32.const 132)))
      (loop $more
        (call $host-next (local.get $list) (i32.const 128))
        (call $check (i32.const 4))
        (if (i32.load8_u (i32.const 132))
          (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $more))))
      (local.get $n))
    {extra}
    (func $body (result i32) (local $x i32) {body})
    (func (export "f") (result i32) (local $found i32)
      (call $host-directories (i32.const 128))
      (if (i32.eqz (i32.load (i32.const 132))) (then (return (i32.const 999))))
      (global.set $d (i32.load (i32.load (i32.const 128))))
      (local.set $found (call $body))
      (if (global.get $failed) (then (return (global.get $failed))))
      (local.get $found)))
  (core instance $i (instantiate $m (with "heap" (instance $h)) (with "" (instance {given}))))
  (func (export "f") (result u32) (canon lift (core func $i "f"))))
""".encode()


OPEN = """(local.set $x (call $open (global.get $d)
  (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {})))"""
OPEN_TEXT = OPEN.format(64, 4, 0, READ)
NEW = OPEN.format(68, 3, CREATE, READ | WRITE)
UNLINK = "(call $unlink (i32.const 64) (i32.const 4))"
RENAME = "(call $rename (i32.const 64) (i32.const 4) (i32.const 68) (i32.const 3))"
SIZE = 60_000


def call(pool: Pool, body: str, files: Filesystem | None, **limits: int) -> int | str:
    """What ``f`` gives, or the name of the error."""
    capabilities = Capabilities() if files is None else Capabilities(filesystem=files)
    function = pool.load(component(body))["f"]
    found: int = function.options(capabilities=capabilities, limits=Limits(**limits))()
    return PLACES.get(found, found)


def test_nothing_is_granted_unasked(pool: Pool) -> None:
    assert call(pool, "(i32.const 0)", None) == 999


def test_files_are_read_and_listed(pool: Pool, folder: Path) -> None:
    files = Filesystem.read_only(folder, at="/data")
    assert call(pool, f"{OPEN_TEXT} (call $read (local.get $x) (i64.const 3))", files) == (
        15 * 256 + ord("b")
    )
    assert call(pool, "(call $count)", files) == 1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (OPEN.format(71, 9, 0, READ), "not-permitted"),
        (OPEN.format(68, 3, 0, READ), "no-entry"),
        (OPEN.format(64, 4, DIRECTORY, READ), "not-directory"),
        (NEW, "not-permitted"),
        (OPEN.format(64, 4, 0, WRITE), "not-permitted"),
        (OPEN.format(64, 4, TRUNCATE, READ), "not-permitted"),
        ("(call $mkdir (i32.const 68) (i32.const 3))", "not-permitted"),
        (UNLINK, "not-permitted"),
        (
            RENAME,
            "not-permitted",
        ),
    ],
)
def test_what_is_read_only_stays_as_it_is(pool: Pool, folder: Path, body: str, error: str) -> None:
    assert call(pool, f"{body} (i32.const 0)", Filesystem.read_only(folder)) == error
    assert (folder / "text").read_text() == "to be or not to be"
    assert os.listdir(folder) == ["text"]


def test_files_are_made_written_renamed_and_removed(pool: Pool, folder: Path) -> None:
    files = Filesystem.read_write(folder, at="/data")
    body = f"""{NEW} (call $write (local.get $x) (i64.const 0) (i32.const {SIZE}))
      (call $write (local.get $x) (i64.const {SIZE}) (i32.const 10))
      (call $rename (i32.const 68) (i32.const 3) (i32.const 80) (i32.const 4))
      (call $unlink (i32.const 64) (i32.const 4))
      (call $mkdir (i32.const 68) (i32.const 3)) (call $count)"""
    function = pool.load(component(body))["f"].options(capabilities=Capabilities(filesystem=files))
    found, receipt = function.detailed()
    assert found == 2
    assert (folder / "link").stat().st_size == SIZE + 10
    assert (folder / "new").is_dir()
    assert not (folder / "text").exists()
    assert receipt.bytes_written == SIZE + 10
    assert receipt.disk == SIZE + 10 + 2 * 4096


@pytest.mark.parametrize(
    ("files", "body", "limits", "error"),
    [
        ({"allow_create": False}, NEW, {}, "not-permitted"),
        (
            {"allow_delete": False},
            UNLINK,
            {},
            "not-permitted",
        ),
        ({}, "(call $symlink (i32.const 80) (i32.const 4))", {}, "not-permitted"),
        (
            {"max_file_size": 1000},
            f"{NEW} (call $write (local.get $x) (i64.const 1000) (i32.const 200))",
            {},
            "file-too-large",
        ),
        (
            {},
            f"{NEW} (call $write (local.get $x) (i64.const 1000) (i32.const 200))",
            {"file_size": 1000},
            "file-too-large",
        ),
        ({}, OPEN_TEXT * 4, {"open_files": 3}, "quota"),
    ],
    ids=["create", "delete", "link", "grant's size", "file size", "open files"],
)
def test_limits_and_rights_are_those_of_the_warden(
    pool: Pool,
    folder: Path,
    files: dict[str, int],
    body: str,
    limits: dict[str, int],
    error: str,
) -> None:
    granted = Filesystem.read_write(folder, **files)  # type: ignore[arg-type]
    assert call(pool, f"{body} (i32.const 0)", granted, **limits) == error


def test_a_call_that_adds_too_much_ends(pool: Pool, folder: Path) -> None:
    body = f"{NEW} (call $write (local.get $x) (i64.const 0) (i32.const {SIZE})) (i32.const 0)"
    with pytest.raises(DiskLimitExceeded) as caught:
        call(pool, body, Filesystem.read_write(folder), disk=50_000)
    assert caught.value.allowed == 50_000


def test_a_dropped_descriptor_is_closed(pool: Pool, folder: Path) -> None:
    body = f"""(local $n i32) (local.set $n (i32.const 100))
      (loop $more {OPEN_TEXT} (call $host-drop (local.get $x))
        (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (i32.const 7)"""
    assert call(pool, body, Filesystem.read_only(folder), open_files=3) == 7


def test_a_component_that_could_not_be_held_to_them_is_refused(pool: Pool, folder: Path) -> None:
    """Data in several memories needs an engine without the warden."""
    module = pool.load(
        component("(i32.const 0)", extra='(memory $own 1) (data (memory $own) (i32.const 0) "x")')
    )
    assert module["f"]() == 999
    granted = Capabilities(filesystem=Filesystem.read_only(folder))
    with pytest.raises(UnsupportedModule, match="data in several memories"):
        module["f"].options(capabilities=granted)()
