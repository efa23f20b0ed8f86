"""The rows of API keys that somebody makes, with their events in the tenant's audit session."""

import secrets

from flotilla.audit.admin_log import record_admin_changes
from flotilla.contracts.api_keys import api_key_hash, api_key_hint, new_api_key
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Connection
from gateway.names import SOURCE
from gateway.schemas.keys import KeyBody, NewKey

_INSERT_PEOPLE = """
INSERT INTO flotilla.people (tenant_id, subject, display_name, roles) VALUES ($1, $2, $2, $3)
ON CONFLICT (tenant_id, subject) DO UPDATE
    SET roles = ARRAY(SELECT DISTINCT unnest(people.roles || excluded.roles) ORDER BY 1)
RETURNING roles
"""
_SELECT_ROLES_PEOPLE = "SELECT roles FROM flotilla.people WHERE tenant_id = $1 AND subject = $2 FOR UPDATE"
_INSERT_API_KEYS = """
INSERT INTO flotilla.api_keys (tenant_id, key_id, name, key_hash, subject, roles, created_by, expires_at, hint,
    acts_for, appends_as)
VALUES ($1, $2, $3, $4, $3, $5, $6, $7, $8, $9, $10)
"""
SELECT_KEYS = """
SELECT k.key_id, k.hint, k.name, k.roles, p.subject IS NOT NULL AS is_person, k.acts_for, k.appends_as,
    k.created_by, k.created_at, k.expires_at, k.revoked_at
FROM flotilla.api_keys AS k
LEFT JOIN flotilla.people AS p ON p.tenant_id = k.tenant_id AND p.subject = k.subject
WHERE k.tenant_id = $1
"""
GET_KEY = f"{SELECT_KEYS} AND k.key_id = $2"


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
    await connection.execute(_INSERT_API_KEYS, tenant_id, key_id, body.name, *stored)
    row = await connection.fetchrow(GET_KEY, tenant_id, key_id)
    assert row is not None  # noqa: S101 - inserted just above, in this transaction
    await record_admin_changes(connection, tenant_id, SOURCE, *changes)
    return NewKey.model_validate({**dict(row), "key": key})


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
    before = await connection.fetchval(_SELECT_ROLES_PEOPLE, tenant_id, body.name) or []
    after = await connection.fetchval(_INSERT_PEOPLE, tenant_id, body.name, sorted(set(body.roles)))
    if sorted(before) == sorted(after):
        return []
    return [("roles_changed", {"subject": body.name, "before": before, "after": after, "by": by})]
