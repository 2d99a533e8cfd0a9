"""Folders of plug-ins, for tests."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from wasm_sandbox import PluginEvent

WAT = """(module
  (import "env" "gate" (func $gate (param i32)))
  (func (export "which") (result i32) (i32.const {number}))
  (func (export "twice") (result i32 i32) (i32.const {number}) (i32.const {number}))
  (func (export "wait") (result i32) (call $gate (i32.const {number})) (i32.const {number}))
  (func (export "spin") (result i32) (loop (br 0)) (i32.const 0))
  (func (export "trap") (result i32) unreachable))"""
"""Says its number; ``wait`` says it when the program's function has returned."""

MANIFEST = """
name = "{name}"
version = "{version}"
module = "code.wat"
imports = ["env.gate"]
{more}
[entry_points]
which = "which"
twice = "twice"
wait = {{ export = "wait" }}
spin = "spin"
{tables}
"""


def manifest(name: str = "clock", version: str = "1.0.0", more: str = "", tables: str = "") -> str:
    """A manifest; ``more`` are fields, ``tables`` come after those."""
    return MANIFEST.format(name=name, version=version, more=more, tables=tables)


def put(
    plugins: Path,
    number: int,
    name: str = "clock",
    *,
    folder: str = "",
    version: str = "",
    more: str = "",
    tables: str = "",
    code: str = WAT,
) -> Path:
    """Write version ``number`` of a plug-in into its folder."""
    place = plugins / (folder or name)
    place.mkdir(exist_ok=True)
    (place / "code.wat").write_text(code.format(number=number))
    text = manifest(name, version or f"{number}.0.0", more, tables)
    (place / "plugin.toml").write_text(text)
    return place


def health(export: str, result: int | None = None, timeout: float = 5.0) -> str:
    """The table of a health check."""
    wanted = "" if result is None else f"result = {result}\n"
    return f'[health]\nexport = "{export}"\ntimeout = {timeout}\n{wanted}'


class Gate:
    """The program's function ``env.gate``, which lets a guest through when it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, number: int) -> None:
        self.entered.release()
        assert self.open.wait(60)

    @property
    def imports(self) -> dict[str, dict[str, Any]]:
        return {"env": {"gate": self}}


def whats(events: tuple[PluginEvent, ...]) -> list[tuple[str, str]]:
    return [(event.what, event.folder) for event in events]


class Heard:
    """Events, waited for."""

    def __init__(self) -> None:
        self.events: list[PluginEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: PluginEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, what: str, version: str = "") -> PluginEvent:
        def found() -> PluginEvent | None:
            fitting = [e for e in self.events if e.what == what and version in ("", e.version)]
            return fitting[-1] if fitting else None

        with self._changed:
            event = self._changed.wait_for(found, 30)
        assert event is not None, self.events
        return event
