"""Counts the words of a text that is never in memory as a whole, in a jailed process."""

from collections.abc import Iterator

from wasm_sandbox import Limits, Pool


def text() -> Iterator[bytes]:
    """Some megabytes, a piece at a time: asked for as fast as the guest counts."""
    for _ in range(200):
        yield b"to be or not to be\n" * 1000


with (
    Pool(workers=1) as pool,
    pool.start(pool.load("wordcount.wasm"), stdin=text(), limits=Limits(wall_time=300)) as process,
):
    for piece in process.stdout:
        print(piece.decode(), end="")
    print(process.wait(check=True).receipt.wall_time)
