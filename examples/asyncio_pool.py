"""Under asyncio, the synchronous pool's futures are awaited with asyncio.wrap_future."""

import asyncio
from pathlib import Path

from wasm_sandbox import Pool

GUESTS = Path(__file__).resolve().parent / "guests"


async def main(pool: Pool) -> None:
    calc = pool.load(GUESTS / "calc.wasm")
    futures = [pool.submit(calc["fib"], n) for n in range(10)]
    print("fib:", await asyncio.gather(*map(asyncio.wrap_future, futures)))

    # A cancelled task stops its guest.
    try:
        await asyncio.wait_for(asyncio.wrap_future(pool.submit(calc["fib"], 60)), timeout=0.2)
    except TimeoutError:
        print("fib(60) was stopped")

    loop = asyncio.get_running_loop()
    print("add(5, 3) =", await loop.run_in_executor(pool, calc["add"], 5, 3))


if __name__ == "__main__":
    with Pool(workers=2) as pool:
        asyncio.run(main(pool))
