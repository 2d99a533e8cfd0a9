"""How results and errors are shown, and which exit code goes with an error."""

from __future__ import annotations

import base64
import json
import math
import sys
from typing import Any

import msgspec

from ..protocol.errors import (
    CapabilityDenied,
    CompilationLimit,
    GuestError,
    HostFunctionError,
    IsolationError,
    LimitExceeded,
    ModuleQuarantined,
    PoolError,
    SandboxError,
    WorkerLost,
)
from ..wit_values import Err, Ok, Some, Variant
from .arguments import UsageError, complain

OK, GUEST_FAILED, USAGE, LIMIT, WORKER_LOST, ISOLATION = range(6)
OUTPUT_FAILED, INTERRUPTED, BROKEN_PIPE = 74, 130, 141

_CODES: tuple[tuple[type[SandboxError], int], ...] = (
    (LimitExceeded, LIMIT),
    (CompilationLimit, LIMIT),
    (ModuleQuarantined, WORKER_LOST),
    (GuestError, GUEST_FAILED),
    (CapabilityDenied, GUEST_FAILED),
    (HostFunctionError, GUEST_FAILED),
    (WorkerLost, WORKER_LOST),
    (PoolError, WORKER_LOST),
    (IsolationError, ISOLATION),
)


def exit_code(error: SandboxError | UsageError) -> int:
    """The exit code for an error; what the user wrote is to blame where nothing else is."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)


def report(error: SandboxError | UsageError, *, as_json: bool) -> int:
    """Show an error, and give its exit code."""
    text = str(error.args[0]) if error.args else type(error).__name__
    hint = error.hint if isinstance(error, SandboxError) else ""
    if as_json:
        print_json(
            {"error": {"type": type(error).__name__, "message": text, "hint": hint} | _data(error)}
        )
    else:
        complain(f"wasm-sandbox: error: {_paragraph(text)}")
        for frame in getattr(error, "backtrace", ()):
            complain(f"    {printable(str(frame))}")
        if hint:
            complain(f"hint: {_paragraph(hint)}")
    return exit_code(error)


def _data(error: Exception) -> dict[str, Any]:
    data = {
        name: value
        for name, value in vars(error).items()
        if name not in ("hint", "receipt", "message") and not name.startswith("_")
    }
    receipt = getattr(error, "receipt", None)
    return {"data": jsonable(data), "receipt": jsonable(receipt)}


def printable(text: str) -> str:
    """``text`` without control characters: a guest may have written it, and this is a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _paragraph(text: str) -> str:
    """The lines of an error, printable; those after the first cannot be taken for ours."""
    return "\n    ".join(printable(line) for line in text.splitlines() if line.strip())


def print_line(text: str) -> None:
    """A line on standard output, if there is one: in UTF-8, whatever the terminal's encoding is."""
    if sys.stdout is not None:
        # A lone surrogate, of an argument that is no UTF-8, becomes the escape that JSON has too.
        sys.stdout.buffer.write(f"{text}\n".encode(errors="backslashreplace"))


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print_line(json.dumps(value, ensure_ascii=False, allow_nan=False))
    if sys.stdout is not None:
        sys.stdout.flush()


def jsonable(value: Any) -> Any:
    """``value`` as JSON has it: bytes in base64, floats that are no numbers as text."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case list() | tuple():
            return [jsonable(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {str(key): jsonable(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case None | bool() | int() | float() | str():
            return value
        case frozenset():
            return sorted(map(str, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case Ok():
            return {"ok": jsonable(value.value)}
        case Err():
            return {"err": jsonable(value.error)}
        case Some():
            return {"some": jsonable(value.value)}
        case Variant():
            return {value.case: jsonable(value.payload)}
        case msgspec.Struct():
            return jsonable(msgspec.to_builtins(value))
        case _:
            return repr(value)


def text_or_bytes(name: str, content: bytes) -> dict[str, str]:
    """``{name: text}``, or ``{name_base64: …}`` for what is not UTF-8."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _results(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)  # pyright: ignore[reportUnknownVariableType]


def print_value(value: Any, *, as_buffer: bool, wit: bool = False) -> None:
    """A call's value: each result on its own line; a buffer as it is. Of a component the one value,
    as JSON where it is no number and no text."""
    if wit:
        if value is not None:
            scalar = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            print_line(str(value) if scalar else json.dumps(jsonable(value), ensure_ascii=False))
    elif isinstance(value, bytes) and as_buffer:
        if sys.stdout is not None:
            sys.stdout.buffer.write(value)
    elif as_buffer:
        print_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    elif value is not None:
        for each in _results(value):
            print_line("0x" + each[::-1].hex() if isinstance(each, bytes) else str(each))
