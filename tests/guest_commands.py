"""Tiny WASI guests for tests: each function returns a module in WebAssembly's text format."""

from collections.abc import Callable

from guests import escape


def _command(imports: str, body: str, data: str = "") -> str:
    return f"""(module {imports} (memory (export "memory") 1) {data}
      (func (export "_start") {body}))"""


def _wasi(name: str, signature: str) -> str:
    return f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {signature}))'


_FD_IO = "(param i32 i32 i32 i32) (result i32)"


def hello(text: str = "hello\n", descriptor: int = 1) -> str:
    """A command that writes ``text`` to a descriptor and returns from ``_start`` (exit code 0)."""
    vector = _word(16) + _word(len(text.encode()))  # one buffer: its address, its length
    return _command(
        _wasi("fd_write", _FD_IO),
        f"""(drop (call $fd_write
          (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 8)))""",
        f'(data (i32.const 0) "{vector}") (data (i32.const 16) "{escape(text)}")',
    )


def exits(code: int) -> str:
    """A command that calls ``proc_exit`` with any unsigned 32-bit code."""
    return _command(_wasi("proc_exit", "(param i32)"), f"(call $proc_exit (i32.const {code}))")


def command_traps() -> str:
    """A command that writes to stdout and then traps."""
    return hello("before the trap\n").removesuffix("))") + "(unreachable)))"


def command_loops() -> str:
    """A command that never ends."""
    return _command("", "(loop $again (br $again))")


def sleeps(seconds: int = 3600) -> str:
    """A command that sleeps in ``poll_oneoff``, where no epoch reaches it, then exits with 7."""
    nanoseconds = seconds * 1_000_000_000
    return _command(
        _wasi("poll_oneoff", _FD_IO) + _wasi("proc_exit", "(param i32)"),
        f"""(i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const {nanoseconds}))
        (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
        (call $proc_exit (i32.const 7))""",
    )


def reads_stdin() -> str:
    """A command that reads standard input to its end and exits with the number of bytes."""
    return _command(
        _wasi("fd_read", _FD_IO) + _wasi("proc_exit", "(param i32)"),
        """(local $total i32)
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 32768))
        (loop $more
          (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $total (i32.add (local.get $total) (i32.load (i32.const 8))))
          (br_if $more (i32.load (i32.const 8))))
        (call $proc_exit (local.get $total))""",
    )


def copies_stdin() -> str:
    """A command that copies standard input to standard output, like cat(1)."""
    return _command(
        _wasi("fd_read", _FD_IO) + _wasi("fd_write", _FD_IO),
        """(block $end
          (loop $more
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 32768))
            (br_if $end (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $end (i32.eqz (i32.load (i32.const 8))))
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (loop $rest
              (br_if $end (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
              (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 8))))
              (i32.store (i32.const 4) (i32.sub (i32.load (i32.const 4)) (i32.load (i32.const 8))))
              (br_if $rest (i32.load (i32.const 4))))
            (br $more)))""",
    )


def floods(descriptor: int = 1) -> str:
    """A command that writes to a descriptor until it is refused, then exits with the errno."""
    return _command(
        _wasi("fd_write", _FD_IO) + _wasi("proc_exit", "(param i32)"),
        f"""(local $errno i32)
        (i32.store (i32.const 4) (i32.const 65536))
        (loop $more
          (local.set $errno
            (call $fd_write (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br_if $more (i32.eqz (local.get $errno))))
        (call $proc_exit (local.get $errno))""",
    )


def hoards() -> str:
    """A command that opens ``file`` in its first directory until it is refused. Holding all that,
    it makes a directory there, looks at it, lists all, renames and removes it. It exits with the
    errno of the refusal << 24 | those of all the rest << 16 | how many files it holds."""
    old, new, file = (
        f"(i32.const {at}) (i32.const {size})" for at, size in ((0, 3), (3, 3), (6, 4))
    )
    rest = (
        f"(call $path_create_directory (i32.const 3) {old})",
        f"(call $path_filestat_get (i32.const 3) (i32.const 0) {old} (i32.const 64))",
        """(call $fd_readdir (i32.const 3) (i32.const 1024) (i32.const 4096) (i64.const 0)
            (i32.const 16))""",
        f"(call $path_rename (i32.const 3) {old} (i32.const 3) {new})",
        f"(call $path_remove_directory (i32.const 3) {new})",
    )
    return _command(
        _wasi("path_open", "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)")
        + _wasi("path_create_directory", "(param i32 i32 i32) (result i32)")
        + _wasi("path_filestat_get", "(param i32 i32 i32 i32 i32) (result i32)")
        + _wasi("fd_readdir", "(param i32 i32 i32 i64 i32) (result i32)")
        + _wasi("path_rename", "(param i32 i32 i32 i32 i32 i32) (result i32)")
        + _wasi("path_remove_directory", "(param i32 i32 i32) (result i32)")
        + _wasi("proc_exit", "(param i32)"),
        f"""(local $held i32) (local $errno i32) (local $rest i32)
        (block $full
          (loop $again
            (local.set $errno (call $path_open (i32.const 3) (i32.const 0) {file} (i32.const 0)
              (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
            (br_if $full (local.get $errno))
            (local.set $held (i32.add (local.get $held) (i32.const 1)))
            (br $again)))
        {"".join(f"(local.set $rest (i32.or (local.get $rest) {call}))" for call in rest)}
        (call $proc_exit (i32.or (local.get $held) (i32.or
          (i32.shl (local.get $rest) (i32.const 16))
          (i32.shl (local.get $errno) (i32.const 24)))))""",
        '(data (i32.const 0) "oldnewfile")',
    )


def clock_storm() -> str:
    """A command that calls into the host for ever."""
    return _command(
        _wasi("clock_time_get", "(param i32 i64 i32) (result i32)"),
        """(loop $again
          (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 8)))
          (br $again))""",
    )


def time_and_random() -> str:
    """``wall() -> ns``, ``monotonic() -> ns``, ``random() -> i64``: what a policy makes of them."""
    clock = """(func (export "{}") (result i64)
      (drop (call $clock_time_get (i32.const {}) (i64.const 1) (i32.const 8)))
      (i64.load (i32.const 8)))"""
    return f"""(module
      {_wasi("clock_time_get", "(param i32 i64 i32) (result i32)")}
      {_wasi("random_get", "(param i32 i32) (result i32)")}
      (memory (export "memory") 1)
      {clock.format("wall", 0)} {clock.format("monotonic", 1)}
      (func (export "random") (result i64)
        (drop (call $random_get (i32.const 8) (i32.const 8)))
        (i64.load (i32.const 8))))"""


def reactor() -> str:
    """A WASI reactor: ``value() -> 42`` only if ``_initialize`` was called exactly once before."""
    return """(module (global $calls (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $calls (i32.add (global.get $calls) (i32.const 1))))
      (func (export "value") (result i32) (i32.mul (global.get $calls) (i32.const 42))))"""


COMMANDS: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        *(hello, command_traps, command_loops, sleeps, reads_stdin, copies_stdin),
        *(floods, clock_storm, time_and_random, reactor),
    )
} | {"exits": lambda: exits(200)}
"""All of the above by name; ``time_and_random`` and ``reactor`` have no ``_start``."""


def _word(value: int) -> str:
    return "".join(f"\\{byte:02x}" for byte in value.to_bytes(4, "little"))
