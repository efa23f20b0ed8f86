"""The rows of tenants, and their events: in the tenant's own audit session, and in the operators'."""

import asyncpg

from flotilla.audit import admin_log
from flotilla.contracts.errors import Conflict, Invalid, no_such
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import join_id_parts
from flotilla.postgres import Connection, set_tenant
from gateway.auth.issuers import check_are_two_people
from gateway.auth.principal import Principal
from gateway.key_records import add_key, new_key_id
from gateway.names import SOURCE
from gateway.schemas.keys import KeyBody
from gateway.schemas.tenants import NewTenant, Suspension, Tenant, TenantBody, TenantDetails

# Two who create the same tenant do so one after the other, whether it has a row or not.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('flotilla.tenants/' || $1, 0))"
_SELECT_KNOWN_TENANTS = "SELECT k AS tenant_id FROM flotilla.known_tenants($1, $2) AS k"
_COLUMNS = """
SELECT known.tenant_id, CASE WHEN t.deleted_at IS NOT NULL THEN 'deleted'
        WHEN t.deletion_confirmed_at IS NOT NULL THEN 'deleting' WHEN t.suspended_at IS NOT NULL THEN 'suspended'
        ELSE 'active' END AS state,
    coalesce(t.note, '') AS note, t.created_by, t.created_at, t.suspended_by, t.suspended_at, t.suspended_for,
    coalesce(t.finishes_runs, false) AS finishes_runs, t.imported_from, t.deletion_asked_by, t.deletion_asked_at,
    t.deletion_reason, t.deletion_confirmed_by, t.deletion_confirmed_at, t.deleted_at
"""
_LIST = f"""
{_COLUMNS} FROM ({_SELECT_KNOWN_TENANTS}) AS known
LEFT JOIN flotilla_ops.tenants AS t USING (tenant_id) ORDER BY known.tenant_id
"""
_GET = f"""
{_COLUMNS} FROM (VALUES ($1::text)) AS known (tenant_id) LEFT JOIN flotilla_ops.tenants AS t USING (tenant_id)
WHERE t.tenant_id IS NOT NULL OR EXISTS (SELECT FROM flotilla.people WHERE tenant_id = $1)
    OR EXISTS (SELECT FROM flotilla.api_keys WHERE tenant_id = $1)
    OR EXISTS (SELECT FROM flotilla.sessions WHERE tenant_id = $1)
"""  # noqa: S608 - a constant
_SELECT_COUNTS_SESSIONS = """
SELECT (SELECT count(*) FROM flotilla.sessions WHERE tenant_id = $1) AS sessions,
    (SELECT count(*) FROM flotilla.people WHERE tenant_id = $1) AS people,
    (SELECT count(*) FROM flotilla.api_keys WHERE tenant_id = $1 AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now())) AS active_keys,
    (SELECT count(*) FROM flotilla.runs WHERE tenant_id = $1
        AND status IN ('pending', 'running', 'interrupted')) AS open_runs,
    (SELECT count(*) FROM flotilla.runs WHERE tenant_id = $1 AND status = 'queued') AS queued_runs,
    (SELECT count(*) FROM flotilla.event_outbox WHERE tenant_id = $1) AS unpublished_events
"""
_INSERT_TENANTS = "INSERT INTO flotilla_ops.tenants (tenant_id, note, created_by) VALUES ($1, $2, $3)"
_SUSPEND_TENANTS = """
INSERT INTO flotilla_ops.tenants AS t (tenant_id, created_by, suspended_by, suspended_at, suspended_for, finishes_runs)
VALUES ($1, '', $2, now(), $3, $4)
ON CONFLICT (tenant_id) DO UPDATE
    SET suspended_by = $2, suspended_at = now(), suspended_for = $3, finishes_runs = $4
    WHERE t.suspended_at IS NULL
RETURNING 1
"""
_RESUME_TENANTS = """
UPDATE flotilla_ops.tenants
SET suspended_by = NULL, suspended_at = NULL, suspended_for = NULL, finishes_runs = false, deletion_asked_by = NULL,
    deletion_asked_at = NULL, deletion_reason = NULL
WHERE tenant_id = $1 AND suspended_at IS NOT NULL AND deletion_confirmed_at IS NULL RETURNING 1
"""
_ASK_DELETION = """
UPDATE flotilla_ops.tenants SET deletion_asked_by = $2, deletion_asked_at = now(), deletion_reason = $3
WHERE tenant_id = $1 AND suspended_at IS NOT NULL AND deletion_asked_at IS NULL RETURNING 1
"""
_CONFIRM_DELETION = "SELECT flotilla.confirm_tenant_deletion($1, $2)"
_SELECT_HELD_LEGAL_HOLDS = "SELECT person FROM flotilla.legal_holds WHERE tenant_id = $1 ORDER BY person LIMIT 1"
# Temporal's schedules are brought to what is said here: paused while the tenant is suspended.
_SYNC_SCHEDULES = "UPDATE flotilla.schedules SET generation = generation + 1, updated_at = now() WHERE tenant_id = $1"


