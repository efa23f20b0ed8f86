"""From Kafka records to candidates for the projection: the envelope is read, the rest stays bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Protocol
from uuid import UUID

import msgspec

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Undecodable
from flotilla.contracts.event_rules import write_violation_of_data
from flotilla.contracts.names import is_valid_id, session_key
from flotilla.contracts.session_events import FORKED, ROLLED_BACK, ToolResult, session_event_type
from flotilla.eventstore.upcasters import is_known_event_type
from flotilla.telemetry.traces import TRACEPARENT

_STATE_CHANGE = session_event_type("state_change")
_TOOL_RESULT = session_event_type("tool_result")
_MAX_SEQ = 2**53


class KafkaRecord(Protocol):
    """What is used of a Kafka record."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """An event from the database, parked or handed in, shaped as the record that it was."""

    partition: int
    offset: int
    value: bytes
    key: None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class _Envelope(msgspec.Struct):
    id: UUID
    type: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    tenant: str
    subject: str
    sequence: Annotated[int, msgspec.Meta(ge=1, le=_MAX_SEQ)]
    source: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")
    runid: str | None = None
    taskid: str | None = None
    traceparent: str | None = None


class _ChangeDetails(msgspec.Struct):
    to_seq: int | None = None
    at_seq: int | None = None
    parent_session_id: str | None = None


class _StateChangeData(msgspec.Struct):
    change: str
    details: _ChangeDetails = msgspec.field(default_factory=_ChangeDetails)


_envelope = msgspec.json.Decoder(_Envelope)
_change = msgspec.json.Decoder(_StateChangeData)


@dataclass(frozen=True, slots=True)
class ToolUsageDelta:
    """What a tool result adds to the analytics."""

    tool: str
    agent: str
    ok: bool
    duration_ms: float
    error: str | None


@dataclass(slots=True)
class EventCandidate:
    """An event that wants its place in the projection."""

    tenant_id: str
    session_id: str
    seq: int
    event_id: UUID
    type: str
    occurred_at: datetime
    run_id: str | None
    task_id: str | None
    partition: int
    offset: int
    body: bytes
    known: bool
    """Whether this version can read events of this type."""
    traceparent: str | None
    """The span to continue: the relay's, else the one that made the event."""
    rolled_back_to: int | None = None
    parent_session_id: str | None = None
    """Set on the first own event of a fork."""
    usage: ToolUsageDelta | None = None
    forbidden: str | None = None
    """Why its source may not write it. It steers nothing, and its session waits for a person."""


def read_candidate(record: KafkaRecord) -> EventCandidate:
    """Read one record.

    Raises:
        Undecodable: it is not a session event, or its key is not its session's.
    """
    if record.value is None:
        raise Undecodable("a Kafka tombstone: a record without a value, which nothing of Flotilla writes")
    body = record.value
    try:
        envelope = _envelope.decode(body)
        body.decode()  # `data` is only skipped
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(f"not a session event: {error}") from error
    _check_envelope(envelope, record.key)
    candidate = EventCandidate(
        envelope.tenant,
        envelope.subject,
        envelope.sequence,
        envelope.id,
        envelope.type,
        envelope.time,
        envelope.runid,
        envelope.taskid,
        record.partition,
        record.offset,
        body,
        is_known_event_type(envelope.type),
        _traceparent_from_headers(record.headers) or envelope.traceparent,
    )
    candidate.forbidden = write_violation_of_data(envelope.source, envelope.type, envelope.data, envelope.subject)
    if candidate.forbidden is not None:
        return candidate
    if envelope.type == _STATE_CHANGE:
        _read_change(candidate, envelope.data)
    elif envelope.type == _TOOL_RESULT:
        candidate.usage = _tool_usage_from_result(envelope.data)
    return candidate


def read_event_id(record: KafkaRecord) -> UUID | None:
    """The record's event, for people to look up; None when it is not a session event."""
    try:
        return _envelope.decode(record.value or b"").id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _check_envelope(envelope: _Envelope, key: bytes | None) -> None:
    if problem := _why_place_does_not_match_key(envelope.tenant, envelope.subject, key):
        raise Undecodable(problem)
    if "\0" in envelope.type or "\0" in (envelope.runid or "") or "\0" in (envelope.taskid or ""):
        raise Undecodable("type, runid or taskid holds a NUL character, which PostgreSQL can't store")


@lru_cache(maxsize=65_536)
def _why_place_does_not_match_key(tenant_id: str, session_id: str, key: bytes | None) -> str | None:
    if key is not None and key != session_key(tenant_id, session_id).encode():
        return f"the record's key {key!r} is not that of its session {tenant_id}/{session_id}"
    if not is_valid_id(session_id) or not is_valid_id(tenant_id):
        return f"session {session_id!r} of tenant {tenant_id!r} is not a valid id"
    return None


def _traceparent_from_headers(headers: Sequence[tuple[str, bytes]]) -> str | None:
    for name, value in headers:
        if name == TRACEPARENT:
            return value.decode("ascii", "replace")
    return None


def _read_change(candidate: EventCandidate, data: msgspec.Raw) -> None:
    try:
        change = _change.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return  # it can be neither a fork nor a rollback; the fold will list it among the errors
    details = change.details
    if change.change == ROLLED_BACK and details.to_seq is not None and 0 <= details.to_seq < candidate.seq:
        candidate.rolled_back_to = details.to_seq
    elif change.change == FORKED and details.at_seq == candidate.seq - 1:
        candidate.parent_session_id = details.parent_session_id


def _tool_usage_from_result(data: msgspec.Raw) -> ToolUsageDelta | None:
    try:
        result = from_json(bytes(data), ToolResult)
    except (Undecodable, RecursionError):
        return None  # the fold will list it among the errors
    error = result.error.replace("\0", "") if result.error else None
    return ToolUsageDelta(
        result.tool.replace("\0", ""), result.agent.replace("\0", ""), result.ok, result.duration_ms, error
    )
