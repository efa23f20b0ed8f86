"""API keys."""

import structlog
from fastapi import Response

from flotilla.audit import admin_log as tenant_audit
from flotilla.contracts.errors import Conflict, Invalid, NotFound
from flotilla.contracts.ids import utc_now
from flotilla.postgres import Connection, tenant_transaction
from gateway.auth.impersonation import Impersonation
from gateway.auth.principal import ADMINS, FOR_OTHERS, Principal
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.key_records import GET_KEY, SELECT_KEYS, add_key, new_key_id
from gateway.names import SOURCE
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.keys import Key, KeyBody, KeyList, NewKey
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("keys")
log = structlog.get_logger(__name__)
_CREATE = "/v1/keys"
_SELECT_TAKEN_PEOPLE = """
SELECT EXISTS (SELECT FROM flotilla.people WHERE tenant_id = $1 AND subject = $2) AS is_person,
    EXISTS (SELECT FROM flotilla.api_keys WHERE tenant_id = $1 AND subject = $2) AS is_service
"""
# A page, newest first; $3 and $4 are the last row of the page before.
_LIST = f"""
{SELECT_KEYS} AND ($3::timestamptz IS NULL OR (k.created_at, k.key_id) < ($3, $4))
ORDER BY k.created_at DESC, k.key_id DESC LIMIT $2
"""
_SELECT_BEFORE_API_KEYS = """
SELECT key_hash, name, revoked_at FROM flotilla.api_keys WHERE tenant_id = $1 AND key_id = $2 FOR UPDATE
"""
_REVOKE_API_KEYS = "UPDATE flotilla.api_keys SET revoked_at = now() WHERE tenant_id = $1 AND key_id = $2"


class KeyMadeBefore(Conflict):
    """An earlier request with this Idempotency-Key made the key, and its secret is not kept."""

    code = "key_made_before"


@router.post(_CREATE, status_code=201, response_model=NewKey, responses=documented_errors(409, 413, 415))
@allow(ADMINS)
async def create_key(
    services: Wired, caller: Caller, body: KeyBody, response: Response, idempotency_key: IdempotencyKey = None
) -> NewKey:
    """Make a key. Its secret is in this answer and nowhere else."""
    if body.expires_at is not None and body.expires_at <= utc_now():
        raise Invalid(f"expires_at {body.expires_at.isoformat()} is in the past")
    acts_for = _acts_for(services, body)
    if body.person and body.may_append_as:
        raise Invalid("may_append_as: only a service appends events, and the key is to be a person's")
    key_id, tenant_id = new_key_id(), caller.tenant_id
    claim = IdempotencyClaim(caller, f"POST {_CREATE}", idempotency_key, body.model_dump())
    async with tenant_transaction(services.pool, tenant_id) as connection:
        earlier = await claim.take(connection, key_id)
        if earlier is not None:
            raise KeyMadeBefore(f"this request made key {earlier} before; its secret can't be shown again: revoke it")
        await _check_subject(connection, caller, body)
        made = await add_key(
            connection,
            tenant_id,
            body,
            key_id=key_id,
            by=caller.subject,
            by_key_id=caller.key_id,
            acts_for=acts_for,
        )
    log.info("key_created", key_id=key_id, name=body.name, roles=body.roles, by=caller.subject, tenant=tenant_id)
    response.headers["Cache-Control"] = "no-store"
    return made


def _acts_for(services: GatewayServices, body: KeyBody) -> str | None:
    """Return who vouches for the people on whose behalf the key may act; None if it may not.

    Raises:
        Invalid: the key could not use the right, or is a person's.
    """
    if not body.may_act_for_others:
        if body.people_of is not None:
            raise Invalid("people_of: it belongs to a key with may_act_for_others")
        return None
    if body.person:
        raise Invalid("may_act_for_others: only a service acts on behalf of others, and the key is to be a person's")
    if FOR_OTHERS.isdisjoint(body.roles):
        raise Invalid(f"may_act_for_others: the key needs the role {' or '.join(sorted(FOR_OTHERS))} to act for others")
    return body.people_of or services.people_issuer


async def _check_subject(connection: Connection, caller: Principal, body: KeyBody) -> None:
    """Nobody gets a key in the name of another person, or makes a person of a service.

    Raises:
        Impersonation: the name is a person's who has keys or logs in already, or a service's.
    """
    taken = await connection.fetchrow(_SELECT_TAKEN_PEOPLE, caller.tenant_id, body.name)
    assert taken is not None  # noqa: S101 - it selects no table's rows
    if taken["is_person"] and body.may_act_for_others:
        why = f"{body.name} is a person, and acts for nobody else: choose another name for the service"
        raise Impersonation("key", caller, body.name, why)
    if body.name == caller.subject:
        return
    if taken["is_person"]:
        raise Impersonation(
            "key",
            caller,
            body.name,
            f"{body.name} is a person: only {body.name} makes further keys in that name; choose another name, "
            "or make a key for a service",
        )
    if taken["is_service"] and body.person:
        why = f"{body.name} is a service, and can't become a person: choose another name"
        raise Impersonation("key", caller, body.name, why)


@router.get(_CREATE, response_model=KeyList, responses=documented_errors())
@allow(ADMINS)
async def list_keys(services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> KeyList:
    """List keys, newest first, never their secrets."""
    before = read_time_cursor(cursor)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await connection.fetch(_LIST, caller.tenant_id, limit, *before)
    return KeyList(
        keys=[Key.model_validate(dict(row)) for row in rows], next_cursor=next_time_cursor(rows, limit, "key_id")
    )


@router.delete("/v1/keys/{key_id}", response_model=Key, responses=documented_errors(404))
@allow(ADMINS)
async def revoke_key(services: Wired, caller: Caller, key_id: ResourceId) -> Key:
    """Revoke a key: here it stops working at once, at other replicas within a minute."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        before = await connection.fetchrow(_SELECT_BEFORE_API_KEYS, caller.tenant_id, key_id)
        if before is None:
            raise NotFound(f"no key {key_id}: it takes the id, which GET /v1/keys lists, not the name")
        if before["revoked_at"] is None:
            await connection.execute(_REVOKE_API_KEYS, caller.tenant_id, key_id)
            details = {"key_id": key_id, "name": before["name"], "by": caller.subject, "by_key_id": caller.key_id}
            await tenant_audit.record_admin_changes(connection, caller.tenant_id, SOURCE, ("api_key_revoked", details))
        row = await connection.fetchrow(GET_KEY, caller.tenant_id, key_id)
        assert row is not None  # noqa: S101 - locked above, in this transaction
    services.api_keys.clear_cache(before["key_hash"])
    services.login.sign_ins.clear_cache()
    services.browser_tokens.clear_cache()
    log.info("key_revoked", key_id=key_id, by=caller.subject, tenant=caller.tenant_id)
    return Key.model_validate(dict(row))
