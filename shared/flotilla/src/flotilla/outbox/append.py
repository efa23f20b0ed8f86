"""Appends session events on the caller's connection, in the caller's transaction.

The session's row lock is taken here and held until the caller commits, so append last and make no network call
between append and commit. Several sessions in one transaction: append in the order of their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import FlotillaError, Forbidden, Invalid, NotFound, SequenceConflict
from flotilla.contracts.event_rules import write_violation_of_data
from flotilla.contracts.ids import Clock, IdMaker, new_id, utc_now
from flotilla.contracts.session_events import AgentStateEvent, session_event_kind, session_event_type
from flotilla.contracts.values import with_escaped_places
from flotilla.encryption import SEALED, Cipher, holds_sealed, sealed_data
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Connection, is_acting_for_task, writing_cipher
from flotilla.telemetry import current_traceparent

MAX_EVENT_BYTES = 900_000
_MAX_SEQ = 2**63 - 1
_PLACEHOLDER_TIME = datetime(2000, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
"""As long in JSON as any time."""

# Draws the next sequence numbers under the session's row lock, and writes the events with them in their places; NULL
# when the session is missing or has moved on.
_APPEND_EVENTS = "SELECT flotilla.append_events($1, $2, $3, $4, $5, $6, $7, $8)"
# The same for the session of the task that the transaction holds.
_APPEND_TASK_EVENTS = "SELECT flotilla.append_task_events($1, $2, $3, $4)"
_SELECT_HEAD_SEQ = "SELECT head_seq FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2"
_SEQUENCE_KEY = b'"sequence":'
_PLACEHOLDER_SEQUENCE = _SEQUENCE_KEY + str(_MAX_SEQ).encode()


@dataclass(frozen=True, slots=True)
class AppendedRange:
    """The sequence numbers of the events: `first_seq` to `last_seq`, both included."""

    first_seq: int
    last_seq: int
    events: list[AgentEvent]


@dataclass(frozen=True, slots=True)
class PreparedEvents:
    """Events as the database takes them: without their sequence numbers, which it draws."""

    events: list[AgentEvent]
    recorded: list[AgentEvent]
    """The same as they are recorded: encrypted, if the session has a key."""
    traceparent: str | None

    @property
    def sql_arguments(self) -> tuple[list[UUID], list[bytes], list[bytes], str | None]:
        """The last four arguments of `flotilla.append_events` and its like."""
        return [UUID(event.id) for event in self.recorded], *_split_around_sequence(self.recorded), self.traceparent


def prepare_events(
    tenant_id: str,
    session_id: str,
    events: Sequence[AgentStateEvent],
    *,
    source: str | None = None,
    cipher: Cipher | None = None,
    clock: Clock = utc_now,
    make_id: IdMaker = new_id,
) -> PreparedEvents:
    """Check `events` and make all of them but their places in the session's log. With `cipher`, the session's, they are
    recorded encrypted.

    Raises:
        Forbidden, Invalid: as `append`.
    """
    for event in events:
        _check_event_source(event, session_id, source)
    traceparent = current_traceparent()
    drafts = [_draft_event(event, tenant_id, session_id, traceparent, make_id) for event in events]
    recorded = drafts if cipher is None else [_encrypt_draft(draft, cipher) for draft in drafts]
    for draft in recorded:
        _check_event_size(draft)
    now = clock()
    return PreparedEvents(_with_time(now, drafts), _with_time(now, recorded), traceparent)


async def append(
    connection: Connection,
    tenant_id: str,
    session_id: str,
    events: Sequence[AgentStateEvent],
    *,
    expected_seq: int | None = None,
    source: str | None = None,
    clock: Clock = utc_now,
    make_id: IdMaker = new_id,
) -> AppendedRange:
    """Adds `events` to the session's log, atomically with whatever else the caller's transaction does.

    With `source`, a caller that appends for somebody else names them, and every event has to be theirs.

    Delivery: once committed, each event reaches Kafka at least once and the projection exactly once, in order of
    seq. Nothing of a transaction that rolls back appears anywhere.

    Nothing is drawn when it raises one of these, so a caller may catch it and still commit.

    Raises:
        NotFound: the tenant has no such session.
        SequenceConflict: the session's head is not `expected_seq`.
        Forbidden: an event's source may not write an event of this kind (`flotilla.contracts.event_rules`).
        Invalid: no events, or one can't be written as JSON, or has over 900,000 bytes as JSON, or an id is not a UUID.
    """
    if not events:
        raise Invalid("append needs at least one event")
    cipher = await writing_cipher(connection, tenant_id, session_id)
    prepared = prepare_events(tenant_id, session_id, events, source=source, cipher=cipher, clock=clock, make_id=make_id)
    if is_acting_for_task():
        head = await connection.fetchval(_APPEND_TASK_EVENTS, *prepared.sql_arguments)
    else:
        lane = lane_of_session(tenant_id, session_id)
        head = await connection.fetchval(
            _APPEND_EVENTS, tenant_id, session_id, expected_seq, lane, *prepared.sql_arguments
        )
    if head is None:
        raise await _append_refusal_error(connection, tenant_id, session_id, expected_seq)
    first = int(head) - len(events) + 1
    placed = [replace(event, sequence=seq) for seq, event in enumerate(prepared.events, start=first)]
    return AppendedRange(first, int(head), placed)


def _split_around_sequence(events: Sequence[AgentEvent]) -> tuple[list[bytes], list[bytes]]:
    """What of each event's JSON comes before and after its sequence number, which the database draws."""
    parts = [encode_event(event).rpartition(_PLACEHOLDER_SEQUENCE) for event in events]
    return [head + _SEQUENCE_KEY for head, _, _ in parts], [tail for _, _, tail in parts]


