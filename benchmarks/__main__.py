"""``python -m benchmarks``: ``wasm-sandbox bench``, from a checkout."""

import sys

from wasm_sandbox.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
