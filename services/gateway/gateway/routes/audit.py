"""Audit: verification, checkpoints, exports, and what is asked of the audit consumer."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import asyncpg
from fastapi import Query
from starlette.responses import StreamingResponse

from flotilla.audit import parked_history
from flotilla.audit import requests as audit_requests
from flotilla.audit.export import export_session
from flotilla.audit.parked_history import ParkedHistory
from flotilla.audit.requests import AuditRequest
from flotilla.audit.verify import HistoryVerifier, Verdict
from flotilla.contracts.errors import Forbidden
from flotilla.postgres import current_viewer, tenant_transaction
from gateway.auth.issuers import check_different_people
from gateway.auth.principal import ADMINS, EVERYONE, OPERATORS, Principal
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, read_time_cursor, time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.audit import (
    AllParkedBody,
    AuditRequestList,
    Checkpoint,
    CheckpointList,
    ParkedId,
    ParkedList,
    ReasonBody,
    RebuildBody,
)
from gateway.schemas.common import ID_PATTERN, ResourceId
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("audit")
_NOT_YOURS = "the projection belongs to all tenants: only the operator's tenant may replace or drop it"
EXPORT_MEDIA_TYPE = "application/x-ndjson"
_SELECT_NEWEST_CHECKPOINTS = "SELECT * FROM audit.newest_checkpoints($1, $2, $3)"


@router.get("/v1/audit/verify", response_model=Verdict, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def verify(
    services: Wired,
    caller: Caller,
    session_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="By default all sessions.")] = None,
) -> Verdict:
    """Check hash chains, signed checkpoints and Kafka's copy; name the first event that was changed, if any.

    Without a session it covers those that the caller may read.
    """
    viewer = current_viewer()
    whole = viewer is not None and viewer.sees_all
    verifier = HistoryVerifier(
        services.pool, caller.tenant_id, services.audit_keys, services.kafka_log, whole_tenant=whole
    )
    return await verifier.verify_sessions(session_id)


@router.get("/v1/audit/checkpoints", response_model=CheckpointList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_checkpoints(
    services: Wired, _caller: Caller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> CheckpointList:
    """List the signed checkpoints, newest first. They hold hashes only, and belong to the whole fleet."""
    before = read_time_cursor(cursor)
    rows = await services.pool.fetch(_SELECT_NEWEST_CHECKPOINTS, *before, limit)
    following = time_cursor(rows[-1]["created_at"], rows[-1]["place"]) if len(rows) == limit else None
    return CheckpointList(checkpoints=[_checkpoint(row) for row in rows], next_cursor=following)


def _checkpoint(row: asyncpg.Record) -> Checkpoint:
    statement = json.loads(row["statement"])
    return Checkpoint(
        partition=statement["partition"],
        number=statement["number"],
        epoch=statement.get("epoch", 1),
        offset=statement["next_offset"],
        heads=statement["heads"],
        merkle_root=statement["merkle_root"],
        statement=row["statement"].decode(),
        signature=b64encode(row["signature"]).decode(),
        key_id=row["key_id"],
        created_at=row["created_at"],
        published_at=row["published_at"],
    )


@router.get(
    "/v1/audit/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "JSON lines: events and what proves them.",
            "content": {EXPORT_MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **documented_errors(404),
    },
)
@allow(EVERYONE, for_others=True)
async def export(
    services: Wired, caller: Caller, session_id: Annotated[str, Query(pattern=ID_PATTERN)]
) -> StreamingResponse:
    """A session's history with everything that proves it, for auditors who trust nobody here."""
    lines = export_session(services.pool, caller.tenant_id, session_id)
    first = await anext(lines)  # what can be refused is refused before the answer begins
    return StreamingResponse(_whole(first, lines), media_type=EXPORT_MEDIA_TYPE)