def _check_event_source(event: AgentStateEvent, session_id: str, source: str | None) -> None:
    if source is not None and event.source != source:
        raise Forbidden(f"event of session {session_id}: {source} may not write in the name of {event.source}")
    if problem := write_violation_of_data(event.source, session_event_type(event.kind), event.data, session_id):
        raise Forbidden(f"event of session {session_id}: {problem}")
    if holds_sealed(event.data):
        raise Invalid(
            f"event of session {session_id}: its member {SEALED!r} looks as what Flotilla encrypts: rename it"
        )


def _draft_event(
    event: AgentStateEvent, tenant_id: str, session_id: str, traceparent: str | None, make_id: IdMaker
) -> AgentEvent:
    """The event but for its place. All that can be wrong with it shows here, before a sequence number is drawn."""
    try:
        data = with_escaped_places(event.data)
    except (TypeError, Invalid) as error:
        raise Invalid(f"a {event.kind} event of session {session_id} can't be written: {error}") from error
    return AgentEvent(
        id=event.event_id or make_id(),
        type=session_event_type(event.kind),
        source=event.source,
        subject=session_id,
        time=_PLACEHOLDER_TIME,
        data=data,
        tenant=tenant_id,
        sequence=_MAX_SEQ,
        subjectkey=event.subject_key,
        runid=event.run_id,
        taskid=event.task_id,
        traceparent=traceparent,
    )


def _encrypt_draft(draft: AgentEvent, cipher: Cipher) -> AgentEvent:
    """The draft with its personal part encrypted."""
    kind = session_event_kind(draft.type)
    assert kind is not None  # noqa: S101 - drafts are of known types
    data = sealed_data(kind, draft.data, cipher.key, draft.id)
    return replace(draft, data=data, subjectkey=cipher.person_key_id)


def _check_event_size(draft: AgentEvent) -> None:
    """Raises Invalid: the event can't be written, or is too large as it is recorded."""
    try:
        UUID(draft.id)
        size_bytes = len(encode_event(draft))
    except (TypeError, ValueError) as error:
        raise Invalid(f"event {draft.type} of session {draft.subject} can't be written: {error}") from error
    if size_bytes > MAX_EVENT_BYTES:
        raise Invalid(
            f"event {draft.type} of session {draft.subject} has {size_bytes} bytes, {MAX_EVENT_BYTES} are allowed: "
            "store the content elsewhere and record a reference"
        )


def _with_time(time: datetime, drafts: Sequence[AgentEvent]) -> list[AgentEvent]:
    return [replace(draft, time=time) for draft in drafts]


def session_not_found(session_id: str) -> NotFound:
    """Nothing is appended to a session that is not there."""
    return NotFound(f"no session {session_id}: create it first (POST /v1/sessions)")


async def _append_refusal_error(
    connection: Connection, tenant_id: str, session_id: str, expected_seq: int | None
) -> FlotillaError:
    head = await connection.fetchval(_SELECT_HEAD_SEQ, tenant_id, session_id)
    if head is None or expected_seq is None:
        return session_not_found(session_id)
    return SequenceConflict(session_id, expected_seq, int(head))
