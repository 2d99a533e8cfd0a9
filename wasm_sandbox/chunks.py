"""What is given as standard input, or to a stream: a descriptor, or chunks from wherever."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any, cast

from .options import HasDescriptor, descriptor_of
from .pipes import PIECE
from .protocol.errors import ConfigurationError

Bytes = bytes | bytearray | memoryview
Chunks = Iterable[Bytes] | AsyncIterable[Bytes] | Callable[[], Any]
"""Pieces of input: an iterable, an asynchronous one with ``open_pool``, or a function, sync or
async, that is called for each piece until it gives none (``b""``)."""


def are_chunks(stdin: object) -> bool:
    """Whether it is chunks, and neither bytes nor something that has a descriptor."""
    if isinstance(stdin, str | bytes | bytearray | memoryview | int):
        return False
    if isinstance(stdin, HasDescriptor):
        try:
            stdin.fileno()
        except (OSError, ValueError):  # io.BytesIO and the like, or closed
            return hasattr(stdin, "read") and not getattr(stdin, "closed", False)
        return False
    return callable(stdin) or isinstance(stdin, Iterable | AsyncIterable)


def given_input(stdin: object) -> tuple[int | None, Chunks | None]:
    """Its descriptor, where it has one; else its chunks.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(stdin, bytes | bytearray | memoryview):
        return None, (cast(bytes, stdin),)
    if are_chunks(stdin):
        return None, cast(Chunks, stdin)
    return descriptor_of(stdin), None


def pieces(chunks: Chunks) -> Iterator[memoryview]:
    """The chunks, one after the other.

    Raises:
        ConfigurationError: they are asynchronous, or one is not bytes.
    """
    ask = called(chunks)
    if is_asynchronous(chunks) or inspect.iscoroutinefunction(ask):
        raise ConfigurationError("stdin", chunks, "is asynchronous", "open_pool() takes such")
    return map(as_bytes, cast("Iterable[Bytes]", chunks) if ask is None else _answers(ask))


def _answers(ask: Callable[[], Any]) -> Iterator[Any]:
    """What a function gives. As this is a generator, ``StopIteration`` is no end but an error."""
    while (chunk := ask()) != b"":
        yield chunk


def called(chunks: Chunks) -> Callable[[], Any] | None:
    """The function that gives them, where one does."""
    read = getattr(chunks, "read", None)
    if read is not None:
        return functools.partial(read, PIECE)
    return None if isinstance(chunks, Iterable | AsyncIterable) else chunks


def is_asynchronous(chunks: object) -> bool:
    """Whether it is an asynchronous iterable."""
    return isinstance(chunks, AsyncIterable)


def as_bytes(chunk: object, field: str = "stdin") -> memoryview:
    """A chunk, as bytes.

    Raises:
        ConfigurationError: it has none.
    """
    try:
        return memoryview(cast(bytes, chunk)).cast("B")
    except TypeError:
        raise ConfigurationError(
            field, chunk, "must give bytes", "use text.encode()" if isinstance(chunk, str) else ""
        ) from None
