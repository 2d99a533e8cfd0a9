"""The command ``wasm-sandbox``."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..protocol.errors import SandboxError
from .arguments import UsageError, complain
from .reports import BROKEN_PIPE, INTERRUPTED, OK, OUTPUT_FAILED, USAGE, report

COMMANDS = {
    "call": "call an export and print its result",
    "run": "run a WASI command; the exit code is the guest's",
    "inspect": "show exports, imports, size, and what a module will ask for",
    "doctor": "show which walls stand on this machine; --attack proves it",
    "bench": "measure what was promised about speed, beside the peers",
}
USAGE_TEXT = "usage: wasm-sandbox COMMAND ...\n\n" + "".join(
    f"    {name:<10} {text}\n" for name, text in COMMANDS.items()
)
HELP = (
    USAGE_TEXT
    + """
    wasm-sandbox COMMAND --help tells more; --json is for machines.

Exit codes: the guest's own for run; 0 ok, 1 the guest failed, 2 usage, 3 a limit, 4 a worker was
lost, 5 isolation, 74 the output cannot be written, 130 interrupted, 141 nobody reads the output."""
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code of the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return _run(arguments)
    except (SandboxError, UsageError) as error:
        return report(error, as_json="--json" in ours)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # What Python still holds must not be written there once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        complain(f"wasm-sandbox: error: the output cannot be written: {error.strerror}")
        return OUTPUT_FAILED
    except SystemExit as end:  # argparse, for --help
        return end.code if isinstance(end.code, int) else OK


def _run(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        command: Callable[[Sequence[str]], int] = import_module(f".{name}", __package__).main
        code = command(arguments[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    if name in ("-h", "--help", "help"):
        print(HELP)
        return OK
    if name == "--version":
        from .. import __version__

        print(f"wasm-sandbox {__version__}")
        return OK
    if not name:
        complain(USAGE_TEXT.rstrip())
        return USAGE
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"there is no command {name!r}{hint}\n{USAGE_TEXT.rstrip()}")
