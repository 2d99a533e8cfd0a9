"""``wasm-sandbox call``: call an exported function, print its result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from ..function import Function
from ..pool import Pool
from ..protocol.description import FunctionType
from ..values import Returns
from ..wit_codec import WitCodec
from .arguments import UsageError, make_parser, policy_of
from .progress import progress
from .reports import OK, jsonable, print_json, print_value
from .wit_arguments import parse_values

_RETURNS: dict[str | None, Returns] = {None: None, "str": str, "bytes": bytes, "json": "json"}
_INTEGERS = ("i32", "i64", "v128")
_POINTERS = (("i32", "i32"), ("i64", "i64"))


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    parser = make_parser(
        "call",
        "Call an exported function in a jailed worker and print its result.",
        rest="numbers as the function's type wants them (5, -1, 0x10, 1.5, inf); text for a "
        "parameter that is a pointer and a length; for a component also JSON",
    )
    parser.add_argument(
        "--returns", choices=("str", "bytes", "json"), help="read the result as a buffer"
    )
    options = parser.parse(arguments)
    policy = policy_of(options)
    with Pool(
        1,
        limits=policy.limits,
        capabilities=policy.capabilities,
        isolation=options.isolation,
        cache_dir=options.cache_dir,
        audit=options.audit,
    ) as pool:
        with progress(f"compiling {options.module}"):
            module = pool.load(options.module)
        function: Function = module[options.function].options(returns=_RETURNS[options.returns])
        if function.is_command:
            raise UsageError(f"{options.function} is a command: use `wasm-sandbox run`")
        value, receipt = function.detailed(*parse_arguments(function, options.rest))
    if options.json:
        print_json({"value": jsonable(value), "receipt": jsonable(receipt)})
    else:
        wit = isinstance(function.codec, WitCodec)
        print_value(value, as_buffer=options.returns is not None, wit=wit)
    return OK


def parse_arguments(function: Function, texts: Sequence[str]) -> list[Any]:
    """The values that ``texts`` are for the function's parameters.

    A text that is a number is one wherever the others still fit; else it is a buffer, which takes
    two parameters. Texts that fit in no way are taken for what they look like: the call will refuse
    them and say why.
    """
    codec = function.codec
    if isinstance(codec, WitCodec):
        return parse_values(codec, texts)
    values = _fit(codec.type, texts, buffers="alloc" in function.module)
    return [_guess(text) for text in texts] if values is None else values


def _guess(text: str) -> int | float | str:
    for kind in ("i64", "f64"):
        if (number := parse_number(kind, text)) is not None:
            return number
    return text


def _fit(kind: FunctionType, texts: Sequence[str], *, buffers: bool) -> list[Any] | None:
    params = kind.params

    @cache
    def fits(text: int, param: int) -> bool:
        if text == len(texts) or param >= len(params):
            return text == len(texts) and param == len(params)
        return as_number(text, param) or as_buffer(text, param)

    def as_number(text: int, param: int) -> bool:
        return parse_number(params[param], texts[text]) is not None and fits(text + 1, param + 1)

    def as_buffer(text: int, param: int) -> bool:
        return buffers and params[param : param + 2] in _POINTERS and fits(text + 1, param + 2)

    if not fits(0, 0):
        return None
    values: list[Any] = []
    param = 0
    for text in range(len(texts)):
        if as_number(text, param):
            values.append(parse_number(params[param], texts[text]))
            param += 1
        else:
            values.append(os.fsencode(texts[text]))  # as it was given, whatever the locale
            param += 2
    return values


def parse_number(kind: str, text: str) -> int | float | None:
    """``text`` as a number of the type ``kind``, or ``None``."""
    try:
        return int(text, 0) if kind in _INTEGERS else float(text)
    except ValueError:
        pass
    try:
        return int(text, 10) if kind in _INTEGERS else float(int(text, 0))
    except (ValueError, OverflowError):
        return None
