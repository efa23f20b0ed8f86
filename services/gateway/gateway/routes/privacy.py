"""Privacy: erasure of people's data, confirmed by a second person, and legal holds."""

from typing import Annotated

from fastapi import Query

from flotilla.contracts.identity import LOCAL_ISSUER, user_name
from flotilla.postgres import keyring_of, tenant_transaction
from gateway.auth.principal import ADMINS
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Limit
from gateway.privacy import records
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.privacy import Erasure, ErasureList, ErasurePlan, LegalHold, LegalHoldList, PersonBody, PersonName
from gateway.services import Caller, Wired

router = guarded_router("privacy")
_ERASURES = "/v1/privacy/erasures"
_HOLDS = "/v1/privacy/holds"
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
    """Ask for the erasure of a person. A second person has to confirm it."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.request_erasure(connection, caller, body)


@router.post(
    "/v1/privacy/erasures/{erasure_id}/confirm",
    status_code=202,
    response_model=Erasure,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(ADMINS)
async def confirm_erasure(services: Wired, caller: Caller, erasure_id: ResourceId) -> Erasure:
    """Confirm, as a second person: the key is destroyed at once and for good. Runs then end, and each session records
    it."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        erasure = await records.confirm_erasure(connection, caller, erasure_id)
        keyring = keyring_of(connection)
    if keyring is not None:
        keyring.forget()  # the other replicas do within a minute
    return erasure


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
