"""What people ask of the audit consumer, which alone writes the projection: retry, discard, rebuild.

A request is a row; the audit consumer takes it within seconds and leaves its outcome there. What destroys something
waits for the confirmation of a second person, a day at most.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import asyncpg

from flotilla.audit.admin_log import record_admin_changes
from flotilla.contracts.errors import Conflict, Forbidden, Invalid, NotFound, no_such
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Connection, Pool, tenant_transaction

SOURCE = "/gateway"
"""Who records decisions in the tenant's audit session: it asks for them."""
NO_SESSION = "-"
"""Stands for the records that belong to no session; no session has this id."""
MAX_SESSIONS_PER_REQUEST = 500
RequestKind: TypeAlias = Literal["rebuild", "retry", "discard", "accept", "reject", "drop_kept", "archive", "restore"]

_LIST_PARKED = """
SELECT session_id, min(seq) AS first_seq, count(*) AS events, min(parked_at) AS parked_since,
    min(kafka_partition) AS partition,
    (array_agg(reason ORDER BY reason = 'waiting', reason = 'gap', kafka_offset))[1] AS reason,
    (array_agg(detail ORDER BY reason = 'waiting', reason = 'gap', kafka_offset))[1] AS detail
FROM audit.parked_events
WHERE tenant_id = $1 AND reason <> 'discarded' AND ($2::text IS NULL OR coalesce(session_id, '-') = $2)
GROUP BY session_id
UNION ALL
SELECT h.session_id, s.head_seq + 1, h.seq - s.head_seq, e.projected_at, h.kafka_partition, 'ahead',
    'Kafka has events that PostgreSQL lost: the next one of the session would be in conflict'
FROM audit.session_heads AS h JOIN flotilla.sessions AS s USING (tenant_id, session_id)
JOIN audit.session_events AS e ON e.tenant_id = h.tenant_id AND e.session_id = h.session_id AND e.seq = s.head_seq + 1
WHERE h.tenant_id = $1 AND h.seq > s.head_seq AND ($2::text IS NULL OR h.session_id = $2)
    AND NOT EXISTS (SELECT FROM audit.parked_events AS p
        WHERE p.tenant_id = h.tenant_id AND p.session_id = h.session_id AND p.reason <> 'discarded')
ORDER BY parked_since
"""
_INSERT_REQUEST = """
INSERT INTO audit.requests (tenant_id, request_id, kind, session_id, requested_by, reason, needs_confirmation,
    accept_loss)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)
"""
_GET_REQUEST = "SELECT * FROM audit.requests WHERE tenant_id = $1 AND request_id = $2"
_LIST_REQUESTS = "SELECT * FROM audit.requests WHERE tenant_id = $1 ORDER BY created_at DESC, request_id LIMIT $2"
_SELECT_UNFINISHED_REBUILD = """
SELECT request_id FROM audit.requests WHERE kind = 'rebuild' AND finished_at IS NULL
    AND (confirmed_at IS NOT NULL OR NOT needs_confirmation)
"""
_SELECT_REFUSED_LOSSES = """
SELECT outcome -> 'losses' FROM audit.requests
WHERE tenant_id = $1 AND kind = 'rebuild' AND outcome ? 'losses' ORDER BY finished_at DESC LIMIT 1
"""
_SELECT_SESSIONS_LOST = "SELECT audit.kept_sessions_lost()"
_CONFIRM_REQUEST = """
UPDATE audit.requests SET confirmed_by = $3, confirmed_at = now()
WHERE tenant_id = $1 AND request_id = $2 AND needs_confirmation AND confirmed_at IS NULL AND finished_at IS NULL
    AND requested_by <> $3
RETURNING *
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditParkedSession:
    """A session whose events wait; `session_id` is None for records that are not events at all."""

    session_id: str | None
    reason: str
    """gap, conflict, unknown_type, forbidden, waiting or undecodable; ahead: nothing waits yet, but PostgreSQL was
    restored to an earlier state than Kafka."""
    detail: str
    first_seq: int | None
    events: int
    parked_since: datetime
    partition: int
    """Of Kafka's topic of events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """A request and what came of it."""

    request_id: str
    kind: RequestKind
    session_id: str | None
    requested_by: str
    reason: str | None
    accept_loss: list[JsonObject] | None
    """The sessions whose loss the request accepts, each with `lost` and `replaced`, the most events it may lose."""
    needs_confirmation: bool
    confirmed_by: str | None
    """A second person; nothing is done before, if the request needs it."""
    confirmed_at: datetime | None
    progress: JsonObject | None
    """How far a rebuild is: `{"phase": "reading", "read": records, "of": records}`."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    outcome: JsonObject | None
    """`{"ok": true, ...}` or `{"ok": false, "error": ...}`; None until it is finished. A rebuild that would lose
    events lists them under `losses`."""


async def list_parked_sessions(pool: Pool, tenant_id: str, session_id: str | None = None) -> list[AuditParkedSession]:
    """The sessions that are parked, longest first, each with what blocks it."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_LIST_PARKED, tenant_id, session_id)
    return [AuditParkedSession(**dict(row)) for row in rows]


