"""What host functions of components take and give: the codec of one of them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from .guest_memory import WantsMemory
from .protocol.description import FunctionType
from .protocol.errors import ArgumentOutOfRange, SignatureMismatch
from .protocol.messages import LentFunction
from .supervisor.imports import BadArgument
from .supervisor.objects import held
from .wit_converters import Converter, Wrong, take_nothing
from .wit_types import WitFunction

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_NO_TYPE = FunctionType((), ())


class HostWitCodec:
    """Between the wire values of one import of a component and the values of its function.

    Args:
        interface, name: of the import.
        params, result: the converters of its type. text: the type, as errors write it.
    """

    def __init__(
        self,
        interface: str,
        name: str,
        params: Sequence[Converter],
        result: Converter | None,
        text: WitFunction,
    ) -> None:
        self.name = f"{interface}#{name}" if interface else name
        self.shape = LentFunction(interface, name, _NO_TYPE, component=True)
        self.memory: WantsMemory | None = None  # a component has none that could be given
        self._params = params
        self._result = result
        self._text = text

    def unpack(self, slots: bytes, data: bytes) -> list[Any]:
        """The arguments.

        Raises:
            BadArgument: they are not of the function's type, or name what the guest does not have;
                or the function was given up.
        """
        turn = held.get()
        try:
            given = _decode(data)
            if type(given) is not list or len(cast("list[object]", given)) != len(self._params):
                raise BadArgument("the guest gave another number of arguments")
            wire = cast("list[object]", given)
            values = [kind.take(each) for kind, each in zip(self._params, wire, strict=True)]
        except Wrong as wrong:
            raise BadArgument(f"an argument{wrong.path} {wrong.why}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadArgument(f"the arguments cannot be read: {error}") from None
        turn.settle()
        return values

    def pack(self, value: Any) -> tuple[bytes, bytes]:
        """What the function returned. Objects in it are among ``held`` also when this fails: until
        its turn is undone.

        Raises:
            SignatureMismatch: it is not of the function's type; names the place in it.
            ArgumentOutOfRange: a number that its type cannot hold.
        """
        try:
            if self._result is not None:
                return b"", _encode(self._result.put(value))
            take_nothing(value)
        except Wrong as wrong:
            error = ArgumentOutOfRange if wrong.out_of_range else SignatureMismatch
            raise error(
                f"{self.name}: the result{wrong.path} {wrong.why}; the type is {self._text}"
            ) from None
        except RecursionError:
            raise SignatureMismatch(f"{self.name}: the result is nested too deeply") from None
        return b"", _encode(None)
