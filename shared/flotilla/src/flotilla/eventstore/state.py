"""The state of a session: a pure fold of its events.

What a stretch of events without a rollback adds is a `StateDelta`; deltas of neighbouring stretches add up, so the
state is the sum of the stretches on the path to a point (`flotilla.eventstore.path`), whichever way they are cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from flotilla.contracts.envelope import AgentEvent, from_builtins
from flotilla.contracts.errors import Undecodable
from flotilla.contracts.event_rules import write_violation_of_data
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.session_events import (
    DATA_OF_KIND,
    ROLLED_BACK,
    ErrorRaised,
    Message,
    RolledBackTo,
    Source,
    StateChange,
    ToolCall,
    ToolResult,
    session_event_kind,
    session_event_type,
)
from flotilla.eventstore.chunks import ChunkedSequence, JsonChunk
from flotilla.eventstore.path import effective_seq_ranges
from flotilla.eventstore.upcasters import upcast_event

_STATE_CHANGE = session_event_type("state_change")
_JSON_BLOCK_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEntry:
    """A message of the conversation, and where it stands in the log."""

    seq: int
    time: datetime
    source: str
    run_id: str | None
    role: str
    content: str
    sources: list[Source] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallEntry:
    """A tool call; its result has the same `call_id`."""

    seq: int
    time: datetime
    run_id: str | None
    tool: str
    call_id: str
    agent: str
    args: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResultEntry:
    """The result of the tool call with the same `call_id`."""

    seq: int
    time: datetime
    run_id: str | None
    tool: str
    call_id: str
    agent: str
    ok: bool
    duration_ms: float
    result: JsonValue = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEntry:
    """An error; also an event that changes nothing: its data does not fit its type (`type` is then `Undecodable`), or
    its source may not write it (`ForbiddenEvent`)."""

    seq: int
    time: datetime
    run_id: str | None
    type: str
    message: str
    where: str
    retryable: bool = False
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class StateDelta:
    """What a stretch of events adds to a state."""

    upto_seq: int = 0
    upto_time: datetime | None = None
    status: str | None = None
    set: JsonObject = field(default_factory=dict)
    unset: Sequence[str] = ()
    messages: ChunkedSequence[MessageEntry] = field(default_factory=ChunkedSequence)
    tool_calls: ChunkedSequence[ToolCallEntry] = field(default_factory=ChunkedSequence)
    tool_results: ChunkedSequence[ToolResultEntry] = field(default_factory=ChunkedSequence)
    errors: ChunkedSequence[ErrorEntry] = field(default_factory=ChunkedSequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What a session's log amounts to at `at_seq`. Lists are in order of seq."""

    session_id: str
    at_seq: int = 0
    at_time: datetime | None = None
    """Time of the newest event that counts."""
    status: str | None = None
    """As the last `state_change` with a status says."""
    variables: JsonObject = field(default_factory=dict)
    messages: Sequence[MessageEntry] = field(default_factory=ChunkedSequence)
    tool_calls: Sequence[ToolCallEntry] = field(default_factory=ChunkedSequence)
    tool_results: Sequence[ToolResultEntry] = field(default_factory=ChunkedSequence)
    errors: Sequence[ErrorEntry] = field(default_factory=ChunkedSequence)

    def open_tool_calls(self) -> list[ToolCallEntry]:
        """The calls that have no result yet."""
        answered = {result.call_id for result in self.tool_results}
        return [call for call in self.tool_calls if call.call_id not in answered]


def fold(session_id: str, events: Iterable[AgentEvent], at_seq: int | None = None) -> SessionState:
    """The state that `events` (a whole log, from its first event) amount to, at `at_seq` or at their end.

    Pure: the same events give the same state, in any process.

    Raises:
        UnknownType: an event is of a type or version that this code can't read.
    """
    log = {event.sequence or 0: event for event in events if at_seq is None or (event.sequence or 0) <= at_seq}
    end = max(log, default=0)
    rollbacks = {seq: to for seq, event in log.items() if (to := rollback_target_seq(event)) is not None}
    stretches = effective_seq_ranges(end, rollbacks)
    counted = [log[seq] for s in stretches for seq in range(s.after_seq + 1, s.upto_seq + 1) if seq in log]
    return combine_deltas(session_id, end, [delta_of_events(counted)])


def combine_deltas(session_id: str, at_seq: int, deltas: Sequence[StateDelta]) -> SessionState:
    """The state after `deltas`, oldest first."""
    variables: dict[str, Any] = {}
    status: str | None = None
    for delta in deltas:
        for name in delta.unset:
            variables.pop(name, None)
        variables.update(delta.set)
        status = status if delta.status is None else delta.status
    times = [delta.upto_time for delta in deltas if delta.upto_time is not None]
    return SessionState(
        session_id=session_id,
        at_seq=at_seq,
        at_time=times[-1] if times else None,
        status=status,
        variables=variables,
        messages=sum((delta.messages for delta in deltas), ChunkedSequence()),
        tool_calls=sum((delta.tool_calls for delta in deltas), ChunkedSequence()),
        tool_results=sum((delta.tool_results for delta in deltas), ChunkedSequence()),
        errors=sum((delta.errors for delta in deltas), ChunkedSequence()),
    )