async def request_retry(pool: Pool, tenant_id: str, session_id: str, *, requested_by: str) -> AuditRequest:
    """Ask to place the session's parked events again, for example after an upgrade or an `outbox redrive`.

    Raises:
        NotFound: nothing of this session is parked.
    """
    if session_id == NO_SESSION:
        raise Invalid("records that are not session events don't become any by trying again: discard them")
    await _check_session_is_parked(pool, tenant_id, session_id)
    return await _insert_request_and_record(pool, tenant_id, "retry", requested_by, session_id=session_id)


async def request_discard(
    pool: Pool, tenant_id: str, session_id: str, *, requested_by: str, reason: str
) -> AuditRequest:
    """Ask to set the session's conflicting events aside (they are kept, marked), so that it can go on.

    Raises:
        NotFound: nothing of this session is parked.
        Invalid: no reason.
    """
    return await _request_decision(pool, tenant_id, "discard", session_id, requested_by=requested_by, reason=reason)


async def request_accept(
    pool: Pool, tenant_id: str, session_id: str, *, requested_by: str, reason: str
) -> AuditRequest:
    """Ask for the history that waits: projected events give way from the first conflict on; lost events of a gap get
    error events in their places. What gives way is kept, marked.

    Raises:
        NotFound: nothing of this session is parked.
        Invalid: no reason.
    """
    return await _request_decision(pool, tenant_id, "accept", session_id, requested_by=requested_by, reason=reason)


async def request_reject(
    pool: Pool, tenant_id: str, session_id: str, *, requested_by: str, reason: str
) -> AuditRequest:
    """Ask to keep the projected history: all that waits of the session is set aside (kept, marked), and the session
    goes on from its newest projected event.

    Raises:
        NotFound: nothing of this session is parked.
        Invalid: no reason.
    """
    return await _request_decision(pool, tenant_id, "reject", session_id, requested_by=requested_by, reason=reason)


async def request_decision_for_all_parked(
    pool: Pool,
    tenant_id: str,
    kind: Literal["accept", "reject"],
    *,
    parked_for: str,
    partition: int | None = None,
    requested_by: str,
    reason: str,
) -> list[AuditRequest]:
    """Ask the same of every session that is parked for one reason, in one partition or all; at most 500 at once.

    Raises:
        NotFound: none is.
        Invalid: no reason.
    """
    sessions = [
        parked.session_id
        for parked in await list_parked_sessions(pool, tenant_id)
        if parked.session_id and parked.reason == parked_for and partition in (None, parked.partition)
    ]
    if not sessions:
        raise NotFound(f"no session is parked for {parked_for}")
    return [
        await _request_decision(pool, tenant_id, kind, session_id, requested_by=requested_by, reason=reason)
        for session_id in sessions[:MAX_SESSIONS_PER_REQUEST]
    ]


async def _request_decision(
    pool: Pool, tenant_id: str, kind: RequestKind, session_id: str, *, requested_by: str, reason: str
) -> AuditRequest:
    if not reason.strip():
        raise Invalid("a reason is required: it is kept with the events that are set aside")
    if session_id == NO_SESSION and kind == "accept":
        raise Invalid("records that are not session events can't be taken into any history: discard or reject them")
    await _check_session_is_parked(pool, tenant_id, session_id)
    return await _insert_request_and_record(
        pool, tenant_id, kind, requested_by, session_id=session_id, reason=reason, recorded=True
    )


