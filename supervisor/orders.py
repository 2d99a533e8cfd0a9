"""The messages that make a worker run a call."""

from __future__ import annotations

from collections.abc import Callable

from ..protocol import messages
from .calls import CallRecord
from .requests import CallRequest, CommandRequest


def order(record: CallRecord, number: int, module: int, trampoline: int = 0) -> messages.ToWorker:
    """The message for a call, by the worker's numbers of the call, of its module, and of the
    trampoline of a batch."""
    if record.message is not None:
        return record.message(number)
    request = record.request
    limits = request.limits
    if request.batch is not None:
        return messages.Batch(
            number,
            module,
            request.export,
            request.batch.count,
            request.batch.mode,
            arguments(request.buffers)[0],
            limits.memory,
            limits.table_elements,
            limits.fuel,
            trampoline,
        )
    return messages.Call(
        number,
        module,
        request.export,
        request.slots,
        limits.memory,
        limits.table_elements,
        _output(request),
        limits.fuel,
        arguments(request.buffers) if request.buffers else (),
        request.returns_buffer,
        None if request.command is None else _command(request.command),
        request.env,
    )


def invocation(request: CallRequest, instance: int) -> Callable[[int], messages.ToWorker]:
    """What makes the message for a call of a kept instance, by the worker's number of the call."""
    return lambda number: messages.Invoke(
        number,
        instance,
        request.export,
        request.slots,
        request.limits.fuel,
        _output(request),
        arguments(request.buffers) if request.buffers else (),
        request.returns_buffer,
    )


def writing(request: CallRequest, instance: int, start: int) -> Callable[[int], messages.ToWorker]:
    """What makes the message that puts the request's one buffer into the memory ``export`` of a
    kept instance."""
    return lambda number: messages.WriteMemory(
        number, instance, request.export, start, arguments(request.buffers)[0]
    )


def _output(request: CallRequest) -> int:
    """Bytes that the call may hand back."""
    output = request.limits.output
    return output if request.into is None else min(output, len(request.into))


def arguments(
    buffers: tuple[tuple[int, bytes | memoryview], ...],
) -> tuple[messages.BufferArgument, ...]:
    """The buffers, inline as long as all together stay small: a frame has a bound."""
    arguments: list[messages.BufferArgument] = []
    budget = messages.INLINE
    for slot, data in buffers:
        inline = bytes(data) if len(data) <= budget else None
        budget -= len(data) if inline is not None else 0
        arguments.append(messages.BufferArgument(slot, len(data), inline))
    return tuple(arguments)


def _command(command: CommandRequest) -> messages.Command:
    return messages.Command(
        command.argv,
        command.env,
        arguments(((0, command.stdin),))[0],
        command.stdin_descriptor is not None or command.ends is not None,
        command.ends is not None,
    )
