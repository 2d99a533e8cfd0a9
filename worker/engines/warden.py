"""The warden: checks and counts what a guest does with files; see ``gate.py`` for where it stands.

Rules, each of which holds whatever the guest does:

- **Rights.** A name is made only below a grant that lets the guest create, removed only below one
  that lets it delete; renaming is both. ``EPERM`` otherwise.
- **No traps for whoever reads the directory afterwards.** No hard links and no symbolic ones
  (``EPERM``). No path longer than ``PATH_LIMIT`` below its grant
  (``ENAMETOOLONG``), so that every tree can be walked and removed. For that a directory, whose
  depth is not known, is renamed only where it is, and not to a longer name (``EXDEV``). Nor is
  anything renamed from grant to grant.
- **Sizes.** A file grows to what its grant says at most (``EFBIG``).
- **Added bytes.** What a file grows by, and ``ENTRY`` for each name that is made, is taken from the
  room of its grant (``ENOSPC``) and from that of the call (which ends). Nothing is given back.
- **Rates.** A reading or writing waits until there are tokens, then takes what it moved.
- **Open descriptors.** At most as many as the head says (``EMFILE``).

What a file grows by is worked out from its size when a descriptor of it is first written to, and
then from what that descriptor wrote. With several descriptors of one file this counts too much at
times, never too little: no descriptor ever believes in a size that the file did not have once, and
growth to that size was paid for then.

The engine moves the bytes of the first buffer that is not empty, so the warden hands it exactly
that one, shortened to what may be moved at once. Where it has to shorten it, or to ask the engine
something, it borrows the guest's own memory for the answer and puts everything back.
"""

from __future__ import annotations

from . import gate
from .gate import (
    ANSWERED,
    ASKED,
    DISK,
    EXCEEDED,
    MAY_CREATE,
    MAY_DELETE,
    NO_RECORD,
    OPEN,
    PACE,
    PAGE,
    READ,
    READ_SIZE,
    READ_TOKENS,
    RECORD_SIZE,
    RECORDS,
    SAVED,
    SAVED_SIZE,
    STATE_PAGES,
    STREAM,
    TABLE_SIZE,
    WANTED,
    WRITE,
    WRITE_SIZE,
    WRITE_TOKENS,
    WRITTEN,
)

PATH_LIMIT = 1024
"""Bytes of a path below its grant: at most 512 directories deep, far from PATH_MAX (4096)."""
ENTRY = 4096
"""Bytes that making a file, a directory or a link counts as: names fill disks, too."""

# WASI error numbers (witx, "errno").
EBADF, EFBIG, EINVAL, EIO, EMFILE, ENAMETOOLONG = 8, 22, 28, 29, 33, 37
ENOENT, ENOSPC, ENOTSUP, EPERM, EXDEV = 44, 51, 58, 63, 75
_CREATE, _EXCLUSIVE = 1, 4  # oflags
_APPEND = 1  # fdflags
_DIRECTORY, _SYMBOLIC_LINK = 3, 7  # filetype
_FILE_TYPE, _SIZE = 16, 32  # offsets in a filestat


def warden() -> str:
    """The warden's source."""
    return "\n".join(
        (
            "(module",
            '(import "guest" "memory" (memory $guest 0))',
            f'(import "gate" "state" (memory $state 1 {STATE_PAGES}))',
            f'(import "gate" "table" (table $table {TABLE_SIZE} {TABLE_SIZE} funcref))',
            '(export "memory" (memory $guest))',
            f"(elem (table $table) (i32.const 0) func {' '.join(f'${n}' for n in ANSWERED)})",
            *(
                f"(func $engine.{name} {gate.function_type(name)}"
                f" {gate.jump(name, f'engine {name}')})"
                for name in (*ANSWERED, *ASKED)
            ),
            *(
                f"(func ${name} {gate.function_type(name)} {gate.jump(name, name)})"
                for name in (PACE, EXCEEDED, WRITE)
            ),
            _PARTS,
            _DESCRIPTORS,
            *(_reading(name) for name in ("fd_read", "fd_pread")),
            _READDIR,
            *(_writing(name) for name in ("fd_write", "fd_pwrite")),
            _SIZES,
            _PATHS,
            ")",
        )
    )


