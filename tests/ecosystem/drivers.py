"""Other people's guests with an interface of their own, as Python objects: what their JavaScript
packages do, done through an ``Instance``."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasm_sandbox import Instance, Module, Pool, Snapshot

_MASK = 0xFFFFFFFF


class RubyError(Exception):
    """What a Ruby program raised: the class of it, and its message."""


def load_ruby(pool: Pool, source: Path | Snapshot, keyword: str) -> Module:
    """``ruby.wasm``, or a snapshot of it, with a host that has no JavaScript. Its handles of Ruby's
    values, which are addresses, are these addresses; the functions for that are given as
    ``keyword`` says."""

    def refuse(*_: Any) -> Any:
        raise NotImplementedError("there is no JavaScript here")

    imports: dict[str, dict[str, Callable[..., Any]]] = {}
    handles: dict[str, dict[str, Callable[..., Any]]] = {}
    for needed in pool.load(source).imports:
        if needed.name.startswith(("resource_new_", "resource_get_")):
            handles.setdefault(needed.module, {})[needed.name] = operator.index
        elif needed.module != "wasi_snapshot_preview1":
            imports.setdefault(needed.module, {})[needed.name] = refuse
    if keyword == "worker_imports":
        return pool.load(source, imports=imports, worker_imports=handles)
    for module, functions in handles.items():
        imports[module] |= functions
    return pool.load(source, imports=imports)


class Ruby:
    """A Ruby interpreter in an instance of ``ruby.wasm``."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        exports = instance.module.exports
        self._names = {name.partition(":")[0]: name for name in exports}

    def start(self, *arguments: str) -> None:
        """Make the interpreter."""
        pairs = [self._write_text(text) for text in arguments]
        table = self._write(b"".join(struct.pack("<II", *pair) for pair in pairs))[0]
        self._call("ruby-init", table, len(pairs))
        self._call("ruby-init-loadpath")

    def evaluate(self, code: str, *, timeout: float | None = None) -> str:
        """The value of an expression, as Ruby shows it.

        Raises:
            RubyError: it raised something.
        """
        place = self._write_text(f"({code}).inspect")
        value, state = self._pair(self._call("rb-eval-string-protect", *place, timeout=timeout))
        if state:
            self._release(value)
            raise self._error()
        return self._text(value)

    def _error(self) -> RubyError:
        error = self._call("rb-errinfo")
        self._call("rb-clear-errinfo")
        message = self._call("rb-intern", *self._write_text("inspect"))
        shown, state = self._pair(self._call("rb-funcallv-protect", error, message, 0, 0))
        assert state == 0
        self._release(error)
        return RubyError(self._text(shown))

    def _text(self, value: int) -> str:
        returned = self._call("rstring-ptr", value)
        text = self.instance.memory(*self._pair(returned)).decode()
        self._call("cabi_post_rstring-ptr", returned)
        self._release(value)
        return text

    def _release(self, value: int) -> None:
        self._call("canonical_abi_drop_rb-abi-value", value)

    def _pair(self, place: int) -> tuple[int, int]:
        first, second = struct.unpack("<II", self.instance.memory(place, 8))
        return first, second

    def _write_text(self, text: str) -> tuple[int, int]:
        """Texts end in NUL, which counts."""
        return self._write(text.encode() + b"\0")

    def _write(self, data: bytes) -> tuple[int, int]:
        """Put bytes where the guest, which is their owner then, wants them."""
        place = self._call("cabi_realloc", 0, 0, 4, len(data))
        self.instance.write_memory(place, data)
        return place, len(data)

    def _call(self, name: str, *arguments: int, timeout: float | None = None) -> int:
        value = self.instance.call(self._names[name], *arguments, timeout=timeout)
        return 0 if value is None else value & _MASK


class JavaScriptError(Exception):
    """What a JavaScript program threw, as text."""


class QuickJS:
    """A QuickJS interpreter in an instance of ``quickjs.wasm``."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def start(self) -> None:
        """Make the interpreter."""
        assert self.instance.call("qjs_init") == 0
        self.instance.call("qjs_set_max_stack_size", 64 << 10)

    def listen(self, name: str) -> None:
        """Have JavaScript's global function ``name`` be the host's."""
        place, size = self._write(name)
        function = self.instance.call("qjs_new_host_function", place, size, 0)
        world = self.instance.call("qjs_get_global")
        assert self.instance.call("qjs_set_prop_string", world, place, function) >= 0
        for value in (function, world):
            self.instance.call("qjs_free_value", value)
        self.instance.call("wasm_free", place)

    def number(self, number: float) -> int:
        """A value of the interpreter's, for a host function to return."""
        return int(self.instance.call("qjs_new_number", number))

    def evaluate(self, code: str, *, timeout: float | None = None) -> str:
        """The value of a program, as text.

        Raises:
            JavaScriptError: it threw something.
        """
        call = self.instance.call
        (place, size), (name, _) = self._write(code), self._write("code.js")
        value = call("qjs_eval", place, size, name, 0, timeout=timeout)
        call("wasm_free", place)
        call("wasm_free", name)
        if call("qjs_is_exception", value):
            call("qjs_free_value", value)
            raise JavaScriptError(self._text(call("qjs_get_exception")))
        return self._text(value)

    def _text(self, value: int) -> str:
        call = self.instance.call
        text = call("qjs_get_string", value)
        shown = self.instance.memory(text, call("strlen", text)).decode()
        call("qjs_free_cstring", text)
        call("qjs_free_value", value)
        return shown

    def _write(self, text: str) -> tuple[int, int]:
        """Put a text, with NUL after it, into memory of the guest's."""
        data = text.encode()
        place = self.instance.call("wasm_malloc", len(data) + 1)
        self.instance.write_memory(place, data + b"\0")
        return place, len(data)


def gofmt(instance: Instance, source: bytes) -> bytes:
    """Format a Go program.

    Raises:
        SyntaxError: it is none.
    """
    call = instance.call
    try:
        instance.write_memory(call("alloc", len(source)), source)
        changed = call("format")
        shown = instance.memory(call("output_ptr"), call("output_len"))
        if changed not in (0, 1):
            raise SyntaxError(shown.decode())
        return shown if changed else source
    finally:
        call("dispose")
