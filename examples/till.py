"""An instance keeps its state, calls functions of this program, and outlives its worker."""

import os
import signal
from pathlib import Path

from wasm_sandbox import HostFunction, HostFunctionError, Instance, Limits, Pool

GUESTS = Path(__file__).resolve().parent / "guests"
PRICES = {"apple": 0.5, "bread": 3.25}


def price(name: str) -> float:
    return PRICES[name]


def print_receipt(total: float, items: int) -> None:
    print(f"{items} items: {total:.2f}")


def main() -> None:
    scanned: list[tuple[str, int]] = []

    def rebuild(till: Instance) -> None:  # before anybody else's calls are served
        for name, count in scanned:
            till.call("scan", name, count)

    with Pool(workers=1) as pool:
        module = pool.load(
            GUESTS / "till.wat",
            imports={"env": {"price": HostFunction(price, timeout=1.0), "print": print_receipt}},
        )
        with pool.instance(module, limits=Limits(memory=1 << 20), on_restart=rebuild) as till:
            for name, count in (("apple", 4), ("bread", 1)):
                print(f"{count} x {name}: {till.call('scan', name, count):.2f} so far")
                scanned.append((name, count))

            # What a function of ours raises ends the call, and comes back as it was.
            try:
                till.call("scan", "caviar", 1)
            except HostFunctionError as error:
                print("no price:", repr(error.__cause__))

            # Its worker dies. The next call is served by another one.
            worker = till.usage().pid
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            print(f"paid: {till.call('pay'):.2f}, restarts: {till.usage().restarts}")


if __name__ == "__main__":
    main()
