"""Appends session events on the caller's connection, in the caller's transaction.

The session's row lock is taken here and held until the caller commits, so append last and make no network call
between append and commit. Several sessions in one transaction: append in the order of their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import Invalid, NotFound, SequenceConflict
from flotilla.contracts.ids import Clock, IdMaker, new_id, utc_now
from flotilla.contracts.session_events import AgentStateEvent, session_event_type
from flotilla.outbox.lanes import lane_of
from flotilla.postgres import Connection
from flotilla.telemetry import current_traceparent

MAX_EVENT_BYTES = 900_000

# Draws the next sequence numbers under the session's row lock.
_DRAW = """
UPDATE flotilla.sessions SET head_seq = head_seq + $3
WHERE tenant_id = $1 AND session_id = $2
RETURNING head_seq
"""
# One row per event; ids are drawn in order, still under the lock.
_INSERT = """
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body, traceparent)
SELECT $1, $2, $3, e.seq, e.event_id, e.body, $7
FROM unnest($4::bigint[], $5::uuid[], $6::bytea[]) WITH ORDINALITY AS e (seq, event_id, body, n)
ORDER BY e.n
"""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the events came to stand: `first_seq` to `last_seq`, both included."""

    first_seq: int
    last_seq: int
    events: list[AgentEvent]


async def append(
    connection: Connection,
    tenant_id: str,
    session_id: str,
    events: Sequence[AgentStateEvent],
    *,
    expected_seq: int | None = None,
    clock: Clock = utc_now,
    make_id: IdMaker = new_id,
) -> Appended:
    """Adds `events` to the session's log, atomically with whatever else the caller's transaction does.

    Delivery: once committed, each event reaches Kafka at least once and the projection exactly once, in order of
    seq. Nothing of a transaction that rolls back appears anywhere.

    Raises:
        NotFound: the tenant has no such session.
        SequenceConflict: the session's head is not `expected_seq`.
        Invalid: no events, or one is over 900,000 bytes as JSON.
    """
    if not events:
        raise Invalid("append needs at least one event")
    head = await connection.fetchval(_DRAW, tenant_id, session_id, len(events))
    if head is None:
        raise NotFound(f"no session {session_id}: create it first (POST /v1/sessions)")
    first = int(head) - len(events) + 1
    if expected_seq is not None and first - 1 != expected_seq:
        raise SequenceConflict(session_id, expected_seq, first - 1)
    traceparent = current_traceparent()
    placed = [
        AgentEvent(
            id=event.event_id or make_id(),
            type=session_event_type(event.kind),
            source=event.source,
            subject=session_id,
            time=clock(),
            data=event.data,
            tenant=tenant_id,
            sequence=seq,
            subjectkey=event.subject_key,
            runid=event.run_id,
            taskid=event.task_id,
            traceparent=traceparent,
        )
        for seq, event in enumerate(events, start=first)
    ]
    bodies = [_encode(event) for event in placed]
    await connection.execute(
        _INSERT,
        lane_of(tenant_id, session_id),
        tenant_id,
        session_id,
        [event.sequence for event in placed],
        [UUID(event.id) for event in placed],
        bodies,
        traceparent,
    )
    return Appended(first, int(head), placed)


def _encode(event: AgentEvent) -> bytes:
    body = encode_event(event)
    if len(body) > MAX_EVENT_BYTES:
        raise Invalid(
            f"event {event.type} of session {event.subject} has {len(body)} bytes, {MAX_EVENT_BYTES} are allowed: "
            "store the content elsewhere and record a reference"
        )
    return body
