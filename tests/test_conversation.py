"""The conversation: who may say what, when; and the document that shows it."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest

from wasm_sandbox.protocol import messages
from wasm_sandbox.protocol.conversation import TABLE, Conversation, State
from wasm_sandbox.protocol.description import ModuleDescription
from wasm_sandbox.protocol.errors import ProtocolError
from wasm_sandbox.protocol.messages import (
    BatchReturned,
    Compiled,
    CompileFailed,
    Failed,
    Failure,
    FromWorker,
    HostCall,
    Loaded,
    LoadFailed,
    Output,
    Pull,
    Push,
    Ready,
    Recalled,
    Returned,
    StartFailed,
)
from wasm_sandbox.protocol.receipts import Usage

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"

CALL, MODULE, RECALL = 5, 3, 6
_FAILURE = Failure("trap", "")
SAMPLES: dict[type[Any], FromWorker] = {
    Ready: Ready(1, "engine", True, ()),
    StartFailed: StartFailed("wall", "reason"),
    Loaded: Loaded(MODULE),
    LoadFailed: LoadFailed(MODULE, _FAILURE),
    Returned: Returned(CALL, b"", Usage()),
    Failed: Failed(CALL, _FAILURE, Usage()),
    Output: Output(CALL, 1, b"x"),
    Pull: Pull(CALL, 0, 0),
    Push: Push(CALL, 0, 1),
    Recalled: Recalled(CALL, RECALL),
    Compiled: Compiled(1, ModuleDescription(), 0.0),
    CompileFailed: CompileFailed(_FAILURE),
    HostCall: HostCall(CALL, "network", b""),
    BatchReturned: BatchReturned(CALL, 0, Usage(), _FAILURE),
}
OF_CALLS = [Returned, Failed, Output, Pull, Push, HostCall, BatchReturned]


def running() -> Conversation:
    """A worker that is up, holds calls 5 and 6, loads modules 3 and 4, and was recalled up to 6."""
    talk = Conversation()
    talk.received(SAMPLES[Ready])
    for call in (CALL, RECALL):
        talk.sent_call(call)
    for module in (MODULE, MODULE + 1):
        talk.sent_load(module)
    talk.sent_recall(RECALL)
    return talk


def in_state(state: State) -> Conversation:
    talk = running()
    talk.state = state
    return talk


def test_the_samples_are_all_that_a_worker_can_say() -> None:
    assert set(SAMPLES) == set(typing.get_args(FromWorker))
    assert set(TABLE) == set(State)


@pytest.mark.parametrize("kind", list(SAMPLES))
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
def test_a_message_is_taken_exactly_where_the_table_has_it(state: State, kind: type[Any]) -> None:
    talk = in_state(state)
    following = TABLE[state].get(kind)
    if following is None:
        with pytest.raises(ProtocolError, match=kind.__name__):
            talk.received(SAMPLES[kind])
        assert talk.state is state
        assert list(talk.calls) == [CALL, RECALL]
    else:
        talk.received(SAMPLES[kind])
        assert talk.state is following


@pytest.mark.parametrize("kind", OF_CALLS)
@pytest.mark.parametrize("call", [RECALL, 4, 7, 0, -1, (1 << 64) - 1])
def test_only_the_call_at_the_head_is_spoken_of(kind: type[Any], call: int) -> None:
    message = kind(call, *list(_fields(SAMPLES[kind]))[1:])
    talk = running()
    with pytest.raises(ProtocolError, match=str(call)):
        talk.received(message)
    assert list(talk.calls) == [CALL, RECALL]


def _fields(message: FromWorker) -> list[Any]:
    return [getattr(message, name) for name in message.__struct_fields__]


@pytest.mark.parametrize("first", [Returned, Failed])
@pytest.mark.parametrize("again", OF_CALLS)
def test_nothing_is_said_of_a_call_that_was_answered(first: type[Any], again: type[Any]) -> None:
    talk = running()
    talk.received(SAMPLES[first])
    with pytest.raises(ProtocolError):
        talk.received(SAMPLES[again])


@pytest.mark.parametrize("kind", OF_CALLS)
def test_nothing_is_said_of_a_call_before_it_was_sent(kind: type[Any]) -> None:
    talk = Conversation()
    talk.received(SAMPLES[Ready])
    with pytest.raises(ProtocolError):
        talk.received(SAMPLES[kind])


@pytest.mark.parametrize("kind", OF_CALLS)
def test_nothing_is_said_of_a_call_that_waits_for_a_host_call(kind: type[Any]) -> None:
    talk = running()
    talk.received(SAMPLES[HostCall])
    with pytest.raises(ProtocolError, match="waits for its answer"):
        talk.received(SAMPLES[kind])
    talk.sent_host_answer()
    talk.received(SAMPLES[kind])


@pytest.mark.parametrize("kind", [Loaded, Recalled])
def test_what_is_not_of_the_call_is_said_while_a_host_call_waits(kind: type[Any]) -> None:
    talk = running()
    talk.received(SAMPLES[HostCall])
    talk.received(SAMPLES[kind])


def test_calls_are_answered_in_their_order() -> None:
    talk = running()
    for call in (CALL, RECALL):
        talk.received(Output(call, 1, b"x"))
        talk.received(Returned(call, b"", Usage()))
    assert not talk.calls


def test_a_stopping_worker_finishes_what_it_holds() -> None:
    talk = running()
    talk.sent_stop()
    talk.received(SAMPLES[Returned])
    talk.received(Failed(RECALL, _FAILURE, Usage()))
    assert talk.state is State.STOPPING
    with pytest.raises(AssertionError):
        talk.sent_call(9)


@pytest.mark.parametrize("module", [MODULE + 1, 0, 99])
@pytest.mark.parametrize("kind", [Loaded, LoadFailed])
def test_loads_are_answered_in_their_order(kind: type[Any], module: int) -> None:
    talk = running()
    with pytest.raises(ProtocolError):
        talk.received(kind(module, *_fields(SAMPLES[kind])[1:]))
    talk.received(SAMPLES[kind])
    talk.received(Loaded(MODULE + 1))
    with pytest.raises(ProtocolError):
        talk.received(Loaded(MODULE + 1))


@pytest.mark.parametrize(
    "recalled", [Recalled(CALL, CALL), Recalled(CALL, 7), Recalled(7, RECALL), Recalled(0, 0)]
)
def test_a_recall_is_answered_as_it_was_asked(recalled: Recalled) -> None:
    with pytest.raises(ProtocolError):
        running().received(recalled)


def test_a_recall_is_answered_once() -> None:
    talk = running()
    talk.received(SAMPLES[Recalled])
    with pytest.raises(ProtocolError):
        talk.received(SAMPLES[Recalled])


def test_a_recall_gives_back_what_was_not_begun_and_was_sent_by_then() -> None:
    talk = running()
    talk.sent_call(9)
    talk.received(SAMPLES[Recalled])
    assert talk.take_back(Recalled(CALL, RECALL)) == [RECALL]
    assert list(talk.calls) == [CALL, 9]
    talk.received(SAMPLES[Returned])
    with pytest.raises(ProtocolError):
        talk.received(Returned(RECALL, b"", Usage()))
    talk.received(Returned(9, b"", Usage()))


def test_numbers_only_grow() -> None:
    talk = running()
    with pytest.raises(AssertionError):
        talk.sent_call(RECALL)


# --- the document --------------------------------------------------------------------------------


def _first_line(kind: type[Any]) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return text.replace("|", "\\|").replace("``", "`")


def _messages(union: Any) -> list[str]:
    rows = ["| tag | message | fields | meaning |", "|---|---|---|---|"]
    for kind in typing.get_args(union):
        fields = ", ".join(f"`{name}`" for name in kind.__struct_fields__) or "none"
        tag = kind.__struct_config__.tag
        rows.append(f"| {tag} | `{kind.__name__}` | {fields} | {_first_line(kind)} |")
    return rows


def _table() -> list[str]:
    states = list(State)
    rows = [
        "| message | " + " | ".join(state.value for state in states) + " |",
        "|---|" + "---|" * len(states),
    ]
    for kind in typing.get_args(FromWorker):
        cells = [TABLE[state].get(kind) for state in states]
        shown = " | ".join("—" if cell is None else f"→ {cell.value}" for cell in cells)
        rows.append(f"| `{kind.__name__}` | {shown} |")
    return rows


def _diagram() -> list[str]:
    arrows: dict[tuple[State, State], list[str]] = {}
    for state, row in TABLE.items():
        for kind, following in row.items():
            arrows.setdefault((state, following), []).append(kind.__name__)
    arrows.setdefault((State.RUNNING, State.STOPPING), []).append("Stop is sent")
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> starting", "    [*] --> compiling"]
    for (state, following), said in arrows.items():
        lines.append(f"    {state.value} --> {following.value}: {', '.join(said)}")
    return [*lines, "    closed --> [*]", "```"]


GENERATED = {
    "states": _diagram(),
    "table": _table(),
    "from-worker": _messages(messages.FromWorker),
    "to-worker": _messages(messages.ToWorker),
}


@pytest.mark.parametrize("part", GENERATED)
def test_the_document_shows_the_table_and_the_messages_as_they_are(part: str) -> None:
    text = DOCUMENT.read_text()
    shown = text.partition(f"<!-- {part} -->\n")[2].partition(f"\n<!-- end of {part} -->")[0]
    assert shown == "\n".join(GENERATED[part])