async def request_rebuild(
    pool: Pool, tenant_id: str, *, requested_by: str, accept_loss: Sequence[str] = (), reason: str | None = None
) -> AuditRequest:
    """Ask for a new projection, made from Kafka beside the live one and exchanged for it at once.

    `accept_loss` names sessions (`SESSION`, or `TENANT/SESSION` of another tenant) of which the last refused rebuild
    would have lost events: they may now lose that much, and no more. A second person has to confirm it.

    Raises:
        Conflict: one is under way.
        Invalid: a loss without a reason, or of a session that no refused rebuild named.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        running = await connection.fetchval(_SELECT_UNFINISHED_REBUILD)
        refused = await connection.fetchval(_SELECT_REFUSED_LOSSES, tenant_id) if accept_loss else None
    if running is not None:
        raise Conflict(
            f"rebuild {running} is under way: ask again when it has ended (`flotilla audit requests` shows it)"
        )
    if not accept_loss:
        return await _insert_request_and_record(pool, tenant_id, "rebuild", requested_by, reason=reason)
    if not (reason or "").strip():
        raise Invalid("a reason is required, since events may be lost: it is kept with the request")
    losses = _losses_by_name(tenant_id, accept_loss, json.loads(refused or "[]"))
    return await _insert_request_and_record(
        pool, tenant_id, "rebuild", requested_by, reason=reason, losses=losses, confirmed=False
    )


def _losses_by_name(tenant_id: str, names: Sequence[str], refused: Sequence[JsonObject]) -> list[JsonObject]:
    known = {f"{loss['tenant_id']}/{loss['session_id'] or '-'}": loss for loss in refused}
    wanted = [name if "/" in name else f"{tenant_id}/{name}" for name in names]
    if unknown := [name for name in wanted if name not in known]:
        raise Invalid(
            f"no rebuild was refused because of {', '.join(unknown)}: ask for one without accepting a loss first, its "
            "refusal names the sessions"
        )
    fields = ("tenant_id", "session_id", "lost", "replaced")
    return [{field: known[name][field] for field in fields} for name in dict.fromkeys(wanted)]


async def request_drop_of_replaced_projection(
    pool: Pool, tenant_id: str, *, requested_by: str, reason: str
) -> AuditRequest:
    """Ask to drop the projection that the last rebuild replaced. A second person confirms it where it holds events
    that are nowhere else.

    Raises:
        NotFound: none is kept.
        Invalid: no reason.
    """
    if not reason.strip():
        raise Invalid("a reason is required: it is kept with the request")
    lost = await pool.fetchval(_SELECT_SESSIONS_LOST)
    if lost is None:
        raise NotFound("no replaced projection is kept")
    return await _insert_request_and_record(
        pool, tenant_id, "drop_kept", requested_by, reason=reason, confirmed=not lost
    )


async def confirm_audit_request(
    pool: Pool, tenant_id: str, request_id: str, *, confirmed_by: str, is_person: bool
) -> AuditRequest:
    """Agrees, as a second person, to what a request asks for; the audit consumer then does it.

    Raises:
        NotFound: the tenant has no such request.
        Forbidden: its requester, or a service, can't confirm it.
        Conflict: it does not wait for a confirmation.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_CONFIRM_REQUEST, tenant_id, request_id, confirmed_by) if is_person else None
    if row is not None:
        return _request_from_row(row)
    request = await get_audit_request(pool, tenant_id, request_id)
    if not request.needs_confirmation or request.confirmed_at is not None or request.finished_at is not None:
        raise Conflict(f"request {request_id} does not wait for a confirmation")
    who = f"{confirmed_by} asked for it" if is_person else f"{confirmed_by} is a service"
    raise Forbidden(f"{who}: a second person has to confirm request {request_id}")


async def list_audit_requests(pool: Pool, tenant_id: str, limit: int) -> list[AuditRequest]:
    """The tenant's newest requests."""
    async with tenant_transaction(pool, tenant_id) as connection:
        return [_request_from_row(row) for row in await connection.fetch(_LIST_REQUESTS, tenant_id, limit)]


async def get_audit_request(pool: Pool, tenant_id: str, request_id: str) -> AuditRequest:
    """A request as it stands.

    Raises:
        NotFound: the tenant has no such request.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_GET_REQUEST, tenant_id, request_id)
    if row is None:
        raise no_such("audit request", request_id)
    return _request_from_row(row)


async def _check_session_is_parked(pool: Pool, tenant_id: str, session_id: str) -> None:
    if not await list_parked_sessions(pool, tenant_id, session_id):
        raise NotFound(f"nothing of session {session_id} is parked")


async def insert_audit_request(
    connection: Connection,
    tenant_id: str,
    kind: RequestKind,
    requested_by: str,
    *,
    session_id: str | None = None,
    reason: str | None = None,
) -> AuditRequest:
    """Ask the audit consumer for something, in the caller's transaction."""
    request_id = new_id()
    row_values = (tenant_id, request_id, kind, session_id, requested_by, reason, False, None)
    await connection.execute(_INSERT_REQUEST, *row_values)
    row = await connection.fetchrow(_GET_REQUEST, tenant_id, request_id)
    assert row is not None  # noqa: S101 - just inserted
    return _request_from_row(row)


async def _insert_request_and_record(
    pool: Pool,
    tenant_id: str,
    kind: RequestKind,
    requested_by: str,
    *,
    session_id: str | None = None,
    reason: str | None = None,
    losses: Sequence[JsonObject] | None = None,
    confirmed: bool = True,
    recorded: bool = False,
) -> AuditRequest:
    request_id = new_id()
    accepted = None if losses is None else json.dumps(losses)
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(
            _INSERT_REQUEST, tenant_id, request_id, kind, session_id, requested_by, reason, not confirmed, accepted
        )
        row = await connection.fetchrow(_GET_REQUEST, tenant_id, request_id)
        if recorded:
            details: JsonObject = {"request_id": request_id, "decision": kind, "session_id": session_id}
            decided = ("parked_history_decided", {**details, "reason": reason, "by": requested_by})
            await record_admin_changes(connection, tenant_id, SOURCE, decided)
    assert row is not None  # noqa: S101 - just inserted
    return _request_from_row(row)


_JSON = ("outcome", "progress", "accept_loss")


def _request_from_row(row: asyncpg.Record) -> AuditRequest:
    fields: dict[str, Any] = {name: value for name, value in row.items() if name != "tenant_id"}
    parsed = {name: json.loads(fields[name]) if fields[name] else None for name in _JSON}
    return AuditRequest(**{**fields, **parsed})
