"""A pool is a concurrent.futures.Executor whose functions are exports of WebAssembly modules."""

from concurrent.futures import as_completed
from pathlib import Path

from wasm_sandbox import Limits, Pool, Trap

GUESTS = Path(__file__).resolve().parent / "guests"


def main() -> None:
    with Pool(workers=2, limits=Limits(memory=16 << 20, wall_time=5.0)) as pool:
        calc = pool.load(GUESTS / "calc.wasm")

        # One call, and what it cost.
        value, receipt = calc["fib"].detailed(25)
        print(f"fib(25) = {value}, {receipt.cpu_time * 1000:.1f} ms of processor time")

        # Many calls; results in the order of the inputs.
        print("squares:", list(pool.map(calc["mul"], range(10), range(10))))

        # Futures, as they finish.
        futures = [pool.submit(calc["fib"], n) for n in (30, 20, 10)]
        print("as they finish:", [future.result() for future in as_completed(futures)])
        print("which worker ran which:", [future.receipt.worker for future in futures])

        # What the guest does wrong is an exception with a reason, and only this call's.
        try:
            calc["divide"](1, 0)
        except Trap as trap:
            print("divide(1, 0) trapped:", trap.code)


if __name__ == "__main__":
    main()
