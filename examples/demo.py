"""A real program on real files, in a sandbox; and hostile guests, stopped next to it.

    python examples/demo.py

Exit status 0 means that everything came out as expected, the crimes included.
"""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from wasm_sandbox import (
    Capabilities,
    CompletedRun,
    DeadlineExceeded,
    Filesystem,
    Limits,
    Module,
    OutputLimitExceeded,
    Pool,
    Receipt,
    SandboxError,
    Trap,
)

HERE = Path(__file__).resolve().parent
GUESTS = HERE / "guests"
MIB = 1 << 20

LIMITS = Limits(memory=64 * MIB, wall_time=1.0, output=MIB, open_files=16)
FILES = Capabilities(filesystem=Filesystem.read_only(HERE / "data", at="/data"))

WORDCOUNT = """\
    674    5644    35149  /data/gpl-3.0.txt
    121    1066     7048  /data/cc0-1.0.txt
    795    6710    42197  (total)

    411  the
    271  of
    221  to
    202  a
    196  or
"""

surprises: list[str] = []


def expect(what: str, good: bool) -> str:
    """A mark for the reader; what did not come out as expected is counted."""
    if not good:
        surprises.append(what)
    return "ok " if good else "BAD"


def describe(receipt: Receipt) -> str:
    memory = "" if receipt.peak_memory is None else f", memory {receipt.peak_memory / MIB:.1f} MiB"
    return (
        f"{receipt.wall_time * 1000:.1f} ms, cpu {receipt.cpu_time * 1000:.1f} ms{memory}, "
        f"{receipt.bytes_in} bytes in, {receipt.bytes_out} bytes out, worker {receipt.worker}"
    )


def count_words(pool: Pool) -> None:
    """A C program, compiled to WebAssembly, reads files through a read-only directory."""
    print("A real program on real files\n")
    wordcount = pool.load(GUESTS / "wordcount.wasm")
    command = ("-n", "5", "/data/gpl-3.0.txt", "/data/cc0-1.0.txt")
    print("    $ wordcount", *command)
    done = pool.run(wordcount, *command, capabilities=FILES)
    output = done.stdout.decode()
    print("".join(f"    {line}\n" for line in output.splitlines()))
    good = expect("wordcount", (done.exit_code, output) == (0, WORDCOUNT))
    print(f"{good} exit code {done.exit_code}; {describe(done.receipt)}\n")


def call_functions(pool: Pool) -> None:
    """Exported functions are callables; each call runs in a fresh instance."""
    print("Libraries\n")
    calc, text = pool.load(GUESTS / "calc.wasm"), pool.load(GUESTS / "text.wasm")
    greet = text["greet"].options(returns=str)
    json_sum = text["json_sum"].options(returns="json")
    calls: list[tuple[str, Callable[[], object], object]] = [
        ("calc.add(5, 3)", lambda: calc["add"](5, 3), 8),
        ("calc.fib(20)", lambda: calc["fib"](20), 6765),
        ('text.greet("World")', lambda: greet("World"), "Hello, World!"),
        ("text.json_sum([1, 2, 39])", lambda: json_sum([1, 2, 39]), {"count": 3, "sum": 42}),
    ]
    for what, call, expected in calls:
        value = call()
        print(expect(what, value == expected), what, "=", repr(value))
    print()


@dataclass(frozen=True)
class Crime:
    """A hostile run, and how it must end."""

    what: str
    arguments: tuple[str, ...]
    error: type[SandboxError] | None = None
    exit_code: int = 0
    says: str = ""
    silent_stdin: bool = False


CRIMES = (
    Crime("loops for ever", ("loop",), DeadlineExceeded),
    Crime("sleeps for an hour", ("sleep", "3600"), DeadlineExceeded),
    Crime("waits for input that never comes", ("stdin",), DeadlineExceeded, silent_stdin=True),
    Crime("takes all memory", ("memory",), says="refused after"),
    Crime("floods its output", ("flood",), OutputLimitExceeded),
    Crime("opens files without end", ("open", "/data"), says="refused after"),
    Crime("writes where it may only read", ("disk", "/data"), says="refused to create"),
    Crime("reads what was not granted", ("open", "/etc/passwd"), says="refused after 0"),
    Crime("calls itself without end", ("recurse",), Trap),
    Crime("crashes", ("crash",), Trap),
    Crime("exits with 200", ("exit", "200"), exit_code=200),
)


def judge(crime: Crime, future: "Future[CompletedRun]") -> str:
    try:
        done = future.result()
    except SandboxError as error:
        good = crime.error is not None and isinstance(error, crime.error)
        ending = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    else:
        stderr = done.stderr.decode().strip()
        good = crime.error is None and done.exit_code == crime.exit_code and crime.says in stderr
        ending = f"exit code {done.exit_code}" + (f", says {stderr!r}" if stderr else "")
    return f"{expect(crime.what, good)} {crime.what:<34}{ending}"


def commit_crimes(pool: Pool) -> None:
    """All crimes at once, in the same pool as calls that must go on undisturbed."""
    print("Hostile guests, all at once, and good calls next to them\n")
    misbehave: Module = pool.load(GUESTS / "misbehave.wasm")
    fib = pool.load(GUESTS / "calc.wasm")["fib"]
    never_written, writer = os.pipe()
    try:
        futures: list[Future[CompletedRun]] = []
        for crime in CRIMES:
            stdin = never_written if crime.silent_stdin else b""
            guest = misbehave.main.options(capabilities=FILES, stdin=stdin)
            futures.append(pool.submit(guest, *crime.arguments))
        good_calls, slowest = 0, 0.0
        while not all(future.done() for future in futures):
            start = time.monotonic()
            good_calls += fib(15) == 610
            slowest = max(slowest, time.monotonic() - start)
        for crime, future in zip(CRIMES, futures, strict=True):
            print(judge(crime, future))
    finally:
        os.close(never_written)
        os.close(writer)
    mark = expect("good calls", good_calls > 0 and fib(15) == 610)
    print(f"\n{mark} meanwhile {good_calls} good calls; the slowest took {slowest * 1000:.0f} ms")


def main() -> int:
    """Run everything; return the exit status."""
    with Pool(workers=4, limits=LIMITS) as pool:
        count_words(pool)
        call_functions(pool)
        commit_crimes(pool)
    if surprises:
        print(f"\nNot as expected: {', '.join(surprises)}", file=sys.stderr)
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
