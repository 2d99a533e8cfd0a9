"""A component's arguments, as they are written on the command line.

Text for ``string``, ``char``, an enum and ``list<u8>``; numbers as they are; ``true`` and
``false``; JSON for everything else, in which a record is an object, a variant ``{"case": payload}``
and a result ``{"ok": value}`` or ``{"err": error}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, cast

from ..protocol import wit
from ..protocol.wit import INTEGERS, NUMBERS, Ref, World
from ..wit_codec import WitCodec
from ..wit_values import Err, Ok, Some, Variant
from .arguments import UsageError


def parse_values(codec: WitCodec, texts: Sequence[str]) -> list[Any]:
    """The values that ``texts`` are for the function's parameters. What does not fit is left to the
    call, which refuses it and says why.

    Raises:
        UsageError: a text that should be JSON is none.
    """
    refs: list[Ref | None] = [ref for _, ref in codec.signature.params]
    refs += [None] * (len(texts) - len(refs))
    return [
        text if ref is None else _from_text(codec.world, ref, text)
        for ref, text in zip(refs, texts, strict=False)
    ]


def _from_text(world: World, ref: Ref, text: str) -> Any:
    if isinstance(ref, str):
        return _primitive(ref, text)
    match world.types[ref]:
        case wit.Enum():
            return text
        case wit.List("u8"):
            return os.fsencode(text)
        case wit.Option(some) if text != "null":
            value = _from_text(world, some, text)
            return Some(value) if _is_option(world, some) else value
        case _:
            try:
                return _from_json(world, ref, json.loads(text))
            except ValueError as error:
                raise UsageError(f"{text[:60]!r} is no JSON: {error}") from None


def _primitive(name: str, text: str) -> Any:
    try:
        if name in INTEGERS:
            return int(text, 0)
        if name in NUMBERS:
            return float(text)
    except ValueError:
        return text
    return {"true": True, "false": False}.get(text, text) if name == "bool" else text


def _is_option(world: World, ref: Ref) -> bool:
    return isinstance(ref, int) and isinstance(world.types[ref], wit.Option)


def _from_json(world: World, ref: Ref, value: Any) -> Any:
    """The Python value of a type that JSON says; what does not fit stays as it is."""
    if isinstance(ref, str):
        return float(value) if ref in ("f32", "f64") and type(value) is int else value
    kind = world.types[ref]
    match kind, value:
        case wit.List(element), list():
            return [_from_json(world, element, each) for each in cast("list[object]", value)]
        case wit.Tuple(items), list() if len(items) == len(cast("list[object]", value)):
            return tuple(map(_from_json, [world] * len(items), items, cast("list[object]", value)))
        case wit.Record(fields), dict():
            types = dict(fields)
            given = cast("dict[str, Any]", value)
            return {
                name: _from_json(world, types[name], each) if name in types else each
                for name, each in given.items()
            }
        case wit.Option(some), _ if value is not None:
            nested = _is_option(world, some)
            if (
                nested
                and isinstance(value, dict)
                and list(cast("dict[str, Any]", value)) == ["some"]
            ):
                value = cast("dict[str, Any]", value)["some"]
            inner = None if value is None else _from_json(world, some, value)
            return Some(inner) if nested else inner
        case wit.Variant(cases), dict() if len(cast("dict[str, Any]", value)) == 1:
            ((name, payload),) = cast("dict[str, Any]", value).items()
            return Variant(name, _payload(world, dict(cases).get(name), payload))
        case wit.Result(ok, error), dict() if len(cast("dict[str, Any]", value)) == 1:
            ((name, payload),) = cast("dict[str, Any]", value).items()
            if name not in ("ok", "err"):
                return cast(Any, value)
            return (
                Ok(_payload(world, ok, payload))
                if name == "ok"
                else Err(_payload(world, error, payload))
            )
        case _:
            return value


def _payload(world: World, ref: Ref | None, value: Any) -> Any:
    return value if ref is None or value is None else _from_json(world, ref, value)
