"""A program with plug-ins: new versions take over while it runs, if they are healthy."""

import shutil
import tempfile
from pathlib import Path

from wasm_sandbox import PluginEvent, Plugins, Pool

HERE = Path(__file__).resolve().parent
PRICES = {1: 200, 2: 1000}


def price(article: int) -> int:
    """A function of the program, for plug-ins that ask for it."""
    return PRICES[article]


def show(event: PluginEvent) -> None:
    """Print what happens to plug-ins."""
    print(f"    {event.plugin} {event.version} {event.what} {event.reason}")


def change(folder: Path, version: str, tax: str) -> None:
    """Another version is installed. The manifest comes last, as it should."""
    code, manifest = folder / "tax.wat", folder / "plugin.toml"
    code.write_text(code.read_text().replace("(i32.const 119)", f"(i32.const {tax})"))
    manifest.write_text(manifest.read_text().replace('"1.0.0"', f'"{version}"'))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, Pool(workers=1) as pool:
        directory = Path(shutil.copytree(HERE / "plugins", Path(temporary) / "plugins"))
        plugins = Plugins(pool, directory, imports={"shop": {"price": price}}, on_event=show)
        tax = plugins["tax"]
        print("total:", tax.call("total", 1))

        # The health check says that 100 with tax is 119, so this one is refused.
        change(directory / "tax", "1.1.0", tax="107")
        plugins.refresh()
        print("total:", tax.call("total", 1))

        manifest = directory / "tax" / "plugin.toml"
        manifest.write_text(manifest.read_text().replace("result = 119", "result = 107"))
        plugins.refresh()
        print("total:", tax.call("total", 1))

        plugins.rollback("tax")
        print("total:", tax.call("total", 1))


if __name__ == "__main__":
    main()