async def list_tenants(connection: Connection, after: str, limit: int) -> list[Tenant]:
    """Return the tenants whose names come after `after`, in order."""
    return [_tenant(row) for row in await connection.fetch(_LIST, after, limit)]


async def get_tenant(connection: Connection, tenant_id: str) -> TenantDetails:
    """Return a tenant. The rest of the caller's transaction acts for it.

    Raises:
        NotFound: nothing is known of it.
    """
    await set_tenant(connection, tenant_id)
    row = await connection.fetchrow(_GET, tenant_id)
    if row is None:
        raise no_such("tenant", tenant_id)
    counts = await connection.fetchrow(_SELECT_COUNTS_SESSIONS, tenant_id)
    assert counts is not None  # noqa: S101 - it counts
    return TenantDetails(**_tenant(row).model_dump(), **dict(counts))


async def create_tenant(connection: Connection, caller: Principal, body: TenantBody) -> NewTenant:
    """Create a tenant, with a key for the person who administers it.

    Raises:
        Conflict: there is one of that name.
    """
    await connection.execute(_LOCK, body.tenant_id)
    await set_tenant(connection, body.tenant_id)
    if await connection.fetchrow(_GET, body.tenant_id) is not None:
        raise Conflict(f"there is a tenant {body.tenant_id} already: flotilla tenants show {body.tenant_id}")
    await connection.execute(_INSERT_TENANTS, body.tenant_id, body.note, _operator(caller))
    key = KeyBody(name=body.admin, roles=["admin"], person=True)
    made = await add_key(
        connection, body.tenant_id, key, key_id=new_key_id(), by=_operator(caller), by_key_id=caller.key_id
    )
    await _record(connection, caller, body.tenant_id, "tenant_created", {"admin": body.admin})
    return NewTenant(**(await get_tenant(connection, body.tenant_id)).model_dump(), admin_key=made)


async def suspend_tenant(connection: Connection, caller: Principal, tenant_id: str, body: Suspension) -> TenantDetails:
    """Refuse the tenant's requests from now on, and let its work wait.

    Raises:
        NotFound: nothing is known of it.
        Invalid: it is the operator's own.
        Conflict: it is suspended already.
    """
    if tenant_id == caller.tenant_id:
        raise Invalid(f"{tenant_id} is the operator's tenant: without it nobody could resume any tenant")
    await get_tenant(connection, tenant_id)
    if not await connection.fetchval(_SUSPEND_TENANTS, tenant_id, _operator(caller), body.reason, body.finish_runs):
        raise Conflict(f"tenant {tenant_id} is suspended already: resume it first to give another reason")
    await connection.execute(_SYNC_SCHEDULES, tenant_id)
    await _record(connection, caller, tenant_id, "tenant_suspended", body.model_dump())
    return await get_tenant(connection, tenant_id)


