"""Functions of the program's that run in the worker itself, beside the guest.

They come pickled, from the program to the worker and never back, and are unpickled once: before the
jail is put on, because what they import is out of reach afterwards, and before there is any guest.
"""

from __future__ import annotations

import operator
import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from ..protocol.messages import LentFunction
from ..protocol.wit import INTEGERS, NUMBERS
from .engines.interface import EngineRefusal, GuestMemory, GuestTrap, HostFunction

Helpers = Mapping[tuple[str, str], Callable[..., object]]
"""By module and name."""

FAILED = "host_function"
"""The code of a trap that a failing helper makes."""
_FORMATS = {"i32": "i12x", "i64": "q8x", "f32": "f12x", "f64": "d8x"}
_BITS = {"i32": 32, "i64": 64}


class Unusable(Exception):
    """The functions cannot be had here; the text says why."""


def unpickle(pickled: bytes) -> Helpers:
    """The functions of a profile. They are the program's own code, and do what they like.

    Raises:
        Unusable: they cannot be unpickled, or have started threads, around which there is no jail.
    """
    if not pickled:
        return {}
    # The zygote does without some modules, and with no directory for temporary files.
    modules: dict[str, object] = {**sys.modules}
    for name in [name for name, module in modules.items() if module is None]:
        del sys.modules[name]
    import tempfile

    tempfile.tempdir = tempfile.tempdir or os.sep
    try:
        import dill

        helpers: Helpers = dill.loads(pickled)
    except Exception as error:  # whatever their modules raise when they are imported
        raise Unusable(
            f"worker_imports cannot be unpickled: {type(error).__name__}: {error}"
        ) from None
    if len(os.listdir("/proc/self/task")) > 1:
        raise Unusable("worker_imports start threads where they are imported")
    return helpers


def helper(helpers: Helpers, lent: LentFunction) -> HostFunction:
    """One of them, for a module that imports it.

    Raises:
        EngineRefusal: ``missing_import``: this worker does not have it.
    """
    name, called = _find(helpers, lent)
    results = lent.type.results
    given = struct.Struct("<" + "".join(_FORMATS[kind] for kind in lent.type.params))
    answer = struct.Struct("<" + "".join(_FORMATS[kind] for kind in results))

    def call(_memory: GuestMemory, slots: bytes) -> bytes:
        try:
            return answer.pack(*_values(called(*given.unpack(slots)), results))
        except BaseException as error:  # of the function, whatever it is
            raise _failed(name, error) from None

    return HostFunction(module=lent.module, name=lent.name, type=lent.type, call=call)


def component_helper(helpers: Helpers, lent: LentFunction) -> Callable[..., Any]:
    """One of them, for a component that imports it: of wire values, which are numbers.

    Raises:
        EngineRefusal: ``missing_import``: this worker does not have it.
    """
    name, called = _find(helpers, lent)
    results = lent.type.results

    def call(*values: Any) -> Any:
        try:
            made = _values(called(*values), results, _wit_number)
            return made[0] if made else None
        except BaseException as error:  # of the function, whatever it is
            raise _failed(name, error) from None

    return call


def _find(helpers: Helpers, lent: LentFunction) -> tuple[str, Callable[..., object]]:
    name = f"{lent.module}.{lent.name}" if lent.module else lent.name
    called = helpers.get((lent.module, lent.name))
    if called is None:
        raise EngineRefusal("missing_import", f"this worker has no function {name}")
    return name, called


def _failed(name: str, error: BaseException) -> GuestTrap:
    return GuestTrap(
        FAILED, f"the function {name} in the worker raised {type(error).__name__}: {error}"
    )


def _values(
    value: Any, results: tuple[str, ...], number: Callable[[str, Any], Any] | None = None
) -> list[Any]:
    values: tuple[object, ...] = (value,)
    given = type(value).__name__
    if len(results) != 1:
        values = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
    if len(values) != len(results) or not (results or value is None):
        raise TypeError(f"it returned {given} for {len(results)} results")
    number = number or _number
    return [number(kind, each) for kind, each in zip(results, values, strict=True)]


def _number(kind: str, value: Any) -> Any:
    """A value that can be packed as ``kind``, if it is a number: integers signed."""
    if isinstance(value, bool):
        raise TypeError(f"it returned bool for {kind}")
    if kind not in _BITS:
        return value
    number: int = operator.index(value)
    bits = _BITS[kind]
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        raise OverflowError(f"{number} is no {kind}")
    return number - (1 << bits) if number >> (bits - 1) > 0 else number


def _wit_number(kind: str, value: Any) -> Any:
    """A value that WIT's ``kind`` can hold."""
    if isinstance(value, bool):
        raise TypeError(f"it returned bool for {kind}")
    if kind not in INTEGERS:
        return struct.unpack("<" + NUMBERS[kind], struct.pack("<" + NUMBERS[kind], value))[0]
    number: int = operator.index(value)
    least, greatest = INTEGERS[kind]
    if not least <= number <= greatest:
        raise OverflowError(f"{number} is no {kind}")
    return number