def _if_no_file(name: str, *arguments: str) -> str:
    """Leave what is no file (stdin, stdout, stderr) to the engine. Sets ``$record``."""
    return f"""(local.set $record (call $record (local.get $fd)))
  (if (i32.eqz (i32.load $state (local.get $record))) (then (return
    (call $engine.{name} (local.get $fd) {" ".join(f"(local.get ${a})" for a in arguments)}))))"""


_IF_STREAM = f"""(local.set $record (call $record (local.get $fd)))
  (if (i32.load $state offset={STREAM} (local.get $record)) (then
    (local.set $at (call $first (local.get $buffers) (local.get $count)))
    (if (i32.ne (local.get $at) (i32.const -1)) (then
      (local.set $error (call $write (i32.load $state offset={STREAM} (local.get $record))
        (i32.load $guest (local.get $at)) (i32.load $guest offset=4 (local.get $at))))
      (if (i32.eqz (local.get $error)) (then
        (i32.store $guest (local.get $result) (i32.load $guest offset=4 (local.get $at)))))
      (return (local.get $error))))))"""
"""Have the host write what goes to stdout or stderr, where it takes that."""


_PARTS = f"""
;; Whether there is a record for a descriptor.
(func $recorded (param $fd i32) (result i32)
  (i32.lt_u (local.get $fd) (i32.div_u
    (i32.sub (i32.mul (memory.size $state) (i32.const {PAGE})) (i32.const {RECORDS}))
    (i32.const {RECORD_SIZE}))))

(func $record (param $fd i32) (result i32)
  (select
    (i32.add (i32.const {RECORDS}) (i32.mul (local.get $fd) (i32.const {RECORD_SIZE})))
    (i32.const {NO_RECORD})
    (call $recorded (local.get $fd))))

;; 0 where this many bytes may be added, ENOSPC where the grant has no room; ends the call where it
;; has none.
(func $room (param $grant i32) (param $size i64) (result i32)
  (if (i64.gt_s (local.get $size) (i64.load $state offset=16 (local.get $grant)))
    (then (return (i32.const {ENOSPC}))))
  (if (i64.gt_s (local.get $size) (i64.load $state (i32.const {DISK})))
    (then
      (i64.store $state (i32.const {WANTED}) (local.get $size))
      (call $exceeded)
      (unreachable)))
  (i32.const 0))

(func $spend (param $grant i32) (param $size i64)
  (i64.store $state offset=16 (local.get $grant)
    (i64.sub (i64.load $state offset=16 (local.get $grant)) (local.get $size)))
  (i64.store $state (i32.const {DISK})
    (i64.sub (i64.load $state (i32.const {DISK})) (local.get $size))))

;; Borrow the beginning of the guest's memory for an answer, and give it back.
(func $borrow
  (memory.copy $state $guest (i32.const {SAVED}) (i32.const 0) (i32.const {SAVED_SIZE})))
(func $give_back
  (memory.copy $guest $state (i32.const 0) (i32.const {SAVED}) (i32.const {SAVED_SIZE})))

;; The size of an open file, or -1.
(func $size_of (param $fd i32) (result i64) (local $error i32) (local $size i64)
  (call $borrow)
  (local.set $error (call $engine.fd_filestat_get (local.get $fd) (i32.const 0)))
  (local.set $size (i64.load $guest (i32.const {_SIZE})))
  (call $give_back)
  (select (i64.const -1) (local.get $size) (local.get $error)))

;; Where the next byte of fd_write goes, or -1.
(func $position_of (param $fd i32) (result i64) (local $error i32) (local $position i64)
  (call $borrow)
  (local.set $error (call $engine.fd_tell (local.get $fd) (i32.const 0)))
  (local.set $position (i64.load $guest (i32.const 0)))
  (call $give_back)
  (select (i64.const -1) (local.get $position) (local.get $error)))

;; The size that a descriptor believes its file to have, or -1; asks where it appends.
(func $known (param $fd i32) (param $record i32) (result i64)
  (if (i32.or
        (i32.load $state offset=16 (local.get $record))
        (i64.lt_s (i64.load $state offset=8 (local.get $record)) (i64.const 0)))
    (then (i64.store $state offset=8 (local.get $record) (call $size_of (local.get $fd)))))
  (i64.load $state offset=8 (local.get $record)))

;; The bytes from one size to another, where that is larger.
(func $growth (param $from i64) (param $to i64) (result i64)
  (select (i64.sub (local.get $to) (local.get $from)) (i64.const 0)
    (i64.gt_s (local.get $to) (local.get $from))))

;; The first buffer that is not empty, or -1.
(func $first (param $buffers i32) (param $count i32) (result i32)
  (loop $next
    (if (i32.eqz (local.get $count)) (then (return (i32.const -1))))
    (if (i32.load $guest offset=4 (local.get $buffers)) (then (return (local.get $buffers))))
    (local.set $buffers (i32.add (local.get $buffers) (i32.const 8)))
    (local.set $count (i32.sub (local.get $count) (i32.const 1)))
    (br $next))
  (unreachable))

;; Wait until something may be moved, and count what was.
(func $wait (param $which i32)
  (if (i64.le_s (i64.load $state offset={READ_TOKENS} (i32.shl (local.get $which) (i32.const 3)))
        (i64.const 0))
    (then (call $pace (local.get $which)))))
(func $count (param $which i32) (param $size i64)
  (local.set $which (i32.shl (local.get $which) (i32.const 3)))
  (i64.store $state offset={READ_TOKENS} (local.get $which)
    (i64.sub (i64.load $state offset={READ_TOKENS} (local.get $which)) (local.get $size)))
  (i64.store $state offset={READ} (local.get $which)
    (i64.add (i64.load $state offset={READ} (local.get $which)) (local.get $size))))
"""
assert (WRITE_TOKENS, WRITTEN) == (READ_TOKENS + 8, READ + 8)