async def _whole(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in rest:
        yield line


@router.post(
    "/v1/audit/rebuild", status_code=202, response_model=AuditRequest, responses=documented_errors(409, 413, 415)
)
@allow(ADMINS, free_json=True)
async def rebuild(services: Wired, caller: Caller, body: RebuildBody | None = None) -> AuditRequest:
    """Ask for a new projection, made from Kafka beside the live one. It is every tenant's, so the operator's to ask.

    Where Kafka has lost events that the projection holds, it is refused, and the outcome lists the sessions. With
    `accept_loss` these sessions may lose that much, once a second person has confirmed the request.
    """
    services.check_operates_fleet(caller, _NOT_YOURS)
    wanted = body or RebuildBody()
    return await audit_requests.request_rebuild(
        services.pool,
        caller.tenant_id,
        requested_by=caller.subject,
        accept_loss=wanted.accept_loss,
        reason=wanted.reason,
    )


@router.post(
    "/v1/audit/kept-projection/drop",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 413, 415),
)
@allow(ADMINS)
async def drop_kept(services: Wired, caller: Caller, body: ReasonBody) -> AuditRequest:
    """Ask to drop the projection that the last rebuild replaced. If events are only there, a second person confirms."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    return await audit_requests.request_drop_of_replaced_projection(
        services.pool, caller.tenant_id, requested_by=caller.subject, reason=body.reason
    )


@router.post(
    "/v1/audit/requests/{request_id}/confirm",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(OPERATORS)
async def confirm_request(services: Wired, caller: Caller, request_id: ResourceId) -> AuditRequest:
    """Agree, as a second person, to what a request asks for; the audit consumer then does it.

    403 for who asked, for a service, and where one of the two people issued a key of the other.
    """
    request = await audit_requests.get_audit_request(services.pool, caller.tenant_id, request_id)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await check_different_people(connection, caller, [request.requested_by], f"request {request_id}")
    return await audit_requests.confirm_audit_request(
        services.pool, caller.tenant_id, request_id, confirmed_by=caller.subject, is_person=caller.is_person
    )


@router.get("/v1/audit/requests", response_model=AuditRequestList, responses=documented_errors())
@allow(OPERATORS)
async def list_requests(services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT) -> AuditRequestList:
    """List the newest requests to the audit consumer: who asked, who confirmed, why, and the outcome."""
    return AuditRequestList(requests=await audit_requests.list_audit_requests(services.pool, caller.tenant_id, limit))


@router.get("/v1/audit/requests/{request_id}", response_model=AuditRequest, responses=documented_errors(404))
@allow(OPERATORS)
async def get_request(services: Wired, caller: Caller, request_id: ResourceId) -> AuditRequest:
    """What came of a request to the audit consumer."""
    return await audit_requests.get_audit_request(services.pool, caller.tenant_id, request_id)


@router.get("/v1/audit/parked", response_model=ParkedList, responses=documented_errors())
@allow(OPERATORS)
async def list_parked(services: Wired, caller: Caller) -> ParkedList:
    """List the sessions that wait, and for what."""
    return ParkedList(parked=await audit_requests.list_parked_sessions(services.pool, caller.tenant_id))


@router.post(
    "/v1/audit/parked/accept", status_code=202, response_model=AuditRequestList, responses=documented_errors(404, 413)
)
@allow(ADMINS)
async def accept_all(services: Wired, caller: Caller, body: AllParkedBody) -> AuditRequestList:
    """Ask to take the history that waits, for every session that is parked for one reason; at most 500 at once."""
    return await _for_all(services, caller, "accept", body)


@router.post(
    "/v1/audit/parked/reject", status_code=202, response_model=AuditRequestList, responses=documented_errors(404, 413)
)
@allow(ADMINS)
async def reject_all(services: Wired, caller: Caller, body: AllParkedBody) -> AuditRequestList:
    """Ask to keep the projected history, for every session that is parked for one reason; at most 500 at once."""
    return await _for_all(services, caller, "reject", body)


async def _for_all(
    services: GatewayServices, caller: Principal, kind: Literal["accept", "reject"], body: AllParkedBody
) -> AuditRequestList:
    tenant_id = body.tenant_id or caller.tenant_id
    if caller.tenant_id not in {tenant_id, services.operator_tenant}:
        raise Forbidden(f"only the operator's tenant may decide for tenant {tenant_id}")
    requests = await audit_requests.request_decision_for_all_parked(
        services.pool,
        tenant_id,
        kind,
        parked_for=body.parked_for,
        partition=body.partition,
        requested_by=caller.subject,
        reason=body.reason,
    )
    return AuditRequestList(requests=requests)


@router.get("/v1/audit/parked/{session_id}", response_model=ParkedHistory, responses=documented_errors(404))
@allow(OPERATORS)
async def explain_parked(services: Wired, caller: Caller, session_id: ParkedId) -> ParkedHistory:
    """Explain a parked session: what each side holds, who signed what, since when, and what each choice means."""
    return await parked_history.explain_parked_session(services.pool, caller.tenant_id, session_id)


@router.post(
    "/v1/audit/parked/{session_id}/accept",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 413, 415),
)
@allow(ADMINS)
async def accept_parked(services: Wired, caller: Caller, session_id: ParkedId, body: ReasonBody) -> AuditRequest:
    """Ask to take the history that waits; the projected events that give way are kept, marked."""
    return await audit_requests.request_accept(
        services.pool, caller.tenant_id, session_id, requested_by=caller.subject, reason=body.reason
    )


@router.post(
    "/v1/audit/parked/{session_id}/reject",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 413, 415),
)
@allow(ADMINS)
async def reject_parked(services: Wired, caller: Caller, session_id: ParkedId, body: ReasonBody) -> AuditRequest:
    """Ask to keep the projected history; all that waits of the session is set aside, marked."""
    return await audit_requests.request_reject(
        services.pool, caller.tenant_id, session_id, requested_by=caller.subject, reason=body.reason
    )


@router.post(
    "/v1/audit/parked/{session_id}/retry",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 413, 415),
)
@allow(OPERATORS)
async def retry_parked(services: Wired, caller: Caller, session_id: ParkedId) -> AuditRequest:
    """Ask to place a session's parked events again."""
    return await audit_requests.request_retry(services.pool, caller.tenant_id, session_id, requested_by=caller.subject)


@router.post(
    "/v1/audit/parked/{session_id}/discard",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 413, 415),
)
@allow(ADMINS)
async def discard_parked(services: Wired, caller: Caller, session_id: ParkedId, body: ReasonBody) -> AuditRequest:
    """Ask to set a session's conflicting events aside, so that it can go on."""
    return await audit_requests.request_discard(
        services.pool, caller.tenant_id, session_id, requested_by=caller.subject, reason=body.reason
    )
