"""What is asked for in privacy, and who confirms it: as many further people as the policy said then."""

import json
from collections.abc import Mapping

import asyncpg

from flotilla.approvals.policy import PrivacyKind
from flotilla.audit import admin_log
from flotilla.contracts.errors import Conflict, Forbidden, no_such
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonValue
from flotilla.postgres import Connection
from gateway.auth.issuers import check_different_people
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.schemas.privacy import PrivacyRequest

_SELECT_ALL_PRIVACY_CONFIRMATIONS = """
SELECT r.*, ARRAY(SELECT c.confirmed_by FROM flotilla.privacy_confirmations AS c
                  WHERE c.tenant_id = $1 AND c.request_id = r.request_id
                  ORDER BY c.confirmed_at, c.confirmed_by) AS confirmations
FROM (
    SELECT request_id, kind, person, details, reason, requested_by, requested_at, confirmations_needed, confirmed_at,
        confirmed_at AS finished_at
    FROM flotilla.privacy_requests WHERE tenant_id = $1
    UNION ALL
    SELECT erasure_id, 'erase', person, '{}', reason, requested_by, requested_at, confirmations_needed, confirmed_at,
        finished_at
    FROM flotilla.erasures WHERE tenant_id = $1
) AS r
"""
_GET = f"{_SELECT_ALL_PRIVACY_CONFIRMATIONS} WHERE request_id = $2"
_LIST = f"{_SELECT_ALL_PRIVACY_CONFIRMATIONS} ORDER BY requested_at DESC, request_id LIMIT $2"
_INSERT_PRIVACY_REQUESTS = """
INSERT INTO flotilla.privacy_requests (tenant_id, request_id, kind, person, details, reason, requested_by,
    confirmations_needed)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8)
"""
# Who confirms second sees who confirmed first, and whose keys those two issued.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('flotilla:privacy:' || $1 || '/' || $2, 0))"
_CONFIRM_PRIVACY_REQUEST = "SELECT flotilla.confirm_privacy_request($1, $2, $3)"
_CONFIRM_ERASURE = "SELECT flotilla.confirm_erasure($1, $2, $3)"
_HELD_FOR = "SELECT reason FROM flotilla.legal_holds WHERE tenant_id = $1 AND person = $2"
_REQUESTED: Mapping[PrivacyKind, str] = {
    "erase": "privacy_erasure_requested",
    "export": "privacy_export_requested",
    "retention": "privacy_retention_requested",
}
_CONFIRMED: Mapping[PrivacyKind, str] = {
    "erase": "privacy_erasure_confirmed",
    "export": "privacy_export_confirmed",
    "retention": "privacy_retention_confirmed",
}


async def add_request(
    connection: Connection,
    caller: Principal,
    kind: PrivacyKind,
    *,
    needed: int,
    reason: str,
    person: str | None = None,
    details: Mapping[str, JsonValue] | None = None,
) -> PrivacyRequest:
    """Ask for it; where the policy needs no further person, it is allowed at once."""
    request_id = new_id()
    written = json.dumps(dict(details or {}))
    await connection.execute(
        _INSERT_PRIVACY_REQUESTS, caller.tenant_id, request_id, kind, person, written, reason, caller.subject, needed
    )
    await connection.fetchval(_CONFIRM_PRIVACY_REQUEST, caller.tenant_id, request_id, None)
    request = await get_request(connection, caller.tenant_id, request_id)
    await record(connection, caller, _REQUESTED[kind], {**described(request), "reason": reason})
    return request


async def confirm_request(connection: Connection, caller: Principal, request_id: str) -> PrivacyRequest:
    """Confirm what somebody else asked for. With the last confirmation that it needs it is allowed, or done.

    Raises:
        NotFound: no such request.
        Forbidden: the caller asked for it, is a service, or issued a key of somebody whose word counts (or has one of
            theirs).
        Conflict: it is confirmed already, or a legal hold refuses it.
    """
    if not caller.is_person:
        raise Forbidden(f"{caller.subject} is a service: a further person has to confirm request {request_id}")
    await connection.execute(_LOCK, caller.tenant_id, request_id)
    request = await get_request(connection, caller.tenant_id, request_id)
    counted = {request.requested_by, *request.confirmations}
    await check_different_people(connection, caller, counted, f"request {request_id}")
    statement = _CONFIRM_ERASURE if request.kind == "erase" else _CONFIRM_PRIVACY_REQUEST
    outcome = await connection.fetchval(statement, caller.tenant_id, request_id, caller.subject)
    request = await get_request(connection, caller.tenant_id, request_id)
    await _check_outcome(connection, caller, request, outcome)
    missing = max(0, request.confirmations_needed - len(request.confirmations))
    await record(connection, caller, _CONFIRMED[request.kind], {**described(request), "missing": missing})
    return request


async def get_request(connection: Connection, tenant_id: str, request_id: str) -> PrivacyRequest:
    """Return the request, of whatever kind.

    Raises:
        NotFound: the tenant has none of that id.
    """
    row = await connection.fetchrow(_GET, tenant_id, request_id)
    if row is None:
        raise no_such("privacy request", request_id)
    return _request(row)


async def list_requests(connection: Connection, tenant_id: str, limit: int) -> list[PrivacyRequest]:
    """Return the newest requests of all kinds."""
    return [_request(row) for row in await connection.fetch(_LIST, tenant_id, limit)]


async def check_not_held(connection: Connection, tenant_id: str, person: str) -> None:
    """Raises Conflict: the person is under a legal hold."""
    if (reason := await connection.fetchval(_HELD_FOR, tenant_id, person)) is not None:
        raise Conflict(f"{person} is under a legal hold: {reason}")


async def record(connection: Connection, caller: Principal, change: str, details: Mapping[str, JsonValue]) -> None:
    """Record a change in the tenant's audit session, with who made it. Call it last."""
    await admin_log.record_admin_changes(connection, caller.tenant_id, SOURCE, (change, {**details, **caller.by}))


def described(request: PrivacyRequest) -> dict[str, JsonValue]:
    """What events say of a request."""
    id_name = "erasure_id" if request.kind == "erase" else "request_id"
    person: dict[str, JsonValue] = {} if request.person is None else {"person": request.person}
    return {id_name: request.request_id, **person, **request.details}


async def _check_outcome(
    connection: Connection, caller: Principal, request: PrivacyRequest, outcome: str | None
) -> None:
    request_id = request.request_id
    match outcome:
        case "same":
            raise Forbidden(f"{caller.subject} asked for it: a further person has to confirm request {request_id}")
        case "confirmed":
            raise Conflict(f"request {request_id} was confirmed by {', '.join(request.confirmations)} already")
        case "again":
            raise Conflict(f"{caller.subject} confirmed request {request_id} already: it waits for somebody else")
        case "held":
            await check_not_held(connection, caller.tenant_id, request.person or "")
            raise Conflict(f"the legal hold of {request.person} was removed just now: try again")


def _request(row: asyncpg.Record) -> PrivacyRequest:
    return PrivacyRequest(**{**dict(row), "details": json.loads(row["details"])})