def _transfer(name: str, extra: str, size: str, counted: str) -> str:
    """Let the engine move up to ``$size`` bytes of the buffer at ``$at``; then ``counted``."""
    return f"""
  (local.set $asked (i32.load $guest offset=4 (local.get $at)))
  (i32.store $guest offset=4 (local.get $at) {size})
  (local.set $error
    (call $engine.{name} (local.get $fd) (local.get $at) (i32.const 1) {extra} (local.get $result)))
  (if (i32.eqz (local.get $error)) (then
    (local.set $moved (i64.load32_u $guest (local.get $result)))
    {counted}))
  (i32.store $guest offset=4 (local.get $at) (local.get $asked))
  (if (i32.eqz (local.get $error)) (then
    (i64.store32 $guest (local.get $result) (local.get $moved))))
  (local.get $error)"""


def _at_once(at: int) -> str:
    """The bytes of the buffer at ``$at`` that may be moved at once."""
    size = "(i32.load $guest offset=4 (local.get $at))"
    most = f"(i32.load $state (i32.const {at}))"
    return f"(select {size} {most} (i32.lt_u {size} {most}))"


def _reading(name: str) -> str:
    offset = "(param $offset i64)" if name == "fd_pread" else ""
    extra = "(local.get $offset)" if offset else ""
    names = ("buffers", "count", "offset", "result") if offset else ("buffers", "count", "result")
    return f"""
(func ${name} (param $fd i32) (param $buffers i32) (param $count i32) {offset} (param $result i32)
  (result i32)
  (local $record i32) (local $at i32) (local $asked i32) (local $error i32) (local $moved i64)
  {_if_no_file(name, *names)}
  (local.set $at (call $first (local.get $buffers) (local.get $count)))
  (if (i32.eq (local.get $at) (i32.const -1)) (then (return
    (call $engine.{name} (local.get $fd) (i32.const 0) (i32.const 0) {extra}
      (local.get $result)))))
  (call $wait (i32.const 0))
  {_transfer(name, extra, _at_once(READ_SIZE), "(call $count (i32.const 0) (local.get $moved))")})
"""


