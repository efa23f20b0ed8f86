"""What people ask of the audit consumer, which alone writes the projection: retry, discard, rebuild.

A request is a row; the audit consumer takes it within seconds and leaves its outcome there.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import asyncpg

from flotilla.contracts.errors import Conflict, Invalid, NotFound
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Pool, tenant_transaction

RequestKind: TypeAlias = Literal["rebuild", "retry", "discard"]

_PARKED = """
SELECT session_id, min(seq) AS first_seq, count(*) AS events, min(parked_at) AS parked_since,
    (array_agg(reason ORDER BY reason = 'waiting', reason = 'gap', kafka_offset))[1] AS reason,
    (array_agg(detail ORDER BY reason = 'waiting', reason = 'gap', kafka_offset))[1] AS detail
FROM audit.parked_events
WHERE tenant_id = $1 AND reason <> 'discarded' AND ($2::text IS NULL OR session_id = $2)
GROUP BY session_id ORDER BY min(parked_at)
"""
_ADD = """
INSERT INTO audit.requests (tenant_id, request_id, kind, session_id, requested_by, reason)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_GET = "SELECT * FROM audit.requests WHERE tenant_id = $1 AND request_id = $2"
_UNFINISHED_REBUILD = "SELECT request_id FROM audit.requests WHERE kind = 'rebuild' AND finished_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedSession:
    """A session whose events wait; `session_id` is None for records that are no events at all."""

    session_id: str | None
    reason: str
    """gap, conflict, unknown_type, waiting or undecodable."""
    detail: str
    first_seq: int | None
    events: int
    parked_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """A request and what came of it."""

    request_id: str
    kind: RequestKind
    session_id: str | None
    requested_by: str
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    outcome: JsonObject | None
    """`{"ok": true, ...}` or `{"ok": false, "error": ...}`; None until it is finished."""


async def list_parked(pool: Pool, tenant_id: str, session_id: str | None = None) -> list[ParkedSession]:
    """The sessions that are parked, longest first, each with what blocks it."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_PARKED, tenant_id, session_id)
    return [ParkedSession(**dict(row)) for row in rows]


async def request_retry(pool: Pool, tenant_id: str, session_id: str, *, requested_by: str) -> AuditRequest:
    """Asks to place the session's parked events again, for example after an upgrade or an `outbox redrive`.

    Raises:
        NotFound: nothing of this session is parked.
    """
    await _check_parked(pool, tenant_id, session_id)
    return await _request(pool, tenant_id, "retry", requested_by, session_id=session_id)


async def request_discard(
    pool: Pool, tenant_id: str, session_id: str, *, requested_by: str, reason: str
) -> AuditRequest:
    """Asks to set the session's conflicting events aside (they are kept, marked), so that it can go on.

    Raises:
        NotFound: nothing of this session is parked.
        Invalid: no reason.
    """
    if not reason.strip():
        raise Invalid("say why: the reason is kept with the events that are set aside")
    await _check_parked(pool, tenant_id, session_id)
    return await _request(pool, tenant_id, "discard", requested_by, session_id=session_id, reason=reason)


async def request_rebuild(pool: Pool, tenant_id: str, *, requested_by: str) -> AuditRequest:
    """Asks for a new projection, made from Kafka beside the live one and exchanged for it at once.

    Raises:
        Conflict: one is under way.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        running = await connection.fetchval(_UNFINISHED_REBUILD)
    if running is not None:
        raise Conflict(f"rebuild {running} is under way: wait for it")
    return await _request(pool, tenant_id, "rebuild", requested_by)


async def get_request(pool: Pool, tenant_id: str, request_id: str) -> AuditRequest:
    """A request as it stands.

    Raises:
        NotFound: the tenant has no such request.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_GET, tenant_id, request_id)
    if row is None:
        raise NotFound(f"no audit request {request_id}")
    return _shown(row)


async def _check_parked(pool: Pool, tenant_id: str, session_id: str) -> None:
    if not await list_parked(pool, tenant_id, session_id):
        raise NotFound(f"nothing of session {session_id} is parked")


async def _request(
    pool: Pool,
    tenant_id: str,
    kind: RequestKind,
    requested_by: str,
    *,
    session_id: str | None = None,
    reason: str | None = None,
) -> AuditRequest:
    request_id = new_id()
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(_ADD, tenant_id, request_id, kind, session_id, requested_by, reason)
        row = await connection.fetchrow(_GET, tenant_id, request_id)
    assert row is not None  # noqa: S101 - just inserted
    return _shown(row)


def _shown(row: asyncpg.Record) -> AuditRequest:
    fields: dict[str, Any] = {name: value for name, value in row.items() if name != "tenant_id"}
    return AuditRequest(**{**fields, "outcome": json.loads(row["outcome"]) if row["outcome"] else None})
