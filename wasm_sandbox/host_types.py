"""What a host function takes and gives: its annotations held against the guest's import.

A parameter annotated ``str``, ``bytes``, ``dict``, ``list`` (also as ``dict[str, int]``), a
dataclass, a ``msgspec.Struct`` or a ``TypedDict`` takes two of the guest's, a pointer and a length;
any other takes one number. The keyword ``memory`` is the guest's memory. No I/O.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from .guest_memory import Pointer, WantsMemory, memory_asked
from .protocol.description import ExternMemory, FunctionType, ModuleDescription
from .protocol.errors import MissingExport, SignatureMismatch
from .protocol.messages import LentFunction
from .supervisor.imports import BadArgument
from .values import Codec

_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = inspect.Parameter.VAR_POSITIONAL
_NUMBERS: dict[object, tuple[str, ...]] = {
    int: ("i32", "i64"),
    float: ("f32", "f64"),
    bool: ("i32",),
}
_ANYTHING = (_EMPTY, Any, object)
_BYTES_LIKE = (bytes, bytearray, memoryview)
_WHAT_FITS = (
    "numbers are int, float or bool; str, bytes, dict, list, dataclasses and TypedDicts are buffers"
)


class _Argument(NamedTuple):
    """Where one argument of the function comes from."""

    at: int
    """Its first parameter."""
    read: Callable[[Any], Any] | None
    """What to make of the number, or of the bytes; ``None`` leaves it."""
    buffer: bool


class HostCodec:
    """Between the values of one import and those of its function.

    Raises:
        SignatureMismatch: the function cannot be called with what the guest gives, or cannot give
            what it takes.
        MissingExport: buffers are asked for, and the module lacks what that needs.
    """

    def __init__(
        self,
        module: str,
        name: str,
        kind: FunctionType,
        function: Callable[..., Any],
        description: ModuleDescription,
    ) -> None:
        self.name = f"{module}.{name}"
        self._description = description
        self._type = kind
        if kind.references or "v128" in kind.params + kind.results:
            raise self._mismatch("only i32, i64, f32 and f64 can cross to a host function")
        self._codec = Codec(self.name, kind)
        signature = self._signature(function)
        self._arguments: list[_Argument] | None = None
        self._returns: Any = _EMPTY
        self.memory: WantsMemory | None = None
        if signature is not None:
            self.memory = self._wanted(signature)
            self._arguments = list(self._plan(signature))
            self._returns = self._plain_type(signature.return_annotation)
        self._plain = self._arguments is None or all(
            not each.buffer and each.read is None for each in self._arguments
        )
        self.shape = LentFunction(
            module,
            name,
            kind,
            tuple(each.at for each in self._arguments or () if each.buffer),
            self._result(),
        )

    # --- at work --------------------------------------------------------------------------------

    def unpack(self, slots: bytes, data: bytes) -> list[Any] | tuple[Any, ...]:
        """The arguments.

        Raises:
            BadArgument: bytes that are no text, or not the JSON that was declared.
        """
        numbers = self._codec.unpack_arguments(slots)
        if self._arguments is None or self._plain:
            return numbers
        values: list[Any] = []
        sizes = (size for _, size in self.shape.places(slots))
        start = 0
        for at, read, buffer in self._arguments:
            value: Any = numbers[at]
            if buffer:
                size = next(sizes)
                value = data[start : start + size]
                start += size
            try:
                values.append(value if read is None else read(value))
            except (ValueError, RecursionError) as error:
                raise BadArgument(f"argument {len(values) + 1} does not decode: {error}") from None
        return values

    def pack(self, value: Any) -> tuple[bytes, bytes]:
        """What the function returned: slots, or bytes.

        Raises:
            SignatureMismatch: it does not fit.
            ArgumentOutOfRange: a number that does not fit.
        """
        if self._returns is bool and isinstance(value, bool):
            value = int(value)
        if not self.shape.result:
            return self._codec.pack_results(value), b""
        if (self._returns is str and not isinstance(value, str)) or (
            self._returns is bytes and not isinstance(value, _BYTES_LIKE)
        ):
            raise SignatureMismatch(
                f"{self.name}: returned {type(value).__name__}, and is declared to return "
                f"{self._returns.__name__}"
            )
        return b"", self._codec.encode_result(value)

    # --- linking --------------------------------------------------------------------------------

    def _signature(self, function: Callable[..., Any]) -> inspect.Signature | None:
        try:
            inspect.signature(function)
        except (TypeError, ValueError):
            return None  # built in: nothing is known of it
        try:
            return inspect.signature(function, eval_str=True)
        except Exception as error:  # of whatever they say
            raise self._mismatch(f"its annotations cannot be evaluated: {error!r}") from error

    def _wanted(self, signature: inspect.Signature) -> WantsMemory | None:
        kind = memory_asked(signature)
        if kind is None:
            return None
        self._check_memory()
        return WantsMemory(kind, self._pointer, self._allocates)

    def _plan(self, signature: inspect.Signature) -> Iterator[_Argument]:
        params, at = self._type.params, 0
        for parameter in signature.parameters.values():
            if parameter.kind not in (*_POSITIONAL, _VARIADIC):
                required = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is _EMPTY
                if required and (parameter.name != "memory" or self.memory is None):
                    raise self._mismatch(f"{parameter.name} is given by keyword only")
                continue
            many = parameter.kind is _VARIADIC
            while at < len(params) or not many:
                if at >= len(params):
                    if parameter.default is not _EMPTY:
                        break
                    raise self._mismatch(f"nothing is left for its parameter {parameter.name}")
                argument = self._argument(parameter, at)
                yield argument
                at += 2 if argument.buffer else 1
                if not many:
                    break
        if at < len(params):
            raise self._mismatch(
                f"it takes no parameter {at + 1}", "str, bytes, dict and list take two each"
            )

    def _argument(self, parameter: inspect.Parameter, at: int) -> _Argument:
        annotation, kind = self._plain_type(parameter.annotation), self._type.params[at]
        if annotation in _ANYTHING:
            return _Argument(at, None, False)
        if annotation in _NUMBERS:
            if kind not in _NUMBERS[annotation]:
                raise self._mismatch(
                    f"its parameter {parameter.name} is {annotation.__name__}, and gets {kind}"
                )
            return _Argument(at, bool if annotation is bool else None, False)
        read = self._reader(annotation, f"its parameter {parameter.name}")
        self._check_memory()
        if self._type.params[at : at + 2] != (self._pointer, self._pointer):
            raise self._mismatch(
                f"its parameter {parameter.name} takes a pointer and a length, both "
                f"{self._pointer}; parameter {at + 1} and the next are not that"
            )
        return _Argument(at, read, True)

    def _plain_type(self, annotation: Any) -> Any:
        """``annotation`` without what is only told about it."""
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        try:
            hash(annotation)
        except TypeError:
            raise self._mismatch(f"{annotation!r} is no type", _WHAT_FITS) from None
        return annotation

    def _reader(self, annotation: Any, what: str) -> Callable[[bytes], Any] | None:
        if annotation is str:
            return bytes.decode
        if annotation is bytes:
            return None
        if _is_json(annotation):
            try:
                return msgspec.json.Decoder(annotation).decode
            except (TypeError, NameError) as error:
                raise self._mismatch(f"{what} cannot be read from JSON: {error}") from None
        raise self._mismatch(f"{what} is annotated {annotation!r}", _WHAT_FITS)

    def _result(self) -> typing.Literal["", "packed", "pair"]:
        results, returns = self._type.results, self._returns
        if returns in _ANYTHING or returns is typing.NoReturn or returns is typing.Never:
            return ""
        if returns is None or returns is types.NoneType:
            if results:
                raise self._mismatch("it is declared to return nothing")
            return ""
        if returns in _NUMBERS:
            if len(results) != 1 or results[0] not in _NUMBERS[returns]:
                raise self._mismatch(f"it is declared to return {returns.__name__}")
            return ""
        if (typing.get_origin(returns) or returns) is tuple:
            self._check_tuple(typing.get_args(returns))
            return ""
        self._reader(returns, "its result")
        self._check_memory("alloc(size) -> pointer")
        if results == ("i64",) and self._pointer == "i32":
            return "packed"
        if results == (self._pointer, self._pointer):
            return "pair"
        raise self._mismatch(
            "its result needs an i64, (pointer << 32) | length, or else a pointer and a length"
        )

    def _check_tuple(self, kinds: tuple[Any, ...]) -> None:
        results = self._type.results
        if len(results) < 2:
            raise self._mismatch("it is declared to return a tuple")
        if kinds and kinds[-1] is not Ellipsis:
            fits = len(kinds) == len(results) and all(
                kind in _ANYTHING or have in _NUMBERS.get(kind, ())
                for kind, have in zip(kinds, results, strict=True)
            )
            if not fits or bool in kinds:
                raise self._mismatch("it is declared to return a tuple of other types")

    @property
    def _pointer(self) -> Pointer:
        memory = self._memory()
        return "i64" if memory is not None and memory.type.is_64 else "i32"

    @property
    def _allocates(self) -> bool:
        alloc = FunctionType((self._pointer,), (self._pointer,))
        return self._description.function("alloc") == alloc

    def _memory(self) -> ExternMemory | None:
        for export in self._description.exports:
            if export.name == "memory" and isinstance(export.type, ExternMemory):
                return export.type
        return None

    def _check_memory(self, *also: str) -> None:
        missing = ["memory"] if self._memory() is None else []
        if also and not self._allocates:
            missing += also
        if missing:
            raise MissingExport(
                f"{self.name} needs the guest's memory, and the module does not export "
                f"{' and '.join(missing)}",
                "see the buffer convention in docs/host-functions.md",
            )

    def _mismatch(self, why: str, hint: str = "") -> SignatureMismatch:
        return SignatureMismatch(
            f"the host function for {self.name} does not fit its import, {self._type}: {why}", hint
        )


def _is_json(annotation: Any) -> bool:
    kind: Any = typing.get_origin(annotation) or annotation
    return kind in (dict, list) or (
        isinstance(kind, type)
        and (
            dataclasses.is_dataclass(kind)
            or issubclass(kind, msgspec.Struct)
            or typing.is_typeddict(kind)  # pyright: ignore[reportUnknownArgumentType]
        )
    )