def _writing(name: str) -> str:
    offset = "(param $offset i64)" if name == "fd_pwrite" else ""
    extra = "(local.get $offset)" if offset else ""
    names = ("buffers", "count", "offset", "result") if offset else ("buffers", "count", "result")
    position = extra or "(call $position_of (local.get $fd))"
    counted = """(call $count (i32.const 1) (local.get $moved))
    (local.set $position (i64.add (local.get $position) (local.get $moved)))
    (call $spend (local.get $grant) (call $growth (local.get $known) (local.get $position)))
    (if (i64.gt_s (local.get $position) (local.get $known)) (then
      (i64.store $state offset=8 (local.get $record) (local.get $position))))"""
    return f"""
(func ${name} (param $fd i32) (param $buffers i32) (param $count i32) {offset} (param $result i32)
  (result i32)
  (local $record i32) (local $grant i32) (local $at i32) (local $asked i32) (local $error i32)
  (local $moved i64) (local $known i64) (local $position i64) (local $size i64)
  {_IF_STREAM if name == "fd_write" else ""}
  {_if_no_file(name, *names)}
  (local.set $grant (i32.load $state (local.get $record)))
  (local.set $at (call $first (local.get $buffers) (local.get $count)))
  (if (i32.eq (local.get $at) (i32.const -1)) (then (return
    (call $engine.{name} (local.get $fd) (i32.const 0) (i32.const 0) {extra}
      (local.get $result)))))
  (local.set $known (call $known (local.get $fd) (local.get $record)))
  (if (i32.load $state offset=16 (local.get $record))
    (then (local.set $position (local.get $known)))
    (else (local.set $position {position})))
  (if (i64.lt_s (local.get $known) (i64.const 0)) (then (return (i32.const {EIO}))))
  ;; As unsigned numbers, so that this also ends what lies beyond 2^63.
  (if (i64.ge_u (local.get $position) (i64.load $state offset=8 (local.get $grant)))
    (then (return (i32.const {EFBIG}))))
  (local.set $size (i64.sub (i64.load $state offset=8 (local.get $grant)) (local.get $position)))
  (local.set $moved (i64.extend_i32_u {_at_once(WRITE_SIZE)}))
  (if (i64.lt_u (local.get $moved) (local.get $size))
    (then (local.set $size (local.get $moved))))
  (local.set $error (call $room (local.get $grant) (call $growth (local.get $known)
    (i64.add (local.get $position) (local.get $size)))))
  (if (local.get $error) (then (return (local.get $error))))
  (call $wait (i32.const 1))
  {_transfer(name, extra, "(i32.wrap_i64 (local.get $size))", counted)})
"""


_READDIR = f"""
(func $fd_readdir (param $fd i32) (param $buffer i32) (param $size i32) (param $cookie i64)
  (param $result i32) (result i32) (local $record i32) (local $error i32)
  {_if_no_file("fd_readdir", "buffer", "size", "cookie", "result")}
  (call $wait (i32.const 0))
  (local.set $error (call $engine.fd_readdir (local.get $fd) (local.get $buffer) (local.get $size)
    (local.get $cookie) (local.get $result)))
  (if (i32.eqz (local.get $error)) (then
    (call $count (i32.const 0) (i64.load32_u $guest (local.get $result)))))
  (local.get $error))
"""

