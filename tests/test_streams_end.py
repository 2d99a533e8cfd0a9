"""What becomes of streams when their pool ends, or the program."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import CancelledError

import guest_commands
import pytest
from leftovers import nothing_left

from wasm_sandbox import Pool, PoolClosed, SandboxError


@pytest.mark.parametrize("cancel", [False, True])
def test_a_pool_that_is_shut_down_finishes_or_cancels_them(cancel: bool) -> None:
    with nothing_left():
        pool = Pool(1)
        cat = pool.load(guest_commands.copies_stdin().encode())
        process = pool.start(cat)
        assert process.stdin is not None
        process.stdin.write(b"hello")
        pool.shutdown(wait=False, cancel_futures=cancel)
        if cancel:
            with pytest.raises((SandboxError, CancelledError)):
                for _ in process.stdout:
                    pass
        else:
            process.stdin.close()
            assert b"".join(process.stdout) == b"hello"
        pool.shutdown()
        with pytest.raises(PoolClosed):
            pool.start(cat)
        process.close()


PROGRAM = """
import itertools, sys
from wasm_sandbox import Pool

pool = Pool(1)
process = pool.start(pool.load(sys.argv[1].encode()), stdin=itertools.repeat(bytes(100)))
print(len(process.stdout.read(100)))
if sys.argv[2] == "raise":
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize(("how", "last"), [("raise", ["KeyboardInterrupt"]), ("return", [])])
def test_a_program_may_end_with_its_streams_open(how: str, last: list[str]) -> None:
    with nothing_left():
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, guest_commands.copies_stdin(), how],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    assert ended.stdout == "100\n"
    assert ended.stderr.splitlines()[-1:] == last
