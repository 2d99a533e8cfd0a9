"""Under trio, cancelling a scope stops the guests called in it, whatever they are doing."""

from pathlib import Path

import trio

from wasm_sandbox import Limits, open_pool

GUESTS = Path(__file__).resolve().parent / "guests"


async def main() -> None:
    async with open_pool(workers=2, limits=Limits(wall_time=60.0)) as pool:
        calc = await pool.load(GUESTS / "calc.wasm")
        print("add(5, 3) =", await pool.call(calc["add"], 5, 3))

        with trio.move_on_after(0.2) as scope:
            await pool.call(calc["fib"], 60)  # would take hours
        print("fib(60) was cancelled:", scope.cancelled_caught)

        print("and the pool goes on: mul(6, 7) =", await pool.call(calc["mul"], 6, 7))


if __name__ == "__main__":
    trio.run(main)
