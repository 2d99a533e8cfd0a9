"""A command of WASI 0.2 in Python, for componentize-py and the world ``wasi:cli/command``.

It counts the words of its standard input, or of the files that it is given.
"""

import os
import sys
from pathlib import Path

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        texts = [Path(name).read_text() for name in sys.argv[1:]] or [sys.stdin.read()]
        print(os.environ.get("LABEL", "words"), sum(len(text.split()) for text in texts))
        if not any(texts):
            print("nothing to count", file=sys.stderr)
            sys.exit(1)