_DESCRIPTORS = f"""
(func $opened (param $change i32)
  (i32.store $state (i32.const {OPEN})
    (i32.sub (i32.load $state (i32.const {OPEN})) (local.get $change))))

(func $forget (param $record i32)
  (i32.store $state offset={STREAM} (local.get $record) (i32.const 0))
  (if (i32.load $state (local.get $record)) (then
    (i32.store $state (local.get $record) (i32.const 0))
    (call $opened (i32.const -1)))))

(func $fd_close (param $fd i32) (result i32) (local $error i32)
  (local.set $error (call $engine.fd_close (local.get $fd)))
  (if (i32.eqz (local.get $error)) (then (call $forget (call $record (local.get $fd)))))
  (local.get $error))

(func $fd_renumber (param $from i32) (param $to i32) (result i32) (local $error i32)
  (local.set $error (call $engine.fd_renumber (local.get $from) (local.get $to)))
  (if (i32.and (i32.eqz (local.get $error)) (i32.ne (local.get $from) (local.get $to))) (then
    (call $forget (call $record (local.get $to)))
    (memory.copy $state $state (call $record (local.get $to)) (call $record (local.get $from))
      (i32.const {RECORD_SIZE}))
    (i32.store $state offset={STREAM} (call $record (local.get $from)) (i32.const 0))
    (i32.store $state (call $record (local.get $from)) (i32.const 0))))
  (local.get $error))

(func $fd_fdstat_set_flags (param $fd i32) (param $flags i32) (result i32) (local $error i32)
  (local.set $error (call $engine.fd_fdstat_set_flags (local.get $fd) (local.get $flags)))
  (if (i32.eqz (local.get $error)) (then
    (i32.store $state offset=16 (call $record (local.get $fd))
      (i32.and (local.get $flags) (i32.const {_APPEND})))))
  (local.get $error))

;; Advice would have the kernel read what nobody counts: the engine only checks it.
(func $fd_advise (param $fd i32) (param $offset i64) (param $size i64) (param $advice i32)
  (result i32)
  (call $engine.fd_advise (local.get $fd) (local.get $offset) (local.get $size)
    (select (i32.const 0) (local.get $advice) (i32.le_u (local.get $advice) (i32.const 5)))))
"""

_SIZES = f"""
(func $fd_filestat_set_size (param $fd i32) (param $size i64) (result i32)
  (local $record i32) (local $grant i32) (local $error i32) (local $known i64)
  {_if_no_file("fd_filestat_set_size", "size")}
  (local.set $grant (i32.load $state (local.get $record)))
  (if (i64.gt_u (local.get $size) (i64.load $state offset=8 (local.get $grant)))
    (then (return (i32.const {EFBIG}))))
  (local.set $known (call $known (local.get $fd) (local.get $record)))
  (if (i64.lt_s (local.get $known) (i64.const 0)) (then (return (i32.const {EIO}))))
  (local.set $error
    (call $room (local.get $grant) (call $growth (local.get $known) (local.get $size))))
  (if (local.get $error) (then (return (local.get $error))))
  (local.set $error (call $engine.fd_filestat_set_size (local.get $fd) (local.get $size)))
  (if (i32.eqz (local.get $error)) (then
    (call $spend (local.get $grant) (call $growth (local.get $known) (local.get $size)))
    (if (i64.gt_s (local.get $size) (local.get $known)) (then
      (i64.store $state offset=8 (local.get $record) (local.get $size))))))
  (local.get $error))

;; The engine does not offer it; one that did would have to be counted.
(func $fd_allocate (param $fd i32) (param $offset i64) (param $size i64) (result i32)
  (local $record i32)
  {_if_no_file("fd_allocate", "offset", "size")}
  (i32.const {ENOTSUP}))
"""


def _needs(right: int, fd: str = "fd") -> str:
    """Return an error where what ``$fd`` stands for is no directory, or lacks the right. Sets
    ``$record`` and ``$grant``."""
    return f"""(local.set $record (call $record (local.get ${fd})))
  (local.set $grant (i32.load $state (local.get $record)))
  (if (i32.eqz (local.get $grant)) (then (return (i32.const {EBADF}))))
  (if (i32.ne (i32.const {right})
        (i32.and (i32.const {right}) (i32.load $state (local.get $grant))))
    (then (return (i32.const {EPERM}))))"""


