"""Build the guest programs in this folder, byte for byte as committed.

    python -m pip install ziglang==0.17.1
    python examples/guests/build.py            # writes the .wasm files
    python examples/guests/build.py --check    # compares them instead; exit status 1 if one differs

The compiler is part of the recipe: another version makes other bytes, so this script refuses it.
The first build takes half a minute, because Zig first builds its C library for WASI and then keeps
it in its own cache.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

ZIG_VERSION = "0.17.1"
HERE = Path(__file__).resolve().parent

# Zig reserves 16 MiB of stack by default; 1 MiB keeps the smallest memory of a guest small.
COMMAND = ("-target", "wasm32-wasi", "-Wl,-z,stack-size=1048576")
REACTOR = (*COMMAND, "-mexec-model=reactor")
FREESTANDING = (
    "-target",
    "wasm32-freestanding",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,-z,stack-size=65536",
)

GUESTS: dict[str, tuple[str, ...]] = {
    "calc.c": FREESTANDING,
    "fetch.c": COMMAND,
    "misbehave.c": COMMAND,
    "text.c": REACTOR,
    "wordcount.c": COMMAND,
}


def require_compiler() -> None:
    """Raise SystemExit unless the pinned compiler is installed in this Python."""
    try:
        version = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    if version != ZIG_VERSION:
        raise SystemExit(
            f"ziglang is {version}; this recipe needs {ZIG_VERSION}: "
            f"{sys.executable} -m pip install ziglang=={ZIG_VERSION}"
        )


def build(source: str, flags: tuple[str, ...]) -> bytes:
    """Return the stripped wasm of one C file of this folder.

    The file is named relative to this folder, so no path of this machine can reach the result.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "guest.wasm"
        warnings = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
        command = ("cc", "-O2", "-s", *warnings, *flags, source, "-o", str(output))
        subprocess.run((sys.executable, "-m", "ziglang", *command), cwd=HERE, check=True)
        return output.read_bytes()


def main() -> int:
    """Build or compare every guest; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the example guests.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    check: bool = parser.parse_args().check
    require_compiler()
    different = 0
    for source, flags in GUESTS.items():
        target = (HERE / source).with_suffix(".wasm")
        built = build(source, flags)
        same = target.exists() and target.read_bytes() == built
        if not check:
            target.write_bytes(built)
        different += check and not same
        print(f"{target.name}: {len(built)} bytes, {'same' if same else 'different'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
