"""The codec of one exported function of a component: its arguments and its result, each one buffer
of MessagePack. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from .object_handles import giving, object_handle
from .protocol.errors import ArgumentOutOfRange, BadResult, SignatureMismatch
from .protocol.messages import SLOT
from .protocol.wit import Signature, World
from .supervisor.imports import BadArgument
from .supervisor.objects import ResourceKind
from .values import Buffers, Returns
from .wit_converters import Convert, Converter, Handle, WitTypes, Wrong, mismatch, take_nothing
from .wit_types import WitFunction, WitText
from .wit_values import Resource

_SLOTS = bytes(2 * SLOT)
"""Of the one buffer that all arguments are in: a pointer and a length."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class WitCodec:
    """Checks and packs the arguments of a component's function, unpacks and checks its results.

    Args:
        kept: whether its calls are made in an instance that lives on.
        provided: the resources that the program provides.

    Raises:
        SignatureMismatch: the type has other resources, which cannot outlive a fresh instance.
    """

    def __init__(
        self,
        name: str,
        world: World,
        signature: Signature,
        provided: Mapping[int, ResourceKind] = MappingProxyType({}),
        *,
        kept: bool = False,
    ) -> None:
        self.name = name
        self.world = world
        self.signature = signature
        self.passes_objects = False
        """Whether objects of the program's are among its arguments or in its result; where they
        are, ``held`` must be set for ``pack``."""
        self.gives_objects = bool(provided) and signature.result in giving(world, provided)
        """Whether some may be in its result: then ``held`` must be set for ``unpack``, too."""

        def handle(kind: Handle, text: str) -> Converter:
            found = provided.get(kind.resource)
            if found is None:
                return _handle(world, kind, text, kept=kept)
            self.passes_objects = True
            return object_handle(found, kind)

        types = WitTypes(world, handle)
        self.type: WitFunction = WitText(world).function(signature)
        try:
            self._params = [types.get(ref) for _, ref in signature.params]
            self._result = None if signature.result is None else types.get(signature.result)
        except SignatureMismatch as error:
            raise SignatureMismatch(f"{name}: {error.args[0]}; the type is {self.type}") from None

    @classmethod
    def dropping(cls, name: str, world: World, resource: int) -> WitCodec:
        """The codec of the function that drops a resource of an instance that lives on."""
        codec = cls(name, world, Signature(), kept=True)
        codec.type = WitFunction((("self", world.resources[resource]),))
        codec._params = [_resource(world, resource)]
        return codec

    def converters(self) -> tuple[list[Convert], Convert]:
        """Of each argument to its wire value, and of the result's wire value."""
        result = take_nothing if self._result is None else self._result.take
        return [kind.put for kind in self._params], result

    def pack(self, args: tuple[Any, ...]) -> tuple[bytes, Buffers]:
        """The slots and the one buffer of a call with ``args``.

        Raises:
            SignatureMismatch: wrong number or types of arguments; names the place in them.
            ArgumentOutOfRange: a number that its type cannot hold.
        """
        if len(args) != len(self._params):
            raise SignatureMismatch(
                f"{self.name}: takes {len(self._params)} argument"
                f"{'s' * (len(self._params) != 1)}, {len(args)} given; the type is {self.type}"
            )
        values: list[Any] = []
        for number, (kind, arg) in enumerate(zip(self._params, args, strict=True), 1):
            try:
                values.append(kind.put(arg))
            except Wrong as wrong:
                error = ArgumentOutOfRange if wrong.out_of_range else SignatureMismatch
                raise error(
                    f"{self.name}: argument {number}{wrong.path} {wrong.why}; "
                    f"the type is {self.type}"
                ) from None
            except RecursionError:
                raise SignatureMismatch(
                    f"{self.name}: argument {number} is nested too deeply"
                ) from None
        return _SLOTS, ((0, _encode(values)),)

    def check_returns(self, returns: Returns) -> None:
        """Refuse ``returns``: a component's function says itself what it returns.

        Raises:
            SignatureMismatch: it was asked for.
        """
        if returns is not None:
            raise SignatureMismatch(
                f"{self.name}: returns= is for core modules; the type is {self.type}",
                "list<u8> comes back as bytes, string as str",
            )

    def unpack(
        self, slots: bytes, data: bytes | memoryview | None = None, returns: Returns = None
    ) -> Any:
        """The value of a call.

        Raises:
            BadResult: what came back is no value of the function's type.
        """
        try:
            return self.converters()[1](_decode(data or b""))
        except Wrong as wrong:
            raise BadResult(f"{self.name}: the result{wrong.path} {wrong.why}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadArgument) as error:
            raise BadResult(f"{self.name}: the result cannot be read: {error}") from None


def _handle(world: World, kind: Handle, text: str, *, kept: bool) -> Converter:
    if kept:
        return _resource(world, kind.resource)
    raise SignatureMismatch(
        f"{text} is a resource: it lives as long as its instance, and each call has an instance of "
        "its own; pool.instance keeps one"
    )


def _resource(world: World, resource: int) -> Converter:
    name = world.resources[resource]

    def put(value: Any) -> int:
        number = value.wire(world, resource) if isinstance(value, Resource) else None
        if number is None:
            raise mismatch(f"a resource {name} of this module's instance", value)
        return number

    def take(value: Any) -> Resource:
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise mismatch(name, value)
        return Resource(world, resource, value)

    return Converter(put, take)