def _checks_length(size: str = "size") -> str:
    """Return an error where the path below ``$record`` is too long to make."""
    return f"""(if (i32.gt_u (call $length (local.get $record) (local.get ${size}))
        (i32.const {PATH_LIMIT}))
    (then (return (i32.const {ENAMETOOLONG}))))"""


def _makes(call: str) -> str:
    """Make a name by ``call``, and count it."""
    return f"""(local.set $error (call $room (local.get $grant) (i64.const {ENTRY})))
  (if (local.get $error) (then (return (local.get $error))))
  (local.set $error {call})
  (if (i32.eqz (local.get $error)) (then (call $spend (local.get $grant) (i64.const {ENTRY}))))"""


def _opens(flags: str) -> str:
    return f"""(call $engine.path_open (local.get $fd) (local.get $follow) (local.get $path)
    (local.get $size) {flags} (local.get $rights) (local.get $inheriting) (local.get $fdflags)
    (local.get $result))"""


def _removing(name: str) -> str:
    return f"""
(func ${name} (param $fd i32) (param $path i32) (param $size i32) (result i32)
  (local $record i32) (local $grant i32)
  {_needs(MAY_DELETE)}
  (call $engine.{name} (local.get $fd) (local.get $path) (local.get $size)))
"""


_PATHS = f"""
;; Bytes of a path of this size below a directory, counted from the grant.
(func $length (param $record i32) (param $size i32) (result i32) (local $length i64)
  (local.set $length (i64.add (i64.extend_i32_u (local.get $size))
    (i64.add (i64.load32_u $state offset=4 (local.get $record)) (i64.const 1))))
  (select (i32.wrap_i64 (local.get $length)) (i32.const -1)
    (i64.lt_u (local.get $length) (i64.const 0xffffffff))))

;; Bytes of a path up to its last slash.
(func $parent (param $path i32) (param $size i32) (result i32)
  (block $found
    (loop $next
      (br_if $found (i32.eqz (local.get $size)))
      (br_if $found (i32.eq (i32.const {ord("/")})
        (i32.load8_u $guest (i32.add (local.get $path)
          (i32.sub (local.get $size) (i32.const 1))))))
      (local.set $size (i32.sub (local.get $size) (i32.const 1)))
      (br $next)))
  (local.get $size))

;; Whether two paths from the same directory differ in their last names alone, and the second is not
;; longer.
(func $beside (param $path i32) (param $size i32) (param $new i32) (param $new_size i32)
  (result i32) (local $at i32)
  (local.set $at (call $parent (local.get $path) (local.get $size)))
  (if (i32.or
        (i32.gt_u (local.get $new_size) (local.get $size))
        (i32.ne (local.get $at) (call $parent (local.get $new) (local.get $new_size))))
    (then (return (i32.const 0))))
  (loop $next
    (if (i32.eqz (local.get $at)) (then (return (i32.const 1))))
    (local.set $at (i32.sub (local.get $at) (i32.const 1)))
    (br_if $next (i32.eq
      (i32.load8_u $guest (i32.add (local.get $path) (local.get $at)))
      (i32.load8_u $guest (i32.add (local.get $new) (local.get $at))))))
  (i32.const 0))

(func $path_open (param $fd i32) (param $follow i32) (param $path i32) (param $size i32)
  (param $flags i32) (param $rights i64) (param $inheriting i64) (param $fdflags i32)
  (param $result i32) (result i32)
  (local $record i32) (local $grant i32) (local $error i32) (local $new i32) (local $length i32)
  {_needs(0)}
  (if (i32.le_s (i32.load $state (i32.const {OPEN})) (i32.const 0))
    (then (return (i32.const {EMFILE}))))
  ;; First without creating: what is there already needs no right, and costs nothing.
  (local.set $error (i32.const {ENOENT}))
  (if (i32.ne (i32.and (local.get $flags) (i32.const {_CREATE | _EXCLUSIVE}))
        (i32.const {_CREATE | _EXCLUSIVE}))
    (then (local.set $error
      {_opens(f"(i32.and (local.get $flags) (i32.const {~_CREATE}))")})))
  (if (i32.and (i32.eq (local.get $error) (i32.const {ENOENT}))
        (i32.and (local.get $flags) (i32.const {_CREATE})))
    (then
      {_needs(MAY_CREATE)}
      {_checks_length()}
      {_makes(_opens("(local.get $flags)"))}))
  (if (local.get $error) (then (return (local.get $error))))
  (local.set $new (i32.load $guest (local.get $result)))
  (if (i32.eqz (call $recorded (local.get $new)))
    (then (drop (memory.grow $state (i32.const 1)))))
  (if (i32.eqz (call $recorded (local.get $new)))
    (then
      (drop (call $engine.fd_close (local.get $new)))
      (return (i32.const {EMFILE}))))
  (local.set $length (call $length (local.get $record) (local.get $size)))
  (local.set $record (call $record (local.get $new)))
  (i32.store $state (local.get $record) (local.get $grant))
  (i32.store $state offset=4 (local.get $record) (local.get $length))
  (i64.store $state offset=8 (local.get $record) (i64.const -1))
  (i32.store $state offset=16 (local.get $record)
    (i32.and (local.get $fdflags) (i32.const {_APPEND})))
  (call $opened (i32.const 1))
  (i32.const 0))

(func $path_create_directory (param $fd i32) (param $path i32) (param $size i32) (result i32)
  (local $record i32) (local $grant i32) (local $error i32)
  {_needs(MAY_CREATE)}
  {_checks_length()}
  {
    _makes('''(call $engine.path_create_directory
    (local.get $fd) (local.get $path) (local.get $size))''')
}
  (local.get $error))
{_removing("path_unlink_file")}{_removing("path_remove_directory")}
(func $path_rename (param $fd i32) (param $path i32) (param $size i32)
  (param $to i32) (param $new i32) (param $new_size i32) (result i32)
  (local $record i32) (local $grant i32) (local $old_grant i32) (local $error i32)
  (local $kind i32)
  {_needs(MAY_CREATE | MAY_DELETE)}
  (local.set $old_grant (local.get $grant))
  {_needs(0, "to")}
  (if (i32.ne (local.get $grant) (local.get $old_grant)) (then (return (i32.const {EXDEV}))))
  {_checks_length("new_size")}
  (call $borrow)
  (local.set $error (call $engine.path_filestat_get (local.get $fd) (i32.const 0)
    (local.get $path) (local.get $size) (i32.const 0)))
  (local.set $kind (i32.load8_u $guest (i32.const {_FILE_TYPE})))
  (call $give_back)
  (if (local.get $error) (then (return (local.get $error))))
  (if (i32.eq (local.get $kind) (i32.const {_SYMBOLIC_LINK})) (then (return (i32.const {EPERM}))))
  (if (i32.eq (local.get $kind) (i32.const {_DIRECTORY})) (then
    (if (i32.or (i32.ne (local.get $fd) (local.get $to)) (i32.eqz (call $beside
          (local.get $path) (local.get $size) (local.get $new) (local.get $new_size))))
      (then (return (i32.const {EXDEV}))))))
  (call $engine.path_rename (local.get $fd) (local.get $path) (local.get $size)
    (local.get $to) (local.get $new) (local.get $new_size)))

(func $path_link (param $fd i32) (param $follow i32) (param $path i32) (param $size i32)
  (param $to i32) (param $new i32) (param $new_size i32) (result i32)
  (local $record i32) (local $grant i32)
  {_needs(0)}
  {_needs(0, "to")}
  (i32.const {EPERM}))

(func $path_symlink (param $target i32) (param $target_size i32) (param $fd i32)
  (param $path i32) (param $size i32) (result i32) (local $record i32) (local $grant i32)
  {_needs(0)}
  (i32.const {EPERM}))
"""
