"""What a tenant's administrators did, in a session of its own: the same chain, checkpoints, exports and verification.

The session is `flotilla:audit`. Each event is written in the transaction of what it records, so neither comes alone.
"""

import asyncio

import asyncpg
import structlog

from flotilla.approvals.policy import PolicySource
from flotilla.contracts.errors import FlotillaError
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.eventstore.sessions import ensure_session
from flotilla.outbox import AppendedRange, append
from flotilla.postgres import AWAY, Connection, Pool, tenant_transaction
from flotilla.runtime.stopping import sleep_or_stop

AUDIT_SESSION_OWNER = "flotilla"
_RETRY_WAIT_S = 2.0

# One start after the other; a row means that the version is another one than the last that was recorded.
_STORE_POLICY_VERSION = """
UPDATE flotilla.sessions SET metadata = jsonb_set(metadata, '{policy_version}', to_jsonb($3::text))
WHERE tenant_id = $1 AND session_id = $2 AND metadata ->> 'policy_version' IS DISTINCT FROM $3
RETURNING 1
"""

log = structlog.get_logger(__name__)


async def record_admin_changes(
    connection: Connection, tenant_id: str, source: str, *changes: tuple[str, JsonObject]
) -> AppendedRange:
    """Add `changes`, each a name and its details, to the tenant's audit session in the caller's transaction, and return
    where they are.

    Takes the lock of the session's row, so call it last.
    """
    await ensure_session(connection, tenant_id, AUDIT_SESSION, AUDIT_SESSION_OWNER)
    events = [state_change(change, details, source) for change, details in changes]
    return await append(connection, tenant_id, AUDIT_SESSION, events, source=source)


async def record_policy_if_changed(pool: Pool, tenant_id: str, source: str, version: str) -> bool:
    """Record the policy in force, unless it is the one that was recorded last; say whether it was another one."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await ensure_session(connection, tenant_id, AUDIT_SESSION, AUDIT_SESSION_OWNER)
        if not await connection.fetchval(_STORE_POLICY_VERSION, tenant_id, AUDIT_SESSION, version):
            return False
        await record_admin_changes(connection, tenant_id, source, ("policy_changed", {"policy_version": version}))
    return True


async def record_policies_until(
    pool: Pool, tenant_id: str, source: str, policies: PolicySource, stop: asyncio.Event
) -> None:
    """Record the policy in force at a service's start and each one that replaces it, as soon as PostgreSQL is there.

    A version is recorded by those that change to it, not by those that still have another one during a rollout.
    """
    recorded = None
    while not stop.is_set():
        version = policies.current_policy.version
        try:
            if version != recorded and await record_policy_if_changed(pool, tenant_id, source, version):
                log.info("policy_changed", policy_version=version)
            recorded = version
        except (*AWAY, TimeoutError, asyncpg.PostgresError, FlotillaError) as error:
            log.warning("policy_record_waits", reason=str(error) or type(error).__name__)
        await sleep_or_stop(stop, _RETRY_WAIT_S)
