"""Privacy: erasure of people's data, what further people confirm, and legal holds."""

from typing import Annotated

from fastapi import Query
from starlette.responses import StreamingResponse

from flotilla.contracts.identity import LOCAL_ISSUER, user_name
from flotilla.encryption import SessionKeyring
from flotilla.postgres import keyring_of, tenant_transaction
from gateway.auth.principal import ADMINS
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Limit
from gateway.privacy import export as exporting
from gateway.privacy import records, requests, retention
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.privacy import (
    Erasure,
    ErasureList,
    ErasurePlan,
    LegalHold,
    LegalHoldList,
    PersonBody,
    PersonName,
    PrivacyRequest,
    PrivacyRequestList,
    RetentionBody,
    RetentionKind,
    RetentionPlan,
    RetentionPolicyList,
)
from gateway.services import Caller, Wired

router = guarded_router("privacy")
_ERASURES = "/v1/privacy/erasures"
_REQUESTS = "/v1/privacy/requests"
_EXPORTS = "/v1/privacy/exports"
_RETENTION = "/v1/privacy/retention"
_HOLDS = "/v1/privacy/holds"
ARCHIVE_MEDIA_TYPE = "application/zip"
Subject = Annotated[PersonName, Query(description="The person, as their provider names them.")]
Issuer = Annotated[PersonName, Query(description="Who says that it is that person.")]


@router.get("/v1/privacy/plan", response_model=ErasurePlan, responses=documented_errors())
@allow(ADMINS)
async def plan_erasure(services: Wired, caller: Caller, subject: Subject, issuer: Issuer = LOCAL_ISSUER) -> ErasurePlan:
    """Show what an erasure of a person would reach. Nothing is changed."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.plan_erasure(connection, caller.tenant_id, user_name(issuer, subject))


@router.post(_ERASURES, status_code=202, response_model=Erasure, responses=documented_errors(404, 409, 413, 415))
@allow(ADMINS)
async def request_erasure(services: Wired, caller: Caller, body: PersonBody) -> Erasure:
    """Ask for the erasure of a person: as many further people as the policy says have to confirm it."""
    needed = services.current_policy.privacy_confirmations("erase")
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.request_erasure(connection, caller, body, needed)


@router.post(
    "/v1/privacy/erasures/{erasure_id}/confirm",
    status_code=202,
    response_model=Erasure,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(ADMINS)
async def confirm_erasure(services: Wired, caller: Caller, erasure_id: ResourceId) -> Erasure:
    """Confirm, as a further person. With the last confirmation the key is destroyed at once and for good.

    Runs then end, and each session records it.
    """
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        erasure = await records.confirm_erasure(connection, caller, erasure_id)
        keyring = keyring_of(connection)
    _forget(keyring)
    return erasure


@router.get(_REQUESTS, response_model=PrivacyRequestList, responses=documented_errors())
@allow(ADMINS)
async def list_requests(services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT) -> PrivacyRequestList:
    """List the newest erasures, exports and changes of retention: who asked, why, and who confirmed."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return PrivacyRequestList(requests=await requests.list_requests(connection, caller.tenant_id, limit))


@router.get(f"{_REQUESTS}/{{request_id}}", response_model=PrivacyRequest, responses=documented_errors(404))
@allow(ADMINS)
async def get_request(services: Wired, caller: Caller, request_id: ResourceId) -> PrivacyRequest:
    """One of them."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await requests.get_request(connection, caller.tenant_id, request_id)


@router.post(
    f"{_REQUESTS}/{{request_id}}/confirm",
    status_code=202,
    response_model=PrivacyRequest,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(ADMINS)
async def confirm_request(services: Wired, caller: Caller, request_id: ResourceId) -> PrivacyRequest:
    """Confirm, as a further person, what somebody else asked for, of whatever kind."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        request = await requests.confirm_request(connection, caller, request_id)
        keyring = keyring_of(connection)
    _forget(keyring)
    return request


@router.post(_EXPORTS, status_code=202, response_model=PrivacyRequest, responses=documented_errors(413, 415))
@allow(ADMINS)
async def request_export(services: Wired, caller: Caller, body: PersonBody) -> PrivacyRequest:
    """Ask for an export of all that the fleet holds on a person, which further people confirm as the policy says."""
    needed, person = services.current_policy.privacy_confirmations("export"), user_name(body.issuer, body.subject)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await requests.add_request(
            connection, caller, "export", needed=needed, reason=body.reason, person=person
        )