def delta_of_events(events: Iterable[AgentEvent]) -> StateDelta:
    """What `events`, in order of seq and without rollbacks that count, add up to."""
    parts = _StateDeltaBuilder()
    for event in events:
        parts.add_event(upcast_event(event))
    return parts.build_delta()


def _why_forbidden(event: AgentEvent) -> str | None:
    return write_violation_of_data(event.source, event.type, event.data, event.subject)


def rollback_target_seq(event: AgentEvent) -> int | None:
    """The seq that a rollback event goes back to; None for any other event."""
    if event.type != _STATE_CHANGE or event.data.get("change") != ROLLED_BACK or _why_forbidden(event):
        return None
    try:
        target = from_builtins(event.data.get("details"), RolledBackTo).to_seq
    except Undecodable:
        return None
    return target if 0 <= target < (event.sequence or 0) else None


def state_json(state: SessionState) -> bytes:
    """The state as one JSON object with the fields of `SessionState`."""
    return b"".join(state_json_blocks(state))


def state_json_blocks(state: SessionState) -> Iterator[bytes]:
    """`state_json` in blocks of about 1 MB: of a state of tens of megabytes each copy in memory counts."""
    block: list[bytes | memoryview] = []
    size = 0
    for part in _state_json_parts(state):
        block.append(part)
        size += len(part)
        if size >= _JSON_BLOCK_BYTES:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


def _state_json_parts(state: SessionState) -> Iterator[bytes | memoryview]:
    head = {name: getattr(state, name) for name in ("session_id", "at_seq", "at_time", "status", "variables")}
    yield msgspec.json.encode(head)[:-1]
    for name in ("messages", "tool_calls", "tool_results", "errors"):
        items = getattr(state, name)
        yield f',"{name}":'.encode()
        yield from items.json_parts() if isinstance(items, ChunkedSequence) else [msgspec.json.encode(items)]
    yield b"}"


class _StateDeltaBuilder:
    """A delta in the making."""

    def __init__(self) -> None:
        self._upto_seq = 0
        self._upto_time: datetime | None = None
        self._status: str | None = None
        self._set: dict[str, Any] = {}
        self._unset: set[str] = set()
        self._messages: list[MessageEntry] = []
        self._calls: list[ToolCallEntry] = []
        self._results: list[ToolResultEntry] = []
        self._errors: list[ErrorEntry] = []

    def add_event(self, event: AgentEvent) -> None:
        kind = session_event_kind(event.type)
        assert kind is not None  # noqa: S101 - upcast gives known types only
        try:
            data = from_builtins(event.data, DATA_OF_KIND[kind])
        except Undecodable as error:
            data = ErrorRaised(type="Undecodable", message=str(error), where=event.type)
        if problem := _why_forbidden(event):
            data = ErrorRaised(type="ForbiddenEvent", message=problem, where=event.source)
        match data:
            case Message():
                self._messages.append(_message_entry(event, data))
            case ToolCall():
                self._calls.append(_tool_call_entry(event, data))
            case ToolResult():
                self._results.append(_tool_result_entry(event, data))
            case StateChange():
                self._apply_state_change(data)
            case ErrorRaised():
                self._errors.append(_error_entry(event, data))
        self._upto_seq, self._upto_time = event.sequence or 0, event.time

    def _apply_state_change(self, data: StateChange) -> None:
        if data.status is not None:
            self._status = data.status
        for name in data.unset:
            self._set.pop(name, None)
            self._unset.add(name)
        self._set.update(data.set)
        self._unset.difference_update(data.set)

    def build_delta(self) -> StateDelta:
        return StateDelta(
            upto_seq=self._upto_seq,
            upto_time=self._upto_time,
            status=self._status,
            set=self._set,
            unset=sorted(self._unset),
            messages=ChunkedSequence([JsonChunk(self._messages)]),
            tool_calls=ChunkedSequence([JsonChunk(self._calls)]),
            tool_results=ChunkedSequence([JsonChunk(self._results)]),
            errors=ChunkedSequence([JsonChunk(self._errors)]),
        )


def _message_entry(event: AgentEvent, data: Message) -> MessageEntry:
    return MessageEntry(
        seq=event.sequence or 0,
        time=event.time,
        source=event.source,
        run_id=event.runid,
        role=data.role,
        content=data.content,
        sources=data.sources,
    )


def _tool_call_entry(event: AgentEvent, data: ToolCall) -> ToolCallEntry:
    return ToolCallEntry(
        seq=event.sequence or 0,
        time=event.time,
        run_id=event.runid,
        tool=data.tool,
        call_id=data.call_id,
        agent=data.agent,
        args=data.args,
    )


def _tool_result_entry(event: AgentEvent, data: ToolResult) -> ToolResultEntry:
    return ToolResultEntry(
        seq=event.sequence or 0,
        time=event.time,
        run_id=event.runid,
        tool=data.tool,
        call_id=data.call_id,
        agent=data.agent,
        ok=data.ok,
        duration_ms=data.duration_ms,
        result=data.result,
        error=data.error,
    )


def _error_entry(event: AgentEvent, data: ErrorRaised) -> ErrorEntry:
    return ErrorEntry(
        seq=event.sequence or 0,
        time=event.time,
        run_id=event.runid,
        type=data.type,
        message=data.message,
        where=data.where,
        retryable=data.retryable,
        attempt=data.attempt,
    )
