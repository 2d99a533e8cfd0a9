"""``wasm-sandbox run``: run a WASI command; its exit code is ours.

The guest's output is written by this thread, not by the supervisor's: a reader that does not read
must not hold up deadlines. What waits to be written is bounded by ``Limits.output``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from queue import SimpleQueue

from ..calls import CompletedRun, main_of
from ..future import CallFuture
from ..options import OnOutput
from ..pool import Pool
from .arguments import environment, make_parser, policy_of
from .progress import progress
from .reports import jsonable, print_json, text_or_bytes

_Pieces = SimpleQueue[tuple[int, bytes] | None]


def main(arguments: Sequence[str]) -> int:
    """Run the command; the guest's exit code, of which a program can show the lowest 8 bits."""
    parser = make_parser(
        "run",
        "Run a WASI command in a jailed worker. The exit code is the guest's (its lowest 8 bits), "
        "or 1 if it trapped, 2 for usage, 3 for a limit, 4 for a lost worker, 5 for isolation.",
        rest="arguments of the guest; those that begin with - go behind --",
    )
    options = parser.parse(arguments)
    policy = policy_of(options)
    variables = environment(options, policy.capabilities.environment)
    with Pool(
        1,
        limits=policy.limits,
        capabilities=policy.capabilities,
        isolation=options.isolation,
        cache_dir=options.cache_dir,
        audit=options.audit,
    ) as pool:
        with progress(f"compiling {options.module}"):
            app = pool.load(options.module)
        pieces: _Pieces = SimpleQueue()
        collect: OnOutput | None = None
        if not options.json:
            collect = lambda stream, data: pieces.put((stream, data))  # noqa: E731
        command = main_of(app, stdin=_stdin(), env=variables, on_output=collect)
        future = pool.submit(command, *options.rest)
        if not options.json:
            _write(pieces, future)
        done: CompletedRun = future.result()
    if options.json:
        print_json(
            {
                "exit_code": done.exit_code,
                **text_or_bytes("stdout", done.stdout),
                **text_or_bytes("stderr", done.stderr),
                "receipt": jsonable(done.receipt),
            }
        )
    # A shell sees eight bits. What is no success must not look like one.
    return done.exit_code & 0xFF or (255 if done.exit_code else 0)


def _stdin() -> int | bytes:
    """Our standard input. Where it is closed, its number may be somebody else's by now."""
    try:
        return b"" if sys.stdin is None else sys.stdin.fileno()
    except (OSError, ValueError):
        return b""


def _write(pieces: _Pieces, future: CallFuture) -> None:
    future.add_done_callback(lambda _: pieces.put(None))
    outputs = {1: sys.stdout, 2: sys.stderr}
    while (piece := pieces.get()) is not None:
        stream, data = piece
        output = outputs[stream]
        if output is not None:
            output.buffer.write(data)
            output.buffer.flush()
