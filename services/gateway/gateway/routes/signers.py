"""The keys with which people sign their votes: each person enrolls their own, a second administrator approves it."""

from typing import Annotated

from fastapi import Query

from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.votes import Signed
from flotilla.postgres import tenant_transaction
from gateway.auth.principal import ADMINS, EVERYONE
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.signers import Passkeys, SignedBody, Signer, SignerList
from gateway.services import Caller, GatewayServices, Wired
from gateway.signers import records

router = guarded_router("signers")
_SIGNERS = "/v1/signers"


@router.post(_SIGNERS, status_code=201, response_model=Signer, responses=documented_errors(409, 413, 415))
@allow(EVERYONE)
async def enroll_signer(services: Wired, caller: Caller, body: SignedBody) -> Signer:
    """Enroll a key of your own. It signs nothing until a second administrator has approved it."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.store_signer(connection, caller, signed_statement_from_body(body), services.vote_roots)


@router.get(_SIGNERS, response_model=SignerList, responses=documented_errors())
@allow(EVERYONE)
async def list_signers(
    services: Wired,
    caller: Caller,
    subject: Annotated[str | None, Query(description="Only this person's.", max_length=200)] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> SignerList:
    """List signers, newest first."""
    before = read_time_cursor(cursor)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await records.list_signers(connection, caller.tenant_id, subject=subject, limit=limit, before=before)
    return SignerList(
        signers=[records.signer_from_row(row) for row in rows],
        next_cursor=next_time_cursor(rows, limit, "signer_id"),
        passkeys=_passkeys(services),
    )


@router.get("/v1/signers/{signer_id}", response_model=Signer, responses=documented_errors(404))
@allow(EVERYONE)
async def get_signer(services: Wired, caller: Caller, signer_id: ResourceId) -> Signer:
    """One signer."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.get_signer(connection, caller.tenant_id, signer_id)


@router.post("/v1/signers/{signer_id}/approval", response_model=Signer, responses=documented_errors(404, 409, 413, 415))
@allow(ADMINS)
async def approve_signer(services: Wired, caller: Caller, signer_id: ResourceId, body: SignedBody) -> Signer:
    """Approve another person's key, by a signature with one of the configured vote roots."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.approve_signer_key(
            connection, caller, signer_id, signed_statement_from_body(body), services.vote_roots
        )


@router.delete("/v1/signers/{signer_id}", response_model=Signer, responses=documented_errors(404))
@allow(EVERYONE)
async def revoke_signer(services: Wired, caller: Caller, signer_id: ResourceId) -> Signer:
    """Revoke a key of your own, or, as an administrator, anybody's: it never signs again.

    Votes that were counted before stay counted.
    """
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.revoke_signer_key(connection, caller, signer_id)


def signed_statement_from_body(body: SignedBody) -> Signed:
    """Return the body as the contract that is stored."""
    return from_builtins(body.model_dump(include={"statement", "signature"}), Signed)


def _passkeys(services: GatewayServices) -> Passkeys | None:
    found = services.vote_roots.passkeys
    return Passkeys(rp_id=found.rp_id, origins=list(found.origins)) if found else None