async def resume_tenant(connection: Connection, caller: Principal, tenant_id: str) -> TenantDetails:
    """Serve the tenant again; what waited goes on.

    Raises:
        NotFound: nothing is known of it.
        Conflict: it is not suspended.
    """
    tenant = await get_tenant(connection, tenant_id)
    if not await connection.fetchval(_RESUME_TENANTS, tenant_id):
        raise Conflict(f"tenant {tenant_id} is {tenant.state}, not suspended")
    await connection.execute(_SYNC_SCHEDULES, tenant_id)
    came: JsonObject = {"imported_from": tenant.imported_from} if tenant.imported_from else {}
    await _record(connection, caller, tenant_id, "tenant_resumed", came)
    return await get_tenant(connection, tenant_id)


async def ask_deletion(connection: Connection, caller: Principal, tenant_id: str, reason: str) -> TenantDetails:
    """Ask for the deletion of a suspended tenant; a second person has to confirm it. Resuming withdraws it.

    Raises:
        NotFound: nothing is known of it.
        Conflict: it is not suspended, somebody under a legal hold is in it, or it was asked for.
    """
    tenant = await get_tenant(connection, tenant_id)
    if tenant.state == "active":
        raise Conflict(f"tenant {tenant_id} is active: suspend it first (flotilla tenants suspend {tenant_id})")
    await _check_not_held(connection, tenant_id)
    if not await connection.fetchval(_ASK_DELETION, tenant_id, caller.subject, reason):
        raise Conflict(f"{tenant.deletion_asked_by} asked for the deletion of {tenant_id} already")
    await _record(connection, caller, tenant_id, "tenant_deletion_requested", {"reason": reason})
    return await get_tenant(connection, tenant_id)


async def confirm_deletion(connection: Connection, caller: Principal, tenant_id: str) -> TenantDetails:
    """Confirm, as a second person: the tenant's keys are destroyed with the caller's transaction.

    Raises:
        NotFound: nothing is known of it.
        Forbidden: the caller asked for it, is a service, or issued a key of who asked, or the other way round.
        Conflict: nobody asked for it, it is confirmed, or somebody under a legal hold is in it.
    """
    tenant = await get_tenant(connection, tenant_id)
    if tenant.deletion_asked_by is None:
        raise Conflict(f"nobody asked for the deletion of {tenant_id}: flotilla tenants delete {tenant_id} --reason R")
    if tenant.deletion_confirmed_by is not None:
        raise Conflict(f"the deletion of {tenant_id} was confirmed by {tenant.deletion_confirmed_by} already")
    await set_tenant(connection, caller.tenant_id)
    await check_are_two_people(connection, caller, tenant.deletion_asked_by, f"the deletion of {tenant_id}")
    await set_tenant(connection, tenant_id)
    await _check_not_held(connection, tenant_id)
    outcome = await connection.fetchval(_CONFIRM_DELETION, tenant_id, caller.subject)
    if outcome != "destroyed":
        raise Conflict(f"the deletion of {tenant_id} was changed meanwhile ({outcome}): look at it again")
    await _record(connection, caller, tenant_id, "tenant_deletion_confirmed", {"reason": tenant.deletion_reason})
    return await get_tenant(connection, tenant_id)


async def _check_not_held(connection: Connection, tenant_id: str) -> None:
    person = await connection.fetchval(_SELECT_HELD_LEGAL_HOLDS, tenant_id)
    if person is not None:
        raise Conflict(f"{person} of tenant {tenant_id} is under a legal hold: it has to be removed first")


async def _record(connection: Connection, caller: Principal, tenant_id: str, change: str, details: JsonObject) -> None:
    """Record it for the tenant, where the operator is one of another tenant, and for the operators."""
    about: JsonObject = {"tenant": tenant_id, **details, "by": _operator(caller)}
    for place in (tenant_id, caller.tenant_id):
        await set_tenant(connection, place)
        await admin_log.record_admin_changes(connection, place, SOURCE, (change, about))


def _operator(caller: Principal) -> str:
    """Name an operator in another tenant, where the subject alone could be somebody else."""
    return join_id_parts(caller.tenant_id, caller.subject)


def _tenant(row: asyncpg.Record) -> Tenant:
    return Tenant(**{**dict(row), "created_by": row["created_by"] or None})
