"""``python -m wasm_sandbox.bench.child NAME EFFORT FILE``: one benchmark alone in a process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .measure import measure
from .registry import EFFORTS, benchmarks


def main(arguments: Sequence[str]) -> int:
    """Measure, and write what was found to the file; the exit code."""
    name, effort, path = arguments
    found = measure(benchmarks()[name], EFFORTS[effort])
    Path(path).write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
