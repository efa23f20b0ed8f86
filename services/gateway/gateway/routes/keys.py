"""API keys."""

import secrets

import structlog
from fastapi import Response

from flotilla.audit import admin_log as tenant_audit
from flotilla.contracts.api_keys import api_key_hash, api_key_hint, new_api_key
from flotilla.contracts.errors import Conflict, Invalid, NotFound
from flotilla.contracts.ids import utc_now
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Connection, tenant_transaction
from gateway.auth.impersonation import Impersonation
from gateway.auth.principal import ADMINS, FOR_OTHERS, Principal
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.names import SOURCE
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.keys import Key, KeyBody, KeyList, NewKey
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("keys")
log = structlog.get_logger(__name__)
_CREATE = "/v1/keys"
_TAKEN = """
SELECT EXISTS (SELECT FROM flotilla.people WHERE tenant_id = $1 AND subject = $2) AS is_person,
    EXISTS (SELECT FROM flotilla.api_keys WHERE tenant_id = $1 AND subject = $2) AS is_service
"""
_PERSON = """
INSERT INTO flotilla.people (tenant_id, subject, display_name, roles) VALUES ($1, $2, $2, $3)
ON CONFLICT (tenant_id, subject) DO UPDATE
    SET roles = ARRAY(SELECT DISTINCT unnest(people.roles || excluded.roles) ORDER BY 1)
RETURNING roles
"""
_ROLES = "SELECT roles FROM flotilla.people WHERE tenant_id = $1 AND subject = $2 FOR UPDATE"
_ADD = """
INSERT INTO flotilla.api_keys (tenant_id, key_id, name, key_hash, subject, roles, created_by, expires_at, hint,
    acts_for, appends_as)
VALUES ($1, $2, $3, $4, $3, $5, $6, $7, $8, $9, $10)
"""
_SELECT = """
SELECT k.key_id, k.hint, k.name, k.roles, p.subject IS NOT NULL AS is_person, k.acts_for, k.appends_as,
    k.created_by, k.created_at, k.expires_at, k.revoked_at
FROM flotilla.api_keys AS k
LEFT JOIN flotilla.people AS p ON p.tenant_id = k.tenant_id AND p.subject = k.subject
WHERE k.tenant_id = $1
"""
_GET = f"{_SELECT} AND k.key_id = $2"
# A page, newest first; $3 and $4 are the last row of the page before.
_LIST = f"""
{_SELECT} AND ($3::timestamptz IS NULL OR (k.created_at, k.key_id) < ($3, $4))
ORDER BY k.created_at DESC, k.key_id DESC LIMIT $2
"""
_BEFORE = """
SELECT key_hash, name, revoked_at FROM flotilla.api_keys WHERE tenant_id = $1 AND key_id = $2 FOR UPDATE
"""
_REVOKE = "UPDATE flotilla.api_keys SET revoked_at = now() WHERE tenant_id = $1 AND key_id = $2"


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


def new_key_id() -> str:
    """An id that no key has."""
    return f"k-{secrets.token_hex(6)}"


async def add_key(
    connection: Connection,
    tenant_id: str,
    body: KeyBody,
    *,
    key_id: str,
    by: str,
    by_key_id: str | None,
    acts_for: str | None = None,
) -> NewKey:
    """Store a new key, and record that `by` made it, in the caller's transaction of `tenant_id`.

    Locks the tenant's audit session, so call it last.
    """
    key = new_api_key()
    made_by: JsonObject = {"by": by, "by_key_id": by_key_id}
    changes: list[tuple[str, JsonObject]] = [("api_key_created", {**_created(key_id, body, acts_for), **made_by})]
    if body.person:
        changes += await _give_roles(connection, tenant_id, body, by)
    stored = (
        api_key_hash(key),
        sorted(set(body.roles)),
        by,
        body.expires_at,
        api_key_hint(key),
        acts_for,
        body.may_append_as,
    )
    await connection.execute(_ADD, tenant_id, key_id, body.name, *stored)
    row = await connection.fetchrow(_GET, tenant_id, key_id)
    assert row is not None  # noqa: S101 - inserted just above, in this transaction
    await tenant_audit.record_admin_changes(connection, tenant_id, SOURCE, *changes)
    return NewKey.model_validate({**dict(row), "key": key})


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
    taken = await connection.fetchrow(_TAKEN, caller.tenant_id, body.name)
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


def _created(key_id: str, body: KeyBody, acts_for: str | None) -> JsonObject:
    return {
        "key_id": key_id,
        "name": body.name,
        "roles": sorted(set(body.roles)),
        "person": body.person,
        "acts_for": acts_for,
        **({"appends_as": body.may_append_as} if body.may_append_as else {}),
        "expires_at": body.expires_at.isoformat() if body.expires_at else None,
    }


async def _give_roles(connection: Connection, tenant_id: str, body: KeyBody, by: str) -> list[tuple[str, JsonObject]]:
    """Add the roles to the person's; tell of the change if it is one."""
    before = await connection.fetchval(_ROLES, tenant_id, body.name) or []
    after = await connection.fetchval(_PERSON, tenant_id, body.name, sorted(set(body.roles)))
    if sorted(before) == sorted(after):
        return []
    return [("roles_changed", {"subject": body.name, "before": before, "after": after, "by": by})]


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
        before = await connection.fetchrow(_BEFORE, caller.tenant_id, key_id)
        if before is None:
            raise NotFound(f"no key {key_id}: it takes the id, which GET /v1/keys lists, not the name")
        if before["revoked_at"] is None:
            await connection.execute(_REVOKE, caller.tenant_id, key_id)
            details = {"key_id": key_id, "name": before["name"], "by": caller.subject, "by_key_id": caller.key_id}
            await tenant_audit.record_admin_changes(connection, caller.tenant_id, SOURCE, ("api_key_revoked", details))
        row = await connection.fetchrow(_GET, caller.tenant_id, key_id)
        assert row is not None  # noqa: S101 - locked above, in this transaction
    services.api_keys.clear_cache(before["key_hash"])
    services.login.sign_ins.clear_cache()
    services.browser_tokens.clear_cache()
    log.info("key_revoked", key_id=key_id, by=caller.subject, tenant=caller.tenant_id)
    return Key.model_validate(dict(row))
