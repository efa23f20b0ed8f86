"""Parked sessions: Kafka refused one of their events, so their later events wait; every other session goes on."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from flotilla.contracts.envelope import AgentEvent, decode_event, encode_event, to_builtins
from flotilla.contracts.errors import NotFound
from flotilla.contracts.session_events import ErrorRaised, session_event_type
from flotilla.postgres import Connection, Pool

_SELECT_BACKLOG = "SELECT rows, oldest_seconds FROM flotilla.outbox_backlog()"
# Parked sessions of the current tenant, oldest first, with the number of events that wait.
_LIST_PARKED = """
SELECT p.session_id, p.seq, p.event_id::text, p.error, p.parked_at,
       (SELECT count(*) FROM flotilla.event_outbox AS o
        WHERE o.id >= p.outbox_id AND o.tenant_id = p.tenant_id AND o.session_id = p.session_id) AS waiting
FROM flotilla.outbox_parked AS p ORDER BY p.parked_at, p.session_id LIMIT $1
"""
# Parks the session of one refused row; nothing if the row is gone, so a late refusal can't park it again.
_INSERT_PARKED = """
INSERT INTO flotilla.outbox_parked (tenant_id, session_id, lane, outbox_id, seq, event_id, error)
SELECT o.tenant_id, o.session_id, o.lane, o.id, o.seq, o.event_id, $2
FROM flotilla.event_outbox AS o WHERE o.id = $1
ON CONFLICT DO NOTHING
RETURNING tenant_id, session_id, seq
"""
_SELECT_REFUSED_EVENT = """
SELECT o.body, p.error FROM flotilla.outbox_parked AS p JOIN flotilla.event_outbox AS o ON o.id = p.outbox_id
WHERE p.session_id = $1
"""
_REDRIVE_SESSION = "SELECT flotilla.redrive_outbox($1, $2)"
_COUNT_PARKED = "SELECT count(*) FROM (SELECT FROM flotilla.outbox_parked LIMIT 10001) AS parked"


@dataclass(frozen=True, slots=True)
class OutboxParkedSession:
    """A session whose event `seq` Kafka refused; `waiting` events of it, that one included, are held back."""

    session_id: str
    seq: int
    event_id: str
    error: str
    parked_at: datetime
    waiting: int


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """The whole fleet's backlog (capped at 10,001 rows) and the tenant's parked sessions."""

    backlog_rows: int
    oldest_unpublished_s: float
    parked: list[OutboxParkedSession]


async def load_outbox_status(connection: Connection, *, limit: int = 100) -> OutboxStatus:
    """What waits for Kafka, seen by the tenant of the current transaction."""
    rows, oldest_s = await count_outbox_backlog(connection)
    return OutboxStatus(
        rows, oldest_s, [OutboxParkedSession(*record) for record in await connection.fetch(_LIST_PARKED, limit)]
    )


async def count_outbox_backlog(connection: "Connection | Pool") -> tuple[int, float]:
    """Rows of all tenants that wait for Kafka, capped at 10,001 and without parked sessions; the oldest one's age."""
    (found,) = await connection.fetch(_SELECT_BACKLOG)
    return found["rows"], found["oldest_seconds"]


async def redrive_parked_session(connection: Connection, session_id: str, *, tombstone: bool = False) -> int:
    """Let a parked session go on, in the current tenant's transaction; give the number of events that wait.

    Again with the same event, once the cause is fixed; or with `tombstone` an event of kind `error` in its place:
    same id, time and sequence number, and the size, type and SHA-256 of the original, which stays in
    `flotilla.outbox_replaced`.

    Raises:
        NotFound: the tenant has no such parked session.
    """
    refused = await connection.fetchrow(_SELECT_REFUSED_EVENT, session_id)
    if refused is None:
        raise NotFound(f"session {session_id} is not parked")
    replacement = _make_tombstone(refused["body"], refused["error"]) if tombstone else None
    waiting = await connection.fetchval(_REDRIVE_SESSION, session_id, replacement)
    if waiting is None:
        raise NotFound(f"session {session_id} is not parked any more: nothing is left to do")
    return int(waiting)


async def park_session_of_row(pool: Pool, row_id: int, error: str) -> tuple[str, str, int] | None:
    """Park the session of a refused row: tenant, session, seq; None when it is parked already or the row is gone."""
    parked = await pool.fetchrow(_INSERT_PARKED, row_id, error)
    return None if parked is None else (parked["tenant_id"], parked["session_id"], parked["seq"])


async def count_parked_sessions(pool: Pool) -> int:
    """Parked sessions of all tenants, capped at 10,001."""
    return int(await pool.fetchval(_COUNT_PARKED))


def _make_tombstone(body: bytes, error: str) -> bytes:
    original = decode_event(body)
    digest = hashlib.sha256(body).hexdigest()
    data = ErrorRaised(
        type="EventRefused",
        message=f"Kafka refused {original.type} of {len(body)} bytes, SHA-256 {digest}: {error}",
        where="outbox",
    )
    return encode_event(
        AgentEvent(
            id=original.id,
            type=session_event_type("error"),
            source="/outbox",
            subject=original.subject,
            time=original.time,
            data=to_builtins(data),
            tenant=original.tenant,
            sequence=original.sequence,
            runid=original.runid,
            taskid=original.taskid,
            traceparent=original.traceparent,
        )
    )