@router.get(
    f"{_EXPORTS}/{{request_id}}/archive",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A ZIP archive of JSON lines, with an index.",
            "content": {ARCHIVE_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **documented_errors(404, 409),
    },
)
@allow(ADMINS)
async def fetch_export(services: Wired, caller: Caller, request_id: ResourceId) -> StreamingResponse:
    """Fetch the export that the caller asked for, up to 7 days after it was confirmed: each time it is made as of now.

    The archive is readable: what is encrypted is decrypted, and `[erased]` where its key was destroyed.
    """
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        person = await exporting.begin_export(connection, caller, request_id)
    issuers = frozenset({LOCAL_ISSUER, services.people_issuer})
    export = exporting.PersonExport(services.pool, services.kafka_log, caller.tenant_id, person, issuers)
    headers = {"Content-Disposition": f'attachment; filename="{request_id}.zip"'}
    return StreamingResponse(export.stream(), media_type=ARCHIVE_MEDIA_TYPE, headers=headers)


@router.get(_RETENTION, response_model=RetentionPolicyList, responses=documented_errors())
@allow(ADMINS)
async def list_retention(services: Wired, caller: Caller) -> RetentionPolicyList:
    """For how long the tenant keeps what is over, by kind."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return RetentionPolicyList(policies=await retention.list_policies(connection, caller.tenant_id))


@router.get(f"{_RETENTION}/plan", response_model=RetentionPlan, responses=documented_errors())
@allow(ADMINS)
async def plan_retention(
    services: Wired, caller: Caller, kind: RetentionKind, days: Annotated[int, Query(ge=1, le=36_500)]
) -> RetentionPlan:
    """Show what a policy would delete now. Nothing is changed."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await retention.plan_policy(connection, caller.tenant_id, kind, days)


@router.post(_RETENTION, status_code=202, response_model=PrivacyRequest, responses=documented_errors(413, 415))
@allow(ADMINS)
async def request_retention(services: Wired, caller: Caller, body: RetentionBody) -> PrivacyRequest:
    """Ask for another policy of a kind, which further people confirm as the policy says; from then on it counts."""
    needed = services.current_policy.privacy_confirmations("retention")
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await retention.request_change(connection, caller, body, needed)


def _forget(keyring: SessionKeyring | None) -> None:
    """After the commit, show what is erased as erased: the other replicas do within a minute."""
    if keyring is not None:
        keyring.forget()


@router.get(_ERASURES, response_model=ErasureList, responses=documented_errors())
@allow(ADMINS)
async def list_erasures(services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT) -> ErasureList:
    """List the newest erasures: who asked, who confirmed, why, and whether they are finished."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return ErasureList(erasures=await records.list_erasures(connection, caller.tenant_id, limit))


@router.get("/v1/privacy/erasures/{erasure_id}", response_model=Erasure, responses=documented_errors(404))
@allow(ADMINS)
async def get_erasure(services: Wired, caller: Caller, erasure_id: ResourceId) -> Erasure:
    """One erasure."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.get_erasure(connection, caller.tenant_id, erasure_id)


@router.get(_HOLDS, response_model=LegalHoldList, responses=documented_errors())
@allow(ADMINS)
async def list_holds(services: Wired, caller: Caller) -> LegalHoldList:
    """List the legal holds."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return LegalHoldList(holds=await records.list_holds(connection, caller.tenant_id))


@router.post(_HOLDS, status_code=201, response_model=LegalHold, responses=documented_errors(409, 413, 415))
@allow(ADMINS)
async def add_hold(services: Wired, caller: Caller, body: PersonBody) -> LegalHold:
    """Put a person under a legal hold: erasures are refused with its reason."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.add_hold(connection, caller, body)


@router.delete(_HOLDS, status_code=204, responses=documented_errors(404))
@allow(ADMINS)
async def remove_hold(services: Wired, caller: Caller, subject: Subject, issuer: Issuer = LOCAL_ISSUER) -> None:
    """Remove a person's legal hold."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await records.remove_hold(connection, caller, subject, issuer)
