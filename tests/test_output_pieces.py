"""What the supervisor keeps of a guest's output takes about as much memory as it has bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import guests
from cores import run, serving

from wasm_sandbox.supervisor.calls import PIECE, CallRecord


def test_many_small_pieces_are_kept_as_a_few(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, workers=1) as driver:
            request = driver.request(await driver.load(guests.add()), "add", 1, 2)
            record = CallRecord(request, lambda _: None, 0.0, lambda *_: None)
            sent = [bytes([number % 251, number % 7]) for number in range(50_000)]
            for data in sent:
                record.take(1, data)
            record.take(1, large := bytes(10 * PIECE))
            record.take(1, b"end")
            kept = record.pieces[1]
            assert b"".join(kept) == b"".join([*sent, large, b"end"])
            assert sum(map(sys.getsizeof, kept)) < 1.1 * record.output

    run(main)
