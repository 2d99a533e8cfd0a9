"""``python -m wasm_sandbox``: the command line."""

import sys

from .cli import start

if __name__ == "__main__":
    sys.exit(start())
